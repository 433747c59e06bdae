//! The metrics as text, in the format of Prometheus (version 0.0.4). What each means, and which deserve an alarm, stands
//! in `docs/operations/observability.md`.
//!
//! The format is lines of text, so no library writes it. Labels have few values: kinds of requests, codes, members.

use std::fmt::Write;

use hsm_protocol::{ErrorCode, wire};

use super::{Measured, Metrics, RESULTS, Transport};
use crate::limits::LATENCY_BOUNDS;
use crate::member::hexadecimal;

/// What the process shows of itself at this moment.
#[derive(Clone, Default, PartialEq)]
pub struct Snapshot {
    /// Why clients cannot be served; `None` = they can.
    pub not_ready: Option<String>,
    /// Lifecycle's number; 0 = no cluster.
    pub lifecycle: u32,
    /// Log index that this HSM has applied.
    pub applied_index: u64,
    /// Token objects.
    pub objects: u64,
    /// Users.
    pub users: u64,
    /// Login sessions.
    pub sessions: u64,
    /// Commands that wait for an entry of the log.
    pub queued: u64,
    /// Entries of the log made durable since the start.
    pub flushes: u64,
    /// Commands in these entries.
    pub flushed_commands: u64,
    /// The cluster, for a member.
    pub cluster: Option<ClusterView>,
}

/// The cluster as this HSM sees it.
#[derive(Clone, Default, PartialEq)]
pub struct ClusterView {
    /// This HSM.
    pub hsm: [u8; 16],
    /// The members; of itself an HSM knows neither lag nor silence.
    pub members: Vec<wire::MemberState>,
    /// Whether some HSM leads, as far as this one knows.
    pub has_leader: bool,
    /// Whether it leads.
    pub leads: bool,
    /// Raft term.
    pub term: u64,
    /// How many vote.
    pub voters: u64,
    /// Epoch of the cluster master key.
    pub epoch: u32,
    /// Last entry of the log.
    pub last_entry: u64,
    /// Entry up to which the last snapshot goes; 0 = there is none.
    pub snapshot_entry: u64,
    /// States sent and received by ranges.
    pub snapshots: hsm_replication::Snapshots,
    /// Milliseconds that are left of this HSM's lease; `None`: it votes alone, and needs none.
    pub lease_milliseconds: Option<u64>,
    /// Whether it may act on what it knows.
    pub serving: wire::ServingState,
    /// For how many milliseconds it has heard from no majority.
    pub isolated_milliseconds: u64,
    /// Log-ins that only this HSM knows: sessions, and attempts that failed.
    pub isolated: hsm_core::IsolatedCounts,
    /// Size of their journal, in bytes.
    pub isolated_journal_bytes: u64,
}

/// The page `/metrics`.
pub(crate) fn render(metrics: &Metrics, snapshot: &Snapshot) -> Result<String, std::fmt::Error> {
    let mut page = Page(String::with_capacity(16 * 1024));
    page.process(metrics, snapshot)?;
    if let Some(cluster) = &snapshot.cluster {
        page.cluster(cluster)?;
        page.members(cluster)?;
    }
    page.requests(metrics)?;
    Ok(page.0)
}

struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) -> std::fmt::Result {
        writeln!(self.0, "# HELP {name} {help}.\n# TYPE {name} {kind}")
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) -> std::fmt::Result {
        self.head(name, kind, help)?;
        writeln!(self.0, "{name} {value}")
    }

    fn process(&mut self, metrics: &Metrics, of: &Snapshot) -> std::fmt::Result {
        self.head("kagimori_build_info", "gauge", "1, with the version of the program")?;
        writeln!(self.0, "kagimori_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"))?;
        self.one("kagimori_ready", "gauge", "Whether clients are served", u64::from(of.not_ready.is_none()))?;
        let states = "0 no cluster, 1 uninitialized, 2 initialized, 3 active, 4 zeroized";
        self.one("kagimori_lifecycle", "gauge", states, of.lifecycle)?;
        self.one("kagimori_applied_index", "gauge", "Log index that this HSM has applied", of.applied_index)?;
        self.one("kagimori_objects", "gauge", "Token objects", of.objects)?;
        self.one("kagimori_users", "gauge", "Users", of.users)?;
        self.one("kagimori_sessions", "gauge", "Login sessions", of.sessions)?;
        self.one("kagimori_log_queue", "gauge", "Commands that wait for an entry of the log", of.queued)?;
        self.one("kagimori_log_flushes_total", "counter", "Entries of the log made durable", of.flushes)?;
        self.one("kagimori_log_commands_total", "counter", "Commands in these entries", of.flushed_commands)?;
        let (logins, failures) = metrics.isolated();
        self.head("kagimori_isolated_logins_total", "counter", "Log-ins of crypto users while this HSM was isolated")?;
        writeln!(self.0, "kagimori_isolated_logins_total{{result=\"done\"}} {logins}")?;
        writeln!(self.0, "kagimori_isolated_logins_total{{result=\"refused\"}} {failures}")?;
        self.one("kagimori_proposals_total", "counter", "Commands proposed to the log", metrics.proposals())?;
        let refused = metrics.connections_refused();
        self.one("kagimori_connections_refused_total", "counter", "Connections closed at a limit", refused)?;
        let failed = metrics.handshakes_failed();
        self.one("kagimori_handshakes_failed_total", "counter", "TLS handshakes that failed", failed)?;
        const TRANSPORTS: [(Transport, &str); 2] = [(Transport::Tls, "tls"), (Transport::Unix, "unix")];
        self.head("kagimori_connections", "gauge", "Open connections")?;
        for (transport, name) in TRANSPORTS {
            let open = metrics.connections_open(transport);
            writeln!(self.0, "kagimori_connections{{transport=\"{name}\"}} {open}")?;
        }
        self.head("kagimori_connections_total", "counter", "Connections accepted")?;
        for (transport, name) in TRANSPORTS {
            let accepted = metrics.connections_accepted(transport);
            writeln!(self.0, "kagimori_connections_total{{transport=\"{name}\"}} {accepted}")?;
        }
        Ok(())
    }

    fn cluster(&mut self, of: &ClusterView) -> std::fmt::Result {
        self.one("kagimori_members", "gauge", "Members of the cluster, witnesses too", of.members.len())?;
        self.one("kagimori_voters", "gauge", "Members that vote", of.voters)?;
        self.one("kagimori_has_leader", "gauge", "Whether this HSM knows who leads", u64::from(of.has_leader))?;
        self.one("kagimori_leads", "gauge", "Whether this HSM leads", u64::from(of.leads))?;
        self.one("kagimori_term", "gauge", "Raft term", of.term)?;
        self.one("kagimori_epoch", "gauge", "Epoch of the cluster master key", of.epoch)?;
        self.one("kagimori_log_entry", "gauge", "Last entry of the log", of.last_entry)?;
        self.one("kagimori_snapshot_entry", "gauge", "Entry that the last snapshot ends with", of.snapshot_entry)?;
        let state = &of.snapshots;
        let octets = [
            ("kagimori_state_sent_bytes_total", "State sent to other members, each time that it was", state.sent_bytes),
            ("kagimori_state_spared_bytes_total", "State not sent, because they held it", state.spared_bytes),
            ("kagimori_state_received_bytes_total", "State received from other members", state.received_bytes),
            ("kagimori_state_held_bytes_total", "State offered by others and held here already", state.held_bytes),
            ("kagimori_states_installed_total", "States received as a whole and installed", state.installed),
        ];
        for (name, help, value) in octets {
            self.one(name, "counter", help, value)?;
        }
        let isolated = seconds(of.isolated_milliseconds.saturating_mul(1_000_000));
        self.one("kagimori_isolated_seconds", "gauge", "Time since a majority was heard; 0 with a lease", isolated)?;
        let waiting = "Sessions and wrong passwords of isolation that the cluster is not told yet";
        self.head("kagimori_isolated_waiting", "gauge", waiting)?;
        writeln!(self.0, "kagimori_isolated_waiting{{of=\"sessions\"}} {}", of.isolated.sessions)?;
        writeln!(self.0, "kagimori_isolated_waiting{{of=\"attempts\"}} {}", of.isolated.attempts)?;
        let bytes = of.isolated_journal_bytes;
        self.one("kagimori_isolated_journal_bytes", "gauge", "Size of the journal of log-ins in isolation", bytes)?;
        if let Some(left) = of.lease_milliseconds {
            self.one("kagimori_lease_seconds", "gauge", "What is left of the lease", seconds(left * 1_000_000))?;
        }
        self.head("kagimori_serving", "gauge", "1 for what this HSM may do now")?;
        for (state, name) in [
            (wire::ServingState::Leased, "leased"),
            (wire::ServingState::Isolated, "isolated"),
            (wire::ServingState::Expired, "expired"),
        ] {
            writeln!(self.0, "kagimori_serving{{state=\"{name}\"}} {}", u64::from(of.serving == state))?;
        }
        Ok(())
    }

    /// Members as this HSM sees them. What it does not know of one has no line.
    fn members(&mut self, of: &ClusterView) -> std::fmt::Result {
        self.head("kagimori_member_info", "gauge", "1, with what a member is")?;
        for member in &of.members {
            let (hsm, zone, version) = (hexadecimal(&member.hsm), label(&member.zone), label(&member.version));
            let (role, own) = (role(member), member.hsm == of.hsm);
            writeln!(
                self.0,
                "kagimori_member_info{{hsm=\"{hsm}\",zone=\"{zone}\",version=\"{version}\",role=\"{role}\",self=\"{own}\"}} 1"
            )?;
        }
        type Value = fn(&wire::MemberState) -> Option<String>;
        let columns: [(&str, &str, Value); 7] = [
            ("kagimori_member_applied_index", "Log index that a member has applied", |of| {
                of.applied_index.map(|index| index.to_string())
            }),
            ("kagimori_member_lag", "Commands by which a member is behind this HSM", |of| {
                of.lag.map(|lag| lag.to_string())
            }),
            ("kagimori_member_silent_seconds", "Time since a member was heard", |of| {
                of.silent_milliseconds.map(|silent| seconds(silent.saturating_mul(1_000_000)))
            }),
            ("kagimori_member_lease_seconds", "What is left of a member's lease; only the leader knows", |of| {
                of.lease_milliseconds.map(|left| seconds(left.saturating_mul(1_000_000)))
            }),
            ("kagimori_member_hashes_agree", "Whether a member's state was the same at an equal index", |of| {
                of.hashes_agree.map(|agree| u64::from(agree).to_string())
            }),
            ("kagimori_member_state_rows", "Rows of the state that a member has, while this HSM sends them", |of| {
                of.state_rows.map(|rows| rows.to_string())
            }),
            ("kagimori_member_state_rows_total", "Rows of that state; a key is two", |of| {
                of.state_rows_total.map(|rows| rows.to_string())
            }),
        ];
        for (name, help, value) in columns {
            self.head(name, "gauge", help)?;
            for (member, value) in of.members.iter().filter_map(|member| value(member).map(|value| (member, value))) {
                writeln!(self.0, "{name}{{hsm=\"{}\"}} {value}", hexadecimal(&member.hsm))?;
            }
        }
        Ok(())
    }

    fn requests(&mut self, metrics: &Metrics) -> std::fmt::Result {
        let help = "Time from a request's arrival to its reply, by operation";
        self.head("kagimori_request_seconds", "histogram", help)?;
        for measured in Measured::all() {
            let (latency, operation) = (metrics.latency(measured), measured.name());
            if latency.count() == 0 {
                continue;
            }
            let mut sum = 0;
            for (position, count) in latency.buckets.iter().enumerate() {
                sum += count;
                let bound = LATENCY_BOUNDS.get(position).map_or("+Inf".to_owned(), |&bound| seconds(bound));
                writeln!(self.0, "kagimori_request_seconds_bucket{{operation=\"{operation}\",le=\"{bound}\"}} {sum}")?;
            }
            let total = seconds(latency.nanoseconds);
            writeln!(self.0, "kagimori_request_seconds_sum{{operation=\"{operation}\"}} {total}")?;
            writeln!(self.0, "kagimori_request_seconds_count{{operation=\"{operation}\"}} {sum}")?;
        }
        let help = "Requests not done, by operation and error code";
        self.head("kagimori_request_failures_total", "counter", help)?;
        for measured in Measured::all() {
            for code in 1..RESULTS {
                let count = metrics.failures(measured, code);
                if count > 0 {
                    let (operation, code) = (measured.name(), code_name(code));
                    writeln!(
                        self.0,
                        "kagimori_request_failures_total{{operation=\"{operation}\",code=\"{code}\"}} {count}"
                    )?;
                }
            }
        }
        Ok(())
    }
}

/// An error code by its name.
fn code_name(code: usize) -> String {
    let known = u32::try_from(code).ok().and_then(ErrorCode::from_number);
    known.map_or_else(|| code.to_string(), |code| format!("{code:?}"))
}

fn role(member: &wire::MemberState) -> &'static str {
    match (member.part(), member.witness) {
        (wire::MemberPart::Leader, _) => "leader",
        (wire::MemberPart::Voter, true) => "witness",
        (wire::MemberPart::Voter, false) => "voter",
        (wire::MemberPart::Learner, _) => "learner",
        (wire::MemberPart::Newcomer, _) => "joining",
        (wire::MemberPart::Unknown, _) => "unknown",
    }
}

/// The value of a label: backslash, quote and line end escaped, as the format demands.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Nanoseconds as seconds, exactly.
fn seconds(nanoseconds: u64) -> String {
    format!("{}.{:09}", nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn has(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.lines().any(|found| found == *line), "{line}\n{text}");
        }
    }

    #[test]
    fn counted_requests_appear_cumulated_and_with_their_sum() {
        let metrics = Metrics::new();
        let operate = Measured::by_method(50);
        metrics.request(operate, 0, Duration::from_micros(15));
        metrics.request(operate, ErrorCode::Malformed as u32, Duration::from_micros(8));
        metrics.request(operate, 126, Duration::from_micros(8));
        let text = render(&metrics, &Snapshot { objects: 7, ..Snapshot::default() }).unwrap();
        has(
            &text,
            &[
                "kagimori_request_seconds_bucket{operation=\"operate\",le=\"0.000005000\"} 0",
                "kagimori_request_seconds_bucket{operation=\"operate\",le=\"0.000010000\"} 2",
                "kagimori_request_seconds_bucket{operation=\"operate\",le=\"0.000020000\"} 3",
                "kagimori_request_seconds_bucket{operation=\"operate\",le=\"+Inf\"} 3",
                "kagimori_request_seconds_sum{operation=\"operate\"} 0.000031000",
                "kagimori_request_failures_total{operation=\"operate\",code=\"Malformed\"} 1",
                "kagimori_request_failures_total{operation=\"operate\",code=\"126\"} 1",
                "kagimori_objects 7",
            ],
        );
    }

    #[test]
    fn a_member_is_shown_with_what_is_known_of_it_and_a_hostile_zone_stays_in_its_label() {
        let silent = wire::MemberState {
            hsm: vec![2; 16],
            zone: "a\"} 7\nevil \\".to_owned(),
            silent_milliseconds: Some(1_500),
            hashes_agree: Some(false),
            ..Default::default()
        };
        let unknown =
            wire::MemberState { hsm: vec![3; 16], part: wire::MemberPart::Voter as i32, ..Default::default() };
        let cluster = ClusterView { hsm: [1; 16], members: vec![silent, unknown], ..ClusterView::default() };
        let text = render(&Metrics::new(), &Snapshot { cluster: Some(cluster), ..Snapshot::default() }).unwrap();
        let (two, three) = ("02".repeat(16), "03".repeat(16));
        has(
            &text,
            &[
                &format!("kagimori_member_silent_seconds{{hsm=\"{two}\"}} 1.500000000"),
                &format!("kagimori_member_hashes_agree{{hsm=\"{two}\"}} 0"),
                &format!(
                    "kagimori_member_info{{hsm=\"{two}\",zone=\"a\\\"}} 7\\nevil \\\\\",version=\"\",role=\"unknown\",\
                     self=\"false\"}} 1"
                ),
                "kagimori_serving{state=\"leased\"} 0",
            ],
        );
        assert!(!text.contains(&format!("kagimori_member_silent_seconds{{hsm=\"{three}\"}}")), "{text}");
        assert!(!text.contains("kagimori_lease_seconds"), "an HSM that votes alone has no lease");
    }
}

//! `doctor`: from the configuration to a login, one line for each thing that must be right.
//!
//! It stops at the first thing that is wrong, because everything after it would fail for the same reason.

use std::net::{TcpStream, ToSocketAddrs as _};
use std::process::ExitCode;
use std::time::Duration;

use hsm_client::{Cluster, ClusterConfiguration};
use hsm_protocol::Lifecycle;
use serde_json::json;

use crate::command_line::{Common, Output};
use crate::credentials::Session;
use crate::failure::Failure;

/// How long a connection attempt may take here. A person waits.
const PATIENCE: Duration = Duration::from_secs(3);

struct Line {
    what: &'static str,
    found: Found,
}

enum Found {
    Good(String),
    /// It works, and will not when one more thing fails.
    Doubtful(String),
    /// Not looked at, and why.
    Skipped(&'static str),
    Wrong(Failure),
}

/// Examines and prints; fails when something is wrong.
pub(crate) fn run(common: &Common) -> ExitCode {
    let mut lines = Vec::new();
    let passed = examine(common, &mut lines);
    let healthy = match passed {
        Ok(()) => true,
        Err(line) => {
            lines.push(line);
            false
        }
    };
    match common.output {
        Output::Text => lines.iter().for_each(|line| println!("{}", in_words(line))),
        Output::Json => {
            let checks: Vec<_> = lines.iter().map(as_json).collect();
            println!("{}", json!({ "error_code": u8::from(!healthy), "data": { "checks": checks } }));
        }
    }
    if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn in_words(line: &Line) -> String {
    match &line.found {
        Found::Good(detail) => format!("ok      {}: {detail}", line.what),
        Found::Doubtful(detail) => format!("warning {}: {detail}", line.what),
        Found::Skipped(why) => format!("skipped {}: {why}", line.what),
        Found::Wrong(failure) => format!(
            "failed  {}: {}\n        at fault: {}\n        next: {}",
            line.what,
            failure.cause(),
            failure.party(),
            failure.next()
        ),
    }
}

fn as_json(line: &Line) -> serde_json::Value {
    match &line.found {
        Found::Good(detail) => json!({ "check": line.what, "ok": true, "detail": detail }),
        Found::Doubtful(detail) => json!({ "check": line.what, "ok": true, "warning": true, "detail": detail }),
        Found::Skipped(why) => json!({ "check": line.what, "ok": null, "skipped": true, "detail": why }),
        Found::Wrong(failure) => json!({
            "check": line.what, "ok": false, "cause": failure.cause(), "party": failure.party(), "next": failure.next(),
        }),
    }
}

/// Notes what is right in `lines`; answers the first thing that is wrong.
fn examine(common: &Common, lines: &mut Vec<Line>) -> Result<(), Line> {
    let wrong = |what: &'static str| move |failure: Failure| Line { what, found: Found::Wrong(failure) };
    let mut good = |what: &'static str, detail: String| lines.push(Line { what, found: Found::Good(detail) });
    let configuration = crate::load(common.config.as_deref()).map_err(wrong("configuration"))?;
    good("configuration", configuration.file.display().to_string());
    let chosen = crate::choose(&configuration, common.cluster.as_deref()).map_err(wrong("cluster"))?;
    let cluster = Cluster::new(chosen.clone());
    cluster.check_files().map_err(Failure::from).map_err(wrong("certificate files"))?;
    good("certificate files", "readable".to_owned());
    lines.push(Line { what: "network", found: reach(chosen).map_err(wrong("network"))? });
    let mut good = |what: &'static str, detail: String| lines.push(Line { what, found: Found::Good(detail) });
    let hello = cluster.hello_within(PATIENCE).map_err(Failure::from).map_err(wrong("TLS and certificates"))?;
    good("TLS and certificates", "the HSM proved itself".to_owned());
    serves(Lifecycle::from_number(hello.lifecycle)).map_err(wrong("cluster"))?;
    good("cluster", format!("{:?}, in service, {}", hello.label, mode(hello.fips)));
    let session = Session::new(&cluster, common);
    let tried = session.perhaps_logged_in(|login| Ok(login.is_some())).map_err(wrong("login"))?;
    let found = if tried { Found::Good("user name and password are right".to_owned()) } else { Found::Skipped(NOBODY) };
    lines.push(Line { what: "login", found });
    Ok(())
}

/// Why no login was tried.
const NOBODY: &str = "nobody is named: set KAGIMORI_ROLE and KAGIMORI_PIN, or use --as and --as-role";

fn mode(fips: bool) -> &'static str {
    if fips { "FIPS" } else { "NON_FIPS" }
}

fn serves(lifecycle: Option<Lifecycle>) -> Result<(), Failure> {
    let (cause, next) = match lifecycle {
        Some(Lifecycle::Active) => return Ok(()),
        Some(Lifecycle::Initialized) => ("the cluster is not activated", "run `kagimori cluster activate`"),
        Some(Lifecycle::Uninitialized) => ("the cluster is not initialised", "run `kagimori-hsm manage initialize`"),
        Some(Lifecycle::Zeroized) => ("the cluster's keys were destroyed", "restore a backup, or make a new cluster"),
        None => ("the cluster is in a state that this version does not know", "update this program"),
    };
    Err(Failure::not_in_service(cause, next))
}

/// Whether anything listens at the addresses: one is enough, and those at which nothing does are told.
fn reach(configuration: &ClusterConfiguration) -> Result<Found, Failure> {
    let (mut answers, mut failed) = (Vec::new(), Vec::new());
    if let Some(path) = &configuration.unix_socket
        && std::os::unix::net::UnixStream::connect(path).is_ok()
    {
        answers.push(path.display().to_string());
    }
    for address in &configuration.addresses {
        match connect(address) {
            Ok(()) => answers.push(address.clone()),
            Err(missed) => failed.push((address.as_str(), missed)),
        }
    }
    match (answers.is_empty(), failed.is_empty()) {
        (true, _) => Err(nobody_answers(&failed)),
        (false, true) => Ok(Found::Good(format!("{} answer", answers.join(", ")))),
        (false, false) => Ok(Found::Doubtful(format!("{} answer; NOT {}", answers.join(", "), reasons(&failed)))),
    }
}

/// Why a connection was not had.
enum Missed {
    /// The host's name has no address.
    Unknown(String),
    /// Its address gave none.
    Refused(String),
}

fn reasons(failed: &[(&str, Missed)]) -> String {
    let words = failed.iter().map(|(address, missed)| match missed {
        Missed::Unknown(cause) | Missed::Refused(cause) => format!("{address}: {cause}"),
    });
    words.collect::<Vec<_>>().join("; ")
}

fn nobody_answers(failed: &[(&str, Missed)]) -> Failure {
    let cause = format!("no HSM answers ({})", reasons(failed));
    let nameless = !failed.is_empty() && failed.iter().all(|(_, missed)| matches!(missed, Missed::Unknown(_)));
    if nameless { Failure::unknown_host(cause) } else { Failure::unreachable(cause) }
}

fn connect(address: &str) -> Result<(), Missed> {
    let found = address.to_socket_addrs().map_err(|error| Missed::Unknown(error.to_string()))?;
    let mut last = Missed::Unknown("the name has no address".to_owned());
    for found in found {
        match TcpStream::connect_timeout(&found, PATIENCE) {
            Ok(_) => return Ok(()),
            Err(error) => last = Missed::Refused(error.to_string()),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_was_not_tried_is_not_said_to_be_ok() {
        let line = Line { what: "login", found: Found::Skipped(NOBODY) };
        assert!(in_words(&line).starts_with("skipped login"));
        assert_eq!(as_json(&line)["ok"], serde_json::Value::Null);
    }

    #[test]
    fn an_address_at_which_nothing_listens_is_told_although_another_one_answers() {
        let there = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let mut configuration = ClusterConfiguration::new("some");
        configuration.addresses = vec![gone.clone(), there.local_addr().unwrap().to_string()];
        let Ok(found @ Found::Doubtful(_)) = reach(&configuration) else { panic!("nothing is said of {gone}") };
        let words = in_words(&Line { what: "network", found });
        assert!(words.starts_with("warning network: ") && words.contains(&format!("NOT {gone}")), "{words}");
        configuration.addresses.remove(0);
        assert!(matches!(reach(&configuration), Ok(Found::Good(_))));
    }

    #[test]
    fn an_hsm_that_is_down_is_not_laid_to_the_command_line() {
        let refused = nobody_answers(&[("127.0.0.1:1", Missed::Refused("Connection refused".to_owned()))]);
        assert!(refused.party().contains("the HSM") && !refused.next().contains("doctor"), "{refused:?}");
        let unknown = nobody_answers(&[("no.such.host:1", Missed::Unknown("Name not known".to_owned()))]);
        assert!(unknown.party().contains("client.toml") && unknown.next().contains("name"), "{unknown:?}");
    }

    #[test]
    fn a_cluster_that_is_not_activated_is_for_its_administrator() {
        let failure = serves(Some(Lifecycle::Initialized)).unwrap_err();
        assert!(failure.party().contains("administers") && failure.next().contains("cluster activate"));
    }
}

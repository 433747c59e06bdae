//! `cluster status`, `cluster admission …`, `cluster policy …`, `cluster remove-hsm`: the members, and who may be one.
//!
//! The HSM that answers tells what it knows; another one may know more or less. What an admin changes goes through the log.

use hsm_client::Login;
use hsm_protocol::{limits, wire};
use serde_json::{Value, json};

use crate::answer::{Answer, table};
use crate::cluster::hexadecimal;
use crate::command_line::{AdmissionCommand, PolicyCommand, ReleasesCommand, Switch};
use crate::credentials::Session;
use crate::failure::Failure;
use crate::unreached::Unreached;

/// Members tell the others once a second how they do: one that was not heard for so long is marked.
const SILENT_MILLISECONDS: u64 = 3_000;

/// Bytes of an HSM's id.
const ID_BYTES: usize = 16;

/// Runs `cluster status`.
pub(crate) fn status(session: &Session<'_>) -> Result<Answer, Failure> {
    let cluster = session.cluster();
    let (members, policy) =
        session.logged_in(|login| Ok((cluster.list_members(login)?, policy_of(session, login)?)))?;
    let (hello, info) = (cluster.hello()?, cluster.cluster_info()?);
    let leader = members.items.iter().find(|member| member.part() == wire::MemberPart::Leader);
    let leader = leader.map(|member| hexadecimal(&member.hsm));
    let data = json!({
        "label": hello.label, "cluster-id": hexadecimal(&hello.cluster), "leader": leader, "term": members.term,
        "epoch": members.epoch, "epoch-keys": members.epoch_keys, "epoch-keys-moved": members.epoch_keys_moved,
        "epoch-settled": members.epoch_settled, "state-version": members.state_version, "applied-index": members.applied_index, "chain-hash": hexadecimal(&members.chain_hash),
        "snapshot-entry": members.snapshot_entry, "answered-by": hexadecimal(&members.hsm),
        "serving": serving_name(members.serving()), "isolated-milliseconds": members.isolated_milliseconds,
        "isolated-sessions": members.isolated_sessions, "isolated-attempts": members.isolated_attempts,
        "isolated-logins-refused": members.isolated_logins_refused,
        "objects": info.objects, "users": info.users, "sessions": info.sessions,
        "rates": members.rates.iter().map(|rate| rate_data(rate, members.rates_milliseconds)).collect::<Vec<_>>(),
        "hsms": members.items.iter().map(member_data).collect::<Vec<_>>(), "policy": policy_data(&policy),
    });
    let mut facts = vec![
        fact(
            "who leads",
            leader.unwrap_or_else(|| "nobody, as far as this HSM knows: nothing can be changed".to_owned()),
        ),
        fact("answered by", format!("{}, {}", hexadecimal(&members.hsm), serving_words(&members))),
        fact("log", format!("index {}, term {}", members.applied_index, members.term)),
        fact("version of commands", commands_version(&members)),
        fact("epoch of the master key", epoch_words(&members)),
        fact("objects, users, sessions", format!("{}, {}, {}", info.objects, info.users, info.sessions)),
    ];
    facts.extend(isolated_words(&members).map(|words| fact("logged in there in isolation", words)));
    facts.extend(policy_facts(&policy));
    let facts = table(&["cluster", &hello.label], facts);
    let rows = members.items.iter().map(|member| member_row(member, &members.hsm));
    let rows = table(&["HSM", "zone", "role", "clients, members reach it at", "version", "applied", "heard"], rows);
    Ok(Answer::new(data, format!("{facts}\n{rows}\n{}", rates_table(&members))))
}

/// What only the HSM that answers knows, or that nobody logs in there in isolation; `None` when there is nothing to say.
fn isolated_words(members: &wire::ListMembersReply) -> Option<String> {
    let wire::ListMembersReply { isolated_sessions: sessions, isolated_attempts: attempts, .. } = members;
    if members.isolated_logins_refused {
        return Some("refused: its journal cannot be used; its log says why".to_owned());
    }
    let some = *sessions > 0 || *attempts > 0;
    some.then(|| format!("{sessions} logins and {attempts} wrong passwords, which the others do not know yet"))
}

/// Which version of commands the cluster uses, and that an update is not finished.
fn commands_version(members: &wire::ListMembersReply) -> String {
    let known = members.items.iter().map(|member| member.state_version);
    let (least, most) = (known.clone().min().unwrap_or(0), known.max().unwrap_or(0));
    let used = members.state_version;
    if least < most {
        format!("{used}; an update is under way: some HSMs know {most}, some {least}")
    } else {
        used.to_string()
    }
}

/// What the HSM that answers did during the last minute.
fn rates_table(members: &wire::ListMembersReply) -> String {
    let over = members.rates_milliseconds;
    let heading = format!("served here in the last {} s", over / 1_000);
    let rows = members.rates.iter().map(|rate| {
        vec![
            rate.operation.clone(),
            per_second(rate.count, over),
            rate.failures.to_string(),
            milliseconds(rate.median_microseconds),
            milliseconds(rate.ninety_ninth_microseconds),
        ]
    });
    table(&[&heading, "a second", "not done", "half within", "99 of 100 within"], rows)
}

fn rate_data(rate: &wire::OperationRate, over: u64) -> Value {
    json!({
        "operation": rate.operation, "count": rate.count, "failures": rate.failures, "milliseconds": over,
        "median-microseconds": rate.median_microseconds,
        "ninety-ninth-percentile-microseconds": rate.ninety_ninth_microseconds,
    })
}

/// With one decimal.
fn per_second(count: u64, over_milliseconds: u64) -> String {
    let tenths = count.saturating_mul(10_000) / over_milliseconds.max(1);
    format!("{}.{}", tenths / 10, tenths % 10)
}

fn milliseconds(microseconds: u64) -> String {
    format!("{}.{:03} ms", microseconds / 1_000, microseconds % 1_000)
}

/// Which epoch of the master key it is, and how far keys are moved to it.
fn epoch_words(members: &wire::ListMembersReply) -> String {
    let wire::ListMembersReply { epoch, epoch_keys, epoch_keys_moved, epoch_settled, .. } = members;
    match epoch_settled {
        true => epoch.to_string(),
        false => format!("{epoch}: {} of {} keys moved", grouped(*epoch_keys_moved), grouped(*epoch_keys)),
    }
}

/// Digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    groups.collect::<Vec<_>>().join(",")
}

/// Runs `cluster admission …`.
pub(crate) fn admission(session: &Session<'_>, command: &AdmissionCommand) -> Result<Answer, Failure> {
    let cluster = session.cluster();
    match command {
        AdmissionCommand::Show => show(session, "admission"),
        AdmissionCommand::Set { standing, members, per_day } => {
            let rule = session.logged_in(|login| {
                let old = rule_of(&policy_of(session, login)?)?;
                let rule = wire::AdmissionRule {
                    standing: standing.map_or(old.standing, |switch| switch == Switch::On),
                    members: members.unwrap_or(old.members),
                    per_day: per_day.unwrap_or(old.per_day),
                };
                cluster.set_admission_rule(login, rule)?;
                Ok(rule)
            })?;
            Ok(Answer::new(json!({ "rule": rule_data(&rule) }), format!("from now on: {}", rule_words(&rule))))
        }
        AdmissionCommand::Approve { hsm } => {
            let id = parse_id(hsm)?;
            session.logged_in(|login| Ok(cluster.approve_member(login, id)?))?;
            let name = hexadecimal(&id);
            Ok(Answer::new(json!({ "hsm-id": name }), format!("HSM {name} may join, once")))
        }
    }
}

/// Runs `cluster policy …`.
pub(crate) fn policy(session: &Session<'_>, command: &PolicyCommand) -> Result<Answer, Failure> {
    match command {
        PolicyCommand::Show => show(session, "policy"),
        PolicyCommand::Set { isolation_window } => {
            let seconds = *isolation_window;
            let unreached = session.logged_in(|login| Ok(session.cluster().set_isolation_window(login, seconds)?))?;
            let data = json!({ "isolation-window-seconds": seconds });
            let answer = Answer::new(data, format!("from now on: {}", window_words(seconds)));
            Ok(Unreached::from(unreached).added_to(answer))
        }
    }
}

/// Runs `cluster releases …`.
pub(crate) fn releases(session: &Session<'_>, command: &ReleasesCommand) -> Result<Answer, Failure> {
    let ReleasesCommand::Set { keys, minimum } = command else { return show(session, "releases") };
    let keys: Vec<Vec<u8>> = keys.iter().map(|key| parse_key(key)).collect::<Result<_, _>>()?;
    session.logged_in(|login| {
        let old = policy_of(session, login)?.releases.ok_or_else(Failure::strange_answer)?;
        let rule = wire::ReleaseRule {
            keys: if keys.is_empty() { old.keys } else { keys.clone() },
            minimum: minimum.clone().unwrap_or(old.minimum),
        };
        Ok(session.cluster().set_release_rule(login, rule)?)
    })?;
    show(session, "releases")
}

/// Reads the public key of a builder.
fn parse_key(text: &str) -> Result<Vec<u8>, Failure> {
    let misuse = || {
        Failure::misuse(
            format!("{text:?} is no key of releases"),
            "use the 64 hexadecimal digits that `cargo xtask release` prints",
        )
    };
    if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(misuse());
    }
    (0..32).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| misuse())).collect()
}

/// Whose programs take part, in words.
fn releases_words(policy: &wire::ClusterPolicyReply) -> String {
    let Some(rule) = &policy.releases else { return "not told".to_owned() };
    let keys: Vec<String> = rule.keys.iter().map(|key| hexadecimal(key)).collect();
    let who = match (policy.trusts_development, keys.is_empty()) {
        (true, _) => "EVERY BUILD: the development key counts, which everybody has".to_owned(),
        (false, _) => format!("releases signed by {}", keys.join(", ")),
    };
    format!("{who}; {} or newer", rule.minimum)
}

/// Runs `cluster remove-hsm`.
pub(crate) fn remove(session: &Session<'_>, hsm: &str) -> Result<Answer, Failure> {
    let id = parse_id(hsm)?;
    let unreached = session.logged_in(|login| Ok(session.cluster().remove_member(login, id)?))?;
    let name = hexadecimal(&id);
    let mut text = format!("HSM {name} is no member any more; stop its process and destroy its data folder");
    // Told when it can be: the removal is done in any case.
    if session
        .logged_in(|login| Ok(session.cluster().list_members(login)?))
        .is_ok_and(|left| one_decides(&left.items, &id))
    {
        text.push_str(ONE_DECIDES);
    }
    Ok(Unreached::from(unreached).added_to(Answer::new(json!({ "hsm-id": name }), text)))
}

const ONE_DECIDES: &str = "\nOf the two HSMs that are left only one votes: without it nothing can be changed. Add an HSM or a \
                           witness (docs/operations/replacing-an-hsm.md)";

/// Whether the members without the one that was removed are two HSMs and no witness.
fn one_decides(members: &[wire::MemberState], removed: &[u8]) -> bool {
    let left: Vec<_> = members.iter().filter(|member| member.hsm != removed).collect();
    left.len() == 2 && left.iter().all(|member| !member.witness)
}

fn show(session: &Session<'_>, heading: &str) -> Result<Answer, Failure> {
    let policy = session.logged_in(|login| policy_of(session, login))?;
    Ok(Answer::new(policy_data(&policy), table(&[heading, "as it is now"], policy_facts(&policy))))
}

fn policy_of(session: &Session<'_>, login: &Login) -> Result<wire::ClusterPolicyReply, Failure> {
    Ok(session.cluster().cluster_policy(login)?)
}

fn rule_of(policy: &wire::ClusterPolicyReply) -> Result<wire::AdmissionRule, Failure> {
    policy.rule.ok_or_else(Failure::strange_answer)
}

fn fact(name: &str, value: String) -> Vec<String> {
    vec![name.to_owned(), value]
}

fn policy_facts(policy: &wire::ClusterPolicyReply) -> Vec<Vec<String>> {
    let rule = policy.rule.as_ref().map_or_else(|| "not told".to_owned(), rule_words);
    let approved: Vec<String> = policy.approvals.iter().map(|hsm| hexadecimal(hsm)).collect();
    let approved = if approved.is_empty() { "none".to_owned() } else { approved.join(", ") };
    vec![
        fact("who may join", rule),
        fact("joined by the rule in 24 h", policy.admissions.len().to_string()),
        fact("approved, not here yet", approved),
        fact("without a majority", window_words(policy.isolation_window_seconds)),
        fact("programs that take part", releases_words(policy)),
    ]
}

fn policy_data(policy: &wire::ClusterPolicyReply) -> Value {
    json!({
        "rule": policy.rule.as_ref().map(rule_data),
        "approvals": policy.approvals.iter().map(|hsm| hexadecimal(hsm)).collect::<Vec<_>>(),
        "admissions": policy.admissions,
        "isolation-window-seconds": policy.isolation_window_seconds,
        "releases": policy.releases.as_ref().map(|rule| json!({
            "keys": rule.keys.iter().map(|key| hexadecimal(key)).collect::<Vec<_>>(), "minimum": rule.minimum,
            "trusts-development": policy.trusts_development,
        })),
    })
}

fn rule_data(rule: &wire::AdmissionRule) -> Value {
    json!({ "standing": rule.standing, "members": rule.members, "per-day": rule.per_day })
}

fn rule_words(rule: &wire::AdmissionRule) -> String {
    let wire::AdmissionRule { members, per_day, .. } = rule;
    let most = format!("{members} HSMs at most");
    if rule.standing {
        format!("every HSM of this installation, {per_day} in 24 hours; {most}")
    } else {
        format!("only an HSM that an admin has approved; {most}")
    }
}

fn window_words(seconds: u32) -> String {
    match seconds {
        0 => "an HSM that hears from no majority uses no key".to_owned(),
        _ => format!("an HSM that hears from no majority goes on with the keys that it has for {}", duration(seconds)),
    }
}

/// A time in its largest whole unit.
fn duration(seconds: u32) -> String {
    const UNITS: [(u32, &str); 4] = [(86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")];
    let fits = UNITS.iter().find(|&&(unit, _)| seconds >= unit && seconds.is_multiple_of(unit));
    let &(unit, name) = fits.unwrap_or(&UNITS[3]);
    let count = seconds / unit;
    if count == 1 { format!("1 {name}") } else { format!("{count} {name}s") }
}

fn member_data(member: &wire::MemberState) -> Value {
    json!({
        "hsm-id": hexadecimal(&member.hsm), "node": format!("{:x}", member.node), "zone": member.zone,
        "role": role(member), "client-address": member.client_address, "peer-address": member.peer_address,
        "version": member.version, "state-version": member.state_version, "admitted-at": member.admitted_at, "applied-index": member.applied_index,
        "lag": member.lag, "silent-milliseconds": member.silent_milliseconds,
        "lease-milliseconds": member.lease_milliseconds, "hashes-agree": member.hashes_agree,
        "state-rows": member.state_rows, "state-rows-total": member.state_rows_total,
    })
}

fn member_row(member: &wire::MemberState, answering: &[u8]) -> Vec<String> {
    let addresses = [&member.client_address, &member.peer_address].map(|address| known(address)).join("\n");
    let applied = match (member.applied_index, member.lag) {
        _ if member.state_rows_total.is_some() => receives(member),
        (Some(index), Some(lag)) if lag > 0 => format!("{index}, {lag} behind"),
        (Some(index), _) => index.to_string(),
        (None, _) => "not known".to_owned(),
    };
    let heard = match member.silent_milliseconds {
        _ if member.hsm == answering => "answers".to_owned(),
        _ if member.hashes_agree == Some(false) => "ITS STATE DIFFERS".to_owned(),
        Some(milliseconds) => {
            let silent = if milliseconds >= SILENT_MILLISECONDS { "SILENT, heard " } else { "" };
            format!("{silent}{}.{} s ago", milliseconds / 1_000, milliseconds % 1_000 / 100)
        }
        None => "never".to_owned(),
    };
    vec![
        hexadecimal(&member.hsm),
        known(&member.zone).to_owned(),
        role(member).to_owned(),
        addresses,
        known(&member.version).to_owned(),
        applied,
        heard,
    ]
}

/// How much of the state a member has that is being sent it.
fn receives(member: &wire::MemberState) -> String {
    let (rows, total) = (member.state_rows.unwrap_or(0), member.state_rows_total.unwrap_or(0));
    let percent = rows.min(total).saturating_mul(100).checked_div(total).unwrap_or(0);
    format!("gets the state: {percent} %")
}

fn known(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

fn role(member: &wire::MemberState) -> &'static str {
    match (member.part(), member.witness) {
        (wire::MemberPart::Leader, false) => "leader",
        (wire::MemberPart::Leader, true) => "leader (witness)",
        (wire::MemberPart::Voter, true) => "witness",
        (wire::MemberPart::Voter, false) => "voter",
        (wire::MemberPart::Learner, _) => "learner",
        (wire::MemberPart::Newcomer, _) => "joining",
        (wire::MemberPart::Unknown, _) => "unknown",
    }
}

fn serving_name(serving: wire::ServingState) -> &'static str {
    match serving {
        wire::ServingState::Leased => "leased",
        wire::ServingState::Isolated => "isolated",
        wire::ServingState::Expired => "expired",
        wire::ServingState::Unknown => "unknown",
    }
}

fn serving_words(members: &wire::ListMembersReply) -> String {
    let seconds = members.isolated_milliseconds / 1_000;
    match members.serving() {
        wire::ServingState::Leased => "which is up to date".to_owned(),
        wire::ServingState::Isolated => format!("which has heard from no majority for {seconds} s"),
        wire::ServingState::Expired => "which uses no key: it hears from no majority".to_owned(),
        wire::ServingState::Unknown => "which does not say whether it is up to date".to_owned(),
    }
}

/// Reads an HSM's id: 32 hexadecimal digits.
fn parse_id(text: &str) -> Result<[u8; ID_BYTES], Failure> {
    let misuse = || {
        Failure::misuse(
            format!("{text:?} is no HSM's id"),
            "use the 32 hexadecimal digits that `kagimori cluster status` or the HSM's own `manage status` shows",
        )
    };
    if text.len() != 2 * ID_BYTES || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(misuse());
    }
    let number = u128::from_str_radix(text, 16).map_err(|_| misuse())?;
    Ok(number.to_be_bytes())
}

/// HSMs in a cluster, as an argument.
pub(crate) fn members_range() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(limits::MEMBERS))
}

/// Admissions in a day, as an argument.
pub(crate) fn per_day_range() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(0..=i64::from(limits::ADMISSIONS_PER_DAY_MAXIMUM))
}

/// Seconds of isolation, as an argument.
pub(crate) fn window_range() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(0..=i64::from(limits::ISOLATION_WINDOW_MAXIMUM_SECONDS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_thirty_two_digits_and_nothing_else() {
        let good = "000102030405060708090a0b0c0d0eFF";
        let id = parse_id(good).unwrap();
        assert_eq!((id[1], id[15], hexadecimal(&id)), (1, 0xff, good.to_lowercase()));
        for bad in ["", &good[1..], &format!("{good}0"), &good.replace('F', "g"), &good.replacen('0', "+", 1)] {
            assert!(parse_id(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn two_hsms_that_are_left_without_a_witness_are_warned_of() {
        let member = |hsm: u8, witness| wire::MemberState { hsm: vec![hsm; 16], witness, ..Default::default() };
        let three = [member(1, false), member(2, false), member(3, false)];
        assert!(one_decides(&three, &[3; 16]) && one_decides(&three[..2], &[3; 16]));
        assert!(!one_decides(&three, &[9; 16]), "three are left");
        assert!(!one_decides(&[member(1, false), member(2, false), member(4, true)], &[3; 16]), "a witness votes");
    }

    #[test]
    fn a_member_that_was_not_heard_for_seconds_is_marked() {
        let heard = |milliseconds| {
            let member =
                wire::MemberState { hsm: vec![1; 16], silent_milliseconds: Some(milliseconds), ..Default::default() };
            member_row(&member, &[2; 16]).pop().unwrap()
        };
        assert_eq!((heard(900).as_str(), heard(38_800).as_str()), ("0.9 s ago", "SILENT, heard 38.8 s ago"));
    }

    #[test]
    fn a_policy_is_told_in_words() {
        let rule = |standing| wire::AdmissionRule { standing, members: 3, per_day: 2 };
        assert_eq!(rule_words(&rule(true)), "every HSM of this installation, 2 in 24 hours; 3 HSMs at most");
        assert_eq!(rule_words(&rule(false)), "only an HSM that an admin has approved; 3 HSMs at most");
        assert_eq!(window_words(0), "an HSM that hears from no majority uses no key");
        assert!(window_words(3_600).ends_with("for 1 hour") && window_words(5_400).ends_with("for 90 minutes"));
        assert!(window_words(61).ends_with("for 61 seconds") && window_words(604_800).ends_with("for 7 days"));
    }

    #[test]
    fn rates_are_told_by_the_second_and_in_milliseconds() {
        let rate = |operation: &str, count| wire::OperationRate {
            operation: operation.to_owned(),
            count,
            failures: 2,
            median_microseconds: 15,
            ninety_ninth_microseconds: 2_040,
        };
        let (rates, rates_milliseconds) = (vec![rate("sign", 90_000), rate("login", 1)], 60_000);
        let shown = rates_table(&wire::ListMembersReply { rates, rates_milliseconds, ..Default::default() });
        for part in ["last 60 s", "1500.0", "0.015 ms", "2.040 ms"] {
            assert!(shown.contains(part), "{part}\n{shown}");
        }
        assert_eq!((per_second(1, 60_000), per_second(5, 0)), ("0.0".to_owned(), "5000.0".to_owned()));
    }

    #[test]
    fn a_member_that_is_behind_silent_or_different_is_shown_so() {
        let member = wire::MemberState {
            hsm: vec![2; 16],
            applied_index: Some(90),
            lag: Some(10),
            silent_milliseconds: Some(1_250),
            ..Default::default()
        };
        let row = member_row(&member, &[1; 16]);
        assert_eq!((row[2].as_str(), row[5].as_str(), row[6].as_str()), ("unknown", "90, 10 behind", "1.2 s ago"));
        let different = wire::MemberState { hashes_agree: Some(false), ..member.clone() };
        assert_eq!(member_row(&different, &[1; 16])[6], "ITS STATE DIFFERS");
        let gets = wire::MemberState { state_rows: Some(41), state_rows_total: Some(100), ..member.clone() };
        assert_eq!(member_row(&gets, &[1; 16])[5], "gets the state: 41 %");
        let unheard = wire::MemberState { silent_milliseconds: None, applied_index: None, ..member };
        assert_eq!(member_row(&unheard, &[1; 16])[5..], ["not known", "never"]);
        assert_eq!(member_row(&unheard, &[2; 16])[6], "answers");
    }
}

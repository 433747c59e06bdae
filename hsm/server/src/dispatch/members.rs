//! The members of the cluster, and what admins say about who may join and how long an HSM goes on alone.
//!
//! The roster in the log is what the cluster shall be; the state judges every change of it. What a member does now (who
//! leads, who votes, how far it is) comes from replication.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hsm_core::releases::ReleaseKey;
use hsm_core::{
    Action, AdmissionRule, ClusterPolicy, EpochRecord, Hsm, HsmId, MemberKind, MemberRecord, NodeId, Release,
    ReleaseRule, Request,
};
use hsm_protocol::wire::reply::Body;
use hsm_protocol::{ErrorCode, wire};
use hsm_replication::limits::ALIVE;
use hsm_replication::{Role, Serving, Status};

use super::call::{Answered, Call, Result};
use crate::metrics::Rate;
use crate::release;

pub(super) fn set_rule(call: &Call<'_>, message: wire::SetAdmissionRule) -> Result<Answered> {
    let wire::AdmissionRule { standing, members, per_day } = message.rule.ok_or(ErrorCode::Malformed)?;
    let rule = AdmissionRule { standing, members, per_day };
    allowed(call, Request::SetAdmissionRule { rule })?;
    call.change_plainly(Action::SetAdmissionRule { rule })
}

pub(super) fn approve(call: &Call<'_>, message: &wire::ApproveMember) -> Result<Answered> {
    let hsm = id(&message.hsm)?;
    allowed(call, Request::ApproveMember { hsm })?;
    call.change_plainly(Action::ApproveMember { hsm })
}

pub(super) fn set_window(call: &Call<'_>, message: &wire::SetIsolationWindow) -> Result<Answered> {
    let seconds = message.seconds;
    allowed(call, Request::SetIsolationWindow { seconds })?;
    call.change_plainly(Action::SetIsolationWindow { seconds })
}

pub(super) fn set_releases(call: &Call<'_>, message: wire::SetReleaseRule) -> Result<Answered> {
    let wire::ReleaseRule { keys, minimum } = message.rule.ok_or(ErrorCode::Malformed)?;
    let keys: std::result::Result<Vec<ReleaseKey>, _> = keys.into_iter().map(TryInto::try_into).collect();
    let keys = keys.map_err(|_| ErrorCode::Malformed)?;
    let minimum = Release::parse(&minimum).ok_or(ErrorCode::AttributeValue)?;
    let rule = ReleaseRule { keys, minimum };
    allowed(call, Request::SetReleaseRule { rule: &rule })?;
    call.change_plainly(Action::SetReleaseRule { rule })
}

pub(super) fn remove(call: &Call<'_>, message: &wire::RemoveMember) -> Result<Answered> {
    let hsm = id(&message.hsm)?;
    {
        let status = call.service.node().status();
        let state = call.service.node().read();
        state.needs(&call.actor, Request::RemoveMember { hsm })?;
        if !leaves_majority(&seats(&status, state.members()), hsm) {
            return Err(ErrorCode::QuorumLoss.into());
        }
    }
    call.change_plainly(Action::RemoveMember { hsm })
}

pub(super) fn policy(call: &Call<'_>) -> Result<Answered> {
    let state = call.service.node().read();
    state.needs(&call.actor, Request::ShowCluster)?;
    let Some(cluster) = state.cluster() else { return Err(ErrorCode::NotReady.into()) };
    let ClusterPolicy { isolation_window_seconds, admission, approvals, releases, .. } = &cluster.policy;
    let reply = wire::ClusterPolicyReply {
        rule: Some(wire::AdmissionRule {
            standing: admission.standing,
            members: admission.members,
            per_day: admission.per_day,
        }),
        approvals: approvals.iter().map(|hsm| hsm.0.to_vec()).collect(),
        admissions: cluster.policy.recent_admissions(call.service.node().now()).map(|stamp| stamp.0).collect(),
        isolation_window_seconds: *isolation_window_seconds,
        trusts_development: release::trusts_everybody(releases),
        releases: Some(wire::ReleaseRule {
            keys: releases.keys.iter().map(|key| key.to_vec()).collect(),
            minimum: releases.minimum.to_string(),
        }),
    };
    Ok(Answered::Now(Body::ClusterPolicy(reply)))
}

pub(super) fn list(call: &Call<'_>) -> Result<Answered> {
    let status = call.service.node().status();
    let state = call.service.node().read();
    state.needs(&call.actor, Request::ShowCluster)?;
    let Some(cluster) = state.cluster() else { return Err(ErrorCode::NotReady.into()) };
    let (serving, isolated_milliseconds) = serving_state(status.serving);
    let isolated = state.isolated_counts();
    let (rates_over, rates) = call.service.metrics().rates(Instant::now());
    let record = state.epoch_record();
    let reply = wire::ListMembersReply {
        items: members_seen(&state, &status),
        hsm: call.service.hsm().to_vec(),
        term: status.term,
        applied_index: status.applied.0,
        chain_hash: status.hash.to_vec(),
        epoch: cluster.epoch.0,
        serving: serving as i32,
        isolated_milliseconds,
        snapshot_entry: status.snapshot_entry,
        epoch_keys: record.map_or(0, |record| record.keys),
        epoch_keys_moved: record.map_or(0, |record| record.moved),
        epoch_settled: record.is_none_or(EpochRecord::is_settled),
        state_version: state.version(),
        rates: rates.iter().map(rate_message).collect(),
        rates_milliseconds: u64::try_from(rates_over.as_millis()).unwrap_or(u64::MAX),
        isolated_sessions: isolated.sessions,
        isolated_attempts: isolated.attempts,
        isolated_logins_refused: !call.service.desk().is_usable(),
    };
    Ok(Answered::Now(Body::ListMembers(reply)))
}

/// The members of a state, with what this node knows of each.
pub(crate) fn members_seen(state: &Hsm, status: &Status) -> Vec<wire::MemberState> {
    state.members().iter().map(|(&node, member)| describe(node, member, status)).collect()
}

fn rate_message(rate: &Rate) -> wire::OperationRate {
    let microseconds = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    wire::OperationRate {
        operation: rate.measured.name().to_owned(),
        count: rate.count,
        failures: rate.failures,
        median_microseconds: microseconds(rate.median),
        ninety_ninth_microseconds: microseconds(rate.ninety_ninth),
    }
}

fn describe(node: NodeId, member: &MemberRecord, status: &Status) -> wire::MemberState {
    let seen = status.members.get(&node.0);
    let is_this = node.0 == status.node;
    let sending = status.snapshots.sending.get(&node.0);
    wire::MemberState {
        hsm: member.hsm.0.to_vec(),
        node: node.0,
        witness: member.kind == MemberKind::Witness,
        zone: member.zone.clone(),
        peer_address: member.peer_address.clone(),
        client_address: member.client_address.clone(),
        version: member.version.clone(),
        admitted_at: member.admitted_at.0,
        state_version: member.state_version,
        part: part(node, status) as i32,
        applied_index: if is_this {
            Some(status.applied.0)
        } else {
            seen.and_then(|seen| seen.applied).map(|applied| applied.0)
        },
        silent_milliseconds: seen.and_then(|seen| seen.heard_milliseconds_ago),
        lag: seen.and_then(|seen| seen.lag),
        lease_milliseconds: if is_this {
            status.lease_milliseconds_left
        } else {
            seen.and_then(|seen| seen.lease_milliseconds_left)
        },
        hashes_agree: seen.and_then(|seen| seen.hashes_agree),
        state_rows: sending.map(|share| share.rows),
        state_rows_total: sending.map(|share| share.total),
    }
}

fn part(node: NodeId, status: &Status) -> wire::MemberPart {
    if status.leader == Some(node.0) {
        return wire::MemberPart::Leader;
    }
    if status.voters.contains(&node.0) {
        return wire::MemberPart::Voter;
    }
    match status.members.get(&node.0).map(|seen| seen.role) {
        Some(Role::Newcomer) => wire::MemberPart::Newcomer,
        Some(_) => wire::MemberPart::Learner,
        None if node.0 == status.node => wire::MemberPart::Learner,
        None => wire::MemberPart::Unknown,
    }
}

/// Whether this HSM may act, and for how many milliseconds it has heard from no majority.
pub(crate) fn serving_state(serving: Serving) -> (wire::ServingState, u64) {
    match serving {
        Serving::Leased => (wire::ServingState::Leased, 0),
        Serving::Isolated { for_milliseconds, .. } => (wire::ServingState::Isolated, for_milliseconds),
        Serving::Expired => (wire::ServingState::Expired, 0),
    }
}

/// A member when it comes to deciding.
#[derive(Clone, Copy, Debug)]
struct Seat {
    hsm: HsmId,
    votes: bool,
    /// It was heard of just now.
    lives: bool,
    /// It holds keys, so it could vote alone.
    holds_keys: bool,
}

fn seats(status: &Status, members: &BTreeMap<NodeId, MemberRecord>) -> Vec<Seat> {
    let alive = |node: u64| {
        let heard = status.members.get(&node).and_then(|seen| seen.heard_milliseconds_ago);
        node == status.node || heard.is_some_and(|ago| u128::from(ago) <= ALIVE.as_millis())
    };
    let seat = |(node, member): (&NodeId, &MemberRecord)| Seat {
        hsm: member.hsm,
        votes: status.voters.contains(&node.0),
        lives: alive(node.0),
        holds_keys: member.kind == MemberKind::Hsm,
    };
    members.iter().map(seat).collect()
}

/// Whether those who remain could decide: a majority of the voters that remain lives; or, when none remains, an HSM that
/// can take the vote over. To take away who is gone is always possible as long as the cluster decides at all.
fn leaves_majority(seats: &[Seat], removed: HsmId) -> bool {
    let remaining = || seats.iter().filter(|seat| seat.hsm != removed);
    let voters = remaining().filter(|seat| seat.votes).count();
    if voters == 0 {
        return remaining().any(|seat| seat.lives && seat.holds_keys);
    }
    2 * remaining().filter(|seat| seat.votes && seat.lives).count() > voters
}

fn allowed(call: &Call<'_>, request: Request<'_>) -> Result<()> {
    call.service.node().read().needs(&call.actor, request)?;
    Ok(())
}

fn id(octets: &[u8]) -> Result<HsmId> {
    Ok(HsmId(octets.try_into().map_err(|_| ErrorCode::Malformed)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat(number: u8, votes: bool, lives: bool, holds_keys: bool) -> Seat {
        Seat { hsm: HsmId([number; 16]), votes, lives, holds_keys }
    }

    fn removable(seats: &[Seat]) -> Vec<bool> {
        seats.iter().map(|seat| leaves_majority(seats, seat.hsm)).collect()
    }

    #[test]
    fn a_live_voter_stays_while_a_dead_one_would_be_half_of_the_rest() {
        let three = [seat(1, true, true, true), seat(2, true, true, true), seat(3, true, false, true)];
        assert_eq!(removable(&three), [false, false, true], "the dead one goes first");
        let whole = [seat(1, true, true, true), seat(2, true, true, true), seat(3, true, true, true)];
        assert_eq!(removable(&whole), [true; 3]);
    }

    #[test]
    fn learners_come_and_go() {
        let four = [
            seat(1, true, true, true),
            seat(2, true, true, true),
            seat(3, true, false, true),
            seat(4, false, true, true),
            seat(5, false, false, true),
        ];
        assert_eq!(removable(&four), [false, false, true, true, true]);
    }

    #[test]
    fn the_only_voter_goes_when_a_live_hsm_can_take_its_place() {
        let voter = seat(1, true, true, true);
        assert_eq!(removable(&[voter, seat(2, false, true, true)]), [true, true]);
        assert_eq!(removable(&[voter, seat(2, false, false, true)]), [false, true]);
        assert_eq!(removable(&[voter, seat(2, false, true, false)]), [false, true], "a witness has no keys");
    }

    #[test]
    fn of_two_hsms_and_a_witness_one_hsm_may_go() {
        let pair = [seat(1, true, true, true), seat(2, true, true, true), seat(3, true, true, false)];
        assert_eq!(removable(&pair), [true; 3]);
    }
}

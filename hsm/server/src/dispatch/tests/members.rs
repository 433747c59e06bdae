//! Members and the policy of the cluster, as an admin sees and sets them.

use std::time::Duration;

use hsm_core::command::Origin;
use hsm_core::{Action, HsmId, MemberKind, MemberRecord, NodeId};
use hsm_protocol::wire::{self, reply, request};
use hsm_protocol::{ErrorCode, Role};

use super::client::{ADMIN_PASSWORD, Client, Hsm};

fn admin(hsm: &Hsm) -> Client {
    let mut client = hsm.connect();
    client.log_in("admin", Role::Admin, ADMIN_PASSWORD);
    client
}

fn rule(standing: bool, members: u32, per_day: u32) -> request::Body {
    let rule = Some(wire::AdmissionRule { standing, members, per_day });
    request::Body::SetAdmissionRule(wire::SetAdmissionRule { rule })
}

fn approve(hsm: &[u8]) -> request::Body {
    request::Body::ApproveMember(wire::ApproveMember { hsm: hsm.to_vec() })
}

fn window(seconds: u32) -> request::Body {
    request::Body::SetIsolationWindow(wire::SetIsolationWindow { seconds })
}

fn remove(hsm: &[u8]) -> request::Body {
    request::Body::RemoveMember(wire::RemoveMember { hsm: hsm.to_vec() })
}

fn policy(client: &mut Client) -> wire::ClusterPolicyReply {
    let body = client.call(request::Body::GetClusterPolicy(wire::GetClusterPolicy {})).unwrap();
    let reply::Body::ClusterPolicy(reply) = body else { panic!("no policy") };
    reply
}

fn members(client: &mut Client) -> wire::ListMembersReply {
    let body = client.call(request::Body::ListMembers(wire::ListMembers {})).unwrap();
    let reply::Body::ListMembers(reply) = body else { panic!("no members") };
    reply
}

/// What a member proposes that has checked a newcomer's certificate.
fn admit(hsm: &Hsm, number: u8) -> Result<(), ErrorCode> {
    let alone = MemberRecord::alone(HsmId([number; 16]), MemberKind::Hsm);
    let member = MemberRecord {
        zone: "b".into(),
        peer_address: "10.0.0.2:2224".into(),
        client_address: "10.0.0.2:2223".into(),
        version: "0.1.0".into(),
        certificate: vec![number; 8],
        ..alone
    };
    let nobody = Origin { session: None, sequence: 0, lowest_unanswered: 0 };
    let action = Action::AdmitMember { node: NodeId(u64::from(number)), member };
    let outcome = hsm.node.propose_and_wait(nobody, action, Duration::from_secs(10));
    outcome.into_result().map(|_| ()).map_err(|refusal| refusal.code)
}

#[test]
fn an_admin_sets_the_rule_approves_one_hsm_and_sees_both() {
    let hsm = Hsm::active();
    let mut admin = admin(&hsm);
    let first = policy(&mut admin);
    assert!(first.rule.is_some_and(|rule| rule.standing && rule.members == 28 && rule.per_day == 56));
    assert_eq!((first.isolation_window_seconds, first.approvals.len(), first.admissions.len()), (3600, 0, 0));
    admin.change_done(rule(false, 3, 2));
    admin.change_done(approve(&[2; 16]));
    admin.change_done(window(0));
    assert!(matches!(admin.change_again(window(0)).unwrap(), reply::Body::Done(_)), "the same call again");
    let set = policy(&mut admin);
    assert!(set.rule.is_some_and(|rule| !rule.standing && rule.members == 3 && rule.per_day == 2));
    assert_eq!((set.isolation_window_seconds, set.approvals), (0, vec![vec![2; 16]]));
    assert_eq!(admit(&hsm, 3), Err(ErrorCode::AdmissionRefused));
    assert_eq!(admit(&hsm, 2), Ok(()));
    assert!(policy(&mut admin).approvals.is_empty(), "the approval is spent");
}

#[test]
fn admissions_by_the_standing_rule_are_shown_for_a_day() {
    let hsm = Hsm::active();
    let mut admin = admin(&hsm);
    assert_eq!(admit(&hsm, 2), Ok(()));
    let now = hsm.node.now().0;
    let shown = policy(&mut admin).admissions;
    assert!(matches!(shown[..], [stamp] if stamp <= now), "{shown:?}");
}

#[test]
fn members_are_listed_with_their_addresses_and_who_leads() {
    let hsm = Hsm::active();
    assert_eq!(admit(&hsm, 2), Ok(()));
    let mut user = hsm.connect_as("app");
    let listed = members(&mut user);
    assert_eq!((listed.hsm.len(), listed.chain_hash.len(), listed.epoch), (16, 48, 1));
    assert!(listed.applied_index >= user.index && listed.term > 0);
    let founder = listed.items.iter().find(|item| item.hsm == [1; 16]).unwrap();
    assert!(founder.part() == wire::MemberPart::Leader);
    assert_eq!(founder.applied_index, Some(listed.applied_index));
    let other = listed.items.iter().find(|item| item.hsm == [2; 16]).unwrap();
    assert_eq!((other.zone.as_str(), other.node, other.witness), ("b", 2, false));
    assert_eq!((other.peer_address.as_str(), other.client_address.as_str()), ("10.0.0.2:2224", "10.0.0.2:2223"));
    assert!(other.part() != wire::MemberPart::Leader);
    assert!(other.admitted_at > 0 && other.applied_index.is_none());
}

#[test]
fn the_last_hsm_and_one_that_nobody_knows_are_not_removed() {
    let hsm = Hsm::active();
    let mut admin = admin(&hsm);
    assert_eq!(admin.change(remove(&[1; 16])).err(), Some(ErrorCode::LastMember));
    assert_eq!(admin.change(remove(&[9; 16])).err(), Some(ErrorCode::MemberUnknown));
    assert_eq!(admit(&hsm, 2), Ok(()));
    admin.change_done(remove(&[2; 16]));
    assert_eq!(members(&mut admin).items.len(), 1);
    assert_eq!(admin.change(remove(&[2; 16])).err(), Some(ErrorCode::MemberUnknown));
}

#[test]
fn only_an_admin_says_who_may_join_or_must_leave() {
    let hsm = Hsm::active();
    let mut client = hsm.connect_as("app");
    for body in [rule(true, 28, 56), approve(&[2; 16]), window(60), remove(&[1; 16])] {
        let method = hsm_protocol::convert::method(&body);
        assert_eq!(client.change(body).err(), Some(ErrorCode::RoleRefused), "method {method}");
    }
    assert_eq!(policy(&mut client).isolation_window_seconds, 3600);
    let mut stranger = hsm.connect();
    for body in [rule(true, 28, 56), approve(&[2; 16]), window(60), remove(&[1; 16])] {
        let method = hsm_protocol::convert::method(&body);
        assert!(stranger.call(body).is_err(), "method {method}");
    }
    let shown =
        [request::Body::GetClusterPolicy(wire::GetClusterPolicy {}), request::Body::ListMembers(wire::ListMembers {})];
    for body in shown {
        assert_eq!(stranger.call(body).err(), Some(ErrorCode::NotLoggedIn));
    }
}

#[test]
fn rules_windows_and_names_of_hsms_have_bounds() {
    let hsm = Hsm::active();
    let mut admin = admin(&hsm);
    for good in [rule(true, 1, 0), rule(true, 28, 1024), window(604_800)] {
        admin.change_done(good);
    }
    for bad in [rule(true, 0, 1), rule(true, 29, 1), rule(true, 28, 1025), window(604_801)] {
        assert_eq!(admin.change(bad).err(), Some(ErrorCode::AttributeValue));
    }
    let no_rule = request::Body::SetAdmissionRule(wire::SetAdmissionRule { rule: None });
    for bad in [approve(&[]), approve(&[1; 15]), remove(&[1; 17]), no_rule] {
        assert_eq!(admin.change(bad).err(), Some(ErrorCode::Malformed));
    }
    for number in 0..28 {
        admin.change_done(approve(&[100 + number; 16]));
    }
    assert_eq!(admin.change(approve(&[99; 16])).err(), Some(ErrorCode::MemberLimit), "approvals have a limit");
}

//! The roster as clients learn of it.

use std::time::Duration;

use hsm_core::command::Origin;
use hsm_core::{Action, HsmId, MemberKind, MemberRecord, NodeId};
use hsm_protocol::Role;
use hsm_protocol::wire::{self, reply, request};

use super::client::{Client, Hsm, USER_PASSWORD};

const NOBODY: Origin = Origin { session: None, sequence: 0, lowest_unanswered: 0 };

fn propose(hsm: &Hsm, action: Action) {
    let outcome = hsm.node.propose_and_wait(NOBODY, action, Duration::from_secs(10));
    outcome.into_result().map(|_| ()).unwrap();
}

fn roster(client: &mut Client) -> wire::ClusterInfoReply {
    match client.call(request::Body::ClusterInfo(wire::ClusterInfo {})).unwrap() {
        reply::Body::ClusterInfo(reply) => reply,
        _ => panic!("the answer of another call"),
    }
}

#[test]
fn every_reply_tells_the_version_of_the_roster_and_cluster_info_its_members() {
    let hsm = Hsm::active();
    let mut client = hsm.connect();
    let alone = roster(&mut client);
    assert_eq!((alone.members.len(), alone.roster), (1, client.roster));
    assert_ne!(alone.roster, 0);

    let member = MemberRecord {
        zone: "zone-b".into(),
        client_address: "10.0.0.2:2223".into(),
        certificate: vec![2; 8],
        ..MemberRecord::alone(HsmId([2; 16]), MemberKind::Hsm)
    };
    let witness = MemberRecord { certificate: vec![3; 8], ..MemberRecord::alone(HsmId([3; 16]), MemberKind::Witness) };
    propose(&hsm, Action::AdmitMember { node: NodeId(2), member });
    propose(&hsm, Action::AdmitMember { node: NodeId(3), member: witness });
    // A read, a change from the log's own thread, and a refusal.
    client.log_in("app", Role::CryptoUser, USER_PASSWORD);
    let version = client.roster;
    assert_ne!(version, alone.roster);
    drop(client.call(request::Body::ListUsers(wire::ListUsers {})));
    assert_eq!(client.roster, version);
    client.change_done(request::Body::Logout(wire::Logout {}));
    assert_eq!(client.roster, version);
    client.session = 0;

    let mut three = roster(&mut client);
    // The founder's node id is random, and members are listed by theirs.
    three.members.sort_by_key(|member| member.hsm[0]);
    assert_eq!(three.roster, version);
    let shown: Vec<_> = three.members.iter().map(|member| (member.hsm[0], &*member.address, &*member.zone)).collect();
    assert_eq!(shown[1..], [(2, "10.0.0.2:2223", "zone-b"), (3, "", "")]);
    assert!(three.members[2].witness && !three.members[1].witness);

    propose(&hsm, Action::RemoveMember { hsm: HsmId([2; 16]) });
    propose(&hsm, Action::RemoveMember { hsm: HsmId([3; 16]) });
    assert_eq!(roster(&mut client).roster, alone.roster, "the same members have the same version");
}

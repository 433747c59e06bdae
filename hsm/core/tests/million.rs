//! A million keys: what they cost in memory, and that searching and creating do not slow down with them.
//!
//! Takes some seconds and a gigabyte, so it runs when asked: `cargo test --release -p hsm-core --test million -- --ignored
//! --nocapture`.

#![expect(clippy::unwrap_used, reason = "what cannot fail in a test may stop it")]
#![expect(clippy::disallowed_methods, reason = "the test measures time; the state machine does not")]

use std::time::{Duration, Instant};

use hsm_core::command::{CeremonyCertificates, Form, NewObject, NewSession, Origin, SealedPayload, Verifier};
use hsm_core::ids::AttemptId;
use hsm_core::{
    Action, Actor, ClusterId, Command, Effect, Epoch, Facts, Hsm, HsmId, Incarnation, Index, MemberKind, MemberRecord,
    Needs, NodeId, ObjectHandle, ObjectUid, Request, Response, SessionId, Stamp,
};
use hsm_protocol::{AttributeKind as A, Lifecycle, Mechanism, MechanismKind, Role, Template, UserName};

const STAMP: Stamp = Stamp(1_000_000_000_000);

struct Cluster {
    hsm: Hsm,
    index: u64,
}

impl Cluster {
    fn apply(&mut self, session: Option<SessionId>, action: Action) -> Response {
        self.index += 1;
        let origin = Origin { session, sequence: 0, lowest_unanswered: 0 };
        let applied = self.hsm.apply(Index(self.index), &Command { stamp: STAMP, origin, action });
        self.hsm.absorb(&applied.changes);
        let Some(Effect::Respond(Ok(response))) = applied.effects.into_iter().next() else { panic!("refused") };
        response
    }

    fn log_in(&mut self, name: &str, role: Role, number: u8) -> SessionId {
        let (attempt, session) = (AttemptId([number; 16]), SessionId([number; 16]));
        let expires_at = Stamp(STAMP.0 + 1000);
        self.apply(None, Action::ReserveAttempt { attempt, name: UserName::new(name).unwrap(), role });
        let session_ = Some(NewSession { session, public_key: [0; 32], expires_at });
        self.apply(None, Action::FinishLogin { attempt, session: session_ });
        session
    }

    fn active() -> (Self, SessionId) {
        let mut cluster = Self { hsm: Hsm::empty(), index: 0 };
        let verifier = || Verifier(vec![0; 64]);
        cluster.apply(
            None,
            Action::Form(Form {
                cluster: ClusterId([1; 16]),
                incarnation: Incarnation([1; 16]),
                fips: false,
                label: "million".to_owned(),
                epoch: Epoch(1),
                lifecycle: Lifecycle::Uninitialized,
                activation: verifier(),
                sealed_activation_password: vec![1],
                sealed_cluster_key: vec![1],
                releases: hsm_core::ReleaseRule::default(),
                certificates: CeremonyCertificates::default(),
                node: NodeId(1),
                member: MemberRecord::alone(HsmId([1; 16]), MemberKind::Hsm),
            }),
        );
        let pem = "-----BEGIN CERTIFICATE-----".to_owned();
        cluster.apply(None, Action::InstallCertificate { certificate: pem.clone(), trust_anchor: pem });
        cluster.apply(None, Action::Activate { verifier: verifier() });
        let admin = cluster.log_in("admin", Role::Admin, 1);
        let name = UserName::new("alice").unwrap();
        cluster.apply(Some(admin), Action::CreateUser { name, role: Role::CryptoUser, verifier: verifier() });
        let alice = cluster.log_in("alice", Role::CryptoUser, 2);
        (cluster, alice)
    }

    fn key(&mut self, session: SessionId, actor: &Actor, number: u64) -> ObjectHandle {
        let mechanism = Mechanism::plain(MechanismKind::AES_KEY_GEN);
        let template = Template::new()
            .with_number(A::ValueLen, 32)
            .with_flag(A::Token, true)
            .with_octets(A::Label, format!("application-key-{number:07}"))
            .with_octets(A::Id, number.to_be_bytes());
        let request = Request::GenerateKey { mechanism: &mechanism, template: &template };
        let Ok(Needs::SecretKey { draft, .. }) = self.hsm.needs(actor, request) else { panic!("refused") };
        let facts = Facts::new().with_number(A::ValueLen, 32).with_octets(A::CheckValue, [1, 2, 3]);
        let mut uid = [0; 16];
        uid[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
        let object = draft.complete(facts, ObjectUid(uid)).unwrap();
        let payload = SealedPayload { epoch: Epoch(1), wrapped_data_key: vec![0; 60], ciphertext: vec![0; 60] };
        let objects = vec![NewObject { object, payload: Some(payload) }];
        let Response::Created(handles) = self.apply(Some(session), Action::CreateObjects { objects }) else {
            panic!("another response")
        };
        handles[0]
    }
}

/// Resident memory in bytes.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn time_of_a_search(cluster: &Cluster, actor: &Actor, keys: u64) -> Duration {
    const SEARCHES: u32 = 20_000;
    let start = Instant::now();
    for search in 0..u64::from(SEARCHES) {
        let number = search.wrapping_mul(7_919) % keys;
        let template =
            Template::new().with_number(A::Class, 4).with_octets(A::Label, format!("application-key-{number:07}"));
        let (found, more) = cluster.hsm.find(actor, &template, ObjectHandle(0), 10).unwrap();
        assert!(found.len() == 1 && !more);
    }
    start.elapsed() / SEARCHES
}

#[test]
#[ignore = "takes a gigabyte; run it alone to see the figures"]
fn a_million_keys_take_under_700_bytes_each_and_slow_nothing_down() {
    const KEYS: u64 = 1_000_000;
    let (mut cluster, session) = Cluster::active();
    let actor = cluster.hsm.session(session, STAMP).unwrap().actor;
    let before = memory();
    let mut first = (Duration::ZERO, Duration::ZERO);
    let (mut start, mut slowest) = (Instant::now(), Duration::ZERO);
    for number in 0..KEYS {
        cluster.key(session, &actor, number);
        if number + 1 == 1_000 {
            first = (start.elapsed() / 1_000, time_of_a_search(&cluster, &actor, 1_000));
        }
        if (number + 1) % 100_000 == 0 {
            slowest = start.elapsed() / 100_000;
            start = Instant::now();
        }
    }
    let each = (memory() - before) / KEYS;
    let search = time_of_a_search(&cluster, &actor, KEYS);
    println!("bytes of memory for each key: {each}");
    println!("creation: {:?} at first, {slowest:?} at a million", first.0);
    println!("search by class and label: {:?} among 1,000, {search:?} among a million", first.1);
    let start = Instant::now();
    cluster.hsm.state_hash();
    println!("state hash: {:?}", start.elapsed());
    assert!(each < 700, "{each} bytes");
    assert!(search < first.1 * 5, "{search:?}");
}

//! Many threads on few connections: every call is answered once, with its own answer.
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

mod peer;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hsm_client::{CallError, Cluster, ClusterConfiguration};
use hsm_protocol::{Role, wire};
use peer::certificates::{Authority, TlsOptions, server_configuration};
use peer::{Answer, Peer, World, counted_change, echo, echoed};

/// A small generator: the same numbers in each run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Delays one request in 400 and cuts the connection at one in `cut_every`, before or after doing it.
fn unreliable(cut_every: u64) -> Arc<World> {
    let counter = AtomicU64::new(0);
    World::scripted(move |_, request| {
        let mut number = Numbers(counter.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        number.next();
        let dice = number.next();
        let data = match &request.body {
            Some(wire::request::Body::Operate(operate)) => Some(operate.data.clone()),
            Some(wire::request::Body::CreateUser(_)) => None,
            _ => return None,
        };
        if dice.is_multiple_of(cut_every) {
            return Some(Answer::Cut(None));
        }
        match data {
            Some(data) if dice % 400 == 1 => Some(Answer::After(
                Duration::from_micros(dice % 5000),
                wire::reply::Body::Bytes(wire::BytesReply { data, iv: Vec::new() }),
            )),
            _ => None,
        }
    })
}

fn storm(configuration: ClusterConfiguration, world: &World, threads: u64, calls: u64) {
    let cluster = Cluster::new(configuration);
    let login = cluster.log_in("user", Role::CryptoUser, b"password").unwrap();
    let answered = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (cluster, login, answered) = (&cluster, &login, &answered);
            scope.spawn(move || {
                let mut numbers = Numbers(thread + 1);
                for call in 0..calls {
                    let label = format!("thread {thread} call {call}");
                    if numbers.next().is_multiple_of(50) {
                        let change = cluster.change(Some(login), &|_| counted_change(&label)).unwrap();
                        assert!(matches!(change, wire::reply::Body::Done(_)));
                    } else {
                        let mut data = label.clone().into_bytes();
                        data.resize(16 + usize::try_from(numbers.next() % 300).unwrap(), b'.');
                        let answer = cluster.call(Some(login), &|_| echo(&data)).unwrap();
                        assert_eq!(echoed(answer), data, "another call's answer");
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(answered.load(Ordering::Relaxed), threads * calls);
    let done = world.done.lock().unwrap();
    assert!(done.values().all(|&times| times == 1), "a change was done more than once");
    assert!(!done.is_empty());
    println!("{:?}, {} attaches", cluster.counters(), world.attaches.load(Ordering::Relaxed));
}

#[test]
fn each_of_320000_calls_gets_its_own_answer_over_a_unix_socket_that_is_cut_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let world = unreliable(3000);
    let peer = Peer::on_socket(&folder.path().join("s"), &world);
    storm(peer.configuration(), &world, 32, 10_000);
    assert!(world.connections.load(Ordering::Relaxed) > 20, "the peer never cut");
}

#[test]
fn each_of_160000_calls_gets_its_own_answer_over_tls_that_is_cut_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("ca");
    let tls = server_configuration(&authority.sign(|_| {}), &TlsOptions::default());
    let world = unreliable(4000);
    let peer = Peer::on_port("127.0.0.1:0", &world, tls);
    let mut configuration = peer.configuration();
    configuration.trust_anchor = Some(authority.write_anchor(folder.path()));
    storm(configuration, &world, 32, 5_000);
    assert!(world.connections.load(Ordering::Relaxed) > 20, "the peer never cut");
}

#[test]
fn several_threads_share_writes() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::new();
    let peer = Peer::on_socket(&folder.path().join("s"), &world);
    let cluster = Cluster::new(peer.configuration());
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| (0..2000).for_each(|_| drop(cluster.call(None, &|_| echo(b"x")).unwrap())));
        }
    });
    let counters = cluster.counters();
    assert!(counters.frames_written >= 32_000);
    // How many share depends on what else the machine does: `throughput.rs` measures that. Here: some do.
    assert!(counters.frames_written > counters.writes, "{counters:?}");
    assert!(counters.connections <= 2, "{counters:?}");
}

#[test]
fn one_thread_uses_one_connection_and_never_sleeps_at_a_word() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::new();
    let peer = Peer::on_socket(&folder.path().join("s"), &world);
    let cluster = Cluster::new(peer.configuration());
    (0..2000).for_each(|_| drop(cluster.call(None, &|_| echo(b"x")).unwrap()));
    let counters = cluster.counters();
    assert_eq!((counters.connections, counters.sleeps), (1, 0));
    assert_eq!(counters.frames_written, 2001);
}

#[test]
fn large_requests_and_large_answers_at_once_do_not_lock_each_other_out() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::new();
    let peer = Peer::on_socket(&folder.path().join("s"), &world);
    let mut configuration = peer.configuration();
    configuration.call_timeout = Duration::from_secs(60);
    let cluster = Cluster::new(configuration);
    std::thread::scope(|scope| {
        for thread in 0..8u8 {
            let cluster = &cluster;
            scope.spawn(move || {
                for round in 0..10u8 {
                    let data = vec![thread ^ round; 1024 * 1024];
                    assert!(echoed(cluster.call(None, &|_| echo(&data)).unwrap()) == data);
                }
            });
        }
    });
    assert_eq!(world.connections.load(Ordering::Relaxed), cluster.counters().connections);
}

#[test]
fn a_call_without_an_answer_ends_at_its_deadline_and_its_late_answer_harms_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::scripted(|_, request| match &request.body {
        Some(wire::request::Body::Operate(operate)) if operate.data == b"late" => Some(Answer::After(
            Duration::from_millis(400),
            wire::reply::Body::Bytes(wire::BytesReply { data: b"late".to_vec(), iv: Vec::new() }),
        )),
        _ => None,
    });
    let peer = Peer::on_socket(&folder.path().join("s"), &world);
    let mut configuration = peer.configuration();
    configuration.call_timeout = Duration::from_millis(200);
    let cluster = Cluster::new(configuration);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let begin = Instant::now();
                    let error = cluster.call(None, &|_| echo(b"late")).err().unwrap();
                    assert!(matches!(error, CallError::TimedOut { .. }), "{error}");
                    let waited = begin.elapsed();
                    assert!(waited >= Duration::from_millis(200) && waited < Duration::from_millis(900), "{waited:?}");
                }
            });
            scope.spawn(|| {
                let begin = Instant::now();
                while begin.elapsed() < Duration::from_millis(1300) {
                    assert_eq!(echoed(cluster.call(None, &|_| echo(b"prompt")).unwrap()), b"prompt");
                }
            });
        }
    });
    assert!(cluster.counters().connections <= 3, "late answers must not cost a connection");
}

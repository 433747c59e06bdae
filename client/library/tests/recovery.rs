//! HSMs that are busy, slow, killed and restarted: the application notices time and nothing else.
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

mod peer;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use hsm_client::{CallError, Cluster, ClusterConfiguration, With};
use hsm_protocol::limits::REPLAY_LIMIT;
use hsm_protocol::wire::{self, mechanism, reply, request};
use hsm_protocol::{ErrorCode, Role};
use peer::{Answer, Peer, World, counted_change, echo, echoed, failure};

fn is_operate(request: &wire::Request) -> bool {
    matches!(request.body, Some(request::Body::Operate(_)))
}

fn is_change(request: &wire::Request) -> bool {
    matches!(request.body, Some(request::Body::CreateUser(_)))
}

#[test]
fn a_killed_and_restarted_hsm_costs_time_and_neither_login_nor_handle() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let world = World::new();
    let mut peer = Some(Peer::on_socket(&path, &world));
    let cluster = Cluster::new(peer.as_ref().unwrap().configuration());
    let login = cluster.log_in("User", Role::CryptoUser, b"password").unwrap();
    assert_eq!((login.name(), login.role()), ("user", Role::CryptoUser));
    for round in 0..5 {
        drop(peer.take());
        let restart = {
            let (path, world) = (path.clone(), Arc::clone(&world));
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(200));
                Peer::on_socket(&path, &world)
            })
        };
        let label = format!("round {round}");
        drop(cluster.change(Some(&login), &|_| counted_change(&label)).unwrap());
        assert_eq!(echoed(cluster.call(Some(&login), &|_| echo(b"x")).unwrap()), b"x");
        peer = Some(restart.join().unwrap());
    }
    assert!(world.done.lock().unwrap().values().all(|&times| times == 1));
    assert_eq!(world.sessions.lock().unwrap().len(), 1);
    cluster.log_out(login).unwrap();
    assert_eq!(world.sessions.lock().unwrap().len(), 0);
}

#[test]
fn a_dead_cluster_costs_every_thread_one_deadline_and_names_each_address() {
    let folder = tempfile::tempdir().unwrap();
    let mut configuration = ClusterConfiguration::new("dead");
    configuration.unix_socket = Some(folder.path().join("nobody"));
    configuration.call_timeout = Duration::from_millis(600);
    let cluster = Cluster::new(configuration);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let error = cluster.call(None, &|_| echo(b"x")).err().unwrap();
                let CallError::Unreachable { attempts, .. } = &error else { panic!("{error}") };
                assert!(attempts[0].address.ends_with("nobody"), "{error}");
            });
        }
    });
    assert!(begin.elapsed() < Duration::from_millis(1500), "{:?}", begin.elapsed());
}

#[test]
fn the_next_address_serves_when_one_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let authority = peer::certificates::Authority::new("ca");
    let tls = peer::certificates::server_configuration(&authority.sign(|_| {}), &Default::default());
    let world = World::new();
    let peer = Peer::on_port("127.0.0.1:0", &world, tls);
    let mut configuration = peer.configuration();
    configuration.trust_anchor = Some(authority.write_anchor(folder.path()));
    configuration.unix_socket = Some(folder.path().join("nobody"));
    configuration.addresses.insert(0, "127.0.0.1:1".to_owned());
    let cluster = Cluster::new(configuration);
    assert_eq!(echoed(cluster.call(None, &|_| echo(b"x")).unwrap()), b"x");
}

#[test]
fn busy_and_not_ready_are_asked_again_until_the_deadline_and_then_told() {
    let folder = tempfile::tempdir().unwrap();
    let times = AtomicU32::new(0);
    let world = World::scripted(move |_, request| {
        if !is_operate(request) {
            return None;
        }
        match times.fetch_add(1, Ordering::Relaxed) {
            0 => Some(Answer::Now(failure(ErrorCode::Busy))),
            1 => Some(Answer::Now(failure(ErrorCode::NotReady))),
            _ => None,
        }
    });
    let peer = Peer::on_socket(&folder.path().join("s"), &world);
    let mut configuration = peer.configuration();
    configuration.call_timeout = Duration::from_millis(500);
    let cluster = Cluster::new(configuration);
    assert_eq!(echoed(cluster.call(None, &|_| echo(b"x")).unwrap()), b"x");
    world.set_script(|_, request| is_operate(request).then(|| Answer::Now(failure(ErrorCode::Busy))));
    let begin = Instant::now();
    let error = cluster.call(None, &|_| echo(b"x")).err().unwrap();
    assert_eq!(error.code(), Some(ErrorCode::Busy));
    assert!(begin.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_refusal_and_a_login_after_wrong_passwords_are_told_at_once_and_one_among_many_waits() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::new();
    let peer = Peer::on_socket(&folder.path().join("s"), &world);
    let cluster = Cluster::new(peer.configuration());
    let refused = |name: &str| cluster.log_in(name, Role::CryptoUser, b"wrong").err().unwrap().code();
    assert_eq!(refused("user"), Some(ErrorCode::LoginRefused));
    assert_eq!(refused("no such: name"), Some(ErrorCode::LoginRefused));
    world.set_script(|_, request| match request.body {
        Some(request::Body::Login(_)) => Some(Answer::Now(reply::Body::Failure(wire::Failure {
            code: ErrorCode::LoginDelayed as u32,
            retry_after_milliseconds: 1000,
            subject: 0,
        }))),
        _ => None,
    });
    let begin = Instant::now();
    let error = cluster.log_in("user", Role::CryptoUser, b"password").err().unwrap();
    assert_eq!((error.code(), error.subject()), (Some(ErrorCode::LoginDelayed), 1000));
    assert!(begin.elapsed() < Duration::from_millis(900));
    let times = AtomicU32::new(0);
    world.set_script(move |_, request| match request.body {
        Some(request::Body::Login(_)) if times.fetch_add(1, Ordering::Relaxed) < 2 => {
            Some(Answer::Now(reply::Body::Failure(wire::Failure {
                code: ErrorCode::LoginDelayed as u32,
                retry_after_milliseconds: 50,
                subject: 0,
            })))
        }
        _ => None,
    });
    let begin = Instant::now();
    cluster.log_in("user", Role::CryptoUser, b"password").unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(100));
}

#[test]
fn an_unknown_outcome_is_resolved_under_the_same_number() {
    let folder = tempfile::tempdir().unwrap();
    let sequences = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&sequences);
    let world = World::scripted(move |_, request| {
        if !is_change(request) {
            return None;
        }
        let mut seen = seen.lock().unwrap();
        seen.push(request.sequence);
        (seen.len() < 3).then(|| Answer::Now(failure(ErrorCode::Unknown)))
    });
    let peer = Peer::on_socket(&folder.path().join("s"), &world);
    let cluster = Cluster::new(peer.configuration());
    let login = cluster.log_in("user", Role::CryptoUser, b"password").unwrap();
    drop(cluster.change(Some(&login), &|_| counted_change("a")).unwrap());
    drop(cluster.change(Some(&login), &|_| counted_change("b")).unwrap());
    assert_eq!(*sequences.lock().unwrap(), [1, 1, 1, 2]);
    assert_eq!(world.lowest_unanswered_seen.load(Ordering::Relaxed), 2);
}

#[test]
fn a_change_without_a_login_is_never_sent_twice() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::scripted(|_, request| is_change(request).then_some(Answer::Cut(None)));
    let peer = Peer::on_socket(&folder.path().join("s"), &world);
    let cluster = Cluster::new(peer.configuration());
    let error = cluster.change(None, &|_| counted_change("once")).err().unwrap();
    assert!(matches!(error, CallError::OutcomeUnknown { .. }), "{error}");
    assert_eq!(world.done.lock().unwrap().get("once"), Some(&1));
}

#[test]
fn a_session_object_that_the_hsm_lacks_is_sent_along_the_second_time() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::scripted(|_, request| match &request.body {
        Some(request::Body::Operate(operate)) if operate.data == b"reference" => {
            Some(Answer::Now(failure(ErrorCode::SessionObjectUnknown)))
        }
        _ => None,
    });
    let peer = Peer::on_socket(&folder.path().join("s"), &world);
    let cluster = Cluster::new(peer.configuration());
    let make = |with: With| echo(if with.sealed_objects { b"sealed object" } else { b"reference" });
    assert_eq!(echoed(cluster.call(None, &make).unwrap()), b"sealed object");
    let stubborn = cluster.call(None, &|_| echo(b"reference")).err().unwrap();
    assert_eq!(stubborn.code(), Some(ErrorCode::SessionObjectUnknown));
}

#[test]
fn a_login_that_one_hsm_has_forgotten_is_attached_again_and_one_that_has_ended_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let times = AtomicU32::new(0);
    let world = World::scripted(move |_, request| {
        let first = is_operate(request) && times.fetch_add(1, Ordering::Relaxed) == 0;
        first.then(|| Answer::Now(failure(ErrorCode::NotLoggedIn)))
    });
    let peer = Peer::on_socket(&folder.path().join("s"), &world);
    let cluster = Cluster::new(peer.configuration());
    let login = cluster.log_in("user", Role::CryptoUser, b"password").unwrap();
    assert_eq!(echoed(cluster.call(Some(&login), &|_| echo(b"x")).unwrap()), b"x");
    assert_eq!(world.attaches.load(Ordering::Relaxed), 2);
    // At the begin of an epoch an HSM forgets the logins of all connections, and the call may meet one after the other.
    let times = AtomicU32::new(0);
    world.set_script(move |_, request| {
        let forgotten = is_operate(request) && times.fetch_add(1, Ordering::Relaxed) < 2;
        forgotten.then(|| Answer::Now(failure(ErrorCode::NotLoggedIn)))
    });
    assert_eq!(echoed(cluster.call(Some(&login), &|_| echo(b"x")).unwrap()), b"x");
    world.set_script(|_, request| is_operate(request).then(|| Answer::Now(failure(ErrorCode::NotLoggedIn))));
    let error = cluster.call(Some(&login), &|_| echo(b"x")).err().unwrap();
    assert_eq!(error.code(), Some(ErrorCode::NotLoggedIn));
    world.sessions.lock().unwrap().clear();
    let error = cluster.call(Some(&login), &|_| echo(b"x")).err().unwrap();
    assert_eq!(error.code(), Some(ErrorCode::TokenRefused));
    cluster.log_out(login).unwrap();
}

#[test]
fn a_token_that_was_exchanged_is_the_one_that_is_shown_from_then_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let world = World::new();
    let peer = Peer::on_socket(&path, &world);
    let cluster = Cluster::new(peer.configuration());
    let login = cluster.log_in("app", Role::CryptoUser, b"password").unwrap();
    world.exchanges_tokens.store(true, Ordering::Relaxed);
    drop(cluster.call(Some(&login), &|_| echo(b"x")).unwrap());
    drop(peer);
    // The old token is void by now, as it is when the keys of its epoch are destroyed.
    let peer = Peer::on_socket(&path, &world);
    drop(cluster.call(Some(&login), &|_| echo(b"x")).unwrap());
    drop(peer);
}

#[test]
fn a_login_is_attached_once_however_many_threads_begin_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::new();
    let peer = Peer::on_socket(&folder.path().join("s"), &world);
    let cluster = Cluster::new(peer.configuration());
    let login = cluster.log_in("user", Role::CryptoUser, b"password").unwrap();
    std::thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| drop(cluster.call(Some(&login), &|_| echo(b"x")).unwrap()));
        }
    });
    assert!(world.attaches.load(Ordering::Relaxed) <= world.connections.load(Ordering::Relaxed));
}

#[test]
fn what_was_told_once_is_asked_for_ever_after_until_the_incarnation_changes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let world = World::new();
    let peer = Peer::on_socket(&path, &world);
    let cluster = Cluster::new(peer.configuration());
    world.index.store(500, Ordering::Relaxed);
    drop(cluster.call(None, &|_| echo(b"x")).unwrap());
    world.index.store(3, Ordering::Relaxed);
    drop(cluster.call(None, &|_| echo(b"x")).unwrap());
    assert_eq!(world.min_index_seen.swap(0, Ordering::Relaxed), 500);
    drop(peer);
    *world.incarnation.lock().unwrap() = vec![2; 16];
    let peer = Peer::on_socket(&path, &world);
    drop(cluster.call(None, &|_| echo(b"x")).unwrap());
    assert!(world.min_index_seen.load(Ordering::Relaxed) <= 3);
    assert_eq!(cluster.hello().unwrap().incarnation, vec![2; 16]);
    drop(peer);
}

#[test]
fn hello_and_mechanisms_are_asked_once() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::new();
    let peer = Peer::on_socket(&folder.path().join("s"), &world);
    let cluster = Cluster::new(peer.configuration());
    assert_eq!(cluster.hello().unwrap().label, "peer");
    assert_eq!(cluster.mechanisms().unwrap().len(), 1);
    let requests = world.requests.load(Ordering::Relaxed);
    assert_eq!(cluster.hello().unwrap().label, "peer");
    assert_eq!(cluster.mechanisms().unwrap().len(), 1);
    assert_eq!(world.requests.load(Ordering::Relaxed), requests);
}

// ---- operations in parts ----

fn gcm(generate_iv: bool) -> Box<dyn Fn(With) -> wire::Operate + Send + Sync> {
    Box::new(move |_| {
        let gcm = wire::GcmParameters { generate_iv, tag_bits: 128, ..Default::default() };
        let parameters = Some(mechanism::Parameters::Gcm(gcm));
        wire::Operate { operation: 3, mechanism: Some(wire::Mechanism { kind: 1, parameters }), ..Default::default() }
    })
}

#[test]
fn an_operation_in_parts_goes_on_where_it_was_on_another_connection_with_the_same_iv() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let world = World::new();
    let mut peer = Some(Peer::on_socket(&path, &world));
    let cluster = Cluster::new(peer.as_ref().unwrap().configuration());
    let mut stream = cluster.stream(None, gcm(true));
    assert_eq!(world.requests.load(Ordering::Relaxed), 0, "beginning must not cost a round trip");
    let (mut input, mut output, mut iv) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..20u8 {
        if round % 5 == 4 {
            drop(peer.take());
            peer = Some(Peer::on_socket(&path, &world));
        }
        let piece = vec![round; 1 + usize::from(round) * 37];
        let out = stream.update(&piece).unwrap();
        input.extend_from_slice(&piece);
        output.extend_from_slice(&out.data);
        if iv.is_empty() {
            iv = out.iv;
        }
    }
    drop(peer.take());
    let _peer = Peer::on_socket(&path, &world);
    output.extend_from_slice(&stream.finish(&[]).unwrap().data);
    assert_eq!(iv, b"iv of connection 1");
    input.extend_from_slice(&iv);
    assert_eq!(output, input, "the peer gives its input and then the IV that it used");
}

#[test]
fn input_beyond_what_is_kept_is_served_but_its_loss_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let world = World::new();
    let peer = Peer::on_socket(&path, &world);
    let cluster = Cluster::new(peer.configuration());
    let mut stream = cluster.stream(None, gcm(false));
    let data = vec![7; REPLAY_LIMIT * 2 + 16];
    assert_eq!(stream.update(&data).unwrap().data, data);
    drop(peer);
    let _peer = Peer::on_socket(&path, &world);
    let error = stream.update(&[1]).err().unwrap();
    assert!(matches!(error, CallError::StreamLost { input } if input == data.len() as u64), "{error}");
    assert_eq!(stream.update(&[1]).err().unwrap().code(), Some(ErrorCode::StreamUnknown));
}

#[test]
fn input_at_the_limit_is_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let world = World::new();
    let peer = Peer::on_socket(&path, &world);
    let cluster = Cluster::new(peer.configuration());
    let mut stream = cluster.stream(None, gcm(false));
    for _ in 0..REPLAY_LIMIT / 1024 {
        drop(stream.update(&[9; 1024]).unwrap());
    }
    drop(peer);
    let _peer = Peer::on_socket(&path, &world);
    assert_eq!(stream.finish(&[]).unwrap().data, b"");
}

#[test]
fn a_dropped_operation_is_abandoned_and_a_failed_one_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::new();
    let peer = Peer::on_socket(&folder.path().join("s"), &world);
    let cluster = Cluster::new(peer.configuration());
    let mut stream = cluster.stream(None, gcm(false));
    drop(stream.update(&[1; 20]).unwrap());
    assert_eq!(world.streams.lock().unwrap().len(), 1);
    drop(stream);
    assert_eq!(world.streams.lock().unwrap().len(), 0);
    world.set_script(|_, request| {
        matches!(request.body, Some(request::Body::Stream(_))).then(|| Answer::Now(failure(ErrorCode::DataLength)))
    });
    let mut stream = cluster.stream(None, gcm(false));
    assert_eq!(stream.update(&[1]).err().unwrap().code(), Some(ErrorCode::DataLength));
    assert_eq!(stream.update(&[1]).err().unwrap().code(), Some(ErrorCode::StreamUnknown));
}

#[test]
fn a_hung_hsm_is_left_and_the_next_call_connects_anew() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::scripted(|_, request| is_operate(request).then_some(Answer::Never));
    let peer = Peer::on_socket(&folder.path().join("s"), &world);
    let mut configuration = peer.configuration();
    configuration.call_timeout = Duration::from_millis(3200);
    let cluster = Cluster::new(configuration);
    let error = cluster.call(None, &|_| echo(b"x")).err().unwrap();
    assert!(matches!(error, CallError::TimedOut { .. }), "{error}");
    world.set_script(|_, _| None);
    assert_eq!(echoed(cluster.call(None, &|_| echo(b"x")).unwrap()), b"x");
    assert_eq!(cluster.counters().connections, 2);
}

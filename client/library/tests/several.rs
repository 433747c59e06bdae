//! Several HSMs: one is killed, stops answering, lags, is busy, comes, goes; the application notices time and nothing else.
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

mod peer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hsm_client::{CallError, Cluster, Login, PeerFault, With};
use hsm_protocol::limits::REPLAY_LIMIT;
use hsm_protocol::wire::{self, mechanism, request};
use hsm_protocol::{ErrorCode, Role};
use peer::hsms::Hsms;
use peer::{Answer, Peer, World, counted_change, echo, echoed};

/// A dead HSM is left within this, by design.
const LEFT_WITHIN: Duration = Duration::from_millis(500);

/// For connecting to another HSM and for threads that get no core, on a busy machine.
const GRACE: Duration = Duration::from_millis(250);

fn call(cluster: &Cluster, login: Option<&Login>) {
    assert_eq!(echoed(cluster.call(login, &|_| echo(b"x")).unwrap()), b"x");
}

/// Threads that call without a pause, a change now and then, while `events` happen. Gives the longest time of a call.
fn under_load(hsms: &mut Hsms, cluster: &Cluster, threads: usize, events: impl FnOnce(&mut Hsms)) -> Duration {
    let login = cluster.log_in("user", Role::CryptoUser, b"password").unwrap();
    let (stop, longest) = (AtomicBool::new(false), AtomicU64::new(0));
    let world = Arc::clone(&hsms.world);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (stop, longest, login) = (&stop, &longest, &login);
            scope.spawn(move || {
                for number in 0_u64.. {
                    let begin = Instant::now();
                    if number % 20 == 7 {
                        let label = format!("thread {thread} call {number}");
                        drop(cluster.change(Some(login), &|_| counted_change(&label)).unwrap());
                    } else {
                        call(cluster, Some(login));
                    }
                    longest.fetch_max(u64::try_from(begin.elapsed().as_micros()).unwrap(), Ordering::Relaxed);
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    std::thread::sleep(Duration::from_micros(500));
                }
            });
        }
        // Also when an event fails, or the threads would never end.
        let _stop = StopAtEnd(&stop);
        events(hsms);
    });
    assert!(world.done.lock().unwrap().values().all(|&times| times == 1), "a change was done more than once");
    assert!(!world.done.lock().unwrap().is_empty());
    Duration::from_micros(longest.into_inner())
}

struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn pause(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

// ---- the roster ----

#[test]
fn one_reachable_address_is_enough_and_the_roster_tells_of_the_others() {
    let mut hsms = Hsms::new(3);
    let mut configuration = hsms.configuration();
    configuration.addresses.insert(0, "127.0.0.1:1".to_owned());
    let cluster = Cluster::new(configuration);
    under_load(&mut hsms, &cluster, 9, |_| pause(300));
    assert!(hsms.served().iter().all(|&served| served > 20));
    assert_eq!(hsms.world.roster_questions.load(Ordering::Relaxed), 1, "it is asked once for each version");
}

#[test]
fn new_members_are_used_without_a_restart_and_removed_ones_are_left() {
    let mut hsms = Hsms::new(2);
    let cluster = Cluster::new(hsms.configuration());
    under_load(&mut hsms, &cluster, 8, |hsms| {
        pause(200);
        hsms.start_another("zone-9");
        hsms.served();
        pause(100);
        assert_eq!(hsms.served()[2], 0, "it is no member yet");
        hsms.tell_roster(&[0, 1, 2]);
        pause(1500);
        assert!(hsms.served().iter().all(|&served| served > 20));
        hsms.tell_roster(&[1, 2]);
        pause(1500);
        hsms.served();
        pause(200);
        let served = hsms.served();
        assert!(served[0] == 0 && served[1] > 20 && served[2] > 20, "{served:?}");
    });
    assert!(hsms.world.roster_questions.load(Ordering::Relaxed) <= 4);
}

#[test]
fn when_every_member_is_gone_the_addresses_of_the_configuration_are_tried() {
    let mut hsms = Hsms::new(2);
    hsms.tell_roster(&[1]);
    let cluster = Cluster::new(hsms.configuration());
    // The address of the configuration is a removed member's: refused by its type, and there is no other.
    let error = cluster.call(None, &|_| echo(b"x")).err();
    assert!(error.is_none(), "{error:?}");
    assert_eq!(hsms.served(), [0, 1]);
    hsms.kill(1);
    hsms.tell_roster(&[0]);
    call(&cluster, None);
    assert_eq!(hsms.served(), [1, 0]);
}

#[test]
fn an_hsm_of_another_cluster_is_refused_by_its_type() {
    let mut hsms = Hsms::new(2);
    let mut configuration = hsms.configuration();
    configuration.addresses.push(hsms.address(1).to_owned());
    configuration.call_timeout = Duration::from_millis(800);
    let cluster = Cluster::new(configuration);
    *hsms.faces[1].cluster.lock().unwrap() = vec![8; 16];
    hsms.world.roster.store(0, Ordering::Relaxed);
    // Whichever answers first is the cluster; the other one is refused.
    call(&cluster, None);
    let first = usize::from(hsms.served()[0] == 0);
    hsms.kill(first);
    let error = cluster.call(None, &|_| echo(b"x")).err().unwrap();
    assert!(error.to_string().contains("belongs to another cluster"), "{error}");
    assert_eq!(hsms.served(), [0, 0]);
}

#[test]
fn an_hsm_of_another_incarnation_is_refused_while_the_known_one_serves() {
    let hsms = Hsms::new(2);
    *hsms.faces[1].incarnation.lock().unwrap() = Some(vec![2; 16]);
    let cluster = Cluster::new(hsms.configuration());
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| (0..50).for_each(|_| call(&cluster, None)));
        }
    });
    assert_eq!(hsms.served(), [300, 0]);
    let mut other = hsms.configuration();
    other.addresses = vec![hsms.address(0).to_owned()];
    *hsms.faces[0].cluster.lock().unwrap() = vec![3; 16];
    let world = World::new();
    let foreign = Peer::on_socket(&hsms.folder.path().join("s"), &world);
    drop(foreign);
    other.call_timeout = Duration::from_millis(400);
    // A process that begins anew believes whom it meets first.
    call(&Cluster::new(other), None);
}

#[test]
fn a_foreign_cluster_at_the_only_address_is_told_at_once() {
    let mut hsms = Hsms::new(1);
    let cluster = Cluster::new(hsms.configuration());
    call(&cluster, None);
    hsms.kill(0);
    *hsms.faces[0].cluster.lock().unwrap() = vec![8; 16];
    hsms.restart(0);
    let begin = Instant::now();
    let error = cluster.call(None, &|_| echo(b"x")).err().unwrap();
    assert!(matches!(error, CallError::Peer { fault: PeerFault::OtherCluster, .. }), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(2));
}

// ---- loss ----

#[test]
fn a_killed_hsm_costs_eight_threads_no_error_and_less_than_half_a_second() {
    let mut hsms = Hsms::new(3);
    let cluster = Cluster::new(hsms.configuration());
    let longest = under_load(&mut hsms, &cluster, 8, |hsms| {
        for victim in [0, 2] {
            pause(300);
            hsms.kill(victim);
            pause(500);
            hsms.served();
            pause(200);
            assert!(hsms.served().iter().sum::<u64>() > 50);
            hsms.restart(victim);
            pause(1500);
        }
        assert!(hsms.served().iter().all(|&served| served > 0), "whoever returns is used again");
    });
    assert!(longest < LEFT_WITHIN + GRACE, "{longest:?}");
}

#[test]
fn an_hsm_that_stops_answering_is_left_within_half_a_second() {
    let mut hsms = Hsms::new(3);
    let cluster = Cluster::new(hsms.configuration());
    let longest = under_load(&mut hsms, &cluster, 8, |hsms| {
        pause(300);
        hsms.freeze(1, true);
        pause(800);
        hsms.served();
        pause(200);
        let served = hsms.served();
        assert!(served[0] > 20 && served[1] == 0 && served[2] > 20, "{served:?}");
        hsms.freeze(1, false);
        pause(4000);
        hsms.served();
        pause(200);
        let served = hsms.served();
        assert!(served[1] > 20, "whoever returns is used again: {served:?}");
    });
    assert!(longest < LEFT_WITHIN + GRACE, "{longest:?}");
}

#[test]
fn a_single_thread_leaves_an_hsm_that_stops_answering_within_half_a_second() {
    let hsms = Hsms::new(2);
    let cluster = Cluster::new(hsms.configuration());
    let login = cluster.log_in("user", Role::CryptoUser, b"password").unwrap();
    call(&cluster, Some(&login));
    let victim = usize::from(hsms.served()[0] == 0);
    hsms.freeze(victim, true);
    let begin = Instant::now();
    drop(cluster.change(Some(&login), &|_| counted_change("once")).unwrap());
    assert!(begin.elapsed() < LEFT_WITHIN + GRACE, "{:?}", begin.elapsed());
    let begin = Instant::now();
    (0..100).for_each(|_| call(&cluster, Some(&login)));
    assert!(begin.elapsed() < LEFT_WITHIN + GRACE, "{:?}", begin.elapsed());
    hsms.freeze(victim, false);
    pause(100);
    assert_eq!(hsms.world.done.lock().unwrap().get("once"), Some(&1), "it was done once, by whomever");
}

#[test]
fn a_long_operation_is_not_mistaken_for_death() {
    let hsms = Hsms::new(2);
    hsms.faces.iter().for_each(|face| face.takes.store(1500, Ordering::Relaxed));
    let cluster = Cluster::new(hsms.configuration());
    call(&cluster, None);
    assert_eq!(hsms.served().iter().sum::<u64>(), 1, "it was not sent to another one");
    let connections = cluster.counters().connections;
    assert!(connections <= 6, "it is asked less and less often: {connections}");
}

#[test]
fn visits_to_an_hsm_that_says_nothing_cost_no_call_anything() {
    let hsms = Hsms::new(2);
    let cluster = Cluster::new(hsms.configuration());
    call(&cluster, None);
    // The first connection told of the others; the thread's own is known by the second call.
    hsms.served();
    call(&cluster, None);
    let victim = usize::from(hsms.served()[0] == 0);
    let before = hsms.connections()[victim];
    hsms.freeze(victim, true);
    call(&cluster, None);
    let (begin, mut slow) = (Instant::now(), 0);
    while begin.elapsed() < Duration::from_secs(4) {
        let start = Instant::now();
        call(&cluster, None);
        slow += u32::from(start.elapsed() > Duration::from_millis(150));
        pause(2);
    }
    // A blocked visit takes 200 ms, and there were three or more. One slow call may be the machine's.
    assert!(slow <= 1, "{slow} calls waited");
    // Not before now does it see who came: the question for a sign of life, and at least one visit.
    hsms.freeze(victim, false);
    let visited = (0..200).any(|_| {
        pause(10);
        hsms.connections()[victim] >= before + 2
    });
    assert!(visited, "it was not visited");
}

#[test]
fn when_all_are_dead_calls_wait_for_the_first_that_returns() {
    let mut hsms = Hsms::new(3);
    let cluster = Cluster::new(hsms.configuration());
    let longest = under_load(&mut hsms, &cluster, 8, |hsms| {
        pause(200);
        (0..3).for_each(|position| hsms.kill(position));
        pause(1000);
        hsms.restart(1);
        pause(600);
        hsms.served();
        pause(200);
        let served = hsms.served();
        assert!(served[0] == 0 && served[1] > 20 && served[2] == 0, "{served:?}");
    });
    assert!(longest > Duration::from_millis(900) && longest < Duration::from_secs(3), "{longest:?}");
}

#[test]
fn the_last_hsm_is_never_given_up_for_its_silence() {
    let mut hsms = Hsms::new(2);
    let cluster = Cluster::new(hsms.configuration());
    call(&cluster, None);
    hsms.kill(1);
    hsms.kill(1);
    hsms.faces[0].takes.store(1000, Ordering::Relaxed);
    hsms.served();
    (0..3).for_each(|_| call(&cluster, None));
    assert_eq!(hsms.served(), [3, 0]);
}

#[test]
fn processes_that_lose_an_hsm_spread_over_the_others_and_over_time() {
    let mut hsms = Hsms::new(3);
    let clusters: Vec<Cluster> = (0..64).map(|_| Cluster::new(hsms.configuration())).collect();
    let all_call = || {
        std::thread::scope(|scope| {
            clusters.iter().for_each(|cluster| drop(scope.spawn(move || (0..20).for_each(|_| call(cluster, None)))));
        });
    };
    all_call();
    let spread = |served: &[u64]| served.iter().all(|&served| served > 64 * 20 / 12);
    let served = hsms.served();
    assert!(spread(&served), "{served:?}");
    let victim = 1;
    let before = hsms.connections();
    hsms.kill(victim);
    all_call();
    let served = hsms.served();
    assert_eq!(served[victim], 0);
    assert!(spread(&[served[0], served[2]]), "{served:?}");
    for survivor in [0, 2] {
        let arrivals = hsms.faces[survivor].arrivals.lock().unwrap();
        let new = &arrivals[before[survivor]..];
        assert!(new.len() <= 40, "one more connection for each process at most: {}", new.len());
        if let (Some(first), Some(last)) = (new.first(), new.last()) {
            assert!(new.len() < 5 || *last - *first > Duration::from_millis(10), "they came all at once");
        }
    }
}

// ---- load ----

#[test]
fn a_slow_hsm_gets_fewer_calls_than_the_fast_ones() {
    let hsms = Hsms::new(3);
    let cluster = Cluster::new(hsms.configuration());
    call(&cluster, None);
    hsms.faces[1].takes.store(30, Ordering::Relaxed);
    hsms.served();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                while begin.elapsed() < Duration::from_millis(600) {
                    call(&cluster, None);
                }
            });
        }
    });
    let served = hsms.served();
    assert!(served[1] > 0 && served[0] > served[1] * 3 && served[2] > served[1] * 3, "{served:?}");
}

#[test]
fn one_thread_keeps_to_one_hsm_and_one_connection() {
    let hsms = Hsms::new(3);
    let cluster = Cluster::new(hsms.configuration());
    call(&cluster, None);
    // The first connection told of the others; the thread's own may be another one.
    (0..200).for_each(|_| call(&cluster, None));
    let served = hsms.served();
    assert_eq!(served.iter().filter(|&&served| served > 1).count(), 1, "{served:?}");
    assert!(cluster.counters().connections <= 2);
}

#[test]
fn the_own_zone_is_preferred_and_the_others_serve_when_it_is_dead() {
    let mut hsms = Hsms::new(3);
    let mut configuration = hsms.configuration();
    configuration.zone = Some("zone-2".to_owned());
    let cluster = Cluster::new(configuration);
    call(&cluster, None);
    hsms.served();
    under_load(&mut hsms, &cluster, 6, |hsms| {
        pause(200);
        let served = hsms.served();
        assert!(served[0] == 0 && served[1] == 0 && served[2] > 20, "{served:?}");
        hsms.kill(2);
        pause(600);
        let served = hsms.served();
        assert!(served[0] > 20 && served[1] > 20, "{served:?}");
        hsms.restart(2);
        pause(3000);
        hsms.served();
        pause(200);
        let served = hsms.served();
        assert!(served[0] == 0 && served[1] == 0 && served[2] > 20, "home again: {served:?}");
    });
}

#[test]
fn the_unix_socket_stays_preferred_and_the_others_serve_when_it_is_dead() {
    let hsms = Hsms::new(2);
    let path = hsms.folder.path().join("s");
    let local = Peer::on_socket_as(&path, &hsms.world, &hsms.faces[1]);
    let mut configuration = hsms.configuration();
    configuration.unix_socket = Some(path);
    configuration.zone = Some("zone-0".to_owned());
    let cluster = Cluster::new(configuration);
    (0..20).for_each(|_| call(&cluster, None));
    assert_eq!((hsms.served(), hsms.connections()), (vec![0, 20], vec![0, 1]));
    drop(local);
    // The same HSM is still there by TLS.
    (0..20).for_each(|_| call(&cluster, None));
    let served = hsms.served();
    assert_eq!(served.iter().sum::<u64>(), 20, "{served:?}");
}

// ---- HSMs that cannot serve now ----

#[test]
fn an_hsm_that_lags_sends_the_call_to_another_one() {
    let hsms = Hsms::new(2);
    let cluster = Cluster::new(hsms.configuration());
    let login = cluster.log_in("user", Role::CryptoUser, b"password").unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..20).for_each(|_| call(&cluster, Some(&login))));
        }
    });
    hsms.faces[1].stuck_at.store(hsms.world.index.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
    hsms.served();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..20).for_each(|_| call(&cluster, Some(&login))));
        }
    });
    assert_eq!(hsms.served(), [80, 0], "what this client was told is newer than what that HSM knows");
    assert!(begin.elapsed() < Duration::from_secs(1));
}

#[test]
fn busy_not_ready_and_isolated_of_one_hsm_are_never_told_while_another_serves() {
    for code in [ErrorCode::Busy, ErrorCode::NotReady, ErrorCode::Isolated, ErrorCode::Broken, ErrorCode::StorageFull] {
        let hsms = Hsms::new(2);
        hsms.faces[0].refuses.store(code as u32, Ordering::Relaxed);
        let cluster = Cluster::new(hsms.configuration());
        (0..10).for_each(|_| call(&cluster, None));
        assert_eq!(hsms.served(), [0, 10], "{code:?}");
    }
}

#[test]
fn isolation_of_all_is_told_at_the_deadline() {
    let hsms = Hsms::new(2);
    hsms.faces.iter().for_each(|face| face.refuses.store(ErrorCode::Isolated as u32, Ordering::Relaxed));
    let mut configuration = hsms.configuration();
    configuration.call_timeout = Duration::from_millis(500);
    let begin = Instant::now();
    let error = Cluster::new(configuration).call(None, &|_| echo(b"x")).err().unwrap();
    assert_eq!(error.code(), Some(ErrorCode::Isolated));
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
}

#[test]
fn a_session_object_is_presented_again_to_the_hsm_that_takes_over() {
    let world = World::scripted(|_, request| match &request.body {
        Some(request::Body::Operate(operate)) if operate.data == b"reference" => {
            Some(Answer::Now(peer::failure(ErrorCode::SessionObjectUnknown)))
        }
        _ => None,
    });
    let mut hsms = Hsms::in_world(2, &world);
    let cluster = Cluster::new(hsms.configuration());
    let make = |with: With| echo(if with.sealed_objects { b"sealed" } else { b"reference" });
    let login = cluster.log_in("user", Role::CryptoUser, b"password").unwrap();
    for victim in [0, 1] {
        assert_eq!(echoed(cluster.call(Some(&login), &make).unwrap()), b"sealed");
        hsms.kill(victim);
        assert_eq!(echoed(cluster.call(Some(&login), &make).unwrap()), b"sealed");
        hsms.restart(victim);
    }
}

// ---- outcomes ----

#[test]
fn an_outcome_is_called_unknown_only_where_a_change_may_have_been_done() {
    let world = World::scripted(|_, request| {
        let cut = matches!(request.body, Some(request::Body::CreateUser(_) | request::Body::Operate(_)));
        cut.then_some(Answer::Cut(None))
    });
    let mut hsms = Hsms::in_world(2, &world);
    let mut configuration = hsms.configuration();
    configuration.call_timeout = Duration::from_millis(700);
    let cluster = Cluster::new(configuration);
    let login = cluster.log_in("user", Role::CryptoUser, b"password").unwrap();
    let read = cluster.call(Some(&login), &|_| echo(b"x")).err().unwrap();
    assert!(matches!(read, CallError::Unreachable { .. }), "{read}");
    let bare = cluster.change(None, &|_| counted_change("b")).err().unwrap();
    assert!(matches!(bare, CallError::OutcomeUnknown { .. }), "{bare}");
    assert_eq!(world.done.lock().unwrap().get("b"), Some(&1));
    let change = std::thread::scope(|scope| {
        let change = scope.spawn(|| cluster.change(Some(&login), &|_| counted_change("a")).err().unwrap());
        pause(100);
        (0..2).for_each(|position| hsms.kill(position));
        change.join().unwrap()
    });
    assert!(matches!(change, CallError::OutcomeUnknown { .. }), "{change}");
    let never_sent = cluster.change(Some(&login), &|_| counted_change("c")).err().unwrap();
    assert!(matches!(never_sent, CallError::Unreachable { .. }), "{never_sent}");
}

// ---- operations in parts ----

fn gcm() -> Box<dyn Fn(With) -> wire::Operate + Send + Sync> {
    Box::new(|_| {
        let gcm = wire::GcmParameters { generate_iv: true, tag_bits: 128, ..Default::default() };
        let parameters = Some(mechanism::Parameters::Gcm(gcm));
        wire::Operate { operation: 3, mechanism: Some(wire::Mechanism { kind: 1, parameters }), ..Default::default() }
    })
}

#[test]
fn an_operation_in_parts_goes_on_at_another_hsm_with_the_same_iv() {
    let mut hsms = Hsms::new(2);
    let cluster = Cluster::new(hsms.configuration());
    let mut stream = cluster.stream(None, gcm());
    let (mut input, mut output, mut iv) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..12_u8 {
        let holder = usize::from(hsms.served()[0] == 0);
        match round {
            3 => hsms.kill(holder),
            5 => (0..2).for_each(|position| {
                hsms.kill(position);
                hsms.restart(position);
            }),
            7 => hsms.freeze(holder, true),
            9 => (0..2).for_each(|position| hsms.freeze(position, false)),
            _ => {}
        }
        let piece = vec![round; 100];
        let begin = Instant::now();
        let out = stream.update(&piece).unwrap();
        assert!(begin.elapsed() < LEFT_WITHIN + GRACE, "round {round}: {:?}", begin.elapsed());
        input.extend_from_slice(&piece);
        output.extend_from_slice(&out.data);
        if iv.is_empty() {
            iv = out.iv;
        }
    }
    output.extend_from_slice(&stream.finish(&[]).unwrap().data);
    input.extend_from_slice(&iv);
    assert_eq!(output, input, "the peer gives its input and then the IV that it used");
}

#[test]
fn an_operation_too_long_for_a_replay_waits_for_its_own_hsm_and_its_loss_is_told() {
    let mut hsms = Hsms::new(2);
    let cluster = Cluster::new(hsms.configuration());
    let mut stream = cluster.stream(None, gcm());
    let data = vec![7; REPLAY_LIMIT + 16];
    drop(stream.update(&data).unwrap());
    let holder = usize::from(hsms.served()[0] == 0);
    hsms.freeze(holder, true);
    std::thread::scope(|scope| {
        let feeding = scope.spawn(|| stream.update(&[8; 16]).map(|output| output.data.len()));
        // Others find it dead meanwhile.
        (0..8).for_each(|_| drop(scope.spawn(|| call(&cluster, None))));
        pause(1200);
        hsms.freeze(holder, false);
        assert_eq!(feeding.join().unwrap().unwrap(), 16, "it was frozen and not dead");
    });
    hsms.kill(holder);
    let error = stream.update(&[1; 16]).err().unwrap();
    assert!(matches!(error, CallError::StreamLost { .. }), "{error}");
}

//! What the library does to its process with several HSMs: no thread, nothing in a forked child, nothing left at the end.
//!
//! One test only, so that it is alone in its process: it counts threads and forks.
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]
#![expect(unsafe_code, reason = "fork, in a test")]

mod peer;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hsm_client::{CallError, Cluster};
use hsm_protocol::Role;
use peer::hsms::Hsms;
use peer::{echo, echoed};

fn entries(folder: &str) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

fn descriptors() -> usize {
    entries("/proc/self/fd")
}

fn threads() -> usize {
    entries("/proc/self/task")
}

/// Waits until `figure` is `wanted`: the peers' own threads and sockets end a moment after their connections.
fn settles(figure: fn() -> usize, wanted: usize) -> bool {
    (0..2000).any(|_| {
        std::thread::sleep(Duration::from_millis(1));
        figure() == wanted
    })
}

/// Runs `work` in a forked child and gives its exit status.
fn in_child(work: impl FnOnce() -> bool) -> i32 {
    // SAFETY: the child runs the code under test, which must bear it, and leaves by _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let good = work();
        // SAFETY: ends the child without running the test harness's exit handlers.
        unsafe { libc::_exit(i32::from(!good)) };
    }
    let mut status = 0;
    // SAFETY: waits for our own child.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    status
}

#[test]
fn with_several_hsms_no_thread_is_made_and_a_child_closes_its_copies_also_when_it_was_forked_in_the_midst_of_calls() {
    let mut hsms = Hsms::new(3);
    let configuration = hsms.configuration();
    let (threads_before, descriptors_before) = (threads(), descriptors());
    let cluster = Cluster::new(configuration.clone());
    let login = cluster.log_in("user", Role::CryptoUser, b"password").unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..9 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(echoed(cluster.call(Some(&login), &|_| echo(b"a")).unwrap()), b"a");
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
        }
        std::thread::sleep(Duration::from_millis(300));
        for round in 0..20 {
            // With an HSM lost in some rounds, and another one asked for a sign of life.
            match round {
                5 => hsms.kill(2),
                10 => hsms.restart(2),
                12 => hsms.freeze(1, true),
                16 => hsms.freeze(1, false),
                _ => {}
            }
            let status = in_child(|| {
                let mut good = matches!(cluster.call(Some(&login), &|_| echo(b"b")), Err(CallError::Forked));
                let before = descriptors();
                drop((cluster.clone(), login.clone()));
                good &= descriptors() < before;
                let own = Cluster::new(configuration.clone());
                good &= own.call(None, &|_| echo(b"c")).is_ok_and(|answer| echoed(answer) == b"c");
                good
            });
            assert_eq!(status, 0, "a check failed in the child of round {round}");
            std::thread::sleep(Duration::from_millis(50));
        }
        stop.store(true, Ordering::Relaxed);
    });
    cluster.log_out(login).unwrap();
    drop(cluster);
    assert!(settles(threads, threads_before), "a thread outlived the cluster");
    assert!(settles(descriptors, descriptors_before), "a descriptor outlived the cluster");
}

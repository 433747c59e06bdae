//! What the library does to the process that it lives in: no thread, nothing in a forked child.
//!
//! One test only, so that it is alone in its process: it counts threads and forks.
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]
#![expect(unsafe_code, reason = "fork, in a test")]

mod peer;

use hsm_client::{CallError, Cluster, With};
use hsm_protocol::{Role, wire};
use peer::certificates::{Authority, TlsOptions, server_configuration};
use peer::{Peer, World, echo, echoed};

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Waits until `figure` is `wanted`: the peer's own threads and sockets end a moment after their connections.
fn settles(figure: fn() -> usize, wanted: usize) -> bool {
    (0..2000).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(1));
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
fn no_thread_is_made_and_a_forked_child_closes_its_copies_without_a_byte() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("ca");
    let world = World::new();
    let tls = server_configuration(&authority.sign(|_| {}), &TlsOptions::default());
    let peer = Peer::on_port("127.0.0.1:0", &world, tls);
    let mut configuration = peer.configuration();
    configuration.trust_anchor = Some(authority.write_anchor(folder.path()));
    let (threads_before, descriptors_before) = (threads(), descriptors());

    let cluster = Cluster::new(configuration.clone());
    let login = cluster.log_in("user", Role::CryptoUser, b"password").unwrap();
    assert_eq!(echoed(cluster.call(Some(&login), &|_| echo(b"a")).unwrap()), b"a");
    // The peer's thread for the connection, and none of ours.
    assert_eq!(threads(), threads_before + 1);
    let begin = Box::new(|_: With| wire::Operate { operation: 1, ..Default::default() });
    let mut stream = cluster.stream(Some(&login), begin);
    assert_eq!(stream.update(&[1; 16]).unwrap().data, [1; 16]);

    for _ in 0..10 {
        let requests = world.requests.load(std::sync::atomic::Ordering::Relaxed);
        let status = in_child(|| {
            let mut good = cluster.forked();
            good &= matches!(cluster.call(Some(&login), &|_| echo(b"b")), Err(CallError::Forked));
            good &= matches!(cluster.change(Some(&login), &|_| echo(b"b")), Err(CallError::Forked));
            good &= matches!(cluster.hello(), Err(CallError::Forked));
            good &= matches!(cluster.log_in("user", Role::CryptoUser, b"password"), Err(CallError::Forked));
            good &= matches!(stream.update(&[2; 16]), Err(CallError::Forked));
            let before = descriptors();
            drop((cluster.clone(), login.clone()));
            // One TLS socket was inherited and is closed now.
            good &= descriptors() + 1 == before;
            drop(cluster.clone());
            good &= descriptors() + 1 == before;
            // A cluster of the child's own works.
            let own = Cluster::new(configuration.clone());
            good &= own.call(None, &|_| echo(b"c")).is_ok_and(|answer| echoed(answer) == b"c");
            good
        });
        assert_eq!(status, 0, "a check failed in the child");
        assert!(!cluster.forked());
        assert_eq!(echoed(cluster.call(Some(&login), &|_| echo(b"d")).unwrap()), b"d");
        // Hello and echo of the child's own connection, and our echo; nothing on the inherited one.
        assert_eq!(world.requests.load(std::sync::atomic::Ordering::Relaxed), requests + 3);
    }
    assert_eq!(cluster.counters().connections, 1, "the parent's connection suffered from its children");
    assert_eq!(stream.update(&[3; 16]).unwrap().data, [3; 16]);

    // A child that closes every descriptor and opens others: they must not be closed for it.
    let status = in_child(|| {
        for descriptor in 3..64 {
            // SAFETY: a child may close what it likes, as daemons do.
            unsafe { libc::close(descriptor) };
        }
        let files: Vec<_> = (0..40).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        drop((stream, login.clone(), cluster.clone()));
        files.iter().all(|file| file.metadata().is_ok())
    });
    assert_eq!(status, 0, "a descriptor that means something else was closed");

    cluster.log_out(login).unwrap();
    drop(cluster);
    assert!(settles(threads, threads_before), "a thread outlived the cluster");
    assert!(settles(descriptors, descriptors_before), "a descriptor outlived the cluster");
}

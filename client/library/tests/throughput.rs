//! Calls per second and what they cost, for those who change the connection. Not a gate: run it by
//! `cargo test --release -p hsm-client --test throughput -- --ignored --nocapture`.
//!
//! The peer signs with P-256 in a blocking thread per connection, in this process; the client's own cost is the CPU time
//! of its threads.
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]
#![expect(unsafe_code, reason = "the CPU clock of a thread")]

mod peer;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use hsm_client::{Cluster, ClusterConfiguration};
use hsm_protocol::wire::{self, reply, request};
use peer::certificates::{Authority, TlsOptions, server_configuration};
use peer::{Answer, Peer, World, echo};

const ROUND: Duration = Duration::from_millis(300);

/// A round in which other programs took more than this share of the machine is measured again, so many times.
const FOREIGN_SHARE: f64 = 0.25;
const ATTEMPTS: usize = 8;

/// Seconds of CPU time that all programs have used, and this one.
fn cpu_seconds() -> (f64, f64) {
    let text = std::fs::read_to_string("/proc/stat").unwrap();
    let ticks: Vec<f64> = text.lines().next().unwrap().split_whitespace().skip(1).map(|n| n.parse().unwrap()).collect();
    // user + nice + system + irq + softirq, in hundredths of a second (proc(5)).
    let all = (ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6]) / 100.0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes into a live timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    (all, time.tv_sec as f64 + time.tv_nsec as f64 / 1e9)
}

/// CPU time of the calling thread in microseconds.
fn thread_cpu() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes into a live timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    u64::try_from(time.tv_sec * 1_000_000 + time.tv_nsec / 1000).unwrap()
}

fn measure(name: &str, configuration: &ClusterConfiguration, threads: usize) {
    let cores = std::thread::available_parallelism().unwrap().get() as f64;
    for attempt in 0..ATTEMPTS {
        let (all, own) = cpu_seconds();
        let begin = Instant::now();
        let line = measure_once(configuration, threads);
        let (all_after, own_after) = cpu_seconds();
        let foreign = ((all_after - all) - (own_after - own)) / begin.elapsed().as_secs_f64() / cores;
        if foreign < FOREIGN_SHARE || attempt + 1 == ATTEMPTS {
            let whole = (own_after - own) * 1e6;
            println!("{name} {threads:>2} threads: {}, others {:.0} %", line(whole), foreign.max(0.0) * 100.0);
            return;
        }
    }
}

fn measure_once(configuration: &ClusterConfiguration, threads: usize) -> Box<dyn Fn(f64) -> String> {
    let cluster = Cluster::new(configuration.clone());
    drop(cluster.call(None, &|_| echo(&[1; 64])).unwrap());
    let before = cluster.counters();
    let (calls, cpu) = (AtomicU64::new(0), AtomicU64::new(0));
    let latencies = std::sync::Mutex::new(Vec::new());
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut mine = Vec::new();
                while begin.elapsed() < ROUND {
                    let start = Instant::now();
                    drop(cluster.call(None, &|_| echo(&[1; 64])).unwrap());
                    mine.push(start.elapsed());
                }
                calls.fetch_add(mine.len() as u64, Ordering::Relaxed);
                cpu.fetch_add(thread_cpu(), Ordering::Relaxed);
                latencies.lock().unwrap().extend(mine);
            });
        }
    });
    let elapsed = begin.elapsed().as_secs_f64();
    let after = cluster.counters();
    let mut latencies = latencies.into_inner().unwrap();
    latencies.sort_unstable();
    let calls = calls.into_inner();
    let share = move |part: u64| part as f64 / calls as f64;
    let text = format!(
        "{:>8.0}/s, client {:>5.1} us, p50 {:>4} us, p99 {:>5} us, max {:>6} us, \
         frames/write {:.1}, reads/call {:.2}, sleeps/call {:.2}, connections {}",
        calls as f64 / elapsed,
        share(cpu.into_inner()),
        latencies[latencies.len() / 2].as_micros(),
        latencies[latencies.len() * 99 / 100].as_micros(),
        latencies[latencies.len() - 1].as_micros(),
        (after.frames_written - before.frames_written) as f64 / (after.writes - before.writes) as f64,
        share(after.reads - before.reads),
        share(after.sleeps - before.sleeps),
        after.connections,
    );
    Box::new(move |whole| format!("both sides {:>5.1} us, {text}", whole / calls as f64))
}

#[test]
#[ignore = "a measurement, not a check"]
fn calls_per_second() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("ca");
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref()).unwrap();
    let world = World::scripted(move |_, request| match &request.body {
        Some(request::Body::Operate(operate)) => {
            let data = key.sign(&random, &operate.data).unwrap().as_ref().to_vec();
            Some(Answer::Now(reply::Body::Bytes(wire::BytesReply { data, iv: Vec::new() })))
        }
        _ => None,
    });
    let tls =
        Peer::on_port("127.0.0.1:0", &world, server_configuration(&authority.sign(|_| {}), &TlsOptions::default()));
    let unix = Peer::on_socket(&folder.path().join("s"), &world);
    let mut over_tls = tls.configuration();
    over_tls.trust_anchor = Some(authority.write_anchor(folder.path()));
    for round in 0..2 {
        println!("round {round}");
        for threads in [1, 2, 4, 8, 32] {
            measure("tls ", &over_tls, threads);
            measure("unix", &unix.configuration(), threads);
        }
    }
}

//! Threads that repeat an operation for a time, and the figures of it.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::Length;
use crate::cost::cpu_seconds;

/// Operations before the measurement, so that connections stand and caches are warm.
const WARM_UP: Duration = Duration::from_millis(150);

/// An operation that can be repeated.
pub(crate) type Operation<'a> = Box<dyn FnMut() -> Result<()> + Send + 'a>;

/// Repeats each operation in a thread of its own and prints what it cost.
pub(crate) fn measure(operations: Vec<Operation<'_>>, length: &Length) -> Result<()> {
    let (begin, measuring, stop) = (Barrier::new(operations.len() + 1), AtomicBool::new(false), AtomicBool::new(false));
    let (seconds, client, server, latencies) = std::thread::scope(|scope| {
        let threads: Vec<_> = operations
            .into_iter()
            .map(|mut operation| {
                let (begin, measuring, stop) = (&begin, &measuring, &stop);
                scope.spawn(move || -> Result<Vec<u32>> {
                    begin.wait();
                    let mut latencies = Vec::with_capacity(1 << 20);
                    while !stop.load(Ordering::Relaxed) {
                        let began = Instant::now();
                        operation()?;
                        if measuring.load(Ordering::Relaxed) {
                            latencies.push(u32::try_from(began.elapsed().as_nanos()).unwrap_or(u32::MAX));
                        }
                    }
                    Ok(latencies)
                })
            })
            .collect();
        begin.wait();
        std::thread::sleep(WARM_UP);
        let cost = || -> Result<(f64, f64)> {
            let servers = length.server.iter().map(|&server| cpu_seconds(Some(server))).sum::<Result<f64>>()?;
            Ok((cpu_seconds(None)?, servers))
        };
        let before = cost();
        let began = Instant::now();
        measuring.store(true, Ordering::Relaxed);
        std::thread::sleep(length.time());
        measuring.store(false, Ordering::Relaxed);
        let seconds = began.elapsed().as_secs_f64();
        let after = cost();
        stop.store(true, Ordering::Relaxed);
        let mut latencies = Vec::new();
        for thread in threads {
            latencies.extend(thread.join().map_err(|_| anyhow!("a thread panicked"))??);
        }
        let (before, after) = (before?, after?);
        Ok::<_, anyhow::Error>((seconds, after.0 - before.0, after.1 - before.1, latencies))
    })?;
    print(seconds, client, server, latencies);
    Ok(())
}

fn print(seconds: f64, client: f64, server: f64, mut latencies: Vec<u32>) {
    latencies.sort_unstable();
    let at = |share: usize| {
        latencies.get(latencies.len() * share / 100).map_or(0.0, |&nanoseconds| f64::from(nanoseconds) / 1000.0)
    };
    println!(
        "{{\"operations\":{},\"seconds\":{seconds:.6},\"client_cpu\":{client:.2},\"server_cpu\":{server:.2},\
         \"median_us\":{:.3},\"p99_us\":{:.3}}}",
        latencies.len(),
        at(50),
        at(99)
    );
}

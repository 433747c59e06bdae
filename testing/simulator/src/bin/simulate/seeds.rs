//! The seeds of a range on a few threads, and what is said about them.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use simulator::cluster::run::{Broken, Options, Report, run};
use simulator::panics;

/// Lines of the log that are printed of a seed that failed.
const LINES: usize = 50;

/// Runs simulated clusters.
#[derive(Parser)]
#[command(name = "simulate")]
struct Arguments {
    /// Run this seed alone and print its log.
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,

    /// Write the whole log of that seed here, with every message and disk operation.
    #[arg(long, value_name = "FILE", requires = "seed")]
    log: Option<PathBuf>,

    /// Run so many seeds.
    #[arg(long, default_value_t = 200, value_name = "COUNT")]
    seeds: u64,

    /// The first of them.
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    from: u64,

    /// Run the first so many of them twice and compare the hashes of what happened.
    #[arg(long, default_value_t = 0, value_name = "COUNT")]
    check_replay: u64,

    /// Threads, each with its own seeds.
    #[arg(long, default_value_t = 2, value_name = "COUNT")]
    threads: usize,

    /// Go on after a seed that failed.
    #[arg(long)]
    keep_going: bool,

    /// Demand that a seed fails, by the invariant of this name: for known bugs that are put back.
    #[arg(long, value_name = "INVARIANT")]
    expect: Option<String>,
}

/// What the threads share.
struct Progress {
    next: AtomicU64,
    done: AtomicU64,
    failed: AtomicUsize,
    expected: AtomicUsize,
    acknowledged: AtomicUsize,
    events: AtomicU64,
    simulated: AtomicU64,
}

pub(crate) fn main() -> ExitCode {
    let arguments = Arguments::parse();
    panics::remember();
    match arguments.seed {
        Some(seed) => replay(seed, arguments.log),
        None => run_range(&arguments),
    }
}

/// One seed with its log on the screen.
fn replay(seed: u64, log: Option<PathBuf>) -> ExitCode {
    let options = Options { keep_lines: if log.is_none() { 1_000_000 } else { 0 }, log: log.clone(), plan: None };
    let report = run(seed, &options);
    report.lines.iter().for_each(|line| println!("{line}"));
    if let Some(log) = log {
        println!("the log is in {}", log.display());
    }
    println!("seed {seed}: trace {:016x}, {} events", report.trace.0, report.trace.1);
    match report.broken {
        None => ExitCode::SUCCESS,
        Some(Broken { invariant, text }) => {
            println!("seed {seed} breaks {invariant}: {text}");
            ExitCode::FAILURE
        }
    }
}

fn run_range(arguments: &Arguments) -> ExitCode {
    let began = Instant::now();
    let progress = Progress {
        next: AtomicU64::new(arguments.from),
        done: AtomicU64::new(0),
        failed: AtomicUsize::new(0),
        expected: AtomicUsize::new(0),
        acknowledged: AtomicUsize::new(0),
        events: AtomicU64::new(0),
        simulated: AtomicU64::new(0),
    };
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads.max(1) {
            scope.spawn(|| work(arguments, &progress));
        }
    });
    let (done, failed) = (progress.done.load(Ordering::SeqCst), progress.failed.load(Ordering::SeqCst));
    let elapsed = began.elapsed();
    println!(
        "{done} seeds from {} in {:.0} s ({:.0} a minute), {:.0} s simulated, {} commands acknowledged, {} events: {failed} failed",
        arguments.from,
        elapsed.as_secs_f64(),
        done as f64 * 60.0 / elapsed.as_secs_f64(),
        Duration::from_millis(progress.simulated.load(Ordering::SeqCst)).as_secs_f64(),
        progress.acknowledged.load(Ordering::SeqCst),
        progress.events.load(Ordering::SeqCst),
    );
    let found = progress.expected.load(Ordering::SeqCst) > 0;
    match &arguments.expect {
        Some(invariant) if !found => {
            println!("no seed breaks {invariant}");
            ExitCode::FAILURE
        }
        Some(_) => ExitCode::SUCCESS,
        None if failed > 0 => ExitCode::FAILURE,
        None => ExitCode::SUCCESS,
    }
}

fn work(arguments: &Arguments, progress: &Progress) {
    let end = arguments.from.saturating_add(arguments.seeds);
    let stops = |progress: &Progress| {
        let found = progress.expected.load(Ordering::SeqCst) > 0;
        let failed = progress.failed.load(Ordering::SeqCst) > 0;
        if arguments.expect.is_some() { found } else { failed && !arguments.keep_going }
    };
    while !stops(progress) {
        let seed = progress.next.fetch_add(1, Ordering::SeqCst);
        if seed >= end {
            return;
        }
        let report = run(seed, &Options::default());
        let mut broken = report.broken.clone();
        if seed - arguments.from < arguments.check_replay {
            let again = run(seed, &Options::default());
            if again.trace != report.trace {
                let text = format!("the traces are {:x?} and {:x?}", report.trace, again.trace);
                broken = broken.or(Some(Broken { invariant: "a_seed_replays_exactly", text }));
            }
        }
        progress.done.fetch_add(1, Ordering::SeqCst);
        progress.acknowledged.fetch_add(report.acknowledged, Ordering::SeqCst);
        progress.events.fetch_add(report.trace.1, Ordering::SeqCst);
        let simulated = u64::try_from(report.simulated.as_millis()).unwrap_or(u64::MAX);
        progress.simulated.fetch_add(simulated, Ordering::SeqCst);
        if let Some(broken) = broken {
            progress.failed.fetch_add(1, Ordering::SeqCst);
            let expected = arguments.expect.as_deref() == Some(broken.invariant);
            progress.expected.fetch_add(usize::from(expected), Ordering::SeqCst);
            tell(seed, &report, &broken, arguments.expect.is_some() || arguments.keep_going);
        }
    }
}

/// A failure, so that it is on the screen with what led to it.
fn tell(seed: u64, report: &Report, broken: &Broken, brief: bool) {
    let mut text = format!("seed {seed} breaks {}: {}\n", broken.invariant, broken.text);
    if !brief {
        let again = run(seed, &Options { keep_lines: LINES, ..Options::default() });
        text.push_str("the last lines of its log:\n");
        again.lines.iter().for_each(|line| text.push_str(&format!("  {line}\n")));
        if again.trace != report.trace && report.trace.1 > 0 {
            text.push_str("run again, something else happened: the seed does not replay\n");
        }
        text.push_str(&format!("all of it: cargo xtask simulate --seed {seed}\n"));
    }
    print!("{text}");
}

//! The table that `bench` prints: every figure, the ratios against their goals, and what machine it was.

use super::{Case, Figures, Results};

/// Prints all of it on standard output.
pub(super) fn print(results: &Results) {
    println!("\n{}", machine());
    println!("\nFigures: median of the rounds; µs CPU = client and server for one operation.\n");
    println!("| workload | threads | side | a second | median µs | p99 µs | µs CPU | of it server |");
    println!("|---|---|---|---|---|---|---|---|");
    for case in &results.cases {
        for (side, figures) in [("kagimori, mTLS", case.ours), ("bare aws-lc-rs", case.bare), ("SoftHSM2", case.peer)] {
            row(case, side, figures);
        }
    }
    ratios(results);
    growth(results);
}

fn row(case: &Case, side: &str, figures: Figures) {
    let Figures { rate, cpu, server, median, worst } = figures;
    let (workload, threads) = (case.workload, case.threads);
    println!("| {workload} | {threads} | {side} | {rate:.0} | {median:.1} | {worst:.1} | {cpu:.1} | {server:.1} |");
}

/// A row of the goals.
struct Goal {
    number: &'static str,
    what: &'static str,
    value: f64,
    reach: f64,
    stretch: f64,
    smaller_is_better: bool,
    /// What most of the missing part is made of, as far as it was measured.
    held_back_by: &'static str,
}

impl Goal {
    fn verdict(&self) -> &'static str {
        verdict(self.value, self.reach, self.stretch, self.smaller_is_better)
    }
}

/// What a measured value reaches.
pub(super) fn verdict(value: f64, reach: f64, stretch: f64, smaller_is_better: bool) -> &'static str {
    let meets = |goal: f64| if smaller_is_better { value <= goal } else { value >= goal };
    if meets(stretch) {
        "stretch"
    } else if meets(reach) {
        "reached"
    } else {
        "not reached"
    }
}

/// Beside the operation itself a request costs two system calls on each side and two wake-ups, which frames that travel
/// together share.
const FEW_FRAMES: &str = "the system calls and wake-ups of frames that travel alone: client and server share the two cores, so \
    that eight threads seldom have more than two requests waiting when one of them writes (see the frames in one write)";

fn ratios(results: &Results) {
    let case = |workload: &str, threads: usize| {
        results.cases.iter().find(|case| case.workload == workload && case.threads == threads)
    };
    let (Some(one), Some(eight), Some(many)) = (case("p256", 1), case("p256", 8), case("p256", 32)) else { return };
    let (Some(rsa), Some(gcm)) = (case("rsa2048", 8), case("gcm", 8)) else { return };
    let by_cpu = |other: Figures, ours: Figures| other.cpu / ours.cpu;
    let goal = |number, what, value, reach, stretch| Goal {
        number,
        what,
        value,
        reach,
        stretch,
        smaller_is_better: false,
        held_back_by: "",
    };
    let below = |number, what, value, reach, stretch| Goal {
        number,
        what,
        value,
        reach,
        stretch,
        smaller_is_better: true,
        held_back_by: "",
    };
    let goals = [
        Goal {
            held_back_by: FEW_FRAMES,
            ..goal("1", "P-256, 8 threads / bare", by_cpu(eight.bare, eight.ours), 0.58, 0.68)
        },
        Goal {
            held_back_by: FEW_FRAMES,
            ..goal("1", "P-256, 32 threads / bare", by_cpu(many.bare, many.ours), 0.65, 0.75)
        },
        goal("2", "P-256, 1 thread / bare on one core, by the clock", one.ours.rate / one.bare.rate, 0.35, 0.40),
        below("3", "P-256, 1 thread, median latency / SoftHSM2", one.ours.median / one.peer.median, 1.2, 1.0),
        goal("4", "P-256, 8 threads / SoftHSM2", by_cpu(eight.peer, eight.ours), 1.3, 1.8),
        goal("5", "RSA-2048 / bare", by_cpu(rsa.bare, rsa.ours), 0.88, 0.93),
        goal("5", "RSA-2048 / SoftHSM2", by_cpu(rsa.peer, rsa.ours), 1.9, 2.0),
        goal("6", "AES-GCM 1 KiB, 8 threads / SoftHSM2", by_cpu(gcm.peer, gcm.ours), 1.2, 2.0),
        below("11", "server µs CPU above the bare operation, 1 thread", one.ours.server - one.bare.cpu, 12.0, 9.0),
    ];
    println!("\nRatios, by CPU time where nothing else is said:\n");
    println!("| row | what | measured | reach | stretch | verdict |");
    println!("|---|---|---|---|---|---|");
    for goal in &goals {
        let Goal { number, what, value, reach, stretch, .. } = goal;
        println!("| {number} | {what} | {value:.2} | {reach} | {stretch} | {} |", goal.verdict());
    }
    for goal in goals.iter().filter(|goal| goal.verdict() == "not reached" && !goal.held_back_by.is_empty()) {
        println!("\nRow {}, {}: held back by {}.", goal.number, goal.what, goal.held_back_by);
    }
    let clock = |ours: Figures, other: Figures| ours.rate / other.rate;
    println!(
        "\nThe same by the clock: row 1 {:.2} and {:.2}, row 4 {:.2}, row 5 {:.2} and {:.2}, row 6 {:.2}.",
        clock(eight.ours, eight.bare),
        clock(many.ours, many.bare),
        clock(eight.ours, eight.peer),
        clock(rsa.ours, rsa.bare),
        clock(rsa.ours, rsa.peer),
        clock(gcm.ours, gcm.peer)
    );
    let [eight, many] = results.frames_per_write;
    println!(
        "Frames in one write of the client library: {eight:.1} with 8 threads, {many:.1} with 32; to reach: 3 or more."
    );
}

fn growth(results: &Results) {
    let keys = results.keys;
    println!("\nAmong 100 and {keys} keys:\n");
    println!("| what | 100 keys, median µs | {keys} keys, median µs | {keys} / 100 |");
    println!("|---|---|---|---|");
    for (what, [few, many]) in [("search by label", results.find), ("log in and out", results.login)] {
        println!("| {what} | {:.1} | {:.1} | {:.2} |", few.median, many.median, many.median / few.median);
    }
}

/// The processor and those of its features that decide the figures: IFMA for RSA, VAES for GCM, SHA for hashing.
pub(super) fn machine() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(": ")).map_or("unknown", |(_, value)| value)
    };
    let flags: Vec<&str> = field("flags").split(' ').collect();
    let deciding = ["avx2", "avx512f", "avx512ifma", "vaes", "vpclmulqdq", "sha_ni", "adx", "bmi2", "aes"];
    let (present, absent): (Vec<&str>, Vec<&str>) = deciding.into_iter().partition(|flag| flags.contains(flag));
    let cores = text.lines().filter(|line| line.starts_with("processor")).count();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!(
        "Processor: {}, {cores} cores; has {}; lacks {}. Load at the end: {}.",
        field("model name"),
        present.join(" "),
        if absent.is_empty() { "none of these".to_owned() } else { absent.join(" ") },
        load.split(' ').next().unwrap_or("unknown")
    )
}

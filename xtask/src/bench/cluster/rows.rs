//! The table of `bench cluster`: every figure, what it shall reach, and whether it does.

use super::super::table::{machine, verdict};
use super::Arguments;

/// What a figure shall reach (design, figures to reach).
#[derive(Clone, Copy)]
pub(super) struct Goal {
    number: &'static str,
    reach: f64,
    stretch: f64,
    smaller_is_better: bool,
}

impl Goal {
    pub(super) const SEARCH: Self = Self::above("7", 0.9, 0.97);
    pub(super) const KEYS_AMONG_MANY: Self = Self::above("9", 0.9, 0.97);
    pub(super) const KEYS_BY_THREADS: Self = Self::above("9", 3.0, 6.0);
    pub(super) const BESIDE_A_WRITER: Self = Self::above("10", 0.8, 0.9);
    /// Milliseconds.
    pub(super) const STALL: Self = Self { number: "12", reach: 3000.0, stretch: 500.0, smaller_is_better: true };

    const fn above(number: &'static str, reach: f64, stretch: f64) -> Self {
        Self { number, reach, stretch, smaller_is_better: false }
    }
}

struct Row {
    what: String,
    value: f64,
    goal: Option<Goal>,
}

/// All of them, in the order of their measurement.
#[derive(Default)]
pub(super) struct Rows {
    rows: Vec<Row>,
    remarks: Vec<String>,
}

impl Rows {
    /// A figure without a goal; `what` says its unit.
    pub(super) fn add(&mut self, what: impl Into<String>, value: f64) {
        self.rows.push(Row { what: what.into(), value, goal: None });
    }

    /// A figure with a goal.
    pub(super) fn judge(&mut self, goal: Goal, what: impl Into<String>, value: f64) {
        self.rows.push(Row { what: what.into(), value, goal: Some(goal) });
    }

    /// A sentence below the table.
    pub(super) fn remark(&mut self, words: impl Into<String>) {
        self.remarks.push(words.into());
    }

    pub(super) fn print(&self, arguments: &Arguments, before: &str) {
        let Arguments { rounds, milliseconds, .. } = arguments;
        println!("\n{} At the beginning: {before}.", machine());
        println!("\nHSMs and clients share these cores; {rounds} rounds of {milliseconds} ms, medians.\n");
        println!("| row | what | measured | reach | stretch | verdict |");
        println!("|---|---|---|---|---|---|");
        for Row { what, value, goal } in &self.rows {
            let places = if value.abs() < 10.0 { 2 } else { 0 };
            match goal {
                None => println!("| | {what} | {value:.places$} | | | |"),
                Some(Goal { number, reach, stretch, smaller_is_better }) => {
                    let verdict = verdict(*value, *reach, *stretch, *smaller_is_better);
                    println!("| {number} | {what} | {value:.places$} | {reach} | {stretch} | {verdict} |");
                }
            }
        }
        self.remarks.iter().for_each(|words| println!("\n{words}"));
    }
}

/// Processes that wanted a core in the last minute, on average.
pub(super) fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("unknown").to_owned()
}

/// The middle one.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// The largest one.
pub(super) fn worst(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

//! What happened in a run, as one hash and, when it is wanted, as lines to read.
//!
//! The hash takes in everything that a run does: messages with their octets, disk operations with theirs, every applied
//! command, every fault, every answer. Two runs of one seed have the same hash, or something escaped the seed; then the
//! two logs differ in a line. Lines cost time, so a run keeps none unless told to: a failed seed is run again with them.

use std::fmt::Write as _;
use std::io::Write as _;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Where lines go.
pub enum Lines {
    /// Nowhere.
    None,
    /// Into memory, the last so many.
    Last(usize),
    /// Into a file, all, those of messages and disk operations included.
    File(std::io::BufWriter<std::fs::File>),
}

/// The record of one run.
pub struct Trace {
    start: Instant,
    state: Mutex<State>,
}

struct State {
    hash: u64,
    events: u64,
    lines: Lines,
    kept: std::collections::VecDeque<String>,
}

impl Trace {
    /// An empty record. Call it inside the runtime: times count from here.
    pub fn new(lines: Lines) -> Self {
        let state = State { hash: 0, events: 0, lines, kept: std::collections::VecDeque::new() };
        Self { start: Instant::now(), state: Mutex::new(state) }
    }

    /// Time since the run began, in microseconds.
    pub fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Something that a person wants to read: faults, calls, answers, elections.
    pub fn tell(&self, line: impl FnOnce() -> String) {
        let now = self.now();
        let line = line();
        let mut state = self.state.lock();
        state.take_in(now, line.as_bytes());
        state.write(now, &line);
    }

    /// Something of which there is much: its octets go into the hash, its line only into a file.
    pub fn note(&self, octets: &[u8], line: impl FnOnce() -> String) {
        let now = self.now();
        let mut state = self.state.lock();
        state.take_in(now, octets);
        if let Lines::File(_) = &state.lines {
            let text = format!("    {} ({:016x})", line(), state.hash);
            state.write(now, &text);
        }
    }

    /// The hash so far, and how many events it took in.
    pub fn hash(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.hash, state.events)
    }

    /// The lines that were kept.
    pub fn lines(&self) -> Vec<String> {
        self.state.lock().kept.iter().cloned().collect()
    }
}

impl State {
    fn take_in(&mut self, now: u64, octets: &[u8]) {
        self.events += 1;
        let mut hash = mix(self.hash, now);
        let mut words = octets.chunks_exact(8);
        for word in &mut words {
            hash = mix(hash, u64::from_le_bytes(word.try_into().unwrap_or_default()));
        }
        let mut rest = [0; 8];
        rest[..words.remainder().len()].copy_from_slice(words.remainder());
        self.hash = mix(mix(hash, u64::from_le_bytes(rest)), octets.len() as u64);
    }

    fn write(&mut self, now: u64, line: &str) {
        let mut text = String::new();
        // Writing into a string cannot fail.
        write!(text, "{:>4}.{:06} {line}", now / 1_000_000, now % 1_000_000).ok();
        match &mut self.lines {
            Lines::None => {}
            Lines::Last(most) => {
                if self.kept.len() >= *most {
                    self.kept.pop_front();
                }
                self.kept.push_back(text);
            }
            // A log that cannot be written is missed by whoever reads it.
            Lines::File(file) => drop(writeln!(file, "{text}")),
        }
    }
}

/// One step of a hash that need only tell runs apart.
fn mix(hash: u64, word: u64) -> u64 {
    (hash ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
}

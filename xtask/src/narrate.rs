//! What a task says to the person: one line for each step, with a moving sign on a terminal while it takes time.
//!
//! Must not decide anything. Lines go to standard error when they report progress, so that standard output stays for
//! results.

use std::fmt::Display;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How often the moving sign moves.
const TICK: Duration = Duration::from_millis(100);

/// A step that has begun.
pub(crate) struct Step {
    words: String,
    began: Instant,
    sign: Option<ProgressBar>,
}

/// Begins a step. Says nothing yet unless standard error is a terminal.
pub(crate) fn begin(words: impl Display) -> Step {
    let words = words.to_string();
    let sign = std::io::stderr().is_terminal().then(|| {
        let sign = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg} ({elapsed})") {
            sign.set_style(style);
        }
        sign.set_message(words.clone());
        sign.enable_steady_tick(TICK);
        sign
    });
    Step { words, began: Instant::now(), sign }
}

impl Step {
    /// Takes the moving sign away, because a program is about to print its own progress.
    pub(crate) fn pause(&self) {
        self.clear();
    }

    /// Ends the step as done; `detail` says what came of it and may be empty.
    pub(crate) fn done(self, detail: impl Display) {
        let detail = detail.to_string();
        let mut line = format!("  ok  {}", self.words);
        if !detail.is_empty() {
            line.push_str(": ");
            line.push_str(&detail);
        }
        let seconds = self.began.elapsed().as_secs_f64();
        if seconds >= 1.0 {
            line.push_str(&format!(" ({seconds:.1} s)"));
        }
        self.clear();
        eprintln!("{line}");
    }

    fn clear(&self) {
        if let Some(sign) = &self.sign {
            sign.finish_and_clear();
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A heading between groups of steps.
pub(crate) fn heading(words: impl Display) {
    eprintln!("\n{words}");
}

/// A line that stands by itself.
pub(crate) fn line(words: impl Display) {
    eprintln!("  {words}");
}

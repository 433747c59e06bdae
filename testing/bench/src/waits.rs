//! How long one thread waits at most while something happens to the HSMs.

use std::io::{BufRead as _, Write as _};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow};
use conformance::module::Mechanism;
use cryptoki_sys::{CKM_ECDSA, CKO_PRIVATE_KEY};

use crate::keys::{MADE, Token, find_one, make_one};
use crate::token::DATA;

/// What happened since it was asked last.
#[derive(Default)]
struct Seen {
    longest: Duration,
    /// When that one ended, in milliseconds since 1970: a clock that whoever asks has too.
    ended: u128,
    count: u64,
    /// When the call that is under way began.
    began: Option<Instant>,
}

impl Seen {
    fn begin(&mut self) {
        self.began = Some(Instant::now());
    }

    /// Takes the call that is under way as if it had ended now, if it is longer than all others.
    fn look(&mut self) -> Result<()> {
        let took = self.began.map_or(Duration::ZERO, |began| began.elapsed());
        if took > self.longest {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?;
            (self.longest, self.ended) = (took, now.as_millis());
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        self.look()?;
        (self.began, self.count) = (None, self.count + 1);
        Ok(())
    }

    /// The longest wait in milliseconds, the number of calls, and when the longest wait ended, in milliseconds since 1970;
    /// begins anew.
    fn tell(&mut self) -> Result<String> {
        self.look()?;
        let told = format!("{} {} {}", self.longest.as_millis(), self.count, self.ended);
        *self = Self { began: self.began, ..Self::default() };
        Ok(told)
    }
}

/// Prints `ready`, then for each line of standard input what [`Seen::tell`] says; a call that failed ends it.
pub(crate) fn run(writes: bool) -> Result<()> {
    let token = Token::from_environment()?;
    let session = token.logged_in()?;
    let key = find_one(&session, CKO_PRIVATE_KEY, "bench-p256")?;
    let (stop, seen) = (AtomicBool::new(false), Mutex::new(Seen::default()));
    let lock = || seen.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                lock().begin();
                if writes {
                    make_one(&session, MADE)?;
                } else {
                    session.sign(&Mechanism::Plain(CKM_ECDSA), key, &DATA, &mut [0; 64])?;
                }
                lock().end()?;
            }
            Ok(())
        });
        say("ready")?;
        for line in std::io::stdin().lock().lines() {
            line.context("standard input cannot be read")?;
            if worker.is_finished() {
                break;
            }
            let told = lock().tell()?;
            say(&told)?;
        }
        stop.store(true, Ordering::Relaxed);
        let outcome = worker.join().map_err(|_| anyhow!("a thread panicked"))?;
        if let Err(error) = &outcome {
            let waited = lock().began.map_or(Duration::ZERO, |began| began.elapsed());
            say(&format!("failed after {} ms: {error:#}", waited.as_millis()))?;
        }
        outcome
    })
}

fn say(line: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}").and_then(|()| output.flush()).context("standard output is closed")
}

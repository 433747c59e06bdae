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
}

/// Prints `ready`, then for each line of standard input the longest wait since the last one, in milliseconds, the number of
/// operations, and when the longest one ended, in milliseconds since 1970.
pub(crate) fn run(writes: bool) -> Result<()> {
    let token = Token::from_environment()?;
    let session = token.logged_in()?;
    let key = find_one(&session, CKO_PRIVATE_KEY, "bench-p256")?;
    let (stop, seen) = (AtomicBool::new(false), Mutex::new(Seen::default()));
    std::thread::scope(|scope| {
        let (stop, seen) = (&stop, &seen);
        let worker = scope.spawn(move || -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                let began = Instant::now();
                if writes {
                    make_one(&session, MADE)?;
                } else {
                    session.sign(&Mechanism::Plain(CKM_ECDSA), key, &DATA, &mut [0; 64])?;
                }
                let took = began.elapsed();
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.count += 1;
                if took > seen.longest {
                    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?;
                    (seen.longest, seen.ended) = (took, now.as_millis());
                }
            }
            Ok(())
        });
        say("ready")?;
        for line in std::io::stdin().lock().lines() {
            line.context("standard input cannot be read")?;
            if worker.is_finished() {
                break;
            }
            let Seen { longest, ended, count } =
                std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
            say(&format!("{} {count} {ended}", longest.as_millis()))?;
        }
        stop.store(true, Ordering::Relaxed);
        let outcome = worker.join().map_err(|_| anyhow!("a thread panicked"))?;
        if let Err(error) = &outcome {
            say(&format!("failed {error:#}"))?;
        }
        outcome
    })
}

fn say(line: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}").and_then(|()| output.flush()).context("standard output is closed")
}

//! How long one thread waits at most while something happens to the HSMs.

use std::io::{BufRead as _, Write as _};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use conformance::module::Mechanism;
use cryptoki_sys::{CKM_ECDSA, CKO_PRIVATE_KEY};

use crate::keys::{Token, find_one, make_one};
use crate::token::DATA;

/// Prints `ready`, then for each line of standard input the longest wait since the last one, in milliseconds, and the number
/// of operations.
pub(crate) fn run(writes: bool) -> Result<()> {
    let token = Token::from_environment()?;
    let session = token.logged_in()?;
    let key = find_one(&session, CKO_PRIVATE_KEY, "bench-p256")?;
    let (stop, seen) = (AtomicBool::new(false), Mutex::new((Duration::ZERO, 0_u64)));
    std::thread::scope(|scope| {
        let (stop, seen) = (&stop, &seen);
        let worker = scope.spawn(move || -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                let began = Instant::now();
                if writes {
                    make_one(&session)?;
                } else {
                    session.sign(&Mechanism::Plain(CKM_ECDSA), key, &DATA, &mut [0; 64])?;
                }
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                *seen = (seen.0.max(began.elapsed()), seen.1 + 1);
            }
            Ok(())
        });
        say("ready")?;
        for line in std::io::stdin().lock().lines() {
            line.context("standard input cannot be read")?;
            if worker.is_finished() {
                break;
            }
            let (longest, count) =
                std::mem::replace(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner), (Duration::ZERO, 0));
            say(&format!("{} {count}", longest.as_millis()))?;
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

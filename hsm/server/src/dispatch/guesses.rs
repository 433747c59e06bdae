//! The rate limit of logins per source, which comes before an attempt is counted in the log.
//!
//! It protects the log and the password threads from floods, not passwords: those have the cluster's one counter. A
//! right password costs one token, a wrong one more, so that honest programs that log in often are not slowed down.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::limits::{GUESS_BURST, GUESS_INTERVAL, GUESS_SOURCES, WRONG_GUESS_COST};
use crate::connection::facts::Origin;

/// Tokens of every source that has tried lately.
#[derive(Default)]
pub(crate) struct Guesses(Mutex<BTreeMap<Origin, Bucket>>);

/// A bucket is full at `full_at` and has one token less for each [`GUESS_INTERVAL`] before that.
struct Bucket {
    full_at: Instant,
}

impl Guesses {
    /// Takes a token.
    ///
    /// # Errors
    /// The time to wait.
    pub(crate) fn take(&self, origin: Origin, now: Instant) -> Result<(), Duration> {
        let mut buckets = self.0.lock();
        if buckets.len() >= GUESS_SOURCES {
            buckets.retain(|_, bucket| bucket.full_at > now);
        }
        if buckets.len() >= GUESS_SOURCES && !buckets.contains_key(&origin) {
            return Err(GUESS_INTERVAL);
        }
        let bucket = buckets.entry(origin).or_insert(Bucket { full_at: now });
        let full_at = bucket.full_at.max(now) + GUESS_INTERVAL;
        let room = GUESS_INTERVAL * GUESS_BURST;
        match full_at.duration_since(now).checked_sub(room) {
            None | Some(Duration::ZERO) => {
                bucket.full_at = full_at;
                Ok(())
            }
            Some(wait) => Err(wait),
        }
    }

    /// A guess was wrong: takes the rest of its price. A bucket may go below empty by one wrong guess.
    pub(crate) fn punish(&self, origin: Origin, now: Instant) {
        if let Some(bucket) = self.0.lock().get_mut(&origin) {
            bucket.full_at = bucket.full_at.max(now) + GUESS_INTERVAL * (WRONG_GUESS_COST - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: Origin = Origin::User(1);

    #[test]
    fn a_burst_passes_and_the_next_one_waits_for_a_token() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        for _ in 0..GUESS_BURST {
            assert_eq!(guesses.take(ORIGIN, now), Ok(()));
        }
        assert_eq!(guesses.take(ORIGIN, now), Err(GUESS_INTERVAL));
        assert_eq!(guesses.take(ORIGIN, now + GUESS_INTERVAL), Ok(()));
        assert_eq!(guesses.take(Origin::User(2), now), Ok(()), "another source has tokens of its own");
    }

    #[test]
    fn wrong_guesses_cost_more() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        let tries = (0..GUESS_BURST)
            .take_while(|_| {
                let allowed = guesses.take(ORIGIN, now).is_ok();
                guesses.punish(ORIGIN, now);
                allowed
            })
            .count();
        assert!(tries <= (GUESS_BURST / WRONG_GUESS_COST + 1) as usize, "{tries}");
    }

    #[test]
    fn a_flood_of_sources_does_not_fill_the_memory() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        for user in 0..u32::try_from(GUESS_SOURCES).unwrap() + 10 {
            let allowed = guesses.take(Origin::User(user), now).is_ok();
            assert_eq!(allowed, (user as usize) < GUESS_SOURCES);
        }
        assert!(guesses.take(Origin::User(u32::MAX), now + GUESS_INTERVAL * 2).is_ok());
    }
}

//! How long to wait before trying again: longer each time, and never all clients at the same moment.

use std::time::Duration;

use crate::limits::{VISIT_FIRST, VISIT_LONGEST};

/// First wait.
const FIRST: Duration = Duration::from_millis(10);

/// Longest wait: a restarted HSM is found within it.
const LONGEST: Duration = Duration::from_millis(320);

/// The wait after so many failures in a row of a call that has nowhere else to go: exponential, with half of it random.
pub(crate) fn wait_after(failures: u32) -> Duration {
    half_random(FIRST.saturating_mul(1 << failures.min(16)).min(LONGEST))
}

/// The wait before a lost HSM is visited again while others serve.
pub(crate) fn visit_after(failures: u32) -> Duration {
    half_random(VISIT_FIRST.saturating_mul(1 << failures.min(16)).min(VISIT_LONGEST))
}

/// A random part of this time.
pub(crate) fn part_of(whole: Duration) -> Duration {
    whole.mul_f64(random_share())
}

/// A random number.
pub(crate) fn random_number() -> u64 {
    let mut random = [0; 8];
    match aws_lc_rs::rand::fill(&mut random) {
        Ok(()) => u64::from_be_bytes(random),
        // Without randomness the processes of a host are told apart by their numbers.
        Err(_) => u64::from(std::process::id()).wrapping_mul(0x9e37_79b9_7f4a_7c15),
    }
}

fn half_random(whole: Duration) -> Duration {
    whole.mul_f64(0.5 + random_share() / 2.0)
}

/// From 0 to 1.
fn random_share() -> f64 {
    let mut random = [0; 4];
    // Without randomness the wait is merely less spread.
    match aws_lc_rs::rand::fill(&mut random) {
        Ok(()) => f64::from(u32::from_be_bytes(random)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_within_their_bounds() {
        for failures in [0, 3, 6, 7, 40] {
            let wait = wait_after(failures);
            assert!(wait >= FIRST / 2 && wait <= LONGEST, "{failures}: {wait:?}");
            let visit = visit_after(failures);
            assert!(visit >= VISIT_FIRST / 2 && visit <= VISIT_LONGEST, "{failures}: {visit:?}");
        }
        assert!(wait_after(20) >= LONGEST / 2);
        assert!(visit_after(20) >= VISIT_LONGEST / 2);
    }

    #[test]
    fn processes_that_lost_the_same_hsm_do_not_visit_it_at_the_same_moment() {
        let visits: Vec<Duration> = (0..64).map(|_| visit_after(0)).collect();
        let (first, last) = (visits.iter().min().unwrap(), visits.iter().max().unwrap());
        assert!(*last - *first > VISIT_FIRST / 4, "{first:?} to {last:?}");
    }
}

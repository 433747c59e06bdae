//! How long to wait before trying again: longer each time, and never all clients at the same moment.

use std::time::Duration;

/// First wait.
const FIRST: Duration = Duration::from_millis(10);

/// Longest wait: a restarted HSM is found within it.
const LONGEST: Duration = Duration::from_millis(320);

/// The wait after so many failures in a row: exponential, with half of it random (against herds).
pub(crate) fn wait_after(failures: u32) -> Duration {
    let whole = FIRST.saturating_mul(1 << failures.min(16)).min(LONGEST);
    let mut random = [0; 4];
    // Without randomness the wait is merely less spread.
    let share = match aws_lc_rs::rand::fill(&mut random) {
        Ok(()) => f64::from(u32::from_be_bytes(random)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    };
    whole.mul_f64(0.5 + share / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_within_their_bounds() {
        for failures in [0, 3, 6, 7, 40] {
            let wait = wait_after(failures);
            assert!(wait >= FIRST / 2 && wait <= LONGEST, "{failures}: {wait:?}");
        }
        assert!(wait_after(20) >= LONGEST / 2);
    }
}

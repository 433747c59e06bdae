//! Health tests of the noise source, continuous and at start-up: SP 800-90B §4.4.
//!
//! A sample is a byte. The assumption is a min-entropy of 4 bits a sample, half of what a working kernel generator gives;
//! the chance of a false alarm is at most 2^-40 a sample, so that a healthy HSM never stops for it.

use crate::fault::SelfTestFailure;

/// Samples that are tested before the first one is used (SP 800-90B §4.3: at least 1,024).
pub(crate) const START_UP_SAMPLES: usize = 1024;

/// Repetition count test: 1 + ceil(40 / 4) equal samples in a row (SP 800-90B §4.4.1).
const REPETITION_CUTOFF: u32 = 11;

/// Adaptive proportion test: samples in a window, for samples that are not binary (SP 800-90B §4.4.2).
const WINDOW: u32 = 512;

/// 1 + CRITBINOM(512, 2^-4, 1 - 2^-40): so many samples of a window equal to its first one are too many. The test
/// `the_cutoff_of_the_proportion_test_is_the_standards_quantile` computes it.
const PROPORTION_CUTOFF: u32 = 78;

/// Both tests, going on over everything that the source ever gives.
pub(crate) struct Monitor {
    last: Option<u8>,
    repeated: u32,
    window_first: u8,
    window_seen: u32,
    window_equal: u32,
}

impl Monitor {
    /// Nothing seen yet.
    pub(crate) fn new() -> Self {
        Self { last: None, repeated: 0, window_first: 0, window_seen: 0, window_equal: 0 }
    }

    /// Tests the next samples.
    pub(crate) fn check(&mut self, samples: &[u8]) -> Result<(), SelfTestFailure> {
        for &sample in samples {
            self.repetition(sample)?;
            self.proportion(sample)?;
        }
        Ok(())
    }

    fn repetition(&mut self, sample: u8) -> Result<(), SelfTestFailure> {
        self.repeated = if self.last == Some(sample) { self.repeated + 1 } else { 1 };
        self.last = Some(sample);
        if self.repeated >= REPETITION_CUTOFF { Err(SelfTestFailure::Repetition) } else { Ok(()) }
    }

    fn proportion(&mut self, sample: u8) -> Result<(), SelfTestFailure> {
        if self.window_seen == 0 {
            self.window_first = sample;
            self.window_equal = 0;
        }
        self.window_equal += u32::from(sample == self.window_first);
        self.window_seen = (self.window_seen + 1) % WINDOW;
        if self.window_equal >= PROPORTION_CUTOFF { Err(SelfTestFailure::Proportion) } else { Ok(()) }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.last);
        zeroize::Zeroize::zeroize(&mut self.window_first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repetition_is_noticed_at_the_cutoff_and_not_before() {
        let mut monitor = Monitor::new();
        monitor.check(&[9; REPETITION_CUTOFF as usize - 1]).unwrap();
        assert_eq!(monitor.check(&[9]), Err(SelfTestFailure::Repetition));
    }

    #[test]
    fn a_repetition_is_noticed_across_two_takes() {
        let mut monitor = Monitor::new();
        monitor.check(&[1, 9, 9, 9, 9, 9, 9]).unwrap();
        assert_eq!(monitor.check(&[9, 9, 9, 9, 9]), Err(SelfTestFailure::Repetition));
    }

    #[test]
    fn a_preferred_value_is_noticed_at_the_cutoff_and_not_before() {
        let mut monitor = Monitor::new();
        let pattern: Vec<u8> = (0..WINDOW).map(|turn| if turn % 2 == 0 { 5 } else { (turn % 251) as u8 | 8 }).collect();
        let before: usize = (PROPORTION_CUTOFF as usize - 1) * 2;
        monitor.check(&pattern[..before]).unwrap();
        assert_eq!(monitor.check(&pattern[before..=before]), Err(SelfTestFailure::Proportion));
    }

    #[test]
    fn a_window_ends_and_counts_anew() {
        let mut monitor = Monitor::new();
        // 64 of 512 in every window: under the cutoff, for ever.
        for turn in 0..10_000_u32 {
            monitor.check(&[if turn % 8 == 0 { 5 } else { (turn % 8) as u8 + 100 }]).unwrap();
        }
    }

    #[test]
    fn the_cutoff_of_the_proportion_test_is_the_standards_quantile() {
        let (n, p) = (f64::from(WINDOW), 1.0_f64 / 16.0);
        // P[X = k], from the top down, so that the tail is summed from its small end.
        let mut probability = vec![0.0_f64; WINDOW as usize + 1];
        probability[0] = (1.0 - p).powf(n);
        for k in 1..=WINDOW as usize {
            probability[k] = probability[k - 1] * (n - k as f64 + 1.0) / k as f64 * p / (1.0 - p);
        }
        let mut tail = 0.0;
        let mut quantile = WINDOW as usize;
        while quantile > 0 && tail + probability[quantile] <= 2.0_f64.powi(-40) {
            tail += probability[quantile];
            quantile -= 1;
        }
        assert_eq!(PROPORTION_CUTOFF as usize, quantile + 1);
    }
}

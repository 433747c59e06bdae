//! How many requests a second, and how long they take, over the last minute: what `kagimori cluster status` shows.
//!
//! A monitoring system computes its own rates from `/metrics`. This is for a person who has none at hand.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::measured::{KINDS, Measured};
use super::{Counted, Metrics};
use crate::limits::{LATENCY_BOUNDS, RATE_SAMPLE, RATE_SAMPLES};

/// Requests of one kind within a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Rate {
    /// Which kind.
    pub measured: Measured,
    /// Requests.
    pub count: u64,
    /// Those that were not done.
    pub failures: u64,
    /// Half of them took at most this long.
    pub median: Duration,
    /// All but one of a hundred took at most this long.
    pub ninety_ninth: Duration,
}

/// What was counted at earlier times.
#[derive(Default)]
pub(super) struct Samples(Mutex<VecDeque<(Instant, Box<[Counted]>)>>);

impl Metrics {
    /// Remembers the counts of now, unless it did so within [`RATE_SAMPLE`]. The process calls it from time to time.
    pub fn sample(&self, now: Instant) {
        let mut samples = self.samples.0.lock();
        if samples.back().is_some_and(|(last, _)| now.saturating_duration_since(*last) < RATE_SAMPLE) {
            return;
        }
        if samples.len() >= RATE_SAMPLES {
            samples.pop_front();
        }
        samples.push_back((now, self.all_counted()));
    }

    /// Requests since the oldest sample, and how long ago that was; kinds of which there were none are left out.
    pub fn rates(&self, now: Instant) -> (Duration, Vec<Rate>) {
        let samples = self.samples.0.lock();
        let Some((since, before)) = samples.front() else { return (Duration::ZERO, Vec::new()) };
        let rates = Measured::all().filter_map(|measured| {
            let (now, before) = (self.counted(measured), &before[measured.position()]);
            let count = now.latency.count() - before.latency.count();
            let buckets: Vec<_> =
                now.latency.buckets.iter().zip(&before.latency.buckets).map(|(now, before)| now - before).collect();
            (count > 0).then(|| Rate {
                measured,
                count,
                failures: now.failures - before.failures,
                median: quantile(&buckets, 50),
                ninety_ninth: quantile(&buckets, 99),
            })
        });
        (now.saturating_duration_since(*since), rates.collect())
    }

    fn all_counted(&self) -> Box<[Counted]> {
        let mut all = vec![Counted::default(); KINDS].into_boxed_slice();
        Measured::all().for_each(|measured| all[measured.position()] = self.counted(measured));
        all
    }
}

/// The time within which so many of a hundred requests ended, interpolated within its bucket as Prometheus does; what took
/// longer than the last bound counts as that.
fn quantile(buckets: &[u64], percent: u64) -> Duration {
    let total: u64 = buckets.iter().sum();
    let wanted = (total * percent).div_ceil(100);
    let mut below = 0;
    let mut from = 0;
    for (&count, &bound) in buckets.iter().zip(&LATENCY_BOUNDS) {
        if count > 0 && below + count >= wanted {
            let share = u128::from(bound - from) * u128::from(wanted - below) / u128::from(count);
            return Duration::from_nanos(from + u64::try_from(share).unwrap_or(0));
        }
        below += count;
        from = bound;
    }
    Duration::from_nanos(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_counts_what_came_since_the_oldest_sample_and_forgets_what_came_before() {
        let (metrics, start) = (Metrics::new(), Instant::now());
        let sign = Measured::all().find(|kind| kind.name() == "sign").unwrap();
        metrics.request(sign, 0, Duration::from_micros(15));
        assert!(metrics.rates(start).1.is_empty(), "nothing to compare with");
        for second in 0..10 * RATE_SAMPLE.as_secs() * RATE_SAMPLES as u64 {
            let now = start + Duration::from_secs(second);
            metrics.sample(now);
            metrics.request(sign, if second % 2 == 0 { 0 } else { 7 }, Duration::from_micros(15));
            let (over, rates) = metrics.rates(now);
            assert!(over <= RATE_SAMPLE * u32::try_from(RATE_SAMPLES).unwrap());
            assert_eq!(
                (rates[0].count, rates[0].failures.abs_diff(rates[0].count / 2) <= 1),
                (over.as_secs() + 1, true)
            );
        }
    }

    #[test]
    fn a_quantile_lies_in_the_bucket_of_its_request() {
        let mut buckets = vec![0; LATENCY_BOUNDS.len() + 1];
        (buckets[1], buckets[4]) = (98, 2);
        let median = quantile(&buckets, 50).as_nanos();
        assert!(u128::from(LATENCY_BOUNDS[0]) < median && median <= u128::from(LATENCY_BOUNDS[1]));
        let rare = quantile(&buckets, 99).as_nanos();
        assert!(u128::from(LATENCY_BOUNDS[3]) < rare && rare <= u128::from(LATENCY_BOUNDS[4]));
        let slow = [vec![0; LATENCY_BOUNDS.len()], vec![1]].concat();
        assert_eq!(quantile(&slow, 50), Duration::from_nanos(LATENCY_BOUNDS[LATENCY_BOUNDS.len() - 1]));
        assert_eq!(quantile(&[0; 3], 50).as_nanos(), u128::from(LATENCY_BOUNDS[2]), "of nothing there is none");
    }
}

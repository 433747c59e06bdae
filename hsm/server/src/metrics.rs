//! What this process counts, for `/metrics`: requests, latencies, connections. No names, no keys, no operands.
//!
//! `connection` and `dispatch` call [`Metrics::request`] on the hot path: it takes no lock, allocates nothing, and writes
//! to a shard of the calling thread's own, so that two connections do not share a cache line (the shared atomics of the
//! usual metrics libraries would). `health` shows them through `exposition`, management's `rates` what was lately.

pub(crate) mod exposition;
mod measured;
mod rates;

use std::cell::Cell;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

pub use self::measured::{KINDS, Measured};
pub use self::rates::Rate;
use crate::limits::LATENCY_BOUNDS;

/// Result codes counted one by one: 0 is success, others are numbers of `ErrorCode`; above it all count as the last.
pub const RESULTS: usize = 128;

/// Shards: more than the cores of most hosts would only cost memory (26 KiB each).
const SHARDS: usize = 16;

/// All counters of this process.
pub struct Metrics {
    shards: Box<[Shard]>,
    failures: Box<[AtomicU64]>,
    connections: [AtomicI64; 2],
    connections_total: [AtomicU64; 2],
    connections_refused: AtomicU64,
    handshakes_failed: AtomicU64,
    proposals: AtomicU64,
    isolated_logins: AtomicU64,
    isolated_failures: AtomicU64,
    samples: rates::Samples,
}

/// How a client reaches this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP with TLS.
    Tls = 0,
    /// Unix socket.
    Unix = 1,
}

/// One thread's share. Aligned so that two shards never meet in a cache line (two lines: adjacent-line prefetch).
#[repr(align(128))]
struct Shard {
    kinds: [PerKind; KINDS],
}

struct PerKind {
    buckets: [AtomicU64; LATENCY_BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

/// Latencies of one kind of request, summed over all shards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// Requests per bucket of [`LATENCY_BOUNDS`], not cumulated; the last is what took longer than every bound.
    pub buckets: [u64; LATENCY_BOUNDS.len() + 1],
    /// Sum of all, in nanoseconds.
    pub nanoseconds: u64,
}

impl Latency {
    /// Requests in all.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// What was counted of one kind of request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// How long they took.
    pub latency: Latency,
    /// Those that were not done.
    pub failures: u64,
}

impl Metrics {
    /// Everything at zero.
    pub fn new() -> Self {
        let zero = || AtomicU64::new(0);
        let per_kind = || PerKind { buckets: std::array::from_fn(|_| zero()), nanoseconds: zero() };
        Self {
            shards: (0..SHARDS).map(|_| Shard { kinds: std::array::from_fn(|_| per_kind()) }).collect(),
            failures: (0..KINDS * RESULTS).map(|_| zero()).collect(),
            connections: Default::default(),
            connections_total: Default::default(),
            connections_refused: zero(),
            handshakes_failed: zero(),
            proposals: zero(),
            isolated_logins: zero(),
            isolated_failures: zero(),
            samples: rates::Samples::default(),
        }
    }

    /// Counts one answered request. `result` is 0 for success, else the number of the `ErrorCode`.
    pub fn request(&self, measured: Measured, result: u32, elapsed: Duration) {
        let kind = measured.position();
        let nanoseconds = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        let shard = &self.shards[shard_of_this_thread()].kinds[kind];
        // Each bound is twice the one before, so the bucket follows from the position of the highest bit.
        let steps =
            (nanoseconds.saturating_sub(1) / LATENCY_BOUNDS[0]).checked_ilog2().map_or(0, |log| log as usize + 1);
        shard.buckets[steps.min(LATENCY_BOUNDS.len())].fetch_add(1, Ordering::Relaxed);
        shard.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
        if result != 0 {
            let result = (result as usize).min(RESULTS - 1);
            self.failures[kind * RESULTS + result].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A connection was accepted; the guard's drop is its end.
    pub fn connection(self: &std::sync::Arc<Self>, transport: Transport) -> OpenConnection {
        self.connections[transport as usize].fetch_add(1, Ordering::Relaxed);
        self.connections_total[transport as usize].fetch_add(1, Ordering::Relaxed);
        OpenConnection { metrics: std::sync::Arc::clone(self), transport }
    }

    /// A connection was closed at once because a limit was reached.
    pub fn connection_refused(&self) {
        self.connections_refused.fetch_add(1, Ordering::Relaxed);
    }

    /// A TLS handshake failed, or its time was over.
    pub fn handshake_failed(&self) {
        self.handshakes_failed.fetch_add(1, Ordering::Relaxed);
    }

    /// A command was proposed to the log.
    pub fn proposal(&self) {
        self.proposals.fetch_add(1, Ordering::Relaxed);
    }

    /// A crypto user logged in while this HSM was isolated.
    pub fn isolated_login(&self) {
        self.isolated_logins.fetch_add(1, Ordering::Relaxed);
    }

    /// A password was wrong while this HSM was isolated.
    pub fn isolated_failure(&self) {
        self.isolated_failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Log-ins while this HSM was isolated: those that succeeded, and wrong passwords.
    pub fn isolated(&self) -> (u64, u64) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (load(&self.isolated_logins), load(&self.isolated_failures))
    }

    /// Connections that are open now.
    pub fn connections_open(&self, transport: Transport) -> i64 {
        self.connections[transport as usize].load(Ordering::Relaxed)
    }

    /// Connections accepted since the start.
    pub fn connections_accepted(&self, transport: Transport) -> u64 {
        self.connections_total[transport as usize].load(Ordering::Relaxed)
    }

    /// See [`Metrics::connection_refused`].
    pub fn connections_refused(&self) -> u64 {
        self.connections_refused.load(Ordering::Relaxed)
    }

    /// See [`Metrics::handshake_failed`].
    pub fn handshakes_failed(&self) -> u64 {
        self.handshakes_failed.load(Ordering::Relaxed)
    }

    /// See [`Metrics::proposal`].
    pub fn proposals(&self) -> u64 {
        self.proposals.load(Ordering::Relaxed)
    }

    /// Latencies of a kind of request, from all shards.
    pub fn latency(&self, measured: Measured) -> Latency {
        let mut sum = Latency::default();
        for shard in &self.shards {
            let part = &shard.kinds[measured.position()];
            sum.nanoseconds = sum.nanoseconds.wrapping_add(part.nanoseconds.load(Ordering::Relaxed));
            for (total, bucket) in sum.buckets.iter_mut().zip(&part.buckets) {
                *total += bucket.load(Ordering::Relaxed);
            }
        }
        sum
    }

    /// Requests of a kind that ended with this result, which is not 0.
    pub fn failures(&self, measured: Measured, result: usize) -> u64 {
        self.failures[measured.position() * RESULTS + result].load(Ordering::Relaxed)
    }

    /// Everything counted of a kind of request.
    pub fn counted(&self, measured: Measured) -> Counted {
        let failures = (1..RESULTS).map(|result| self.failures(measured, result)).sum();
        Counted { latency: self.latency(measured), failures }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Counts a connection as open until it is dropped.
pub struct OpenConnection {
    metrics: std::sync::Arc<Metrics>,
    transport: Transport,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.metrics.connections[self.transport as usize].fetch_sub(1, Ordering::Relaxed);
    }
}

/// Threads take shards in turn, once each.
fn shard_of_this_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static SHARD: Cell<usize> = const { Cell::new(usize::MAX) });
    SHARD.with(|shard| {
        if shard.get() == usize::MAX {
            shard.set(NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS);
        }
        shard.get()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_falls_into_the_bucket_whose_bound_is_the_first_not_below_it() {
        for (position, &bound) in LATENCY_BOUNDS.iter().enumerate() {
            for (nanoseconds, expected) in [(bound, position), (bound + 1, position + 1)] {
                let (metrics, sign) = (Metrics::new(), Measured::by_method(50));
                metrics.request(sign, 0, Duration::from_nanos(nanoseconds));
                let latency = metrics.latency(sign);
                assert_eq!(latency.buckets[expected], 1, "{nanoseconds} ns: {latency:?}");
            }
        }
    }

    #[test]
    fn unknown_methods_and_codes_are_counted_and_never_panic() {
        let metrics = Metrics::new();
        let unknown = Measured::by_method(u16::MAX);
        metrics.request(unknown, u32::MAX, Duration::MAX);
        metrics.request(Measured::by_method(0), 0, Duration::ZERO);
        assert_eq!(metrics.latency(unknown).count(), 2);
        assert_eq!(metrics.failures(unknown, RESULTS - 1), 1);
    }

    #[test]
    fn a_connection_counts_as_open_until_its_guard_is_dropped() {
        let metrics = std::sync::Arc::new(Metrics::new());
        let open = metrics.connection(Transport::Unix);
        assert_eq!(metrics.connections_open(Transport::Unix), 1);
        drop(open);
        assert_eq!(metrics.connections_open(Transport::Unix), 0);
        assert_eq!(metrics.connections_accepted(Transport::Unix), 1);
    }
}

//! The leader's time: one rule that keeps it steady whatever the machine's clock does.
//!
//! 1. A stamp is never less than a stamp before, also after a restart and after a change of leader.
//! 2. While the machine runs, and over restarts of the process, a stamp advances with the time since boot: at least
//!    7/8 and at most 9/8 of it. Within these bounds it moves towards the time of day. So a clock that jumps, either
//!    way and however far, neither ends sessions nor makes them live for ever.
//! 3. After a reboot (or when the time since boot is not known) a stamp takes the time of day when that is later by at
//!    most [`BELIEVED_GAP`]; else time goes on from the last stamp. A stamp older than this product was made by a wrong
//!    clock, so any later time of day is believed over it.
//! 4. A node that joins a cluster has its time from the cluster: what its machine's clock says counts from the first stamp
//!    of the log, or of the state that it was sent, and not before.
//!
//! It asks the [`Clock`] and nothing else for time.

use std::sync::Arc;

use hsm_core::Stamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::clock::{Clock, ClockReading};

/// Longest time without power that is believed, in milliseconds: 366 days.
pub(crate) const BELIEVED_GAP: u64 = 366 * 24 * 3600 * 1000;

/// 2026-01-01 00:00:00 UTC, in milliseconds: no right clock was ever behind it while this product existed.
pub(crate) const PRODUCT_EPOCH: u64 = 1_767_225_600_000;

/// After this time, in milliseconds, the anchor moves on, so that the bounds are those of recent speed.
const ANCHOR_AGE: u64 = 1000;

/// A stamp and what the clocks said when it was given. Stored beside the log of this node, not replicated.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Stamped {
    pub(crate) stamp: Stamp,
    pub(crate) reading: ClockReading,
}

/// Gives stamps.
pub(crate) struct Stamper {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

struct State {
    anchor: Option<Stamped>,
    last: Stamp,
    /// Without an anchor the machine's clock is not believed: the first stamp of others is.
    follows: bool,
}

impl Stamper {
    /// Goes on from what was stored; without that from the time of day.
    pub(crate) fn new(clock: Arc<dyn Clock>, stored: Option<Stamped>) -> Self {
        let last = stored.map(|stored| stored.stamp).unwrap_or_default();
        Self { clock, state: Mutex::new(State { anchor: stored, last, follows: false }) }
    }

    /// Goes on from what was stored; without that from the last stamp of the state that was sent to this node, or from
    /// the first of the log.
    pub(crate) fn following(clock: Arc<dyn Clock>, stored: Option<Stamped>, applied: Stamp) -> Self {
        let stamper = Self::new(clock, stored);
        stamper.state.lock().follows = true;
        if stored.is_none() && applied.0 > 0 {
            stamper.observe(applied);
        }
        stamper
    }

    /// The time now.
    pub(crate) fn now(&self) -> Stamp {
        self.advance().stamp
    }

    /// The time now, with what must be stored so that a restart goes on from it; `None` when there is nothing to go on
    /// from yet.
    pub(crate) fn give(&self) -> Option<Stamped> {
        let stamped = self.advance();
        self.state.lock().anchor.is_some().then_some(stamped)
    }

    fn advance(&self) -> Stamped {
        let reading = self.clock.read();
        let mut state = self.state.lock();
        if state.follows && state.anchor.is_none() {
            return Stamped { stamp: Stamp(reading.wall), reading };
        }
        let stamp = Stamp(advance(state.anchor.as_ref(), &reading).max(state.last.0));
        let age = state.anchor.map(|anchor| reading.steady.saturating_sub(anchor.reading.steady));
        let other_boot = state.anchor.is_some_and(|anchor| anchor.reading.boot != reading.boot);
        if other_boot || age.is_none_or(|age| age >= ANCHOR_AGE) {
            state.anchor = Some(Stamped { stamp, reading });
        }
        state.last = stamp;
        Stamped { stamp, reading }
    }

    /// A command of the log carries this stamp, given by this node or another one.
    pub(crate) fn observe(&self, stamp: Stamp) {
        let reading = self.clock.read();
        let mut state = self.state.lock();
        if stamp > state.last || (state.follows && state.anchor.is_none()) {
            state.last = stamp;
            state.anchor = Some(Stamped { stamp, reading });
        }
    }
}

fn advance(anchor: Option<&Stamped>, reading: &ClockReading) -> u64 {
    let Some(anchor) = anchor else {
        return reading.wall;
    };
    let before = anchor.stamp.0;
    let known_boot = reading.boot != [0; 16] && reading.boot == anchor.reading.boot;
    if known_boot && reading.steady >= anchor.reading.steady {
        let elapsed = reading.steady - anchor.reading.steady;
        let slowest = before.saturating_add(elapsed - elapsed / 8);
        let fastest = before.saturating_add(elapsed.saturating_add(elapsed / 8));
        return reading.wall.clamp(slowest, fastest);
    }
    let gap = reading.wall.saturating_sub(before);
    if gap <= BELIEVED_GAP || before < PRODUCT_EPOCH { before + gap } else { before }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const START: u64 = PRODUCT_EPOCH + 1_000_000;
    const HOUR: u64 = 3_600_000;

    struct TestClock {
        wall: AtomicU64,
        steady: AtomicU64,
        boot: AtomicU64,
    }

    impl TestClock {
        fn new() -> Arc<Self> {
            Arc::new(Self { wall: AtomicU64::new(START), steady: AtomicU64::new(5000), boot: AtomicU64::new(1) })
        }

        fn pass(&self, milliseconds: u64) {
            self.wall.fetch_add(milliseconds, Ordering::SeqCst);
            self.steady.fetch_add(milliseconds, Ordering::SeqCst);
        }
    }

    impl Clock for TestClock {
        fn read(&self) -> ClockReading {
            let mut boot = [0; 16];
            boot[..8].copy_from_slice(&self.boot.load(Ordering::SeqCst).to_le_bytes());
            ClockReading { wall: self.wall.load(Ordering::SeqCst), steady: self.steady.load(Ordering::SeqCst), boot }
        }
    }

    #[test]
    fn a_right_clock_is_followed() {
        let clock = TestClock::new();
        let stamper = Stamper::new(clock.clone(), None);
        assert_eq!(stamper.now(), Stamp(START));
        for _ in 0..1000 {
            clock.pass(7);
            stamper.now();
        }
        assert_eq!(stamper.now(), Stamp(START + 7000));
    }

    #[test]
    fn a_clock_that_jumps_years_forward_moves_time_by_an_eighth_more() {
        let clock = TestClock::new();
        let stamper = Stamper::new(clock.clone(), None);
        stamper.now();
        clock.wall.fetch_add(10 * 365 * 24 * HOUR, Ordering::SeqCst);
        assert_eq!(stamper.now(), Stamp(START));
        for _ in 0..3600 {
            clock.pass(1000);
            stamper.now();
        }
        assert_eq!(stamper.now(), Stamp(START + HOUR + HOUR / 8));
    }

    #[test]
    fn a_clock_that_jumps_back_neither_stops_time_nor_turns_it() {
        let clock = TestClock::new();
        let stamper = Stamper::new(clock.clone(), None);
        let mut last = stamper.now();
        clock.wall.fetch_sub(START / 2, Ordering::SeqCst);
        for _ in 0..3_600_000 / 50 {
            clock.pass(50);
            let now = stamper.now();
            assert!(now >= last);
            last = now;
        }
        assert!(last.0 >= START + HOUR - HOUR / 8 && last.0 <= START + HOUR);
    }

    #[test]
    fn a_restart_with_a_wrong_clock_goes_on_from_the_last_stamp() {
        let clock = TestClock::new();
        let stored = Stamper::new(clock.clone(), None).give().unwrap();
        clock.pass(HOUR);
        clock.wall.fetch_add(20 * 365 * 24 * HOUR, Ordering::SeqCst);
        assert_eq!(Stamper::new(clock.clone(), Some(stored)).now(), Stamp(START + HOUR + HOUR / 8));
        clock.wall.store(3, Ordering::SeqCst);
        assert_eq!(Stamper::new(clock, Some(stored)).now(), Stamp(START + HOUR - HOUR / 8));
    }

    #[test]
    fn after_a_reboot_a_month_off_is_believed_and_twenty_years_are_not() {
        let clock = TestClock::new();
        let stored = Stamper::new(clock.clone(), None).give().unwrap();
        clock.boot.store(2, Ordering::SeqCst);
        clock.steady.store(10, Ordering::SeqCst);
        clock.wall.fetch_add(30 * 24 * HOUR, Ordering::SeqCst);
        assert_eq!(Stamper::new(clock.clone(), Some(stored)).now(), Stamp(START + 30 * 24 * HOUR));
        clock.wall.fetch_add(20 * 365 * 24 * HOUR, Ordering::SeqCst);
        let stamper = Stamper::new(clock.clone(), Some(stored));
        assert_eq!(stamper.now(), Stamp(START));
        clock.pass(8000);
        assert_eq!(stamper.now(), Stamp(START + 9000), "time goes on");
        clock.wall.store(START - HOUR, Ordering::SeqCst);
        assert_eq!(Stamper::new(clock, Some(stored)).now(), Stamp(START));
    }

    #[test]
    fn a_store_made_under_a_clock_of_1970_learns_the_right_time_at_the_next_boot() {
        let clock = TestClock::new();
        clock.wall.store(5000, Ordering::SeqCst);
        let stored = Stamper::new(clock.clone(), None).give().unwrap();
        clock.boot.store(2, Ordering::SeqCst);
        clock.wall.store(START, Ordering::SeqCst);
        assert_eq!(Stamper::new(clock, Some(stored)).now(), Stamp(START));
    }

    #[test]
    fn a_node_that_joins_with_a_wrong_clock_has_the_clusters_time() {
        let clock = TestClock::new();
        clock.wall.store(START + 365 * 24 * HOUR, Ordering::SeqCst);
        let stamper = Stamper::following(clock.clone(), None, Stamp(0));
        assert!(stamper.give().is_none(), "nothing to go on from is stored");
        stamper.now();
        stamper.observe(Stamp(START));
        clock.pass(8000);
        assert_eq!(stamper.now(), Stamp(START + 9000));
        let stored = stamper.give();
        assert_eq!(Stamper::following(clock.clone(), stored, Stamp(START)).now(), Stamp(START + 9000));
        assert_eq!(Stamper::following(clock, None, Stamp(START)).now(), Stamp(START), "by a snapshot");
    }
}

//! A clock that follows tokio's paused time, and jumps when it is told to.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use hsm_replication::clock::{Clock, ClockReading};

/// 2026-11-22 00:00:00 UTC in milliseconds: where simulated time begins.
pub const START: u64 = 1_795_305_600_000;

/// The clocks of one machine.
pub struct SimClock {
    zero: tokio::time::Instant,
    wall_offset: AtomicI64,
    boot: AtomicU64,
    stands: AtomicBool,
    /// In millionths of the true speed.
    speed: u64,
}

impl SimClock {
    /// Clocks that are right. Must be made inside the runtime.
    #[expect(clippy::new_without_default, reason = "it reads the runtime's clock")]
    pub fn new() -> Self {
        Self::drifting(1_000_000)
    }

    /// Clocks that run at this speed, in millionths of the true one.
    pub fn drifting(speed: u64) -> Self {
        let (zero, stands) = (tokio::time::Instant::now(), AtomicBool::new(false));
        Self { zero, wall_offset: AtomicI64::new(0), boot: AtomicU64::new(1), stands, speed }
    }

    /// How fast they run, in millionths of the true speed.
    pub fn speed(&self) -> u64 {
        self.speed
    }

    /// The time of day jumps by this many milliseconds.
    pub fn jump(&self, milliseconds: i64) {
        self.wall_offset.fetch_add(milliseconds, Ordering::SeqCst);
    }

    /// Time stands still, so that two runs give the same stamps.
    pub fn stand_still(&self) {
        self.stands.store(true, Ordering::SeqCst);
    }

    /// The machine was booted again.
    pub fn reboot(&self) {
        self.boot.fetch_add(1, Ordering::SeqCst);
    }
}

impl Clock for SimClock {
    fn read(&self) -> ClockReading {
        let elapsed = if self.stands.load(Ordering::SeqCst) { Duration::ZERO } else { self.zero.elapsed() };
        let elapsed = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        let elapsed = elapsed / 1_000 * self.speed / 1_000_000;
        let wall = (START + elapsed).saturating_add_signed(self.wall_offset.load(Ordering::SeqCst));
        let mut boot = [0; 16];
        boot[..8].copy_from_slice(&self.boot.load(Ordering::SeqCst).to_le_bytes());
        ClockReading { wall, steady: 1_000 + elapsed, boot }
    }
}

//! Where time comes from. The only file of this crate that asks the system for the time of day.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What the clocks say at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ClockReading {
    /// Time of day, milliseconds since 1970-01-01 UTC. May jump either way.
    pub wall: u64,
    /// Milliseconds since the machine was booted. Never jumps.
    pub steady: u64,
    /// Which boot `steady` counts from; zeros when unknown, which equals no other boot.
    pub boot: [u8; 16],
}

/// A source of time.
pub trait Clock: Send + Sync {
    /// What the clocks say now. Called often: must cost well under a microsecond.
    fn read(&self) -> ClockReading;
}

/// The system's clocks. Made before a sandbox closes `/proc`.
pub struct SystemClock {
    boot: [u8; 16],
    steady_at_start: Duration,
    start: Instant,
}

impl SystemClock {
    /// Reads which boot this is and how long ago it was (`proc(5)`: `sys/kernel/random/boot_id`, `uptime`).
    pub fn start() -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().and_then(|text| parse_boot(&text));
        let uptime = std::fs::read_to_string("/proc/uptime").ok().and_then(|text| parse_uptime(&text));
        let (boot, steady_at_start) = boot.zip(uptime).unwrap_or_default();
        Self { boot, steady_at_start, start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn read(&self) -> ClockReading {
        let steady = self.steady_at_start + self.start.elapsed();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        ClockReading { wall: milliseconds(wall), steady: milliseconds(steady), boot: self.boot }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Sixteen octets from their hexadecimal digits with hyphens between.
fn parse_boot(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.trim().chars().filter(|&character| character != '-').collect();
    u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 32).map(u128::to_be_bytes)
}

/// The first number of `/proc/uptime`: seconds with two decimals.
fn parse_uptime(text: &str) -> Option<Duration> {
    let seconds: f64 = text.split_ascii_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_and_uptime_are_read_as_linux_writes_them() {
        let boot = parse_boot("3f2b1c4d-0000-4a5b-8c6d-7e8f90a1b2c3\n").unwrap();
        assert_eq!(boot[..4], [0x3f, 0x2b, 0x1c, 0x4d]);
        assert_eq!(parse_boot("no boot"), None);
        assert_eq!(parse_uptime("350735.47 234388.90\n"), Some(Duration::from_millis(350_735_470)));
        assert_eq!(parse_uptime(""), None);
    }

    #[test]
    fn the_systems_clock_goes_forward() {
        let clock = SystemClock::start();
        let first = clock.read();
        std::thread::sleep(Duration::from_millis(5));
        let second = clock.read();
        assert!(second.steady >= first.steady + 4 && second.boot == first.boot);
    }
}

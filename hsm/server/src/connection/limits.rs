//! The limits of one connection that only the HSM needs to know, each with its reason. What clients must know as well
//! stands in `hsm_protocol::limits`.

use std::time::Duration;

/// The TLS handshake, from the first byte awaited to the last one sent. Honest clients need milliseconds; a connection
/// that is opened and left alone must not hold a thread for long.
pub(crate) const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// Between the first and the last byte of one frame. At the frame limit this is 10 KiB per second.
pub(crate) const FRAME_TIME: Duration = Duration::from_secs(120);

/// A connection on which nobody is logged in and nothing is asked is closed after this; libraries reconnect by
/// themselves.
pub(crate) const IDLE_TIME: Duration = Duration::from_secs(600);

/// How often a blocked read looks at the two limits above.
pub(crate) const READ_TICK: Duration = Duration::from_secs(5);

/// A client that takes none of its replies for this long is cut off.
pub(crate) const STALL_TIME: Duration = Duration::from_secs(30);

/// A connection that is being closed waits this long for replies that are still being made.
pub(crate) const FAREWELL_TIME: Duration = Duration::from_secs(5);

/// Bytes taken from the socket by one read: many requests at once are what saves system calls.
pub(crate) const READ_BYTES: usize = 32 * 1024;

/// Replies are sealed and sent at the latest when they reach this many bytes, even if more requests wait.
pub(crate) const REPLY_BATCH_BYTES: usize = 128 * 1024;

/// Sealed bytes that the client has not taken; above this no further request of the connection is run until it reads.
pub(crate) const UNSENT_BYTES: usize = 1024 * 1024;

/// Bytes of requests that other threads work on for one connection; the next such request is answered with `Busy`.
pub(crate) const BYTES_IN_FLIGHT: usize = 8 * 1024 * 1024;

/// A buffer that has grown beyond this for one large frame is given back when it is empty.
pub(crate) const KEPT_BUFFER_BYTES: usize = 256 * 1024;

/// How long a thread yields and looks again before it sleeps in a read: at most the time that a wake-up costs.
pub(crate) const SPIN_TIME: Duration = Duration::from_micros(20);

const _: () = assert!(KEPT_BUFFER_BYTES >= REPLY_BATCH_BYTES);
const _: () = assert!(BYTES_IN_FLIGHT > hsm_protocol::limits::FRAME_LIMIT as usize);
const _: () = assert!(READ_TICK.as_secs() < HANDSHAKE_TIME.as_secs());

//! Limits of the work on requests that only the HSM needs to know, each with its reason. What clients must know stands
//! in `hsm_protocol::limits`, what the state machine decides by in `hsm_core`.

use std::time::Duration;

/// How long a request waits for this HSM to reach the index that its client has seen (design: read your writes).
pub(crate) const INDEX_WAIT: Duration = Duration::from_millis(50);

/// How often a thread that waits for the key of a new epoch looks.
pub(crate) const EPOCH_PAUSE: Duration = Duration::from_millis(2);

/// How often a change is made again when the object changed while it was made.
pub(crate) const REMAKES: u32 = 3;

/// Logins that one connection may have attached: one per user of an application, and some for its children.
pub(crate) const ATTACHED_SESSIONS: usize = 256;

/// Time that a login waits for the log in each of its two steps.
pub(crate) const LOGIN_LOG_TIME: Duration = Duration::from_secs(10);

/// Passwords compared at the same time: each takes 19 MiB and a core for some 20 ms.
pub(crate) const PASSWORD_THREADS: usize = 4;

/// Logins that wait for a password thread: at 20 ms each on four threads, the last one waits about a second.
pub(crate) const PASSWORD_QUEUE: usize = 256;

/// Long operations that wait for a thread, over all connections.
pub(crate) const COMPUTE_QUEUE: usize = 4096;

/// Logins that one source may try at once.
pub(crate) const GUESS_BURST: u32 = 200;

/// Time for one more: 20 logins a second for ever.
pub(crate) const GUESS_INTERVAL: Duration = Duration::from_millis(50);

/// What a wrong password costs, in logins: 2 guesses a second for ever.
pub(crate) const WRONG_GUESS_COST: u32 = 10;

/// Sources that are remembered; more at one time wait.
pub(crate) const GUESS_SOURCES: usize = 65_536;

/// Memory for parsed keys, in bytes, as estimated from their sizes.
pub(crate) const KEY_CACHE_BYTES: usize = 256 * 1024 * 1024;

/// Parsed keys at most.
pub(crate) const KEY_CACHE_KEYS: usize = 200_000;

/// Session objects of one login that this HSM holds opened. The library presents the others again.
pub(crate) const SESSION_OBJECTS: usize = 1024;

/// Session objects over all logins, as an estimate of 8 KiB each bounds their memory to 512 MiB.
pub(crate) const SESSION_OBJECTS_IN_ALL: usize = 65_536;

/// Destroyed session objects of one login that this HSM remembers, so that their sealed form is refused.
pub(crate) const DESTROYED_SESSION_OBJECTS: usize = 4096;

/// Seed that one call may bring, in bytes: more than any generator's state is only work.
pub(crate) const SEED_BYTES: usize = 64 * 1024;

/// Waiting time told to a client whose request found a full queue, in milliseconds.
pub(crate) const BUSY_RETRY: u32 = 20;

/// Input that the streams of one connection may hold back together, in bytes: two AEAD decryptions of the greatest length.
pub(crate) const STREAM_BYTES: usize = 2 * hsm_protocol::limits::AEAD_HOLD_LIMIT;

const _: () = assert!(SESSION_OBJECTS_IN_ALL >= SESSION_OBJECTS * 16);

//! Limits of replication, each with its reason.

use std::time::Duration;

/// Commands in one log entry, in bytes. openraft 0.9 sends up to 300 entries in one call without a limit in bytes and
/// gives the call one heartbeat: [`ENTRIES_PER_CALL`] of these must move in half a heartbeat.
pub const ENTRY_BYTES: usize = 256 * 1024;

/// Commands in one log entry: bounds the time that one entry takes to apply.
pub const ENTRY_COMMANDS: usize = 1024;

/// Entries in one call to a follower.
pub const ENTRIES_PER_CALL: u64 = 8;

/// Commands that wait for an entry; the next one is answered with `Busy`.
pub const QUEUE_COMMANDS: usize = 16 * 1024;

/// Bytes of commands that wait for an entry; the next one is answered with `Busy`.
pub const QUEUE_BYTES: usize = 16 * 1024 * 1024;

/// Entries proposed and not yet applied. Two: one is flushed while the one before is applied; more would only cut
/// batches smaller.
pub const ENTRIES_IN_FLIGHT: usize = 2;

/// Parts of entries that other members forwarded and that wait for an entry: two from each of 28, and room for restarts.
pub const FORWARDED_PARTS: usize = 64;

/// Starts of members that one leader takes parts from in one term. Members restart seldom; a term ends at least with
/// every restart of the leader.
pub const FORWARDING_STARTS: usize = 4096;

/// How long a forwarded part may wait for an entry before it is refused.
pub const FORWARDED_WAIT: Duration = Duration::from_secs(2);

/// How long a forwarder waits for the leader's word before it sends a part again.
pub const FORWARD_TIMEOUT: Duration = Duration::from_secs(3);

/// How often a node that has something to propose looks for a leader when it knows none.
pub const LEADER_POLL: Duration = Duration::from_millis(20);

/// How often each member asks every other one how it does, and how long it waits for the answer. A lease of 4 s is asked
/// for as often, so that one lost message costs nothing.
pub const PULSE: Duration = Duration::from_secs(1);

/// How long a member that is asked by the leader waits until it has applied what the leader had.
pub const PULSE_PATIENCE: Duration = Duration::from_millis(200);

/// How often a node that waits for a command to be applied looks.
pub const APPLIED_POLL: Duration = Duration::from_millis(5);

/// Entries whose chain hashes are remembered to be compared: what a second of writing makes at most.
pub const RECENT_HASHES: usize = 4096;

/// Members that are remembered: 28, a witness, and as many that take their places.
pub const MEMORIES: usize = 64;

/// How often in a row whoever leads must say that this node is no member before it believes it.
pub const TIMES_UNLISTED: u32 = 3;

/// How often the leader compares Raft's membership with the roster.
pub const SUPERVISION: Duration = Duration::from_millis(250);

/// How long one change of membership may take before the leader looks again.
pub const MEMBERSHIP_TIMEOUT: Duration = Duration::from_secs(10);

/// A member that was heard of within this time is alive: three pulses.
pub const ALIVE: Duration = Duration::from_secs(3);

/// A voter that was not heard of for this time gives its vote to another HSM. A restart takes less.
pub const LOST: Duration = Duration::from_secs(60);

/// How long ago a learner's state may have reached the leader's when it becomes a voter.
pub const LEVEL: Duration = Duration::from_secs(5);

/// How often the proposer gives way to others before it closes an entry that is smaller than the last one: about 100
/// microseconds, which is less than a fsync.
pub const GATHER_YIELDS: usize = 300;

/// How long a command may be under way before its outcome is called unknown. A fail-over of a cluster takes 1 to 3 s.
pub const PROPOSE_DEADLINE: Duration = Duration::from_secs(10);

/// How long a voter that was started again waits for the memory of so many others that one of them must know, before it
/// takes a majority's word that includes its own. A voter that is alive answers within two pulses.
pub const RESTART_PATIENCE: Duration = Duration::from_secs(5);

/// Time between two heartbeats of a leader.
pub const HEARTBEAT: Duration = Duration::from_millis(250);

/// Shortest time, after the longest one went by without a heartbeat, before a voter stands for election.
pub const ELECTION_MINIMUM: Duration = Duration::from_millis(700);

/// Longest such time; also how long a voter that heard a leader grants no other vote.
pub const ELECTION_MAXIMUM: Duration = Duration::from_millis(1100);

/// How many times as long a witness waits before it stands for election: HSMs go first.
pub const WITNESS_PATIENCE: u32 = 3;

/// How long a lease lasts from the moment at which it was asked for: more than 1.5 times what a fail-over takes, so that
/// the loss of a leader isolates nobody.
pub const LEASE: Duration = Duration::from_secs(4);

/// After this time since the leader received an ask, the asker's lease is over by any clock: a tenth more, for clocks that
/// run unlike.
pub const LEASE_PASSED: Duration = Duration::from_millis(4400);

/// An HSM's clock may be slower than another's by this part of the time that goes by: its window lasts so much longer.
/// Clocks without a time server drift by less than a thousandth.
pub const SLOWEST_CLOCK: u64 = 32;

/// How often a lease is asked for, and how long the answer may take.
pub const LEASE_ASK: Duration = Duration::from_secs(1);

/// How often while there is none.
pub const LEASE_RETRY: Duration = Duration::from_millis(200);

/// How long a witness waits for the HSM that it hands the lead to.
pub const HAND_OVER: Duration = Duration::from_secs(3);

/// Time between two attempts of that HSM to be elected.
pub const ELECTION_PAUSE: Duration = Duration::from_millis(300);

/// How often a voter stands in the place of one with a shorter log: the first attempt may only tell it the term that it
/// must exceed, and the second wins unless a message is lost.
pub const STANDING_TRIES: u32 = 4;

/// Time for one chunk of a snapshot to be sent and stored. Not much more: a receiver that loses its power says nothing, and
/// gets nothing from this leader while the chunk is waited for.
pub const CHUNK_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for the last chunk, with which the snapshot is installed.
pub const INSTALL_TIMEOUT: Duration = Duration::from_secs(60);

/// How often one chunk is sent before the snapshot begins anew.
pub const CHUNK_TRIES: u32 = 5;

/// Time for a range of a snapshot to be offered, sent and stored: a megabit and a half a second.
pub const RANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a receiver may look through a whole state and install it: for 1,000,000 keys some ten seconds, on a slow machine
/// with a slow disk several times that.
pub const INSTALLING: Duration = Duration::from_secs(300);

/// How often the sender asks whether it has.
pub const INSTALLING_LOOK: Duration = Duration::from_millis(100);

/// How often a sender begins again with the first range, because the receiver was started anew, before it gives up and takes
/// a newer state.
pub const RANGE_RESTARTS: u32 = 8;

/// How long one state is sent before the sender goes on with a newer one. What is read stays in the store's file for so
/// long, also what was replaced meanwhile.
pub const TRANSFER_LIFE: Duration = Duration::from_secs(600);

/// Rows of a range, on average. A key is two rows and below 1 KiB with both, so a range is less than 1 MiB: what is sent
/// again for one changed row, or lost by a kill. 1,000,000 keys are 2,000 ranges.
pub const RANGE_ROWS: u64 = if cfg!(hsm_sim) { 8 } else { 1024 };

/// Ranges that a receiver stores before it waits for the disk: so many are received again after a kill at most.
pub const RANGES_PER_FLUSH: u32 = 4;

/// How long what was received of a state is kept while nobody goes on sending it.
pub const INCOMING_KEPT: Duration = Duration::from_secs(15 * 60);

/// How often a node looks whether to keep it.
pub const INCOMING_LOOK: Duration = Duration::from_secs(60);

/// Rows that are removed at once when it is not kept: some tens of milliseconds, in which nothing else is written.
pub const DISCARDED_ROWS: u32 = 4096;

/// Log that is kept for a member that is being sent a state, so that it can go on from there, in bytes: as much disk a
/// member that is slow, or gone, may cost the one that leads.
pub const HELD_LOG_BYTES: u64 = if cfg!(hsm_sim) { 64 * 1024 } else { 512 * 1024 * 1024 };

/// How long it is kept after the state was installed: until the member has read it.
pub const HELD_LOG_AFTER: Duration = if cfg!(hsm_sim) { Duration::from_secs(2) } else { Duration::from_secs(60) };

/// How often it is looked whether the log must still be kept.
pub const HELD_LOG_LOOK: Duration = Duration::from_millis(200);

/// Entries after which a snapshot is marked, so that the log before it can go. A mark costs nothing: the state in the
/// store is the snapshot. In simulation fewer, so that a run of some hundred entries meets every way of joining.
pub const ENTRIES_PER_SNAPSHOT: u64 = if cfg!(hsm_sim) { 48 } else { 512 };

/// Entries kept behind a snapshot for followers that lag a little.
pub const ENTRIES_KEPT: u64 = if cfg!(hsm_sim) { 32 } else { 512 };

/// Entries kept in memory after they were appended, so that applying and sending them reads no disk.
pub const TAIL_ENTRIES: usize = 64;

/// Rows of one chunk of a snapshot, and of one range at most but for its last row, in bytes.
pub const SNAPSHOT_CHUNK_BYTES: usize = if cfg!(hsm_sim) { 4 * 1024 } else { 1024 * 1024 };

/// Rows of a range with its last row, in bytes: no row is larger than the entry that it came with.
pub const RANGE_BYTES_MAXIMUM: usize = SNAPSHOT_CHUNK_BYTES + 2 * ENTRY_BYTES;

/// Memory for pages of the store.
pub const CACHE_BYTES: usize = 64 * 1024 * 1024;

/// Free space below which a leader gives the lead away, or, when nobody takes it, refuses changes with `StorageFull`: several entries of the largest size with the
/// pages that change around them.
pub const FREE_BYTES: u64 = 4 * 1024 * 1024;

/// Free space without which a node does not take a lead that another one gives away because its disk is full: twice that at
/// which it would give it away itself, so that two disks at the limit do not pass it to and fro.
pub const FREE_BYTES_TO_LEAD: u64 = 2 * FREE_BYTES;

/// How long a leader without room looks for a voter that takes the lead before it refuses changes: a voter that lags has
/// caught up by then, and one that is gone is known to be ([`ALIVE`]).
pub const ROOM_SOUGHT: Duration = ALIVE;

/// Audit records in one answer.
pub const AUDIT_PAGE: usize = 4096;

const _: () = assert!(RANGE_TIMEOUT.as_millis() * CHUNK_TRIES as u128 * 2 < INCOMING_KEPT.as_millis());
const _: () = assert!(INSTALLING.as_millis() < TRANSFER_LIFE.as_millis());
const _: () = assert!(FREE_BYTES >= 8 * ENTRY_BYTES as u64);
const _: () = assert!(QUEUE_BYTES >= 8 * ENTRY_BYTES);
const _: () = assert!(HEARTBEAT.as_millis() * 2 < ELECTION_MINIMUM.as_millis());
const _: () = assert!(ROOM_SOUGHT.as_millis() + HAND_OVER.as_millis() < PROPOSE_DEADLINE.as_millis());
const _: () = assert!(FORWARDED_WAIT.as_millis() < FORWARD_TIMEOUT.as_millis());
const _: () = assert!(FORWARD_TIMEOUT.as_millis() < PROPOSE_DEADLINE.as_millis());
const _: () = assert!(PULSE_PATIENCE.as_millis() * 2 < PULSE.as_millis());
const _: () = assert!(PULSE.as_millis() * 2 < ALIVE.as_millis() && ALIVE.as_millis() < LOST.as_millis());
const _: () = assert!(LEASE.as_millis() * 11 <= LEASE_PASSED.as_millis() * 10);
// A fail-over: nobody grants a vote for the longest election time, the next voter waits at most another one.
const _: () = assert!(LEASE.as_millis() * 2 >= 3 * (2 * ELECTION_MAXIMUM.as_millis() + HEARTBEAT.as_millis()));

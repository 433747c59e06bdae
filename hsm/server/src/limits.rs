//! Every limit of this process, with its reason. Limits that clients know too stand in `hsm_protocol::limits`.

use std::time::Duration;

/// Connections over TLS at one time, unless `--max-connections` says otherwise. Each has a thread with a small stack, so
/// this is about memory: 4,096 idle ones cost about 200 MiB.
pub const CONNECTIONS: usize = 4096;

/// Connections over the Unix socket at one time: the same host's applications, which pool their connections.
pub const UNIX_CONNECTIONS: usize = 1024;

/// Handshakes under way at one time, from everywhere. Each holds a thread, but no more than a handshake's memory.
pub const HALF_OPEN: usize = 512;

/// Handshakes under way from one source (an IPv4 address or an IPv6 /64). An honest client opens two at a time per
/// process; a host with many processes that all start at once stays below this, and a flood from one source leaves the
/// rest of [`HALF_OPEN`] to others.
pub const HALF_OPEN_PER_SOURCE: usize = 64;

/// Time for a handshake. An honest one is over within a few round trips.
pub const HANDSHAKE: Duration = Duration::from_secs(5);

/// Stack of a connection's thread, in bytes. Bignum code and protobuf decoding stay far below; the pages that are never
/// touched cost nothing.
pub const CONNECTION_STACK: usize = 1024 * 1024;

/// How often the listener looks for handshakes whose time is over.
pub const WATCH_INTERVAL: Duration = Duration::from_millis(250);

/// Wait after `accept` failed because files or memory ran out, so that the failure is not repeated in a tight loop.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Longest management message in bytes: two certificates of at most 20,000 bytes each and room beside them.
pub const MANAGEMENT_MESSAGE: usize = 64 * 1024;

/// Management connections at one time: a person, a launcher and a monitor.
pub const MANAGEMENT_CONNECTIONS: usize = 16;

/// Time for one management message to come in whole, and for one answer to leave.
pub const MANAGEMENT_TIME: Duration = Duration::from_secs(10);

/// Time that `kagimori-hsm manage` waits for an answer: forming a cluster makes keys and writes the disk.
pub const MANAGE_ANSWER_TIME: Duration = Duration::from_secs(60);

/// Time that management waits for the log.
pub const PROPOSAL_TIME: Duration = Duration::from_secs(20);

/// Time that requests under way have to end after a request to stop.
pub const STOP_TIME: Duration = Duration::from_secs(10);

/// How often sessions whose time is over are ended. Expiry itself is checked at each use; this only frees the records.
pub const EXPIRE_INTERVAL: Duration = Duration::from_secs(60);

/// Bytes of a request for `/metrics` or `/health`: a request line and a browser's headers.
pub const HEALTH_REQUEST: usize = 16 * 1024;

/// Connections to the health port at one time.
pub const HEALTH_CONNECTIONS: usize = 32;

/// Time for one request to the health port, headers included.
pub const HEALTH_TIME: Duration = Duration::from_secs(5);

/// Upper bounds of the latency buckets in `/metrics`, in nanoseconds: 5 µs, each twice the one before, to 5.2 s, then
/// infinity. A search or a P-256 signature (15 µs) lies in the first three, a change of the log (1 to 20 ms) in the middle,
/// and the last bound is above the isolation lease of 4 s, the longest that a change waits for by itself. Powers of two, so
/// that the bucket is found by one instruction on the hot path.
pub const LATENCY_BOUNDS: [u64; 21] = {
    let mut bounds = [0; 21];
    let mut position = 0;
    while position < bounds.len() {
        bounds[position] = 5_000 << position;
        position += 1;
    }
    bounds
};

/// How far apart the samples are from which `kagimori cluster status` tells rates, and how many are kept: together a
/// minute, at 30 KiB each.
pub const RATE_SAMPLE: Duration = Duration::from_secs(10);
/// See [`RATE_SAMPLE`].
pub const RATE_SAMPLES: usize = 6;

/// A request that takes longer is in the log by itself, unless it is long by nature: fifty times what a login takes.
pub const SLOW_REQUEST: Duration = Duration::from_secs(1);

/// Lines a second about single requests that the log has unasked (slow ones, failures of this HSM): a client cannot fill
/// the disk with them. More are counted in `/metrics` and said at level debug.
pub const REQUEST_LINES: u32 = 20;

/// Bytes of a label: `CK_TOKEN_INFO.label` is 32 bytes (PKCS#11 2.40 §3.2).
pub const LABEL_BYTES: usize = 32;

/// Characters of the activation password. 62 letters and digits give 5.95 bits each: 142 bits. AWS allows at most 32
/// (`PreCoPassword`, CloudHSM v2 API).
pub const ACTIVATION_PASSWORD_CHARACTERS: usize = 24;

/// Bytes of a release file: five short lines.
pub const RELEASE_FILE_BYTES: u64 = 1024;

/// Longest passphrase file in bytes.
pub const PASSPHRASE_BYTES: usize = 4096;

/// Files and sockets that this process may have open, if the system permits: each connection needs two.
pub const OPEN_FILES: u64 = 65_536;

/// TCP ports that an HSM may connect to: each is a rule of Landlock, and a cluster has at most 28 other HSMs.
pub const PEER_PORTS: usize = 1024;

/// Connections from other HSMs at one time: two classes from each of 28, those that they are just replacing, and a
/// newcomer or two.
pub const PEER_CONNECTIONS: usize = 128;

/// Time for a TLS handshake and the first message with another HSM, on either side.
pub const PEER_OPENING: Duration = Duration::from_secs(4);

/// Time for the TCP connection to another HSM: its host answers within a round trip or is not there.
pub const PEER_CONNECT: Duration = Duration::from_secs(2);

/// Bytes of the first message of a connection between HSMs: a newcomer's addresses and keys. Also strangers may send one
/// (of those who hold a certificate of this installation), so it is small.
pub const PEER_OPENING_BYTES: usize = 16 * 1024;

/// Bytes of the answer to it: the roster, 29 times a certificate of up to 4,096 bytes and three addresses.
pub const PEER_OPENING_REPLY_BYTES: usize = 192 * 1024;

/// Bytes of one message between members: what replication sends in one call, twice over.
pub const PEER_MESSAGE: usize = 8 * 1024 * 1024;

/// Messages up to this size go by a connection of their own, so that no heartbeat waits behind a part of a snapshot.
pub const PEER_SMALL_MESSAGE: usize = 32 * 1024;

/// Messages that wait for one connection to a member. Replication has a handful under way with each.
pub const PEER_QUEUE: usize = 64;

/// Messages of one connection that are being answered at one time.
pub const PEER_ANSWERS: usize = 64;

/// First wait after a member could not be reached; it doubles up to [`PEER_PAUSE_MAXIMUM`].
pub const PEER_PAUSE: Duration = Duration::from_millis(50);

/// Longest wait before a member that could not be reached is tried again: below the time of an election, so that a member
/// that came back is heard before others vote without it.
pub const PEER_PAUSE_MAXIMUM: Duration = Duration::from_millis(800);

/// How long a caller of a member waits at most after the connection failed under his message, before he is told and asks
/// again. Without a wait he would spin; with all of his time, a part of a snapshot for a member that comes back at once would
/// be sent again after a minute.
pub const PEER_FAILED: Duration = Duration::from_secs(1);

/// A connection to a member on which nothing was sent for this long is closed.
pub const PEER_IDLE: Duration = Duration::from_secs(60);

/// Time after which the kernel gives up a connection whose octets nobody acknowledges (tcp(7), `TCP_USER_TIMEOUT`).
pub const PEER_SILENCE: Duration = Duration::from_secs(5);

/// A second process with the identity of a member is refused while the first was heard within this time.
pub const PEER_TWIN: Duration = Duration::from_secs(3);

/// Time that `manage join` waits until the newcomer holds the cluster's state; after it the join goes on by itself.
pub const JOIN_TIME: Duration = Duration::from_secs(45);

/// Time for a member to answer a newcomer: the log decides, perhaps after an election.
pub const ADMISSION_TIME: Duration = Duration::from_secs(25);

/// Peer addresses in one `manage join`: every member of the largest cluster.
pub const JOIN_ADDRESSES: usize = 32;

/// Between two attempts to go on with a join that was interrupted.
pub const JOIN_AGAIN: Duration = Duration::from_secs(5);

/// How long an HSM that was admitted before it was interrupted waits for a member that goes on sending it the state, before
/// it asks for admission anew. Whoever sends waits 10 s for an answer, and an election takes less.
pub const JOIN_SILENCE: Duration = Duration::from_secs(120);

/// How often a member compares what the roster says of it with what is so.
pub const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(2);

/// How often an HSM that was removed looks whether its vote is still needed: whoever removed it waits for its end.
pub const DEPARTURE_POLL: Duration = Duration::from_millis(100);

/// How often it is looked whether an epoch of the master key is due or over, and the longest rest between two commands that
/// move payloads.
pub const EPOCH_INTERVAL: Duration = Duration::from_secs(1);

/// Wait before a step of an epoch that came to nothing is tried again.
pub const EPOCH_AGAIN: Duration = Duration::from_millis(200);

/// Sealed payloads in one command that moves them, in bytes: the command may be longer by one of the longest payload, and
/// must stay below what one log entry carries, with room for clients' commands beside it.
pub const MOVE_BYTES: usize = 96 * 1024;

/// How many times as long as a command that moves payloads took it is rested after it: clients have three quarters of the
/// log.
pub const MOVE_REST: u32 = 3;

/// How long an HSM that seals or opens something waits until it has the key of an epoch that has just begun.
pub const EPOCH_WAIT: Duration = Duration::from_secs(2);

/// Largest journal of log-ins while an HSM was isolated that is read, in bytes. By the core's bounds it has at most 1,024
/// sessions in all (72 KiB), and 1,024 names and users in each of 64 parts (56 KiB each).
pub const ISOLATED_JOURNAL_BYTES: u64 = 4 * 1024 * 1024;

const _: () = assert!(MOVE_BYTES + 64 * 1024 <= hsm_replication::limits::ENTRY_BYTES);
const _: () = assert!(EPOCH_AGAIN.as_nanos() < EPOCH_INTERVAL.as_nanos());
const _: () = assert!(LATENCY_BOUNDS[LATENCY_BOUNDS.len() - 1] > 5_000_000_000);
const _: () = assert!(PEER_FAILED.as_millis() >= PEER_PAUSE_MAXIMUM.as_millis());
const _: () = assert!(PEER_CONNECTIONS >= 4 * hsm_core::limits::MEMBERS as usize);
const _: () = assert!(PEER_OPENING_REPLY_BYTES >= 29 * (hsm_core::limits::MEMBER_KEY_BYTES + 2 * 300));
const _: () = assert!(PEER_MESSAGE >= 2 * 2 * 1024 * 1024);
const _: () = assert!(JOIN_TIME.as_secs() < MANAGE_ANSWER_TIME.as_secs());
const _: () = assert!(PROPOSAL_TIME.as_secs() < ADMISSION_TIME.as_secs());
const _: () = assert!(HALF_OPEN_PER_SOURCE * 2 <= HALF_OPEN);
const _: () = assert!(HALF_OPEN <= CONNECTIONS);
const _: () = assert!(hsm_protocol::limits::CERTIFICATE_BYTES * 2 + 1024 <= MANAGEMENT_MESSAGE);
const _: () = assert!(ACTIVATION_PASSWORD_CHARACTERS <= 32);
const _: () = assert!(CONNECTIONS as u64 * 2 + 1024 <= OPEN_FILES);

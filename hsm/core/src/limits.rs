//! Every limit of the state machine, with its reason. AWS CloudHSM's quotas are a profile of their own.

use hsm_protocol::limits as protocol;

/// How much a cluster may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// Token objects of all kinds.
    pub objects: u64,
    /// Token objects that are asymmetric keys (public and private each count).
    pub asymmetric_keys: u64,
    /// Users of all roles.
    pub users: u64,
}

impl Quotas {
    /// What this product is built and measured for: design goal of 1,000,000 keys; users as AWS's hsm2m.medium.
    pub const OURS: Self = Self { objects: 1_000_000, asymmetric_keys: 1_000_000, users: 1_024 };

    /// hsm2m.medium: "CloudHSM quotas" of the AWS CloudHSM user guide.
    pub const AWS_HSM2M: Self = Self { objects: 16_666, asymmetric_keys: 3_333, users: 1_024 };
}

/// Wrong passwords after which new logins of a user stop: "more than 5", AWS CloudHSM user guide, HSM users.
pub const WRONG_PASSWORDS: u32 = 5;

/// Wait after the first wrong password beyond [`WRONG_PASSWORDS`] of the last usable admin, in milliseconds; it doubles
/// with each further one.
pub const LAST_ADMIN_DELAY_MILLISECONDS: u64 = 1_000;

/// Longest such wait, in milliseconds: a quarter of an hour allows 96 guesses a day.
pub const LAST_ADMIN_DELAY_MAXIMUM_MILLISECONDS: u64 = 15 * 60 * 1_000;

/// Attempts to log in between reservation and outcome, over all users. A password takes some tens of milliseconds to
/// stretch and the server bounds how many it stretches at once, so more than this is an attack or a backlog; the oldest
/// are forgotten (and stay counted).
pub const ATTEMPTS_OPEN: usize = 4_096;

/// After how many milliseconds to come again when a user's attempts under way are as many as may fail: about the time
/// that one password takes to stretch.
pub const LOGIN_RETRY_MILLISECONDS: u64 = 100;

/// Milliseconds for which a reservation may be finished.
pub const ATTEMPT_MILLISECONDS: u64 = 60 * 1_000;

/// Names that belong to nobody whose wrong passwords are counted, so that they lock as a user's do. The one that was
/// tried longest ago goes first.
pub const UNKNOWN_NAMES: usize = 4_096;

/// Login sessions of one user. A process that ends without logging out leaves one behind until it expires, and command
/// line tools are such processes: at one every three seconds, those of half a session's life find room.
pub const SESSIONS_PER_USER: usize = 16_384;

/// Login sessions of the cluster.
pub const SESSIONS: usize = 65_536;

/// Longest life of a login session without renewal, in milliseconds.
pub const SESSION_MILLISECONDS: u64 = 24 * 60 * 60 * 1_000;

/// A session that has used up this share of its life (1 / n) without renewal is idle, and may be ended to make room for
/// a new one of the same user. Libraries renew before.
pub const SESSION_IDLE_SHARE: u64 = 2;

/// Sessions that one command of housekeeping ends: each writes an audit record, and a command must stay short.
pub const EXPIRIES_PER_COMMAND: usize = 1_024;

/// Results that a session may have unconfirmed: as many as a connection may have requests unanswered.
pub const RESULTS_PER_SESSION: usize = protocol::REQUESTS_IN_FLIGHT as usize;

/// Sessions that one HSM opens while it is isolated and the cluster is not told: a command must hold them all, and each
/// writes an audit record.
pub const ISOLATED_SESSIONS: usize = 1_024;

/// Names that belong to nobody whose wrong passwords an isolated HSM counts; the one that was tried longest ago goes first.
pub const ISOLATED_NAMES: usize = 1_024;

/// Commands that an isolated HSM keeps for the cluster: a new one begins after each time that it was heard for a moment only.
pub const ISOLATED_PARTS: usize = 64;

/// RSA moduli, in bits: the 2048 to 8192; FIPS 186-5 §5.1 has the same lower end.
pub const RSA_BITS_MINIMUM: u64 = 2_048;
/// See [`RSA_BITS_MINIMUM`].
pub const RSA_BITS_MAXIMUM: u64 = 8_192;

/// Longest secret made of plain octets, in bytes (AWS CloudHSM: 800).
pub const SECRET_KEY_BYTES: u64 = 8_192;

/// Shortest secret for new HMAC keys and derivation in mode FIPS, in bytes: 112 bits (SP 800-131A r2 §10).
pub const FIPS_SECRET_KEY_BYTES: u64 = 14;

/// Longest public exponent of RSA, in bytes: 2^256 is FIPS 186-5's upper end.
pub const RSA_EXPONENT_BYTES: usize = 32;

/// Longest metadata of one object as it is stored, in bytes: one certificate and its names, with room.
pub const OBJECT_BYTES: usize = protocol::ATTRIBUTE_BYTES * 2;

/// Objects in one command: a key pair.
pub const OBJECTS_PER_COMMAND: usize = 2;

/// Mechanisms in `CKA_ALLOWED_MECHANISMS`.
pub const ALLOWED_MECHANISMS: usize = 128;

pub use protocol::{ADMISSIONS_PER_DAY_MAXIMUM, ISOLATION_WINDOW_MAXIMUM_SECONDS, MEMBERS};

/// Witnesses in a cluster: one is enough to break the tie of two HSMs.
pub const WITNESSES: usize = 1;

/// HSMs that the standing rule admits in 24 hours, unless an admin says otherwise: every HSM of a full cluster replaced
/// twice.
pub const ADMISSIONS_PER_DAY: u32 = 2 * MEMBERS;

/// HSMs that are approved and have not come.
pub const APPROVALS: usize = MEMBERS as usize;

/// Keys whose signature on a release counts: an old and a new one of two builders, and the development key beside them.
pub const RELEASE_KEYS: usize = 8;

/// Milliseconds of a day.
pub const DAY_MILLISECONDS: u64 = 24 * 60 * 60 * 1_000;

/// How long an HSM without a majority goes on with the keys that it has, in seconds, unless an admin says otherwise: a
/// TLS site survives the loss of two HSMs of three for an hour.
pub const ISOLATION_WINDOW_SECONDS: u32 = 60 * 60;

/// What is added to the window of an HSM that nobody hears before it has stopped for certain, in milliseconds: the lease
/// that it may hold, and the time from a command's stamp until no leader gives a lease without it.
pub const SILENCE_MILLISECONDS: u64 = 60_000;

/// Windows that were lowered and that somebody may still believe in; of more the two oldest count as one, with the longer
/// time of both. Admins change the window seldom.
pub const PAST_WINDOWS: usize = 8;

/// Removed HSMs that may not know it; of more the oldest is forgotten. Twice as many as a cluster has.
pub const DEPARTED_MEMBERS: usize = 2 * MEMBERS as usize;

/// Payloads in one command that moves them to a new epoch: an entry must stay under replication's limit, and applying it
/// must stay short.
pub const MOVES_PER_COMMAND: usize = 64;

/// A master key sealed for one HSM, in bytes: an HPKE encapsulated key (97 for P-384), a key of 32 and a tag, with room.
pub const SEALED_MASTER_BYTES: usize = 512;

/// The cluster's TLS key under the cluster's keys, in bytes: PKCS #8 of P-384 has 185, with room for other kinds.
pub const SEALED_CLUSTER_KEY_BYTES: usize = 4_096;

/// Name of a zone, in bytes.
pub const ZONE_BYTES: usize = 32;

/// Address of a member, in bytes: a DNS name has 253 (RFC 1035 §3.1), a port 5.
pub const ADDRESS_BYTES: usize = 260;

/// Certificate or public key of a member, in bytes of DER.
pub const MEMBER_KEY_BYTES: usize = 4_096;

/// Bytes of a token label (PKCS#11 3.2 §3.2, `CK_TOKEN_INFO`).
pub const LABEL_BYTES: usize = 32;

const _: () = assert!(Quotas::AWS_HSM2M.objects <= Quotas::OURS.objects);
const _: () = assert!(Quotas::AWS_HSM2M.users <= Quotas::OURS.users);
const _: () = assert!(LAST_ADMIN_DELAY_MILLISECONDS < LAST_ADMIN_DELAY_MAXIMUM_MILLISECONDS);
const _: () = assert!(ADMISSIONS_PER_DAY <= ADMISSIONS_PER_DAY_MAXIMUM);
const _: () = assert!(ISOLATION_WINDOW_SECONDS <= ISOLATION_WINDOW_MAXIMUM_SECONDS);
const _: () = assert!(SESSIONS_PER_USER < SESSIONS);
const _: () = assert!(ISOLATED_SESSIONS <= EXPIRIES_PER_COMMAND);
const _: () = assert!(ISOLATED_NAMES <= UNKNOWN_NAMES);
const _: () = assert!(OBJECT_BYTES * OBJECTS_PER_COMMAND < protocol::FRAME_LIMIT as usize);
const _: () = assert!(SECRET_KEY_BYTES <= protocol::ATTRIBUTE_BYTES as u64);
const _: () = assert!(ATTEMPT_MILLISECONDS < SESSION_MILLISECONDS);

//! Every limit of the C library, with its reason. Limits that the HSM knows too stand in `hsm_protocol::limits`.

/// Sessions of one slot. A server that leaks sessions hits this instead of its memory; SunPKCS11 and nginx use tens.
pub(crate) const SESSIONS_PER_SLOT: usize = 65_536;

/// Keys whose unchanging attributes are remembered for each slot. Costs about 1 KiB a key; beyond it all is forgotten.
pub(crate) const REMEMBERED_KEYS: usize = 16_384;

/// Handles asked for at once when the caller of `C_FindObjects` wants fewer: `pkcs11-tool` asks for one at a time.
pub(crate) const FIND_AHEAD: u32 = 256;

/// Bytes gathered before the next part of a long signature or digest goes out, so that small updates share a call.
pub(crate) const STREAM_PART: usize = 256 * 1024;

/// Clusters in one configuration: a session's handle names its slot in this many bits.
pub(crate) const SLOT_BITS: u32 = 8;

/// Longest PIN: user name, colon, password. Only a length check against nonsense; the HSM has the rules.
pub(crate) const PIN_BYTES: usize = 4 * 1024;

/// Longest text of one line in the log.
pub(crate) const LOG_LINE_BYTES: usize = 4 * 1024;

/// Seconds for which an HSM that did not answer is not asked again for the token's serial number: an application that
/// lists its slots must not wait for a time-out each time.
pub(crate) const UNREACHABLE_SECONDS: u64 = 5;

/// Patience of `C_GetTokenInfo` with an HSM that does not answer: lists of tokens are looked at by people.
pub(crate) const HELLO_PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);

const _: () = assert!(STREAM_PART <= hsm_protocol::limits::PART_LIMIT);
const _: () = assert!(FIND_AHEAD <= hsm_protocol::limits::FIND_PAGE);

/// Session objects that `C_CloseSession` asks the HSM to forget one by one; more are left to the end of the login.
pub(crate) const DESTROYED_AT_CLOSE: usize = 64;

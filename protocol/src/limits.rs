//! Every limit that both sides of a connection know, with its reason.

/// Longest frame after its length field, in bytes. A part of a multi-part operation is [`PART_LIMIT`], so this leaves
/// room for a template or a wrapped key beside it.
pub const FRAME_LIMIT: u32 = 1024 * 1024 + 256 * 1024;

/// Longest input in one call, in bytes; longer input goes in parts.
pub const PART_LIMIT: usize = 1024 * 1024;

/// Input that the library keeps to replay a multi-part operation on another HSM, in bytes (design: "up to 1 MiB").
pub const REPLAY_LIMIT: usize = 1024 * 1024;

/// Input of one AEAD decryption in parts, in bytes: it is held back until the tag is checked, so it costs memory.
pub const AEAD_HOLD_LIMIT: usize = 64 * 1024 * 1024;

/// Requests that one connection may have unanswered; the next one is answered with `Busy`.
pub const REQUESTS_IN_FLIGHT: u32 = 1024;

/// Multi-part operations that one connection may have open.
pub const STREAMS_PER_CONNECTION: usize = 4096;

/// Attributes in one template. PKCS#11 3.2 defines about 120; twice that is nobody's template.
pub const TEMPLATE_ATTRIBUTES: usize = 256;

/// Bytes in one attribute's value. The largest honest ones are certificates and data objects.
pub const ATTRIBUTE_BYTES: usize = 64 * 1024;

/// Depth of templates within templates (`CKA_WRAP_TEMPLATE` cannot contain another one; PKCS#11 3.2 §4.9).
pub const TEMPLATE_DEPTH: usize = 1;

/// Random bytes in one call.
pub const RANDOM_BYTES: u32 = 1024 * 1024;

/// Session objects that one call exchanges for such of the present epoch: sealing them takes a millisecond.
pub const EXCHANGED_OBJECTS: usize = 64;

/// Bytes of sealed session objects in such a call, unless it is one object: the answer is as long.
pub const EXCHANGED_BYTES: usize = 512 * 1024;

/// Handles in one answer to `FindObjects`.
pub const FIND_PAGE: u32 = 4096;

/// Characters in a user name: AWS CloudHSM quota page.
pub const USER_NAME_CHARACTERS: usize = 31;

/// Characters in a password. AWS allows 8 to 32 (7 for `kmsuser`, whose password AWS KMS makes); we allow 128.
pub const PASSWORD_CHARACTERS: std::ops::RangeInclusive<usize> = 7..=128;

/// Shortest password that a person may choose.
pub const PASSWORD_CHARACTERS_CHOSEN: usize = 8;

/// Trust anchors for client certificates: AWS CloudHSM allows two, so that one can replace the other.
pub const TRUST_ANCHORS: usize = 2;

/// Longest certificate in PEM, in bytes: `Cert` of the CloudHSM v2 API.
pub const CERTIFICATE_BYTES: usize = 20_000;

/// HSMs in a cluster: "CloudHSM quotas" of the AWS CloudHSM user guide.
pub const MEMBERS: u32 = 28;

/// HSMs that an admin may let the standing rule admit in 24 hours, at most: each of them is remembered for a day.
pub const ADMISSIONS_PER_DAY_MAXIMUM: u32 = 1_024;

/// How long an admin may let an HSM without a majority go on, at most, in seconds: a week.
pub const ISOLATION_WINDOW_MAXIMUM_SECONDS: u32 = 7 * 24 * 60 * 60;

const _: () = assert!(PART_LIMIT + ATTRIBUTE_BYTES * 2 < FRAME_LIMIT as usize);
const _: () = assert!(REPLAY_LIMIT <= PART_LIMIT);
const _: () = assert!(FIND_PAGE as usize * 10 < FRAME_LIMIT as usize);

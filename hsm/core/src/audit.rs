//! Audit records and the chain of hashes through them.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha384};

use crate::ids::{HsmId, Index, ObjectHandle, SessionId, Stamp, UserId};

/// SHA-384 over the link before and the record.
pub type Link = serde_bytes::ByteArray<48>;

/// The link before the first record.
pub const FIRST_LINK: [u8; 48] = [0; 48];

/// One management event. Never holds a name, a password or key material; `user` leads to the name where it is allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// The command.
    pub index: Index,
    /// Its time.
    pub stamp: Stamp,
    /// What was asked.
    pub event: Event,
    /// By whom.
    pub user: UserId,
    /// In which session.
    pub session: Option<SessionId>,
    /// Objects concerned.
    pub objects: Vec<ObjectHandle>,
    /// User concerned, where it is another one.
    pub subject: Option<UserId>,
    /// 0 = done; else the error code.
    pub result: u32,
}

/// What was asked. The numbers are AWS CloudHSM's opcodes (audit log reference) where it has one, else from 0x10000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u32)]
#[expect(missing_docs, reason = "each names the command that it records")]
pub enum Event {
    Form = 0x1,
    CreateUser = 0x3,
    ChangePassword = 0x9,
    Login = 0xd,
    Logout = 0xe,
    DestroyObject = 0x11,
    CreateObject = 0x17,
    CreatePair = 0x19,
    DeleteUser = 0xa1,
    Activate = 0x95,
    ModifyObject = 0x1_0001,
    SetUserEnabled = 0x1_0002,
    InstallCertificate = 0x1_0003,
    RegisterTrustAnchor = 0x1_0004,
    DeregisterTrustAnchor = 0x1_0005,
    SetClientCertificates = 0x1_0006,
    LogoutEverywhere = 0x1_0007,
    SessionExpired = 0x1_0008,
    Zeroize = 0x1_0009,
    AdmitMember = 0x1_000a,
    RemoveMember = 0x1_000b,
    ApproveMember = 0x1_000c,
    SetAdmissionRule = 0x1_000d,
    SetIsolationWindow = 0x1_000e,
    UpdateMember = 0x1_000f,
    BeginEpoch = 0x1_0010,
    BeginIncarnation = 0x1_0011,
    RaiseVersion = 0x1_0012,
    SetReleaseRule = 0x1_0013,
    BeginReissue = 0x1_0014,
    FinishReissue = 0x1_0015,
    /// A log-in on an isolated HSM, told to the cluster later.
    IsolatedLogin(IsolatedEvent) = 0x1_0016,
    /// Wrong passwords there.
    IsolatedFailures(IsolatedEvent) = 0x1_0017,
}

/// What happened on an isolated HSM, before the command that told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct IsolatedEvent {
    /// Where.
    pub hsm: HsmId,
    /// When, or the last time, by that HSM's time.
    pub at: Stamp,
    /// How often.
    pub attempts: u32,
}

/// The link that follows `previous` when `record` is appended: SHA-384(previous ‖ record in postcard).
pub fn link(previous: &[u8; 48], record: &AuditRecord) -> [u8; 48] {
    let mut hash = Sha384::new();
    hash.update(previous);
    hash.update(postcard::to_stdvec(record).unwrap_or_else(|_| unreachable!("a record of integers always encodes")));
    hash.finalize().into()
}

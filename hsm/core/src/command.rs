//! Commands: what the log carries. All that could differ between replicas is inside.
//!
//! Stored for ever, so every change of meaning is a new variant of [`Versioned`] and an old one keeps its meaning.

use hsm_protocol::{Lifecycle, Role, UserName};
use serde::{Deserialize, Serialize};

use crate::epoch::SealedMaster;
use crate::ids::{AttemptId, ClusterId, Epoch, HsmId, Incarnation, NodeId, ObjectHandle, SessionId, Stamp};
use crate::isolated::IsolatedLogins;
use crate::object::Object;
use crate::releases::ReleaseRule;
use crate::roster::{AdmissionRule, MemberRecord};
use crate::versions;

/// A command as it is stored and sent.
#[derive(Clone, Serialize, Deserialize)]
pub enum Versioned {
    /// The first format.
    V1(Command),
    /// The same, for actions that came with version 2: who does not know them cannot even mistake them.
    V2(Command),
    /// The same, for actions that came with version 3.
    V3(Command),
}

impl Versioned {
    /// In the oldest format that has its action, so that a member who knows no newer one can read it.
    pub fn new(command: Command) -> Self {
        match versions::since(&command.action) {
            versions::OLDEST => Self::V1(command),
            versions::RELEASES => Self::V2(command),
            _ => Self::V3(command),
        }
    }

    /// The command, and the version of its format.
    pub fn into_parts(self) -> (u32, Command) {
        match self {
            Self::V1(command) => (1, command),
            Self::V2(command) => (2, command),
            Self::V3(command) => (3, command),
        }
    }

    /// The version of the format of an encoded command, without reading more of it. A program that does not know it can
    /// say so. `None`: these octets are no command of any version.
    pub fn version_of(octets: &[u8]) -> Option<u32> {
        // Postcard begins an enum with the number of its variant.
        let (variant, _) = postcard::take_from_bytes::<u32>(octets).ok()?;
        variant.checked_add(1)
    }
}

/// One change that was asked for, with everything that had to be made for it.
#[derive(Clone, Serialize, Deserialize)]
pub struct Command {
    /// The leader's time.
    pub stamp: Stamp,
    /// Who asked, and under which number.
    pub origin: Origin,
    /// What is to happen.
    pub action: Action,
}

/// Who asked for a command.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Origin {
    /// The login session; `None` for logins, management and housekeeping.
    pub session: Option<SessionId>,
    /// Number of the call in its session; 0 = not repeatable.
    pub sequence: u64,
    /// Results below this number may be forgotten.
    pub lowest_unanswered: u64,
}

/// What a command does.
#[derive(Clone, Serialize, Deserialize)]
pub enum Action {
    /// The first command of every history: makes the cluster.
    Form(Form),
    /// The customer's signed certificate and its anchor: Uninitialized → Initialized.
    InstallCertificate {
        /// PEM.
        certificate: String,
        /// PEM.
        trust_anchor: String,
    },
    /// Gives the unactivated admin a password: Initialized → Active. The activation password was checked before.
    Activate {
        /// Stretched password of the first admin.
        verifier: Verifier,
    },
    /// New user.
    CreateUser {
        /// Name.
        name: UserName,
        /// Admin or crypto user.
        role: Role,
        /// Stretched password.
        verifier: Verifier,
    },
    /// Removes a user who owns nothing and is not logged in.
    DeleteUser {
        /// Name.
        name: UserName,
        /// Role.
        role: Role,
    },
    /// New password; by an admin for another user it also unlocks. Other sessions of that user end.
    ChangePassword {
        /// Name.
        name: UserName,
        /// Role.
        role: Role,
        /// Stretched password.
        verifier: Verifier,
    },
    /// Disables (ends all sessions) or enables.
    SetUserEnabled {
        /// Name.
        name: UserName,
        /// Role.
        role: Role,
        /// Whether the user may log in.
        enabled: bool,
    },
    /// Counts one attempt before the password is looked at.
    ReserveAttempt {
        /// Random name of this attempt.
        attempt: AttemptId,
        /// Name, which may belong to nobody.
        name: UserName,
        /// Role.
        role: Role,
    },
    /// The password was right: the counter starts again and, unless this was for one operation only, a session begins.
    FinishLogin {
        /// The reservation.
        attempt: AttemptId,
        /// The session to open.
        session: Option<NewSession>,
    },
    /// The password was wrong, or nobody's: the attempt is over and stays counted.
    FailLogin {
        /// The reservation.
        attempt: AttemptId,
    },
    /// Ends one session.
    Logout {
        /// Which.
        session: SessionId,
    },
    /// Ends all sessions of a user.
    LogoutEverywhere {
        /// Name.
        name: UserName,
        /// Role.
        role: Role,
    },
    /// Moves a session's expiry.
    RenewSession {
        /// Which.
        session: SessionId,
        /// New expiry.
        expires_at: Stamp,
    },
    /// Housekeeping: ends sessions whose time is over by this command's stamp.
    ExpireSessions,
    /// New token objects: one, or a pair in the order public, private.
    CreateObjects {
        /// The objects.
        objects: Vec<NewObject>,
    },
    /// Changed attributes of a token object.
    ReplaceObject {
        /// Which.
        handle: ObjectHandle,
        /// The object as it shall be; its version is one above the version that it was made from.
        object: Object,
        /// The payload under its new binding; `None` when the object has none.
        payload: Option<SealedPayload>,
    },
    /// Removes a token object.
    DestroyObject {
        /// Which.
        handle: ObjectHandle,
    },
    /// Registers an anchor for client certificates.
    RegisterTrustAnchor {
        /// PEM.
        certificate: String,
    },
    /// Removes one.
    DeregisterTrustAnchor {
        /// Its reference.
        reference: u32,
    },
    /// Whether clients must present a certificate.
    SetClientCertificates {
        /// Required or not.
        required: bool,
    },
    /// Adds a member whose certificate the proposer has checked, if a rule covers it. A known HSM returns under a new node
    /// id, which takes the place of the old one.
    AdmitMember {
        /// Its node id, drawn by the proposer.
        node: NodeId,
        /// The member.
        member: MemberRecord,
    },
    /// A member can be reached elsewhere, or runs another version.
    UpdateMember {
        /// Which.
        node: NodeId,
        /// As it is now.
        member: MemberRecord,
    },
    /// Removes a member.
    RemoveMember {
        /// Which.
        hsm: HsmId,
    },
    /// Lets one HSM join, whatever the standing rule says.
    ApproveMember {
        /// Which.
        hsm: HsmId,
    },
    /// By which standing rule HSMs may join.
    SetAdmissionRule {
        /// The rule.
        rule: AdmissionRule,
    },
    /// How long an HSM without a majority goes on, in seconds.
    SetIsolationWindow {
        /// 0 = not at all.
        seconds: u32,
    },
    /// Begins the next epoch of the cluster master key.
    BeginEpoch(EpochStart),
    /// Payloads under the present epoch instead of the one before.
    MovePayloads {
        /// The present epoch.
        epoch: Epoch,
        /// How far they were moved before.
        after: ObjectHandle,
        /// How far they are moved now.
        through: ObjectHandle,
        /// Those in between.
        moved: Vec<MovedPayload>,
    },
    /// A survivor begins a new history alone: every session ends, every other member is gone.
    BeginIncarnation {
        /// Its random name.
        incarnation: Incarnation,
        /// The survivor's new node id.
        node: NodeId,
        /// The survivor.
        member: MemberRecord,
    },
    /// The cluster's keys are gone: every object and user goes, the audit log stays.
    Zeroize,
    /// Every member knows this version of commands: from now on it may be used.
    RaiseVersion {
        /// The version.
        version: u32,
    },
    /// Which programs take part. Since version 2.
    SetReleaseRule {
        /// The rule.
        rule: ReleaseRule,
    },
    /// A new TLS key of the cluster waits for the customer's CA. One that waited before is void.
    BeginReissue {
        /// Epoch of the key that seals it.
        epoch: Epoch,
        /// The key under the cluster's keys.
        #[serde(with = "serde_bytes")]
        sealed_cluster_key: Vec<u8>,
    },
    /// The customer's CA has signed: the waiting key and its certificate take the place of what was there. The proposer has
    /// checked the certificates.
    FinishReissue {
        /// PEM.
        certificate: String,
        /// PEM.
        trust_anchor: String,
    },
    /// An HSM that was isolated tells who logged in there, and how many wrong passwords there were. Since version 3.
    MergeIsolated {
        /// Which HSM.
        hsm: HsmId,
        /// What happened there.
        logins: IsolatedLogins,
    },
}

/// What a cluster begins with.
#[derive(Clone, Serialize, Deserialize)]
pub struct Form {
    /// Its name for ever.
    pub cluster: ClusterId,
    /// Its first history.
    pub incarnation: Incarnation,
    /// Mode FIPS or NON_FIPS, for ever.
    pub fips: bool,
    /// Token label that PKCS#11 shows, at most 32 bytes of UTF-8.
    pub label: String,
    /// Epoch of the cluster master key.
    pub epoch: Epoch,
    /// Where the cluster starts: always [`Lifecycle::Uninitialized`] today.
    pub lifecycle: Lifecycle,
    /// Stretched activation password of the unactivated admin.
    pub activation: Verifier,
    /// The activation password under the cluster's keys, shown by management until activation.
    #[serde(with = "serde_bytes")]
    pub sealed_activation_password: Vec<u8>,
    /// The cluster's TLS key under the cluster's keys.
    #[serde(with = "serde_bytes")]
    pub sealed_cluster_key: Vec<u8>,
    /// Certificates of the ceremony, PEM.
    pub certificates: CeremonyCertificates,
    /// Node id of the first member. Replication fills it in: it is who forms.
    pub node: NodeId,
    /// The first member.
    pub member: MemberRecord,
    /// Which programs take part at first.
    pub releases: ReleaseRule,
}

/// What a new epoch begins with.
#[derive(Clone, Serialize, Deserialize)]
pub struct EpochStart {
    /// The present one and 1.
    pub epoch: Epoch,
    /// Its master key for each HSM, in the order of their node ids.
    pub masters: Vec<SealedMaster>,
    /// The cluster's TLS key under the new epoch.
    #[serde(with = "serde_bytes")]
    pub sealed_cluster_key: Vec<u8>,
    /// The activation password under the new epoch; ignored once the cluster is active.
    #[serde(with = "serde_bytes")]
    pub sealed_activation_password: Vec<u8>,
}

/// A payload under a new epoch.
#[derive(Clone, Serialize, Deserialize)]
pub struct MovedPayload {
    /// Whose.
    pub handle: ObjectHandle,
    /// Version of the object that it belongs to.
    pub version: u32,
    /// The payload.
    pub payload: SealedPayload,
}

/// What AWS's `DescribeClusters` shows before initialisation, PEM.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the members have the names of AWS's API")]
pub struct CeremonyCertificates {
    pub cluster_csr: String,
    pub hsm_certificate: String,
    pub aws_hardware_certificate: String,
    pub manufacturer_hardware_certificate: String,
}

/// A stretched password: made and compared in `hsm-crypto`, kept here as octets. Has no `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verifier(#[serde(with = "serde_bytes")] pub Vec<u8>);

/// A session to open.
#[derive(Clone, Serialize, Deserialize)]
pub struct NewSession {
    /// Random name.
    pub session: SessionId,
    /// Ed25519 public key of the library that logs in.
    pub public_key: [u8; 32],
    /// Expiry.
    pub expires_at: Stamp,
}

/// A token object to create.
#[derive(Clone, Serialize, Deserialize)]
pub struct NewObject {
    /// The object; its owner is the session's user.
    pub object: Object,
    /// Its secret part; `None` for what has none.
    pub payload: Option<SealedPayload>,
}

/// The secret part of an object as it leaves `hsm-crypto`: a data key wrapped under the cluster's keys and bound to the
/// object's version and metadata, and the material under that data key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedPayload {
    /// Epoch of the key that wraps the data key.
    pub epoch: Epoch,
    /// Nonce, wrapped data key and tag.
    #[serde(with = "serde_bytes")]
    pub wrapped_data_key: Vec<u8>,
    /// Nonce, ciphertext and tag.
    #[serde(with = "serde_bytes")]
    pub ciphertext: Vec<u8>,
}

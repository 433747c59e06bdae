//! The working keys of a cluster: payloads, session objects, tokens and the cluster's own secrets.

use hsm_core::command::SealedPayload;
use hsm_core::permit::BeCopied;
use hsm_core::{ClusterId, Epoch, Incarnation, Object, Permit, SessionId, UserId};
use hsm_protocol::Role;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::master::MasterKey;
use super::{derive_key, envelope, label};
use crate::fault::{CryptoFault, SealBroken};
use crate::module::Module;
use crate::payload::Payload;
use crate::secret::SecretBytes;
use crate::secret::pages::Pages;
use crate::wide::{Failed, Gcm};

/// First byte of the additional data of every seal: the format.
const FORMAT: u8 = 1;
/// Bytes of a data key.
const DATA_KEY: usize = 32;
/// Bytes of the nonce of a payload, whose key is used once.
const PAYLOAD_NONCE: usize = 12;

/// Working keys, derived from the master key of one epoch by HKDF-SHA-384, in secret memory.
pub struct ClusterKeys {
    epoch: Epoch,
    /// The realm of payloads; clones of a cluster share it.
    cluster: ClusterId,
    keys: Pages,
}

/// What a login token says. The state has the session's key, user and expiry; the token only leads there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenClaims {
    /// The history of the cluster that it belongs to.
    pub incarnation: Incarnation,
    /// The login session.
    pub session: SessionId,
    /// Whose.
    pub user: UserId,
    /// In which role.
    pub role: Role,
}

impl ClusterKeys {
    /// Derives the working keys.
    ///
    /// # Errors
    /// [`CryptoFault::ModuleFailed`] when there is no memory for secrets.
    pub fn new(master: &MasterKey, cluster: ClusterId) -> Result<Self, CryptoFault> {
        const LABELS: [&[u8]; 4] = [label::PAYLOAD, label::SESSION_OBJECT, label::TOKEN, label::BYTES];
        let mut keys = Pages::new(LABELS.len() * envelope::KEY)?;
        for (key, label) in keys.bytes_mut().chunks_mut(envelope::KEY).zip(LABELS) {
            derive_key(master.master(), label, key)?;
        }
        Ok(Self { epoch: master.epoch(), cluster, keys })
    }

    /// The epoch of these keys.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Seals an object's payload: a new data key, bound to the object's version and metadata, and the payload under it.
    ///
    /// # Errors
    /// [`CryptoFault::ModuleFailed`].
    pub fn seal_payload(
        &self,
        module: &Module,
        object: &Object,
        payload: &Payload,
    ) -> Result<SealedPayload, CryptoFault> {
        let mut data_key = Zeroizing::new([0; DATA_KEY]);
        module.random(&mut *data_key)?;
        let nonce: [u8; PAYLOAD_NONCE] = module.random_bytes()?;
        let written = payload.encode();
        let mut ciphertext = Vec::with_capacity(nonce.len() + written.len() + Gcm::TAG);
        ciphertext.extend_from_slice(&nonce);
        let gcm = Gcm::new(&*data_key, Gcm::TAG)?;
        gcm.seal(&nonce, &self.payload_context(object), &written, &mut ciphertext)?;
        let context = wrap_context(self.epoch, object);
        let wrapped_data_key = envelope::seal(module, self.payload_key(), &context, &*data_key)?;
        Ok(SealedPayload { epoch: self.epoch, wrapped_data_key, ciphertext })
    }

    /// Opens the payload of an object, which must be exactly the object that it was sealed with.
    ///
    /// # Errors
    /// [`SealBroken`].
    pub fn open_payload(&self, object: &Object, sealed: &SealedPayload) -> Result<Payload, SealBroken> {
        if sealed.epoch != self.epoch {
            return Err(SealBroken::Epoch);
        }
        let context = wrap_context(self.epoch, object);
        let data_key = envelope::open(self.payload_key(), &context, &sealed.wrapped_data_key)?;
        let (nonce, ciphertext) = sealed.ciphertext.split_at_checked(PAYLOAD_NONCE).ok_or(SealBroken::Format)?;
        let gcm = Gcm::new(&data_key, Gcm::TAG).map_err(|Failed| SealBroken::Format)?;
        let written =
            gcm.open(nonce, &self.payload_context(object), ciphertext).map_err(|Failed| SealBroken::Authentication)?;
        Payload::decode(&written)
    }

    /// Seals a payload anew for the object's next version (`C_SetAttributeValue`).
    ///
    /// # Errors
    /// [`CryptoFault::ModuleFailed`], also when the seal does not open, or `new` is another object.
    pub fn rebind_payload(
        &self,
        module: &Module,
        old: &Object,
        new: &Object,
        sealed: &SealedPayload,
    ) -> Result<SealedPayload, CryptoFault> {
        if old.uid() != new.uid() {
            return Err(CryptoFault::PermitMismatch);
        }
        self.seal_payload(module, new, &self.open_payload(old, sealed)?)
    }

    /// Seals the payload of `source` for its copy (`C_CopyObject` onto the token).
    ///
    /// # Errors
    /// [`CryptoFault::PermitMismatch`] when the permit is for another object.
    #[expect(clippy::needless_pass_by_value, reason = "a permit is used up")]
    pub fn copy_payload(
        &self,
        module: &Module,
        permit: Permit<BeCopied>,
        source: &Object,
        payload: &Payload,
        copy: &Object,
    ) -> Result<SealedPayload, CryptoFault> {
        if permit.object() != source.uid() {
            return Err(CryptoFault::PermitMismatch);
        }
        self.seal_payload(module, copy, payload)
    }

    /// Seals a session object for the library that holds it. `session` is the login that it belongs to; `None` for public
    /// objects made without login. The object travels with its payload.
    ///
    /// # Errors
    /// [`CryptoFault::ModuleFailed`].
    pub fn seal_session_object(
        &self,
        module: &Module,
        session: Option<SessionId>,
        object: &Object,
        payload: Option<&Payload>,
    ) -> Result<Vec<u8>, CryptoFault> {
        let metadata = postcard::to_stdvec(object).map_err(|_| CryptoFault::ModuleFailed)?;
        let payload = payload.map(Payload::encode);
        let secret = payload.as_ref().map_or(&[][..], |payload| payload.as_slice());
        let mut content = Zeroizing::new(Vec::with_capacity(4 + metadata.len() + secret.len()));
        let length = u32::try_from(metadata.len()).map_err(|_| CryptoFault::TooLarge)?;
        content.extend_from_slice(&length.to_be_bytes());
        content.extend_from_slice(&metadata);
        content.extend_from_slice(secret);
        envelope::seal(module, self.session_object_key(), &self.session_context(session), &content)
    }

    /// Opens a session object that a library presents.
    ///
    /// # Errors
    /// [`SealBroken`] when it is altered or belongs to another login.
    pub fn open_session_object(
        &self,
        session: Option<SessionId>,
        sealed: &[u8],
    ) -> Result<(Object, Option<Payload>), SealBroken> {
        let content = envelope::open(self.session_object_key(), &self.session_context(session), sealed)?;
        let (length, rest) = content.split_first_chunk().ok_or(SealBroken::Format)?;
        let length = u32::from_be_bytes(*length) as usize;
        let (metadata, secret) = rest.split_at_checked(length).ok_or(SealBroken::Format)?;
        let object: Object = postcard::from_bytes(metadata).map_err(|_| SealBroken::Format)?;
        let payload = if secret.is_empty() { None } else { Some(Payload::decode(secret)?) };
        if object.has_payload() == payload.is_some() { Ok((object, payload)) } else { Err(SealBroken::Format) }
    }

    /// Seals a login token.
    ///
    /// # Errors
    /// [`CryptoFault::ModuleFailed`].
    pub fn seal_token(&self, module: &Module, claims: &TokenClaims) -> Result<Vec<u8>, CryptoFault> {
        let content = postcard::to_stdvec(claims).map_err(|_| CryptoFault::ModuleFailed)?;
        envelope::seal(module, self.token_key(), &self.cluster_context(), &content)
    }

    /// Opens a login token.
    ///
    /// # Errors
    /// [`SealBroken`].
    pub fn open_token(&self, sealed: &[u8]) -> Result<TokenClaims, SealBroken> {
        let content = envelope::open(self.token_key(), &self.cluster_context(), sealed)?;
        postcard::from_bytes(&content).map_err(|_| SealBroken::Format)
    }

    /// Seals a secret of the cluster itself for one purpose (`"cluster tls key"`, `"activation password"`).
    ///
    /// # Errors
    /// [`CryptoFault::ModuleFailed`].
    pub fn seal_bytes(&self, module: &Module, purpose: &str, bytes: &[u8]) -> Result<Vec<u8>, CryptoFault> {
        envelope::seal(module, self.bytes_key(), &self.purpose_context(purpose), bytes)
    }

    /// Opens a secret of the cluster itself.
    ///
    /// # Errors
    /// [`SealBroken`], also for another purpose.
    pub fn open_bytes(&self, purpose: &str, sealed: &[u8]) -> Result<SecretBytes, SealBroken> {
        Ok(envelope::open(self.bytes_key(), &self.purpose_context(purpose), sealed)?.into())
    }

    fn payload_key(&self) -> &[u8] {
        self.key(0)
    }

    fn session_object_key(&self) -> &[u8] {
        self.key(1)
    }

    fn token_key(&self) -> &[u8] {
        self.key(2)
    }

    fn bytes_key(&self) -> &[u8] {
        self.key(3)
    }

    fn key(&self, index: usize) -> &[u8] {
        &self.keys.bytes()[index * envelope::KEY..(index + 1) * envelope::KEY]
    }

    /// Format, realm, object, version.
    fn payload_context(&self, object: &Object) -> Vec<u8> {
        let mut context = self.cluster_context();
        context.extend_from_slice(&object.uid().0);
        context.extend_from_slice(&object.version().to_be_bytes());
        context
    }

    fn session_context(&self, session: Option<SessionId>) -> Vec<u8> {
        let mut context = self.cluster_context();
        context.push(u8::from(session.is_some()));
        context.extend_from_slice(&session.map_or([0; 16], |session| session.0));
        context
    }

    fn purpose_context(&self, purpose: &str) -> Vec<u8> {
        let mut context = self.cluster_context();
        context.extend_from_slice(purpose.as_bytes());
        context
    }

    fn cluster_context(&self) -> Vec<u8> {
        let mut context = Vec::with_capacity(64);
        context.push(FORMAT);
        context.extend_from_slice(&self.cluster.0);
        context
    }
}

/// Epoch, version of the object, hash of its metadata.
fn wrap_context(epoch: Epoch, object: &Object) -> Vec<u8> {
    let mut context = Vec::with_capacity(64);
    context.push(FORMAT);
    context.extend_from_slice(&epoch.0.to_be_bytes());
    context.extend_from_slice(&object.version().to_be_bytes());
    context.extend_from_slice(&object.binding());
    context
}

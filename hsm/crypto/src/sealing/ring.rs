//! The working keys of the present epoch, and while payloads are moved those of the epoch before.
//!
//! Everything is sealed under the present epoch. What was sealed under the one before opens as long as it is here, so that
//! an application notices nothing of a change of epochs; what a removed HSM could have made with it is bounded by
//! dropping it as soon as the last payload was moved and the sessions of that time were exchanged.

use std::sync::Arc;

use hsm_core::command::SealedPayload;
use hsm_core::permit::BeCopied;
use hsm_core::{Epoch, Object, Permit, SessionId};
use parking_lot::RwLock;

use super::keys::{ClusterKeys, TokenClaims};
use crate::fault::{CryptoFault, SealBroken};
use crate::module::Module;
use crate::payload::Payload;
use crate::secret::SecretBytes;

/// Working keys of one or two epochs. Cheap to ask from any thread.
pub struct KeyRing {
    epochs: RwLock<Epochs>,
}

struct Epochs {
    present: Arc<ClusterKeys>,
    before: Option<Arc<ClusterKeys>>,
}

/// What was opened, and whether under the present epoch.
pub struct Opened<T> {
    /// The content.
    pub content: T,
    /// False: it was sealed under the epoch before, and should be sealed anew.
    pub is_present: bool,
}

impl KeyRing {
    /// The keys of the present epoch, and of the one before if payloads are still under it.
    pub fn new(present: ClusterKeys, before: Option<ClusterKeys>) -> Self {
        Self { epochs: RwLock::new(Epochs { present: Arc::new(present), before: before.map(Arc::new) }) }
    }

    /// Goes on to the next epoch, with the keys of the one before it if payloads may still be under them. The same or an
    /// older epoch changes nothing: log entries are applied again after a crash.
    pub fn advance(&self, next: ClusterKeys, before: Option<ClusterKeys>) {
        let mut epochs = self.epochs.write();
        if next.epoch() > epochs.present.epoch() {
            *epochs = Epochs { present: Arc::new(next), before: before.map(Arc::new) };
        }
    }

    /// Forgets the epoch before: nothing is sealed under it any more.
    pub fn forget_before(&self) {
        self.epochs.write().before = None;
    }

    /// Whether payloads of this epoch open.
    pub fn has(&self, epoch: Epoch) -> bool {
        self.of(epoch).is_some()
    }

    /// The present epoch.
    pub fn epoch(&self) -> Epoch {
        self.epochs.read().present.epoch()
    }

    /// Whether the epoch before is still here.
    pub fn has_before(&self) -> bool {
        self.epochs.read().before.is_some()
    }

    fn present(&self) -> Arc<ClusterKeys> {
        Arc::clone(&self.epochs.read().present)
    }

    fn of(&self, epoch: Epoch) -> Option<Arc<ClusterKeys>> {
        let epochs = self.epochs.read();
        [Some(&epochs.present), epochs.before.as_ref()]
            .into_iter()
            .flatten()
            .find(|keys| keys.epoch() == epoch)
            .cloned()
    }

    /// Opens by the present epoch, else by the one before.
    fn open<T>(&self, open: impl Fn(&ClusterKeys) -> Result<T, SealBroken>) -> Result<Opened<T>, SealBroken> {
        let (present, before) = {
            let epochs = self.epochs.read();
            (Arc::clone(&epochs.present), epochs.before.clone())
        };
        match (open(&present), before) {
            (Ok(content), _) => Ok(Opened { content, is_present: true }),
            (Err(_), Some(before)) => open(&before).map(|content| Opened { content, is_present: false }),
            (Err(broken), None) => Err(broken),
        }
    }

    /// See [`ClusterKeys::seal_payload`].
    ///
    /// # Errors
    /// As there.
    pub fn seal_payload(
        &self,
        module: &Module,
        object: &Object,
        payload: &Payload,
    ) -> Result<SealedPayload, CryptoFault> {
        self.present().seal_payload(module, object, payload)
    }

    /// Opens a payload of whichever epoch it is.
    ///
    /// # Errors
    /// [`SealBroken::Epoch`] when its epoch is not here; else as [`ClusterKeys::open_payload`].
    pub fn open_payload(&self, object: &Object, sealed: &SealedPayload) -> Result<Payload, SealBroken> {
        self.of(sealed.epoch).ok_or(SealBroken::Epoch)?.open_payload(object, sealed)
    }

    /// Seals a payload anew under the present epoch: the same object, the same version.
    ///
    /// # Errors
    /// [`CryptoFault::ModuleFailed`], also when the seal does not open.
    pub fn move_payload(
        &self,
        module: &Module,
        object: &Object,
        sealed: &SealedPayload,
    ) -> Result<SealedPayload, CryptoFault> {
        let payload = self.open_payload(object, sealed)?;
        self.seal_payload(module, object, &payload)
    }

    /// See [`ClusterKeys::rebind_payload`]. The old seal may be of the epoch before.
    ///
    /// # Errors
    /// As there.
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

    /// See [`ClusterKeys::copy_payload`].
    ///
    /// # Errors
    /// As there.
    pub fn copy_payload(
        &self,
        module: &Module,
        permit: Permit<BeCopied>,
        source: &Object,
        payload: &Payload,
        copy: &Object,
    ) -> Result<SealedPayload, CryptoFault> {
        self.present().copy_payload(module, permit, source, payload, copy)
    }

    /// See [`ClusterKeys::seal_session_object`].
    ///
    /// # Errors
    /// As there.
    pub fn seal_session_object(
        &self,
        module: &Module,
        session: Option<SessionId>,
        object: &Object,
        payload: Option<&Payload>,
    ) -> Result<Vec<u8>, CryptoFault> {
        self.present().seal_session_object(module, session, object, payload)
    }

    /// Opens a session object of either epoch.
    ///
    /// # Errors
    /// [`SealBroken`] when it is altered or belongs to another login.
    pub fn open_session_object(
        &self,
        session: Option<SessionId>,
        sealed: &[u8],
    ) -> Result<(Object, Option<Payload>), SealBroken> {
        self.open(|keys| keys.open_session_object(session, sealed)).map(|opened| opened.content)
    }

    /// See [`ClusterKeys::seal_token`].
    ///
    /// # Errors
    /// As there.
    pub fn seal_token(&self, module: &Module, claims: &TokenClaims) -> Result<Vec<u8>, CryptoFault> {
        self.present().seal_token(module, claims)
    }

    /// Opens a login token of either epoch, and says of which.
    ///
    /// # Errors
    /// [`SealBroken`].
    pub fn open_token(&self, sealed: &[u8]) -> Result<Opened<TokenClaims>, SealBroken> {
        self.open(|keys| keys.open_token(sealed))
    }

    /// See [`ClusterKeys::seal_bytes`].
    ///
    /// # Errors
    /// As there.
    pub fn seal_bytes(&self, module: &Module, purpose: &str, bytes: &[u8]) -> Result<Vec<u8>, CryptoFault> {
        self.present().seal_bytes(module, purpose, bytes)
    }

    /// Opens a secret of the cluster itself, of either epoch.
    ///
    /// # Errors
    /// [`SealBroken`], also for another purpose.
    pub fn open_bytes(&self, purpose: &str, sealed: &[u8]) -> Result<SecretBytes, SealBroken> {
        self.open(|keys| keys.open_bytes(purpose, sealed)).map(|opened| opened.content)
    }
}

#[cfg(test)]
mod tests {
    use hsm_core::{ClusterId, Incarnation, UserId};
    use hsm_protocol::Role;

    use super::*;
    use crate::sealing::MasterKey;
    use crate::tests::keys::module;

    fn master(epoch: u32) -> MasterKey {
        MasterKey::generate(module(), Epoch(epoch)).unwrap()
    }

    fn of(master: &MasterKey) -> ClusterKeys {
        ClusterKeys::new(master, ClusterId([1; 16])).unwrap()
    }

    fn keys(epoch: u32) -> ClusterKeys {
        of(&master(epoch))
    }

    const CLAIMS: TokenClaims = TokenClaims {
        incarnation: Incarnation([2; 16]),
        session: SessionId([3; 16]),
        user: UserId(4),
        role: Role::CryptoUser,
    };

    #[test]
    fn a_token_of_the_epoch_before_opens_and_is_told_apart() {
        let first = master(1);
        let ring = KeyRing::new(of(&first), None);
        let token = ring.seal_token(module(), &CLAIMS).unwrap();
        assert!(ring.open_token(&token).is_ok_and(|opened| opened.is_present && opened.content == CLAIMS));
        ring.advance(keys(2), Some(of(&first)));
        assert!(ring.open_token(&token).is_ok_and(|opened| !opened.is_present && opened.content == CLAIMS));
        let token = ring.seal_token(module(), &CLAIMS).unwrap();
        assert!(ring.open_token(&token).is_ok_and(|opened| opened.is_present));
    }

    #[test]
    fn what_was_sealed_two_epochs_ago_opens_no_more() {
        let (first, second) = (master(1), master(2));
        let ring = KeyRing::new(of(&first), None);
        let secret = ring.seal_bytes(module(), "purpose", b"secret").unwrap();
        ring.advance(of(&second), Some(of(&first)));
        assert!(ring.has(Epoch(1)) && ring.has(Epoch(2)) && !ring.has(Epoch(3)));
        assert!(ring.open_bytes("purpose", &secret).is_ok_and(|opened| opened.expose() == b"secret"));
        ring.advance(keys(3), Some(of(&second)));
        assert!(ring.open_bytes("purpose", &secret).is_err());
    }

    #[test]
    fn a_forgotten_epoch_opens_nothing() {
        let first = master(1);
        let ring = KeyRing::new(of(&first), None);
        let token = ring.seal_token(module(), &CLAIMS).unwrap();
        ring.advance(keys(2), Some(of(&first)));
        ring.forget_before();
        assert!(!ring.has_before() && ring.open_token(&token).is_err());
    }

    #[test]
    fn a_repeated_epoch_changes_nothing() {
        let ring = KeyRing::new(keys(2), None);
        let token = ring.seal_token(module(), &CLAIMS).unwrap();
        ring.advance(keys(2), None);
        ring.advance(keys(1), None);
        assert_eq!(ring.epoch(), Epoch(2));
        assert!(ring.open_token(&token).is_ok_and(|opened| opened.is_present));
    }
}

//! The way of the cluster master key to a new HSM: sealed by HPKE (RFC 9180, base mode) to a key that the new HSM has
//! proven to be its own, and bound to the cluster, its history, the epoch and the place in the roster that it was given.
//!
//! The suite is DHKEM(P-384, HKDF-SHA384), HKDF-SHA384, AES-256-GCM: curves and functions that mode FIPS approves, in the
//! implementation that the maintainers of rustls keep over AWS-LC. Who the new HSM is, is `hsm-server`'s to find out.

use hsm_core::{ClusterId, Epoch, HsmId, Incarnation, NodeId};
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_P384_HKDF_SHA384_AES_256 as SUITE;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke, HpkePrivateKey, HpkePublicKey};
use zeroize::Zeroizing;

use super::master::{KEY, MasterKey};
use crate::fault::{CryptoFault, SealBroken};
use crate::module::Module;
use crate::secret::SecretBytes;

/// Bytes of a private key of P-384.
const PRIVATE: usize = 48;

/// Bytes of a public key, an uncompressed point, and so of the encapsulated secret.
const PUBLIC: usize = 97;

/// What the seal is for, before what it is bound to.
const PURPOSE: &[u8] = b"kagimori handover 1";

/// The key pair to which others seal the cluster master key for this HSM. Wiped on drop.
pub struct SealingPair {
    private: SecretBytes,
    public: Vec<u8>,
}

/// What a handed-over key is bound to: the same seal opens for no other cluster, history, epoch, node or HSM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handover {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its history.
    pub incarnation: Incarnation,
    /// Epoch of the master key.
    pub epoch: Epoch,
    /// The node id that the new HSM was given.
    pub node: NodeId,
    /// The new HSM.
    pub hsm: HsmId,
}

impl SealingPair {
    /// A new pair.
    ///
    /// # Errors
    /// [`CryptoFault::ModuleFailed`].
    pub fn generate() -> Result<Self, CryptoFault> {
        let (public, private) = SUITE.generate_key_pair().map_err(|_| CryptoFault::ModuleFailed)?;
        Ok(Self { private: SecretBytes::copy_of(private.secret_bytes()), public: public.0 })
    }

    /// The pair as [`SealingPair::to_bytes`] gave it.
    ///
    /// # Errors
    /// [`SealBroken::Format`] for another length.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SealBroken> {
        if bytes.len() != PRIVATE + PUBLIC {
            return Err(SealBroken::Format);
        }
        let (private, public) = bytes.split_at(PRIVATE);
        Ok(Self { private: SecretBytes::copy_of(private), public: public.to_vec() })
    }

    /// Private half, then public half, to be sealed.
    pub fn to_bytes(&self) -> SecretBytes {
        let mut bytes = Zeroizing::new(Vec::with_capacity(PRIVATE + PUBLIC));
        bytes.extend_from_slice(self.private.expose());
        bytes.extend_from_slice(&self.public);
        SecretBytes::from(bytes)
    }

    /// The public half, as the roster shows it.
    pub fn public(&self) -> &[u8] {
        &self.public
    }
}

impl Handover {
    fn info(&self) -> Vec<u8> {
        let parts: [&[u8]; 6] = [
            PURPOSE,
            &self.cluster.0,
            &self.incarnation.0,
            &self.epoch.0.to_be_bytes(),
            &self.node.0.to_be_bytes(),
            &self.hsm.0,
        ];
        // Every part has a fixed length, so the whole is unambiguous.
        parts.concat()
    }
}

impl MasterKey {
    /// Seals the master key, and not the storage key, to this public key: encapsulated secret, ciphertext, tag.
    ///
    /// # Errors
    /// [`CryptoFault::KeyMaterial`] when it is no public key of the suite, or there is no master key to hand over.
    pub fn hand_over(&self, public: &[u8], binding: &Handover) -> Result<Vec<u8>, CryptoFault> {
        if self.is_keyless() || binding.epoch != self.epoch() || public.len() != PUBLIC {
            return Err(CryptoFault::KeyMaterial);
        }
        let (encapsulated, ciphertext) = SUITE
            .seal(&binding.info(), &[], self.master(), &HpkePublicKey(public.to_vec()))
            .map_err(|_| CryptoFault::KeyMaterial)?;
        Ok([encapsulated.0, ciphertext].concat())
    }

    /// Opens what [`MasterKey::hand_over`] sealed for this pair, and gives the node a new storage key.
    ///
    /// # Errors
    /// [`SealBroken`] when the seal is altered, or made for another pair or binding, as the first of the two; a failing
    /// module as the second.
    pub fn receive(
        module: &Module,
        pair: &SealingPair,
        binding: &Handover,
        sealed: &[u8],
    ) -> Result<Result<Self, SealBroken>, CryptoFault> {
        match open(pair, binding, sealed) {
            Ok(master) => Self::received(module, binding.epoch, &master).map(Ok),
            Err(broken) => Ok(Err(broken)),
        }
    }

    /// Opens a master key of another epoch that [`MasterKey::hand_over`] sealed for this pair. The node keeps the storage
    /// key that it has.
    ///
    /// # Errors
    /// As [`MasterKey::receive`].
    pub fn receive_beside(
        &self,
        pair: &SealingPair,
        binding: &Handover,
        sealed: &[u8],
    ) -> Result<Result<Self, SealBroken>, CryptoFault> {
        match open(pair, binding, sealed) {
            Ok(master) => self.succeeded_by(binding.epoch, &master).map(Ok),
            Err(broken) => Ok(Err(broken)),
        }
    }
}

fn open(pair: &SealingPair, binding: &Handover, sealed: &[u8]) -> Result<Zeroizing<[u8; KEY]>, SealBroken> {
    let (encapsulated, ciphertext) = sealed.split_at_checked(PUBLIC).ok_or(SealBroken::Format)?;
    let private = HpkePrivateKey::from(pair.private.expose().to_vec());
    let encapsulated = EncapsulatedSecret(encapsulated.to_vec());
    let opened = SUITE.open(&encapsulated, &binding.info(), &[], ciphertext, &private);
    let opened = Zeroizing::new(opened.map_err(|_| SealBroken::Authentication)?);
    let master = <[u8; KEY]>::try_from(opened.as_slice()).map(Zeroizing::new).map_err(|_| SealBroken::Format)?;
    if binding.epoch == Epoch(0) { Err(SealBroken::Format) } else { Ok(master) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BINDING: Handover = Handover {
        cluster: ClusterId([1; 16]),
        incarnation: Incarnation([2; 16]),
        epoch: Epoch(3),
        node: NodeId(4),
        hsm: HsmId([5; 16]),
    };

    #[test]
    fn the_master_key_arrives_and_the_storage_key_stays() {
        let module = Module::start().unwrap();
        let master = MasterKey::generate(&module, Epoch(3)).unwrap();
        let pair = SealingPair::generate().unwrap();
        let sealed = master.hand_over(pair.public(), &BINDING).unwrap();
        let again = SealingPair::from_bytes(pair.to_bytes().expose()).unwrap();
        let received = MasterKey::receive(&module, &again, &BINDING, &sealed).unwrap().unwrap();
        assert!(received.master() == master.master());
        assert!(received.both()[KEY..] != master.both()[KEY..]);
        assert_eq!(received.epoch(), Epoch(3));
    }

    #[test]
    fn a_key_of_the_next_epoch_leaves_the_storage_key_as_it_is() {
        let module = Module::start().unwrap();
        let (present, next) = (MasterKey::generate(&module, Epoch(2)), MasterKey::generate(&module, Epoch(3)));
        let (present, next) = (present.unwrap(), next.unwrap());
        let pair = SealingPair::generate().unwrap();
        let sealed = next.hand_over(pair.public(), &BINDING).unwrap();
        let received = present.receive_beside(&pair, &BINDING, &sealed).unwrap().unwrap();
        assert!(received.epoch() == Epoch(3) && received.master() == next.master());
        assert!(received.both()[KEY..] == present.both()[KEY..]);
        let foreign = Handover { epoch: Epoch(2), ..BINDING };
        assert!(present.receive_beside(&pair, &foreign, &sealed).unwrap().is_err());
    }

    #[test]
    fn a_handed_over_key_opens_for_its_pair_and_binding_only() {
        let module = Module::start().unwrap();
        let master = MasterKey::generate(&module, Epoch(3)).unwrap();
        let (pair, other) = (SealingPair::generate().unwrap(), SealingPair::generate().unwrap());
        let sealed = master.hand_over(pair.public(), &BINDING).unwrap();
        assert!(MasterKey::receive(&module, &other, &BINDING, &sealed).unwrap().is_err());
        let foreign = [
            Handover { cluster: ClusterId([9; 16]), ..BINDING },
            Handover { incarnation: Incarnation([9; 16]), ..BINDING },
            Handover { epoch: Epoch(9), ..BINDING },
            Handover { node: NodeId(9), ..BINDING },
            Handover { hsm: HsmId([9; 16]), ..BINDING },
        ];
        for binding in foreign {
            assert!(MasterKey::receive(&module, &pair, &binding, &sealed).unwrap().is_err(), "{binding:?}");
        }
        for length in [0, PUBLIC - 1, PUBLIC, sealed.len() - 1] {
            assert!(MasterKey::receive(&module, &pair, &BINDING, &sealed[..length]).unwrap().is_err());
        }
        for at in [0, 1, PUBLIC, sealed.len() - 1] {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert!(MasterKey::receive(&module, &pair, &BINDING, &altered).unwrap().is_err(), "octet {at}");
        }
    }

    #[test]
    fn a_witness_has_nothing_to_hand_over() {
        let module = Module::start().unwrap();
        let pair = SealingPair::generate().unwrap();
        let witness = MasterKey::for_witness(&module).unwrap();
        let binding = Handover { epoch: Epoch(0), ..BINDING };
        assert!(matches!(witness.hand_over(pair.public(), &binding), Err(CryptoFault::KeyMaterial)));
    }

    #[test]
    fn what_is_no_public_key_gets_no_master_key() {
        let module = Module::start().unwrap();
        let master = MasterKey::generate(&module, Epoch(3)).unwrap();
        for public in [&[][..], &[4; PUBLIC], &[0; PUBLIC], &[4; PUBLIC + 1]] {
            assert!(matches!(master.hand_over(public, &BINDING), Err(CryptoFault::KeyMaterial)));
        }
    }
}

//! Who this HSM is to others: its name, its node key with the installation's certificate over it, and the key to which
//! the cluster master key is sealed for it.
//!
//! Made at the first start and kept in `identity.seal` under the root of trust, so that a disk that was stolen without its
//! passphrase cannot return to the cluster as this HSM. It must not do I/O other than to its file. `peers` shows it,
//! `join` proves it.

use hsm_core::HsmId;
use hsm_crypto::{Module, RootFault, SealingPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use zeroize::Zeroizing;

use crate::ceremony::{CeremonyKey, Installation};
use crate::data_folder::DataFolder;
use crate::exit::Fault;
use crate::member::{hexadecimal, now, stopped};
use crate::settings::Settings;
use crate::{installation, root_of_trust};

/// The identity of one HSM. Keys are wiped on drop.
pub struct Identity {
    hsm: HsmId,
    key: CeremonyKey,
    certificate: Vec<u8>,
    sealing: SealingPair,
    authority: Vec<u8>,
}

impl Identity {
    /// Reads the identity, or makes it when there is none.
    ///
    /// # Errors
    /// [`Fault::RootOfTrust`], [`Fault::Broken`], [`Fault::Disk`].
    pub fn read_or_make(settings: &Settings, folder: &DataFolder, module: &Module, hsm: HsmId) -> Result<Self, Fault> {
        let file = folder.identity();
        let name = hexadecimal(&hsm.0[..8]);
        let installation = installation::read_or_make(folder, settings.installation(), &name, now())?;
        let root = root_of_trust::open(module, folder, settings.root_of_trust(), !file.exists())?;
        let authority = card_certificate(settings, &installation)?;
        let Some(sealed) = folder.read(&file)? else {
            let made = Self::make(&installation, hsm, authority)?;
            let sealed = root.seal_identity(module, &made.to_bytes()?).map_err(|fault| stopped(&fault))?;
            folder.write(&file, &sealed)?;
            return Ok(made);
        };
        let content = root.open_identity(&sealed).map_err(|fault: RootFault| Fault::RootOfTrust {
            file: file.clone(),
            cause: fault.to_string(),
            remedy: "Give the root of trust that it was sealed with, or restore the file from a copy",
        })?;
        Self::from_bytes(hsm, content.expose(), authority).ok_or(Fault::Broken {
            file,
            cause: "it does not hold an identity".to_owned(),
            remedy: "Restore it from a copy of the data folder",
        })
    }

    fn make(installation: &Installation, hsm: HsmId, authority: Vec<u8>) -> Result<Self, Fault> {
        let key = CeremonyKey::generate().map_err(|fault| stopped(&fault))?;
        let certificate =
            installation.certify_node(&key, &hexadecimal(&hsm.0), now()).map_err(|fault| stopped(&fault))?;
        let sealing = SealingPair::generate().map_err(|fault| stopped(&fault))?;
        Ok(Self { hsm, key, certificate, sealing, authority })
    }

    /// Three parts, each after its length.
    fn to_bytes(&self) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(2048));
        let (key, sealing) = (self.key.pkcs8(), self.sealing.to_bytes());
        for part in [key.as_slice(), sealing.expose(), &self.certificate] {
            let length = u32::try_from(part.len()).map_err(|error| stopped(&error))?;
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(part);
        }
        Ok(bytes)
    }

    fn from_bytes(hsm: HsmId, mut bytes: &[u8], authority: Vec<u8>) -> Option<Self> {
        let mut part = || {
            let (length, rest) = bytes.split_first_chunk::<4>()?;
            let (part, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
            bytes = rest;
            Some(part)
        };
        let key = CeremonyKey::from_pkcs8(part()?).ok()?;
        let sealing = SealingPair::from_bytes(part()?).ok()?;
        let certificate = part()?.to_vec();
        Some(Self { hsm, key, certificate, sealing, authority })
    }

    /// This HSM's name.
    pub fn hsm(&self) -> HsmId {
        self.hsm
    }

    /// The certificate over the node key, DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// The card's certificate: the authority that certifies every HSM of this installation, DER.
    pub fn authority(&self) -> &[u8] {
        &self.authority
    }

    /// The node key in PKCS #8, for TLS.
    pub fn key(&self) -> Zeroizing<Vec<u8>> {
        self.key.pkcs8()
    }

    /// The pair to which the cluster master key is sealed for this HSM.
    pub fn sealing(&self) -> &SealingPair {
        &self.sealing
    }

    /// The node key's signature over a statement.
    ///
    /// # Errors
    /// [`Fault::Stopped`] when the cryptographic library fails.
    pub fn sign(&self, statement: &[u8]) -> Result<Vec<u8>, Fault> {
        self.key.sign(statement).map_err(|fault| stopped(&fault))
    }
}

fn card_certificate(settings: &Settings, installation: &Installation) -> Result<Vec<u8>, Fault> {
    let pem = installation.certificates.aws_hardware.as_bytes();
    let certificate = CertificateDer::from_pem_slice(pem).map_err(|error| Fault::Broken {
        file: settings.installation().to_owned(),
        cause: format!("the card's certificate cannot be read: {error}"),
        remedy: "Restore the folder of the installation from a copy",
    })?;
    Ok(certificate.to_vec())
}

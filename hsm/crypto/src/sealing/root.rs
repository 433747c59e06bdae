//! Roots of trust: what seals the master key and an HSM's identity at rest. `file` is a key in a file of its own, `passphrase` is asked for at
//! each start. A stolen disk that has both `root.key` and `master.seal` is lost: SECURITY.md says so.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use hsm_core::Epoch;
use zeroize::Zeroizing;

use super::master::{KEY, MasterKey};
use super::{derive_key, envelope, label};
use crate::fault::{CryptoFault, SealBroken};
use crate::module::Module;
use crate::password::Stretch;
use crate::secret::SecretBytes;
use crate::secret::pages::Pages;

/// First bytes of `master.seal`, with the version of the format.
const MAGIC: &Magic = b"kagimori\0ms\x01";

/// The same of what [`RootOfTrust::seal_identity`] makes.
const IDENTITY_MAGIC: &Magic = b"kagimori\0id\x01";

/// First bytes of a seal: what it is, and the version of its format.
type Magic = [u8; 12];

/// Bytes of the salt of a passphrase.
const SALT: usize = 16;

/// Magic, kind, parameters of stretching, salt. A key file stretches nothing and leaves the last two zero.
const HEADER: usize = MAGIC.len() + 1 + Stretch::ENCODED + SALT;

/// Longest passphrase that is read, in bytes.
const PASSPHRASE_BYTES: usize = 4096;

/// What seals the master key.
pub enum RootOfTrust {
    /// A random key in a file: `root.key`, mode 0600.
    File(SecretBytes),
    /// A passphrase.
    Passphrase(SecretBytes),
}

/// Why a root of trust or a seal could not be used.
#[derive(Debug, thiserror::Error)]
pub enum RootFault {
    /// The file cannot be read or written.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Others than the owner may read the file.
    #[error("others may read the file: its mode is {0:o} and must be 600")]
    Mode(u32),
    /// The file is no root key.
    #[error("the file is no root key of {KEY} bytes")]
    NotARootKey,
    /// The passphrase is empty or too long.
    #[error("the passphrase must have 1 to {PASSPHRASE_BYTES} bytes")]
    Passphrase,
    /// The seal does not open with this root of trust.
    #[error("the seal does not open: {0}; wrong root key or passphrase, or the file is damaged")]
    Seal(#[from] SealBroken),
    /// The module failed.
    #[error("{0}")]
    Crypto(#[from] CryptoFault),
}

impl RootOfTrust {
    /// Makes a new `root.key`, durable before it returns. An existing file is never overwritten.
    ///
    /// # Errors
    /// [`RootFault::Io`], also when the file exists.
    pub fn create_file(module: &Module, path: &Path) -> Result<Self, RootFault> {
        let mut key = SecretBytes::zeros(KEY);
        module.random(key.expose_mut())?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(key.expose())?;
        file.sync_all()?;
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            File::open(folder)?.sync_all()?;
        }
        Ok(Self::File(key))
    }

    /// Reads `root.key`.
    ///
    /// # Errors
    /// [`RootFault::Mode`] when group or others have any right on it, [`RootFault::NotARootKey`], [`RootFault::Io`].
    pub fn read_file(path: &Path) -> Result<Self, RootFault> {
        let mut file = open_private(path)?;
        let mut key = SecretBytes::zeros(KEY);
        file.read_exact(key.expose_mut()).map_err(|_| RootFault::NotARootKey)?;
        if file.read(&mut [0])? != 0 {
            return Err(RootFault::NotARootKey);
        }
        Ok(Self::File(key))
    }

    /// Takes a passphrase.
    ///
    /// # Errors
    /// [`RootFault::Passphrase`].
    pub fn passphrase(passphrase: SecretBytes) -> Result<Self, RootFault> {
        if passphrase.is_empty() || passphrase.len() > PASSPHRASE_BYTES {
            return Err(RootFault::Passphrase);
        }
        Ok(Self::Passphrase(passphrase))
    }

    /// Reads a passphrase from a file of mode 0600; one line feed at its end does not belong to it.
    ///
    /// # Errors
    /// [`RootFault::Mode`], [`RootFault::Passphrase`], [`RootFault::Io`].
    pub fn read_passphrase(path: &Path) -> Result<Self, RootFault> {
        let file = open_private(path)?;
        let mut bytes = Zeroizing::new(Vec::with_capacity(PASSPHRASE_BYTES + 2));
        file.take(PASSPHRASE_BYTES as u64 + 2).read_to_end(&mut bytes)?;
        let passphrase = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        Self::passphrase(SecretBytes::copy_of(passphrase))
    }

    /// Seals the keys by which an HSM proves who it is.
    ///
    /// # Errors
    /// [`RootFault::Crypto`].
    pub fn seal_identity(&self, module: &Module, content: &[u8]) -> Result<Vec<u8>, RootFault> {
        self.seal(module, IDENTITY_MAGIC, label::IDENTITY, content)
    }

    /// Opens what [`RootOfTrust::seal_identity`] made.
    ///
    /// # Errors
    /// [`RootFault::Seal`] when root and seal do not belong together or the seal is altered.
    pub fn open_identity(&self, sealed: &[u8]) -> Result<SecretBytes, RootFault> {
        self.open(IDENTITY_MAGIC, label::IDENTITY, sealed).map(SecretBytes::from)
    }

    /// Magic and version, kind of root, parameters, then nonce, ciphertext and tag, all of the header authenticated.
    fn seal(&self, module: &Module, magic: &Magic, label: &[u8], content: &[u8]) -> Result<Vec<u8>, RootFault> {
        let mut sealed = Vec::with_capacity(HEADER + envelope::OVERHEAD + content.len());
        sealed.extend_from_slice(magic);
        sealed.push(self.kind());
        if let Self::Passphrase(_) = self {
            sealed.extend_from_slice(&Stretch::for_root().encode());
            sealed.extend_from_slice(&module.random_bytes::<SALT>()?);
        }
        sealed.resize(HEADER, 0);
        let key = self.sealing_key(label, &sealed)?;
        let body = envelope::seal(module, &*key, &sealed, content)?;
        sealed.extend_from_slice(&body);
        Ok(sealed)
    }

    fn open(&self, magic: &Magic, label: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, RootFault> {
        let (header, body) = sealed.split_at_checked(HEADER).ok_or(SealBroken::Format)?;
        if !header.starts_with(magic) || header[MAGIC.len()] != self.kind() {
            return Err(SealBroken::Format.into());
        }
        let key = self.sealing_key(label, header)?;
        Ok(envelope::open(&*key, header, body)?)
    }

    /// The key that seals, and the header that says how it is had.
    fn sealing_key(&self, label: &[u8], header: &[u8]) -> Result<Zeroizing<[u8; KEY]>, RootFault> {
        let mut stretched = Zeroizing::new([0; KEY]);
        let secret: &[u8] = match self {
            Self::File(key) => key.expose(),
            Self::Passphrase(passphrase) => {
                let at = MAGIC.len() + 1;
                let how = header[at..].first_chunk().and_then(Stretch::decode).ok_or(SealBroken::Format)?;
                how.run(passphrase.expose(), &header[at + Stretch::ENCODED..], &mut *stretched)?;
                &*stretched
            }
        };
        let mut key = Zeroizing::new([0; KEY]);
        derive_key(secret, label, &mut *key)?;
        Ok(key)
    }

    fn kind(&self) -> u8 {
        match self {
            Self::File(_) => 1,
            Self::Passphrase(_) => 2,
        }
    }
}

impl MasterKey {
    /// Seals the keys: the content of `master.seal`, over epoch, master key and storage key.
    ///
    /// # Errors
    /// [`RootFault::Crypto`].
    pub fn seal(&self, module: &Module, root: &RootOfTrust) -> Result<Vec<u8>, RootFault> {
        let mut content = Zeroizing::new(Vec::with_capacity(4 + 2 * KEY));
        content.extend_from_slice(&self.epoch().0.to_be_bytes());
        content.extend_from_slice(self.both());
        root.seal(module, MAGIC, label::ROOT, &content)
    }

    /// Opens the content of `master.seal`.
    ///
    /// # Errors
    /// [`RootFault::Seal`] when root and seal do not belong together or the seal is altered.
    pub fn unseal(root: &RootOfTrust, sealed: &[u8]) -> Result<Self, RootFault> {
        let content = root.open(MAGIC, label::ROOT, sealed)?;
        let (epoch, keys) = content.split_first_chunk().ok_or(SealBroken::Format)?;
        if keys.len() != 2 * KEY {
            return Err(SealBroken::Format.into());
        }
        let mut pages = Pages::new(keys.len()).map_err(CryptoFault::from)?;
        pages.bytes_mut().copy_from_slice(keys);
        Ok(Self::from_parts(Epoch(u32::from_be_bytes(*epoch)), pages))
    }
}

/// Opens a file that only its owner may read.
fn open_private(path: &Path) -> Result<File, RootFault> {
    let file = File::open(path)?;
    let mode = file.metadata()?.mode() & 0o7777;
    if mode & 0o077 != 0 { Err(RootFault::Mode(mode)) } else { Ok(file) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_seal_opens_under_its_root_only() {
        let module = Module::start().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        let root = RootOfTrust::create_file(&module, &path).unwrap();
        let master = MasterKey::generate(&module, Epoch(3)).unwrap();
        let sealed = master.seal(&module, &root).unwrap();

        let again = MasterKey::unseal(&RootOfTrust::read_file(&path).unwrap(), &sealed).unwrap();
        assert_eq!((again.epoch(), again.both()), (Epoch(3), master.both()));

        let other = RootOfTrust::create_file(&module, &folder.path().join("other.key")).unwrap();
        assert!(matches!(MasterKey::unseal(&other, &sealed), Err(RootFault::Seal(SealBroken::Authentication))));
        assert!(matches!(RootOfTrust::create_file(&module, &path), Err(RootFault::Io(_))), "never overwritten");
    }

    #[test]
    fn a_root_key_that_others_may_read_is_refused() {
        let module = Module::start().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        RootOfTrust::create_file(&module, &path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(RootOfTrust::read_file(&path), Err(RootFault::Mode(0o640))));
    }

    #[test]
    fn a_seal_of_one_kind_is_no_seal_of_another() {
        let module = Module::start().unwrap();
        let root = RootOfTrust::File(SecretBytes::copy_of(&[5; KEY]));
        let sealed = root.seal_identity(&module, b"who I am").unwrap();
        assert_eq!(root.open_identity(&sealed).unwrap().expose(), b"who I am");
        assert!(matches!(MasterKey::unseal(&root, &sealed), Err(RootFault::Seal(_))));
        let master = MasterKey::generate(&module, Epoch(1)).unwrap().seal(&module, &root).unwrap();
        assert!(matches!(root.open_identity(&master), Err(RootFault::Seal(_))));
    }

    #[test]
    fn each_flipped_bit_of_the_seal_is_refused() {
        let module = Module::start().unwrap();
        let root = RootOfTrust::File(SecretBytes::copy_of(&[5; KEY]));
        let sealed = MasterKey::generate(&module, Epoch(1)).unwrap().seal(&module, &root).unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut altered = sealed.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(MasterKey::unseal(&root, &altered).is_err(), "bit {bit}");
        }
        assert!(MasterKey::unseal(&root, &sealed[..sealed.len() - 1]).is_err());
    }

    #[test]
    fn a_passphrase_opens_what_it_sealed_and_a_wrong_one_does_not() {
        let module = Module::start().unwrap();
        let root = |words: &[u8]| RootOfTrust::passphrase(SecretBytes::copy_of(words)).unwrap();
        let master = MasterKey::generate(&module, Epoch(1)).unwrap();
        let sealed = master.seal(&module, &root(b"four words of it")).unwrap();
        assert_eq!(MasterKey::unseal(&root(b"four words of it"), &sealed).unwrap().both(), master.both());
        assert!(matches!(MasterKey::unseal(&root(b"four words"), &sealed), Err(RootFault::Seal(_))));
        assert!(RootOfTrust::passphrase(SecretBytes::copy_of(b"")).is_err());
    }
}

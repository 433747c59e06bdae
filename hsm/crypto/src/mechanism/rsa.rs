//! RSA without padding: `CKM_RSA_X_509` (PKCS#11 3.2 §6.1.9).

use hsm_protocol::MechanismKind as M;
use zeroize::Zeroizing;

use super::{Call, Encrypted, Family, Outcome};
use crate::fault::CryptoFault;
use crate::wide::rsa::Padding;
use crate::wide::{Failed, Rsa, equal};

/// `CKM_RSA_X_509`.
pub(crate) struct Raw;

impl Family for Raw {
    fn kinds(&self) -> &'static [M] {
        &[M::RSA_X_509]
    }

    fn sign(&self, call: &Call<'_>, data: &[u8]) -> Outcome<Vec<u8>> {
        let rsa = call.key.rsa()?;
        rsa.sign(Padding::None, &block(rsa, data)?).map_err(|Failed| CryptoFault::DataInvalid)
    }

    fn verify(&self, call: &Call<'_>, data: &[u8], signature: &[u8]) -> Outcome<()> {
        let expected = block(call.key.rsa()?, data)?;
        if equal(&self.recover(call, signature)?, &expected) { Ok(()) } else { Err(CryptoFault::SignatureInvalid) }
    }

    fn recover(&self, call: &Call<'_>, signature: &[u8]) -> Outcome<Vec<u8>> {
        let rsa = call.key.rsa()?;
        if signature.len() != rsa.bytes() {
            return Err(CryptoFault::SignatureLength);
        }
        rsa.recover(Padding::None, signature).map_err(|Failed| CryptoFault::SignatureInvalid)
    }

    fn encrypt(&self, call: &Call<'_>, data: &[u8]) -> Outcome<Encrypted> {
        let rsa = call.key.rsa()?;
        let encrypted = rsa.encrypt(Padding::None, &block(rsa, data)?);
        Ok(Encrypted { data: encrypted.map_err(|Failed| CryptoFault::DataInvalid)?, iv: None })
    }

    fn decrypt(&self, call: &Call<'_>, data: &[u8]) -> Outcome<Zeroizing<Vec<u8>>> {
        let rsa = call.key.rsa()?;
        if data.len() != rsa.bytes() {
            return Err(CryptoFault::EncryptedLength);
        }
        rsa.decrypt(Padding::None, data).map_err(|Failed| CryptoFault::EncryptedInvalid)
    }
}

/// Data as a number, with leading zeros up to the modulus's length.
fn block(rsa: &Rsa, data: &[u8]) -> Outcome<Zeroizing<Vec<u8>>> {
    let start = rsa.bytes().checked_sub(data.len()).ok_or(CryptoFault::DataLength)?;
    let mut block = Zeroizing::new(vec![0; rsa.bytes()]);
    block[start..].copy_from_slice(data);
    Ok(block)
}

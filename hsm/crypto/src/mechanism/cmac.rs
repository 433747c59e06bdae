//! CMAC and the older CBC-MAC with AES.

use hsm_protocol::{MechanismKind as M, Parameters};
use zeroize::Zeroizing;

use super::hmac::{cut, matches};
use super::{Call, Family, Gather, Outcome};
use crate::fault::CryptoFault;
use crate::wide::{Cipher, Cmac, Direction, Mode};

const BLOCK: usize = 16;

/// `CKM_AES_CMAC`, `CKM_AES_CMAC_GENERAL` and `CKM_AES_MAC`.
pub(crate) struct AesMac;

impl Family for AesMac {
    fn kinds(&self) -> &'static [M] {
        &[M::AES_CMAC, M::AES_CMAC_GENERAL, M::AES_MAC]
    }

    fn gather(&self, call: &Call<'_>) -> Outcome<Gather> {
        let key = call.key.aes()?.bytes.expose();
        if call.mechanism.kind == M::AES_MAC { Ok(Gather::whole()) } else { Ok(Gather::Cmac(Cmac::new(key)?)) }
    }

    fn sign(&self, call: &Call<'_>, gathered: &[u8]) -> Outcome<Vec<u8>> {
        if call.mechanism.kind == M::AES_MAC {
            return cbc_mac(call, gathered);
        }
        Ok(gathered[..cut(call, gathered.len())?].to_vec())
    }

    fn verify(&self, call: &Call<'_>, gathered: &[u8], signature: &[u8]) -> Outcome<()> {
        matches(&self.sign(call, gathered)?, signature)
    }
}

/// FIPS 113 with AES: CBC with a zero IV over zero-padded data; half a block of the last one (PKCS#11 3.2 §6.13.8).
fn cbc_mac(call: &Call<'_>, data: &[u8]) -> Outcome<Vec<u8>> {
    let Parameters::None = call.mechanism.parameters else { return Err(CryptoFault::MechanismParameters) };
    let mut padded = Zeroizing::new(data.to_vec());
    padded.resize(data.len().max(1).next_multiple_of(BLOCK), 0);
    let mut cipher = Cipher::new(Mode::Cbc, call.key.aes()?.bytes.expose(), &[0; BLOCK], Direction::Encrypt)?;
    let mut output = Zeroizing::new(Vec::new());
    cipher.update(&padded, &mut output)?;
    let last = output.len().checked_sub(BLOCK).ok_or(CryptoFault::ModuleFailed)?;
    Ok(output[last..last + BLOCK / 2].to_vec())
}

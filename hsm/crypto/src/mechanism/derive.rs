//! Simple derivations: concatenation, exclusive or, digests and encryption of data (PKCS#11 3.2 §6.43, §6.20.5, §6.14).

use hsm_protocol::{AttributeKind, MechanismKind as M, Parameters};

use super::{Call, Family, Outcome, built_in_hash};
use crate::fault::CryptoFault;
use crate::key::Key;
use crate::secret::SecretBytes;
use crate::wide::{Cipher, Direction, Mode};

/// More bytes are wanted than the mechanism gives.
pub(super) const TOO_LONG: CryptoFault = CryptoFault::AttributeValue(AttributeKind::ValueLen);

/// The derivations of this file.
pub(crate) struct Derivation;

impl Family for Derivation {
    fn kinds(&self) -> &'static [M] {
        &[
            M::CONCATENATE_BASE_AND_KEY,
            M::CONCATENATE_BASE_AND_DATA,
            M::CONCATENATE_DATA_AND_BASE,
            M::XOR_BASE_AND_DATA,
            M::SHA1_KEY_DERIVATION,
            M::SHA224_KEY_DERIVATION,
            M::SHA256_KEY_DERIVATION,
            M::SHA384_KEY_DERIVATION,
            M::SHA512_KEY_DERIVATION,
            M::AES_ECB_ENCRYPT_DATA,
            M::AES_CBC_ENCRYPT_DATA,
        ]
    }

    fn derive(&self, call: &Call<'_>, second: Option<&Key>, length: Option<usize>) -> Outcome<SecretBytes> {
        let base = call.key.secret()?;
        match call.mechanism.kind {
            M::CONCATENATE_BASE_AND_KEY => {
                let second = second.ok_or(CryptoFault::MechanismParameters)?;
                leading(concatenated(base, second.secret()?), length)
            }
            M::CONCATENATE_BASE_AND_DATA => leading(concatenated(base, data(call)?), length),
            M::CONCATENATE_DATA_AND_BASE => leading(concatenated(data(call)?, base), length),
            M::XOR_BASE_AND_DATA => leading(exclusive_or(base, data(call)?), length),
            M::AES_ECB_ENCRYPT_DATA => trailing(encrypted(call, Mode::Ecb, &[], data(call)?)?, length),
            M::AES_CBC_ENCRYPT_DATA => {
                let Parameters::CbcDerivation { iv, data } = &call.mechanism.parameters else {
                    return Err(CryptoFault::MechanismParameters);
                };
                trailing(encrypted(call, Mode::Cbc, iv, data)?, length)
            }
            kind => {
                let hash = built_in_hash(kind).ok_or(CryptoFault::MechanismInvalid)?;
                leading(hash.digest(base)?.into(), length)
            }
        }
    }
}

fn data<'a>(call: &Call<'a>) -> Outcome<&'a [u8]> {
    if let Parameters::DerivationData(data) = &call.mechanism.parameters {
        Ok(data)
    } else {
        Err(CryptoFault::MechanismParameters)
    }
}

fn concatenated(first: &[u8], second: &[u8]) -> SecretBytes {
    let mut output = SecretBytes::zeros(first.len() + second.len());
    let (head, tail) = output.expose_mut().split_at_mut(first.len());
    head.copy_from_slice(first);
    tail.copy_from_slice(second);
    output
}

/// As long as the shorter of the two.
fn exclusive_or(first: &[u8], second: &[u8]) -> SecretBytes {
    let mut output = SecretBytes::copy_of(&first[..first.len().min(second.len())]);
    output.expose_mut().iter_mut().zip(second).for_each(|(byte, other)| *byte ^= other);
    output
}

fn encrypted(call: &Call<'_>, mode: Mode, iv: &[u8], data: &[u8]) -> Outcome<SecretBytes> {
    if data.is_empty() || !data.len().is_multiple_of(16) {
        return Err(CryptoFault::MechanismParameters);
    }
    let key = call.key.aes()?.bytes.expose();
    let mut cipher = Cipher::new(mode, key, iv, Direction::Encrypt).map_err(|_| CryptoFault::MechanismParameters)?;
    let mut output = Vec::with_capacity(data.len() + 16);
    cipher.update(data, &mut output)?;
    Ok(output.into())
}

/// The first bytes.
fn leading(whole: SecretBytes, length: Option<usize>) -> Outcome<SecretBytes> {
    let length = length.unwrap_or(whole.len());
    whole.expose().get(..length).map(SecretBytes::copy_of).ok_or(TOO_LONG)
}

/// The last bytes, as SoftHSM2 cuts what it derives by encryption; the standard does not say.
fn trailing(whole: SecretBytes, length: Option<usize>) -> Outcome<SecretBytes> {
    let start = whole.len().checked_sub(length.unwrap_or(whole.len()));
    start.map(|start| SecretBytes::copy_of(&whole.expose()[start..])).ok_or(TOO_LONG)
}

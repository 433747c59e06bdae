//! AES key wrap: RFC 3394, RFC 5649, and RFC 3394 after PKCS#7 padding (PKCS#11 3.2 §6.13.12 to §6.13.14).

use hsm_protocol::{MechanismKind as M, Parameters};
use zeroize::Zeroizing;

use super::{Call, Encrypted, Family, Outcome};
use crate::fault::CryptoFault;
use crate::wide::{Failed, block};

/// Bytes of the halves that the wrap works on.
const HALF: usize = 8;

/// The alternative initial value of RFC 5649 §3, without the length.
const PADDED_INITIAL: [u8; 4] = [0xA6, 0x59, 0x59, 0xA6];

/// `CKM_AES_KEY_WRAP`, `_PAD`, `_KWP` and `_PKCS7`.
///
/// `_PAD` had two meanings in the history of PKCS#11; since 2.40 errata it is RFC 5649, as `_KWP` is.
pub(crate) struct KeyWrap;

impl Family for KeyWrap {
    fn kinds(&self) -> &'static [M] {
        &[M::AES_KEY_WRAP, M::AES_KEY_WRAP_PAD, M::AES_KEY_WRAP_KWP, M::AES_KEY_WRAP_PKCS7]
    }

    fn encrypt(&self, call: &Call<'_>, data: &[u8]) -> Outcome<Encrypted> {
        let key = call.key.aes()?.bytes.expose();
        let wrapped = match call.mechanism.kind {
            M::AES_KEY_WRAP => block::wrap(key, initial(call)?.as_ref(), wrappable(data)?),
            M::AES_KEY_WRAP_PKCS7 => {
                let padding = HALF - data.len() % HALF;
                let mut padded = Zeroizing::new(Vec::with_capacity(data.len() + HALF));
                padded.extend_from_slice(data);
                padded.resize(data.len() + padding, u8::try_from(padding).unwrap_or(0));
                block::wrap(key, initial(call)?.as_ref(), wrappable(&padded)?)
            }
            _ => {
                padded_initial(call)?;
                if data.is_empty() {
                    return Err(CryptoFault::DataLength);
                }
                block::wrap_padded(key, data)
            }
        };
        Ok(Encrypted { data: wrapped.map_err(|Failed| CryptoFault::DataLength)?, iv: None })
    }

    fn decrypt(&self, call: &Call<'_>, data: &[u8]) -> Outcome<Zeroizing<Vec<u8>>> {
        let key = call.key.aes()?.bytes.expose();
        let padded = matches!(call.mechanism.kind, M::AES_KEY_WRAP_PAD | M::AES_KEY_WRAP_KWP);
        let least = if padded { 2 * HALF } else { 3 * HALF };
        if data.len() < least || !data.len().is_multiple_of(HALF) {
            return Err(CryptoFault::EncryptedLength);
        }
        if padded {
            padded_initial(call)?;
            return block::unwrap_padded(key, data).map_err(|Failed| CryptoFault::EncryptedInvalid);
        }
        let initial = initial(call)?;
        let mut opened = block::unwrap(key, initial.as_ref(), data).map_err(|Failed| CryptoFault::EncryptedInvalid)?;
        if call.mechanism.kind == M::AES_KEY_WRAP_PKCS7 {
            // The wrap's own check has passed, so the padding is what its maker wrote and no oracle.
            let padding = usize::from(*opened.last().ok_or(CryptoFault::EncryptedInvalid)?);
            let length = opened.len().checked_sub(padding).filter(|_| (1..=HALF).contains(&padding));
            let length = length.ok_or(CryptoFault::EncryptedInvalid)?;
            if opened[length..].iter().any(|&byte| usize::from(byte) != padding) {
                return Err(CryptoFault::EncryptedInvalid);
            }
            opened.truncate(length);
        }
        Ok(opened)
    }
}

/// Data that RFC 3394 takes: two halves or more.
fn wrappable(data: &[u8]) -> Outcome<&[u8]> {
    let fits = data.len() >= 2 * HALF && data.len().is_multiple_of(HALF);
    if fits { Ok(data) } else { Err(CryptoFault::DataLength) }
}

/// The initial value of RFC 3394, when the caller brings one.
fn initial(call: &Call<'_>) -> Outcome<Option<[u8; HALF]>> {
    match &call.mechanism.parameters {
        Parameters::None => Ok(None),
        Parameters::Iv(iv) if iv.is_empty() => Ok(None),
        Parameters::Iv(iv) => iv.as_slice().try_into().map(Some).map_err(|_| CryptoFault::MechanismParameters),
        _ => Err(CryptoFault::MechanismParameters),
    }
}

/// The provider has RFC 5649 with its own initial value only.
fn padded_initial(call: &Call<'_>) -> Outcome<()> {
    match &call.mechanism.parameters {
        Parameters::None => Ok(()),
        Parameters::Iv(iv) if iv.is_empty() || *iv == PADDED_INITIAL => Ok(()),
        _ => Err(CryptoFault::MechanismParameters),
    }
}

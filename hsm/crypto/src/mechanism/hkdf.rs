//! HKDF (RFC 5869; PKCS#11 3.2 §6.62).

use hsm_protocol::mechanism::HkdfSalt;
use hsm_protocol::{MechanismKind as M, Parameters};

use super::{Call, Family, Outcome, hash_of};
use crate::fault::CryptoFault;
use crate::key::Key;
use crate::secret::SecretBytes;
use crate::wide::stretch::{hkdf_expand, hkdf_extract};

/// Blocks that Expand can give (RFC 5869 §2.3).
const MOST_BLOCKS: usize = 255;

/// `CKM_HKDF_DERIVE` and `CKM_HKDF_DATA`.
pub(crate) struct Hkdf;

impl Family for Hkdf {
    fn kinds(&self) -> &'static [M] {
        &[M::HKDF_DERIVE, M::HKDF_DATA]
    }

    fn derive(&self, call: &Call<'_>, second: Option<&Key>, length: Option<usize>) -> Outcome<SecretBytes> {
        let Parameters::Hkdf { extract, expand, hash, salt, info } = &call.mechanism.parameters else {
            return Err(CryptoFault::MechanismParameters);
        };
        let hash = hash_of(*hash)?;
        let length = length.unwrap_or(hash.size());
        let salt: &[u8] = match (salt, second) {
            (HkdfSalt::Null, _) => &[],
            (HkdfSalt::Data(data), _) => data,
            (HkdfSalt::Key(_), Some(key)) => key.secret()?,
            (HkdfSalt::Key(_), None) => return Err(CryptoFault::MechanismParameters),
        };
        let secret = call.key.secret()?;
        let extracted =
            if *extract { SecretBytes::from(hkdf_extract(hash, salt, secret)?) } else { SecretBytes::copy_of(secret) };
        match (*extract, *expand) {
            (_, true) if length <= MOST_BLOCKS * hash.size() => {
                let mut output = SecretBytes::zeros(length);
                hkdf_expand(hash, extracted.expose(), info, output.expose_mut())?;
                Ok(output)
            }
            (true, false) if length <= hash.size() => Ok(SecretBytes::copy_of(&extracted.expose()[..length])),
            (false, false) => Err(CryptoFault::MechanismParameters),
            _ => Err(super::derive::TOO_LONG),
        }
    }
}

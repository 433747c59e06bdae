//! Key agreement on curves, and the KDF of ANSI X9.63 behind it (PKCS#11 3.2 §6.3.17 to §6.3.20).

use hsm_protocol::mechanism::kdf;
use hsm_protocol::{KeyType, MechanismKind as M, Parameters};

use super::{Call, Family, Outcome};
use crate::fault::CryptoFault;
use crate::key::{Key, KeyMaterial, fixed, raw_edwards, raw_on};
use crate::secret::SecretBytes;
use crate::wide::edwards;
use crate::wide::{Digest, Failed, Hash};

/// `CKM_ECDH1_DERIVE` and `CKM_ECDH1_COFACTOR_DERIVE`: the cofactor of every curve here is 1, or in X25519 already part
/// of the function, so that the two give the same.
pub(crate) struct Ecdh;

impl Family for Ecdh {
    fn kinds(&self) -> &'static [M] {
        &[M::ECDH1_DERIVE, M::ECDH1_COFACTOR_DERIVE]
    }

    fn derive(&self, call: &Call<'_>, _second: Option<&Key>, length: Option<usize>) -> Outcome<SecretBytes> {
        let Parameters::Ecdh { kdf, shared_data, public_data } = &call.mechanism.parameters else {
            return Err(CryptoFault::MechanismParameters);
        };
        let shared = agree(call.key, public_data)?;
        let hash = match *kdf {
            kdf::NULL if shared_data.is_empty() => return truncated(&shared, length),
            kdf::SHA1 => Hash::Sha1,
            kdf::SHA224 => Hash::Sha224,
            kdf::SHA256 => Hash::Sha256,
            kdf::SHA384 => Hash::Sha384,
            kdf::SHA512 => Hash::Sha512,
            _ => return Err(CryptoFault::MechanismParameters),
        };
        x963(hash, &shared, shared_data, length.unwrap_or(hash.size()))
    }
}

/// The shared secret with the other party's point, which may be raw or a DER OCTET STRING.
fn agree(key: &Key, peer: &[u8]) -> Outcome<SecretBytes> {
    match key.material() {
        KeyMaterial::Curve(curve) => curve.agree(raw_on(curve.curve(), peer)),
        KeyMaterial::X25519Private(private) if key.key_type() == KeyType::EcMontgomery => {
            let peer = fixed(raw_edwards(peer)).map_err(|_| CryptoFault::MechanismParameters)?;
            edwards::x25519(&fixed(private.expose())?, &peer).map_err(|Failed| CryptoFault::MechanismParameters)
        }
        _ => Err(CryptoFault::KeyType),
    }
}

/// The last bytes of the shared secret: "the truncation removes bytes from the leading end" (PKCS#11 3.2 §6.3.18).
fn truncated(shared: &SecretBytes, length: Option<usize>) -> Outcome<SecretBytes> {
    let start = shared.len().checked_sub(length.unwrap_or(shared.len()));
    start.map(|start| SecretBytes::copy_of(&shared.expose()[start..])).ok_or(super::derive::TOO_LONG)
}

/// The KDF of ANSI X9.63 (SEC 1 §3.6.1): hashes of secret ‖ counter ‖ shared info.
fn x963(hash: Hash, secret: &SecretBytes, info: &[u8], length: usize) -> Outcome<SecretBytes> {
    let mut output = SecretBytes::zeros(length);
    for (counter, part) in (1_u32..).zip(output.expose_mut().chunks_mut(hash.size())) {
        let mut digest = Digest::new(hash)?;
        digest.update(secret.expose())?;
        digest.update(&counter.to_be_bytes())?;
        digest.update(info)?;
        let block = zeroize::Zeroizing::new(digest.finish()?);
        part.copy_from_slice(&block[..part.len()]);
    }
    Ok(output)
}

//! RSA with the paddings of PKCS#1 (RFC 8017): v1.5 with and without a digest, PSS, OAEP.

use hsm_protocol::mechanism::mgf;
use hsm_protocol::{MechanismKind as M, Parameters};
use zeroize::Zeroizing;

use super::{Call, Encrypted, Family, Gather, Outcome, built_in_hash, hash_of};
use crate::fault::CryptoFault;
use crate::wide::rsa::Padding;
use crate::wide::{Failed, Hash, equal};

/// Bytes that PKCS#1 v1.5 needs beside the data (RFC 8017 §7.2.1, §9.2).
const PKCS1_OVERHEAD: usize = 11;

/// `CKM_RSA_PKCS`.
pub(crate) struct Pkcs1;

impl Family for Pkcs1 {
    fn kinds(&self) -> &'static [M] {
        &[M::RSA_PKCS]
    }

    fn sign(&self, call: &Call<'_>, data: &[u8]) -> Outcome<Vec<u8>> {
        let rsa = call.key.rsa()?;
        if data.len() + PKCS1_OVERHEAD > rsa.bytes() {
            return Err(CryptoFault::DataLength);
        }
        Ok(rsa.sign(Padding::Pkcs1, data)?)
    }

    fn verify(&self, call: &Call<'_>, data: &[u8], signature: &[u8]) -> Outcome<()> {
        if equal(&self.recover(call, signature)?, data) { Ok(()) } else { Err(CryptoFault::SignatureInvalid) }
    }

    fn recover(&self, call: &Call<'_>, signature: &[u8]) -> Outcome<Vec<u8>> {
        let rsa = call.key.rsa()?;
        if signature.len() != rsa.bytes() {
            return Err(CryptoFault::SignatureLength);
        }
        rsa.recover(Padding::Pkcs1, signature).map_err(|Failed| CryptoFault::SignatureInvalid)
    }

    fn encrypt(&self, call: &Call<'_>, data: &[u8]) -> Outcome<Encrypted> {
        let rsa = call.key.rsa()?;
        if data.len() + PKCS1_OVERHEAD > rsa.bytes() {
            return Err(CryptoFault::DataLength);
        }
        Ok(Encrypted { data: rsa.encrypt(Padding::Pkcs1, data)?, iv: None })
    }

    fn decrypt(&self, call: &Call<'_>, data: &[u8]) -> Outcome<Zeroizing<Vec<u8>>> {
        let rsa = call.key.rsa()?;
        if data.len() != rsa.bytes() {
            return Err(CryptoFault::EncryptedLength);
        }
        rsa.decrypt(Padding::Pkcs1, data).map_err(|Failed| CryptoFault::EncryptedInvalid)
    }
}

/// `CKM_SHA…_RSA_PKCS`.
pub(crate) struct HashedPkcs1;

impl Family for HashedPkcs1 {
    fn kinds(&self) -> &'static [M] {
        &[
            M::SHA1_RSA_PKCS,
            M::SHA224_RSA_PKCS,
            M::SHA256_RSA_PKCS,
            M::SHA384_RSA_PKCS,
            M::SHA512_RSA_PKCS,
            M::SHA3_224_RSA_PKCS,
            M::SHA3_256_RSA_PKCS,
            M::SHA3_384_RSA_PKCS,
            M::SHA3_512_RSA_PKCS,
        ]
    }

    fn gather(&self, call: &Call<'_>) -> Outcome<Gather> {
        Gather::digest(built_in_hash(call.mechanism.kind).ok_or(CryptoFault::MechanismInvalid)?)
    }

    fn sign(&self, call: &Call<'_>, digest: &[u8]) -> Outcome<Vec<u8>> {
        Pkcs1.sign(call, &digest_info(call, digest)?)
    }

    fn verify(&self, call: &Call<'_>, digest: &[u8], signature: &[u8]) -> Outcome<()> {
        Pkcs1.verify(call, &digest_info(call, digest)?, signature)
    }
}

/// DigestInfo in DER (RFC 8017 §9.2 note 1; RFC 8702 §3 gives SHA-3 no encoding of its own, the object identifiers are
/// NIST's 2.16.840.1.101.3.4.2.7 to .10, with NULL parameters as everybody writes them).
fn digest_info(call: &Call<'_>, digest: &[u8]) -> Outcome<Vec<u8>> {
    let hash = built_in_hash(call.mechanism.kind).ok_or(CryptoFault::MechanismInvalid)?;
    let identifier: &[u8] = match hash {
        Hash::Sha1 => &[0x2B, 0x0E, 0x03, 0x02, 0x1A],
        Hash::Sha256 => &nist(1),
        Hash::Sha384 => &nist(2),
        Hash::Sha512 => &nist(3),
        Hash::Sha224 => &nist(4),
        Hash::Sha3_224 => &nist(7),
        Hash::Sha3_256 => &nist(8),
        Hash::Sha3_384 => &nist(9),
        Hash::Sha3_512 => &nist(10),
    };
    let short = |bytes: usize| u8::try_from(bytes).map_err(|_| CryptoFault::ModuleFailed);
    let algorithm = identifier.len() + 4;
    let mut info = vec![0x30, short(algorithm + 2 + digest.len() + 2)?, 0x30, short(algorithm)?];
    info.extend([0x06, short(identifier.len())?]);
    info.extend_from_slice(identifier);
    info.extend([0x05, 0x00, 0x04, short(digest.len())?]);
    info.extend_from_slice(digest);
    Ok(info)
}

/// An object identifier under NIST's arc of hash algorithms.
fn nist(last: u8) -> [u8; 9] {
    [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, last]
}

/// `CKM_RSA_PKCS_PSS` over a digest, and `CKM_SHA…_RSA_PKCS_PSS` over a message.
pub(crate) struct Pss;

impl Family for Pss {
    fn kinds(&self) -> &'static [M] {
        &[
            M::RSA_PKCS_PSS,
            M::SHA1_RSA_PKCS_PSS,
            M::SHA224_RSA_PKCS_PSS,
            M::SHA256_RSA_PKCS_PSS,
            M::SHA384_RSA_PKCS_PSS,
            M::SHA512_RSA_PKCS_PSS,
            M::SHA3_224_RSA_PKCS_PSS,
            M::SHA3_256_RSA_PKCS_PSS,
            M::SHA3_384_RSA_PKCS_PSS,
            M::SHA3_512_RSA_PKCS_PSS,
        ]
    }

    fn gather(&self, call: &Call<'_>) -> Outcome<Gather> {
        built_in_hash(call.mechanism.kind).map_or_else(|| Ok(Gather::whole()), Gather::digest)
    }

    fn sign(&self, call: &Call<'_>, digest: &[u8]) -> Outcome<Vec<u8>> {
        let (hash, mgf, salt) = pss_parameters(call)?;
        let rsa = call.key.rsa()?;
        if digest.len() != hash.size() {
            return Err(CryptoFault::DataLength);
        }
        // RFC 8017 §9.1.1 step 3, with emBits = modulus bits - 1.
        let room = ((rsa.bits() as usize - 1).div_ceil(8)).checked_sub(hash.size() + 2);
        if room.is_none_or(|room| salt > room) {
            return Err(CryptoFault::KeySize);
        }
        Ok(rsa.sign_pss(hash, mgf, salt, digest)?)
    }

    fn verify(&self, call: &Call<'_>, digest: &[u8], signature: &[u8]) -> Outcome<()> {
        let (hash, mgf, salt) = pss_parameters(call)?;
        let rsa = call.key.rsa()?;
        if digest.len() != hash.size() {
            return Err(CryptoFault::DataLength);
        }
        if signature.len() != rsa.bytes() {
            return Err(CryptoFault::SignatureLength);
        }
        let right = rsa.verify_pss(hash, mgf, salt, digest, signature);
        if right { Ok(()) } else { Err(CryptoFault::SignatureInvalid) }
    }
}

fn pss_parameters(call: &Call<'_>) -> Outcome<(Hash, Hash, usize)> {
    let Parameters::Pss { hash, mgf, salt_length } = &call.mechanism.parameters else {
        return Err(CryptoFault::MechanismParameters);
    };
    let salt = usize::try_from(*salt_length).map_err(|_| CryptoFault::MechanismParameters)?;
    if call.fips && salt > hash_of(*hash)?.size() {
        // FIPS 186-5 §5.4 (g): the salt is not longer than the hash.
        return Err(CryptoFault::FipsRefused);
    }
    Ok((hash_of(*hash)?, mgf_hash(*mgf)?, salt))
}

/// The hash of a `CKG_MGF1_` number.
fn mgf_hash(number: u64) -> Outcome<Hash> {
    Ok(match number {
        mgf::SHA1 => Hash::Sha1,
        mgf::SHA224 => Hash::Sha224,
        mgf::SHA256 => Hash::Sha256,
        mgf::SHA384 => Hash::Sha384,
        mgf::SHA512 => Hash::Sha512,
        mgf::SHA3_224 => Hash::Sha3_224,
        mgf::SHA3_256 => Hash::Sha3_256,
        mgf::SHA3_384 => Hash::Sha3_384,
        mgf::SHA3_512 => Hash::Sha3_512,
        _ => return Err(CryptoFault::MechanismParameters),
    })
}

/// `CKM_RSA_PKCS_OAEP`.
pub(crate) struct Oaep;

impl Family for Oaep {
    fn kinds(&self) -> &'static [M] {
        &[M::RSA_PKCS_OAEP]
    }

    fn encrypt(&self, call: &Call<'_>, data: &[u8]) -> Outcome<Encrypted> {
        let (hash, mgf, label) = oaep_parameters(call)?;
        let rsa = call.key.rsa()?;
        if data.len() + 2 * hash.size() + 2 > rsa.bytes() {
            return Err(CryptoFault::DataLength);
        }
        Ok(Encrypted { data: rsa.encrypt_oaep(hash, mgf, label, data)?, iv: None })
    }

    fn decrypt(&self, call: &Call<'_>, data: &[u8]) -> Outcome<Zeroizing<Vec<u8>>> {
        let (hash, mgf, label) = oaep_parameters(call)?;
        let rsa = call.key.rsa()?;
        if data.len() != rsa.bytes() {
            return Err(CryptoFault::EncryptedLength);
        }
        rsa.decrypt_oaep(hash, mgf, label, data).map_err(|Failed| CryptoFault::EncryptedInvalid)
    }
}

fn oaep_parameters<'a>(call: &Call<'a>) -> Outcome<(Hash, Hash, &'a [u8])> {
    let Parameters::Oaep { hash, mgf, label } = &call.mechanism.parameters else {
        return Err(CryptoFault::MechanismParameters);
    };
    Ok((hash_of(*hash)?, mgf_hash(*mgf)?, label))
}

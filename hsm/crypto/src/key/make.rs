//! New keys: generated, or brought from outside and checked. What is learnt of them becomes facts.

use hsm_core::curve::{Curve, ED25519_PARAMS, X25519_PARAMS, der_octet_string};
use hsm_core::request::{Draft, Facts, Material, PairSpec};
use hsm_protocol::{AttributeKind, AttributeValue, KeyType, ObjectClass, Template};

use super::curve::CurveKey;
use super::{KeyMaterial, curve_of, fixed, raw_edwards, raw_on};
use crate::fault::{CryptoFault, SelfTestFailure};
use crate::module::Module;
use crate::payload::Payload;
use crate::secret::SecretBytes;
use crate::wide::block::BlockKey;
use crate::wide::edwards::{self, Scheme, SigningKey};
use crate::wide::encoding::{self, ParsedKey};
use crate::wide::rsa::Padding;
use crate::wide::{Hash, Rsa};

/// Bytes of `CKA_CHECK_VALUE` (PKCS#11 3.2 §4.10.2).
const CHECK: usize = 3;

/// Moduli are made in steps of so many bits: the provider rounds anything else down without a word.
const RSA_STEP: u32 = 128;

/// A new object's secret part, and what may be known of it.
pub struct Made {
    /// Attributes that are no secret, for `Draft::complete`.
    pub facts: Facts,
    /// The secret part; `None` for public keys, certificates and public data.
    pub payload: Option<Payload>,
}

/// A new key pair.
pub struct MadePair {
    /// Facts of the public key.
    pub public: Facts,
    /// Facts of the private key.
    pub private: Facts,
    /// The secret part of the private key.
    pub payload: Payload,
}

/// What is to become of some material: the little of a draft that matters here.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    /// `CKA_CLASS`.
    pub(crate) class: ObjectClass,
    /// `CKA_KEY_TYPE`.
    pub(crate) key_type: Option<KeyType>,
    /// Whether there is a secret part.
    pub(crate) has_payload: bool,
}

impl From<&Draft> for Wanted {
    fn from(draft: &Draft) -> Self {
        Self { class: draft.class(), key_type: draft.key_type(), has_payload: draft.has_payload() }
    }
}

impl Wanted {
    fn key_type(self) -> Result<KeyType, CryptoFault> {
        self.key_type.ok_or(CryptoFault::AttributeMissing(AttributeKind::KeyType))
    }
}

/// Whether making such a pair takes so long that it should not hold up others on its thread: RSA takes tenths of seconds
/// to minutes.
pub fn is_slow_pair(pair: &PairSpec) -> bool {
    matches!(pair, PairSpec::Rsa { .. })
}

/// Makes a secret key of so many random bytes.
///
/// # Errors
/// [`CryptoFault::AttributeValue`] of `CKA_VALUE_LEN` when no key of the draft's type has that length.
pub fn generate_secret(module: &Module, draft: &Draft, bytes: usize) -> Result<Made, CryptoFault> {
    new_secret(module, Wanted::from(draft).key_type()?, bytes)
}

pub(crate) fn new_secret(module: &Module, key_type: KeyType, bytes: usize) -> Result<Made, CryptoFault> {
    let mut value = SecretBytes::zeros(bytes);
    module.random(value.expose_mut())?;
    secret(key_type, value).map_err(|_| CryptoFault::AttributeValue(AttributeKind::ValueLen))
}

/// Makes a key pair and tests that its halves belong together.
///
/// # Errors
/// [`CryptoFault::AttributeValue`] of `CKA_PUBLIC_EXPONENT` or `CKA_MODULUS_BITS` when there is no such RSA key (the
/// exponent must be odd, from 3 to 2^32, the modulus in steps of 128 bits); [`CryptoFault::ModuleFailed`] when the pair fails its test: stop the node.
pub fn generate_pair(module: &Module, pair: &PairSpec) -> Result<MadePair, CryptoFault> {
    let material = match pair {
        PairSpec::Rsa { bits, exponent } => {
            let possible = exponent.last().is_some_and(|last| last & 1 == 1);
            let possible = possible && exponent.len() <= 4 && exponent.as_slice() != [1];
            if !possible {
                return Err(CryptoFault::AttributeValue(AttributeKind::PublicExponent));
            }
            if !bits.is_multiple_of(RSA_STEP) {
                return Err(CryptoFault::AttributeValue(AttributeKind::ModulusBits));
            }
            let rsa = Rsa::generate(*bits, exponent);
            KeyMaterial::Rsa(rsa.map_err(|_| CryptoFault::AttributeValue(AttributeKind::ModulusBits))?)
        }
        PairSpec::Ec(curve) => KeyMaterial::Curve(CurveKey::generate(*curve)?),
        PairSpec::Ed25519 => {
            let mut seed = SecretBytes::zeros(edwards::KEY);
            module.random(seed.expose_mut())?;
            return edwards_pair(seed);
        }
        PairSpec::X25519 => {
            let mut key = SecretBytes::zeros(edwards::KEY);
            module.random(key.expose_mut())?;
            KeyMaterial::X25519Private(key)
        }
    };
    pairwise(module, &material)?;
    let payload = payload_of(&material)?;
    Ok(MadePair { public: public_facts(&material)?, private: private_facts(&material)?, payload })
}

fn edwards_pair(seed: SecretBytes) -> Result<MadePair, CryptoFault> {
    let key = SigningKey::from_seed(&fixed(seed.expose())?);
    let message = b"kagimori pairwise test";
    let signature = key.sign(Scheme::Pure, message)?;
    let signature = signature.as_slice().try_into().map_err(|_| CryptoFault::ModuleFailed)?;
    if !edwards::verify(Scheme::Pure, &fixed(key.public())?, message, signature) {
        return Err(SelfTestFailure::Pairwise("Ed25519").into());
    }
    let material = KeyMaterial::Ed25519Private(key);
    let payload = Payload::new().with(AttributeKind::Value, seed);
    Ok(MadePair { public: public_facts(&material)?, private: private_facts(&material)?, payload })
}

/// Pairwise consistency test (FIPS 140-3 IG 10.3.A): what the private half does, the public half must undo.
fn pairwise(module: &Module, material: &KeyMaterial) -> Result<(), CryptoFault> {
    let digest: [u8; 32] = module.random_bytes()?;
    match material {
        KeyMaterial::Rsa(rsa) => {
            let (n, e) = rsa.public_numbers()?;
            let public = Rsa::from_public(&n, &e)?;
            let signature = rsa.sign(Padding::Pkcs1, &digest)?;
            if public.recover(Padding::Pkcs1, &signature)? != digest {
                return Err(SelfTestFailure::Pairwise("RSA").into());
            }
        }
        KeyMaterial::Curve(key) => {
            let public = CurveKey::from_point(key.curve(), &key.point()?)?;
            let verified = public.verify(&digest, &key.sign(&digest)?);
            verified.map_err(|_| SelfTestFailure::Pairwise("ECDSA"))?;
        }
        KeyMaterial::X25519Private(key) => {
            let (mine, theirs) = (fixed(key.expose())?, digest);
            let one = edwards::x25519(&mine, &edwards::x25519_public(&theirs))?;
            let other = edwards::x25519(&theirs, &edwards::x25519_public(&mine))?;
            if one.expose() != other.expose() {
                return Err(SelfTestFailure::Pairwise("X25519").into());
            }
        }
        _ => return Err(CryptoFault::KeyType),
    }
    Ok(())
}

/// Checks what the caller brought (`C_CreateObject`), and takes its secret part.
///
/// # Errors
/// [`CryptoFault::AttributeMissing`], [`CryptoFault::AttributeValue`], [`CryptoFault::AttributeInconsistent`],
/// [`CryptoFault::KeyMaterial`].
pub fn import(draft: &Draft, material: &Material) -> Result<Made, CryptoFault> {
    if draft.class() == ObjectClass::Certificate {
        return data(draft.into(), draft.attribute(AttributeKind::Value).and_then(AttributeValue::as_octets));
    }
    import_as(draft.into(), material.attributes())
}

pub(crate) fn import_as(wanted: Wanted, material: &Template) -> Result<Made, CryptoFault> {
    let given = |kind| material.octets(kind).ok_or(CryptoFault::AttributeMissing(kind));
    match wanted.class {
        ObjectClass::SecretKey => secret(wanted.key_type()?, SecretBytes::copy_of(given(AttributeKind::Value)?)),
        ObjectClass::PublicKey => {
            let key = KeyMaterial::public(wanted.key_type()?, given)?;
            check_size(&key)?;
            let facts = as_given(public_facts(&key)?, &key, material.octets(AttributeKind::EcPoint));
            Ok(Made { facts, payload: None })
        }
        ObjectClass::PrivateKey => {
            let key = import_private(wanted.key_type()?, material)?;
            let made = private(&key, material.octets(AttributeKind::Value))?;
            let point = material.octets(AttributeKind::EcPoint).map(|point| canonical(&key, point)).transpose()?;
            agrees(&made.facts, AttributeKind::EcPoint, point.as_deref())?;
            let facts = as_given(made.facts.clone(), &key, material.octets(AttributeKind::EcPoint));
            agrees(&made.facts, AttributeKind::PublicKeyInfo, material.octets(AttributeKind::PublicKeyInfo))?;
            Ok(Made { facts, ..made })
        }
        ObjectClass::Data | ObjectClass::Certificate => data(wanted, material.octets(AttributeKind::Value)),
    }
}

/// Takes a key that came out of a wrapping or of a derivation: the octets of a secret key or of data, PKCS#8 of a private
/// key.
pub(crate) fn from_octets(wanted: Wanted, octets: SecretBytes) -> Result<Made, CryptoFault> {
    match wanted.class {
        ObjectClass::SecretKey if octets.is_empty() => Err(CryptoFault::KeyMaterial),
        ObjectClass::SecretKey => secret(wanted.key_type()?, octets),
        ObjectClass::PrivateKey => from_private_info(wanted, &octets),
        ObjectClass::Data if wanted.has_payload => data(wanted, Some(octets.expose())),
        ObjectClass::Data => {
            Ok(Made { facts: Facts::new().with_octets(AttributeKind::Value, octets.expose()), payload: None })
        }
        ObjectClass::PublicKey | ObjectClass::Certificate => Err(CryptoFault::AttributeValue(AttributeKind::Class)),
    }
}

fn from_private_info(wanted: Wanted, octets: &SecretBytes) -> Result<Made, CryptoFault> {
    let parsed = encoding::parse_private_info(octets.expose()).map_err(|_| CryptoFault::WrappedKeyInvalid)?;
    let (material, seed, key_type) = match parsed {
        ParsedKey::Rsa(rsa) => (KeyMaterial::Rsa(rsa), None, KeyType::Rsa),
        ParsedKey::Ec(key) => (KeyMaterial::Curve(CurveKey::adopt(key)?), None, KeyType::Ec),
        ParsedKey::Ed25519(seed) => {
            let key = SigningKey::from_seed(&fixed(seed.expose())?);
            (KeyMaterial::Ed25519Private(key), Some(seed), KeyType::EcEdwards)
        }
        ParsedKey::X25519(key) => (KeyMaterial::X25519Private(key), None, KeyType::EcMontgomery),
    };
    if wanted.key_type.is_some_and(|wanted| wanted != key_type) {
        return Err(CryptoFault::AttributeInconsistent(AttributeKind::KeyType));
    }
    private(&material, seed.as_ref().map(SecretBytes::expose))
}

/// A secret key: its payload and facts. A key of plain octets may have none: HMAC is defined for it, and only the policy
/// says which lengths are wanted.
fn secret(key_type: KeyType, value: SecretBytes) -> Result<Made, CryptoFault> {
    let check = match key_type {
        KeyType::Aes => {
            let key = BlockKey::encrypting(value.expose());
            key.map_err(|_| CryptoFault::AttributeValue(AttributeKind::Value))?.encrypt(&[0; 16])[..CHECK].to_vec()
        }
        _ if key_type.is_octets() => check_value(value.expose())?,
        _ => return Err(CryptoFault::KeyType),
    };
    let facts = Facts::new()
        .with_number(AttributeKind::ValueLen, value.len() as u64)
        .with_octets(AttributeKind::CheckValue, check);
    Ok(Made { facts, payload: Some(Payload::new().with(AttributeKind::Value, value)) })
}

/// A data object or certificate. A certificate has a check value (PKCS#11 3.2 §4.6.2).
fn data(wanted: Wanted, value: Option<&[u8]>) -> Result<Made, CryptoFault> {
    let facts = match value.filter(|value| wanted.class == ObjectClass::Certificate && !value.is_empty()) {
        Some(certificate) => Facts::new().with_octets(AttributeKind::CheckValue, check_value(certificate)?),
        None => Facts::new(),
    };
    let secret = || SecretBytes::copy_of(value.unwrap_or_default());
    let payload = wanted.has_payload.then(|| Payload::new().with(AttributeKind::Value, secret()));
    Ok(Made { facts, payload })
}

/// A private key: its payload and facts. `value` is the seed of an Ed25519 key.
fn private(material: &KeyMaterial, value: Option<&[u8]>) -> Result<Made, CryptoFault> {
    check_size(material)?;
    let payload = match (material, value) {
        (KeyMaterial::Ed25519Private(_), Some(seed)) => {
            Payload::new().with(AttributeKind::Value, SecretBytes::copy_of(seed))
        }
        _ => payload_of(material)?,
    };
    Ok(Made { facts: private_facts(material)?, payload: Some(payload) })
}

fn import_private(key_type: KeyType, material: &Template) -> Result<KeyMaterial, CryptoFault> {
    let given = |kind| material.octets(kind).ok_or(CryptoFault::AttributeMissing(kind));
    match key_type {
        KeyType::Rsa => import_rsa(material).map(KeyMaterial::Rsa),
        KeyType::Ec => {
            let curve = curve_of(given(AttributeKind::EcParams)?)?;
            CurveKey::from_scalar(curve, given(AttributeKind::Value)?).map(KeyMaterial::Curve)
        }
        KeyType::EcEdwards => {
            Ok(KeyMaterial::Ed25519Private(SigningKey::from_seed(&fixed(given(AttributeKind::Value)?)?)))
        }
        KeyType::EcMontgomery => {
            let value = given(AttributeKind::Value)?;
            fixed(value)?;
            Ok(KeyMaterial::X25519Private(SecretBytes::copy_of(value)))
        }
        _ => Err(CryptoFault::KeyType),
    }
}

/// Public exponents that are tried when a private key comes without one.
const USUAL_EXPONENTS: [&[u8]; 3] = [&[1, 0, 1], &[3], &[17]];

/// An RSA key with or without its primes and CRT values (PKCS#11 3.2 §6.1.3 asks for modulus and private exponent only).
/// What is given must fit; what is missing is computed, or for the public exponent tried.
fn import_rsa(material: &Template) -> Result<Rsa, CryptoFault> {
    let given = |kind| material.octets(kind).ok_or(CryptoFault::AttributeMissing(kind));
    let (n, d) = (given(AttributeKind::Modulus)?, given(AttributeKind::PrivateExponent)?);
    let primes = material.octets(AttributeKind::Prime1).zip(material.octets(AttributeKind::Prime2));
    let rsa = match material.octets(AttributeKind::PublicExponent).filter(|e| !e.is_empty()) {
        Some(e) => Rsa::from_exponents(n, e, d, primes).map_err(|_| CryptoFault::KeyMaterial)?,
        None => USUAL_EXPONENTS
            .iter()
            .find_map(|e| Rsa::from_exponents(n, e, d, primes).ok())
            .ok_or(CryptoFault::AttributeMissing(AttributeKind::PublicExponent))?,
    };
    let numbers = rsa.numbers()?;
    let expected = [
        (AttributeKind::Exponent1, &numbers.dp),
        (AttributeKind::Exponent2, &numbers.dq),
        (AttributeKind::Coefficient, &numbers.qi),
    ];
    let fits = |(kind, number): &(AttributeKind, &SecretBytes)| {
        primes.is_none() || material.octets(*kind).is_none_or(|given| significant(given) == number.expose())
    };
    if expected.iter().all(fits) { Ok(rsa) } else { Err(CryptoFault::KeyMaterial) }
}

/// The secret attributes of a private key.
fn payload_of(material: &KeyMaterial) -> Result<Payload, CryptoFault> {
    match material {
        KeyMaterial::Rsa(rsa) => {
            let numbers = rsa.numbers()?;
            Ok(Payload::new()
                .with(AttributeKind::PrivateExponent, numbers.d)
                .with(AttributeKind::Prime1, numbers.p)
                .with(AttributeKind::Prime2, numbers.q)
                .with(AttributeKind::Exponent1, numbers.dp)
                .with(AttributeKind::Exponent2, numbers.dq)
                .with(AttributeKind::Coefficient, numbers.qi))
        }
        KeyMaterial::Curve(key) => Ok(Payload::new().with(AttributeKind::Value, key.scalar()?)),
        KeyMaterial::X25519Private(key) => {
            Ok(Payload::new().with(AttributeKind::Value, SecretBytes::copy_of(key.expose())))
        }
        _ => Err(CryptoFault::KeyType),
    }
}

/// What is known of a public key.
fn public_facts(material: &KeyMaterial) -> Result<Facts, CryptoFault> {
    let facts = private_facts(material)?;
    Ok(match material {
        KeyMaterial::Rsa(rsa) => facts.with_number(AttributeKind::ModulusBits, u64::from(rsa.bits())),
        _ => facts,
    })
}

/// What is known of a private key: its public numbers, so that the public key can be had from it.
fn private_facts(material: &KeyMaterial) -> Result<Facts, CryptoFault> {
    let info = material.public_info()?;
    let check = check_value(&info)?;
    let facts =
        Facts::new().with_octets(AttributeKind::PublicKeyInfo, info).with_octets(AttributeKind::CheckValue, check);
    let with_point = |facts: Facts, params: &[u8], point: &[u8]| {
        facts.with_octets(AttributeKind::EcParams, params).with_octets(AttributeKind::EcPoint, der_octet_string(point))
    };
    Ok(match material {
        KeyMaterial::Rsa(rsa) => {
            let (n, e) = rsa.public_numbers()?;
            facts.with_octets(AttributeKind::Modulus, n).with_octets(AttributeKind::PublicExponent, e)
        }
        KeyMaterial::Curve(key) => with_point(facts, Curve::params(key.curve()), &key.point()?),
        KeyMaterial::Ed25519Private(key) => with_point(facts, ED25519_PARAMS, key.public()),
        KeyMaterial::Ed25519Public(key) => with_point(facts, ED25519_PARAMS, key),
        KeyMaterial::X25519Private(key) => {
            with_point(facts, X25519_PARAMS, &edwards::x25519_public(&fixed(key.expose())?))
        }
        KeyMaterial::X25519Public(key) => with_point(facts, X25519_PARAMS, key),
        KeyMaterial::Aes(_) | KeyMaterial::Octets(_) => return Err(CryptoFault::KeyType),
    })
}

/// Sizes of RSA keys that come from outside: the same as of keys that are made here.
fn check_size(material: &KeyMaterial) -> Result<(), CryptoFault> {
    use hsm_core::limits::{RSA_BITS_MAXIMUM, RSA_BITS_MINIMUM};
    match material {
        KeyMaterial::Rsa(rsa) if !(RSA_BITS_MINIMUM..=RSA_BITS_MAXIMUM).contains(&u64::from(rsa.bits())) => {
            Err(CryptoFault::KeySize)
        }
        _ => Ok(()),
    }
}

/// Facts with the point in the form that the caller gave it, compressed or not: he may compare.
fn as_given(facts: Facts, key: &KeyMaterial, point: Option<&[u8]>) -> Facts {
    match (key, point) {
        (KeyMaterial::Curve(key), Some(point)) if !point.is_empty() => {
            facts.with_octets(AttributeKind::EcPoint, der_octet_string(raw_on(key.curve(), point)))
        }
        _ => facts,
    }
}

/// `CKA_EC_POINT` in the form in which facts have it: uncompressed, in DER.
fn canonical(key: &KeyMaterial, point: &[u8]) -> Result<Vec<u8>, CryptoFault> {
    Ok(match key {
        KeyMaterial::Curve(key) if !point.is_empty() => {
            der_octet_string(&CurveKey::from_point(key.curve(), raw_on(key.curve(), point))?.point()?)
        }
        KeyMaterial::Curve(_) => Vec::new(),
        _ => der_octet_string(raw_edwards(point)),
    })
}

/// Whether an attribute that was given is the one that was found.
fn agrees(facts: &Facts, kind: AttributeKind, given: Option<&[u8]>) -> Result<(), CryptoFault> {
    let found = facts.attributes().get(kind).and_then(AttributeValue::as_octets);
    match given.filter(|given| !given.is_empty()) {
        Some(given) if found != Some(given) => Err(CryptoFault::AttributeInconsistent(kind)),
        _ => Ok(()),
    }
}

/// `CKA_CHECK_VALUE` of whatever has no block cipher: the first three bytes of SHA-1.
fn check_value(bytes: &[u8]) -> Result<Vec<u8>, CryptoFault> {
    Ok(Hash::Sha1.digest(bytes)?[..CHECK].to_vec())
}

/// A number without its leading zeros.
fn significant(number: &[u8]) -> &[u8] {
    let first = number.iter().position(|&byte| byte != 0).unwrap_or(number.len());
    &number[first..]
}

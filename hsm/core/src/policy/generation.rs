//! Templates of `C_GenerateKey` and `C_GenerateKeyPair`.

use hsm_protocol::{AttributeKind as A, ErrorCode, KeyType, Mechanism, ObjectClass, Template};

use crate::curve::{Curve, canonical_params};
use crate::limits::{FIPS_SECRET_KEY_BYTES, RSA_BITS_MAXIMUM, RSA_BITS_MINIMUM, RSA_EXPONENT_BYTES, SECRET_KEY_BYTES};
use crate::mechanisms::{MechanismRow, Operations, check_parameters, offering};
use crate::policy::creation::{Birth, Plan, key_type_in, require_class};
use crate::policy::{schema, sight};
use crate::records::Caller;
use crate::refusal::Refusal;
use crate::request::{Needs, PairSpec};

/// Lengths of AES keys in bytes.
const AES_BYTES: [u64; 3] = [16, 24, 32];

/// AWS-LC makes moduli in steps of so many bits.
const RSA_BITS_STEP: u64 = 128;

/// The exponent when the template has none: F4, which every client expects.
const RSA_EXPONENT: [u8; 3] = [1, 0, 1];

/// What `C_GenerateKey` needs.
pub(crate) fn secret_key(
    caller: Caller,
    mechanism: &Mechanism,
    template: &Template,
    fips: bool,
) -> Result<Needs, Refusal> {
    sight::require_crypto_user(caller)?;
    let row = offering(mechanism.kind, Operations::GENERATE, fips)?;
    check_parameters(row, mechanism, Operations::GENERATE, fips)?;
    require_class(template, ObjectClass::SecretKey)?;
    let key_type = secret_type(row, template)?;
    let bytes = template.number(A::ValueLen).or(usual_length(key_type));
    let bytes = bytes.ok_or(Refusal::of(ErrorCode::TemplateIncomplete, A::ValueLen))?;
    check_length(key_type, bytes)?;
    if fips && key_type != KeyType::Aes && bytes < FIPS_SECRET_KEY_BYTES {
        return Err(Refusal::of(ErrorCode::FipsRefused, A::ValueLen));
    }
    let birth = Birth::Generated(mechanism.kind);
    let (class, key_type) = (ObjectClass::SecretKey, Some(key_type));
    let draft = Plan { caller, class, key_type, birth, template, fips }.settle()?;
    let bytes = usize::try_from(bytes).unwrap_or_else(|_| unreachable!("the length was checked"));
    Ok(Needs::SecretKey { draft, bytes })
}

/// What `C_GenerateKeyPair` needs.
pub(crate) fn key_pair(
    caller: Caller,
    mechanism: &Mechanism,
    public_template: &Template,
    private_template: &Template,
    fips: bool,
) -> Result<Needs, Refusal> {
    sight::require_crypto_user(caller)?;
    let row = offering(mechanism.kind, Operations::GENERATE_KEY_PAIR, fips)?;
    check_parameters(row, mechanism, Operations::GENERATE_KEY_PAIR, fips)?;
    let &[key_type] = row.key_types else { unreachable!("mechanisms for pairs make one type of keys") };
    let birth = Birth::Generated(mechanism.kind);
    let settle = |class, template| {
        require_class(template, class)?;
        require_type(template, key_type)?;
        Plan { caller, class, key_type: Some(key_type), birth, template, fips }.settle()
    };
    let public = settle(ObjectClass::PublicKey, public_template)?;
    let private = settle(ObjectClass::PrivateKey, private_template)?;
    let pair = match key_type {
        KeyType::Rsa => rsa(&public.attributes, fips)?,
        _ => on_curve(key_type, &public.attributes, &private.attributes)?,
    };
    Ok(Needs::KeyPair { public, private, pair })
}

/// Refuses lengths that keys of a type do not have.
///
/// # Errors
/// [`ErrorCode::AttributeValue`] about `CKA_VALUE_LEN`.
pub(crate) fn check_length(key_type: KeyType, bytes: u64) -> Result<(), Refusal> {
    let possible = match key_type {
        KeyType::Aes => AES_BYTES.contains(&bytes),
        _ => (1..=SECRET_KEY_BYTES).contains(&bytes),
    };
    if possible { Ok(()) } else { Err(Refusal::of(ErrorCode::AttributeValue, A::ValueLen)) }
}

fn secret_type(row: &MechanismRow, template: &Template) -> Result<KeyType, Refusal> {
    let asked = key_type_in(template)?;
    // The table names the usual type first.
    let key_type = asked.or(row.key_types.first().copied()).filter(|&key_type| row.takes(key_type));
    key_type.ok_or(Refusal::of(ErrorCode::TemplateInconsistent, A::KeyType))
}

/// The length of a key when the template has none: for HMAC keys that of the hash's output (RFC 2104 §3).
fn usual_length(key_type: KeyType) -> Option<u64> {
    match key_type {
        KeyType::Sha1Hmac => Some(20),
        KeyType::Sha224Hmac | KeyType::Sha3_224Hmac => Some(28),
        KeyType::Sha256Hmac | KeyType::Sha3_256Hmac => Some(32),
        KeyType::Sha384Hmac | KeyType::Sha3_384Hmac => Some(48),
        KeyType::Sha512Hmac | KeyType::Sha3_512Hmac => Some(64),
        _ => None,
    }
}

fn require_type(template: &Template, key_type: KeyType) -> Result<(), Refusal> {
    match key_type_in(template)? {
        Some(other) if other != key_type => Err(Refusal::of(ErrorCode::TemplateInconsistent, A::KeyType)),
        _ => Ok(()),
    }
}

fn rsa(public: &Template, fips: bool) -> Result<PairSpec, Refusal> {
    let bits = public.number(A::ModulusBits).ok_or(Refusal::of(ErrorCode::TemplateIncomplete, A::ModulusBits))?;
    let possible = (RSA_BITS_MINIMUM..=RSA_BITS_MAXIMUM).contains(&bits) && bits % RSA_BITS_STEP == 0;
    let bits = u32::try_from(bits).ok().filter(|_| possible);
    let bits = bits.ok_or(Refusal::of(ErrorCode::AttributeValue, A::ModulusBits))?;
    let exponent = public.octets(A::PublicExponent).unwrap_or(&RSA_EXPONENT);
    check_exponent(exponent, fips)?;
    Ok(PairSpec::Rsa { bits, exponent: exponent.to_vec() })
}

/// Odd and at least 3; in mode FIPS between 2^16 and 2^256 (FIPS 186-5 §A.1.1).
pub(crate) fn check_exponent(exponent: &[u8], fips: bool) -> Result<(), Refusal> {
    let exponent = schema::without_leading_zeros(exponent);
    let is_odd = exponent.last().is_some_and(|last| last % 2 == 1);
    let is_long_enough = schema::bits(exponent) > if fips { 16 } else { 1 };
    match is_odd && is_long_enough && exponent.len() <= RSA_EXPONENT_BYTES {
        true => Ok(()),
        false if is_odd && fips => Err(Refusal::of(ErrorCode::FipsRefused, A::PublicExponent)),
        false => Err(Refusal::of(ErrorCode::AttributeValue, A::PublicExponent)),
    }
}

fn on_curve(key_type: KeyType, public: &Template, private: &Template) -> Result<PairSpec, Refusal> {
    let params = public.octets(A::EcParams).or(private.octets(A::EcParams));
    let params = params.ok_or(Refusal::of(ErrorCode::TemplateIncomplete, A::EcParams))?;
    if private.octets(A::EcParams).is_some_and(|other| other != params) {
        return Err(Refusal::of(ErrorCode::TemplateInconsistent, A::EcParams));
    }
    let params = canonical_params(key_type, params)?;
    match key_type {
        KeyType::EcEdwards => Ok(PairSpec::Ed25519),
        KeyType::EcMontgomery => Ok(PairSpec::X25519),
        _ => Ok(PairSpec::Ec(Curve::from_params(params)?)),
    }
}

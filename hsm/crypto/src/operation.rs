//! The operations: each takes a permit for exactly this key and mechanism, uses it up, and calls the mechanism's family.

use hsm_core::permit::{
    BeDigested, BeWrapped, Decrypt, Derive, Encrypt, KeyUse, Sign, SignRecover, Unwrap, Verify, VerifyRecover, Wrap,
};
use hsm_core::request::Draft;
use hsm_core::{Object, Permit};
use hsm_protocol::{AttributeKind, Mechanism, ObjectClass};
use zeroize::Zeroizing;

use crate::fault::CryptoFault;
use crate::key::make::{Made, from_octets};
use crate::key::{Key, exported};
use crate::mechanism::{Call, Encrypted, Gather, digest as digests, family};
use crate::module::Module;
use crate::payload::Payload;

/// Signs, or makes a MAC (`C_Sign`).
///
/// # Errors
/// [`CryptoFault::DataLength`], [`CryptoFault::MechanismParameters`] and what else the mechanism refuses;
/// [`CryptoFault::PermitMismatch`] when the permit is for another key or mechanism.
pub fn sign(
    module: &Module,
    permit: Permit<Sign>,
    key: &Key,
    mechanism: &Mechanism,
    data: &[u8],
) -> Result<Vec<u8>, CryptoFault> {
    let call = checked(module, permit, key, mechanism)?;
    let family = family(mechanism.kind)?;
    match family.gather(&call)? {
        Gather::Whole(_) => family.sign(&call, data),
        mut gather => {
            gather.update(data)?;
            family.sign(&call, &gather.finish()?)
        }
    }
}

/// Checks a signature or MAC (`C_Verify`).
///
/// # Errors
/// [`CryptoFault::SignatureInvalid`], [`CryptoFault::SignatureLength`], and as [`sign`].
pub fn verify(
    module: &Module,
    permit: Permit<Verify>,
    key: &Key,
    mechanism: &Mechanism,
    data: &[u8],
    signature: &[u8],
) -> Result<(), CryptoFault> {
    let call = checked(module, permit, key, mechanism)?;
    let family = family(mechanism.kind)?;
    match family.gather(&call)? {
        Gather::Whole(_) => family.verify(&call, data, signature),
        mut gather => {
            gather.update(data)?;
            family.verify(&call, &gather.finish()?, signature)
        }
    }
}

/// Signs data that can be had back from the signature (`C_SignRecover`).
///
/// # Errors
/// As [`sign`].
pub fn sign_recover(
    module: &Module,
    permit: Permit<SignRecover>,
    key: &Key,
    mechanism: &Mechanism,
    data: &[u8],
) -> Result<Vec<u8>, CryptoFault> {
    let call = checked(module, permit, key, mechanism)?;
    family(mechanism.kind)?.sign(&call, data)
}

/// Has the data back from a signature (`C_VerifyRecover`).
///
/// # Errors
/// As [`verify`].
pub fn verify_recover(
    module: &Module,
    permit: Permit<VerifyRecover>,
    key: &Key,
    mechanism: &Mechanism,
    signature: &[u8],
) -> Result<Vec<u8>, CryptoFault> {
    let call = checked(module, permit, key, mechanism)?;
    family(mechanism.kind)?.recover(&call, signature)
}

/// Encrypts (`C_Encrypt`).
///
/// # Errors
/// [`CryptoFault::DataLength`], [`CryptoFault::FipsRefused`], and as [`sign`].
pub fn encrypt(
    module: &Module,
    permit: Permit<Encrypt>,
    key: &Key,
    mechanism: &Mechanism,
    data: &[u8],
) -> Result<Encrypted, CryptoFault> {
    let call = checked(module, permit, key, mechanism)?;
    family(mechanism.kind)?.encrypt(&call, data)
}

/// Decrypts (`C_Decrypt`).
///
/// # Errors
/// [`CryptoFault::EncryptedInvalid`], [`CryptoFault::EncryptedLength`], and as [`sign`].
pub fn decrypt(
    module: &Module,
    permit: Permit<Decrypt>,
    key: &Key,
    mechanism: &Mechanism,
    data: &[u8],
) -> Result<Zeroizing<Vec<u8>>, CryptoFault> {
    let call = checked(module, permit, key, mechanism)?;
    family(mechanism.kind)?.decrypt(&call, data)
}

/// Digests (`C_Digest`). Needs no key and therefore no permit; the policy was asked by `authorize_digest`.
///
/// # Errors
/// [`CryptoFault::MechanismInvalid`].
pub fn digest(mechanism: &Mechanism, data: &[u8]) -> Result<Vec<u8>, CryptoFault> {
    Ok(digests::of(mechanism.kind)?.digest(data)?)
}

/// Wraps a key (`C_WrapKey`). `object` and `payload` are those of the key that leaves.
///
/// # Errors
/// [`CryptoFault::NotWrappable`] when the mechanism cannot carry a key of this class or length, and as [`encrypt`].
pub fn wrap(
    module: &Module,
    permits: (Permit<Wrap>, Permit<BeWrapped>),
    wrapping: &Key,
    mechanism: &Mechanism,
    object: &Object,
    payload: &Payload,
) -> Result<Encrypted, CryptoFault> {
    let (permit, leave) = permits;
    if leave.object() != object.uid() || leave.mechanism().is_some_and(|kind| kind != mechanism.kind) {
        return Err(CryptoFault::PermitMismatch);
    }
    let call = checked(module, permit, wrapping, mechanism)?;
    let material = exported(object, payload)?;
    let is_secret_key = object.class() == Some(ObjectClass::SecretKey);
    family(mechanism.kind)?.wrap(&call, material.expose(), is_secret_key)
}

/// Unwraps a key (`C_UnwrapKey`). `length` is that of `Needs::Unwrap`.
///
/// # Errors
/// [`CryptoFault::WrappedKeyInvalid`], [`CryptoFault::WrappedKeyLength`], and what an import refuses.
pub fn unwrap(
    module: &Module,
    permit: Permit<Unwrap>,
    unwrapping: &Key,
    mechanism: &Mechanism,
    wrapped: &[u8],
    draft: &Draft,
    length: Option<usize>,
) -> Result<Made, CryptoFault> {
    let call = checked(module, permit, unwrapping, mechanism)?;
    let material = family(mechanism.kind)?.unwrap(&call, wrapped, length)?;
    if draft.class() == ObjectClass::SecretKey && length.is_some_and(|length| length != material.len()) {
        return Err(CryptoFault::WrappedKeyLength);
    }
    from_octets(draft.into(), material).map_err(|fault| match fault {
        // Material that came out of a wrapping is the wrapping's fault, not the template's.
        CryptoFault::KeyMaterial | CryptoFault::AttributeValue(_) => CryptoFault::WrappedKeyInvalid,
        other => other,
    })
}

/// Derives a key (`C_DeriveKey`). `second` is the other key of a mechanism that takes two, with its own permit; `length`
/// is that of `Needs::Derive`.
///
/// # Errors
/// [`CryptoFault::MechanismParameters`], also for a point that is not on the curve; [`CryptoFault::AttributeValue`] of
/// `CKA_VALUE_LEN` when the mechanism cannot give a key of that length.
pub fn derive(
    module: &Module,
    permit: Permit<Derive>,
    base: &Key,
    second: Option<(Permit<Derive>, &Key)>,
    mechanism: &Mechanism,
    draft: &Draft,
    length: Option<usize>,
) -> Result<Made, CryptoFault> {
    let call = checked(module, permit, base, mechanism)?;
    let second = second.map(|(permit, key)| checked(module, permit, key, mechanism).map(|_| key)).transpose()?;
    let octets = family(mechanism.kind)?.derive(&call, second, length)?;
    if draft.class() == ObjectClass::PrivateKey {
        return Err(CryptoFault::AttributeValue(AttributeKind::Class));
    }
    from_octets(draft.into(), octets).map_err(|fault| match fault {
        // The mechanism gave as much as it gives, and no key of that type has this length.
        CryptoFault::AttributeValue(AttributeKind::Value) if length.is_none() => {
            CryptoFault::AttributeMissing(AttributeKind::ValueLen)
        }
        CryptoFault::AttributeValue(_) | CryptoFault::KeyMaterial => {
            CryptoFault::AttributeValue(AttributeKind::ValueLen)
        }
        other => other,
    })
}

/// The octets of a secret key as input of a digest (`C_DigestKey`).
pub(crate) fn digestible<'a>(permit: &Permit<BeDigested>, key: &'a Key) -> Result<&'a [u8], CryptoFault> {
    if permit.object() != key.uid() {
        return Err(CryptoFault::PermitMismatch);
    }
    key.secret().map_err(|_| CryptoFault::Indigestible)
}

/// The call that a permit allows: it must name this key and this mechanism.
#[expect(clippy::needless_pass_by_value, reason = "a permit is used up")]
pub(crate) fn checked<'a, U: KeyUse>(
    module: &'a Module,
    permit: Permit<U>,
    key: &'a Key,
    mechanism: &'a Mechanism,
) -> Result<Call<'a>, CryptoFault> {
    let fits = permit.object() == key.uid() && permit.mechanism().is_none_or(|kind| kind == mechanism.kind);
    if fits { Ok(Call { module, key, mechanism, fips: permit.fips() }) } else { Err(CryptoFault::PermitMismatch) }
}

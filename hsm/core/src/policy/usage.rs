//! Whether a key may be used: the one place where permits are made for its use.
//!
//! In this order: the caller's role, sight, the mechanism and the mode, the key's type, its usage flag, its allowed
//! mechanisms, the parameters, its size, and the confirmation that `CKA_ALWAYS_AUTHENTICATE` demands. `CKA_START_DATE`
//! and `CKA_END_DATE` are information only (PKCS#11 3.2 §4.7).

use hsm_protocol::attribute::AttributeValue;
use hsm_protocol::{AttributeKind as A, ErrorCode, KeyType, Mechanism, MechanismKind, ObjectClass};

use crate::curve::Curve;
use crate::limits::FIPS_SECRET_KEY_BYTES;
use crate::mechanisms::{KeySize, MechanismRow, Operations, check_parameters, offering};
use crate::object::Object;
use crate::objects;
use crate::permit::{BeDigested, BeWrapped, Derive, KeyUse, Permit, Wrap};
use crate::policy::{schema, sight};
use crate::records::Caller;
use crate::refusal::Refusal;
use crate::request::Confirmation;

/// A key about to be used.
pub(crate) struct Use<'a> {
    pub(crate) caller: Caller,
    pub(crate) object: &'a Object,
    pub(crate) mechanism: &'a Mechanism,
    pub(crate) confirmation: Confirmation,
    pub(crate) fips: bool,
}

impl Use<'_> {
    /// Leave for the use `U`, after all checks.
    ///
    /// # Errors
    /// Any refusal.
    pub(crate) fn permit<U: KeyUse>(&self) -> Result<Permit<U>, Refusal> {
        sight::require_key_user(self.caller)?;
        sight::require_sight(self.caller, self.object)?;
        let row = offering(self.mechanism.kind, U::OPERATION, self.fips)?;
        let class = self.object.class().filter(|class| U::CLASSES.contains(class));
        class.ok_or_else(|| self.refuse(ErrorCode::KeyTypeRefused))?;
        let digests = U::OPERATION == Operations::DIGEST;
        if !digests && !self.object.key_type().is_some_and(|key_type| row.takes(key_type)) {
            return Err(self.refuse(ErrorCode::KeyTypeRefused));
        }
        if digests {
            self.check_digestible()?;
        }
        if U::FLAG.is_some_and(|flag| !self.object.is(flag)) {
            return Err(self.refuse(ErrorCode::KeyUseRefused));
        }
        self.check_allowed()?;
        check_parameters(row, self.mechanism, U::OPERATION, self.fips)?;
        if !digests {
            self.check_size(row, U::OPERATION)?;
        }
        let unconfirmed = self.confirmation == Confirmation::None && self.object.is(A::AlwaysAuthenticate);
        if U::NEEDS_CONFIRMATION && unconfirmed {
            return Err(Refusal::of(ErrorCode::NotLoggedIn, A::AlwaysAuthenticate));
        }
        Ok(Permit::new(self.object.uid(), Some(self.mechanism.kind), self.fips))
    }

    fn refuse(&self, code: ErrorCode) -> Refusal {
        Refusal::of_mechanism(code, self.mechanism.kind)
    }

    fn check_allowed(&self) -> Result<(), Refusal> {
        match self.object.attribute(A::AllowedMechanisms) {
            Some(AttributeValue::Mechanisms(allowed)) if !allowed.contains(&self.mechanism.kind) => {
                Err(self.refuse(ErrorCode::MechanismNotAllowed))
            }
            _ => Ok(()),
        }
    }

    /// A digest tells whether a guess at the key is right, so keys that must stay secret are digested only when they may
    /// be derived from.
    fn check_digestible(&self) -> Result<(), Refusal> {
        let bare = !self.object.is(A::Sensitive) && self.object.is(A::Extractable);
        if bare || self.object.is(A::Derive) { Ok(()) } else { Err(self.refuse(ErrorCode::KeyIndigestible)) }
    }

    fn check_size(&self, row: &MechanismRow, operation: Operations) -> Result<(), Refusal> {
        let object = self.object;
        let fits = |size: KeySize, bits: u64| size.admits_bits(bits);
        let size_fits = match object.key_type() {
            Some(KeyType::Rsa) => {
                object.octets(A::Modulus).is_some_and(|modulus| fits(row.size, schema::bits(modulus)))
            }
            Some(KeyType::Ec) => Curve::of(object).is_some_and(|curve| fits(row.size, curve.bits())),
            Some(KeyType::EcEdwards | KeyType::EcMontgomery) => true,
            // A key of no octets is below every range, and HMAC takes it (RFC 2104).
            Some(_) => object.number(A::ValueLen).is_some_and(|bytes| bytes == 0 || fits(row.size, bytes * 8)),
            None => false,
        };
        if !size_fits {
            return Err(self.refuse(ErrorCode::KeySizeRefused));
        }
        if self.fips && !is_approved(object, operation) {
            return Err(self.refuse(ErrorCode::FipsRefused));
        }
        Ok(())
    }
}

/// Whether mode FIPS approves of the key for the operation: curves of SP 800-186; secrets of 112 bits for everything but
/// checking what was made before (SP 800-131A r2 §10).
fn is_approved(object: &Object, operation: Operations) -> bool {
    match object.key_type() {
        Some(KeyType::EcEdwards | KeyType::EcMontgomery) => false,
        Some(KeyType::Ec) => Curve::of(object).is_some_and(Curve::is_fips),
        Some(key_type) if key_type.is_octets() && operation != Operations::VERIFY => {
            object.number(A::ValueLen).is_some_and(|bytes| bytes >= FIPS_SECRET_KEY_BYTES)
        }
        _ => true,
    }
}

/// Leave to wrap `key` with the key of `using`. Only its owner may let a key leave (AWS CloudHSM, `key wrap`).
///
/// # Errors
/// Any refusal.
pub(crate) fn wrap(using: &Use<'_>, key: &Object) -> Result<(Permit<Wrap>, Permit<BeWrapped>), Refusal> {
    sight::require_crypto_user(using.caller)?;
    let permit = using.permit::<Wrap>()?;
    sight::require_ownership(using.caller, key)?;
    let Some(class) = key.class().filter(|class| BeWrapped::CLASSES.contains(class)) else {
        return Err(using.refuse(ErrorCode::KeyNotWrappable));
    };
    if !key.is(A::Extractable) {
        return Err(Refusal::of(ErrorCode::NotExtractable, A::Extractable));
    }
    if key.is(A::WrapWithTrusted) && !using.object.is(A::Trusted) {
        return Err(Refusal::of(ErrorCode::WrapWithTrusted, A::WrapWithTrusted));
    }
    if let Some(AttributeValue::Template(rule)) = using.object.attribute(A::WrapTemplate)
        && !objects::matches(key, rule)
    {
        return Err(Refusal::of(ErrorCode::WrapTemplate, A::WrapTemplate));
    }
    // A private key is longer than what RSA encrypts (PKCS#11 3.2 §6.1.6: secret keys only).
    let by_rsa = matches!(using.mechanism.kind, MechanismKind::RSA_PKCS | MechanismKind::RSA_PKCS_OAEP);
    if by_rsa && class == ObjectClass::PrivateKey {
        return Err(using.refuse(ErrorCode::KeyNotWrappable));
    }
    let wrapped = Permit::new(key.uid(), Some(using.mechanism.kind), using.fips);
    Ok((permit, wrapped))
}

/// Leave to derive from a second key: it must be a secret key that may be derived from.
///
/// # Errors
/// Any refusal.
pub(crate) fn second_key(using: &Use<'_>, second: &Object) -> Result<Permit<Derive>, Refusal> {
    sight::require_sight(using.caller, second)?;
    if second.class() != Some(ObjectClass::SecretKey) {
        return Err(using.refuse(ErrorCode::KeyTypeRefused));
    }
    if !second.is(A::Derive) {
        return Err(using.refuse(ErrorCode::KeyUseRefused));
    }
    Use { object: second, ..*using }.check_allowed()?;
    Ok(Permit::new(second.uid(), Some(using.mechanism.kind), using.fips))
}

/// Leave to digest without a key.
///
/// # Errors
/// [`ErrorCode::MechanismInvalid`], [`ErrorCode::FipsRefused`] or [`ErrorCode::MechanismParameters`].
pub(crate) fn digest(mechanism: &Mechanism, fips: bool) -> Result<(), Refusal> {
    let row = offering(mechanism.kind, BeDigested::OPERATION, fips)?;
    check_parameters(row, mechanism, BeDigested::OPERATION, fips)
}

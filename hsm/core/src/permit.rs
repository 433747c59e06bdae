//! Permits: proof, by type, that policy was asked before a key is used.

use std::marker::PhantomData;

use hsm_protocol::{AttributeKind, MechanismKind, ObjectClass};

use crate::ids::ObjectUid;
use crate::mechanisms::Operations;

/// A way to use a key.
pub trait KeyUse: sealed::Sealed {
    /// The key attribute that must be true; `None` where no flag governs the use.
    const FLAG: Option<AttributeKind>;
    /// The operation that the mechanism must offer.
    const OPERATION: Operations;
    /// Classes of keys that can be used so.
    const CLASSES: &'static [ObjectClass];
    /// Whether `CKA_ALWAYS_AUTHENTICATE` asks for the password at each such use.
    const NEEDS_CONFIRMATION: bool;
}

macro_rules! uses {
    ($($(#[doc = $doc:literal])+ $name:ident: $flag:expr, $operation:ident, [$($class:ident),*], $confirm:literal;)+) => {
        $(
            $(#[doc = $doc])+
            #[derive(Debug)]
            pub enum $name {}
            impl sealed::Sealed for $name {}
            impl KeyUse for $name {
                const FLAG: Option<AttributeKind> = $flag;
                const OPERATION: Operations = Operations::$operation;
                const CLASSES: &'static [ObjectClass] = &[$(ObjectClass::$class),*];
                const NEEDS_CONFIRMATION: bool = $confirm;
            }
        )+
        mod sealed { pub trait Sealed {} }
    };
}

uses! {
    /// Make a signature or MAC.
    Sign: Some(AttributeKind::Sign), SIGN, [PrivateKey, SecretKey], true;
    /// Check a signature or MAC.
    Verify: Some(AttributeKind::Verify), VERIFY, [PublicKey, SecretKey], false;
    /// Encrypt.
    Encrypt: Some(AttributeKind::Encrypt), ENCRYPT, [PublicKey, SecretKey], false;
    /// Decrypt.
    Decrypt: Some(AttributeKind::Decrypt), DECRYPT, [PrivateKey, SecretKey], true;
    /// Sign so that the data can be had back from the signature.
    SignRecover: Some(AttributeKind::SignRecover), SIGN_RECOVER, [PrivateKey], true;
    /// Have the data back from a signature.
    VerifyRecover: Some(AttributeKind::VerifyRecover), VERIFY_RECOVER, [PublicKey], false;
    /// Encrypt another key with this one.
    Wrap: Some(AttributeKind::Wrap), WRAP, [PublicKey, SecretKey], false;
    /// Leave the HSM encrypted by another key.
    BeWrapped: Some(AttributeKind::Extractable), WRAP, [PrivateKey, SecretKey], false;
    /// Decrypt another key with this one.
    Unwrap: Some(AttributeKind::Unwrap), UNWRAP, [PrivateKey, SecretKey], true;
    /// Derive another key from this one.
    Derive: Some(AttributeKind::Derive), DERIVE, [PrivateKey, SecretKey], true;
    /// Give out a value that is not sensitive.
    Disclose: None, NONE, [PrivateKey, SecretKey, Data], false;
    /// Be the input of a digest (`C_DigestKey`).
    BeDigested: None, DIGEST, [SecretKey], false;
    /// Be sealed again for a copy of the object.
    BeCopied: None, NONE, [PublicKey, PrivateKey, SecretKey, Data, Certificate], false;
}

/// Leave to use one key, in one way, by one mechanism. Only `Hsm` makes them, after its checks.
#[derive(Debug)]
pub struct Permit<U: KeyUse> {
    object: ObjectUid,
    mechanism: Option<MechanismKind>,
    fips: bool,
    of: PhantomData<U>,
}

impl<U: KeyUse> Permit<U> {
    /// Made by the policy checks of this crate and nobody else.
    pub(crate) fn new(object: ObjectUid, mechanism: Option<MechanismKind>, fips: bool) -> Self {
        Self { object, mechanism, fips, of: PhantomData }
    }

    /// The object that may be used.
    pub fn object(&self) -> ObjectUid {
        self.object
    }

    /// The mechanism that it may be used by; `None` where there is none (disclose, copy).
    pub fn mechanism(&self) -> Option<MechanismKind> {
        self.mechanism
    }

    /// Whether the cluster is in mode FIPS, which some parameters depend on.
    pub fn fips(&self) -> bool {
        self.fips
    }
}

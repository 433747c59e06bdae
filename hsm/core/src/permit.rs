//! Permits: proof, by type, that policy was asked before a key is used.

use std::marker::PhantomData;

use hsm_protocol::MechanismKind;

use crate::ids::ObjectUid;

/// A way to use a key.
pub trait KeyUse: sealed::Sealed {}

macro_rules! uses {
    ($($(#[doc = $doc:literal])+ $name:ident;)+) => {
        $($(#[doc = $doc])+ #[derive(Debug)] pub enum $name {} impl sealed::Sealed for $name {} impl KeyUse for $name {})+
        mod sealed { pub trait Sealed {} }
    };
}

uses! {
    /// Make a signature or MAC.
    Sign;
    /// Check a signature or MAC.
    Verify;
    /// Encrypt.
    Encrypt;
    /// Decrypt.
    Decrypt;
    /// Sign so that the data can be had back from the signature.
    SignRecover;
    /// Have the data back from a signature.
    VerifyRecover;
    /// Encrypt another key with this one.
    Wrap;
    /// Leave the HSM encrypted by another key.
    BeWrapped;
    /// Decrypt another key with this one.
    Unwrap;
    /// Derive another key from this one.
    Derive;
    /// Give out a value that is not sensitive.
    Disclose;
    /// Be the input of a digest (`C_DigestKey`).
    BeDigested;
    /// Be sealed again for a copy of the object.
    BeCopied;
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

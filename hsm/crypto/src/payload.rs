//! The secret part of an object: its secret attributes by their kinds.

use std::collections::BTreeMap;

use hsm_core::permit::Disclose;
use hsm_core::{Object, Permit};
use hsm_protocol::{AttributeKind, AttributeValue};
use zeroize::Zeroizing;

use crate::fault::{CryptoFault, SealBroken};
use crate::secret::SecretBytes;

/// The secret attributes of one object, such as `CKA_VALUE` of a secret key or the primes of an RSA key. Wiped on drop;
/// no `Clone`, no `Debug`. Octets only: that is all that is ever secret.
pub struct Payload(BTreeMap<AttributeKind, SecretBytes>);

/// First byte of the written form.
const FORMAT: u8 = 1;

impl Payload {
    /// A payload without attributes.
    pub(crate) fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Adds an attribute and returns the payload, for building.
    #[must_use]
    pub(crate) fn with(mut self, kind: AttributeKind, secret: SecretBytes) -> Self {
        self.0.insert(kind, secret);
        self
    }

    /// A secret attribute.
    pub(crate) fn get(&self, kind: AttributeKind) -> Option<&[u8]> {
        self.0.get(&kind).map(SecretBytes::expose)
    }

    /// `CKA_VALUE`.
    pub(crate) fn value(&self) -> Result<&[u8], CryptoFault> {
        self.get(AttributeKind::Value).ok_or(CryptoFault::KeyMaterial)
    }

    /// The written form, for sealing: format, then kind (8 bytes), length (4 bytes) and octets of each attribute.
    pub(crate) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let length: usize = self.0.values().map(|secret| 12 + secret.len()).sum();
        let mut bytes = Zeroizing::new(Vec::with_capacity(1 + length));
        bytes.push(FORMAT);
        for (&kind, secret) in &self.0 {
            bytes.extend_from_slice(&u64::from(kind).to_be_bytes());
            bytes.extend_from_slice(&u32::try_from(secret.len()).unwrap_or(u32::MAX).to_be_bytes());
            bytes.extend_from_slice(secret.expose());
        }
        bytes
    }

    /// Reads the written form.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, SealBroken> {
        let (&FORMAT, mut rest) = bytes.split_first().ok_or(SealBroken::Format)? else {
            return Err(SealBroken::Format);
        };
        let mut payload = Self::new();
        while !rest.is_empty() {
            let (kind, after) = rest.split_first_chunk().ok_or(SealBroken::Format)?;
            let (length, after) = after.split_first_chunk().ok_or(SealBroken::Format)?;
            let kind = AttributeKind::from_number(u64::from_be_bytes(*kind)).ok_or(SealBroken::Format)?;
            let length = u32::from_be_bytes(*length) as usize;
            let (secret, after) = after.split_at_checked(length).ok_or(SealBroken::Format)?;
            payload = payload.with(kind, SecretBytes::copy_of(secret));
            rest = after;
        }
        Ok(payload)
    }
}

/// Gives out one attribute of a payload, which policy allowed (`CKA_SENSITIVE` false and `CKA_EXTRACTABLE` true, or a data
/// object). `None` when the payload has no such attribute.
///
/// # Errors
/// [`CryptoFault::PermitMismatch`] when the permit is for another object.
#[expect(clippy::needless_pass_by_value, reason = "a permit is used up")]
pub fn disclose(
    permit: Permit<Disclose>,
    object: &Object,
    payload: &Payload,
    kind: AttributeKind,
) -> Result<Option<AttributeValue>, CryptoFault> {
    if permit.object() != object.uid() {
        return Err(CryptoFault::PermitMismatch);
    }
    Ok(payload.get(kind).map(|secret| AttributeValue::Octets(secret.to_vec())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_written_form_comes_back_and_is_refused_when_cut() {
        let payload = Payload::new()
            .with(AttributeKind::Prime1, SecretBytes::copy_of(&[1, 2, 3]))
            .with(AttributeKind::Prime2, SecretBytes::copy_of(&[]));
        let written = payload.encode();
        let again = Payload::decode(&written).unwrap();
        assert_eq!(again.get(AttributeKind::Prime1), Some(&[1, 2, 3][..]));
        assert_eq!(again.get(AttributeKind::Prime2), Some(&[][..]));
        assert_eq!(again.get(AttributeKind::Value), None);
        for length in (0..written.len()).filter(|length| ![1, 16].contains(length)) {
            assert!(Payload::decode(&written[..length]).is_err(), "{length}");
        }
    }
}

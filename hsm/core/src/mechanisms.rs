//! Every mechanism that this HSM has: what it does, for which keys, of which size, and what mode FIPS leaves of it.
//!
//! The table says what may be; `hsm-crypto` does it. A mechanism is added by one row in `mechanisms/table.rs` and one
//! arm in `hsm-crypto`. No decision stands here that depends on a key's attributes: see `hsm/permits.rs`.

mod operations;
mod parameters;
mod table;

use hsm_protocol::{ErrorCode, KeyType, MechanismKind};

pub use operations::Operations;
pub use parameters::{Shape, check_parameters};
pub use table::TABLE;

use crate::refusal::Refusal;

/// One mechanism.
#[derive(Clone, Copy, Debug)]
pub struct MechanismRow {
    /// Which one.
    pub kind: MechanismKind,
    /// What it does.
    pub operations: Operations,
    /// What is left of that in mode FIPS: a subset of `operations`.
    pub fips: Operations,
    /// Types of the keys that it uses or makes; empty for digests.
    pub key_types: &'static [KeyType],
    /// Sizes of those keys.
    pub size: KeySize,
    /// Its parameters.
    pub parameters: Shape,
    /// The digest that is built into it.
    pub hash: Option<MechanismKind>,
}

/// Sizes of keys, both ends included, in the unit that PKCS#11 3.2 gives for the mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySize {
    /// There is no key.
    None,
    /// In bits: RSA moduli, curves, generic secrets at generation.
    Bits(u64, u64),
    /// In bytes: AES, HMAC keys.
    Bytes(u64, u64),
}

/// What `C_GetMechanismInfo` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MechanismInfo {
    /// Which mechanism.
    pub kind: MechanismKind,
    /// `ulMinKeySize`.
    pub minimum: u64,
    /// `ulMaxKeySize`.
    pub maximum: u64,
    /// `CKF_…` flags.
    pub flags: u64,
}

impl MechanismRow {
    /// What is left of it in a mode.
    pub fn operations(&self, fips: bool) -> Operations {
        if fips { self.fips } else { self.operations }
    }

    /// What `C_GetMechanismInfo` says in a mode; `None` when nothing is left of it.
    pub fn info(&self, fips: bool) -> Option<MechanismInfo> {
        let operations = self.operations(fips);
        if operations.is_empty() {
            return None;
        }
        let (minimum, maximum) = match self.size {
            KeySize::None => (0, 0),
            KeySize::Bits(minimum, maximum) | KeySize::Bytes(minimum, maximum) => (minimum, maximum),
        };
        let on_curves =
            self.key_types.iter().any(|kind| matches!(kind, KeyType::Ec | KeyType::EcEdwards | KeyType::EcMontgomery));
        let curve_flags = if on_curves { operations::CURVE_FLAGS } else { 0 };
        Some(MechanismInfo { kind: self.kind, minimum, maximum, flags: operations.flags() | curve_flags })
    }

    /// Whether a key of that type can be used with it.
    pub fn takes(&self, key_type: KeyType) -> bool {
        self.key_types.contains(&key_type)
    }
}

impl KeySize {
    /// Whether a key of so many bits is in range.
    pub fn admits_bits(self, bits: u64) -> bool {
        match self {
            Self::None => false,
            Self::Bits(minimum, maximum) => (minimum..=maximum).contains(&bits),
            Self::Bytes(minimum, maximum) => (minimum * 8..=maximum * 8).contains(&bits),
        }
    }
}

/// The row of a mechanism.
pub fn find(kind: MechanismKind) -> Option<&'static MechanismRow> {
    let position = TABLE.binary_search_by_key(&kind, |row| row.kind).ok()?;
    Some(&TABLE[position])
}

/// The row of a mechanism that offers an operation in a mode.
///
/// # Errors
/// [`ErrorCode::MechanismInvalid`] when it does not exist or never does this, [`ErrorCode::FipsRefused`] when only mode
/// FIPS forbids it; the subject is the mechanism.
pub fn offering(kind: MechanismKind, operation: Operations, fips: bool) -> Result<&'static MechanismRow, Refusal> {
    let row = find(kind).filter(|row| row.operations.contains(operation));
    let row = row.ok_or(Refusal::of_mechanism(ErrorCode::MechanismInvalid, kind))?;
    if row.operations(fips).contains(operation) {
        Ok(row)
    } else {
        Err(Refusal::of_mechanism(ErrorCode::FipsRefused, kind))
    }
}

/// What `C_GetMechanismList` and `C_GetMechanismInfo` say, in the order of the numbers.
pub fn infos(fips: bool) -> impl Iterator<Item = MechanismInfo> {
    TABLE.iter().filter_map(move |row| row.info(fips))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_mode_fips_only_takes_away() {
        assert!(TABLE.is_sorted_by(|a, b| a.kind < b.kind));
        for row in TABLE {
            assert!(row.operations.contains(row.fips), "{:?}", row.kind.name());
            assert!(!row.operations.is_empty(), "{:?}", row.kind.name());
            assert!(row.kind.name().is_some(), "{:?}", row.kind);
            assert_eq!(row.key_types.is_empty(), row.size == KeySize::None, "{:?}", row.kind.name());
        }
    }

    #[test]
    fn every_mechanism_that_the_protocol_names_has_a_row() {
        let named = (0..0x5000).map(MechanismKind).filter(|kind| kind.name().is_some());
        for kind in named {
            assert!(find(kind).is_some(), "{:?}", kind.name());
        }
    }

    #[test]
    fn fips_refuses_what_is_not_approved() {
        use MechanismKind as M;
        let refused = [
            (M::SHA1_RSA_PKCS, Operations::SIGN),
            (M::ECDSA_SHA1, Operations::SIGN),
            (M::RSA_PKCS, Operations::ENCRYPT),
            (M::RSA_PKCS, Operations::UNWRAP),
            (M::RSA_X_509, Operations::SIGN),
            (M::EDDSA, Operations::SIGN),
            (M::EC_MONTGOMERY_KEY_PAIR_GEN, Operations::GENERATE_KEY_PAIR),
            (M::AES_CBC, Operations::WRAP),
        ];
        for (kind, operation) in refused {
            assert!(offering(kind, operation, false).is_ok(), "{:?}", kind.name());
            assert_eq!(offering(kind, operation, true).unwrap_err().code, ErrorCode::FipsRefused, "{:?}", kind.name());
        }
        assert!(offering(M::RSA_PKCS, Operations::SIGN, true).is_ok());
        assert!(infos(true).all(|info| info.kind != M::EDDSA));
    }

    #[test]
    fn a_mechanism_is_refused_for_what_it_does_not_do() {
        let refused = offering(MechanismKind::ECDSA, Operations::ENCRYPT, false).unwrap_err();
        assert_eq!(refused.code, ErrorCode::MechanismInvalid);
        assert_eq!(offering(MechanismKind(0x9999), Operations::SIGN, false).unwrap_err().subject, 0x9999);
    }
}

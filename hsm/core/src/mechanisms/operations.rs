//! Sets of operations, as `CKF_…` bits (PKCS#11 3.2 §3.6, table of `CK_MECHANISM_INFO` flags).

/// A set of operations that a mechanism offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operations(u64);

/// `CKF_EC_F_P | CKF_EC_OID | CKF_EC_UNCOMPRESS | CKF_EC_CURVENAME`: prime fields, named curves, uncompressed points.
pub(super) const CURVE_FLAGS: u64 = 0x0010_0000 | 0x0080_0000 | 0x0100_0000 | 0x0400_0000;

#[expect(missing_docs, reason = "each is the CKF_ constant of the same name")]
impl Operations {
    pub const ENCRYPT: Self = Self(0x100);
    pub const DECRYPT: Self = Self(0x200);
    pub const DIGEST: Self = Self(0x400);
    pub const SIGN: Self = Self(0x800);
    pub const SIGN_RECOVER: Self = Self(0x1000);
    pub const VERIFY: Self = Self(0x2000);
    pub const VERIFY_RECOVER: Self = Self(0x4000);
    pub const GENERATE: Self = Self(0x8000);
    pub const GENERATE_KEY_PAIR: Self = Self(0x1_0000);
    pub const WRAP: Self = Self(0x2_0000);
    pub const UNWRAP: Self = Self(0x4_0000);
    pub const DERIVE: Self = Self(0x8_0000);
}

impl Operations {
    /// The empty set.
    pub const NONE: Self = Self(0);

    /// Both sets together.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether every operation of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The `CKF_…` bits.
    pub const fn flags(self) -> u64 {
        self.0
    }
}

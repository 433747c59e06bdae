//! The operations that use a key, by the number they have on the wire.

/// What [`crate::wire::Operate`] and [`crate::wire::Stream`] do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[repr(u32)]
pub enum Operation {
    /// `C_Sign` and `C_SignFinal`.
    Sign = 1,
    /// `C_Verify` and `C_VerifyFinal`.
    Verify = 2,
    /// `C_Encrypt` and `C_EncryptFinal`.
    Encrypt = 3,
    /// `C_Decrypt` and `C_DecryptFinal`.
    Decrypt = 4,
    /// `C_Digest` and `C_DigestFinal`; needs no key.
    Digest = 5,
    /// `C_SignRecover`.
    SignRecover = 6,
    /// `C_VerifyRecover`.
    VerifyRecover = 7,
}

impl Operation {
    /// All operations.
    pub const ALL: &[Self] =
        &[Self::Sign, Self::Verify, Self::Encrypt, Self::Decrypt, Self::Digest, Self::SignRecover, Self::VerifyRecover];

    /// The operation with this number on the wire.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|&operation| operation as u32 == number)
    }
}

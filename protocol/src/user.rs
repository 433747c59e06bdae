//! Users as both sides name them.

use crate::error::ErrorCode;
use crate::limits::USER_NAME_CHARACTERS;

/// What a user may do. AWS CloudHSM: "HSM user types". The numbers are those of AWS's audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[repr(u32)]
pub enum Role {
    /// CU: owns keys and uses them.
    CryptoUser = 1,
    /// CO: manages users and policy, uses no key.
    Admin = 2,
    /// AU: the cluster's own user for replication; nobody logs in as it.
    Appliance = 5,
    /// PRECO: exists until activation gives the first admin a password.
    UnactivatedAdmin = 6,
}

impl Role {
    /// All roles.
    pub const ALL: &[Self] = &[Self::CryptoUser, Self::Admin, Self::Appliance, Self::UnactivatedAdmin];

    /// The role with this number on the wire.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|&role| role as u32 == number)
    }

    /// The role's name in `cloudhsm-cli`.
    pub fn name(self) -> &'static str {
        match self {
            Self::CryptoUser => "crypto-user",
            Self::Admin => "admin",
            Self::Appliance => "internal(APPLIANCE_USER)",
            Self::UnactivatedAdmin => "unactivated-admin",
        }
    }
}

/// Where a cluster stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[repr(u32)]
pub enum Lifecycle {
    /// The cluster has its keys and a certificate request; no customer has signed it.
    Uninitialized = 1,
    /// The customer's certificate is in place; the first admin has no password yet.
    Initialized = 2,
    /// In service.
    Active = 3,
    /// The keys are gone for good.
    Zeroized = 4,
}

impl Lifecycle {
    /// The state with this number on the wire.
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::Uninitialized, Self::Initialized, Self::Active, Self::Zeroized]
            .into_iter()
            .find(|&lifecycle| lifecycle as u32 == number)
    }
}

/// A checked user name: 1 to 31 characters, a letter first, then letters, digits or one of `_-.@`; lower case.
///
/// AWS CloudHSM documents names as case-insensitive and shows them in lower case, so that is how they are kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserName(String);

impl UserName {
    /// Checks and lower-cases a name.
    ///
    /// # Errors
    /// [`ErrorCode::UserNameRule`].
    pub fn new(name: &str) -> Result<Self, ErrorCode> {
        let allowed = |character: char| character.is_ascii_alphanumeric() || "_-.@".contains(character);
        let begins_well = name.starts_with(|character: char| character.is_ascii_alphabetic());
        if begins_well && name.len() <= USER_NAME_CHARACTERS && name.chars().all(allowed) {
            Ok(Self(name.to_ascii_lowercase()))
        } else {
            Err(ErrorCode::UserNameRule)
        }
    }

    /// The name in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for UserName {
    type Error = ErrorCode;

    fn try_from(name: String) -> Result<Self, ErrorCode> {
        Self::new(&name)
    }
}

impl From<UserName> for String {
    fn from(name: UserName) -> Self {
        name.0
    }
}

impl std::fmt::Display for UserName {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_case_and_bounded() {
        assert_eq!(UserName::new("Alice_2").unwrap().as_str(), "alice_2");
        assert!(UserName::new(&"a".repeat(31)).is_ok());
        for bad in ["", "1a", "a b", "a:b", "ä", &"a".repeat(32), "_a"] {
            assert_eq!(UserName::new(bad), Err(ErrorCode::UserNameRule), "{bad:?}");
        }
    }
}

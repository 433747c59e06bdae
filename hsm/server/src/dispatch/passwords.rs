//! The rules for passwords that people choose, and how passwords are held while they are looked at.

use hsm_protocol::limits::{PASSWORD_CHARACTERS, PASSWORD_CHARACTERS_CHOSEN};
use hsm_protocol::{ErrorCode, UserName};
use zeroize::Zeroizing;

use super::call::Result;

/// The user whose password AWS KMS makes: 7 to 32 characters ("CloudHSM key store" of the KMS developer guide).
const KMS_USER: &str = "kmsuser";

/// A password on its way through this process: wiped when it is dropped, never shown.
pub(crate) struct Password(Zeroizing<Vec<u8>>);

impl Password {
    pub(crate) fn new(octets: Vec<u8>) -> Self {
        Self(Zeroizing::new(octets))
    }

    /// The octets, for stretching.
    pub(crate) fn octets(&self) -> &[u8] {
        &self.0
    }

    /// Whether this user may have this password from now on: UTF-8 of 8 to 128 characters, for `kmsuser` from 7.
    ///
    /// # Errors
    /// [`ErrorCode::PasswordRule`].
    pub(crate) fn check_rules(&self, name: &UserName) -> Result<()> {
        let text = std::str::from_utf8(&self.0).map_err(|_| ErrorCode::PasswordRule)?;
        let least = if name.as_str() == KMS_USER { *PASSWORD_CHARACTERS.start() } else { PASSWORD_CHARACTERS_CHOSEN };
        let characters = text.chars().count();
        if (least..=*PASSWORD_CHARACTERS.end()).contains(&characters) {
            Ok(())
        } else {
            Err(ErrorCode::PasswordRule.into())
        }
    }

    /// Whether it can be a password at all: what is longer is not stretched.
    pub(crate) fn is_possible(&self) -> bool {
        // A character takes at most four octets of UTF-8.
        self.0.len() <= *PASSWORD_CHARACTERS.end() * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_have_8_to_128_characters_and_kmsuser_may_have_7() {
        let check = |name: &str, password: &str| {
            Password::new(password.into()).check_rules(&UserName::new(name).unwrap()).is_ok()
        };
        assert!(!check("alice", "1234567"));
        assert!(check("alice", "12345678"));
        assert!(check("alice", &"ä".repeat(128)));
        assert!(!check("alice", &"ä".repeat(129)));
        assert!(check("KmsUser", "1234567"));
        assert!(!check("kmsuser", "123456"));
        assert!(Password::new(vec![0xFF; 8]).check_rules(&UserName::new("alice").unwrap()).is_err());
    }
}

//! PINs: `user:password`, or a password alone for the configured user.
//!
//! PKCS#11 has one PIN for "the user" of a token; a cluster has many users. So the PIN names him: as AWS CloudHSM's
//! library does. `docs/compat/pkcs11.md` has the forms.

use cryptoki_sys::{CKR_ARGUMENTS_BAD, CKR_PIN_INCORRECT, CKR_PIN_INVALID, CKR_PIN_LEN_RANGE};
use zeroize::Zeroizing;

use crate::limits::PIN_BYTES;
use crate::memory::Input;
use crate::return_value::{Outcome, refuse};

/// Whose admin a password without a name is.
pub(crate) const DEFAULT_ADMIN: &str = "admin";

/// A user's name with his password.
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: Zeroizing<Vec<u8>>,
}

/// Takes a PIN from the caller's memory.
///
/// # Errors
/// `CKR_PIN_LEN_RANGE` for an empty or absurdly long one.
pub(crate) fn take(input: Input) -> Outcome<Zeroizing<Vec<u8>>> {
    match input.len() {
        // NULL stands for a PIN pad, which this token does not have.
        0 => refuse(CKR_ARGUMENTS_BAD),
        length if length > PIN_BYTES => refuse(CKR_PIN_LEN_RANGE),
        _ => input.copy().map(Zeroizing::new),
    }
}

/// Takes a PIN apart at its first colon.
///
/// # Errors
/// `CKR_PIN_INCORRECT` when it has no colon and no user is configured for that, or its name cannot be one.
pub(crate) fn credentials(pin: &[u8], default_user: Option<&str>) -> Outcome<Credentials> {
    let (user, password) = match split(pin) {
        (Some(user), password) => (user.to_owned(), password),
        (None, password) => match default_user {
            Some(user) => (user.to_owned(), password),
            None => {
                tracing::warn!(
                    "the PIN names no user and client.toml has no `default-user`; give the PIN as user:password"
                );
                return refuse(CKR_PIN_INCORRECT);
            }
        },
    };
    Ok(Credentials { user, password: Zeroizing::new(password.to_vec()) })
}

/// The new password in a new PIN: `user:new` of the same user, or `new` alone.
///
/// # Errors
/// `CKR_PIN_INVALID` when it names another user: a PIN cannot be moved from one user to another.
pub(crate) fn new_password<'a>(pin: &'a [u8], user: &str) -> Outcome<&'a [u8]> {
    match split(pin) {
        (Some(named), password) if named.eq_ignore_ascii_case(user) => Ok(password),
        (Some(_), _) => {
            tracing::warn!("the new PIN names another user than the old one; give it as user:new or new");
            refuse(CKR_PIN_INVALID)
        }
        (None, password) => Ok(password),
    }
}

/// The password in a PIN given once more for one operation (`CKU_CONTEXT_SPECIFIC`).
pub(crate) fn context_password<'a>(pin: &'a [u8], user: &str) -> &'a [u8] {
    match split(pin) {
        (Some(named), password) if named.eq_ignore_ascii_case(user) => password,
        _ => pin,
    }
}

fn split(pin: &[u8]) -> (Option<&str>, &[u8]) {
    let Some(colon) = pin.iter().position(|&byte| byte == b':') else { return (None, pin) };
    match std::str::from_utf8(&pin[..colon]) {
        Ok(user) => (Some(user), &pin[colon + 1..]),
        // No name: the HSM refuses it like any unknown user.
        Err(_) => (Some(""), &pin[colon + 1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::return_value::ReturnValue;

    #[test]
    fn a_pin_names_its_user_before_the_first_colon_and_else_belongs_to_the_configured_one() {
        let named = credentials(b"alice:pass:word", Some("app")).unwrap();
        assert_eq!((named.user.as_str(), &named.password[..]), ("alice", &b"pass:word"[..]));
        let unnamed = credentials(b"password", Some("app")).unwrap();
        assert_eq!((unnamed.user.as_str(), &unnamed.password[..]), ("app", &b"password"[..]));
        assert_eq!(credentials(b"password", None).err(), Some(ReturnValue(CKR_PIN_INCORRECT)));
    }

    #[test]
    fn a_new_pin_is_of_the_same_user() {
        assert_eq!(new_password(b"App:new", "app").unwrap(), b"new");
        assert_eq!(new_password(b"new", "app").unwrap(), b"new");
        assert_eq!(new_password(b"bob:new", "app").err(), Some(ReturnValue(CKR_PIN_INVALID)));
    }

    #[test]
    fn a_context_password_may_hold_a_colon() {
        assert_eq!(context_password(b"app:secret", "app"), b"secret");
        assert_eq!(context_password(b"sec:ret", "app"), b"sec:ret");
    }
}

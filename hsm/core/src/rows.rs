//! Rows of the state as octets: one byte that says the version, then postcard.
//!
//! An old version is read for ever; a new one is written by its own arm. What cannot be read is never guessed.

use hsm_protocol::{Role, UserName};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::change::Row;
use crate::command::SealedPayload;
use crate::ids::AttemptId;
use crate::refusal::Broken;

/// The version that is written.
const VERSION: u8 = 1;

/// Encodes the value of a row.
pub(crate) fn encode(record: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(record, vec![VERSION]).unwrap_or_else(|_| unreachable!("records always encode"))
}

/// Decodes the value of a row.
pub(crate) fn decode<T: DeserializeOwned>(row: &Row, value: &[u8]) -> Result<T, Broken> {
    let broken = |what| Broken { row: describe(row), what };
    match value.split_first() {
        Some((&VERSION, rest)) => match postcard::take_from_bytes(rest) {
            Ok((record, [])) => Ok(record),
            Ok(_) => Err(broken("has octets after its end")),
            Err(_) => Err(broken("cannot be decoded")),
        },
        Some(_) => Err(broken("has a version that this program does not know")),
        None => Err(broken("is empty")),
    }
}

/// Reads the value of a [`Row::Payload`], which is not kept in memory.
///
/// # Errors
/// When it is not what `apply` wrote.
pub fn payload(row: &Row, value: &[u8]) -> Result<SealedPayload, Broken> {
    decode(row, value)
}

/// The two things that [`Row::Attempt`] names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum AttemptKey {
    Open(AttemptId),
    UnknownName(UserName, Role),
}

const OPEN: u8 = 1;
const UNKNOWN_NAME: u8 = 2;

impl AttemptKey {
    pub(crate) fn row(&self) -> Row {
        let mut key = Vec::with_capacity(20);
        match self {
            Self::Open(attempt) => {
                key.push(OPEN);
                key.extend_from_slice(&attempt.0);
            }
            Self::UnknownName(name, role) => {
                key.push(UNKNOWN_NAME);
                key.extend_from_slice(&(*role as u32).to_be_bytes());
                key.extend_from_slice(name.as_str().as_bytes());
            }
        }
        Row::Attempt(key)
    }

    pub(crate) fn read(key: &[u8]) -> Option<Self> {
        match key {
            [OPEN, attempt @ ..] => Some(Self::Open(AttemptId(attempt.try_into().ok()?))),
            [UNKNOWN_NAME, a, b, c, d, name @ ..] => {
                let role = Role::from_number(u32::from_be_bytes([*a, *b, *c, *d]))?;
                Some(Self::UnknownName(UserName::new(std::str::from_utf8(name).ok()?).ok()?, role))
            }
            _ => None,
        }
    }
}

/// A row's name for an operator: what it is and its number, never a user's name.
pub(crate) fn describe(row: &Row) -> String {
    match row {
        Row::Cluster => "cluster".to_owned(),
        Row::Counters => "counters".to_owned(),
        Row::Epoch(epoch) => format!("epoch {}", epoch.0),
        Row::Member(node) => format!("member {:x}", node.0),
        Row::User(user) => format!("user {}", user.0),
        Row::Attempt(_) => "login attempt".to_owned(),
        Row::Session(_) => "login session".to_owned(),
        Row::Object(handle) => format!("object {}", handle.0),
        Row::Payload(handle) => format!("payload of object {}", handle.0),
        Row::Lingering => "what silent HSMs may act on".to_owned(),
        Row::Merges => "which log-ins of isolated HSMs were merged".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ObjectHandle;

    #[test]
    fn a_row_of_another_version_or_length_is_named_and_refused() {
        let row = Row::Object(ObjectHandle(7));
        assert_eq!(decode::<u64>(&row, &encode(&5_u64)).unwrap(), 5);
        for bad in [&[][..], &[2, 5], &[1], &[1, 5, 0]] {
            assert_eq!(decode::<u64>(&row, bad).unwrap_err().row, "object 7");
        }
    }

    #[test]
    fn names_of_attempts_are_written_and_read() {
        let keys = [
            AttemptKey::Open(AttemptId([9; 16])),
            AttemptKey::UnknownName(UserName::new("mallory").unwrap(), Role::Admin),
        ];
        for key in keys {
            let Row::Attempt(octets) = key.row() else { panic!("another row") };
            assert!(AttemptKey::read(&octets) == Some(key));
        }
        assert!(AttemptKey::read(&[1, 2, 3]).is_none());
    }
}

//! Which programs the cluster takes: whose signature on a release it trusts, and below which release nobody takes part.
//!
//! The signature is over what an HSM measured of its own program (`hsm-server`'s `release`): it keeps wrong and altered
//! builds out, and no attacker who controls the host (`SECURITY.md`).

use serde::{Deserialize, Serialize};

use crate::limits::RELEASE_KEYS;

/// An Ed25519 public key that signs releases.
pub type ReleaseKey = [u8; 32];

/// The rule that admins gave. Without one every program of the right version takes part, and the HSMs say so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseRule {
    /// Whose signature counts; empty = none is asked for. At most [`RELEASE_KEYS`].
    pub keys: Vec<ReleaseKey>,
    /// The oldest release that takes part.
    pub minimum: Release,
}

/// Number of a release: major, minor, patch. Ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Release(pub u32, pub u32, pub u32);

impl Release {
    /// From `1.2.3`, and nothing besides.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(|part| {
            let plain = !part.is_empty() && part.bytes().all(|digit| digit.is_ascii_digit());
            part.parse().ok().filter(|_| plain)
        });
        let release = Self(parts.next()??, parts.next()??, parts.next()??);
        parts.next().is_none().then_some(release)
    }
}

impl std::fmt::Display for Release {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl ReleaseRule {
    /// Whether it can be: few keys, none twice.
    pub(crate) fn is_possible(&self) -> bool {
        let distinct: std::collections::BTreeSet<_> = self.keys.iter().collect();
        self.keys.len() <= RELEASE_KEYS && distinct.len() == self.keys.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_three_numbers_and_ordered_as_numbers() {
        assert_eq!(Release::parse("0.10.2"), Some(Release(0, 10, 2)));
        assert!(Release::parse("0.10.2") > Release::parse("0.9.30"));
        for bad in ["", "1", "1.2", "1.2.3.4", "1.2.x", "1.2.3-rc1", "+1.2.3", "1.2.", "1.2.99999999999"] {
            assert_eq!(Release::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_rule_has_few_keys_and_none_twice() {
        let rule = |count: usize| ReleaseRule {
            keys: (0..count).map(|number| [u8::try_from(number).unwrap(); 32]).collect(),
            minimum: Release::default(),
        };
        assert!(rule(RELEASE_KEYS).is_possible() && !rule(RELEASE_KEYS + 1).is_possible());
        assert!(!ReleaseRule { keys: vec![[1; 32], [1; 32]], ..rule(0) }.is_possible());
    }
}

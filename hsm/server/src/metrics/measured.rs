//! What a request is counted as: a label of few values, known before it is run.

use hsm_protocol::wire::request::Body;
use hsm_protocol::{Operation, convert};

/// Methods counted one by one: above the highest field number of `wire::Request`'s body.
const METHODS: u8 = 128;

/// Kinds of requests that are counted apart: methods, and what `Operate` does with a key.
pub const KINDS: usize = METHODS as usize + 16;

/// A kind of request. There are [`KINDS`]; what is none of them counts as unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured(u8);

impl Measured {
    /// By the method alone, as long as the message is not decoded.
    pub fn by_method(method: u16) -> Self {
        Self(u8::try_from(method).ok().filter(|&method| method < METHODS).unwrap_or(0))
    }

    /// By the message: cryptography by what it does.
    pub fn by_message(message: &Body) -> Self {
        match message {
            Body::Operate(operate) => Operation::from_number(operate.operation).map_or(Self(50), Self::by_operation),
            other => Self::by_method(convert::method(other)),
        }
    }

    fn by_operation(operation: Operation) -> Self {
        Self(METHODS + operation as u8)
    }

    /// All kinds that have a name.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=u8::MAX).take(KINDS).map(Self).filter(|kind| kind.0 == 0 || kind.name() != Self(0).name())
    }

    /// Where it stands among [`KINDS`].
    pub fn position(self) -> usize {
        usize::from(self.0)
    }

    /// Whether an honest request of this kind takes seconds: making an RSA key.
    pub fn is_long_by_nature(self) -> bool {
        self.0 == 31
    }

    /// Its name in metrics, in the log and in `kagimori cluster status`: the message's in `client.proto`, or the
    /// operation's.
    pub fn name(self) -> &'static str {
        match self.0 {
            10 => "hello",
            11 => "list_mechanisms",
            12 => "cluster_info",
            20 => "login",
            21 => "attach",
            22 => "logout",
            23 => "logout_everywhere",
            24 => "exchange_objects",
            30 => "generate_key",
            31 => "generate_key_pair",
            32 => "create_object",
            33 => "copy_object",
            34 => "destroy_object",
            35 => "get_attributes",
            36 => "set_attributes",
            37 => "find_objects",
            38 => "wrap_key",
            39 => "unwrap_key",
            40 => "derive_key",
            50 => "operate",
            51 => "stream",
            52 => "abandon_stream",
            53 => "random",
            54 => "seed_random",
            70 => "create_user",
            71 => "delete_user",
            72 => "list_users",
            73 => "change_password",
            74 => "set_user_enabled",
            75 => "activate",
            90 => "register_trust_anchor",
            91 => "deregister_trust_anchor",
            92 => "list_trust_anchors",
            93 => "set_client_certificates",
            94 => "set_admission_rule",
            95 => "approve_member",
            96 => "set_isolation_window",
            97 => "remove_member",
            98 => "get_cluster_policy",
            99 => "list_members",
            100 => "begin_reissue",
            101 => "get_reissue_request",
            102 => "finish_reissue",
            103 => "set_release_rule",
            129 => "sign",
            130 => "verify",
            131 => "encrypt",
            132 => "decrypt",
            133 => "digest",
            134 => "sign_recover",
            135 => "verify_recover",
            _ => "unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hsm_protocol::wire;

    #[test]
    fn every_method_and_every_operation_has_a_name_of_its_own() {
        let names: Vec<_> = Measured::all().map(Measured::name).collect();
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
        for method in (1..200).filter(|&method| crate::dispatch::is_known(method)) {
            assert_ne!(Measured::by_method(method).name(), "unknown", "{method}");
        }
        for &operation in Operation::ALL {
            let message = Body::Operate(wire::Operate { operation: operation as u32, ..Default::default() });
            let measured = Measured::by_message(&message);
            assert!(measured.position() < KINDS && !["unknown", "operate"].contains(&measured.name()), "{operation:?}");
        }
    }

    #[test]
    fn what_a_stranger_sends_makes_no_new_label() {
        let message = Body::Operate(wire::Operate { operation: 77, ..Default::default() });
        assert_eq!(Measured::by_message(&message).name(), "operate");
        for method in [0, 13, 127, 128, 129, 255, 256 + 50, u16::MAX] {
            assert_eq!(Measured::by_method(method).name(), "unknown", "{method}");
        }
    }
}

//! The calls of this load, each by the message that it is.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use hsm_client::{CallError, Cluster, ClusterConfiguration, Configuration, Login};
use hsm_protocol::wire::{self, ObjectReference, reply, request};
use hsm_protocol::{AttributeKind, Mechanism, MechanismKind, Operation, Role, Template, convert};

use crate::limits;

/// DER of the object identifier of P-256.
const P256: &[u8] = &[0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07];

/// What is signed.
pub(crate) const MESSAGE: &[u8] = b"chaos";

/// A pair on the token.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) public: ObjectReference,
    pub(crate) private: ObjectReference,
}

/// The cluster as an application finds it.
pub(crate) fn cluster() -> Result<Cluster> {
    let mut configuration = Configuration::load()?.clusters.into_iter().next().context("client.toml has no cluster")?;
    configuration.call_timeout = limits::CALL;
    Ok(Cluster::new(configuration))
}

/// One HSM and no other one.
pub(crate) fn one_hsm(socket: &Path, call_timeout: Duration) -> Cluster {
    let mut configuration = ClusterConfiguration::new("one");
    configuration.unix_socket = Some(socket.to_owned());
    configuration.call_timeout = call_timeout;
    Cluster::new(configuration)
}

/// Logs in as P11_PIN says.
pub(crate) fn log_in(cluster: &Cluster) -> Result<Login> {
    let pin = std::env::var("P11_PIN").context("P11_PIN is not set")?;
    let (name, password) = pin.split_once(':').context("P11_PIN is not `user:password`")?;
    Ok(cluster.log_in(name, Role::CryptoUser, password.as_bytes())?)
}

/// Makes a P-256 pair with this label.
pub(crate) fn make_pair(cluster: &Cluster, login: &Login, label: &str) -> Result<Pair, CallError> {
    let named =
        || Template::new().with_flag(AttributeKind::Token, true).with_octets(AttributeKind::Label, label.as_bytes());
    let public = named().with_flag(AttributeKind::Verify, true).with_octets(AttributeKind::EcParams, P256);
    let private = named().with_flag(AttributeKind::Sign, true);
    let body = |_| {
        request::Body::GenerateKeyPair(wire::GenerateKeyPair {
            mechanism: Some(convert::mechanism_message(&Mechanism::plain(MechanismKind::EC_KEY_PAIR_GEN))),
            public_template: Some(convert::template_message(&public)),
            private_template: Some(convert::template_message(&private)),
        })
    };
    let reply::Body::Objects(made) = cluster.change(Some(login), &body)? else { unreachable!("a pair is objects") };
    let mut made = made.items.into_iter().filter_map(|item| item.reference);
    let (Some(public), Some(private)) = (made.next(), made.next()) else { unreachable!("a pair is two objects") };
    Ok(Pair { public, private })
}

/// Signs [`MESSAGE`]: 64 octets.
pub(crate) fn sign(cluster: &Cluster, login: &Login, key: &ObjectReference) -> Result<Vec<u8>, CallError> {
    let body = |_| {
        request::Body::Operate(wire::Operate {
            operation: Operation::Sign as u32,
            key: Some(key.clone()),
            mechanism: Some(convert::mechanism_message(&Mechanism::plain(MechanismKind::ECDSA_SHA256))),
            data: MESSAGE.to_vec(),
            ..wire::Operate::default()
        })
    };
    match cluster.call(Some(login), &body)? {
        reply::Body::Bytes(reply) => Ok(reply.data),
        _ => unreachable!("a signature is octets"),
    }
}

/// Destroys an object; who may not know yet, and until when.
pub(crate) fn destroy(
    cluster: &Cluster,
    login: &Login,
    object: &ObjectReference,
) -> Result<Vec<wire::Unreached>, CallError> {
    let body = |_| request::Body::DestroyObject(wire::DestroyObject { object: Some(object.clone()) });
    match cluster.change(Some(login), &body)? {
        reply::Body::Done(done) => Ok(done.unreached),
        _ => unreachable!("a destruction is done"),
    }
}

/// Writes an object's label.
pub(crate) fn set_label(
    cluster: &Cluster,
    login: &Login,
    object: &ObjectReference,
    label: &str,
) -> Result<(), CallError> {
    let template = Template::new().with_octets(AttributeKind::Label, label.as_bytes());
    let body = |_| {
        let template = Some(convert::template_message(&template));
        request::Body::SetAttributes(wire::SetAttributes { object: Some(object.clone()), template })
    };
    cluster.change(Some(login), &body).map(drop)
}

/// Reads an attribute's octets; `None` when the object has none.
pub(crate) fn read(
    cluster: &Cluster,
    login: &Login,
    object: &ObjectReference,
    kind: AttributeKind,
) -> Result<Option<Vec<u8>>, CallError> {
    let body = |_| {
        request::Body::GetAttributes(wire::GetAttributes { object: Some(object.clone()), kinds: vec![kind as u64] })
    };
    let reply::Body::Attributes(reply) = cluster.call(Some(login), &body)? else {
        unreachable!("attributes are answered by attributes")
    };
    let value = reply.items.into_iter().next().and_then(|item| item.attribute).and_then(|attribute| attribute.value);
    Ok(match value {
        Some(wire::attribute::Value::Octets(octets)) => Some(octets),
        _ => None,
    })
}

//! `key generate-symmetric` and `key generate-asymmetric-pair`.
//!
//! Defaults are those of a key that shall be used and shall stay: uses on, extractable off. cloudhsm-cli has them the
//! other way round; see `docs/compat/cloudhsm-cli.md`.

use hsm_client::With;
use hsm_protocol::wire::{reply, request};
use hsm_protocol::{AttributeKind, MechanismKind, Template, convert, wire};
use serde_json::json;

use crate::answer::Answer;
use crate::attributes;
use crate::command_line::{CurveName, PairAttributes, PairCommand, SymmetricCommand};
use crate::credentials::Session;
use crate::failure::Failure;
use crate::key::Key;

/// Makes a secret key.
pub(crate) fn symmetric(session: &Session<'_>, command: &SymmetricCommand) -> Result<Answer, Failure> {
    let SymmetricCommand::Aes { label, key_length_bytes, attributes } = command;
    let uses = [AttributeKind::Encrypt, AttributeKind::Decrypt];
    let template = secret(label, &uses).with_number(AttributeKind::ValueLen, *key_length_bytes);
    let template = with(template, attributes)?;
    let keys = make(session, &move |_| {
        request::Body::GenerateKey(wire::GenerateKey {
            mechanism: Some(mechanism(MechanismKind::AES_KEY_GEN)),
            template: Some(convert::template_message(&template)),
        })
    })?;
    let [key] = keys.as_slice() else { return Err(Failure::strange_answer()) };
    Ok(Answer::new(json!({ "key": key.json(true) }), key.words()))
}

/// Makes a pair.
pub(crate) fn pair(session: &Session<'_>, command: &PairCommand) -> Result<Answer, Failure> {
    let (kind, public, private) = match command {
        PairCommand::Rsa { pair, modulus_size_bits, public_exponent } => {
            let exponent: Vec<u8> = public_exponent.to_be_bytes().into_iter().skip_while(|&octet| octet == 0).collect();
            let public = public(&pair.public_label, &[AttributeKind::Verify, AttributeKind::Encrypt])
                .with_number(AttributeKind::ModulusBits, *modulus_size_bits)
                .with_octets(AttributeKind::PublicExponent, exponent);
            let private = secret(&pair.private_label, &[AttributeKind::Sign, AttributeKind::Decrypt]);
            (MechanismKind::RSA_PKCS_KEY_PAIR_GEN, with_public(public, pair)?, with_private(private, pair)?)
        }
        PairCommand::Ec { pair, curve } => {
            let (kind, parameters) = parameters(*curve);
            let public =
                public(&pair.public_label, &[AttributeKind::Verify]).with_octets(AttributeKind::EcParams, parameters);
            let private = secret(&pair.private_label, &[AttributeKind::Sign]);
            (kind, with_public(public, pair)?, with_private(private, pair)?)
        }
    };
    let keys = make(session, &move |_| {
        request::Body::GenerateKeyPair(wire::GenerateKeyPair {
            mechanism: Some(mechanism(kind)),
            public_template: Some(convert::template_message(&public)),
            private_template: Some(convert::template_message(&private)),
        })
    })?;
    let [public, private] = keys.as_slice() else { return Err(Failure::strange_answer()) };
    let data = json!({ "public_key": public.json(true), "private_key": private.json(true) });
    Ok(Answer::new(data, format!("{}\n\n{}", public.words(), private.words())))
}

fn make(session: &Session<'_>, body: &dyn Fn(With) -> request::Body) -> Result<Vec<Key>, Failure> {
    session.logged_in(|login| {
        let reply::Body::Objects(reply) = session.cluster().change(Some(login), body)? else {
            return Err(Failure::strange_answer());
        };
        let references = reply.items.iter().filter_map(|item| item.reference.as_ref());
        references.map(|reference| Key::read(session.cluster(), login, reference.token_object)).collect()
    })
}

/// `CKM_EC…_KEY_PAIR_GEN` and `CKA_EC_PARAMS`: the curve's object identifier in DER (RFC 5480, RFC 8410, SEC 2).
fn parameters(curve: CurveName) -> (MechanismKind, &'static [u8]) {
    match curve {
        CurveName::Prime256v1 => {
            (MechanismKind::EC_KEY_PAIR_GEN, &[0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07])
        }
        CurveName::Secp384r1 => (MechanismKind::EC_KEY_PAIR_GEN, &[0x06, 0x05, 0x2B, 0x81, 0x04, 0x00, 0x22]),
        CurveName::Secp521r1 => (MechanismKind::EC_KEY_PAIR_GEN, &[0x06, 0x05, 0x2B, 0x81, 0x04, 0x00, 0x23]),
        CurveName::Secp256k1 => (MechanismKind::EC_KEY_PAIR_GEN, &[0x06, 0x05, 0x2B, 0x81, 0x04, 0x00, 0x0A]),
        CurveName::Ed25519 => (MechanismKind::EC_EDWARDS_KEY_PAIR_GEN, &[0x06, 0x03, 0x2B, 0x65, 0x70]),
    }
}

fn mechanism(kind: MechanismKind) -> wire::Mechanism {
    wire::Mechanism { kind: kind.0, parameters: None }
}

fn public(label: &str, uses: &[AttributeKind]) -> Template {
    uses.iter().fold(
        Template::new().with_flag(AttributeKind::Token, true).with_octets(AttributeKind::Label, label),
        |template, &kind| template.with_flag(kind, true),
    )
}

fn secret(label: &str, uses: &[AttributeKind]) -> Template {
    public(label, uses)
        .with_flag(AttributeKind::Private, true)
        .with_flag(AttributeKind::Sensitive, true)
        .with_flag(AttributeKind::Extractable, false)
}

fn with(mut template: Template, attributes: &[String]) -> Result<Template, Failure> {
    for text in attributes {
        attributes::add(&mut template, text)?;
    }
    Ok(template)
}

fn with_public(template: Template, pair: &PairAttributes) -> Result<Template, Failure> {
    with(template, &pair.public_attributes)
}

fn with_private(template: Template, pair: &PairAttributes) -> Result<Template, Failure> {
    with(template, &pair.private_attributes)
}

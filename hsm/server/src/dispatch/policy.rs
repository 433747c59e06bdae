//! Client certificates: the anchors that they must chain to, and whether they are required.
//!
//! What a certificate is like is looked at here; the state keeps it as text. A change reaches the listener as an effect
//! of the log (`ReloadTls`), on every HSM alike.

use hsm_core::{Action, Request, Response, Stamp};
use hsm_protocol::wire::reply::Body;
use hsm_protocol::{ErrorCode, limits, wire};
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::Oid;
use x509_parser::pem::Pem;
use x509_parser::public_key::PublicKey;

use super::call::{Answered, Call, Effort, Made, Result};
use super::failure::Failure;

pub(super) fn register(call: &Call<'_>, message: wire::RegisterTrustAnchor) -> Result<Answered> {
    let certificate = message.certificate;
    {
        let state = call.service.node().read();
        state.needs(&call.actor, Request::RegisterTrustAnchor { certificate: &certificate })?;
    }
    let refuse = |flaw: Flaw| {
        tracing::info!(request = call.header.request_id, %flaw, "a trust anchor was refused");
        Failure::from(if flaw == Flaw::Long { ErrorCode::TooLarge } else { ErrorCode::CertificateRefused })
    };
    let der = check(&certificate, call.service.node().now()).map_err(refuse)?;
    let known = call.service.node().read().cluster().is_some_and(|cluster| {
        cluster.client_anchors.iter().any(|anchor| read(&anchor.certificate).is_ok_and(|pem| pem.contents == der))
    });
    if known {
        return Err(ErrorCode::TrustAnchorExists.into());
    }
    call.change(
        Effort::Short,
        Box::new(move |_| {
            let action = Action::RegisterTrustAnchor { certificate: certificate.clone() };
            let then = |call: &Call<'_>, response: Response| match response {
                Response::TrustAnchor(reference) => Ok(Body::TrustAnchor(wire::TrustAnchorReply { reference })),
                _ => {
                    tracing::error!(request = call.header.request_id, "an anchor was answered with another response");
                    Err(ErrorCode::Broken.into())
                }
            };
            Ok(Made::Action(action, Box::new(then)))
        }),
    )
}

pub(super) fn deregister(call: &Call<'_>, message: &wire::DeregisterTrustAnchor) -> Result<Answered> {
    let reference = message.reference;
    call.service.node().read().needs(&call.actor, Request::DeregisterTrustAnchor { reference })?;
    call.change_plainly(Action::DeregisterTrustAnchor { reference })
}

pub(super) fn require(call: &Call<'_>, message: &wire::SetClientCertificates) -> Result<Answered> {
    let required = message.required;
    call.service.node().read().needs(&call.actor, Request::SetClientCertificates { required })?;
    call.change_plainly(Action::SetClientCertificates { required })
}

pub(super) fn list(call: &Call<'_>) -> Result<Answered> {
    let state = call.service.node().read();
    state.needs(&call.actor, Request::ListTrustAnchors)?;
    let Some(cluster) = state.cluster() else { return Err(ErrorCode::NotReady.into()) };
    let items = cluster
        .client_anchors
        .iter()
        .map(|anchor| wire::TrustAnchor { reference: anchor.reference, certificate: anchor.certificate.clone() })
        .collect();
    let reply = wire::ListTrustAnchorsReply { items, required: cluster.client_certificates_required };
    Ok(Answered::Now(Body::ListTrustAnchors(reply)))
}

/// Why a certificate cannot be a trust anchor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Flaw {
    #[error("it is longer than {} bytes", limits::CERTIFICATE_BYTES)]
    Long,
    #[error("it is not one certificate in PEM")]
    Pem,
    #[error("it is no X.509 certificate")]
    Certificate,
    #[error("it may not sign certificates (basic constraints, key usage)")]
    NoAuthority,
    #[error("its key is neither EC P-256, P-384, P-521 nor RSA 2048, 3072, 4096")]
    Key,
    #[error("it is not valid now")]
    Time,
}

/// Checks an anchor by the rules of AWS CloudHSM (`cluster mtls register-trust-anchor`) and gives its DER.
fn check(text: &str, now: Stamp) -> std::result::Result<Vec<u8>, Flaw> {
    let pem = read(text)?;
    let certificate = pem.parse_x509().map_err(|_| Flaw::Certificate)?;
    if !may_sign(&certificate) {
        return Err(Flaw::NoAuthority);
    }
    if !has_strong_key(&certificate) {
        return Err(Flaw::Key);
    }
    let seconds = i64::try_from(now.0 / 1000).map_err(|_| Flaw::Time)?;
    let validity = certificate.validity();
    if seconds < validity.not_before.timestamp() || seconds > validity.not_after.timestamp() {
        return Err(Flaw::Time);
    }
    Ok(pem.contents)
}

/// Reads exactly one PEM block.
fn read(text: &str) -> std::result::Result<Pem, Flaw> {
    if text.len() > limits::CERTIFICATE_BYTES {
        return Err(Flaw::Long);
    }
    let mut blocks = Pem::iter_from_buffer(text.as_bytes());
    let first = blocks.next().and_then(std::result::Result::ok).filter(|pem| pem.label == "CERTIFICATE");
    match (first, blocks.next()) {
        (Some(pem), None) => Ok(pem),
        _ => Err(Flaw::Pem),
    }
}

/// RFC 5280 §4.2.1.9 and §4.2.1.3.
fn may_sign(certificate: &X509Certificate<'_>) -> bool {
    let authority = certificate.basic_constraints().ok().flatten().is_some_and(|constraints| constraints.value.ca);
    let usage = certificate.key_usage().ok().flatten().is_none_or(|usage| usage.value.key_cert_sign());
    authority && usage
}

fn has_strong_key(certificate: &X509Certificate<'_>) -> bool {
    /// prime256v1, secp384r1, secp521r1 (RFC 5480 §2.1.1.1).
    const CURVES: [&[u64]; 3] = [&[1, 2, 840, 10045, 3, 1, 7], &[1, 3, 132, 0, 34], &[1, 3, 132, 0, 35]];
    let key = certificate.public_key();
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => matches!(rsa.key_size(), 2048 | 3072 | 4096),
        Ok(PublicKey::EC(_)) => {
            let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
            curve.is_some_and(|curve| CURVES.iter().any(|known| Oid::from(known).is_ok_and(|known| known == curve)))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
    };

    fn now() -> Stamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        Stamp(u64::try_from(since.as_millis()).unwrap())
    }

    fn anchor(change: impl FnOnce(&mut CertificateParams)) -> String {
        anchor_with(&KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap(), change)
    }

    fn anchor_with(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> String {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        change(&mut parameters);
        parameters.self_signed(key).unwrap().pem()
    }

    #[test]
    fn a_trust_anchor_must_be_an_authority_with_a_strong_key_in_time() {
        assert!(check(&anchor(|_| ()), now()).is_ok());
        let leaf = anchor(|parameters| parameters.is_ca = IsCa::NoCa);
        assert_eq!(check(&leaf, now()), Err(Flaw::NoAuthority));
        let other_usage = anchor(|parameters| parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
        assert_eq!(check(&other_usage, now()), Err(Flaw::NoAuthority));
        let weak = anchor_with(&KeyPair::generate_for(&PKCS_ED25519).unwrap(), |_| ());
        assert_eq!(check(&weak, now()), Err(Flaw::Key));
        let old = anchor(|parameters| parameters.not_after = rcgen::date_time_ymd(2001, 1, 1));
        assert_eq!(check(&old, now()), Err(Flaw::Time));
        let future = anchor(|parameters| parameters.not_before = rcgen::date_time_ymd(3000, 1, 1));
        assert_eq!(check(&future, now()), Err(Flaw::Time));
    }

    #[test]
    fn a_trust_anchor_is_one_certificate_in_pem_of_bounded_length() {
        let good = anchor(|_| ());
        assert_eq!(check(&format!("{good}{good}"), now()), Err(Flaw::Pem));
        assert_eq!(check("", now()), Err(Flaw::Pem));
        assert_eq!(check(&good.replace("CERTIFICATE", "PUBLIC KEY"), now()), Err(Flaw::Pem));
        let broken = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        assert_eq!(check(broken, now()), Err(Flaw::Certificate));
        assert_eq!(check(&" ".repeat(limits::CERTIFICATE_BYTES + 1), now()), Err(Flaw::Long));
    }
}

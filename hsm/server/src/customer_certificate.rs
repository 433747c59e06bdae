//! Judges the certificate that the customer's CA made from the cluster's request, and the CA certificate beside it.
//!
//! The rules are those of AWS's `InitializeCluster` and of RFC 5280 (differences: `docs/compat/initialization.md`); each
//! has a refusal of its own that says what to change. The certificate may be X.509 v1: that is what AWS's documented
//! `openssl x509 -req` makes. It must not do I/O or look at a clock: time is an argument. `process` calls it.

use std::time::Duration;

use hsm_protocol::limits::CERTIFICATE_BYTES;
use rustls::pki_types::pem::{PemObject, SectionKind};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// How far a CA's clock may be ahead of ours: a certificate made a moment ago elsewhere is not refused for it.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(300);

/// Bits of an RSA key that may sign: AWS documents 2048 and 4096; larger ones harm nobody up to what TLS verifies.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Which of the two certificates a refusal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The certificate over the cluster's key.
    Signed,
    /// The self-signed certificate of the CA.
    Anchor,
}

impl std::fmt::Display for Which {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Signed => "the signed certificate",
            Self::Anchor => "the trust anchor",
        })
    }
}

/// Why a certificate was refused. Each message says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateRefusal {
    /// Over the limit of AWS's API.
    #[error("{0} is longer than {CERTIFICATE_BYTES} bytes; send one certificate in PEM and nothing else")]
    TooLarge(Which),
    /// No PEM certificate in it.
    #[error("{0} is not a PEM certificate (-----BEGIN CERTIFICATE-----)")]
    NotPem(Which),
    /// Something else than a certificate in the PEM.
    #[error(
        "{0} has a PEM section that is no certificate; if it is a private key, keep it to yourself and send the certificate alone"
    )]
    OtherSection(Which),
    /// A chain.
    #[error(
        "{0} holds more than one certificate; intermediate CAs are not possible, the trust anchor must sign directly"
    )]
    Chain(Which),
    /// The DER cannot be read.
    #[error("{0} cannot be read as an X.509 certificate")]
    Unreadable(Which),
    /// Names differ from themselves.
    #[error("the trust anchor is not self-signed: its issuer is not its subject; send the root CA's certificate")]
    AnchorNotSelfIssued,
    /// Its own key does not verify it.
    #[error("the trust anchor is not self-signed: its signature is not by its own key")]
    AnchorSignature,
    /// Issuer and subject differ.
    #[error(
        "the signed certificate was not issued by the trust anchor: issuer and subject differ; send the CA that signed it"
    )]
    OtherIssuer,
    /// Key identifiers differ.
    #[error("the signed certificate names another CA key (authority key identifier) than the trust anchor's")]
    OtherIssuerKey,
    /// The anchor's key does not verify it.
    #[error("the signature of the signed certificate is not by the trust anchor's key")]
    Signature,
    /// Algorithm unknown or too weak.
    #[error("{0} is signed by an algorithm that is not accepted; use SHA-256, SHA-384 or SHA-512 with RSA or ECDSA")]
    Algorithm(Which),
    /// Key of the anchor.
    #[error("the trust anchor's key is not accepted; use RSA of 2048 to 8192 bits, or ECDSA on P-256, P-384 or P-521")]
    AnchorKey,
    /// Key of the signed certificate.
    #[error("the signed certificate is over another key than this cluster's; sign ClusterCsr.csr of this cluster")]
    OtherKey,
    /// notBefore.
    #[error("{0} is not valid yet; check the clocks of the CA and of this host")]
    NotYetValid(Which),
    /// notAfter.
    #[error("{0} has expired")]
    Expired(Which),
    /// v3 anchor without basicConstraints.
    #[error("the trust anchor has extensions but no basic constraints; make it with basicConstraints=critical,CA:TRUE")]
    AnchorBasicConstraints,
    /// v3 anchor that is no CA, or may not sign certificates.
    #[error("the trust anchor may not sign certificates; it needs CA:TRUE and, if it has a key usage, keyCertSign")]
    AnchorNotCa,
    /// Signed certificate is a CA.
    #[error("the signed certificate is a CA certificate; sign the request as an end-entity certificate (CA:FALSE)")]
    SignedIsCa,
    /// Key usages.
    #[error(
        "the signed certificate's key usage does not allow a TLS server; allow digitalSignature and serverAuth, or leave them out"
    )]
    SignedUsage,
    /// Extension that we do not know but must.
    #[error("{0} has a critical extension that is not known here, a repeated one, or one that cannot be read")]
    Extension(Which),
}

/// Certificates that passed every check.
#[derive(Clone, PartialEq, Eq)]
pub struct CheckedCertificates {
    certificate: String,
    trust_anchor: String,
}

impl CheckedCertificates {
    /// Checks what the customer brought. `cluster_key` is the DER SubjectPublicKeyInfo of the cluster's key, `now` the
    /// time since 1970-01-01 UTC.
    ///
    /// # Errors
    /// The first [`CertificateRefusal`] that applies.
    pub fn check(
        certificate: &str,
        trust_anchor: &str,
        cluster_key: &[u8],
        now: Duration,
    ) -> Result<Self, CertificateRefusal> {
        let anchor_der = read_pem(trust_anchor, Which::Anchor)?;
        let signed_der = read_pem(certificate, Which::Signed)?;
        let anchor = parse(&anchor_der, Which::Anchor)?;
        let signed = parse(&signed_der, Which::Signed)?;
        check_anchor(&anchor, &anchor_der, now)?;
        if signed.issuer().as_raw() != anchor.subject().as_raw() {
            return Err(CertificateRefusal::OtherIssuer);
        }
        if signed.public_key().raw != cluster_key {
            return Err(CertificateRefusal::OtherKey);
        }
        check_key_identifiers(&signed, &anchor)?;
        verify(&signed_der, Which::Signed, anchor.public_key(), CertificateRefusal::Signature)?;
        check_time(&signed, Which::Signed, now)?;
        check_signed_extensions(&signed)?;
        Ok(Self { certificate: section(certificate), trust_anchor: section(trust_anchor) })
    }

    /// The cluster's certificate, PEM, without anything around it.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The customer's CA, PEM, without anything around it.
    pub fn trust_anchor(&self) -> &str {
        &self.trust_anchor
    }
}

/// Checks a certificate by which others will be judged: the customer's CA, or an anchor for client certificates. Answers
/// its DER.
///
/// # Errors
/// The first [`CertificateRefusal`] that applies.
pub fn check_trust_anchor(pem: &str, now: Duration) -> Result<Vec<u8>, CertificateRefusal> {
    let der = read_pem(pem, Which::Anchor)?;
    let anchor = parse(&der, Which::Anchor)?;
    check_anchor(&anchor, &der, now)?;
    Ok(der)
}

/// The one certificate in `pem`, in DER.
fn read_pem(pem: &str, which: Which) -> Result<Vec<u8>, CertificateRefusal> {
    if pem.len() > CERTIFICATE_BYTES {
        return Err(CertificateRefusal::TooLarge(which));
    }
    let mut sections = <(SectionKind, Vec<u8>)>::pem_slice_iter(pem.as_bytes());
    let (kind, der) = match sections.next() {
        Some(Ok(section)) => section,
        _ => return Err(CertificateRefusal::NotPem(which)),
    };
    if kind != SectionKind::Certificate {
        return Err(CertificateRefusal::OtherSection(which));
    }
    match sections.next() {
        None => Ok(der),
        Some(Ok((SectionKind::Certificate, _))) => Err(CertificateRefusal::Chain(which)),
        Some(_) => Err(CertificateRefusal::OtherSection(which)),
    }
}

fn parse(der: &[u8], which: Which) -> Result<X509Certificate<'_>, CertificateRefusal> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => {
            check_extensions_readable(&certificate, which)?;
            Ok(certificate)
        }
        _ => Err(CertificateRefusal::Unreadable(which)),
    }
}

/// RFC 5280 §4.2: no extension twice; an unknown critical one refuses the certificate.
fn check_extensions_readable(certificate: &X509Certificate<'_>, which: Which) -> Result<(), CertificateRefusal> {
    let bad = CertificateRefusal::Extension(which);
    if certificate.extensions_map().is_err() {
        return Err(bad);
    }
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::ParseError { .. } => return Err(bad),
            ParsedExtension::UnsupportedExtension { .. } if extension.critical => return Err(bad),
            _ => {}
        }
    }
    Ok(())
}

fn check_anchor(anchor: &X509Certificate<'_>, der: &[u8], now: Duration) -> Result<(), CertificateRefusal> {
    if anchor.issuer().as_raw() != anchor.subject().as_raw() {
        return Err(CertificateRefusal::AnchorNotSelfIssued);
    }
    check_anchor_key(anchor.public_key())?;
    verify(der, Which::Anchor, anchor.public_key(), CertificateRefusal::AnchorSignature)?;
    check_time(anchor, Which::Anchor, now)?;
    let unreadable = |_| CertificateRefusal::Extension(Which::Anchor);
    // A v1 certificate has no extensions, and a root of that age may still sign.
    if anchor.extensions().is_empty() {
        return Ok(());
    }
    let constraints = anchor.basic_constraints().map_err(unreadable)?;
    let constraints = constraints.ok_or(CertificateRefusal::AnchorBasicConstraints)?;
    let usage = anchor.key_usage().map_err(unreadable)?;
    if !constraints.value.ca || usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(CertificateRefusal::AnchorNotCa);
    }
    Ok(())
}

fn check_anchor_key(key: &SubjectPublicKeyInfo<'_>) -> Result<(), CertificateRefusal> {
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) if RSA_BITS.contains(&rsa.key_size()) => Ok(()),
        // Other curves than the accepted ones fail in `verify`, which knows no algorithm for them.
        Ok(PublicKey::EC(_)) => Ok(()),
        _ => Err(CertificateRefusal::AnchorKey),
    }
}

/// RFC 5280 §4.2.1.1: where both name the key, they must name the same.
fn check_key_identifiers(signed: &X509Certificate<'_>, anchor: &X509Certificate<'_>) -> Result<(), CertificateRefusal> {
    let wanted = signed.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(identifier) => identifier.key_identifier.as_ref(),
        _ => None,
    });
    let found = anchor.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier),
        _ => None,
    });
    match (wanted, found) {
        (Some(wanted), Some(found)) if wanted != found => Err(CertificateRefusal::OtherIssuerKey),
        _ => Ok(()),
    }
}

fn check_time(certificate: &X509Certificate<'_>, which: Which, now: Duration) -> Result<(), CertificateRefusal> {
    let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    let validity = certificate.validity();
    if validity.not_before.timestamp() > seconds(now + CLOCK_TOLERANCE) {
        return Err(CertificateRefusal::NotYetValid(which));
    }
    if validity.not_after.timestamp() < seconds(now) {
        return Err(CertificateRefusal::Expired(which));
    }
    Ok(())
}

fn check_signed_extensions(signed: &X509Certificate<'_>) -> Result<(), CertificateRefusal> {
    let unreadable = |_| CertificateRefusal::Extension(Which::Signed);
    if signed.basic_constraints().map_err(unreadable)?.is_some_and(|constraints| constraints.value.ca) {
        return Err(CertificateRefusal::SignedIsCa);
    }
    let usage = signed.key_usage().map_err(unreadable)?;
    let extended = signed.extended_key_usage().map_err(unreadable)?;
    let signs = usage.is_none_or(|usage| usage.value.digital_signature());
    let serves = extended.is_none_or(|extended| extended.value.any || extended.value.server_auth);
    if signs && serves { Ok(()) } else { Err(CertificateRefusal::SignedUsage) }
}

/// Verifies the signature on the certificate `der` by `issuer`'s key, by the algorithms that TLS uses: so whatever passes
/// here can be verified by clients as well, and SHA-1 and MD5 never pass.
fn verify(
    der: &[u8],
    which: Which,
    issuer: &SubjectPublicKeyInfo<'_>,
    wrong: CertificateRefusal,
) -> Result<(), CertificateRefusal> {
    let unreadable = CertificateRefusal::Unreadable(which);
    let (body, algorithm, signature) = split(der).ok_or(unreadable.clone())?;
    let key_algorithm = element(element(issuer.raw).ok_or(unreadable.clone())?.content).ok_or(unreadable)?.content;
    let key = &issuer.subject_public_key.data;
    let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
    let mut known = false;
    for candidate in algorithms.all {
        if candidate.signature_alg_id().as_ref() == algorithm && candidate.public_key_alg_id().as_ref() == key_algorithm
        {
            known = true;
            if candidate.verify_signature(key, body, signature).is_ok() {
                return Ok(());
            }
        }
    }
    Err(if known { wrong } else { CertificateRefusal::Algorithm(which) })
}

/// `Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm, signatureValue }` (RFC 5280 §4.1): the signed bytes,
/// the contents of the algorithm identifier, and the signature.
fn split(der: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let certificate = element(der)?.content;
    let body = element(certificate)?;
    let algorithm = element(body.rest)?;
    let signature = element(algorithm.rest)?;
    // A BIT STRING begins with the number of unused bits, which is 0 for a signature.
    let (0, signature) = signature.content.split_first().map(|(unused, bits)| (*unused, bits))? else { return None };
    Some((body.whole, algorithm.content, signature))
}

struct Element<'a> {
    whole: &'a [u8],
    content: &'a [u8],
    rest: &'a [u8],
}

/// The first DER element of `bytes`, which an X.509 parser has accepted before.
fn element(bytes: &[u8]) -> Option<Element<'_>> {
    let &first = bytes.get(1)?;
    let (header, length) = if first < 0x80 {
        (2, usize::from(first))
    } else {
        let count = usize::from(first & 0x7f);
        let digits = bytes.get(2..2 + count).filter(|_| (1..=4).contains(&count))?;
        (2 + count, digits.iter().fold(0, |length, &digit| length << 8 | usize::from(digit)))
    };
    let end = header.checked_add(length)?;
    Some(Element { whole: bytes.get(..end)?, content: bytes.get(header..end)?, rest: bytes.get(end..)? })
}

/// The PEM section alone: what the customer may have written around it is left out. `read_pem` has found it.
fn section(pem: &str) -> String {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let begin = pem.find(BEGIN).unwrap_or(0);
    let end = pem.find(END).map_or(pem.len(), |end| end + END.len());
    format!("{}\n", &pem[begin..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ceremony::Installation;
    use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, Issuer, KeyPair};

    const NOW: Duration = Duration::from_secs(1_800_000_000);

    /// Certificate, anchor and cluster key, with this validity of the certificate in seconds relative to [`NOW`].
    fn customer(not_before: i64, not_after: i64) -> (String, String, Vec<u8>) {
        let identity = Installation::make("test", NOW).unwrap().make_cluster_identity("hsm", false, NOW).unwrap();
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let at = |offset: i64| epoch + Duration::from_secs(NOW.as_secs().checked_add_signed(offset).unwrap());
        let key = KeyPair::generate().unwrap();
        let mut anchor = CertificateParams::default();
        anchor.distinguished_name.push(DnType::CommonName, "customer");
        anchor.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let anchor_pem = anchor.self_signed(&key).unwrap().pem();
        let mut request = CertificateSigningRequestParams::from_pem(&identity.cluster_csr).unwrap();
        request.params.not_before = at(not_before);
        request.params.not_after = at(not_after);
        let certificate = request.signed_by(&Issuer::from_params(&anchor, &key)).unwrap().pem();
        (certificate, anchor_pem, identity.key.public_key())
    }

    fn check(not_before: i64, not_after: i64) -> Result<(), CertificateRefusal> {
        let (certificate, anchor, key) = customer(not_before, not_after);
        CheckedCertificates::check(&certificate, &anchor, &key, NOW).map(drop)
    }

    #[test]
    fn validity_is_judged_to_the_second_with_a_tolerance_for_the_cas_clock() {
        assert_eq!(check(300, 1000), Ok(()));
        assert_eq!(check(301, 1000), Err(CertificateRefusal::NotYetValid(Which::Signed)));
        assert_eq!(check(-10, 0), Ok(()));
        assert_eq!(check(-10, -1), Err(CertificateRefusal::Expired(Which::Signed)));
    }

    #[test]
    fn what_stands_around_the_certificate_is_not_kept() {
        let (certificate, anchor, key) = customer(-10, 1000);
        let around = format!("Subject: words of openssl\n{certificate}\nmore words\n");
        let checked = CheckedCertificates::check(&around, &anchor, &key, NOW).unwrap();
        assert!(!checked.certificate().contains("words"));
        assert_eq!(read_pem(checked.certificate(), Which::Signed), read_pem(&certificate, Which::Signed));
    }

    #[test]
    fn no_altered_certificate_is_taken() {
        let (certificate, anchor, key) = customer(-10, 1000);
        let der = read_pem(&certificate, Which::Signed).unwrap();
        let pem = |der: &[u8]| format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", base64(der));
        assert!(CheckedCertificates::check(&pem(&der), &anchor, &key, NOW).is_ok());
        for place in 0..der.len() {
            let mut altered = der.clone();
            altered[place] ^= 1;
            assert!(CheckedCertificates::check(&pem(&altered), &anchor, &key, NOW).is_err(), "octet {place}");
            assert!(CheckedCertificates::check(&pem(&der[..place]), &anchor, &key, NOW).is_err(), "cut at {place}");
        }
    }

    /// RFC 4648 §4, for tests only.
    fn base64(octets: &[u8]) -> String {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for chunk in octets.chunks(3) {
            let number = chunk.iter().fold(0_usize, |number, &octet| number << 8 | usize::from(octet))
                << (8 * (3 - chunk.len()));
            for digit in 0..4 {
                let sextet = number >> (18 - 6 * digit) & 63;
                text.push(if digit <= chunk.len() { char::from(ALPHABET[sextet]) } else { '=' });
            }
        }
        text
    }
}

//! Whom this side trusts and how it shows itself: the TLS configuration and the judgement of the HSM's certificate.
//!
//! The certificate that AWS's documented ceremony makes is an end-entity certificate, often X.509 v1 (which webpki
//! refuses) and without a name. So the rule is our own: it is signed directly by the configured anchor, or is the anchor;
//! it is in time; its key is of a kind that may sign a TLS 1.3 handshake. The host name is not compared: every HSM of a
//! cluster presents the cluster's one certificate. The anchor's own time is not judged (RFC 5280 §6.1: an anchor is
//! trusted because somebody configured it).

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_PKCS1_RSAENCRYPTION,
    OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA256,
    OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ECDSA_WITH_SHA512, OID_SIG_ED25519, Oid,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::time::ASN1Time;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::configuration::{ClusterConfiguration, ConfigurationError, unreadable};
use crate::error::{CallError, CertificateFault};

/// Shortest RSA key of an HSM's certificate, in bits (NIST SP 800-131A).
const RSA_BITS: usize = 2048;

/// By what changed files are noticed: when each was written, how long it is, and which it is.
#[derive(PartialEq, Eq)]
pub(crate) struct Files(Vec<Option<(i64, i64, u64, u64)>>);

impl Files {
    /// As the files of the configuration are now.
    pub(crate) fn of(cluster: &ClusterConfiguration) -> Self {
        let files = [&cluster.trust_anchor, &cluster.client_certificate, &cluster.client_key];
        let known = |file: &PathBuf| {
            let found = std::fs::metadata(file).ok()?;
            Some((found.mtime(), found.mtime_nsec(), found.len(), found.ino()))
        };
        Self(files.into_iter().map(|file| file.as_ref().and_then(known)).collect())
    }
}

/// Reads the files that the configuration names and makes the TLS configuration of them.
pub(crate) fn tls_configuration(cluster: &ClusterConfiguration) -> Result<ClientConfig, CallError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = AnchorVerifier::load(cluster, &provider)?;
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| unusable("trust-anchor", cluster, Path::new(""), error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut configuration = match (&cluster.client_certificate, &cluster.client_key) {
        (Some(certificate), Some(key)) => {
            let certified = client_certificate(cluster, certificate, key, &provider)?;
            builder.with_client_cert_resolver(Arc::new(OneCertificate(Arc::new(certified))))
        }
        _ => builder.with_no_client_auth(),
    };
    configuration.alpn_protocols = vec![hsm_protocol::frame::ALPN.to_vec()];
    configuration.enable_sni = false;
    // A resumed handshake would skip the judgement of the certificate, and tickets would be shared across fork.
    configuration.resumption = Resumption::disabled();
    Ok(configuration)
}

/// What the verifier tells rustls so that it comes back out of the handshake's error.
pub(crate) fn fault_of(error: &rustls::Error) -> Option<CertificateFault> {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
            inner.downcast_ref::<CertificateFault>().cloned()
        }
        _ => None,
    }
}

fn unusable(key: &'static str, cluster: &ClusterConfiguration, file: &Path, reason: String) -> CallError {
    let cluster = cluster.label.clone();
    CallError::Configuration(ConfigurationError::Content { file: file.to_owned(), cluster, key, reason })
}

fn read(file: &Path) -> Result<Vec<u8>, CallError> {
    std::fs::read(file).map_err(|error| CallError::Configuration(unreadable(file, &error)))
}

fn read_certificates(
    cluster: &ClusterConfiguration,
    key: &'static str,
    file: &Path,
) -> Result<Vec<CertificateDer<'static>>, CallError> {
    let certificates = CertificateDer::pem_slice_iter(&read(file)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unusable(key, cluster, file, format!("no PEM certificate ({error})")))?;
    if certificates.is_empty() {
        return Err(unusable(key, cluster, file, "holds no PEM certificate".to_owned()));
    }
    for certificate in &certificates {
        X509Certificate::from_der(certificate)
            .map_err(|error| unusable(key, cluster, file, format!("no X.509 certificate ({error})")))?;
    }
    Ok(certificates)
}

fn client_certificate(
    cluster: &ClusterConfiguration,
    certificate_file: &Path,
    key_file: &Path,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, CallError> {
    let chain = read_certificates(cluster, "client-certificate", certificate_file)?;
    let wrong_key = |reason: String| unusable("client-key", cluster, key_file, reason);
    let text = zeroize::Zeroizing::new(read(key_file)?);
    let key = PrivateKeyDer::from_pem_slice(&text)
        .map_err(|error| wrong_key(format!("no PEM key without a passphrase (PKCS#8, SEC 1 or PKCS#1): {error}")))?;
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|error| wrong_key(format!("a key that TLS cannot use: {error}")))?;
    let public_key = key.public_key();
    let agree = match (chain.first().map(|first| X509Certificate::from_der(first)), &public_key) {
        (Some(Ok((_, first))), Some(public_key)) => first.public_key().raw == public_key.as_ref(),
        _ => true,
    };
    if !agree {
        return Err(wrong_key(format!("is not the key of the certificate in {}", certificate_file.display())));
    }
    Ok(CertifiedKey::new(chain, key))
}

/// Presents the one certificate that is configured, X.509 v1 included, to whoever asks.
#[derive(Debug)]
struct OneCertificate(Arc<CertifiedKey>);

impl ResolvesClientCert for OneCertificate {
    fn resolve(&self, _issuers: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.key.choose_scheme(schemes).map(|_| Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Judges the HSM's certificate by the configured anchors.
#[derive(Debug)]
struct AnchorVerifier {
    file: PathBuf,
    anchors: Vec<CertificateDer<'static>>,
    algorithms: rustls::crypto::WebPkiSupportedAlgorithms,
}

impl AnchorVerifier {
    fn load(cluster: &ClusterConfiguration, provider: &CryptoProvider) -> Result<Self, CallError> {
        let Some(file) = &cluster.trust_anchor else {
            let reason = "is needed for `addresses`; name the PEM file of the CA that signed the cluster".to_owned();
            return Err(unusable("trust-anchor", cluster, Path::new("client.toml"), reason));
        };
        let anchors = read_certificates(cluster, "trust-anchor", file)?;
        Ok(Self { file: file.clone(), anchors, algorithms: provider.signature_verification_algorithms })
    }

    fn judge(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), CertificateFault> {
        let (rest, parsed) = X509Certificate::from_der(certificate).map_err(|_| CertificateFault::Unreadable)?;
        if !rest.is_empty() {
            return Err(CertificateFault::Unreadable);
        }
        let is_anchor = self.anchors.iter().any(|anchor| anchor.as_ref() == certificate.as_ref());
        if !is_anchor && !self.anchors.iter().any(|anchor| signed_by(&parsed, anchor)) {
            return Err(CertificateFault::NotTrusted {
                subject: parsed.subject().to_string(),
                issuer: parsed.issuer().to_string(),
                anchor: self.file.clone(),
            });
        }
        check_time(&parsed, now)?;
        check_key(parsed.public_key())?;
        check_extensions(&parsed, is_anchor)
    }
}

impl ServerCertVerifier for AnchorVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.judge(end_entity, now)
            .map(|()| ServerCertVerified::assertion())
            .map_err(|fault| CertificateError::Other(OtherError(Arc::new(fault))).into())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|_| rustls::Error::from(CertificateError::BadEncoding))?;
        let key = SubjectPublicKeyInfoDer::from(parsed.public_key().raw);
        verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn signed_by(certificate: &X509Certificate<'_>, anchor: &CertificateDer<'_>) -> bool {
    let Ok((_, anchor)) = X509Certificate::from_der(anchor) else {
        return false;
    };
    // An anchor of version 3 that says it is no CA is trusted for itself only (RFC 5280 §4.2.1.9).
    let may_sign = anchor.basic_constraints().is_ok_and(|found| found.is_none_or(|found| found.value.ca));
    if !may_sign || certificate.issuer().as_raw() != anchor.subject().as_raw() {
        return false;
    }
    let Some(algorithm) = verification_algorithm(&certificate.signature_algorithm.algorithm, anchor.public_key())
    else {
        return false;
    };
    certificate.signature_algorithm == certificate.tbs_certificate.signature
        && UnparsedPublicKey::new(algorithm, &anchor.public_key().subject_public_key.data)
            .verify(certificate.tbs_certificate.as_ref(), &certificate.signature_value.data)
            .is_ok()
}

/// Signature algorithms of certificates: RSA PKCS#1 v1.5 and ECDSA with SHA-2, Ed25519. No SHA-1.
fn verification_algorithm(
    algorithm: &Oid<'_>,
    key: &SubjectPublicKeyInfo<'_>,
) -> Option<&'static dyn VerificationAlgorithm> {
    let rsa: [(Oid<'_>, &'static dyn VerificationAlgorithm); 3] = [
        (OID_PKCS1_SHA256WITHRSA, &signature::RSA_PKCS1_2048_8192_SHA256),
        (OID_PKCS1_SHA384WITHRSA, &signature::RSA_PKCS1_2048_8192_SHA384),
        (OID_PKCS1_SHA512WITHRSA, &signature::RSA_PKCS1_2048_8192_SHA512),
    ];
    let ecdsa: [(Oid<'_>, Oid<'_>, &'static dyn VerificationAlgorithm); 9] = [
        (OID_EC_P256, OID_SIG_ECDSA_WITH_SHA256, &signature::ECDSA_P256_SHA256_ASN1),
        (OID_EC_P256, OID_SIG_ECDSA_WITH_SHA384, &signature::ECDSA_P256_SHA384_ASN1),
        (OID_EC_P256, OID_SIG_ECDSA_WITH_SHA512, &signature::ECDSA_P256_SHA512_ASN1),
        (OID_NIST_EC_P384, OID_SIG_ECDSA_WITH_SHA256, &signature::ECDSA_P384_SHA256_ASN1),
        (OID_NIST_EC_P384, OID_SIG_ECDSA_WITH_SHA384, &signature::ECDSA_P384_SHA384_ASN1),
        (OID_NIST_EC_P384, OID_SIG_ECDSA_WITH_SHA512, &signature::ECDSA_P384_SHA512_ASN1),
        (OID_NIST_EC_P521, OID_SIG_ECDSA_WITH_SHA256, &signature::ECDSA_P521_SHA256_ASN1),
        (OID_NIST_EC_P521, OID_SIG_ECDSA_WITH_SHA384, &signature::ECDSA_P521_SHA384_ASN1),
        (OID_NIST_EC_P521, OID_SIG_ECDSA_WITH_SHA512, &signature::ECDSA_P521_SHA512_ASN1),
    ];
    if key.algorithm.algorithm == OID_PKCS1_RSAENCRYPTION {
        return rsa.into_iter().find(|(oid, _)| oid == algorithm).map(|(_, found)| found);
    }
    if key.algorithm.algorithm == OID_SIG_ED25519 {
        return (*algorithm == OID_SIG_ED25519).then_some(&signature::ED25519);
    }
    let curve = curve_of(key)?;
    ecdsa.into_iter().find(|(of, oid, _)| *of == curve && oid == algorithm).map(|(_, _, found)| found)
}

fn curve_of<'a>(key: &SubjectPublicKeyInfo<'a>) -> Option<Oid<'a>> {
    if key.algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY {
        return None;
    }
    key.algorithm.parameters.as_ref()?.clone().oid().ok()
}

fn check_time(certificate: &X509Certificate<'_>, now: UnixTime) -> Result<(), CertificateFault> {
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let now = ASN1Time::from_timestamp(seconds).map_err(|_| CertificateFault::Unreadable)?;
    let validity = certificate.validity();
    if now < validity.not_before {
        return Err(CertificateFault::NotYetValid { from: validity.not_before.to_string() });
    }
    if now > validity.not_after {
        return Err(CertificateFault::Expired { until: validity.not_after.to_string() });
    }
    Ok(())
}

fn check_key(key: &SubjectPublicKeyInfo<'_>) -> Result<(), CertificateFault> {
    let unusable = |reason| Err(CertificateFault::Unusable { reason });
    if key.algorithm.algorithm == OID_SIG_ED25519 {
        return Ok(());
    }
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) if rsa.key_size() >= RSA_BITS => Ok(()),
        Ok(PublicKey::RSA(_)) => unusable("its RSA key has less than 2048 bits"),
        _ => match curve_of(key) {
            Some(curve) if [OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521].contains(&curve) => Ok(()),
            _ => unusable("its key is not RSA, P-256, P-384, P-521 or Ed25519"),
        },
    }
}

fn check_extensions(certificate: &X509Certificate<'_>, is_anchor: bool) -> Result<(), CertificateFault> {
    let unusable = |reason| Err(CertificateFault::Unusable { reason });
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(constraints) if constraints.ca && !is_anchor => {
                return unusable("it is the certificate of a CA and not of a cluster");
            }
            ParsedExtension::KeyUsage(usage) if !usage.digital_signature() && !is_anchor => {
                return unusable("its key usage lacks digitalSignature");
            }
            ParsedExtension::ExtendedKeyUsage(usage) if !usage.server_auth && !usage.any => {
                return unusable("its extended key usage lacks serverAuth");
            }
            ParsedExtension::UnsupportedExtension { .. } | ParsedExtension::ParseError { .. } if extension.critical => {
                return unusable("it has a critical extension that is not known here");
            }
            _ => {}
        }
    }
    Ok(())
}

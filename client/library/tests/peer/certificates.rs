//! Certificates for tests: a CA, what it signs, and an X.509 v1 certificate made by hand, as AWS's ceremony makes it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use hsm_protocol::frame::ALPN;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PublicKeyData,
};
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// A CA of one test.
pub(crate) struct Authority {
    pub(crate) issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key.
pub(crate) struct Leaf {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: KeyPair,
}

fn named(name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::new(Vec::new()).unwrap();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut parameters = named(name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        Self { issuer: CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap() }
    }

    pub(crate) fn write_anchor(&self, folder: &Path) -> PathBuf {
        let file = folder.join("customerCA.crt");
        std::fs::write(&file, self.issuer.pem()).unwrap();
        file
    }

    pub(crate) fn sign(&self, change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let mut parameters = named("cluster");
        change(&mut parameters);
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap().der().clone();
        Leaf { certificate, key }
    }

    /// X.509 v1: no version, no extensions (RFC 5280 §4.1.2.1), signed by ECDSA P-256 with SHA-256.
    pub(crate) fn sign_version_1(&self, not_after: &str) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let (_, issuer) = x509_parser::parse_x509_certificate(self.issuer.der()).unwrap();
        let algorithm = der(0x30, &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02]);
        let validity = der(0x30, &[der(0x17, b"200101000000Z"), der(0x17, not_after.as_bytes())].concat());
        let spki = key.subject_public_key_info();
        let name = issuer.subject().as_raw().to_vec();
        let parts = [der(0x02, &[1]), algorithm.clone(), name.clone(), validity, name, spki];
        let to_be_signed = der(0x30, &parts.concat());
        let signer =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &self.issuer.key().serialize_der()).unwrap();
        let signature = signer.sign(&SystemRandom::new(), &to_be_signed).unwrap();
        let bits = der(0x03, &[&[0], signature.as_ref()].concat());
        Leaf { certificate: der(0x30, &[to_be_signed, algorithm, bits].concat()).into(), key }
    }
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        length @ 0..=127 => out.push(u8::try_from(length).unwrap()),
        length => {
            out.push(0x82);
            out.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
        }
    }
    out.extend_from_slice(content);
    out
}

impl Leaf {
    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }

    pub(crate) fn write_pair(&self, folder: &Path) -> (PathBuf, PathBuf) {
        let (certificate, key) = (folder.join("client.crt"), folder.join("client.key"));
        std::fs::write(&certificate, pem("CERTIFICATE", &self.certificate)).unwrap();
        std::fs::write(&key, self.key.serialize_pem()).unwrap();
        (certificate, key)
    }
}

pub(crate) fn pem(label: &str, bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut base64 = String::new();
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for chunk in bytes.chunks(3) {
        let value = chunk.iter().fold(0u32, |value, &byte| value << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for position in 0..4 {
            if position <= chunk.len() {
                base64.push(char::from(ALPHABET[(value >> (18 - 6 * position) & 63) as usize]));
            } else {
                base64.push('=');
            }
        }
    }
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in base64.as_bytes().chunks(64) {
        writeln!(text, "{}", std::str::from_utf8(line).unwrap()).unwrap();
    }
    text + &format!("-----END {label}-----\n")
}

#[derive(Debug)]
struct Fixed(Arc<CertifiedKey>);

impl ResolvesServerCert for Fixed {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// How a peer's TLS departs from the rules.
#[derive(Default)]
pub(crate) struct TlsOptions<'a> {
    pub(crate) version_12: bool,
    pub(crate) without_alpn: bool,
    pub(crate) client_authority: Option<&'a Authority>,
}

pub(crate) fn server_configuration(leaf: &Leaf, options: &TlsOptions<'_>) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = if options.version_12 { [&rustls::version::TLS12] } else { [&rustls::version::TLS13] };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&versions).unwrap();
    let builder = match options.client_authority {
        Some(authority) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(authority.issuer.der().clone()).unwrap();
            builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap(),
            )
        }
        None => builder.with_no_client_auth(),
    };
    let key = provider.key_provider.load_private_key(leaf.private_key()).unwrap();
    let certified = CertifiedKey::new(vec![leaf.certificate.clone()], key);
    let mut configuration = builder.with_cert_resolver(Arc::new(Fixed(Arc::new(certified))));
    if !options.without_alpn {
        configuration.alpn_protocols = vec![ALPN.to_vec()];
    }
    Arc::new(configuration)
}

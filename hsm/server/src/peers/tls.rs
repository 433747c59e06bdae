//! TLS between HSMs: 1.3 only, a node certificate on both sides, each verified up to this installation's card key.
//!
//! Names in certificates are not compared with addresses: HSMs move. Which HSM it is, is read from the certificate after
//! the handshake, and compared with the roster. It must not know sockets.

use std::net::IpAddr;
use std::sync::Arc;

use hsm_core::HsmId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{CommonState, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::ALPN;
use crate::identity::Identity;

/// What the exporter of a channel is asked for when a newcomer proves itself on it (RFC 8446 §7.5).
const EXPORTER: &[u8] = b"EXPORTER-kagimori-join-1";

/// TLS between HSMs could not be set up from this HSM's identity.
#[derive(Debug, thiserror::Error)]
#[error("TLS between HSMs cannot be set up: {0}")]
pub(super) struct PeerTlsFault(String);

fn fault(error: impl std::fmt::Display) -> PeerTlsFault {
    PeerTlsFault(error.to_string())
}

/// The listening side.
pub(super) fn acceptor(identity: &Identity) -> Result<tokio_rustls::TlsAcceptor, PeerTlsFault> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Verifier::new(identity, &provider)?;
    let mut configuration = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(fault)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(chain(identity), key(identity))
        .map_err(fault)?;
    configuration.alpn_protocols = vec![ALPN.to_vec()];
    configuration.session_storage = Arc::new(NoServerSessionStorage {});
    configuration.send_tls13_tickets = 0;
    Ok(Arc::new(configuration).into())
}

/// The connecting side.
pub(super) fn connector(identity: &Identity) -> Result<tokio_rustls::TlsConnector, PeerTlsFault> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Verifier::new(identity, &provider)?;
    let mut configuration = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(fault)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(chain(identity), key(identity))
        .map_err(fault)?;
    configuration.alpn_protocols = vec![ALPN.to_vec()];
    configuration.resumption = Resumption::disabled();
    configuration.enable_sni = false;
    Ok(Arc::new(configuration).into())
}

/// What stands where a server's name would.
pub(super) fn server_name(address: IpAddr) -> ServerName<'static> {
    ServerName::IpAddress(address.into())
}

fn chain(identity: &Identity) -> Vec<CertificateDer<'static>> {
    vec![identity.certificate().to_vec().into()]
}

fn key(identity: &Identity) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(identity.key().to_vec()).into()
}

/// Who is at the other end, once its certificate was verified.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) hsm: HsmId,
    pub(super) certificate: Vec<u8>,
}

impl Caller {
    /// The other end of a connection whose handshake is over; `None` for a certificate that names no HSM.
    pub(super) fn of(state: &CommonState) -> Option<Self> {
        let certificate = state.peer_certificates()?.first()?;
        Some(Self { hsm: hsm_of(certificate)?, certificate: certificate.to_vec() })
    }

    /// The public key of its certificate: an uncompressed point.
    pub(super) fn public_point(&self) -> Option<Vec<u8>> {
        let (_, certificate) = X509Certificate::from_der(&self.certificate).ok()?;
        Some(certificate.public_key().subject_public_key.data.to_vec())
    }
}

/// The HSM that a certificate names in its common name.
fn hsm_of(certificate: &[u8]) -> Option<HsmId> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    let number = (name.len() == 32).then(|| u128::from_str_radix(name, 16).ok())?;
    number.map(|number| HsmId(number.to_be_bytes()))
}

/// What a newcomer signs: the channel and what it says of itself.
pub(super) fn join_statement(exported: &[u8; 32], newcomer: &[u8]) -> Vec<u8> {
    [b"kagimori join 1\0".as_slice(), exported, newcomer].concat()
}

/// The exporter of this channel.
pub(super) fn exporter<D>(connection: &rustls::ConnectionCommon<D>) -> Result<[u8; 32], rustls::Error> {
    connection.export_keying_material([0; 32], EXPORTER, None)
}

/// Verifies certificates of either side up to the card key.
#[derive(Debug)]
struct Verifier {
    roots: RootCertStore,
    algorithms: WebPkiSupportedAlgorithms,
    clients: Arc<dyn ClientCertVerifier>,
}

impl Verifier {
    fn new(identity: &Identity, provider: &Arc<CryptoProvider>) -> Result<Self, PeerTlsFault> {
        let mut roots = RootCertStore::empty();
        roots.add(identity.authority().to_vec().into()).map_err(fault)?;
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), Arc::clone(provider));
        let clients = clients.build().map_err(fault)?;
        Ok(Self { roots, algorithms: provider.signature_verification_algorithms, clients })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.clients.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.clients.verify_client_cert(end_entity, intermediates, now).inspect_err(|error| {
            // The certificate proves nothing here: the name is what it claims.
            let claims = hsm_of(end_entity).map_or_else(|| "no HSM's name".to_owned(), super::name);
            tracing::warn!(%claims, %error, "a stranger's certificate was refused at the peer port");
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.clients.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.clients.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.clients.supported_verify_schemes()
    }
}

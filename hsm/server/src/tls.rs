//! The TLS side of the client listener: TLS 1.3 only, the cluster's certificate, and the rule for client certificates.
//!
//! The cluster's certificate may be X.509 v1 without a host name, as AWS's documented command makes it; webpki refuses
//! such certificates, so the resolver here presents it unparsed (`customer_certificate` has checked it). It must not know
//! sockets. `process` makes a new configuration after every change; connections keep the one they began with.

use std::sync::Arc;

use hsm_protocol::frame::ALPN;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

/// TLS could not be set up from what the cluster has stored.
#[derive(Debug, thiserror::Error)]
pub enum TlsFault {
    /// The stored certificate is no PEM.
    #[error("the cluster's stored certificate cannot be read")]
    Certificate,
    /// The stored key is no key that TLS can use.
    #[error("the cluster's TLS key cannot be used: {0}")]
    Key(rustls::Error),
    /// A registered anchor cannot be used.
    #[error("a registered trust anchor cannot be used: {0}")]
    Anchor(String),
    /// The provider refused TLS 1.3.
    #[error("TLS 1.3 cannot be set up: {0}")]
    Version(rustls::Error),
}

/// The rule for client certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientCertificates {
    /// Whether a client must present one.
    pub required: bool,
    /// Anchors of which one must have signed it, PEM.
    pub anchors: Vec<String>,
}

/// The configuration for new connections. `key` is PKCS #8.
///
/// Nothing is resumed: a ticket could outlive a change of the rule for client certificates, and a whole handshake costs
/// 0.2 ms once per connection.
///
/// # Errors
/// [`TlsFault`].
pub fn server_configuration(
    certificate: &str,
    key: Zeroizing<Vec<u8>>,
    clients: &ClientCertificates,
) -> Result<Arc<rustls::ServerConfig>, TlsFault> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|_| TlsFault::Certificate)?];
    let pkcs8 = PrivatePkcs8KeyDer::from(key.as_slice());
    let signing = rustls::crypto::aws_lc_rs::sign::any_supported_type(&pkcs8.into()).map_err(TlsFault::Key)?;
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsFault::Version)?;
    let builder = if clients.required {
        let roots = Arc::new(roots(&clients.anchors)?);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
            .build()
            .map_err(|error| TlsFault::Anchor(error.to_string()))?;
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let presented = Presented(Arc::new(CertifiedKey::new(chain, signing)));
    let mut configuration = builder.with_cert_resolver(Arc::new(presented));
    configuration.alpn_protocols = vec![ALPN.to_vec()];
    configuration.session_storage = Arc::new(NoServerSessionStorage {});
    configuration.send_tls13_tickets = 0;
    Ok(Arc::new(configuration))
}

fn roots(anchors: &[String]) -> Result<RootCertStore, TlsFault> {
    let mut roots = RootCertStore::empty();
    for anchor in anchors {
        let certificate =
            CertificateDer::from_pem_slice(anchor.as_bytes()).map_err(|error| TlsFault::Anchor(error.to_string()))?;
        roots.add(certificate).map_err(|error| TlsFault::Anchor(error.to_string()))?;
    }
    Ok(roots)
}

/// Presents the one certificate there is, whatever name the client asked for.
struct Presented(Arc<CertifiedKey>);

impl std::fmt::Debug for Presented {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Presented")
    }
}

impl ResolvesServerCert for Presented {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

//! A peer of our own making: it speaks the protocol between HSMs as far as a test wants it to.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hsm_protocol::peer::{Opening, OpeningReply, Refused, opening, opening_reply};
use hsm_server::ceremony::{CeremonyKey, Installation, InstallationCertificates};
use prost::Message;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

/// Whom a connection begins as.
pub(crate) struct Stranger {
    key: CeremonyKey,
    certificate: Vec<u8>,
}

/// A connection whose handshake may still fail.
pub(crate) struct Connection {
    stream: StreamOwned<ClientConnection, TcpStream>,
}

impl Stranger {
    /// An HSM with this name, certified by the installation in this folder: its owner is root on the host.
    pub(crate) fn of(installation: &Path, hsm: &str) -> Self {
        let text = |name: &str| std::fs::read_to_string(installation.join(name)).expect("a certificate");
        let card_key = CeremonyKey::from_pkcs8(&std::fs::read(installation.join("card.key")).expect("card.key"));
        let certificates = InstallationCertificates {
            aws_root: text("aws-root.crt"),
            manufacturer_root: text("manufacturer-root.crt"),
            aws_hardware: text("aws-hardware.crt"),
            manufacturer_hardware: text("manufacturer-hardware.crt"),
        };
        Self::certified(&Installation { card_key: card_key.expect("a key"), certificates }, hsm)
    }

    /// An HSM of an installation of its own.
    pub(crate) fn of_another_installation(hsm: &str) -> Self {
        Self::certified(&Installation::make("elsewhere", now()).expect("an installation"), hsm)
    }

    fn certified(installation: &Installation, hsm: &str) -> Self {
        let key = CeremonyKey::generate().expect("a key");
        let certificate = installation.certify_node(&key, hsm, now()).expect("a certificate");
        Self { key, certificate }
    }

    pub(crate) fn sign(&self, statement: &[u8]) -> Vec<u8> {
        self.key.sign(statement).expect("a signature")
    }

    pub(crate) fn connect(&self, address: SocketAddr) -> Connection {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = Anybody(Arc::clone(&provider));
        let key = PrivatePkcs8KeyDer::from(self.key.pkcs8().to_vec());
        let mut configuration = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(vec![CertificateDer::from(self.certificate.clone())], key.into())
            .expect("a key");
        configuration.alpn_protocols = vec![b"hsm-peer/1".to_vec()];
        let connection = ClientConnection::new(Arc::new(configuration), ServerName::IpAddress(address.ip().into()));
        let socket = TcpStream::connect(address).expect("a connection");
        socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a time-out");
        let mut stream = StreamOwned::new(connection.expect("TLS"), socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).expect("a handshake");
        }
        Connection { stream }
    }
}

impl Connection {
    /// What a proof on this connection is bound to.
    pub(crate) fn exported(&self) -> [u8; 32] {
        self.stream.conn.export_keying_material([0; 32], b"EXPORTER-kagimori-join-1", None).expect("an exporter")
    }

    /// Sends octets as they are and reads the answer.
    pub(crate) fn say(&mut self, octets: &[u8]) -> std::io::Result<OpeningReply> {
        self.stream.write_all(octets)?;
        self.stream.flush()?;
        let mut prefix = [0; 4];
        self.stream.read_exact(&mut prefix)?;
        let mut reply = vec![0; u32::from_be_bytes(prefix) as usize];
        self.stream.read_exact(&mut reply)?;
        Ok(OpeningReply::decode(reply.as_slice()).expect("a reply"))
    }

    pub(crate) fn open(&mut self, opening: &Opening) -> std::io::Result<OpeningReply> {
        let body = opening.encode_to_vec();
        let length = u32::try_from(body.len()).expect("a length").to_be_bytes();
        self.say(&[&length[..], &body].concat())
    }

    /// The number of the refusal with which this is answered.
    pub(crate) fn refused(&mut self, opening: &Opening) -> Refused {
        refusal(self.open(opening).expect("an answer"))
    }
}

pub(crate) fn refusal(reply: OpeningReply) -> Refused {
    match reply.body {
        Some(opening_reply::Body::Refused(refused)) => refused,
        _ => panic!("not refused"),
    }
}

pub(crate) fn opening(purpose: opening::Purpose) -> Opening {
    // The test is a development build, as the HSM under test is.
    let release = hsm_server::release::ReleaseStatement::of_this_program().expect("a measurement");
    Opening {
        oldest_version: 1,
        newest_version: 1,
        release: "0.0.0".to_owned(),
        process: 1,
        newest_state: hsm_core::versions::NEWEST,
        measured: Some(release.to_wire()),
        purpose: Some(purpose),
    }
}

fn now() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock")
}

/// Trusts everybody: the test is about what the other side does.
#[derive(Debug)]
struct Anybody(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
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
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

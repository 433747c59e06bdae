//! The same over TLS: requests that come with the end of the handshake, and what a login is bound to.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use hsm_protocol::frame::{self, Header};
use hsm_protocol::session::{EXPORTER_LABEL, attach_statement};
use hsm_protocol::wire::{self, reply, request};
use hsm_protocol::{Role, convert};
use prost::Message;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig};

use super::client::{Hsm, USER_PASSWORD};
use crate::connection::serve_tls;
use crate::peer::{Peer, Source};

fn configurations() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["hsm".into()]).unwrap().self_signed(&key).unwrap();
    let private = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), Arc::new(client))
}

/// The server's end of a TCP connection, served by a thread, and the client's end.
fn accept(hsm: &Hsm, server: &Arc<ServerConfig>) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let (stream, address) = listener.accept().unwrap();
    let (service, server) = (Arc::clone(&hsm.service), Arc::clone(server));
    std::thread::spawn(move || serve_tls(&service, stream, server, Peer::unwatched(Source::Network(address))));
    client
}

fn request_frame(id: u64, session: u32, body: request::Body) -> Vec<u8> {
    let header = Header { method: convert::method(&body), request_id: id };
    let mut out = Vec::new();
    let message = wire::Request { session, body: Some(body), ..Default::default() };
    frame::append(&mut out, header, &message).unwrap();
    out
}

struct TlsClient {
    stream: rustls::StreamOwned<ClientConnection, TcpStream>,
}

impl TlsClient {
    fn read_reply(&mut self) -> (u64, reply::Body) {
        let mut buffer = vec![0; 4];
        self.stream.read_exact(&mut buffer).unwrap();
        let length = u32::from_be_bytes(buffer[..4].try_into().unwrap()) as usize;
        buffer.resize(4 + length, 0);
        self.stream.read_exact(&mut buffer[4..]).unwrap();
        let frame = frame::parse(&buffer).unwrap().unwrap();
        (frame.header.request_id, wire::Reply::decode(frame.body).unwrap().body.unwrap())
    }

    fn call(&mut self, session: u32, body: request::Body) -> reply::Body {
        self.stream.write_all(&request_frame(1, session, body)).unwrap();
        self.read_reply().1
    }

    fn binding(&self) -> [u8; 32] {
        self.stream.conn.export_keying_material([0; 32], EXPORTER_LABEL, None).unwrap()
    }
}

fn connect(hsm: &Hsm, server: &Arc<ServerConfig>, client: &Arc<ClientConfig>) -> TlsClient {
    let socket = accept(hsm, server);
    let connection = ClientConnection::new(Arc::clone(client), ServerName::try_from("hsm").unwrap()).unwrap();
    TlsClient { stream: rustls::StreamOwned::new(connection, socket) }
}

#[test]
fn requests_that_come_with_the_end_of_the_handshake_are_answered() {
    let hsm = Hsm::active();
    let (server, client) = configurations();
    let mut socket = accept(&hsm, &server);
    let mut connection = ClientConnection::new(client, ServerName::try_from("hsm").unwrap()).unwrap();
    // The client's Finished and all of its requests leave in one write.
    for id in 0..8 {
        let body = request::Body::Random(wire::Random { length: 100_000 });
        connection.writer().write_all(&request_frame(id, 0, body)).unwrap();
    }
    while connection.is_handshaking() {
        let mut out = Vec::new();
        while connection.wants_write() {
            connection.write_tls(&mut out).unwrap();
        }
        socket.write_all(&out).unwrap();
        if connection.wants_read() {
            connection.read_tls(&mut socket).unwrap();
            connection.process_new_packets().unwrap();
        }
    }
    let mut client = TlsClient { stream: rustls::StreamOwned::new(connection, socket) };
    for id in 0..8 {
        assert_eq!(client.read_reply().0, id);
    }
}

#[test]
fn a_login_is_bound_to_the_tls_channel() {
    let hsm = Hsm::active();
    let login = hsm.connect().open_login("app", Role::CryptoUser, USER_PASSWORD).unwrap();
    let (server, client) = configurations();
    let mut first = connect(&hsm, &server, &client);
    let hello = request::Body::Hello(wire::Hello::default());
    let reply::Body::Hello(hello) = first.call(0, hello) else { panic!("no hello") };
    assert!(hello.nonce.is_empty());
    let proof = login.key.sign(&attach_statement(&first.binding(), &login.token)).as_ref().to_vec();
    let attach = request::Body::Attach(wire::Attach { token: login.token.clone(), proof, ..Default::default() });
    assert!(matches!(first.call(0, attach.clone()), reply::Body::Attach(_)));
    let mut second = connect(&hsm, &server, &client);
    assert!(matches!(second.call(0, attach), reply::Body::Failure(_)), "a proof for another channel");
}

#[test]
fn a_policy_change_closes_the_connections_that_it_names() {
    let hsm = Hsm::active();
    let (server, client) = configurations();
    let mut over_tls = connect(&hsm, &server, &client);
    let random = || request::Body::Random(wire::Random { length: 8 });
    over_tls.call(0, random());
    let mut local = hsm.connect();
    hsm.service.close_all(|facts| matches!(facts.source, Source::Network(_)) && facts.client_certificate.is_none());
    assert!(local.call(random()).is_ok());
    let sent = over_tls.stream.write_all(&request_frame(1, 0, random()));
    assert!(sent.is_err() || over_tls.stream.read(&mut [0; 1]).map_or(true, |count| count == 0));
}

#[test]
fn bytes_that_are_no_tls_are_refused_with_an_alert_and_a_close() {
    let hsm = Hsm::active();
    let (server, _) = configurations();
    let mut socket = accept(&hsm, &server);
    socket.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let read = socket.read_to_end(&mut answer);
    assert!(read.is_err() || answer.first() == Some(&21), "a TLS alert, then the end: {answer:?}");
}

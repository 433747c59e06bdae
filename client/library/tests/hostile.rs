//! A peer that is no HSM, or not ours: every fault has its typed error, promptly, and none is a panic or a hang.
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

mod peer;

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use hsm_client::{CallError, CertificateFault, Cluster, ClusterConfiguration, PeerFault};
use hsm_protocol::frame::{self, FrameError, Header};
use hsm_protocol::limits::FRAME_LIMIT;
use hsm_protocol::wire::{self, reply, request};
use peer::certificates::{Authority, Leaf, TlsOptions, server_configuration};
use peer::{Answer, Peer, World, echo, echoed};
use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};

/// The error of an echo that is answered as `script` says.
fn error_when(answer: fn(&request::Body) -> Option<Answer>) -> CallError {
    let folder = tempfile::tempdir().unwrap();
    let world = World::scripted(move |_, request| match &request.body {
        Some(body @ request::Body::Operate(_)) => answer(body),
        _ => None,
    });
    let peer = Peer::on_socket(&folder.path().join("s"), &world);
    let mut configuration = peer.configuration();
    configuration.call_timeout = Duration::from_millis(700);
    let begin = Instant::now();
    let error = Cluster::new(configuration).call(None, &|_| echo(b"x")).err().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(3));
    error
}

fn peer_fault(answer: fn(&request::Body) -> Option<Answer>) -> PeerFault {
    match error_when(answer) {
        CallError::Peer { fault, .. } => fault,
        other => panic!("{other}"),
    }
}

#[test]
fn what_is_no_frame_ends_the_connection_with_the_reason() {
    let giant = peer_fault(|_| Some(Answer::Bytes((FRAME_LIMIT + 1).to_be_bytes().to_vec())));
    assert_eq!(giant, PeerFault::Frame(FrameError::TooLong { length: FRAME_LIMIT + 1 }));
    let http = peer_fault(|_| Some(Answer::Bytes(b"HTTP/1.1 400 Bad Request\r\n".to_vec())));
    assert!(matches!(http, PeerFault::Frame(FrameError::TooLong { .. })));
    let version = peer_fault(|_| Some(Answer::Bytes([0, 0, 0, 20, 9, 0].to_vec())));
    assert_eq!(version, PeerFault::Frame(FrameError::Version { version: 9 }));
    let short = peer_fault(|_| Some(Answer::Bytes(vec![0; 64])));
    assert_eq!(short, PeerFault::Frame(FrameError::TooShort { length: 0 }));
}

#[test]
fn an_answer_under_another_id_ends_the_connection() {
    let fault = peer_fault(|_| Some(Answer::WrongId(reply::Body::Done(wire::Done::default()))));
    assert_eq!(fault, PeerFault::RequestId);
}

#[test]
fn an_answer_that_holds_no_message_ends_the_connection() {
    // A frame for the second request on the connection (Hello was the first), of bytes that are no protobuf.
    let fault = peer_fault(|_| {
        let mut bytes = Vec::new();
        let header = Header { method: 0, request_id: 2 << 16 };
        let empty = wire::Reply::default();
        frame::append(&mut bytes, header, &empty).unwrap();
        bytes.extend_from_slice(&[0xff, 0xff, 0xff]);
        bytes[3] += 3;
        Some(Answer::Bytes(bytes))
    });
    assert_eq!(fault, PeerFault::Answer);
}

#[test]
fn an_unknown_code_is_told_by_its_number() {
    let fault =
        peer_fault(|_| Some(Answer::Now(reply::Body::Failure(wire::Failure { code: 4711, ..Default::default() }))));
    assert_eq!(fault, PeerFault::Code(4711));
}

#[test]
fn half_a_frame_and_then_silence_ends_at_the_deadline() {
    let error = error_when(|_| Some(Answer::Bytes(vec![0, 0, 0, 40, 1, 0, 0])));
    assert!(matches!(error, CallError::TimedOut { .. }), "{error}");
}

#[test]
fn a_peer_that_always_hangs_up_is_reported_within_the_deadline() {
    let error = error_when(|_| Some(Answer::Cut(None)));
    assert!(matches!(error, CallError::OutcomeUnknown { .. } | CallError::Unreachable { .. }), "{error}");
}

#[test]
fn one_that_says_nothing_at_all_is_unreachable() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let mut configuration = ClusterConfiguration::new("mute");
    configuration.unix_socket = Some(path);
    configuration.call_timeout = Duration::from_millis(500);
    configuration.connect_timeout = Duration::from_millis(200);
    let begin = Instant::now();
    let error = Cluster::new(configuration).call(None, &|_| echo(b"x")).err().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(2));
    let CallError::Unreachable { attempts, .. } = &error else { panic!("{error}") };
    assert!(attempts.iter().any(|attempt| attempt.reason.contains("no answer in time")), "{error}");
    drop(listener);
}

#[test]
fn one_whose_queue_of_connections_is_full_costs_the_deadline_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let (full, is_full) = std::sync::mpsc::channel();
    let crowd_path = path.clone();
    std::thread::spawn(move || {
        // The last one waits in connect until the listener goes.
        let mut crowd = Vec::new();
        while let Ok(socket) = std::os::unix::net::UnixStream::connect(&crowd_path) {
            crowd.push(socket);
            full.send(()).unwrap();
        }
    });
    while is_full.recv_timeout(Duration::from_millis(300)).is_ok() {}
    let mut configuration = ClusterConfiguration::new("full");
    configuration.unix_socket = Some(path);
    configuration.call_timeout = Duration::from_millis(500);
    configuration.connect_timeout = Duration::from_millis(200);
    let begin = Instant::now();
    let error = Cluster::new(configuration).call(None, &|_| echo(b"x")).err().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert!(matches!(error, CallError::Unreachable { .. }), "{error}");
    drop(listener);
}

#[test]
fn random_bytes_never_panic_and_never_hang() {
    for seed in 0..60u64 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let noise = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut request = [0; 256];
            assert!(socket.read(&mut request).unwrap() > 0);
            let mut state = seed * 2 + 1;
            let bytes: Vec<u8> = (0..200)
                .map(|position: usize| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    // A plausible beginning now and then, so that the noise gets further in.
                    match (seed % 3, position) {
                        (1, 0..=2) => 0,
                        (1, 3) => 60,
                        (1 | 2, 4) => 1,
                        (1 | 2, 5) => 0,
                        _ => (state >> 56) as u8,
                    }
                })
                .collect();
            drop(socket.write_all(&bytes));
        });
        let mut configuration = ClusterConfiguration::new("noise");
        configuration.unix_socket = Some(path);
        configuration.call_timeout = Duration::from_millis(100);
        assert!(Cluster::new(configuration).call(None, &|_| echo(b"x")).is_err());
        noise.join().unwrap();
    }
}

// ---- certificates ----

struct Setting {
    folder: tempfile::TempDir,
    authority: Authority,
}

impl Setting {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), authority: Authority::new("customer") }
    }

    fn call(&self, leaf: &Leaf, options: &TlsOptions<'_>, client: Option<&Leaf>) -> Result<Vec<u8>, CallError> {
        let world = World::new();
        let peer = Peer::on_port("127.0.0.1:0", &world, server_configuration(leaf, options));
        let mut configuration = peer.configuration();
        configuration.call_timeout = Duration::from_secs(3);
        configuration.trust_anchor = Some(self.authority.write_anchor(self.folder.path()));
        if let Some(client) = client {
            let (certificate, key) = client.write_pair(self.folder.path());
            configuration.client_certificate = Some(certificate);
            configuration.client_key = Some(key);
        }
        Cluster::new(configuration).call(None, &|_| echo(b"x")).map(echoed)
    }

    fn fault(&self, leaf: &Leaf) -> CertificateFault {
        self.fault_with(leaf, &TlsOptions::default(), None)
    }

    fn fault_with(&self, leaf: &Leaf, options: &TlsOptions<'_>, client: Option<&Leaf>) -> CertificateFault {
        let begin = Instant::now();
        match self.call(leaf, options, client) {
            Err(CallError::Certificate { fault, .. }) => {
                assert!(begin.elapsed() < Duration::from_secs(2), "a fault that lasts must not be tried again");
                fault
            }
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("the certificate was accepted"),
        }
    }
}

#[test]
fn a_certificate_signed_by_the_anchor_is_accepted_whatever_its_name() {
    let setting = Setting::new();
    assert_eq!(setting.call(&setting.authority.sign(|_| {}), &TlsOptions::default(), None).unwrap(), b"x");
}

#[test]
fn an_x509_version_1_certificate_without_a_name_is_accepted() {
    let setting = Setting::new();
    let leaf = setting.authority.sign_version_1("491231235959Z");
    assert_eq!(setting.call(&leaf, &TlsOptions::default(), None).unwrap(), b"x");
}

#[test]
fn an_expired_certificate_is_refused_in_both_versions() {
    let setting = Setting::new();
    let leaf = setting.authority.sign(|parameters| {
        parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    assert!(matches!(setting.fault(&leaf), CertificateFault::Expired { .. }));
    let version_1 = setting.authority.sign_version_1("210101000000Z");
    assert!(matches!(setting.fault(&version_1), CertificateFault::Expired { .. }));
}

#[test]
fn a_certificate_of_the_future_is_refused() {
    let setting = Setting::new();
    let leaf = setting.authority.sign(|parameters| parameters.not_before = rcgen::date_time_ymd(2999, 1, 1));
    assert!(matches!(setting.fault(&leaf), CertificateFault::NotYetValid { .. }));
}

#[test]
fn a_certificate_of_another_authority_is_refused_even_under_the_same_name() {
    let setting = Setting::new();
    let other = Authority::new("customer");
    assert!(matches!(setting.fault(&other.sign(|_| {})), CertificateFault::NotTrusted { .. }));
    assert!(matches!(setting.fault(&other.sign_version_1("491231235959Z")), CertificateFault::NotTrusted { .. }));
}

#[test]
fn an_anchor_that_is_replaced_while_the_application_runs_counts_from_the_next_connection_on() {
    let setting = Setting::new();
    let later = Authority::new("later");
    let world = World::new();
    let leaf = later.sign(|_| {});
    let peer = Peer::on_port("127.0.0.1:0", &world, server_configuration(&leaf, &TlsOptions::default()));
    let mut configuration = peer.configuration();
    configuration.call_timeout = Duration::from_secs(3);
    let file = setting.authority.write_anchor(setting.folder.path());
    configuration.trust_anchor = Some(file.clone());
    let cluster = Cluster::new(configuration);
    let call = || cluster.call(None, &|_| echo(b"x")).map(echoed);
    assert!(matches!(call(), Err(CallError::Certificate { fault: CertificateFault::NotTrusted { .. }, .. })));
    // A file that cannot be used, half written perhaps, leaves the anchor of before.
    std::fs::write(&file, "-----BEGIN CERTIFICATE-----").unwrap();
    assert!(matches!(call(), Err(CallError::Certificate { fault: CertificateFault::NotTrusted { .. }, .. })));
    later.write_anchor(setting.folder.path());
    assert_eq!(call().unwrap(), b"x");
}

#[test]
fn the_certificate_of_a_sub_authority_is_refused() {
    let setting = Setting::new();
    let leaf = setting.authority.sign(|parameters| parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert!(matches!(setting.fault(&leaf), CertificateFault::Unusable { .. }));
}

#[test]
fn a_certificate_for_another_use_is_refused() {
    let setting = Setting::new();
    let usage = setting.authority.sign(|parameters| parameters.key_usages = vec![KeyUsagePurpose::KeyAgreement]);
    assert!(matches!(setting.fault(&usage), CertificateFault::Unusable { .. }));
    let extended = setting.authority.sign(|parameters| {
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    });
    assert!(matches!(setting.fault(&extended), CertificateFault::Unusable { .. }));
}

#[test]
fn the_anchor_itself_may_be_the_certificate() {
    let setting = Setting::new();
    let key = rcgen::KeyPair::from_pem(&setting.authority.issuer.key().serialize_pem()).unwrap();
    let leaf = Leaf { certificate: setting.authority.issuer.der().clone(), key };
    assert_eq!(setting.call(&leaf, &TlsOptions::default(), None).unwrap(), b"x");
}

#[test]
fn a_stolen_certificate_without_its_key_is_refused() {
    let setting = Setting::new();
    let genuine = setting.authority.sign(|_| {});
    let thief = Leaf { certificate: genuine.certificate, key: rcgen::KeyPair::generate().unwrap() };
    assert!(setting.call(&thief, &TlsOptions::default(), None).is_err());
}

#[test]
fn tls_12_and_a_missing_alpn_are_refused() {
    let setting = Setting::new();
    let leaf = setting.authority.sign(|_| {});
    let old = TlsOptions { version_12: true, ..Default::default() };
    assert!(matches!(setting.fault_with(&leaf, &old, None), CertificateFault::Handshake { .. }));
    let without = TlsOptions { without_alpn: true, ..Default::default() };
    match setting.call(&leaf, &without, None) {
        Err(CallError::Peer { fault: PeerFault::Alpn, .. }) => {}
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("accepted"),
    }
}

#[test]
fn a_port_that_speaks_no_tls_is_said_to_be_no_hsm() {
    let setting = Setting::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut configuration = ClusterConfiguration::new("http");
    configuration.addresses = vec![listener.local_addr().unwrap().to_string()];
    configuration.trust_anchor = Some(setting.authority.write_anchor(setting.folder.path()));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // The first flight is read, so that the answer is not lost in a reset.
            let _read = std::io::Read::read(&mut stream, &mut [0; 4096]).unwrap();
            std::io::Write::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        }
    });
    let error = Cluster::new(configuration).hello().err().unwrap();
    assert!(matches!(error, CallError::Peer { fault: PeerFault::NotTls, .. }), "{error}");
    assert!(error.to_string().contains("is this the port of an HSM?"));
}

#[test]
fn a_required_client_certificate_is_named_when_missing_or_refused_and_used_when_right() {
    let setting = Setting::new();
    let leaf = setting.authority.sign(|_| {});
    let clients = Authority::new("clients");
    let options = TlsOptions { client_authority: Some(&clients), ..Default::default() };
    assert_eq!(setting.fault_with(&leaf, &options, None), CertificateFault::ClientCertificateMissing);
    let stranger = Authority::new("strangers").sign(|_| {});
    assert!(matches!(
        setting.fault_with(&leaf, &options, Some(&stranger)),
        CertificateFault::ClientCertificateRefused { .. }
    ));
    let client = clients.sign(|parameters| {
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    assert_eq!(setting.call(&leaf, &options, Some(&client)).unwrap(), b"x");
}

#[test]
fn files_that_cannot_be_used_are_named_with_their_key() {
    let setting = Setting::new();
    let folder = setting.folder.path();
    let (certificate, key) = setting.authority.sign(|_| {}).write_pair(folder);
    let anchor = setting.authority.write_anchor(folder);
    let check = |change: &dyn Fn(&mut ClusterConfiguration)| {
        let mut configuration = ClusterConfiguration::new("files");
        configuration.addresses = vec!["127.0.0.1:1".to_owned()];
        configuration.trust_anchor = Some(anchor.clone());
        configuration.client_certificate = Some(certificate.clone());
        configuration.client_key = Some(key.clone());
        change(&mut configuration);
        Cluster::new(configuration).check_files().map_err(|error| error.to_string())
    };
    check(&|_| {}).unwrap();
    let missing = check(&|configuration| configuration.trust_anchor = Some(folder.join("none.crt"))).unwrap_err();
    assert!(missing.contains("none.crt") && missing.contains("readable"), "{missing}");
    let wrong = check(&|configuration| configuration.trust_anchor = Some(key.clone())).unwrap_err();
    assert!(wrong.contains("trust-anchor"), "{wrong}");
    let no_key = check(&|configuration| configuration.client_key = Some(anchor.clone())).unwrap_err();
    assert!(no_key.contains("client-key"), "{no_key}");
    let other = folder.join("other");
    std::fs::create_dir(&other).unwrap();
    let (_, other_key) = setting.authority.sign(|_| {}).write_pair(&other);
    let mismatch = check(&|configuration| configuration.client_key = Some(other_key.clone())).unwrap_err();
    assert!(mismatch.contains("not the key of the certificate"), "{mismatch}");
}

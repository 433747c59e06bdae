//! An HSM in a folder that vanishes, and a blocking client on a socket pair.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use hsm_core::command::{CeremonyCertificates, Form, Origin};
use hsm_core::{Action, ClusterId, Epoch, HsmId, Incarnation, MemberKind, MemberRecord, NodeId};
use hsm_crypto::{ClusterKeys, KeyRing, MasterKey, Module, password};
use hsm_protocol::frame::{self, Header};
use hsm_protocol::session::attach_statement;
use hsm_protocol::wire::{self, reply, request};
use hsm_protocol::{
    AttributeKind, ErrorCode, KeyType, Lifecycle, Mechanism, MechanismKind, Operation, Role, Template, convert,
};
use hsm_replication::{Node, Settings};
use prost::Message;

use crate::connection::serve_unix;
use crate::dispatch::{Desk, Effects, Service, ServiceParts};
use crate::metrics::Metrics;
use crate::peer::{Peer, PeerCredentials, Source};

pub(crate) const ACTIVATION_PASSWORD: &[u8] = b"activation-password";
pub(crate) const ADMIN_PASSWORD: &[u8] = b"admin-password";
pub(crate) const USER_PASSWORD: &[u8] = b"crypto-user-password";

/// One HSM with its cluster, its service, and no doors.
pub(crate) struct Hsm {
    pub(crate) service: Arc<Service>,
    pub(crate) node: Arc<Node>,
    /// The cluster master key of epoch 1.
    pub(crate) master: MasterKey,
    _folder: tempfile::TempDir,
}

impl Hsm {
    /// A cluster that was formed and has a certificate, but no admin yet.
    pub(crate) fn initialized() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let module = Module::start().unwrap();
        let master = MasterKey::generate(&module, Epoch(1)).unwrap();
        let cluster = ClusterId(module.random_bytes().unwrap());
        let keys = Arc::new(KeyRing::new(ClusterKeys::new(&master, cluster).unwrap(), None));
        let form = Form {
            cluster,
            incarnation: Incarnation(module.random_bytes().unwrap()),
            fips: false,
            label: "test".into(),
            epoch: Epoch(1),
            lifecycle: Lifecycle::Uninitialized,
            activation: password::make(&module, ACTIVATION_PASSWORD, false).unwrap(),
            sealed_activation_password: vec![1],
            sealed_cluster_key: vec![1],
            releases: hsm_core::ReleaseRule::default(),
            certificates: CeremonyCertificates::default(),
            node: NodeId(1),
            member: MemberRecord::alone(HsmId([1; 16]), MemberKind::Hsm),
        };
        let effects = Effects::new(|_| ());
        let mut settings = Settings::at(folder.path().join("store.redb"));
        settings.effects = Arc::<Effects>::clone(&effects);
        let storage = master.storage_key(&module).unwrap();
        let node = Arc::new(Node::form(settings, storage, form).unwrap());
        let pem = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
        let install = Action::InstallCertificate { certificate: pem.into(), trust_anchor: pem.into() };
        let nobody = Origin { session: None, sequence: 0, lowest_unanswered: 0 };
        let installed = node.propose_and_wait(nobody, install, Duration::from_secs(10));
        installed.into_result().map(|_| ()).unwrap();
        let parts = ServiceParts {
            desk: Desk::new(None),
            node: Arc::clone(&node),
            module,
            keys,
            metrics: Arc::new(Metrics::new()),
            effects,
            hsm: [7; 16],
            address: "127.0.0.1:2223".into(),
        };
        Self { service: Service::new(parts).unwrap(), node, master, _folder: folder }
    }

    /// A cluster in service: `admin`, and the crypto users `app` and `other`.
    pub(crate) fn active() -> Self {
        let hsm = Self::initialized();
        let mut client = hsm.connect();
        client.done(request::Body::Activate(wire::Activate {
            activation_password: ACTIVATION_PASSWORD.to_vec(),
            password: ADMIN_PASSWORD.to_vec(),
        }));
        client.log_in("admin", Role::Admin, ADMIN_PASSWORD);
        for name in ["app", "other"] {
            client.change_done(request::Body::CreateUser(wire::CreateUser {
                name: name.into(),
                role: Role::CryptoUser as u32,
                password: USER_PASSWORD.to_vec(),
            }));
        }
        client.change_done(request::Body::Logout(wire::Logout {}));
        hsm
    }

    /// A new connection.
    pub(crate) fn connect(&self) -> Client {
        let (client, server) = UnixStream::pair().unwrap();
        client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let service = Arc::clone(&self.service);
        let peer = Peer::unwatched(Source::Local(PeerCredentials { process: 1, user: 1, group: 1 }));
        std::thread::spawn(move || serve_unix(&service, server, peer));
        let mut client =
            Client { stream: client, session: 0, sequence: 0, next_request: 1, index: 0, roster: 0, nonce: [0; 32] };
        let reply::Body::Hello(hello) = client.call(request::Body::Hello(wire::Hello::default())).unwrap() else {
            panic!("no hello")
        };
        client.nonce = hello.nonce.try_into().unwrap();
        client
    }

    /// A new connection with a login as a crypto user.
    pub(crate) fn connect_as(&self, name: &str) -> Client {
        let mut client = self.connect();
        client.log_in(name, Role::CryptoUser, USER_PASSWORD);
        client
    }
}

/// What a library keeps of a login.
pub(crate) struct Login {
    pub(crate) key: Ed25519KeyPair,
    pub(crate) token: Vec<u8>,
}

impl Login {
    pub(crate) fn proof(&self, binding: &[u8; 32]) -> Vec<u8> {
        self.key.sign(&attach_statement(binding, &self.token)).as_ref().to_vec()
    }
}

/// A failure as a client sees it.
pub(crate) type Refused = ErrorCode;

/// A blocking client.
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    pub(crate) session: u32,
    pub(crate) sequence: u64,
    next_request: u64,
    pub(crate) index: u64,
    /// Version of the roster that the last reply told.
    pub(crate) roster: u32,
    pub(crate) nonce: [u8; 32],
}

impl Client {
    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends a request and gives its id.
    pub(crate) fn send_request(&mut self, body: request::Body, sequence: u64) -> u64 {
        let header = Header { method: convert::method(&body), request_id: self.next_request };
        self.next_request += 1;
        let message = wire::Request {
            session: self.session,
            min_index: self.index,
            sequence,
            lowest_unanswered: sequence,
            trace: 0,
            body: Some(body),
        };
        let mut out = Vec::new();
        frame::append(&mut out, header, &message).unwrap();
        self.send(&out);
        header.request_id
    }

    /// Reads the next reply of any request.
    pub(crate) fn read_reply(&mut self) -> (u64, Result<reply::Body, Refused>) {
        let mut buffer = vec![0; 4];
        self.stream.read_exact(&mut buffer).unwrap();
        let length = u32::from_be_bytes(buffer[..4].try_into().unwrap()) as usize;
        buffer.resize(4 + length, 0);
        self.stream.read_exact(&mut buffer[4..]).unwrap();
        let frame = frame::parse(&buffer).unwrap().unwrap();
        let reply = wire::Reply::decode(frame.body).unwrap();
        self.index = self.index.max(reply.index);
        self.roster = reply.roster;
        let result = match reply.body.unwrap() {
            reply::Body::Failure(failure) => Err(ErrorCode::from_number(failure.code).unwrap()),
            body => Ok(body),
        };
        (frame.header.request_id, result)
    }

    fn exchange(&mut self, body: request::Body, sequence: u64) -> Result<reply::Body, Refused> {
        let id = self.send_request(body, sequence);
        let (answered, result) = self.read_reply();
        assert_eq!(answered, id);
        result
    }

    /// A call that changes nothing.
    pub(crate) fn call(&mut self, body: request::Body) -> Result<reply::Body, Refused> {
        self.exchange(body, 0)
    }

    /// A call that changes something, under a new number.
    pub(crate) fn change(&mut self, body: request::Body) -> Result<reply::Body, Refused> {
        self.sequence += 1;
        self.exchange(body, self.sequence)
    }

    /// The last change again, as a library does that did not get the answer.
    pub(crate) fn change_again(&mut self, body: request::Body) -> Result<reply::Body, Refused> {
        self.exchange(body, self.sequence)
    }

    pub(crate) fn done(&mut self, body: request::Body) {
        assert!(matches!(self.call(body).unwrap(), reply::Body::Done(_)));
    }

    pub(crate) fn change_done(&mut self, body: request::Body) {
        assert!(matches!(self.change(body).unwrap(), reply::Body::Done(_)));
    }

    /// Opens a login without binding it.
    pub(crate) fn open_login(&mut self, name: &str, role: Role, password: &[u8]) -> Result<Login, Refused> {
        static SEEDS: AtomicU64 = AtomicU64::new(1);
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&SEEDS.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        let key = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
        let body = self.call(request::Body::Login(wire::Login {
            isolated: false,
            user: name.into(),
            role: role as u32,
            password: password.to_vec(),
            session_public_key: key.public_key().as_ref().to_vec(),
        }))?;
        let reply::Body::Login(reply) = body else { panic!("no login reply") };
        Ok(Login { key, token: reply.token })
    }

    /// Binds a login with this proof.
    pub(crate) fn attach(&mut self, token: &[u8], proof: &[u8]) -> Result<u32, Refused> {
        let body = self.call(request::Body::Attach(wire::Attach {
            token: token.to_vec(),
            proof: proof.to_vec(),
            ..Default::default()
        }))?;
        let reply::Body::Attach(reply) = body else { panic!("no attach reply") };
        Ok(reply.session)
    }

    /// Logs in, binds, and acts as that user from now on.
    pub(crate) fn log_in(&mut self, name: &str, role: Role, password: &[u8]) -> Login {
        let login = self.open_login(name, role, password).unwrap();
        self.session = self.attach(&login.token, &login.proof(&self.nonce.clone())).unwrap();
        self.sequence = 0;
        login
    }

    /// Makes a P-256 pair: references of the public and of the private key.
    pub(crate) fn make_pair(&mut self, token: bool) -> (wire::ObjectReference, wire::ObjectReference) {
        let body = self.change(pair_request(token)).unwrap();
        let mut items = created(body).into_iter();
        (items.next().unwrap(), items.next().unwrap())
    }

    /// Makes an AES key.
    pub(crate) fn make_aes(&mut self, token: bool) -> wire::ObjectReference {
        let body = self.change(aes_request(token)).unwrap();
        created(body).remove(0)
    }

    pub(crate) fn sign(&mut self, key: &wire::ObjectReference, data: &[u8]) -> Result<Vec<u8>, Refused> {
        octets(self.call(operate(Operation::Sign, key, MechanismKind::ECDSA_SHA256, data)))
    }
}

pub(crate) fn octets(body: Result<reply::Body, Refused>) -> Result<Vec<u8>, Refused> {
    let reply::Body::Bytes(reply) = body? else { panic!("no octets") };
    Ok(reply.data)
}

pub(crate) fn created(body: reply::Body) -> Vec<wire::ObjectReference> {
    let reply::Body::Objects(reply) = body else { panic!("no objects") };
    reply.items.into_iter().map(|item| item.reference.unwrap()).collect()
}

/// A reference without the sealed object.
pub(crate) fn bare(reference: &wire::ObjectReference) -> wire::ObjectReference {
    wire::ObjectReference { sealed: Vec::new(), ..reference.clone() }
}

pub(crate) fn operate(
    operation: Operation,
    key: &wire::ObjectReference,
    mechanism: MechanismKind,
    data: &[u8],
) -> request::Body {
    request::Body::Operate(wire::Operate {
        operation: operation as u32,
        key: Some(key.clone()),
        mechanism: Some(convert::mechanism_message(&Mechanism::plain(mechanism))),
        data: data.to_vec(),
        ..Default::default()
    })
}

/// DER of the object identifier of P-256.
const P256: &[u8] = &[0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07];

pub(crate) fn pair_request(token: bool) -> request::Body {
    pair_request_with(token, Template::new())
}

pub(crate) fn pair_request_with(token: bool, more: Template) -> request::Body {
    let public = Template::new()
        .with_flag(AttributeKind::Token, token)
        .with_flag(AttributeKind::Verify, true)
        .with_octets(AttributeKind::EcParams, P256);
    let mut private = Template::new().with_flag(AttributeKind::Token, token).with_flag(AttributeKind::Sign, true);
    for (kind, value) in more.iter() {
        private.insert(kind, value.clone());
    }
    request::Body::GenerateKeyPair(wire::GenerateKeyPair {
        mechanism: Some(convert::mechanism_message(&Mechanism::plain(MechanismKind::EC_KEY_PAIR_GEN))),
        public_template: Some(convert::template_message(&public)),
        private_template: Some(convert::template_message(&private)),
    })
}

pub(crate) fn aes_request(token: bool) -> request::Body {
    let template = Template::new()
        .with_flag(AttributeKind::Token, token)
        .with_flag(AttributeKind::Encrypt, true)
        .with_flag(AttributeKind::Decrypt, true)
        .with_flag(AttributeKind::Derive, true)
        .with_number(AttributeKind::KeyType, KeyType::Aes as u64)
        .with_number(AttributeKind::ValueLen, 32);
    request::Body::GenerateKey(wire::GenerateKey {
        mechanism: Some(convert::mechanism_message(&Mechanism::plain(MechanismKind::AES_KEY_GEN))),
        template: Some(convert::template_message(&template)),
    })
}

//! Several HSMs as one cluster, for the tests of it: how they are started and joined, and what a client does with them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hsm_client::{Cluster as Client, ClusterConfiguration, Login};
use hsm_protocol::wire::{self, ObjectReference, reply, request};
use hsm_protocol::{AttributeKind, Mechanism, MechanismKind, Operation, Role, Template, convert};

use crate::peers::free_address;
use crate::support::{Running, folder};

pub(crate) const ADMIN: &[u8] = b"admin password";
pub(crate) const USER: &[u8] = b"user password";

/// DER of the object identifier of P-256.
const P256: &[u8] = &[0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07];

/// Port for clients, at the HSM's own loopback address.
pub(crate) const CLIENT_PORT: u16 = 2223;

/// Longest wait for what a cluster does by itself.
const PATIENCE: Duration = Duration::from_secs(40);

/// HSMs of one installation, each with a peer address.
pub(crate) struct Cluster {
    installation: tempfile::TempDir,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) hsms: Vec<Running>,
}

impl Cluster {
    /// Starts so many HSMs, none of which belongs to a cluster.
    pub(crate) fn blank(count: usize) -> Self {
        let addresses: Vec<_> = (0..count.max(3) + 2).map(|_| free_address()).collect();
        let mut cluster = Self { installation: folder(), addresses, hsms: Vec::new() };
        (0..count).for_each(|_| cluster.start(&[]));
        cluster
    }

    /// A cluster of so many HSMs in zones of their own, initialised.
    pub(crate) fn of(count: usize) -> Self {
        let cluster = Self::blank(count);
        cluster.unite();
        cluster
    }

    /// Makes one initialised cluster of the HSMs that run.
    pub(crate) fn unite(&self) {
        let count = self.hsms.len();
        self.hsms[0].initialise();
        (1..count).for_each(|at| self.join(at));
        // An even number of voters would only add to what must not fail.
        let voters = [1, 1, 1, 3, 3].get(count).copied().unwrap_or(5);
        eventually("that members vote", || self.voters(0) == voters);
    }

    /// Starts one more HSM.
    pub(crate) fn start(&mut self, extra: &[&str]) {
        self.start_program(std::path::Path::new(crate::support::PROGRAM), extra);
    }

    /// Starts one more HSM of this copy of the program.
    pub(crate) fn start_program(&mut self, program: &std::path::Path, extra: &[&str]) {
        self.start_in(folder(), program, extra);
    }

    /// Starts one more HSM, of this copy of the program and in this folder.
    pub(crate) fn start_in(&mut self, outer: tempfile::TempDir, program: &std::path::Path, extra: &[&str]) {
        let at = self.hsms.len();
        let ports: Vec<_> = self.addresses.iter().map(|address| address.port().to_string()).collect();
        let (address, zone) = (self.addresses[at].to_string(), format!("zone-{at}"));
        let (installation, ports) = (self.installation.path().join("shared").display().to_string(), ports.join(","));
        let mut words = vec!["--installation", &installation, "--peer-listen", &address, "--peer-ports", &ports];
        let socket = self.socket(at).display().to_string();
        // Clients find it at the same place after a restart.
        let listen = SocketAddr::from((self.addresses[at].ip(), CLIENT_PORT)).to_string();
        words.extend(["--zone", &zone, "--unix-socket", &socket]);
        if !extra.contains(&"--listen") {
            words.extend(["--listen", &listen]);
        }
        words.extend(extra);
        self.hsms.push(Running::start_program(program, outer, &words));
    }

    pub(crate) fn join(&self, at: usize) {
        let joined = self.hsms[at].managed(&["join", "--member", &self.addresses[0].to_string()]);
        assert_eq!(joined["joining"], "", "{joined}");
    }

    /// A client that knows this HSM, and learns of the others from it.
    pub(crate) fn client(&self, at: usize) -> Client {
        self.client_of(&[at])
    }

    /// A client that knows all of these HSMs.
    pub(crate) fn client_of(&self, hsms: &[usize]) -> Client {
        Client::new(self.configuration(hsms))
    }

    /// What such a client is configured with.
    pub(crate) fn configuration(&self, hsms: &[usize]) -> ClusterConfiguration {
        let mut configuration = ClusterConfiguration::new("test");
        for &at in hsms {
            eventually("a client's address", || self.hsms[at].status()["client_address"] != "");
            configuration.addresses.push(self.hsms[at].status()["client_address"].as_str().unwrap().to_owned());
        }
        configuration.trust_anchor = Some(self.hsms[0].path("customerCA.crt"));
        configuration.call_timeout = Duration::from_secs(20);
        configuration
    }

    /// A client that is configured with these HSMs' addresses, whether they run or not.
    pub(crate) fn client_of_addresses(&self, hsms: &[usize], call_timeout: Duration) -> Client {
        let mut configuration = ClusterConfiguration::new("test");
        let addresses = hsms.iter().map(|&at| SocketAddr::from((self.addresses[at].ip(), CLIENT_PORT)).to_string());
        configuration.addresses = addresses.collect();
        configuration.trust_anchor = Some(self.hsms[0].path("customerCA.crt"));
        configuration.call_timeout = call_timeout;
        Client::new(configuration)
    }

    /// A client that can reach this HSM and no other one, and gives a call up after that time.
    pub(crate) fn bound_client(&self, at: usize, call_timeout: Duration) -> Client {
        let mut configuration = ClusterConfiguration::new("bound");
        configuration.unix_socket = Some(self.socket(at));
        configuration.call_timeout = call_timeout;
        Client::new(configuration)
    }

    /// Where this HSM serves clients of its host.
    fn socket(&self, at: usize) -> std::path::PathBuf {
        self.installation.path().join(format!("clients-{at}"))
    }

    /// Two HSMs that vote together with a witness, which is the third of them.
    pub(crate) fn of_two_and_a_witness() -> Self {
        let mut cluster = Self::of(2);
        cluster.start(&["--witness"]);
        cluster.join(2);
        eventually("that all three vote", || cluster.voters(0) == 3);
        cluster
    }

    /// Kills all of them before any of them can notice.
    pub(crate) fn lose_power(&mut self) {
        self.hsms.iter().for_each(|hsm| hsm.signal(rustix::process::Signal::KILL));
        self.hsms.iter_mut().for_each(|hsm| {
            hsm.wait();
        });
    }

    /// Starts all of them again, as their hosts would.
    pub(crate) fn power_up(&mut self) {
        self.hsms.iter_mut().for_each(Running::spawn);
        self.hsms.iter_mut().for_each(Running::wait_until_it_answers);
    }

    /// Which of them leads, as this one sees it.
    pub(crate) fn leader(&self, at: usize) -> Option<usize> {
        let status = self.hsms[at].status();
        let leader = status["members"].as_array().unwrap().iter().find(|member| member["leads"] == true).cloned()?;
        self.addresses.iter().position(|address| leader["peer_address"] == address.to_string())
    }

    /// Waits until each of these holds a lease and all have the same log and state.
    pub(crate) fn are_equal(&self, hsms: &[usize]) {
        let clients: Vec<_> = hsms.iter().map(|&at| self.bound_client(at, Duration::from_secs(20))).collect();
        let login = log_in(&clients[0]);
        eventually("that all are equal", || {
            // One that is behind does not know the login.
            let seen: Vec<_> = clients.iter().filter_map(|client| client.list_members(&login).ok()).collect();
            seen.len() == clients.len()
                && seen.iter().all(|one| one.serving() == wire::ServingState::Leased)
                && seen
                    .iter()
                    .all(|one| (one.applied_index, &one.chain_hash) == (seen[0].applied_index, &seen[0].chain_hash))
        });
        clients[0].log_out(login).unwrap();
    }

    /// Activates and makes a crypto user, through this HSM.
    pub(crate) fn activate(&self, at: usize) {
        let activation = self.hsms[at].status()["activation_password"].as_str().unwrap().to_owned();
        let client = self.client(at);
        client.activate(activation.as_bytes(), ADMIN).unwrap();
        let login = client.log_in("admin", Role::Admin, ADMIN).unwrap();
        client.create_user(&login, "app", Role::CryptoUser, USER).unwrap();
    }

    /// Names of the members as this HSM sees them.
    pub(crate) fn voters(&self, at: usize) -> usize {
        let status = self.hsms[at].status();
        status["members"].as_array().unwrap().iter().filter(|member| member["votes"] == true).count()
    }

    pub(crate) fn members(&self, at: usize) -> BTreeSet<String> {
        let status = self.hsms[at].status();
        status["members"].as_array().unwrap().iter().map(|member| member["hsm"].to_string()).collect()
    }
}

/// What the HSMs logged, when a test fails.
impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.hsms.iter().enumerate().for_each(|(at, hsm)| eprintln!("--- log of HSM {at}\n{}", hsm.log()));
        }
    }
}

pub(crate) fn eventually(what: &str, so: impl FnMut() -> bool) {
    within(PATIENCE, what, so);
}

pub(crate) fn within(patience: Duration, what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !so() {
        assert!(Instant::now() < deadline, "{what} did not happen in {patience:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub(crate) fn log_in(client: &Client) -> Login {
    let mut login = client.log_in("app", Role::CryptoUser, USER);
    let deadline = Instant::now() + PATIENCE;
    while login.is_err() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
        login = client.log_in("app", Role::CryptoUser, USER);
    }
    login.unwrap()
}

/// A P-256 pair on the token: public half, private half.
pub(crate) fn make_pair(client: &Client, login: &Login) -> (ObjectReference, ObjectReference) {
    make_pair_that_lives(client, login, true)
}

/// A P-256 pair on the token, or of the login's session.
pub(crate) fn make_pair_that_lives(
    client: &Client,
    login: &Login,
    on_token: bool,
) -> (ObjectReference, ObjectReference) {
    let named = || Template::new().with_flag(AttributeKind::Token, on_token);
    let public = named().with_flag(AttributeKind::Verify, true).with_octets(AttributeKind::EcParams, P256);
    let private = named().with_flag(AttributeKind::Sign, true);
    let made = client.change(Some(login), &|_| {
        request::Body::GenerateKeyPair(wire::GenerateKeyPair {
            mechanism: Some(convert::mechanism_message(&Mechanism::plain(MechanismKind::EC_KEY_PAIR_GEN))),
            public_template: Some(convert::template_message(&public)),
            private_template: Some(convert::template_message(&private)),
        })
    });
    let reply::Body::Objects(objects) = made.unwrap() else { panic!("no objects") };
    let mut references = objects.items.into_iter().map(|item| item.reference.unwrap());
    (references.next().unwrap(), references.next().unwrap())
}

pub(crate) fn sign(client: &Client, login: &Login, key: &ObjectReference) -> Result<Vec<u8>, hsm_client::CallError> {
    let operate = |_| {
        request::Body::Operate(wire::Operate {
            operation: Operation::Sign as u32,
            key: Some(key.clone()),
            mechanism: Some(convert::mechanism_message(&Mechanism::plain(MechanismKind::ECDSA_SHA256))),
            data: b"message".to_vec(),
            ..wire::Operate::default()
        })
    };
    client.call(Some(login), &operate).map(|body| match body {
        reply::Body::Bytes(reply) => reply.data,
        _ => panic!("no octets"),
    })
}

/// Signs as soon as the HSM has the key.
pub(crate) fn sign_in_the_end(client: &Client, login: &Login, key: &ObjectReference) {
    eventually("a signature", || sign(client, login, key).is_ok());
}

pub(crate) fn copy(from: &std::path::Path, to: &std::path::Path) {
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

/// Destroys a key; the HSMs that may not know of it yet, with the time until which they may use it.
pub(crate) fn destroy(client: &Client, login: &Login, key: &ObjectReference) -> Vec<wire::Unreached> {
    let body = |_| request::Body::DestroyObject(wire::DestroyObject { object: Some(key.clone()) });
    match client.change(Some(login), &body).unwrap() {
        reply::Body::Done(done) => done.unreached,
        _ => panic!("another answer"),
    }
}

/// An AES key on the token, or why there is none.
pub(crate) fn try_make_secret_key(
    client: &Client,
    login: &Login,
) -> Result<Vec<ObjectReference>, hsm_client::CallError> {
    let template = Template::new().with_flag(AttributeKind::Token, true).with_number(AttributeKind::ValueLen, 32);
    let body = |_| {
        request::Body::GenerateKey(wire::GenerateKey {
            mechanism: Some(convert::mechanism_message(&Mechanism::plain(MechanismKind::AES_KEY_GEN))),
            template: Some(convert::template_message(&template)),
        })
    };
    match client.change(Some(login), &body)? {
        reply::Body::Objects(made) => Ok(made.items.into_iter().filter_map(|item| item.reference).collect()),
        _ => panic!("no objects"),
    }
}

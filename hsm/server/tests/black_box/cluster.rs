//! Several HSMs that are one cluster: joining, using, losing, removing, coming back.

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
        // One of two does not vote: it would only add to what must not fail.
        let voters = if count < 3 { 1 } else { count };
        eventually("that members vote", || self.voters(0) == voters);
    }

    /// Starts one more HSM.
    pub(crate) fn start(&mut self, extra: &[&str]) {
        self.start_program(std::path::Path::new(crate::support::PROGRAM), extra);
    }

    /// Starts one more HSM of this copy of the program.
    pub(crate) fn start_program(&mut self, program: &std::path::Path, extra: &[&str]) {
        let at = self.hsms.len();
        let ports: Vec<_> = self.addresses.iter().map(|address| address.port().to_string()).collect();
        let (address, zone) = (self.addresses[at].to_string(), format!("zone-{at}"));
        let (installation, ports) = (self.installation.path().join("shared").display().to_string(), ports.join(","));
        let mut words = vec!["--installation", &installation, "--peer-listen", &address, "--peer-ports", &ports];
        words.extend(["--zone", &zone]);
        words.extend(extra);
        self.hsms.push(Running::start_program(program, folder(), &words));
    }

    pub(crate) fn join(&self, at: usize) {
        let joined = self.hsms[at].managed(&["join", "--member", &self.addresses[0].to_string()]);
        assert_eq!(joined["joining"], "", "{joined}");
    }

    /// A client that knows this HSM only.
    pub(crate) fn client(&self, at: usize) -> Client {
        Client::new(self.configuration(at))
    }

    pub(crate) fn configuration(&self, at: usize) -> ClusterConfiguration {
        let mut configuration = ClusterConfiguration::new("test");
        eventually("a client's address", || self.hsms[at].status()["client_address"] != "");
        configuration.addresses = vec![self.hsms[at].status()["client_address"].as_str().unwrap().to_owned()];
        configuration.trust_anchor = Some(self.hsms[0].path("customerCA.crt"));
        configuration.call_timeout = Duration::from_secs(20);
        configuration
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

pub(crate) fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "{what} did not happen in {PATIENCE:?}");
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
    let named = || Template::new().with_flag(AttributeKind::Token, true);
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

#[test]
fn three_hsms_are_one_cluster_and_a_key_made_through_one_signs_on_another() {
    let cluster = Cluster::of(3);
    cluster.activate(0);
    for at in 0..3 {
        eventually("a roster of three", || cluster.members(at).len() == 3);
        let status = cluster.hsms[at].status();
        assert_eq!(status["cluster"], cluster.hsms[0].status()["cluster"]);
        assert_eq!(status["sandbox"], "full");
        let here = status["members"].as_array().unwrap().iter().find(|member| member["here"] == true).unwrap().clone();
        assert_eq!(here["zone"], format!("zone-{at}"));
        assert_eq!(here["peer_address"], cluster.addresses[at].to_string());
    }
    // Made through one that joined, used through the two others: by the same person in sessions of his own.
    let (second, login) = (cluster.client(1), log_in(&cluster.client(1)));
    let (_, private) = make_pair(&second, &login);
    for at in [0, 2] {
        let client = cluster.client(at);
        sign_in_the_end(&client, &log_in(&client), &private);
    }
}

#[test]
fn a_cluster_outlives_the_kill_of_any_hsm_and_takes_it_back() {
    let mut cluster = Cluster::of(3);
    cluster.activate(0);
    let (first, login) = (cluster.client(0), log_in(&cluster.client(0)));
    let (_, key) = make_pair(&first, &login);
    drop((first, login));
    for killed in 0..3 {
        cluster.hsms[killed].kill();
        let survivor = cluster.client((killed + 1) % 3);
        let login = log_in(&survivor);
        sign_in_the_end(&survivor, &login, &key);
        let (_, another) = make_pair(&survivor, &login);
        cluster.hsms[killed].restart();
        let returned = cluster.client(killed);
        sign_in_the_end(&returned, &log_in(&returned), &another);
    }
}

#[test]
fn an_hsm_of_another_installation_is_refused_and_told_why() {
    let cluster = Cluster::of(1);
    let (address, port) = (free_address().to_string(), cluster.addresses[0].port().to_string());
    let stranger = Running::start(&["--peer-listen", &address, "--peer-ports", &port]);
    let said = stranger.refused(&["join", "--member", &cluster.addresses[0].to_string()]);
    assert!(said.contains("another installation") && said.contains("--installation"), "{said}");
    // The newcomer refuses the member as much as the member would refuse it, so the member never sees its name.
    eventually("the member's word", || cluster.hsms[0].log().contains("UnknownCA"));
    assert_eq!(cluster.members(0).len(), 1);
}

#[test]
fn a_join_that_cannot_be_says_what_to_do() {
    let mut cluster = Cluster::blank(2);
    let first = cluster.addresses[0].to_string();
    assert!(cluster.hsms[1].refused(&["join", "--member", &first]).contains("belongs to no cluster yet"));
    assert!(cluster.hsms[1].refused(&["join", "--member", "127.0.0.1:9"]).contains("--peer-ports"));
    let nobody = cluster.addresses[3].to_string();
    assert!(cluster.hsms[1].refused(&["join", "--member", &nobody]).contains("cannot be reached"));
    cluster.hsms[0].initialise();
    assert!(cluster.hsms[0].refused(&["join", "--member", &first]).contains("belongs to a cluster already"));
    // One that is down first, and it works all the same; a second time there is nothing to join.
    cluster.hsms[1].managed(&["join", "--member", &nobody, "--member", &first]);
    assert!(cluster.hsms[1].refused(&["join", "--member", &first]).contains("belongs to a cluster already"));
    let alone = Running::start(&[]);
    assert!(alone.refused(&["join", "--member", &first]).contains("--peer-listen"));
    cluster.hsms[1].kill();
}

#[test]
fn an_hsm_that_leaves_destroys_what_it_had_and_is_a_stranger_afterwards() {
    let mut cluster = Cluster::of(3);
    let name = cluster.hsms[2].status()["hsm"].as_str().unwrap().to_owned();
    cluster.hsms[2].managed(&["leave"]);
    assert_eq!(cluster.hsms[2].wait().code(), Some(15));
    for file in ["master.seal", "root.key", "identity.seal", "store.redb", "hsm.id"] {
        assert!(!cluster.hsms[2].path(&format!("data/{file}")).exists(), "{file} is still there");
    }
    eventually("a roster of two", || cluster.members(0).len() == 2 && cluster.members(1).len() == 2);
    cluster.hsms[2].restart();
    let status = cluster.hsms[2].status();
    assert_eq!(status["lifecycle"], "none");
    assert_ne!(status["hsm"], name);
    cluster.join(2);
    eventually("a roster of three", || cluster.members(0).len() == 3);
}

#[test]
fn the_last_hsm_cannot_leave() {
    let cluster = Cluster::of(1);
    assert!(cluster.hsms[0].refused(&["leave"]).contains("last HSM"));
    assert_eq!(cluster.hsms[0].status()["lifecycle"], "initialized");
}

#[test]
fn an_hsm_that_was_removed_while_it_was_away_learns_it_and_destroys_its_keys() {
    removed_while_away(|hsm| assert!(hsm.terminate().success()));
}

#[test]
fn an_hsm_that_was_removed_before_its_state_was_on_its_disk_learns_it_too() {
    removed_while_away(Running::kill);
}

fn removed_while_away(end: impl FnOnce(&mut Running)) {
    let mut cluster = Cluster::of(3);
    // Its folder is kept as it was, as a thief or a backup would keep it.
    end(&mut cluster.hsms[2]);
    let (data, kept) = (cluster.hsms[2].path("data"), cluster.hsms[2].path("kept"));
    copy(&data, &kept);
    cluster.hsms[2].restart();
    eventually("the return", || cluster.hsms[2].status()["lifecycle"] == "initialized");
    // It has just started, and may not have heard from the leader yet.
    eventually("leaving", || cluster.hsms[2].manage(&["leave"]).status.success());
    cluster.hsms[2].wait();
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&kept, &data).unwrap();
    cluster.hsms[2].spawn();
    assert_eq!(cluster.hsms[2].wait().code(), Some(15), "{}", cluster.hsms[2].log());
    assert!(!cluster.hsms[2].path("data/master.seal").exists());
    let name = cluster.hsms[2].log();
    assert!(name.contains("no member of the cluster any more"), "{name}");
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

#[test]
fn an_hsm_whose_disk_was_wiped_returns_under_its_name_without_approval() {
    let mut cluster = Cluster::of(3);
    cluster.activate(0);
    let name = cluster.hsms[2].status()["hsm"].clone();
    let node = |cluster: &Cluster| {
        let status = cluster.hsms[0].status();
        let members = status["members"].as_array().unwrap().clone();
        members.into_iter().find(|member| member["hsm"] == name).unwrap()["node"].clone()
    };
    let before = node(&cluster);
    cluster.hsms[2].kill();
    for file in ["store.redb", "store.mark", "master.seal"] {
        std::fs::remove_file(cluster.hsms[2].path(&format!("data/{file}"))).unwrap();
    }
    cluster.hsms[2].restart();
    cluster.join(2);
    assert_eq!(cluster.members(0).len(), 3);
    assert_ne!(node(&cluster), before, "a node id is never used twice");
    let (first, login) = (cluster.client(0), log_in(&cluster.client(0)));
    let (_, key) = make_pair(&first, &login);
    let returned = cluster.client(2);
    sign_in_the_end(&returned, &log_in(&returned), &key);
}

#[test]
fn an_hsm_whose_disk_was_rolled_back_never_votes_and_returns_by_itself_as_a_new_node() {
    let mut cluster = Cluster::of(3);
    cluster.activate(0);
    eventually("activation everywhere", || cluster.hsms[2].status()["lifecycle"] == "active");
    let name = cluster.hsms[2].status()["hsm"].clone();
    let node = |cluster: &Cluster| {
        let status = cluster.hsms[0].status();
        let members = status["members"].as_array().unwrap().clone();
        members.into_iter().find(|member| member["hsm"] == name).unwrap()["node"].clone()
    };
    let before = node(&cluster);
    cluster.hsms[2].kill();
    let (data, kept) = (cluster.hsms[2].path("data"), cluster.hsms[2].path("kept"));
    copy(&data, &kept);
    cluster.hsms[2].restart();
    let (client, login) = (cluster.client(0), log_in(&cluster.client(0)));
    let (_, key) = make_pair(&client, &login);
    let third = cluster.client(2);
    sign_in_the_end(&third, &log_in(&third), &key);
    // The others write down once a second what they hear of it.
    std::thread::sleep(Duration::from_secs(4));
    cluster.hsms[2].kill();
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&kept, &data).unwrap();
    cluster.hsms[2].restart();
    eventually("a new node", || node(&cluster) != before);
    eventually("the return", || cluster.hsms[2].status()["lifecycle"] == "active");
    assert_eq!(cluster.members(0).len(), 3);
    let third = cluster.client(2);
    sign_in_the_end(&third, &log_in(&third), &key);
}

#[test]
fn a_member_of_several_does_not_start_without_its_peers() {
    let mut cluster = Cluster::of(2);
    cluster.hsms[1].kill();
    let mut alone = crate::support::serve_command(cluster.hsms[1].folder.path(), &[]).spawn().unwrap();
    assert_eq!(crate::support::wait(&mut alone).code(), Some(3), "{}", cluster.hsms[1].log());
    cluster.hsms[1].restart();
}

#[test]
fn a_join_that_was_interrupted_goes_on_by_itself_after_a_restart() {
    let mut cluster = Cluster::of(2);
    cluster.start(&[]);
    // As after a crash between the admission and the state: the addresses are known, and nothing else counts.
    cluster.hsms[2].kill();
    std::fs::write(cluster.hsms[2].path("data/joining"), format!("{}\n", cluster.addresses[0])).unwrap();
    std::fs::write(cluster.hsms[2].path("data/master.seal.joining"), b"half").unwrap();
    std::fs::write(cluster.hsms[2].path("data/store.redb"), b"half").unwrap();
    cluster.hsms[2].restart();
    eventually("the join", || cluster.hsms[2].status()["lifecycle"] == "initialized");
    eventually("a roster of three", || cluster.members(0).len() == 3);
    assert!(!cluster.hsms[2].path("data/joining").exists());
}

#[test]
fn a_witness_joins_without_keys_and_serves_nobody_and_hands_over_nothing() {
    let mut cluster = Cluster::of(2);
    cluster.start(&["--witness"]);
    assert!(cluster.hsms[2].refused(&["form", "--label", "x"]).contains("witness"));
    cluster.join(2);
    let status = cluster.hsms[2].status();
    assert_eq!((&status["witness"], &status["client_address"]), (&true.into(), &"".into()));
    assert_eq!(status["activation_password"], "");
    cluster.start(&[]);
    let said = cluster.hsms[3].refused(&["join", "--member", &cluster.addresses[2].to_string()]);
    assert!(said.contains("a witness and holds no keys"), "{said}");
    // The witness survives a restart as one.
    cluster.hsms[2].restart();
    assert_eq!(cluster.hsms[2].status()["witness"], true);
    eventually("the lifecycle", || cluster.hsms[2].status()["lifecycle"] == "initialized");
}

#[test]
fn a_member_that_moved_is_found_where_it_is_now() {
    let mut cluster = Cluster::of(3);
    cluster.activate(0);
    let moved = cluster.addresses[3].to_string();
    cluster.hsms[1].replace_argument("--peer-listen", &moved);
    cluster.hsms[1].replace_argument("--zone", "elsewhere");
    cluster.hsms[1].restart();
    eventually("the new address", || {
        let status = cluster.hsms[0].status();
        let members = status["members"].as_array().unwrap().clone();
        members.iter().any(|member| member["peer_address"] == moved && member["zone"] == "elsewhere")
    });
    let (first, login) = (cluster.client(0), log_in(&cluster.client(0)));
    let (_, key) = make_pair(&first, &login);
    let client = cluster.client(1);
    sign_in_the_end(&client, &log_in(&client), &key);
}

#[test]
fn two_processes_with_one_identity_do_not_both_take_part() {
    let mut cluster = Cluster::of(3);
    cluster.hsms[2].kill();
    let twin = folder();
    copy(&cluster.hsms[2].path("data"), &twin.path().join("data"));
    cluster.hsms[2].restart();
    eventually("the return", || cluster.members(2).len() == 3);
    std::thread::sleep(Duration::from_secs(3));
    let words = cluster.hsms[2].words_with("--peer-listen", &cluster.addresses[4].to_string());
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let second = Running::start_in(twin, &words);
    eventually("the refusal", || cluster.hsms[0].log().contains("another process with the same identity"));
    assert_eq!(cluster.members(0).len(), 3);
    drop(second);
}

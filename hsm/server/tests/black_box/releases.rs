//! Signed releases: a cluster takes the programs that its rule names, and refuses the others by name.

use std::path::{Path, PathBuf};
use std::process::Command;

use hsm_protocol::peer::opening::Purpose;
use hsm_protocol::peer::{Join, Newcomer};
use hsm_protocol::{Role, wire};
use prost::Message;

use crate::several::{ADMIN, Cluster, eventually};
use crate::stranger::{Stranger, opening};
use crate::support::{PROGRAM, Running, folder, serve_program, wait};

/// Numbers of the refusals (peers/fault.rs).
const UNSIGNED: u32 = 14;
const ALTERED: u32 = 15;
const UNTRUSTED: u32 = 16;

/// A folder with a copy of the program and a key of its builder.
struct Builder {
    folder: tempfile::TempDir,
}

impl Builder {
    fn new() -> Self {
        let builder = Self { folder: folder() };
        std::fs::copy(PROGRAM, builder.program()).unwrap();
        builder.openssl(&["genpkey", "-algorithm", "ed25519", "-out", "key.pem"]);
        builder
    }

    fn program(&self) -> PathBuf {
        self.folder.path().join("kagimori-hsm")
    }

    fn openssl(&self, words: &[&str]) {
        let done = Command::new("openssl").args(words).current_dir(self.folder.path()).output().unwrap();
        assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.folder.path().join(name)).unwrap()
    }

    /// As `cargo xtask release` does it, by OpenSSL. Gives the public key.
    fn sign(&self, version: &str) -> Vec<u8> {
        self.openssl(&["dgst", "-sha384", "-binary", "-out", "sha384", "kagimori-hsm"]);
        let statement = [b"kagimori release 1\0", version.as_bytes(), b"\0", &self.read("sha384")].concat();
        std::fs::write(self.folder.path().join("statement"), statement).unwrap();
        let signing = ["pkeyutl", "-sign", "-rawin", "-inkey", "key.pem", "-in", "statement", "-out", "signature"];
        self.openssl(&signing);
        self.openssl(&["pkey", "-in", "key.pem", "-pubout", "-outform", "DER", "-out", "public"]);
        let key = self.read("public")[12..].to_vec();
        let (sha384, signature) = (digits(&self.read("sha384")), digits(&self.read("signature")));
        let words = format!(
            "kagimori release 1\nversion {version}\nsha384 {sha384}\nkey {}\nsignature {signature}\n",
            digits(&key)
        );
        std::fs::write(self.folder.path().join("kagimori-hsm.release"), words).unwrap();
        key
    }
}

fn digits(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// Starts a program that must not run, and gives what it says.
fn does_not_start(program: &Path) -> String {
    let home = folder();
    let mut child = serve_program(program, home.path(), &[]).spawn().unwrap();
    assert!(!wait(&mut child).success());
    std::fs::read_to_string(home.path().join("log")).unwrap()
}

fn trust(cluster: &Cluster, keys: &[Vec<u8>], minimum: &str) {
    let client = cluster.client(0);
    let admin = client.log_in("admin", Role::Admin, ADMIN).unwrap();
    let rule = wire::ReleaseRule { keys: keys.to_vec(), minimum: minimum.to_owned() };
    client.set_release_rule(&admin, rule).unwrap();
}

#[test]
fn a_development_build_says_so_and_so_does_its_cluster() {
    let running = Running::start(&[]);
    running.initialise();
    assert!(running.log().contains("DEVELOPMENT BUILD"), "{}", running.log());
    let cluster = Cluster::of(1);
    assert!(cluster.client(0).cluster_info().unwrap().trusts_development);
}

#[test]
fn a_program_that_was_altered_after_it_was_signed_does_not_start() {
    let builder = Builder::new();
    builder.sign(env!("CARGO_PKG_VERSION"));
    let mut program = std::fs::OpenOptions::new().append(true).open(builder.program()).unwrap();
    std::io::Write::write_all(&mut program, b"one more").unwrap();
    drop(program);
    let said = does_not_start(&builder.program());
    assert!(said.contains("altered after it was signed"), "{said}");
    builder.sign("99.0.0");
    let said = does_not_start(&builder.program());
    assert!(said.contains("another version"), "{said}");
    std::fs::write(builder.folder.path().join("kagimori-hsm.release"), "anything").unwrap();
    assert!(does_not_start(&builder.program()).contains("no release file"));
}

#[test]
fn a_cluster_takes_releases_of_whom_it_trusts_and_refuses_the_others_by_name() {
    let (builder, version) = (Builder::new(), env!("CARGO_PKG_VERSION"));
    let key = builder.sign(version);
    let mut cluster = Cluster::of(1);
    cluster.activate(0);
    let first = cluster.addresses[0].to_string();
    // It trusts the development key, and so not the builder's.
    cluster.start_program(&builder.program(), &[]);
    assert!(cluster.hsms[1].log().contains("this is a signed release"), "{}", cluster.hsms[1].log());
    let said = cluster.hsms[1].refused(&["join", "--member", &first]);
    assert!(said.contains("a key that this cluster does not trust"), "{said}");
    let development = hsm_server::release::ReleaseStatement::of_this_program().unwrap().key.to_vec();
    trust(&cluster, &[development, key.clone()], version);
    cluster.join(1);
    // From now on only the builder counts: the development build is refused, also as the member that it was.
    trust(&cluster, std::slice::from_ref(&key), version);
    assert!(!cluster.client(0).cluster_info().unwrap().trusts_development);
    cluster.start(&[]);
    let said = cluster.hsms[2].refused(&["join", "--member", &first]);
    assert!(said.contains("a key that this cluster does not trust"), "{said}");
    let name = cluster.hsms[2].status()["hsm"].as_str().unwrap().to_owned();
    assert!(cluster.hsms[0].log().lines().any(|line| line.contains("was refused") && line.contains(&name)));
    // An older release than the cluster takes.
    trust(&cluster, &[key], "99.0.0");
    cluster.start_program(&builder.program(), &[]);
    let said = cluster.hsms[3].refused(&["join", "--member", &first]);
    assert!(said.contains("older than 99.0.0"), "{said}");
    assert_eq!(cluster.members(0).len(), 2);
}

#[test]
fn a_member_whose_program_is_not_taken_any_more_is_refused_when_it_comes_back() {
    let (builder, version) = (Builder::new(), env!("CARGO_PKG_VERSION"));
    let key = builder.sign(version);
    let mut cluster = Cluster::blank(0);
    (0..2).for_each(|_| cluster.start_program(&builder.program(), &[]));
    cluster.unite();
    cluster.activate(0);
    let client = cluster.client(0);
    let admin = client.log_in("admin", Role::Admin, ADMIN).unwrap();
    let rule = client.cluster_policy(&admin).unwrap().releases.unwrap();
    assert_eq!((rule.keys, rule.minimum.as_str()), (vec![key], version), "it began with its first HSM's builder");
    // The second HSM comes back with another build.
    cluster.hsms[1].run_program(Path::new(PROGRAM));
    cluster.hsms[1].restart();
    eventually("the refusal", || {
        let (first, second) = (cluster.hsms[0].log(), cluster.hsms[1].log());
        first.contains("a key that this cluster does not trust")
            && second.contains("a key that this cluster does not trust")
    });
    cluster.hsms[1].run_program(&builder.program());
    cluster.hsms[1].restart();
    eventually("the return", || cluster.hsms[1].status()["lifecycle"] == "active");
    eventually("its state", || {
        let index = |at: usize| cluster.hsms[at].status()["applied_index"].as_u64();
        index(1) >= index(0)
    });
}

#[test]
fn what_is_stated_falsely_is_refused() {
    let address = crate::peers::free_address();
    let running = Running::start(&["--peer-listen", &address.to_string()]);
    running.initialise();
    let stranger = Stranger::of(&running.path("data/installation"), &"ab".repeat(16));
    let sealing_key = vec![4; 97];
    let newcomer = Newcomer { sealing_key, newest_state: hsm_core::versions::NEWEST, ..Newcomer::default() };
    let newcomer = newcomer.encode_to_vec();
    let refused = |change: &dyn Fn(&mut Option<hsm_protocol::peer::Release>)| {
        let mut connection = stranger.connect(address);
        let statement = [b"kagimori join 1\0".as_slice(), &connection.exported(), &newcomer].concat();
        let proof = stranger.sign(&statement);
        let mut opening = opening(Purpose::Join(Join { newcomer: newcomer.clone(), proof }));
        change(&mut opening.measured);
        connection.refused(&opening).reason
    };
    assert_eq!(refused(&|stated| *stated = None), UNSIGNED);
    assert_eq!(refused(&|stated| stated.as_mut().unwrap().measurement[0] ^= 1), ALTERED);
    assert_eq!(refused(&|stated| stated.as_mut().unwrap().version = "9.9.9".to_owned()), ALTERED);
    assert_eq!(refused(&|stated| stated.as_mut().unwrap().signature.truncate(9)), UNSIGNED);
    let builder = Builder::new();
    let (key, version) = (builder.sign("9.9.9"), "9.9.9".to_owned());
    let (measurement, signature) = (builder.read("sha384"), builder.read("signature"));
    let other = hsm_protocol::peer::Release { version, measurement, key, signature };
    assert_eq!(refused(&|stated| *stated = Some(other.clone())), UNTRUSTED);
}

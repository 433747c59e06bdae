//! New epochs of the cluster master key after a removal, with real processes that are killed while keys are moved.

use std::path::Path;
use std::time::{Duration, Instant};

use hsm_client::{Cluster as Client, Login};
use hsm_core::command::SealedPayload;
use hsm_core::{ClusterId, Epoch, Object, ObjectHandle};
use hsm_crypto::{ClusterKeys, MasterKey, Module, RootOfTrust};
use hsm_protocol::wire::{self, ObjectReference, request};
use hsm_protocol::{AttributeKind, KeyType, Mechanism, MechanismKind, Role, Template, convert};
use hsm_replication::{Node, Settings};

use crate::several::{ADMIN, Cluster, copy, eventually, log_in, make_pair, sign, sign_in_the_end};

/// Keys whose moving takes long enough to kill somebody meanwhile: it goes at some thousands a second.
const MANY: usize = 10_000;

fn progress(cluster: &Cluster, at: usize) -> (u64, String) {
    let status = cluster.hsms[at].status();
    (status["epoch"].as_u64().unwrap(), status["epoch_progress"].as_str().unwrap().to_owned())
}

pub(crate) fn all_moved(cluster: &Cluster, at: usize, epoch: u64) -> bool {
    progress(cluster, at) == (epoch, format!("epoch {epoch}: all keys moved"))
}

pub(crate) fn is_over(cluster: &Cluster, at: usize) -> bool {
    let gone = !cluster.hsms[at].path("data/master-before.seal").exists();
    gone && cluster.hsms[at].status()["holds_epoch_before"] == false
}

fn leads(cluster: &Cluster, at: usize) -> bool {
    says_of_itself(cluster, at, "leads")
}

fn votes(cluster: &Cluster, at: usize) -> bool {
    says_of_itself(cluster, at, "votes")
}

fn says_of_itself(cluster: &Cluster, at: usize, what: &str) -> bool {
    let status = cluster.hsms[at].status();
    status["members"].as_array().unwrap().iter().any(|member| member["here"] == true && member[what] == true)
}

/// AES keys on the token, made by several threads.
fn make_keys(cluster: &Cluster, at: usize, count: usize) {
    const THREADS: usize = 8;
    let (client, login) = (cluster.client(at), log_in(&cluster.client(at)));
    let template = Template::new()
        .with_flag(AttributeKind::Token, true)
        .with_flag(AttributeKind::Encrypt, true)
        .with_number(AttributeKind::KeyType, KeyType::Aes as u64)
        .with_number(AttributeKind::ValueLen, 32);
    let make = |client: &Client, login: &Login| {
        let body = |_| {
            request::Body::GenerateKey(wire::GenerateKey {
                mechanism: Some(convert::mechanism_message(&Mechanism::plain(MechanismKind::AES_KEY_GEN))),
                template: Some(convert::template_message(&template)),
            })
        };
        client.change(Some(login), &body).unwrap();
    };
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| (0..count / THREADS).for_each(|_| make(&client, &login)));
        }
    });
    client.log_out(login).unwrap();
}

/// Removes an HSM, as an admin does who has only what the cluster's own answers say.
pub(crate) fn remove(cluster: &Cluster, through: usize, removed: usize) {
    let name = cluster.hsms[removed].status()["hsm"].as_str().unwrap().to_owned();
    let hsm = u128::from_str_radix(&name, 16).unwrap().to_be_bytes();
    let client = cluster.client(through);
    let login = client.log_in("admin", Role::Admin, ADMIN).unwrap();
    eventually("the removal", || client.remove_member(&login, hsm).is_ok());
    client.log_out(login).unwrap();
}

/// Removes an HSM, and does something as soon as the first keys are moved.
fn remove_and_meanwhile(cluster: &mut Cluster, removed: usize, meanwhile: impl FnOnce(&mut Cluster)) {
    let name = cluster.hsms[removed].status()["hsm"].as_str().unwrap().to_owned();
    let hsm = u128::from_str_radix(&name, 16).unwrap().to_be_bytes();
    let client = cluster.client(0);
    let login = client.log_in("admin", Role::Admin, ADMIN).unwrap();
    std::thread::scope(|scope| {
        // Whoever answers may be killed meanwhile; that the epoch begins is looked for below.
        scope.spawn(|| client.remove_member(&login, hsm).ok());
        eventually("the first moved keys", || {
            let (epoch, progress) = progress(cluster, 0);
            assert!(!progress.contains("all keys"), "they are moved faster than this test looks: {progress}");
            epoch == 2 && progress.contains(" of ")
        });
        meanwhile(cluster);
    });
}

/// A pair made now through this HSM signs through all of these, and so do the older ones.
fn every_key_signs(cluster: &Cluster, through: usize, everywhere: &[usize], keys: &mut Vec<ObjectReference>) {
    let (client, login) = (cluster.client(through), log_in(&cluster.client(through)));
    keys.push(make_pair(&client, &login).1);
    client.log_out(login).unwrap();
    for &at in everywhere {
        let (client, login) = (cluster.client(at), log_in(&cluster.client(at)));
        keys.iter().for_each(|key| sign_in_the_end(&client, &login, key));
        client.log_out(login).unwrap();
    }
}

/// What the disk of a killed HSM holds, opened with its own root of trust.
struct Disk {
    master: MasterKey,
    cluster: ClusterId,
    payloads: Vec<(std::sync::Arc<Object>, SealedPayload)>,
}

fn master(data: &Path) -> MasterKey {
    let root = RootOfTrust::read_file(&data.join("root.key")).unwrap();
    MasterKey::unseal(&root, &std::fs::read(data.join("master.seal")).unwrap()).unwrap()
}

fn open_disk(data: &Path) -> Disk {
    let master = master(data);
    let module = Module::start().unwrap();
    let node = Node::open(Settings::at(data.join("store.redb")), master.storage_key(&module).unwrap()).unwrap();
    let cluster = node.read().cluster().unwrap().cluster;
    let objects = node.read().objects_after(ObjectHandle(0), 100_000);
    let payload = |handle| node.payload(handle).unwrap().unwrap();
    let payloads = objects.into_iter().map(|(handle, object)| (object, payload(handle))).collect();
    node.stop();
    Disk { master, cluster, payloads }
}

/// How many of these payloads open under a master key, whatever epoch they say they are of.
fn opened(master: &MasterKey, disk: &Disk) -> usize {
    let keys = ClusterKeys::new(master, disk.cluster).unwrap();
    let forced = |sealed: &SealedPayload| SealedPayload { epoch: master.epoch(), ..sealed.clone() };
    disk.payloads.iter().filter(|(object, sealed)| keys.open_payload(object, &forced(sealed)).is_ok()).count()
}

#[test]
fn after_a_removal_every_key_is_under_a_master_key_that_the_removed_hsm_never_had() {
    let mut cluster = Cluster::of(3);
    cluster.activate(0);
    let mut keys = Vec::new();
    every_key_signs(&cluster, 0, &[0, 1, 2], &mut keys);
    make_keys(&cluster, 1, 104);
    let standing = (cluster.client(0), log_in(&cluster.client(0)));
    // Its folder as a thief or a backup would keep it.
    cluster.hsms[2].kill();
    let kept = cluster.hsms[2].path("kept");
    copy(&cluster.hsms[2].path("data"), &kept);
    cluster.hsms[2].restart();
    remove(&cluster, 0, 2);
    for at in 0..2 {
        eventually("that all keys are moved", || all_moved(&cluster, at, 2));
    }
    every_key_signs(&cluster, 1, &[0, 1], &mut keys);
    // As long as somebody holds a token of the epoch before, its key is there; then no more.
    assert_eq!(cluster.hsms[0].status()["holds_epoch_before"], true);
    let (client, login) = standing;
    sign(&client, &login, &keys[0]).unwrap();
    client.log_out(login).unwrap();
    let admin = cluster.client(0);
    let login = admin.log_in("admin", Role::Admin, ADMIN).unwrap();
    admin.log_out_everywhere(&login, "app", Role::CryptoUser).unwrap();
    admin.log_out_everywhere(&login, "admin", Role::Admin).unwrap();
    for at in 0..2 {
        eventually("that the key of the epoch before is destroyed", || is_over(&cluster, at));
    }
    every_key_signs(&cluster, 0, &[0, 1], &mut keys);
    cluster.hsms.iter_mut().take(2).for_each(|hsm| {
        assert!(hsm.terminate().success(), "{}", hsm.log());
    });
    let removed = master(&kept);
    for at in 0..2 {
        let disk = open_disk(&cluster.hsms[at].path("data"));
        assert_eq!(disk.payloads.len(), 104 + keys.len());
        assert!(disk.payloads.iter().all(|(_, sealed)| sealed.epoch == Epoch(2)));
        assert_eq!(opened(&disk.master, &disk), disk.payloads.len());
        assert_eq!(opened(&removed, &disk), 0, "the removed HSM opens what HSM {at} has");
    }
    // And what it had, it had: the test would see a key that opens.
    let before = open_disk(&kept);
    assert_eq!(opened(&removed, &before), before.payloads.len());
}

#[test]
fn keys_move_on_while_each_hsm_is_killed_and_when_all_are_started_again() {
    let mut cluster = Cluster::of(4);
    // The one that does not vote goes: a voter's removal and the loss of the leader at once are a majority lost.
    let learner = (1..4).find(|&at| !votes(&cluster, at)).unwrap();
    cluster.hsms.swap(learner, 3);
    cluster.addresses.swap(learner, 3);
    cluster.activate(0);
    let mut keys = Vec::new();
    every_key_signs(&cluster, 0, &[0], &mut keys);
    make_keys(&cluster, 0, MANY);
    let mut during = Vec::new();
    remove_and_meanwhile(&mut cluster, 3, |cluster| {
        for _ in 0..3 {
            // Whoever leads moves the keys.
            let mut leader = None;
            eventually("a leader", || {
                leader = (0..3).find(|&at| leads(cluster, at));
                leader.is_some()
            });
            let killed = leader.unwrap();
            during.push(progress(cluster, killed).1);
            cluster.hsms[killed].kill();
            let others = [(killed + 1) % 3, (killed + 2) % 3];
            every_key_signs(cluster, others[0], &others, &mut keys);
            cluster.hsms[killed].restart();
        }
    });
    assert!(during[0].contains(" of "), "the first kill came too late for this test: {during:?}");
    cluster.hsms.iter_mut().take(3).for_each(crate::support::Running::kill);
    cluster.hsms.iter_mut().take(3).for_each(crate::support::Running::spawn);
    for at in 0..3 {
        eventually("that all keys are moved", || {
            let status = cluster.hsms[at].manage(&["status"]);
            status.status.success() && all_moved(&cluster, at, 2)
        });
    }
    every_key_signs(&cluster, 2, &[0, 1, 2], &mut keys);
    cluster.hsms.iter_mut().take(3).for_each(crate::support::Running::kill);
    for at in 0..3 {
        let disk = open_disk(&cluster.hsms[at].path("data"));
        assert_eq!(opened(&disk.master, &disk), disk.payloads.len(), "HSM {at} lost keys");
        assert_eq!(disk.payloads.len(), MANY + keys.len());
    }
}

#[test]
fn an_hsm_that_joins_while_keys_move_and_one_that_joins_after_have_every_key() {
    let mut cluster = Cluster::of(3);
    cluster.activate(0);
    let mut keys = Vec::new();
    every_key_signs(&cluster, 0, &[0], &mut keys);
    make_keys(&cluster, 0, MANY);
    cluster.start(&[]);
    let mut during = String::new();
    remove_and_meanwhile(&mut cluster, 2, |cluster| {
        std::thread::scope(|scope| {
            scope.spawn(|| cluster.join(3));
            eventually("the admission", || cluster.members(0).len() == 3);
            during = progress(cluster, 0).1;
        });
    });
    assert!(during.contains(" of "), "it was admitted too late for this test: {during}");
    every_key_signs(&cluster, 3, &[0, 1, 3], &mut keys);
    for at in [0, 1, 3] {
        eventually("that all keys are moved", || all_moved(&cluster, at, 2));
    }
    cluster.start(&[]);
    cluster.join(4);
    every_key_signs(&cluster, 4, &[0, 1, 3, 4], &mut keys);
    // The next removal begins the next epoch, and nobody has forgotten anything.
    remove(&cluster, 4, 1);
    for at in [0, 3, 4] {
        eventually("that all keys are moved", || all_moved(&cluster, at, 3));
    }
    every_key_signs(&cluster, 3, &[0, 3, 4], &mut keys);
}

#[test]
fn an_hsm_that_was_away_while_two_epochs_began_has_every_key_when_it_is_back() {
    let mut cluster = Cluster::of(5);
    cluster.activate(0);
    let mut keys = Vec::new();
    every_key_signs(&cluster, 0, &[0], &mut keys);
    cluster.hsms[4].kill();
    // Until the others miss it: else chance may leave its vote with it, and another one's is taken.
    std::thread::sleep(hsm_replication::limits::ALIVE + Duration::from_secs(1));
    remove(&cluster, 0, 3);
    eventually("that all keys are moved", || all_moved(&cluster, 0, 2));
    every_key_signs(&cluster, 0, &[0, 1, 2], &mut keys);
    remove(&cluster, 0, 2);
    eventually("that all keys are moved", || all_moved(&cluster, 0, 3));
    every_key_signs(&cluster, 0, &[0, 1], &mut keys);
    cluster.hsms[4].restart();
    every_key_signs(&cluster, 1, &[0, 1, 4], &mut keys);
    assert_eq!(progress(&cluster, 4).0, 3);
}

#[test]
fn a_crash_between_the_two_writes_of_a_new_epoch_loses_no_key() {
    let mut cluster = Cluster::of(3);
    cluster.activate(0);
    let mut keys = Vec::new();
    every_key_signs(&cluster, 0, &[0], &mut keys);
    cluster.hsms[1].kill();
    let (data, seal) = (cluster.hsms[1].path("data"), cluster.hsms[1].path("seal-of-epoch-1"));
    std::fs::copy(data.join("master.seal"), &seal).unwrap();
    cluster.hsms[1].restart();
    // It has a lease again: two must be left who decide when the one that is removed has no vote any more.
    every_key_signs(&cluster, 0, &[0, 1], &mut keys);
    remove(&cluster, 0, 2);
    eventually("that all keys are moved", || all_moved(&cluster, 1, 2));
    cluster.hsms[1].kill();
    // As after a kill between the writes: the key of the epoch before has its new place, and master.seal the old content.
    std::fs::copy(&seal, data.join("master-before.seal")).unwrap();
    std::fs::copy(&seal, data.join("master.seal")).unwrap();
    cluster.hsms[1].restart();
    let begun = Instant::now();
    every_key_signs(&cluster, 1, &[0, 1], &mut keys);
    assert!(begun.elapsed() < Duration::from_secs(20));
    cluster.hsms[1].kill();
    assert_eq!(master(&data).epoch(), Epoch(2));
}

#[test]
fn a_login_that_is_used_goes_on_over_epochs_and_does_not_keep_their_keys() {
    let mut cluster = Cluster::of(4);
    cluster.activate(0);
    let (client, login) = (cluster.client(0), log_in(&cluster.client(0)));
    let (_, key) = make_pair(&client, &login);
    for (epoch, removed) in [(2, 3), (3, 2)] {
        remove(&cluster, 0, removed);
        for at in 0..2 {
            eventually("that all keys are moved", || all_moved(&cluster, at, epoch));
        }
        let admin = cluster.client(0);
        let of_admin = admin.log_in("admin", Role::Admin, ADMIN).unwrap();
        admin.log_out_everywhere(&of_admin, "admin", Role::Admin).unwrap();
        assert_eq!(cluster.hsms[0].status()["holds_epoch_before"], true, "the login has a token of the epoch before");
        sign(&client, &login, &key).unwrap();
        for at in 0..2 {
            eventually("that the key of the epoch before is destroyed", || is_over(&cluster, at));
        }
        // The token itself is needed on every new connection, to any HSM.
        cluster.hsms[0].restart();
        eventually("the return", || sign(&client, &login, &key).is_ok());
    }
    client.log_out(login).unwrap();
}

/// What an HSM shows to whoever connects, in PEM.
fn shown_certificate(cluster: &Cluster, at: usize) -> String {
    let address = cluster.hsms[at].status()["client_address"].as_str().unwrap().to_owned();
    let line = format!("openssl s_client -connect {address} -alpn hsm/1 </dev/null 2>/dev/null | openssl x509");
    let output = std::process::Command::new("sh").arg("-c").arg(line).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_reissued_certificate_is_shown_by_every_hsm_and_by_those_that_join_later() {
    let mut cluster = Cluster::of(3);
    cluster.activate(0);
    let before = shown_certificate(&cluster, 0);
    assert!(before.contains("BEGIN CERTIFICATE"), "{before}");
    remove(&cluster, 0, 2);
    eventually("that all keys are moved", || all_moved(&cluster, 0, 2));
    let client = cluster.client(1);
    let login = client.log_in("admin", Role::Admin, ADMIN).unwrap();
    let csr = client.begin_reissue(&login).unwrap();
    let first = &cluster.hsms[0];
    std::fs::write(first.path("ceremony/ClusterCsr.csr"), &csr).unwrap();
    first.sign("reissued.crt", "customerCA", &[]);
    let read = |name: &str| std::fs::read_to_string(first.path(name)).unwrap();
    // The old certificate is for another key.
    assert!(client.finish_reissue(&login, &read("ClusterCertificate.crt"), &read("customerCA.crt")).is_err());
    client.finish_reissue(&login, &read("reissued.crt"), &read("customerCA.crt")).unwrap();
    for at in 0..2 {
        eventually("the new certificate", || {
            let shown = shown_certificate(&cluster, at);
            shown != before && shown.split_whitespace().eq(read("reissued.crt").split_whitespace())
        });
        drop(log_in(&cluster.client(at)));
    }
    cluster.start(&[]);
    cluster.join(3);
    assert_ne!(shown_certificate(&cluster, 3), before);
    drop(log_in(&cluster.client(3)));
}

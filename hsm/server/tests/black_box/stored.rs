//! Data folders that releases left behind are opened for ever: see `testing/fixtures/README.md`.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use hsm_client::{Cluster as Client, ClusterConfiguration, Login};
use hsm_protocol::wire::{ObjectReference, attribute, reply, request};
use hsm_protocol::{AttributeKind, Role, wire};

use crate::several::{ADMIN, USER, log_in, make_pair, sign};
use crate::support::{Running, folder};

/// The store format that this program writes.
const FORMAT: &str = "1";

/// Files of a data folder that are nobody's data.
const FLEETING: [&str; 3] = ["lock", "management.sock", "client.sock"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testing/fixtures/stores")
}

/// Starts an HSM that clients reach by its Unix socket.
fn start(folder: tempfile::TempDir) -> Running {
    let socket = folder.path().join("data/client.sock").display().to_string();
    Running::start_in(folder, &["--unix-socket", &socket])
}

fn client(hsm: &Running) -> Client {
    let mut configuration = ClusterConfiguration::new("test");
    configuration.unix_socket = Some(hsm.path("data/client.sock"));
    Client::new(configuration)
}

/// The uncompressed point of a P-256 key.
fn point(client: &Client, login: &Login, key: &ObjectReference) -> Vec<u8> {
    let kinds = vec![AttributeKind::EcPoint as u64];
    let asked = client.call(Some(login), &|_| {
        request::Body::GetAttributes(wire::GetAttributes { object: Some(key.clone()), kinds: kinds.clone() })
    });
    let reply::Body::Attributes(answer) = asked.unwrap() else { panic!("no attributes") };
    let value = answer.items[0].attribute.clone().unwrap().value;
    let Some(attribute::Value::Octets(der)) = value else { panic!("no point") };
    // DER OCTET STRING around it.
    der[der.len() - 65..].to_vec()
}

fn expected(folder: &Path) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(folder.join("expected")).unwrap();
    text.lines().filter_map(|line| line.split_once(' ')).map(|(name, value)| (name.into(), value.into())).collect()
}

/// Copies a folder without its fleeting files, readable by nobody else.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o700)).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (name, path) = entry.map(|entry| (entry.file_name(), entry.path())).unwrap();
        if FLEETING.iter().any(|fleeting| name == *fleeting) {
            continue;
        }
        let target = to.join(name);
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
            std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
}

#[test]
fn the_data_folder_of_every_released_format_is_opened_and_its_keys_sign() {
    let mut formats = 0;
    for entry in std::fs::read_dir(fixtures()).unwrap() {
        let stored = entry.unwrap().path();
        let expected = expected(&stored);
        let home = folder();
        copy(&stored.join("data"), &home.path().join("data"));
        let hsm = start(home);
        let status = hsm.status();
        for name in ["objects", "users", "cluster", "hsm"] {
            assert_eq!(status[name].to_string().trim_matches('"'), expected[name], "{name} of {}", stored.display());
        }
        let applied: u64 = expected["index"].parse().unwrap();
        assert!(status["applied_index"].as_u64().unwrap() >= applied, "what was acknowledged is there");
        let client = client(&hsm);
        let login = log_in(&client);
        let key = ObjectReference { token_object: expected["key"].parse().unwrap(), ..ObjectReference::default() };
        let signature = sign(&client, &login, &key).unwrap();
        let point = hex(&expected["point"]);
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(b"message", &signature).unwrap();
        formats += 1;
    }
    assert!(formats > 0, "there are no fixtures");
}

#[test]
#[ignore = "writes testing/fixtures/stores: to be run when a format is new"]
fn make_the_store_of_this_format() {
    let mut hsm = start(folder());
    hsm.initialise();
    let client = client(&hsm);
    let activation = hsm.status()["activation_password"].as_str().unwrap().to_owned();
    client.activate(activation.as_bytes(), ADMIN).unwrap();
    let admin = client.log_in("admin", Role::Admin, ADMIN).unwrap();
    for name in ["app", "gone", "other"] {
        client.create_user(&admin, name, Role::CryptoUser, USER).unwrap();
    }
    client.delete_user(&admin, "gone", Role::CryptoUser).unwrap();
    client.set_user_enabled(&admin, "other", Role::CryptoUser, false).unwrap();
    client.set_isolation_window(&admin, 1_800).unwrap();
    assert!(client.log_in("app", Role::CryptoUser, b"a wrong password").is_err());
    let login = log_in(&client);
    (0..20).for_each(|_| drop(make_pair(&client, &login)));
    let (public, private) = make_pair(&client, &login);
    let point = point(&client, &login, &public);
    let members = client.list_members(&admin).unwrap();
    let status = hsm.status();
    assert_eq!(status["applied_index"].as_u64().unwrap(), members.applied_index, "nothing happens beside this");
    // The state rides with the next entry, so that the log is ahead of it now.
    hsm.kill();
    let text = |name: &str| format!("{name} {}\n", status[name].to_string().trim_matches('"'));
    let mut lines: String = ["objects", "users", "cluster", "hsm"].map(text).concat();
    lines += &format!("index {}\nhash {}\n", members.applied_index, digits(&members.chain_hash));
    lines += &format!("key {}\npoint {}\n", private.token_object, digits(&point));
    let target = fixtures().join(FORMAT);
    drop(std::fs::remove_dir_all(&target));
    copy(&hsm.path("data"), &target.join("data"));
    std::fs::write(target.join("expected"), lines).unwrap();
}

fn digits(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn hex(digits: &str) -> Vec<u8> {
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

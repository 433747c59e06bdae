//! The management socket: who may speak, what may be said, and what hostile bytes do.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::support::{PROGRAM, Running};

#[test]
fn a_new_hsm_belongs_to_no_cluster_and_says_so() {
    let running = Running::start(&[]);
    let status = running.status();
    assert_eq!(status["lifecycle"], "none");
    assert_eq!(status["process"], running.child.id());
    for words in [
        &["certificates", "--out-dir", "/nonexistent"][..],
        &["initialize", "--certificate", "/dev/null", "--trust-anchor", "/dev/null"],
    ] {
        assert!(running.refused(words).contains("belongs to no cluster"));
    }
}

#[test]
fn a_cluster_is_formed_once_and_with_a_label_that_fits() {
    let running = Running::start(&[]);
    assert!(running.refused(&["form", "--label", ""]).contains("1 to 32 bytes"));
    assert!(running.refused(&["form", "--label", &"x".repeat(33)]).contains("1 to 32 bytes"));
    assert!(running.refused(&["form", "--label", "a\nb"]).contains("control characters"));
    let status = running.managed(&["form", "--label", &"x".repeat(32), "--fips"]);
    assert_eq!((&status["lifecycle"], &status["mode"]), (&"uninitialized".into(), &"FIPS".into()));
    assert!(running.refused(&["form", "--label", "again"]).contains("belongs to a cluster already"));
}

#[test]
fn the_activation_password_is_letters_and_digits_and_only_in_status() {
    let running = Running::start(&[]);
    running.managed(&["form", "--label", "test"]);
    let password = running.status()["activation_password"].as_str().unwrap().to_owned();
    assert_eq!(password.len(), 24);
    assert!(password.chars().all(|character| character.is_ascii_alphanumeric()));
    assert!(!running.log().contains(&password), "the log holds the activation password");
    for entry in walk(running.folder.path()) {
        let content = std::fs::read(&entry).unwrap_or_default();
        let found = content.windows(password.len()).any(|window| window == password.as_bytes());
        assert!(!found, "{} holds the activation password", entry.display());
    }
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}

#[test]
fn every_file_of_the_hsm_is_its_owners_alone() {
    let running = Running::start(&[]);
    running.initialise();
    let data = running.path("data");
    assert_eq!(std::fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o700);
    for file in walk(&data) {
        let mode = std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", file.display());
    }
}

#[test]
fn hostile_bytes_end_the_connection_and_not_the_hsm() {
    let running = Running::start(&[]);
    for bytes in [&b"\xff\xff\xff\xff"[..], b"\0\0\0\x02\xff\xff", b"GET / HTTP/1.1\r\n\r\n"] {
        let mut stream = UnixStream::connect(running.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert!(!answer.is_empty(), "{bytes:?} is answered with a typed refusal");
    }
    assert_eq!(running.status()["lifecycle"], "none");
}

#[test]
fn more_connections_than_the_limit_are_closed_and_harm_nobody() {
    let running = Running::start(&[]);
    let held: Vec<_> = (0..64).map(|_| UnixStream::connect(running.socket()).unwrap()).collect();
    std::thread::sleep(Duration::from_millis(200));
    drop(held);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(running.status()["lifecycle"], "none");
}

#[test]
fn another_user_is_refused() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIP: another user can only be had by root");
        return;
    }
    let running = Running::start(&[]);
    // The folder and the socket are opened on purpose: what holds is the kernel's word on the peer.
    for (path, mode) in [("", 0o755), ("data", 0o755), ("data/management.sock", 0o666)] {
        std::fs::set_permissions(running.path(path), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let copy = running.path("program");
    std::fs::copy(PROGRAM, &copy).unwrap();
    let output = std::process::Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(copy)
        .args(["manage", "--socket"])
        .arg(running.socket())
        .arg("status")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(13), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("only root and the user"), "{output:?}");
}

#[test]
fn stop_ends_the_process_with_success_and_frees_the_folder() {
    let mut running = Running::start(&[]);
    running.initialise();
    running.managed(&["stop"]);
    assert!(running.wait().success());
    assert!(!running.socket().exists());
    let output = running.manage(&["status"]);
    assert_eq!(output.status.code(), Some(12));
    assert!(String::from_utf8_lossy(&output.stderr).contains("kagimori-hsm serve"), "{output:?}");
}

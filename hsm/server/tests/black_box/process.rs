//! Start, stop, restart, and what a damaged or contested data folder does.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use crate::support::{Running, folder, serve_command, wait};

#[test]
fn a_restart_keeps_everything() {
    let mut running = Running::start(&[]);
    running.initialise();
    let before = running.status();
    running.restart();
    let after = running.status();
    for fact in ["cluster", "hsm", "label", "mode", "lifecycle", "activation_password", "users"] {
        assert_eq!(before[fact], after[fact], "{fact}");
    }
    assert_ne!(after["client_address"], "", "clients may come again");
}

#[test]
fn a_crash_right_after_form_keeps_the_cluster() {
    let mut running = Running::start(&[]);
    let formed = running.managed(&["form", "--label", "test"]);
    running.restart();
    assert_eq!(running.status()["cluster"], formed["cluster"]);
}

#[test]
fn sigterm_and_sigint_end_it_with_success_and_soon() {
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let mut running = Running::start(&[]);
        running.initialise();
        let asked = Instant::now();
        rustix::process::kill_process(rustix::process::Pid::from_child(&running.child), signal).unwrap();
        assert!(running.wait().success(), "{}", running.log());
        assert!(asked.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn sighup_does_not_end_it() {
    let running = Running::start(&[]);
    rustix::process::kill_process(rustix::process::Pid::from_child(&running.child), rustix::process::Signal::HUP)
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(running.status()["lifecycle"], "none");
}

#[test]
fn a_second_process_on_the_same_folder_is_refused_and_the_first_goes_on() {
    let running = Running::start(&[]);
    running.initialise();
    let mut second =
        serve_command(running.folder.path(), &["--management-socket", &running.text("m2")]).spawn().unwrap();
    assert_eq!(wait(&mut second).code(), Some(4));
    assert!(running.log().contains("another kagimori-hsm is running on"), "{}", running.log());
    assert_eq!(running.status()["lifecycle"], "initialized");
}

#[test]
fn an_address_in_use_is_said_at_the_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = folder();
    let mut command = serve_command(folder.path(), &[]);
    let address = taken.local_addr().unwrap().to_string();
    // The later argument wins.
    let mut child = std::process::Command::new(crate::support::PROGRAM)
        .args(["serve", "--data-dir"])
        .arg(folder.path().join("data"))
        .args(["--listen", &address])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    assert_eq!(wait(&mut child).code(), Some(7));
    let mut child = command.spawn().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_flipped_bit_in_the_store_is_named_and_refused_and_not_repaired() {
    let mut running = Running::start(&[]);
    running.initialise();
    assert!(running.terminate().success());
    let store = running.path("data/store.redb");
    let whole = std::fs::read(&store).unwrap();
    let mark = std::fs::read(running.path("data/store.mark")).unwrap();
    let mut refused = 0;
    // Places spread over the file; a bit in a page that nothing uses changes nothing and may be overlooked.
    for place in (0..whole.len()).step_by(whole.len() / 24) {
        let mut altered = whole.clone();
        altered[place] ^= 1;
        std::fs::write(&store, &altered).unwrap();
        // A start before may have gone on with the log.
        std::fs::write(running.path("data/store.mark"), &mark).unwrap();
        let mut child = serve_command(running.folder.path(), &[]).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while child.try_wait().unwrap().is_none() && !running.manage(&["status"]).status.success() {
            assert!(Instant::now() < deadline, "neither refused nor started");
            std::thread::sleep(Duration::from_millis(10));
        }
        match child.try_wait().unwrap() {
            Some(status) => {
                assert_eq!(status.code(), Some(5), "octet {place}: {}", running.log());
                assert!(running.log().contains("store.redb is damaged"), "{}", running.log());
                assert!(std::fs::read(&store).unwrap()[place] == altered[place], "a refused store is not repaired");
                refused += 1;
            }
            None => {
                child.kill().unwrap();
                child.wait().unwrap();
            }
        }
    }
    eprintln!("{refused} of 24 flipped bits lay in used pages");
}

#[test]
fn a_missing_or_altered_seal_is_named_and_refused() {
    let mut running = Running::start(&[]);
    running.initialise();
    assert!(running.terminate().success());
    let seal = running.path("data/master.seal");
    let whole = std::fs::read(&seal).unwrap();
    let mut altered = whole.clone();
    *altered.last_mut().unwrap() ^= 1;
    std::fs::write(&seal, altered).unwrap();
    let refuse = || {
        let mut child = serve_command(running.folder.path(), &[]).spawn().unwrap();
        assert_eq!(wait(&mut child).code(), Some(8), "{}", running.log());
    };
    refuse();
    std::fs::remove_file(&seal).unwrap();
    refuse();
    std::fs::write(&seal, whole).unwrap();
    std::fs::set_permissions(running.path("data/root.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    refuse();
    assert!(running.log().contains("master.seal") && running.log().contains("root.key"));
}

#[test]
fn a_seal_without_its_store_is_not_taken_for_a_new_hsm() {
    let mut running = Running::start(&[]);
    running.initialise();
    assert!(running.terminate().success());
    std::fs::remove_file(running.path("data/store.redb")).unwrap();
    let mut child = serve_command(running.folder.path(), &[]).spawn().unwrap();
    assert_eq!(wait(&mut child).code(), Some(5), "{}", running.log());
}

#[test]
fn a_passphrase_seals_the_master_key_and_a_wrong_one_does_not_open_it() {
    let folder = folder();
    let file = folder.path().join("passphrase");
    std::fs::write(&file, "correct horse\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let setting = format!("passphrase-file={}", file.display());
    let mut running = Running::start_in(folder, &["--root-of-trust", &setting]);
    running.initialise();
    assert!(!running.path("data/root.key").exists());
    running.restart();
    assert_eq!(running.status()["lifecycle"], "initialized");
    assert!(running.terminate().success());
    std::fs::write(&file, "wrong horse\n").unwrap();
    let mut child = serve_command(running.folder.path(), &["--root-of-trust", &setting]).spawn().unwrap();
    assert_eq!(wait(&mut child).code(), Some(8), "{}", running.log());
    assert!(!running.log().contains("horse"), "the log holds the passphrase");
}

#[test]
fn json_logs_are_json() {
    let mut running = Running::start(&["--log-format", "json"]);
    running.initialise();
    assert!(running.terminate().success());
    for line in running.log().lines() {
        let parsed: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(parsed["level"].is_string(), "{line}");
    }
}

/// A file system of its own for the data folder, so that it can be full. Unmounted when dropped.
pub(crate) struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    /// `None` where nothing can be mounted.
    pub(crate) fn mount(at: std::path::PathBuf, size: &str) -> Option<Self> {
        std::fs::create_dir(&at).unwrap();
        let options = format!("size={size},mode=700");
        let mount =
            std::process::Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&at).output();
        if mount.is_ok_and(|output| output.status.success()) {
            return Some(Self(at));
        }
        eprintln!("SKIP: a small file system can only be mounted by root");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "{} stays mounted", self.0.display());
    }
}

#[test]
fn a_full_disk_at_form_is_an_error_and_leaves_no_half_cluster() {
    let outer = folder();
    let Some(_disk) = SmallDisk::mount(outer.path().join("data"), "64k") else { return };
    let mut running = Running::start_in(outer, &[]);
    let said = running.refused(&["form", "--label", "test"]);
    assert!(said.contains("no space is left") || said.contains("No space left"), "{said}");
    assert_eq!(running.status()["lifecycle"], "none");
    running.restart();
    assert_eq!(running.status()["lifecycle"], "none", "nothing is left of the attempt");
}

#[test]
fn a_full_disk_refuses_changes_until_there_is_room_again() {
    let outer = folder();
    let Some(_disk) = SmallDisk::mount(outer.path().join("data"), "16m") else { return };
    let running = Running::start_in(outer, &[]);
    running.managed(&["form", "--label", "test"]);
    running.managed(&["certificates", "--out-dir", &running.text("ceremony")]);
    running.make_ca("ca", &["rsa:2048"]);
    running.sign("signed.crt", "ca", &[]);
    let filler = running.path("data/filler");
    // Writes until the disk takes no more.
    let mut file = std::fs::File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut file, &[0; 65_536]).is_ok() {}
    let (signed, anchor) = (running.text("signed.crt"), running.text("ca.crt"));
    let words = ["initialize", "--certificate", &signed, "--trust-anchor", &anchor];
    assert!(running.refused(&words).contains("(code 11)"));
    assert_eq!(running.status()["lifecycle"], "uninitialized");
    std::fs::remove_file(&filler).unwrap();
    drop(file);
    std::thread::sleep(Duration::from_secs(2));
    running.managed(&words);
    assert_eq!(running.status()["lifecycle"], "initialized");
}

//! The locks on the process: seen from outside, and tried from inside.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use crate::support::Running;
use hsm_server::sandbox::{FileRules, harden_process, restrict_files, restrict_system_calls};

/// Says to a copy of this program which trial it is.
const TRIAL: &str = "KAGIMORI_SANDBOX_TRIAL";

#[test]
fn a_serving_process_is_locked_up_in_every_thread() {
    let running = Running::start(&[]);
    running.initialise();
    assert_eq!(running.status()["sandbox"], "full");
    let process = running.child.id();
    let mut threads = 0;
    for thread in std::fs::read_dir(format!("/proc/{process}/task")).unwrap() {
        // A thread may have ended since the folder was read.
        let Ok(status) = std::fs::read_to_string(thread.unwrap().path().join("status")) else { continue };
        threads += 1;
        for (field, value) in [("Seccomp:", "2"), ("NoNewPrivs:", "1")] {
            let line = status.lines().find(|line| line.starts_with(field)).unwrap();
            assert_eq!(line.split_whitespace().nth(1), Some(value), "{status}");
        }
    }
    assert!(threads >= 4, "only {threads} threads were seen");
    let limits = std::fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"], "{core}");
}

#[test]
fn an_abort_leaves_no_core() {
    let mut running = Running::start(&[]);
    rustix::process::kill_process(rustix::process::Pid::from_child(&running.child), rustix::process::Signal::ABORT)
        .unwrap();
    let status = running.wait();
    assert_eq!(status.signal(), Some(6));
    assert!(!status.core_dumped());
}

#[test]
fn a_debugger_of_the_same_user_is_refused() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIP: users can only be changed by root");
        return;
    }
    let outer = crate::support::folder();
    std::fs::set_permissions(outer.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let copy = outer.path().join("program");
    std::fs::copy(crate::support::PROGRAM, &copy).unwrap();
    let as_nobody = |program: &std::path::Path| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(program);
        command
    };
    let data = outer.path().join("data");
    let mut child =
        as_nobody(&copy).args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&data).spawn().unwrap();
    let socket = data.join("management.sock");
    while !socket.exists() {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let memory = as_nobody("cat".as_ref()).arg(format!("/proc/{}/mem", child.id())).output().unwrap();
    let maps = as_nobody("cat".as_ref()).arg(format!("/proc/{}/maps", child.id())).output().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    for output in [memory, maps] {
        assert!(!output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains("Permission denied"), "{output:?}");
    }
}

#[test]
fn no_sandbox_is_said_in_log_and_status() {
    let running = Running::start(&["--no-sandbox"]);
    assert_eq!(running.status()["sandbox"], "off");
    assert!(running.log().contains("--no-sandbox"), "{}", running.log());
}

/// Runs the named trial in a process of its own.
fn trial(name: &str) -> std::process::ExitStatus {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "sandbox::inside", "--nocapture", "--test-threads", "1"])
        .env(TRIAL, name)
        .status()
        .unwrap()
}

#[test]
fn starting_a_program_kills_the_process() {
    assert_eq!(trial("execve").signal(), Some(rustix::process::Signal::SYS.as_raw()));
}

#[test]
fn what_is_not_needed_is_refused_and_what_is_needed_works() {
    for name in ["connect", "fork", "files", "threads"] {
        assert!(trial(name).success(), "{name}");
    }
}

/// No test by itself: the inside of the trials above.
#[test]
fn inside() {
    let Ok(name) = std::env::var(TRIAL) else { return };
    let folder = tempfile::tempdir().unwrap();
    let rules = FileRules { owned_folders: vec![folder.path().to_owned()], ..FileRules::default() };
    harden_process().unwrap();
    restrict_files(&rules).unwrap();
    restrict_system_calls(false).unwrap();
    match name.as_str() {
        "execve" => {
            use std::os::unix::process::CommandExt;
            // exec, not spawn: spawn would fail at the fork already.
            let error = Command::new("/bin/true").exec();
            panic!("exec came back: {error}");
        }
        "connect" => {
            assert!(std::net::TcpStream::connect("127.0.0.1:1").is_err_and(|error| error.raw_os_error() == Some(1)));
        }
        "fork" => assert!(Command::new("/bin/true").spawn().is_err()),
        "files" => {
            assert!(std::fs::read("/etc/passwd").is_err());
            assert!(std::fs::File::create("/tmp/kagimori-sandbox-trial").is_err());
            let file = folder.path().join("own");
            std::fs::File::create(&file).unwrap().write_all(b"x").unwrap();
            assert_eq!(std::fs::read(&file).unwrap(), b"x");
        }
        "threads" => assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7),
        other => panic!("no trial {other}"),
    }
}

//! The client listener: TLS 1.3 and nothing else, the cluster's certificate, and floods of half-open connections.

use std::io::Read;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::Running;

fn s_client(running: &Running, extra: &[&str]) -> String {
    let address = running.status()["client_address"].as_str().unwrap().to_owned();
    let output = Command::new("openssl")
        .args(["s_client", "-connect", &address, "-CAfile", "customerCA.crt", "-alpn", "hsm/1"])
        .args(extra)
        .current_dir(running.folder.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    [output.stdout, output.stderr].concat().iter().map(|&octet| char::from(octet)).collect()
}

#[test]
fn the_listener_opens_with_initialisation_and_shows_the_customers_certificate() {
    let running = Running::start(&[]);
    running.managed(&["form", "--label", "test"]);
    assert_eq!(running.status()["client_address"], "");
    drop(running);
    let running = Running::start(&[]);
    running.initialise();
    let shown = s_client(&running, &[]);
    assert!(shown.contains("TLSv1.3") && shown.contains("Verify return code: 0 (ok)"), "{shown}");
    assert!(shown.contains("ALPN protocol: hsm/1"), "{shown}");
}

#[test]
fn tls_1_2_is_refused_by_its_name() {
    let running = Running::start(&[]);
    running.initialise();
    let shown = s_client(&running, &["-tls1_2"]);
    assert!(shown.contains("alert protocol version"), "{shown}");
}

#[test]
fn nothing_is_resumed() {
    let running = Running::start(&[]);
    running.initialise();
    let shown = s_client(&running, &["-sess_out", "session.pem"]);
    assert!(!shown.contains("TLS session ticket:"), "{shown}");
}

#[test]
fn a_thousand_half_open_connections_keep_nobody_out() {
    let running = Running::start(&[]);
    running.initialise();
    let address = running.status()["client_address"].as_str().unwrap().to_owned();
    let held: Vec<_> = (0..1000).map(|_| TcpStream::connect(&address).unwrap()).collect();
    let asked = Instant::now();
    let shown = s_client(&running, &[]);
    assert!(shown.contains("Verify return code: 0 (ok)"), "{shown}");
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    // The oldest were pushed out: their end is seen at once.
    let mut first = held.into_iter().next().unwrap();
    first.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(first.read(&mut [0; 1]).unwrap_or(0), 0);
}

#[test]
fn a_silent_connection_is_closed_by_itself() {
    let running = Running::start(&[]);
    running.initialise();
    let address = running.status()["client_address"].as_str().unwrap().to_owned();
    let mut silent = TcpStream::connect(&address).unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    assert_eq!(silent.read(&mut [0; 64]).unwrap_or(0), 0);
}

#[test]
fn the_client_socket_opens_with_the_mode_that_was_asked_for() {
    use std::os::unix::fs::PermissionsExt;
    for (access, mode) in [("owner", 0o600), ("group", 0o660), ("everyone", 0o666)] {
        let folder = crate::support::folder();
        let socket = folder.path().join("c").display().to_string();
        let mut running = Running::start_in(folder, &["--unix-socket", &socket, "--unix-socket-access", access]);
        running.initialise();
        assert_eq!(running.status()["client_socket"], socket.as_str());
        assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, mode);
        running.restart();
        assert!(std::path::Path::new(&socket).exists(), "a socket that a dead process left is replaced");
        assert!(running.terminate().success());
        assert!(!std::path::Path::new(&socket).exists());
    }
}

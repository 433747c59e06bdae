//! Health and metrics: loopback only, no login, no secrets.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use crate::support::Running;

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn ask(address: SocketAddr, words: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(words.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

pub(crate) fn get(address: SocketAddr, path: &str) -> String {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
}

#[test]
fn ready_follows_the_life_of_the_cluster_and_live_does_not() {
    let address = free_address();
    let running = Running::start(&["--health", &address.to_string()]);
    assert!(get(address, "/health/live").starts_with("HTTP/1.1 200"));
    let answer = get(address, "/health/ready");
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("no cluster"), "{answer}");
    running.initialise();
    assert!(get(address, "/health/ready").starts_with("HTTP/1.1 200"));
}

#[test]
fn metrics_have_counts_and_no_secrets() {
    let address = free_address();
    let running = Running::start(&["--health", &address.to_string()]);
    running.initialise();
    let metrics = get(address, "/metrics");
    for line in ["kagimori_ready 1", "kagimori_lifecycle 2", "kagimori_connections{transport=\"tls\"} 0"] {
        assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
    }
    let password = running.status()["activation_password"].as_str().unwrap().to_owned();
    assert!(!metrics.contains(&password));
}

#[test]
fn other_paths_methods_and_garbage_are_refused() {
    let address = free_address();
    let _running = Running::start(&["--health", &address.to_string()]);
    assert!(get(address, "/").starts_with("HTTP/1.1 404"));
    assert!(ask(address, "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").starts_with("HTTP/1.1 405"));
    assert!(ask(address, "\u{1}\u{2}\u{3}\r\n\r\n").starts_with("HTTP/1.1 400"));
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(10_000));
    assert!(ask(address, &long).starts_with("HTTP/1.1 4"));
    assert!(get(address, "/health/live").starts_with("HTTP/1.1 200"));
}

#[test]
fn an_address_that_others_can_reach_is_refused() {
    let folder = crate::support::folder();
    let mut child = crate::support::serve_command(folder.path(), &["--health", "0.0.0.0:0"]).spawn().unwrap();
    assert_eq!(crate::support::wait(&mut child).code(), Some(3));
}

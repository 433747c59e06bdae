//! The port for other HSMs: who may speak there, and what hostile ones get.

use hsm_replication::versions::NEWEST;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use hsm_protocol::ErrorCode;
use hsm_protocol::peer::{Join, Link, Newcomer, opening::Purpose};
use prost::Message;

use crate::stranger::{Stranger, opening, refusal};
use crate::support::Running;

const NAME: &str = "00112233445566778899aabbccddeeff";

/// Numbers of refusals, as the protocol has them.
const VERSION: u32 = 1;
const OTHER_CLUSTER: u32 = 2;
const OTHER_HISTORY: u32 = 3;
const OTHER_NODE: u32 = 4;
const STRANGER: u32 = 5;
const NOT_READY: u32 = 6;
const PROOF: u32 = 8;
const MALFORMED: u32 = 10;
const TOO_LONG: u32 = 11;
const LOG: u32 = 12;

/// Port of every HSM of these tests for other HSMs.
const PORT: u16 = 2224;

/// A loopback address that nobody else uses: of this process, and the next one in it. A port that the system chose could be
/// given to somebody else before the HSM has it.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    loop {
        let [_, last] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let address = SocketAddr::from((Ipv4Addr::new(127, 64 + high % 64, low, last), PORT));
        if last > 0 && TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

fn start() -> (Running, SocketAddr) {
    let address = free_address();
    (Running::start(&["--peer-listen", &address.to_string()]), address)
}

fn octets(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
}

/// A link to this HSM as its own roster and status describe it, in the name of node 7.
fn link(running: &Running) -> Link {
    let status = running.status();
    let cluster = octets(status["cluster"].as_str().unwrap());
    let incarnation = octets(status["incarnation"].as_str().unwrap());
    let to = u64::from_str_radix(status["members"][0]["node"].as_str().unwrap(), 16).unwrap();
    Link { cluster, incarnation, from: 7, to }
}

fn newcomer() -> Vec<u8> {
    Newcomer {
        peer_address: "127.0.0.1:1".to_owned(),
        sealing_key: vec![4; 97],
        newest_state: hsm_core::versions::NEWEST,
        ..Newcomer::default()
    }
    .encode_to_vec()
}

#[test]
fn a_certificate_of_another_installation_is_refused_by_name() {
    let (running, address) = start();
    running.managed(&["form", "--label", "test"]);
    let mut connection = Stranger::of_another_installation(NAME).connect(address);
    let answer = connection.open(&opening(Purpose::Link(link(&running))));
    assert!(answer.is_err(), "a stranger was answered");
    assert!(running.log().contains(NAME), "{}", running.log());
    assert!(running.log().contains("a stranger's certificate was refused"));
}

#[test]
fn whoever_has_a_certificate_and_is_not_in_the_roster_is_refused_by_name() {
    let (running, address) = start();
    let stranger = Stranger::of(&running.path("data/installation"), NAME);
    assert_eq!(stranger.connect(address).refused(&opening(Purpose::Link(Link::default()))).reason, NOT_READY);
    running.managed(&["form", "--label", "test"]);
    let refused = stranger.connect(address).refused(&opening(Purpose::Link(link(&running))));
    assert_eq!(refused.reason, STRANGER);
    assert!(refused.applied > 0);
    assert!(running.log().contains(NAME));

    // In the name of a member it is no better: its certificate is not that member's.
    let posing = Link { from: link(&running).to, ..link(&running) };
    assert_eq!(stranger.connect(address).refused(&opening(Purpose::Link(posing))).reason, STRANGER);
    assert!(running.log().contains("poses as another node"));
}

#[test]
fn another_cluster_history_node_or_version_is_refused() {
    let (running, address) = start();
    running.managed(&["form", "--label", "test"]);
    let stranger = Stranger::of(&running.path("data/installation"), NAME);
    let link = link(&running);
    let cases = [
        (Link { cluster: vec![1; 16], ..link.clone() }, OTHER_CLUSTER),
        (Link { cluster: Vec::new(), ..link.clone() }, OTHER_CLUSTER),
        (Link { incarnation: vec![1; 16], ..link.clone() }, OTHER_HISTORY),
        (Link { to: link.to ^ 1, ..link.clone() }, OTHER_NODE),
    ];
    for (link, reason) in cases {
        assert_eq!(stranger.connect(address).refused(&opening(Purpose::Link(link))).reason, reason);
    }
    for (oldest_version, newest_version) in [(NEWEST + 1, NEWEST + 2), (0, 0)] {
        let mut other = opening(Purpose::Link(link.clone()));
        (other.oldest_version, other.newest_version) = (oldest_version, newest_version);
        let refused = stranger.connect(address).refused(&other);
        assert_eq!((refused.reason, refused.newest_version), (VERSION, NEWEST));
    }
}

#[test]
fn hostile_octets_at_the_peer_port_are_answered_and_harm_nobody() {
    let (running, address) = start();
    running.managed(&["form", "--label", "test"]);
    let stranger = Stranger::of(&running.path("data/installation"), NAME);
    for (octets, reason) in [
        (&b"\0\0\0\x04\xff\xff\xff\xff"[..], MALFORMED),
        // An empty message speaks version 0.
        (b"\0\0\0\0", VERSION),
        (b"\0\0\x40\x01", TOO_LONG),
        (b"\xff\xff\xff\xff", TOO_LONG),
    ] {
        let refused = refusal(stranger.connect(address).say(octets).unwrap());
        assert_eq!(refused.reason, reason, "{octets:?}");
    }
    // Cut off in the middle of a length, of a message, before any octet; and no TLS at all.
    for octets in [&b"\0\0"[..], b"\0\0\0\x20half", b""] {
        drop(stranger.connect(address).say(octets));
    }
    let mut plain = TcpStream::connect(address).unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    plain.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    drop(plain.read_to_end(&mut Vec::new()));
    assert_eq!(running.status()["lifecycle"], "uninitialized");
}

#[test]
fn silent_connections_at_the_peer_port_do_not_shut_others_out_for_long() {
    let (running, address) = start();
    running.managed(&["form", "--label", "test"]);
    let silent: Vec<_> = (0..200).map(|_| TcpStream::connect(address).unwrap()).collect();
    std::thread::sleep(Duration::from_secs(6));
    let stranger = Stranger::of(&running.path("data/installation"), NAME);
    assert_eq!(stranger.connect(address).refused(&opening(Purpose::Link(link(&running)))).reason, STRANGER);
    drop(silent);
}

#[test]
fn a_forged_or_replayed_join_is_refused_and_nobody_is_admitted() {
    let (running, address) = start();
    running.managed(&["form", "--label", "test"]);
    let stranger = Stranger::of(&running.path("data/installation"), NAME);
    let newcomer = newcomer();
    let statement = |exported: [u8; 32]| [b"kagimori join 1\0".as_slice(), &exported, &newcomer].concat();

    let mut first = stranger.connect(address);
    let proof = stranger.sign(&statement(first.exported()));
    let other = Stranger::of(&running.path("data/installation"), NAME).sign(&statement(first.exported()));
    for forged in [Vec::new(), vec![0; 96], other] {
        let join = Join { newcomer: newcomer.clone(), proof: forged };
        assert_eq!(stranger.connect(address).refused(&opening(Purpose::Join(join))).reason, PROOF);
    }
    // The proof is good on the first connection alone, and only for what it was made over.
    let replayed = Join { newcomer: newcomer.clone(), proof: proof.clone() };
    assert_eq!(stranger.connect(address).refused(&opening(Purpose::Join(replayed))).reason, PROOF);
    let altered = Newcomer { zone: "b".to_owned(), ..Newcomer::decode(newcomer.as_slice()).unwrap() }.encode_to_vec();
    assert_eq!(first.refused(&opening(Purpose::Join(Join { newcomer: altered, proof }))).reason, PROOF);
    assert_eq!(running.status()["members"].as_array().unwrap().len(), 1);
}

#[test]
fn a_newcomer_whose_fields_are_over_their_limits_is_refused_by_the_log() {
    let (running, address) = start();
    running.managed(&["form", "--label", "test"]);
    let stranger = Stranger::of(&running.path("data/installation"), NAME);
    let newcomer =
        Newcomer { zone: "z".repeat(33), ..Newcomer::decode(newcomer().as_slice()).unwrap() }.encode_to_vec();
    let mut connection = stranger.connect(address);
    let proof = stranger.sign(&[b"kagimori join 1\0".as_slice(), &connection.exported(), &newcomer].concat());
    let refused = connection.refused(&opening(Purpose::Join(Join { newcomer, proof })));
    assert_eq!((refused.reason, refused.code), (LOG, ErrorCode::Malformed as u32));
    assert_eq!(running.status()["members"].as_array().unwrap().len(), 1);
}

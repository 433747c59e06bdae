//! What connections promise whatever the other side does, shown on socket pairs with requests that do nothing.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hsm_protocol::frame::{self, Header};
use hsm_protocol::{ErrorCode, limits as protocol, wire};
use parking_lot::Mutex;
use prost::Message;

use super::channel::Channel;
use super::courier::Courier;
use super::late::LateReply;
use super::limits::UNSENT_BYTES;
use super::link::Link;
use super::pace::Busy;
use super::reader::{self, End, Requests};
use super::replies::Replies;
use super::socket::Socket;
use crate::peer::{Peer, PeerCredentials, Source};

/// Method of requests that stay open until the test answers them.
const LATE: u16 = 99;
/// Method of requests that are answered with a mebibyte.
const LARGE: u16 = 98;

/// Answers small requests with their own body, and keeps late ones.
#[derive(Clone, Default)]
struct Echo {
    kept: Arc<Mutex<Vec<LateReply>>>,
    answered: Arc<AtomicUsize>,
    link: Arc<Mutex<Option<Arc<Link>>>>,
}

impl Requests for Echo {
    fn ready(&mut self) {}

    fn answer(&mut self, header: Header, body: &[u8], replies: &mut Replies) {
        let link = self.link.lock().clone().unwrap();
        let reply = match header.method {
            LATE => match LateReply::begin(&link, header, body.len()) {
                Some(late) => return self.kept.lock().push(late),
                None => failure(ErrorCode::Busy),
            },
            LARGE => bytes(vec![7; 1024 * 1024]),
            _ => bytes(body.to_vec()),
        };
        self.answered.fetch_add(1, Ordering::Relaxed);
        replies.push(header, &reply);
    }

    fn is_idle(&self) -> bool {
        true
    }
}

fn bytes(data: Vec<u8>) -> wire::Reply {
    let body = wire::reply::Body::Bytes(wire::BytesReply { data, iv: Vec::new() });
    wire::Reply { body: Some(body), ..Default::default() }
}

fn failure(code: ErrorCode) -> wire::Reply {
    let body = wire::reply::Body::Failure(wire::Failure { code: code as u32, ..Default::default() });
    wire::Reply { body: Some(body), ..Default::default() }
}

/// A connection whose reading thread runs, and the client's end of it.
struct Fixture {
    client: UnixStream,
    echo: Echo,
    thread: std::thread::JoinHandle<End>,
}

fn start(stall_time: Duration) -> Fixture {
    let (client, server) = UnixStream::pair().unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let peer = Peer::unwatched(Source::Local(PeerCredentials { process: 1, user: 1, group: 1 }));
    let courier = Courier::start(stall_time).unwrap();
    let link = Link::new(1, peer, Socket::Unix(server), Channel::Clear, courier);
    let echo = Echo::default();
    *echo.link.lock() = Some(Arc::clone(&link));
    let mut requests = echo.clone();
    let thread = std::thread::spawn(move || reader::run(&link, &mut requests, &Busy::default()));
    Fixture { client, echo, thread }
}

fn started() -> Fixture {
    start(Duration::from_secs(10))
}

fn request(method: u16, request_id: u64, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let message = wire::SeedRandom { seed: data.to_vec() };
    frame::append(&mut out, Header { method, request_id }, &message).unwrap();
    out
}

/// Reads one reply.
fn read_reply(client: &mut UnixStream) -> (Header, wire::Reply) {
    let mut buffer = vec![0; 4];
    client.read_exact(&mut buffer).unwrap();
    let length = u32::from_be_bytes(buffer[..4].try_into().unwrap()) as usize;
    buffer.resize(4 + length, 0);
    client.read_exact(&mut buffer[4..]).unwrap();
    let frame = frame::parse(&buffer).unwrap().unwrap();
    (frame.header, wire::Reply::decode(frame.body).unwrap())
}

fn is_failure(reply: &wire::Reply, code: ErrorCode) -> bool {
    matches!(&reply.body, Some(wire::reply::Body::Failure(failure)) if failure.code == code as u32)
}

fn reads_end(client: &mut UnixStream) -> bool {
    matches!(client.read(&mut [0; 1]), Ok(0) | Err(_))
}

#[test]
fn requests_in_one_write_are_all_answered_in_order() {
    let mut fixture = started();
    let batch: Vec<u8> = (0..5000).flat_map(|id| request(1, id, b"x")).collect();
    let mut writer = fixture.client.try_clone().unwrap();
    let writing = std::thread::spawn(move || writer.write_all(&batch).unwrap());
    for id in 0..5000 {
        assert_eq!(read_reply(&mut fixture.client).0.request_id, id);
    }
    writing.join().unwrap();
    drop(fixture.client);
    assert!(matches!(fixture.thread.join().unwrap(), End::Closed));
}

#[test]
fn a_request_that_comes_byte_by_byte_is_answered() {
    let mut fixture = started();
    for byte in request(1, 7, b"slowly") {
        fixture.client.write_all(&[byte]).unwrap();
    }
    assert_eq!(read_reply(&mut fixture.client).0.request_id, 7);
}

#[test]
fn a_frame_error_closes_the_connection_after_the_replies_before_it() {
    for hostile in [
        (protocol::FRAME_LIMIT + 1).to_be_bytes().to_vec(),
        11u32.to_be_bytes().to_vec(),
        [&12u32.to_be_bytes()[..], &[9, 0]].concat(),
        [&12u32.to_be_bytes()[..], &[1, 0x80]].concat(),
    ] {
        let mut fixture = started();
        fixture.client.write_all(&[request(1, 1, b"good"), hostile].concat()).unwrap();
        assert_eq!(read_reply(&mut fixture.client).0.request_id, 1);
        assert!(reads_end(&mut fixture.client));
        assert!(matches!(fixture.thread.join().unwrap(), End::Frame(_)));
    }
}

#[test]
fn a_truncated_frame_ends_as_broken_off() {
    let mut fixture = started();
    let whole = request(1, 1, b"whole");
    fixture.client.write_all(&whole[..whole.len() - 1]).unwrap();
    drop(fixture.client);
    assert!(matches!(fixture.thread.join().unwrap(), End::BrokenOff));
}

#[test]
fn random_bytes_never_harm_more_than_their_own_connection() {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..500 {
        let fixture = started();
        for _ in 0..20 {
            let length = usize::try_from(next() % 64).unwrap();
            let noise: Vec<u8> = (0..length).map(|_| next().to_le_bytes()[0]).collect();
            if (&fixture.client).write_all(&noise).is_err() {
                break;
            }
        }
        drop(fixture.client);
        assert!(!matches!(fixture.thread.join().unwrap(), End::Idle));
    }
}

#[test]
fn the_request_after_the_limit_in_flight_is_busy_and_the_others_are_answered_later() {
    let mut fixture = started();
    let limit = u64::from(protocol::REQUESTS_IN_FLIGHT);
    let batch: Vec<u8> = (0..=limit).flat_map(|id| request(LATE, id, b"")).collect();
    fixture.client.write_all(&batch).unwrap();
    let (header, reply) = read_reply(&mut fixture.client);
    assert_eq!(header.request_id, limit);
    assert!(is_failure(&reply, ErrorCode::Busy));
    // Short requests go on meanwhile.
    fixture.client.write_all(&request(1, 5000, b"short")).unwrap();
    assert_eq!(read_reply(&mut fixture.client).0.request_id, 5000);
    for (position, late) in std::mem::take(&mut *fixture.echo.kept.lock()).into_iter().enumerate() {
        if position % 2 == 0 { late.give(&bytes(vec![1])) } else { late.give_by_courier(&bytes(vec![1])) }
    }
    let mut answered: Vec<u64> = (0..limit).map(|_| read_reply(&mut fixture.client).0.request_id).collect();
    answered.sort_unstable();
    assert!(answered.into_iter().eq(0..limit));
    fixture.client.write_all(&request(LATE, 6000, b"")).unwrap();
    fixture.client.write_all(&request(1, 6001, b"")).unwrap();
    assert_eq!(read_reply(&mut fixture.client).0.request_id, 6001, "there is room again");
}

#[test]
fn a_request_whose_worker_fails_is_answered_that_its_outcome_is_unknown() {
    let mut fixture = started();
    fixture.client.write_all(&request(LATE, 3, b"")).unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    while fixture.echo.kept.lock().is_empty() && Instant::now() < until {
        std::thread::yield_now();
    }
    fixture.echo.kept.lock().clear();
    let (header, reply) = read_reply(&mut fixture.client);
    assert_eq!(header.request_id, 3);
    assert!(is_failure(&reply, ErrorCode::Unknown));
}

#[test]
fn a_client_that_reads_nothing_is_cut_off_and_costs_bounded_memory() {
    let fixture = start(Duration::from_millis(200));
    let mut writer = fixture.client.try_clone().unwrap();
    writer.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    // A hundred mebibytes of replies are asked for and none is read.
    let batch: Vec<u8> = (0..100).flat_map(|id| request(LARGE, id, b"")).collect();
    writer.write_all(&batch).unwrap();
    assert!(matches!(fixture.thread.join().unwrap(), End::Ended));
    let made = fixture.echo.answered.load(Ordering::Relaxed);
    assert!(made * 1024 * 1024 <= UNSENT_BYTES + 4 * 1024 * 1024, "{made} replies were made for nobody");
}

#[test]
fn a_slow_client_gets_every_reply() {
    let mut fixture = start(Duration::from_secs(5));
    let batch: Vec<u8> = (0..20).flat_map(|id| request(LARGE, id, b"")).collect();
    fixture.client.write_all(&batch).unwrap();
    for id in 0..20 {
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(read_reply(&mut fixture.client).0.request_id, id);
    }
}

#[test]
fn late_replies_are_still_given_after_the_client_has_ended_its_side() {
    let mut fixture = started();
    fixture.client.write_all(&request(LATE, 3, b"")).unwrap();
    fixture.client.shutdown(std::net::Shutdown::Write).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    for late in std::mem::take(&mut *fixture.echo.kept.lock()) {
        late.give_by_courier(&bytes(vec![2]));
    }
    assert_eq!(read_reply(&mut fixture.client).0.request_id, 3);
    assert!(reads_end(&mut fixture.client));
}

//! What an operator sees: one call by its number in every log, the members in the metrics, the rates in the status.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Once;
use std::time::Duration;

use hsm_client::Cluster as Client;
use hsm_protocol::Role;

use crate::health::get;
use crate::peers::free_address;
use crate::several::{ADMIN, Cluster, eventually, log_in, make_pair, sign, sign_in_the_end};
use crate::support::Running;

/// Every request in the log.
const LOUD: [&str; 2] = ["--log", "info,openraft=warn,request=debug"];

thread_local!(static LOG: RefCell<Option<File>> = const { RefCell::new(None) });

/// Writes to the log of the thread that logs: the library has no threads of its own, and tests run side by side.
struct LogOfThread;

impl Write for LogOfThread {
    fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
        LOG.with_borrow_mut(|log| log.as_mut().map_or(Ok(octets.len()), |log| log.write(octets)))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Runs `work` while what the client library logs on this thread goes to a file, and gives the file's lines.
fn logged(path: &Path, work: impl FnOnce()) -> Vec<String> {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let builder = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_ansi(false);
        builder.with_writer(|| LogOfThread).init();
    });
    LOG.set(Some(File::create(path).unwrap()));
    work();
    LOG.set(None);
    std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

/// The number in the last line that says this.
fn number_of(lines: &[String], said: &str) -> String {
    let line = lines.iter().rev().find(|line| line.contains(said)).unwrap_or_else(|| panic!("{said}: {lines:#?}"));
    let number = line.split("trace=").nth(1).unwrap_or_else(|| panic!("no number: {line}"));
    number[..16].to_owned()
}

/// `grep NUMBER` over the log of an HSM.
fn found(cluster: &Cluster, at: usize, number: &str) -> Vec<String> {
    cluster.hsms[at].log().lines().filter(|line| line.contains(number)).map(str::to_owned).collect()
}

fn leader(cluster: &Cluster) -> usize {
    let leads = |at: usize| {
        let status = cluster.hsms[at].status();
        status["members"].as_array().unwrap().iter().any(|member| member["here"] == true && member["leads"] == true)
    };
    let mut found = None;
    eventually("a leader", || {
        found = (0..cluster.hsms.len()).find(|&at| leads(at));
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn one_number_tells_the_story_of_a_call_in_the_logs_of_the_application_and_of_every_hsm_that_worked_on_it() {
    let cluster = Cluster::loud(3, &LOUD);
    cluster.activate(0);
    let leader = leader(&cluster);
    let (follower, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let client = cluster.pinned_client(follower);
    let login = log_in(&client);
    let mut key = None;
    let file = cluster.hsms[0].path("application.log");
    let lines = logged(&file, || key = Some(make_pair(&client, &login).1));
    let number = number_of(&lines, "a call is done");
    assert!(lines.iter().any(|line| line.contains(&number) && line.contains("answered")), "{lines:#?}");
    // The HSM that served it, the one that put it into the log for that one, and nobody else.
    let served = found(&cluster, follower, &number);
    assert!(served.iter().any(|line| line.contains("served") && line.contains("generate_key_pair")), "{served:#?}");
    let led = found(&cluster, leader, &number);
    assert!(
        led.iter().any(|line| line.contains("forwarded to this leader") && line.contains("in the log")),
        "{led:#?}"
    );
    assert!(found(&cluster, other, &number).is_empty());
    // What is read where it is asked concerns one HSM only.
    let key = key.unwrap();
    let lines = logged(&file, || drop(sign(&client, &login, &key).unwrap()));
    let number = number_of(&lines, "a call is done");
    let served = found(&cluster, follower, &number);
    assert!(
        served.iter().any(|line| line.contains("operation=\"sign\"") && line.contains("outcome=done")),
        "{served:#?}"
    );
    assert!(found(&cluster, leader, &number).is_empty());
}

#[test]
fn a_call_that_went_to_a_second_hsm_has_the_same_number_there() {
    let mut cluster = Cluster::loud(3, &LOUD);
    cluster.activate(0);
    let leader = leader(&cluster);
    let (victim, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let client = cluster.pinned_client(victim);
    let login = log_in(&client);
    let (_, key) = make_pair(&client, &login);
    sign_in_the_end(&client, &login, &key);
    // Frozen and not killed: the call is sent, and nobody answers.
    let process = rustix::process::Pid::from_child(&cluster.hsms[victim].child);
    rustix::process::kill_process(process, rustix::process::Signal::STOP).unwrap();
    let file = cluster.hsms[0].path("application.log");
    let lines = logged(&file, || (0..40).for_each(|_| drop(sign(&client, &login, &key).unwrap())));
    let number = number_of(&lines, "an attempt did not succeed");
    let of_it: Vec<_> = lines.iter().filter(|line| line.contains(&number)).collect();
    assert!(of_it.iter().any(|line| line.contains("a call is done")), "{of_it:#?}");
    let served = [leader, other].map(|at| found(&cluster, at, &number).len());
    assert!(served.iter().sum::<usize>() > 0, "{number} {of_it:#?}");
    cluster.hsms[victim].kill();
}

pub(crate) fn metrics(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The value of the metric that begins so.
pub(crate) fn value(metrics: &str, name: &str) -> Option<f64> {
    let line = metrics.lines().find(|line| !line.starts_with('#') && line.starts_with(name))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn metrics_show_every_member_and_what_each_does() {
    let mut cluster = Cluster::blank(0);
    let addresses: Vec<_> = (0..3).map(|_| free_address()).collect();
    addresses.iter().for_each(|address| cluster.start(&["--health", &address.to_string()]));
    cluster.unite();
    cluster.activate(0);
    let leader = leader(&cluster);
    let at = (leader + 1) % 3;
    let client = cluster.pinned_client(at);
    let login = log_in(&client);
    let (_, key) = make_pair(&client, &login);
    (0..100).for_each(|_| drop(sign(&client, &login, &key).unwrap()));
    let page = metrics(addresses[at]);
    for (name, expected) in [("kagimori_members ", 3.0), ("kagimori_voters ", 3.0), ("kagimori_has_leader ", 1.0)] {
        assert_eq!(value(&page, name), Some(expected), "{name}{page}");
    }
    assert_eq!(value(&page, "kagimori_request_seconds_count{operation=\"sign\"}"), Some(100.0));
    assert_eq!(value(&page, "kagimori_serving{state=\"leased\"}"), Some(1.0));
    assert!(value(&page, "kagimori_lease_seconds ").is_some_and(|left| left > 0.0 && left <= 4.0), "{page}");
    let led = metrics(addresses[leader]);
    assert_eq!((value(&led, "kagimori_leads "), value(&page, "kagimori_leads ")), (Some(1.0), Some(0.0)));
    eventually("the leader's word on the others", || {
        let page = metrics(addresses[leader]);
        let lines = |name: &str| page.lines().filter(|line| line.starts_with(&format!("{name}{{"))).count();
        lines("kagimori_member_hashes_agree") == 2 && lines("kagimori_member_lease_seconds") >= 2
    });
    // Of a member that is gone the silence grows.
    cluster.hsms[at].kill();
    let gone = cluster.hsms[leader].status()["members"].as_array().unwrap()[0].clone();
    assert!(gone["hsm"].is_string());
    std::thread::sleep(Duration::from_secs(4));
    let page = metrics(addresses[leader]);
    let silent = page.lines().filter(|line| line.starts_with("kagimori_member_silent_seconds{"));
    let most = silent.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).fold(0.0, f64::max);
    assert!(most > 3.0, "{page}");
}

#[test]
fn an_hsm_that_may_use_no_key_is_not_ready_and_its_log_says_why() {
    let mut cluster = Cluster::blank(0);
    let address = free_address();
    cluster.start(&["--health", &address.to_string()]);
    (1..3).for_each(|_| cluster.start(&[]));
    cluster.unite();
    cluster.activate(0);
    let client = cluster.client(0);
    let admin = client.log_in("admin", Role::Admin, ADMIN).unwrap();
    client.set_isolation_window(&admin, 6).unwrap();
    let is = |status: &str| get(address, "/health/ready").starts_with(status);
    eventually("readiness", || is("HTTP/1.1 200"));
    [1, 2].iter().for_each(|&at| cluster.hsms[at].kill());
    eventually("the end of the window", || is("HTTP/1.1 503"));
    assert!(get(address, "/health/live").starts_with("HTTP/1.1 200"));
    [1, 2].iter().for_each(|&at| cluster.hsms[at].restart());
    eventually("readiness again", || is("HTTP/1.1 200"));
    let log = cluster.hsms[0].log();
    for line in ["goes on with the keys and sessions", "uses no key until", "a majority is heard again"] {
        eventually(line, || cluster.hsms[0].log().contains(line));
    }
    assert!(!log.contains("openraft"), "{log}");
}

#[test]
fn the_status_of_a_cluster_has_the_rates_of_the_hsm_that_answers() {
    let cluster = Cluster::of(1);
    cluster.activate(0);
    let client = cluster.client(0);
    let login = log_in(&client);
    let (_, key) = make_pair(&client, &login);
    // The first sample is taken within the process's round of two seconds.
    std::thread::sleep(Duration::from_secs(3));
    (0..50).for_each(|_| drop(sign(&client, &login, &key).unwrap()));
    let admin = client.log_in("admin", Role::Admin, ADMIN).unwrap();
    let members = client.list_members(&admin).unwrap();
    let rate = members.rates.iter().find(|rate| rate.operation == "sign").unwrap();
    assert!(
        rate.count >= 50 && members.rates_milliseconds >= 1_000,
        "{} in {}",
        rate.count,
        members.rates_milliseconds
    );
    assert!(rate.median_microseconds > 0 && rate.median_microseconds <= rate.ninety_ninth_microseconds);
}

impl Cluster {
    /// HSMs with these further arguments, as one initialised cluster.
    fn loud(count: usize, extra: &[&str]) -> Self {
        let mut cluster = Self::blank(0);
        (0..count).for_each(|_| cluster.start(extra));
        cluster.unite();
        cluster
    }

    /// A client that prefers this HSM, which is the only one in its zone, and knows where the others are.
    pub(crate) fn pinned_client(&self, at: usize) -> Client {
        // An HSM tells the cluster its address some moments after it joined.
        eventually("addresses for clients", || {
            let known = self.client(at).cluster_info().unwrap();
            let known: BTreeSet<_> = known.members.into_iter().map(|member| member.address).collect();
            let own = |hsm: &Running| hsm.status()["client_address"].as_str().unwrap().to_owned();
            known == self.hsms.iter().map(own).collect()
        });
        let mut configuration = self.configuration(&[at]);
        configuration.zone = Some(format!("zone-{at}"));
        Client::new(configuration)
    }
}

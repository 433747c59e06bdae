//! The largest cluster: 28 HSMs. Prints what it takes, for `--nocapture`.

use std::time::{Duration, Instant};

use hsm_protocol::limits::MEMBERS;

use crate::several::{Cluster, eventually, log_in, make_pair, sign};

const CALL: Duration = Duration::from_secs(20);

/// Kibibytes of memory of a process that belong to it alone, and all that it has in memory.
fn memory(process: u32) -> (u64, u64) {
    let text = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap();
    let of = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    (of("Private_Clean:") + of("Private_Dirty:"), of("Rss:"))
}

#[test]
fn twenty_eight_hsms_are_one_cluster_a_client_signs_through_each_and_a_twenty_ninth_is_refused_by_name() {
    let count = usize::try_from(MEMBERS).unwrap();
    let began = Instant::now();
    let mut cluster = Cluster::blank(count);
    println!("{count} processes started after {:.1?}", began.elapsed());
    cluster.hsms[0].initialise();
    cluster.activate(0);
    let first = cluster.bound_client(0, CALL);
    let login = log_in(&first);
    let (_, key) = make_pair(&first, &login);
    let began = Instant::now();
    for at in 1..count {
        cluster.join(at);
    }
    println!("{} HSMs joined in {:.1?}", count - 1, began.elapsed());
    eventually("that five vote", || cluster.voters(0) == 5);
    for at in 0..count {
        let client = cluster.bound_client(at, CALL);
        eventually("a roster of all", || cluster.members(at).len() == count);
        eventually("a signature", || sign(&client, &login, &key).is_ok());
    }
    // What one made, all use.
    let (_, another) = make_pair(&cluster.bound_client(count - 1, CALL), &login);
    for at in 0..count {
        let client = cluster.bound_client(at, CALL);
        eventually("a signature", || sign(&client, &login, &another).is_ok());
    }
    let all: Vec<usize> = (0..count).collect();
    cluster.are_equal(&all);
    let used: Vec<_> = cluster.hsms.iter().map(|hsm| memory(hsm.child.id())).collect();
    let sum = used.iter().map(|(own, _)| own).sum::<u64>();
    let largest = used.iter().map(|(_, all)| all).max().unwrap();
    println!("own memory of all: {} MiB; the largest has {} MiB in memory", sum / 1024, largest / 1024);

    cluster.start(&[]);
    let name = cluster.hsms[count].status()["hsm"].as_str().unwrap().to_owned();
    let member = cluster.addresses[0].to_string();
    let said = cluster.hsms[count].refused(&["join", "--member", &member]);
    assert!(said.contains("as many HSMs as its admission rule allows (28 at most)"), "{said}");
    let named = cluster.hsms[0].log();
    assert!(named.lines().any(|line| line.contains(&name) && line.contains("refused")), "the member does not name it");
    assert_eq!(cluster.members(0).len(), count);
}

//! Disks of a cluster that are full.

use std::io::Write as _;
use std::path::Path;

use crate::process::SmallDisk;
use crate::several::{Cluster, eventually, log_in, try_make_secret_key};
use crate::support::{PROGRAM, folder};

/// What a filled disk still has: less than an HSM demands for leading, and enough for what the others decide meanwhile.
const LEFT: u64 = 2 * 1024 * 1024;

fn fill(data: &Path) {
    let mut file = std::fs::File::create(data.join("filler")).unwrap();
    while file.write_all(&[0; 65_536]).is_ok() {}
    let length = file.metadata().unwrap().len();
    file.set_len(length - LEFT).unwrap();
}

#[test]
fn an_hsm_whose_disk_is_full_gives_the_lead_away_and_no_application_sees_it() {
    let mut cluster = Cluster::blank(0);
    let mut disks = Vec::new();
    for _ in 0..3 {
        let outer = folder();
        let Some(disk) = SmallDisk::mount(outer.path().join("data"), "64m") else { return };
        disks.push(disk);
        cluster.start_in(outer, Path::new(PROGRAM), &[]);
    }
    cluster.unite();
    cluster.activate(0);
    eventually("that somebody leads", || cluster.leader(0).is_some());
    let full = cluster.leader(0).unwrap();
    // One that knows the full one alone, which forwards what it is asked, and one that knows all.
    let clients = [cluster.bound_client(full, std::time::Duration::from_secs(20)), cluster.client_of(&[0, 1, 2])];
    let logins = clients.each_ref().map(log_in);
    fill(&cluster.hsms[full].path("data"));
    for _ in 0..40 {
        for (client, login) in clients.iter().zip(&logins) {
            try_make_secret_key(client, login).unwrap();
        }
    }
    let other = (full + 1) % 3;
    eventually("that another one leads", || cluster.leader(other).is_some_and(|leader| leader != full));
    let leader = cluster.leader(other);
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(cluster.leader(other), leader, "and goes on leading");
    std::fs::remove_file(cluster.hsms[full].path("data/filler")).unwrap();
    cluster.are_equal(&[0, 1, 2]);
}

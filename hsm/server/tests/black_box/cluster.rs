//! Several HSMs that are one cluster: joining, using, losing, removing, coming back.

use std::time::Duration;

use crate::peers::free_address;
use crate::several::{CLIENT_PORT, Cluster, copy, eventually, log_in, make_pair, sign_in_the_end};
use crate::support::{Running, folder, replace};

#[test]
fn three_hsms_are_one_cluster_and_a_key_made_through_one_signs_on_another() {
    let cluster = Cluster::of(3);
    cluster.activate(0);
    for at in 0..3 {
        eventually("a roster of three", || cluster.members(at).len() == 3);
        let status = cluster.hsms[at].status();
        assert_eq!(status["cluster"], cluster.hsms[0].status()["cluster"]);
        assert_eq!(status["sandbox"], "full");
        let here = status["members"].as_array().unwrap().iter().find(|member| member["here"] == true).unwrap().clone();
        assert_eq!(here["zone"], format!("zone-{at}"));
        assert_eq!(here["peer_address"], cluster.addresses[at].to_string());
    }
    // Made through one that joined, used through the two others: by the same person in sessions of his own.
    let (second, login) = (cluster.client(1), log_in(&cluster.client(1)));
    let (_, private) = make_pair(&second, &login);
    for at in [0, 2] {
        let client = cluster.client(at);
        sign_in_the_end(&client, &log_in(&client), &private);
    }
}

#[test]
fn a_cluster_outlives_the_kill_of_any_hsm_and_takes_it_back() {
    let mut cluster = Cluster::of(3);
    cluster.activate(0);
    let (first, login) = (cluster.client(0), log_in(&cluster.client(0)));
    let (_, key) = make_pair(&first, &login);
    drop((first, login));
    for killed in 0..3 {
        cluster.hsms[killed].kill();
        let survivor = cluster.client((killed + 1) % 3);
        let login = log_in(&survivor);
        sign_in_the_end(&survivor, &login, &key);
        let (_, another) = make_pair(&survivor, &login);
        cluster.hsms[killed].restart();
        let returned = cluster.client(killed);
        sign_in_the_end(&returned, &log_in(&returned), &another);
    }
}

#[test]
fn an_hsm_of_another_installation_is_refused_and_told_why() {
    let cluster = Cluster::of(1);
    let (address, port) = (free_address().to_string(), cluster.addresses[0].port().to_string());
    let stranger = Running::start(&["--peer-listen", &address, "--peer-ports", &port]);
    let said = stranger.refused(&["join", "--member", &cluster.addresses[0].to_string()]);
    assert!(said.contains("another installation") && said.contains("--installation"), "{said}");
    // The newcomer refuses the member as much as the member would refuse it, so the member never sees its name.
    eventually("that the member refuses it too", || cluster.hsms[0].log().contains("UnknownCA"));
    assert_eq!(cluster.members(0).len(), 1);
}

#[test]
fn a_join_that_cannot_be_says_what_to_do() {
    let mut cluster = Cluster::blank(2);
    let first = cluster.addresses[0].to_string();
    assert!(cluster.hsms[1].refused(&["join", "--member", &first]).contains("belongs to no cluster yet"));
    assert!(cluster.hsms[1].refused(&["join", "--member", "127.0.0.1:9"]).contains("--peer-ports"));
    let nobody = cluster.addresses[3].to_string();
    assert!(cluster.hsms[1].refused(&["join", "--member", &nobody]).contains("cannot be reached"));
    cluster.hsms[0].initialise();
    assert!(cluster.hsms[0].refused(&["join", "--member", &first]).contains("belongs to a cluster already"));
    // Somebody else is where clients would find it: it is not even asked for.
    let place = std::net::SocketAddr::from((cluster.addresses[1].ip(), CLIENT_PORT));
    let taken = std::net::TcpListener::bind(place).unwrap();
    assert!(cluster.hsms[1].refused(&["join", "--member", &first]).contains("cannot listen on"));
    assert_eq!(cluster.hsms[0].status()["members"].as_array().unwrap().len(), 1);
    drop(taken);
    // One that is down first, and it works all the same; a second time there is nothing to join.
    cluster.hsms[1].managed(&["join", "--member", &nobody, "--member", &first]);
    assert!(cluster.hsms[1].refused(&["join", "--member", &first]).contains("belongs to a cluster already"));
    let alone = Running::start(&[]);
    assert!(alone.refused(&["join", "--member", &first]).contains("--peer-listen"));
    cluster.hsms[1].kill();
}

#[test]
fn an_hsm_that_leaves_destroys_what_it_had_and_is_a_stranger_afterwards() {
    let mut cluster = Cluster::of(3);
    let name = cluster.hsms[2].status()["hsm"].as_str().unwrap().to_owned();
    cluster.hsms[2].managed(&["leave"]);
    assert_eq!(cluster.hsms[2].wait().code(), Some(15));
    for file in ["master.seal", "root.key", "identity.seal", "store.redb", "hsm.id"] {
        assert!(!cluster.hsms[2].path(&format!("data/{file}")).exists(), "{file} is still there");
    }
    eventually("a roster of two", || cluster.members(0).len() == 2 && cluster.members(1).len() == 2);
    cluster.hsms[2].restart();
    let status = cluster.hsms[2].status();
    assert_eq!(status["lifecycle"], "none");
    assert_ne!(status["hsm"], name);
    cluster.join(2);
    eventually("a roster of three", || cluster.members(0).len() == 3);
}

#[test]
fn the_last_hsm_cannot_leave() {
    let cluster = Cluster::of(1);
    assert!(cluster.hsms[0].refused(&["leave"]).contains("last HSM"));
    assert_eq!(cluster.hsms[0].status()["lifecycle"], "initialized");
}

#[test]
fn an_hsm_that_was_removed_while_it_was_away_learns_it_and_destroys_its_keys() {
    removed_while_away(|hsm| assert!(hsm.terminate().success()));
}

#[test]
fn an_hsm_that_was_removed_before_its_state_was_on_its_disk_learns_it_too() {
    removed_while_away(Running::kill);
}

fn removed_while_away(end: impl FnOnce(&mut Running)) {
    let mut cluster = Cluster::of(3);
    // Its folder is kept as it was, as a thief or a backup would keep it.
    end(&mut cluster.hsms[2]);
    let (data, kept) = (cluster.hsms[2].path("data"), cluster.hsms[2].path("kept"));
    copy(&data, &kept);
    cluster.hsms[2].restart();
    eventually("the return", || cluster.hsms[2].status()["lifecycle"] == "initialized");
    // It has just started, and may not have heard from the leader yet.
    eventually("leaving", || cluster.hsms[2].manage(&["leave"]).status.success());
    cluster.hsms[2].wait();
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&kept, &data).unwrap();
    cluster.hsms[2].spawn();
    assert_eq!(cluster.hsms[2].wait().code(), Some(15), "{}", cluster.hsms[2].log());
    assert!(!cluster.hsms[2].path("data/master.seal").exists());
    let name = cluster.hsms[2].log();
    assert!(name.contains("no member of the cluster any more"), "{name}");
}

#[test]
fn an_hsm_whose_disk_was_wiped_returns_under_its_name_without_approval() {
    let mut cluster = Cluster::of(3);
    cluster.activate(0);
    let name = cluster.hsms[2].status()["hsm"].clone();
    let node = |cluster: &Cluster| {
        let status = cluster.hsms[0].status();
        let members = status["members"].as_array().unwrap().clone();
        members.into_iter().find(|member| member["hsm"] == name).unwrap()["node"].clone()
    };
    let before = node(&cluster);
    cluster.hsms[2].kill();
    for file in ["store.redb", "store.mark", "master.seal"] {
        std::fs::remove_file(cluster.hsms[2].path(&format!("data/{file}"))).unwrap();
    }
    cluster.hsms[2].restart();
    cluster.join(2);
    assert_eq!(cluster.members(0).len(), 3);
    assert_ne!(node(&cluster), before, "a node id is never used twice");
    let (first, login) = (cluster.client(0), log_in(&cluster.client(0)));
    let (_, key) = make_pair(&first, &login);
    let returned = cluster.client(2);
    sign_in_the_end(&returned, &log_in(&returned), &key);
}

#[test]
fn an_hsm_whose_disk_was_rolled_back_never_votes_and_returns_by_itself_as_a_new_node() {
    let mut cluster = Cluster::of(3);
    cluster.activate(0);
    eventually("activation everywhere", || cluster.hsms[2].status()["lifecycle"] == "active");
    let name = cluster.hsms[2].status()["hsm"].clone();
    let node = |cluster: &Cluster| {
        let status = cluster.hsms[0].status();
        let members = status["members"].as_array().unwrap().clone();
        members.into_iter().find(|member| member["hsm"] == name).unwrap()["node"].clone()
    };
    let before = node(&cluster);
    cluster.hsms[2].kill();
    let (data, kept) = (cluster.hsms[2].path("data"), cluster.hsms[2].path("kept"));
    copy(&data, &kept);
    cluster.hsms[2].restart();
    let (client, login) = (cluster.client(0), log_in(&cluster.client(0)));
    let (_, key) = make_pair(&client, &login);
    let third = cluster.client(2);
    sign_in_the_end(&third, &log_in(&third), &key);
    // The others write down once a second what they hear of it.
    std::thread::sleep(Duration::from_secs(4));
    cluster.hsms[2].kill();
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&kept, &data).unwrap();
    cluster.hsms[2].restart();
    eventually("a new node", || node(&cluster) != before);
    eventually("the return", || cluster.hsms[2].status()["lifecycle"] == "active");
    assert_eq!(cluster.members(0).len(), 3);
    let third = cluster.client(2);
    sign_in_the_end(&third, &log_in(&third), &key);
}

#[test]
fn a_member_of_several_does_not_start_without_its_peers() {
    let mut cluster = Cluster::of(2);
    cluster.hsms[1].kill();
    let mut alone = crate::support::serve_command(cluster.hsms[1].folder.path(), &[]).spawn().unwrap();
    assert_eq!(crate::support::wait(&mut alone).code(), Some(3), "{}", cluster.hsms[1].log());
    cluster.hsms[1].restart();
}

#[test]
fn a_join_that_was_interrupted_goes_on_by_itself_after_a_restart() {
    let mut cluster = Cluster::of(2);
    cluster.start(&[]);
    // As after a crash between the admission and the state: the addresses are known, and nothing else counts.
    cluster.hsms[2].kill();
    std::fs::write(cluster.hsms[2].path("data/joining"), format!("{}\n", cluster.addresses[0])).unwrap();
    std::fs::write(cluster.hsms[2].path("data/master.seal.joining"), b"half").unwrap();
    std::fs::write(cluster.hsms[2].path("data/store.redb"), b"half").unwrap();
    cluster.hsms[2].restart();
    eventually("the join", || cluster.hsms[2].status()["lifecycle"] == "initialized");
    eventually("a roster of three", || cluster.members(0).len() == 3);
    assert!(!cluster.hsms[2].path("data/joining").exists());
}

#[test]
fn a_witness_joins_without_keys_and_serves_nobody_and_hands_over_nothing() {
    let mut cluster = Cluster::of(2);
    cluster.start(&["--witness"]);
    assert!(cluster.hsms[2].refused(&["form", "--label", "x"]).contains("witness"));
    cluster.join(2);
    let status = cluster.hsms[2].status();
    assert_eq!((&status["witness"], &status["client_address"]), (&true.into(), &"".into()));
    assert_eq!(status["activation_password"], "");
    cluster.start(&[]);
    let said = cluster.hsms[3].refused(&["join", "--member", &cluster.addresses[2].to_string()]);
    assert!(said.contains("a witness and holds no keys"), "{said}");
    // The witness survives a restart as one.
    cluster.hsms[2].restart();
    assert_eq!(cluster.hsms[2].status()["witness"], true);
    eventually("the lifecycle", || cluster.hsms[2].status()["lifecycle"] == "initialized");
}

#[test]
fn a_member_that_moved_is_found_where_it_is_now() {
    let mut cluster = Cluster::of(3);
    cluster.activate(0);
    let moved = cluster.addresses[3].to_string();
    cluster.hsms[1].replace_argument("--peer-listen", &moved);
    cluster.hsms[1].replace_argument("--zone", "elsewhere");
    cluster.hsms[1].restart();
    eventually("the new address", || {
        let status = cluster.hsms[0].status();
        let members = status["members"].as_array().unwrap().clone();
        members.iter().any(|member| member["peer_address"] == moved && member["zone"] == "elsewhere")
    });
    let (first, login) = (cluster.client(0), log_in(&cluster.client(0)));
    let (_, key) = make_pair(&first, &login);
    let client = cluster.client(1);
    sign_in_the_end(&client, &log_in(&client), &key);
}

#[test]
fn two_processes_with_one_identity_do_not_both_take_part() {
    let mut cluster = Cluster::of(3);
    cluster.hsms[2].kill();
    let twin = folder();
    copy(&cluster.hsms[2].path("data"), &twin.path().join("data"));
    cluster.hsms[2].restart();
    eventually("the return", || cluster.members(2).len() == 3);
    std::thread::sleep(Duration::from_secs(3));
    let mut words = cluster.hsms[2].words_with("--peer-listen", &cluster.addresses[4].to_string());
    replace(&mut words, "--unix-socket", &twin.path().join("clients").display().to_string());
    replace(&mut words, "--listen", "127.0.0.1:0");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let second = Running::start_in(twin, &words);
    eventually("the refusal", || cluster.hsms[0].log().contains("another process with the same identity"));
    assert_eq!(cluster.members(0).len(), 3);
    drop(second);
}

#[test]
fn a_leader_may_be_lost_just_after_a_voter_was_removed() {
    let mut cluster = Cluster::of(4);
    cluster.activate(0);
    eventually("that somebody leads", || cluster.leader(0).is_some());
    let leader = cluster.leader(0).unwrap();
    let votes = |cluster: &Cluster, at: usize| {
        let status = cluster.hsms[leader].status();
        let name = cluster.hsms[at].status()["hsm"].clone();
        let members = status["members"].as_array().unwrap().clone();
        members.iter().any(|member| member["hsm"] == name && member["votes"] == true)
    };
    let others: Vec<usize> = (0..4).filter(|&at| at != leader).collect();
    let removed = others.iter().copied().find(|&at| votes(&cluster, at)).unwrap();
    let left: Vec<usize> = others.into_iter().filter(|&at| at != removed).collect();
    let client = cluster.client_of(&left);
    let login = log_in(&client);
    assert!(cluster.hsms[removed].manage(&["leave"]).status.success());
    // Its vote is taken away a moment later, by whoever leads; of the three that vote now, only one more is there.
    cluster.hsms[leader].kill();
    let began = std::time::Instant::now();
    make_pair(&client, &login);
    eprintln!("the next write was done after {:.1?}", began.elapsed());
    assert_eq!(cluster.hsms[removed].wait().code(), Some(15), "{}", cluster.hsms[removed].log());
    assert!(!cluster.hsms[removed].path("data/master.seal").exists());
    cluster.hsms[leader].restart();
    cluster.are_equal(&[left[0], left[1], leader]);
}

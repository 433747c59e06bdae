//! Two of three HSMs are gone for good, and the third goes on alone.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::several::{Cluster, eventually, log_in, make_pair, sign, sign_in_the_end};
use crate::support::{PROGRAM, Running};

/// `manage recover` with this line on its standard input.
fn recover_typing(hsm: &Running, line: &str) -> std::process::Output {
    let mut command = Command::new(PROGRAM);
    command.args(["manage", "--socket"]).arg(hsm.socket()).arg("recover");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may have refused already, and be gone.
    writeln!(child.stdin.take().unwrap(), "{line}").ok();
    child.wait_with_output().unwrap()
}

/// Waits until the survivor has given up hope, and recovers.
fn recover(hsm: &Running) {
    eventually("the recovery", || hsm.manage(&["recover", "--yes"]).status.success());
}

#[test]
fn a_survivor_goes_on_alone_and_the_members_that_were_given_up_are_refused() {
    let mut cluster = Cluster::of(3);
    cluster.activate(0);
    let (client, login) = (cluster.client(0), log_in(&cluster.client(0)));
    let (_, key) = make_pair(&client, &login);
    assert!(cluster.hsms[0].refused(&["recover", "--yes"]).contains("a majority of the voters is alive"));
    let before = cluster.hsms[0].status();
    let lost: Vec<_> = (1..3).map(|at| cluster.hsms[at].status()["hsm"].as_str().unwrap().to_owned()).collect();
    cluster.hsms[1].kill();
    cluster.hsms[2].kill();
    // Whoever types another name has not read what it says, and what it says names everybody who is given up.
    eventually("the offer", || {
        let said = recover_typing(&cluster.hsms[0], "another name");
        let text = String::from_utf8(said.stderr).unwrap();
        assert!(!said.status.success());
        text.contains("ALONE") && lost.iter().all(|hsm| text.contains(hsm.as_str()))
    });
    assert_eq!(cluster.hsms[0].status()["incarnation"], before["incarnation"]);
    let done = recover_typing(&cluster.hsms[0], before["cluster"].as_str().unwrap());
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let after = cluster.hsms[0].status();
    assert_eq!((&after["cluster"], &after["lifecycle"]), (&before["cluster"], &"active".into()));
    assert_ne!(after["incarnation"], before["incarnation"]);
    assert_eq!(cluster.members(0).len(), 1);
    assert!(cluster.hsms[0].refused(&["recover", "--yes"]).contains("a majority of the voters is alive"));
    // Logins of the old history are over, the keys are not; and what is made now is made for nobody who was given up.
    let survivor = cluster.client(0);
    sign_in_the_end(&survivor, &log_in(&survivor), &key);
    assert!(sign(&client, &login, &key).is_err(), "a login of the old history still signs");
    eventually("a new epoch", || cluster.hsms[0].status()["epoch_progress"] == "epoch 2: all keys moved");
    // Others join again.
    cluster.start(&[]);
    cluster.join(3);
    let joined = cluster.client(3);
    sign_in_the_end(&joined, &log_in(&joined), &key);
    // The old disks come back: two of three, which they were.
    cluster.hsms[1].restart();
    cluster.hsms[2].restart();
    for hsm in &lost {
        eventually("the refusal by name", || {
            let log = cluster.hsms[0].log();
            log.lines().any(|line| line.contains(hsm.as_str()) && line.contains("another history of this cluster"))
        });
    }
    std::thread::sleep(std::time::Duration::from_secs(5));
    assert_eq!((cluster.members(0).len(), cluster.members(3).len()), (2, 2));
    let (_, another) = make_pair(&survivor, &log_in(&survivor));
    sign_in_the_end(&joined, &log_in(&joined), &another);
    // And with an empty data folder an old one is welcome.
    cluster.hsms[1].kill();
    for file in ["store.redb", "store.mark", "master.seal", "place"] {
        std::fs::remove_file(cluster.hsms[1].path(&format!("data/{file}"))).ok();
    }
    cluster.hsms[1].restart();
    cluster.join(1);
    assert_eq!(cluster.members(0).len(), 3);
}

#[test]
fn a_recovered_hsm_is_the_same_after_a_kill_and_an_isolated_one_can_be_the_survivor() {
    let mut cluster = Cluster::of(3);
    cluster.activate(0);
    let (client, login) = (cluster.client(2), log_in(&cluster.client(2)));
    let (_, key) = make_pair(&client, &login);
    cluster.hsms.iter_mut().for_each(Running::kill);
    // It never heard of anybody since its start.
    cluster.hsms[2].restart();
    recover(&cluster.hsms[2]);
    let incarnation = cluster.hsms[2].status()["incarnation"].clone();
    cluster.hsms[2].restart();
    assert_eq!(cluster.hsms[2].status()["incarnation"], incarnation);
    let survivor = cluster.client(2);
    sign_in_the_end(&survivor, &log_in(&survivor), &key);
    assert_eq!(cluster.members(2).len(), 1);
}

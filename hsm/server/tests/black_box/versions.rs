//! Two versions of the program in one cluster: they work together, and who is too old is refused by name.
//!
//! "Old" is this program told to speak and know no more than an older one did (`--newest-version`, `--newest-state`): the
//! same code that would meet a program from the future.

use crate::several::{ADMIN, Cluster, eventually, log_in, make_pair, sign_in_the_end};
use crate::support::wait;
use hsm_core::versions::NEWEST;
use hsm_protocol::{Role, wire};

const OLD: [&str; 4] = ["--newest-version", "1", "--newest-state", "1"];

fn members(cluster: &Cluster, at: usize) -> wire::ListMembersReply {
    let client = cluster.client(at);
    let admin = client.log_in("admin", Role::Admin, ADMIN).unwrap();
    client.list_members(&admin).unwrap()
}

/// The program of this HSM is replaced by the new one.
fn update(cluster: &mut Cluster, at: usize) {
    cluster.hsms[at].drop_arguments(OLD.len());
    cluster.hsms[at].restart();
    eventually("the return", || cluster.hsms[at].status()["lifecycle"] == "active");
}

#[test]
fn old_and_new_hsms_are_one_cluster_until_the_last_is_updated_and_then_the_old_one_is_refused() {
    let mut cluster = Cluster::blank(0);
    (0..3).for_each(|_| cluster.start(&OLD));
    cluster.unite();
    cluster.activate(0);
    let (client, login) = (cluster.client(0), log_in(&cluster.client(0)));
    let (_, before) = make_pair(&client, &login);
    drop((client, login));
    for at in 0..3 {
        assert_eq!(members(&cluster, at).state_version, 1, "before HSM {at} is updated");
        update(&mut cluster, at);
        // Every HSM, old or new, makes keys, has those of the others made, and signs with all of them.
        for through in 0..3 {
            let client = cluster.client(through);
            let login = log_in(&client);
            sign_in_the_end(&client, &login, &before);
            let (_, key) = make_pair(&client, &login);
            let other = cluster.client((through + 1) % 3);
            sign_in_the_end(&other, &log_in(&other), &key);
        }
    }
    eventually("the new version in use", || members(&cluster, 0).state_version == NEWEST);
    // The old program on the newest state does not start, and says why.
    let words: Vec<String> = cluster.hsms[2].arguments().to_vec();
    eventually("the new version on its disk", || {
        cluster.hsms[2].status()["commands_version"].as_u64() == Some(u64::from(NEWEST))
    });
    cluster.hsms[2].terminate();
    let words: Vec<&str> = words.iter().map(String::as_str).chain(OLD).collect();
    let mut old = crate::support::serve_command(cluster.hsms[2].folder.path(), &words).spawn().unwrap();
    assert!(!wait(&mut old).success());
    let said = cluster.hsms[2].log();
    assert!(said.contains(&format!("the cluster uses version {NEWEST} of commands")), "{said}");
    // The others did not miss it.
    let client = cluster.client(0);
    let login = log_in(&client);
    make_pair(&client, &login);
}

#[test]
fn an_hsm_that_is_too_old_is_refused_by_name_when_it_joins() {
    let mut cluster = Cluster::of(1);
    cluster.start(&["--newest-state", "1"]);
    let said = cluster.hsms[1].refused(&["join", "--member", &cluster.addresses[0].to_string()]);
    let needed = format!("version {NEWEST} of commands");
    assert!(said.contains(&needed) && said.contains("update this HSM"), "{said}");
    let name = cluster.hsms[1].status()["hsm"].as_str().unwrap().to_owned();
    let log = cluster.hsms[0].log();
    assert!(log.lines().any(|line| line.contains("was refused") && line.contains(&name)), "{log}");
    // Nothing in common between the protocols: a program of before the first one.
    cluster.start(&["--newest-version", "0"]);
    let said = cluster.hsms[2].refused(&["join", "--member", &cluster.addresses[0].to_string()]);
    assert!(said.contains("versions 1 to") && said.contains("update the older HSM"), "{said}");
    assert_eq!(cluster.members(0).len(), 1);
}

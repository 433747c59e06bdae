//! After the faults: all HSMs have the same log and state, hold a lease, and have what was acknowledged and nothing else.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hsm_client::{Cluster, Login};
use hsm_protocol::wire::{FindObjects, ListMembersReply, ServingState, reply, request};

use crate::client;
use crate::limits;

/// Token objects in one answer.
const PAGE: u32 = 512;

/// Waits until they are equal and compares each with the list of keys.
pub(crate) fn run(sockets: &[PathBuf], keys: &Path) -> Result<()> {
    let text = std::fs::read_to_string(keys).with_context(|| format!("{} cannot be read", keys.display()))?;
    let listed: serde_json::Value = serde_json::from_str(&text).context("the list of keys is no JSON")?;
    let of = |name: &str| -> BTreeSet<u64> {
        listed[name].as_array().into_iter().flatten().filter_map(serde_json::Value::as_u64).collect()
    };
    let (kept, gone) = (of("kept"), of("gone"));
    let login = client::log_in(&client::cluster()?)?;
    let hsms: Vec<Cluster> = sockets.iter().map(|socket| client::one_hsm(socket, limits::CALL)).collect();
    let took = wait_until_equal(&hsms, &login)?;
    for (number, hsm) in hsms.iter().enumerate() {
        let found = objects(hsm, &login)?;
        let (lost, back) = (kept.difference(&found).count(), gone.intersection(&found).count());
        if lost + back > 0 {
            bail!("HSM {} has lost {lost} acknowledged objects, and {back} destroyed ones are there", number + 1);
        }
    }
    let (hsms, kept, gone) = (hsms.len(), kept.len(), gone.len());
    println!(
        "{hsms} HSMs equal after {took:.1?}; each has all of {kept} acknowledged objects and none of {gone} destroyed"
    );
    Ok(())
}

fn wait_until_equal(hsms: &[Cluster], login: &Login) -> Result<Duration> {
    let began = Instant::now();
    loop {
        let seen: Vec<_> = hsms.iter().map(|hsm| hsm.list_members(login)).collect();
        let known: Vec<&ListMembersReply> = seen.iter().flatten().collect();
        let alike = |one: &&ListMembersReply| {
            one.serving() == ServingState::Leased
                && (one.applied_index, &one.chain_hash) == (known[0].applied_index, &known[0].chain_hash)
        };
        if known.len() == hsms.len() && known.iter().all(alike) {
            return Ok(began.elapsed());
        }
        if began.elapsed() > limits::EQUAL {
            let states = seen.iter().map(|seen| match seen {
                Ok(one) => format!("index {}, {}", one.applied_index, one.serving().as_str_name()),
                Err(error) => error.to_string(),
            });
            bail!("the HSMs are not equal after {:?}: {}", limits::EQUAL, states.collect::<Vec<_>>().join("; "));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Handles of all objects of the user, as this HSM has them.
fn objects(hsm: &Cluster, login: &Login) -> Result<BTreeSet<u64>> {
    let (mut found, mut after) = (BTreeSet::new(), 0);
    loop {
        let body = |_| request::Body::FindObjects(FindObjects { template: None, after, limit: PAGE });
        let reply::Body::FindObjects(page) = hsm.call(Some(login), &body)? else { bail!("another answer") };
        found.extend(&page.objects);
        match page.objects.last() {
            Some(&last) if page.more => after = last,
            _ => return Ok(found),
        }
    }
}

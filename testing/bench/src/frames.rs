//! How many frames share a system call in the client library, which the C interface does not tell.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, anyhow, bail};
use hsm_client::{Cluster, Configuration, Login};
use hsm_protocol::wire::{reply, request};
use hsm_protocol::{AttributeKind, MechanismKind, ObjectClass, Operation, Role, Template, convert, wire};

use crate::Length;
use crate::token::DATA;

/// Signs with the key of `prepare` by so many threads and prints frames in a write and in a read.
pub(crate) fn run(threads: usize, length: &Length) -> Result<()> {
    let configuration = Configuration::load()?;
    let cluster = Cluster::new(configuration.clusters.first().context("client.toml has no cluster")?.clone());
    let pin = std::env::var("P11_PIN").context("P11_PIN is not set")?;
    let (user, password) = pin.split_once(':').context("P11_PIN is not user:password")?;
    let login = cluster.log_in(user, Role::CryptoUser, password.as_bytes())?;
    let key = find(&cluster, &login)?;
    let stop = AtomicBool::new(false);
    let before = cluster.counters();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                let (cluster, login, stop) = (&cluster, &login, &stop);
                scope.spawn(move || -> Result<()> {
                    while !stop.load(Ordering::Relaxed) {
                        sign(cluster, login, key)?;
                    }
                    Ok(())
                })
            })
            .collect();
        std::thread::sleep(length.time());
        stop.store(true, Ordering::Relaxed);
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| anyhow!("a thread panicked"))?)
    })?;
    let after = cluster.counters();
    let ratio = |frames: u64, calls: u64| frames as f64 / calls.max(1) as f64;
    let written = ratio(after.frames_written - before.frames_written, after.writes - before.writes);
    let read = ratio(after.frames_read - before.frames_read, after.reads - before.reads);
    println!("{{\"frames_per_write\":{written:.2},\"frames_per_read\":{read:.2}}}");
    Ok(cluster.log_out(login)?)
}

fn find(cluster: &Cluster, login: &Login) -> Result<u64> {
    let template = Template::new()
        .with_number(AttributeKind::Class, ObjectClass::PrivateKey as u64)
        .with_octets(AttributeKind::Label, "bench-p256");
    let body = |_| {
        let template = Some(convert::template_message(&template));
        request::Body::FindObjects(wire::FindObjects { template, after: 0, limit: 1 })
    };
    match cluster.call(Some(login), &body)? {
        reply::Body::FindObjects(found) => found.objects.first().copied().context("run `prepare` first"),
        _ => bail!("the answer does not fit the question"),
    }
}

fn sign(cluster: &Cluster, login: &Login, key: u64) -> Result<()> {
    let body = |_| {
        request::Body::Operate(wire::Operate {
            operation: Operation::Sign as u32,
            key: Some(wire::ObjectReference { token_object: key, ..Default::default() }),
            mechanism: Some(wire::Mechanism { kind: MechanismKind::ECDSA.0, parameters: None }),
            data: DATA.to_vec(),
            ..Default::default()
        })
    };
    match cluster.call(Some(login), &body)? {
        reply::Body::Bytes(_) => Ok(()),
        _ => bail!("the answer does not fit the question"),
    }
}

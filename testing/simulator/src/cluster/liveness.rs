//! After the faults: everything is whole again, and the cluster must come together by itself, take writes at every
//! member, and hold everything that it ever acknowledged.

use std::sync::Arc;
use std::time::Duration;

use hsm_core::{Index, MemberKind};

use crate::cluster::Cluster;
use crate::cluster::clients::Client;
use crate::workload;

/// How long the cluster has to come together. An election takes under two seconds; a member that joins at the last moment
/// waits for its turn.
const PATIENCE: Duration = Duration::from_secs(90);

impl Cluster {
    /// Everything is whole: links, disks, power.
    pub async fn heal(self: &Arc<Self>) {
        self.trace.tell(|| "everything is whole again".to_owned());
        self.fabric.heal();
        self.note_who_is_alone();
        self.machines.iter().for_each(|machine| machine.disk.heal());
    }

    /// Waits until every member runs and all are at one index with one hash, and a write is taken at each of them.
    ///
    /// # Errors
    /// What does not come about.
    pub async fn come_together(self: &Arc<Self>) -> Result<(), String> {
        let until = tokio::time::Instant::now() + PATIENCE;
        // Whoever is replacing a machine finishes first.
        let replaced = async { drop((self.truce.lock().await, self.damage.lock().await)) };
        tokio::time::timeout_at(until, replaced).await.map_err(|_| "a machine is not replaced in time".to_owned())?;
        loop {
            match self.is_together() {
                Ok(()) => break,
                Err(text) if tokio::time::Instant::now() > until => return Err(text),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
        for machine in self.members() {
            self.write_at(machine.place, until).await?;
        }
        loop {
            match self.is_together() {
                Ok(()) => return Ok(()),
                Err(text) if tokio::time::Instant::now() > until => return Err(text),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    fn is_together(&self) -> Result<(), String> {
        let mut first = None;
        for machine in self.members() {
            let place = machine.place;
            let Some((node, _)) = machine.reach() else { return Err(format!("machine {place} does not run")) };
            let status = node.status();
            if status.standing != hsm_replication::Standing::Member {
                return Err(format!("machine {place} is {:?}", status.standing));
            }
            if status.leader.is_none() {
                return Err(format!("machine {place} knows no leader"));
            }
            let in_roster = node.read().member(machine.hsm()).is_some_and(|(known, _)| known.0 == status.node);
            if !in_roster {
                return Err(format!("machine {place} (node {:x}) is not in its own roster", status.node));
            }
            let here = (status.applied, status.hash, status.leader);
            let (there, before) = *first.get_or_insert((place, here));
            if before != here {
                let indexes = (before.0.0, status.applied.0);
                return Err(format!("machines {there} and {place} are at {indexes:?}, or follow different leaders"));
            }
        }
        Ok(())
    }

    /// A command that is proposed at this member is done.
    async fn write_at(self: &Arc<Self>, place: usize, until: tokio::time::Instant) -> Result<(), String> {
        if self.machines[place].kind != MemberKind::Hsm {
            return Ok(());
        }
        let mut last = "it was not asked".to_owned();
        while tokio::time::Instant::now() < until {
            if let Some((node, boot)) = self.machines[place].reach() {
                let machine = self.machines[place].clone();
                let server = crate::cluster::clients::Server { machine, node, boot };
                let action = hsm_core::Action::ExpireSessions;
                match self.ask(98, server, workload::no_session(), action).await {
                    hsm_replication::Outcome::Done { .. } => return Ok(()),
                    hsm_replication::Outcome::Unavailable(code) => last = format!("{code:?}"),
                    hsm_replication::Outcome::Unknown => last = "unknown".to_owned(),
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Err(format!("machine {place} takes no write: {last}"))
    }

    /// The highest index that anybody was told.
    pub fn acknowledged(&self) -> Index {
        self.ledger.with(|seen| {
            let done = seen.calls.iter().filter_map(|call| call.done());
            done.map(|(index, _)| index).max().unwrap_or_default()
        })
    }

    /// A client that is not part of the load.
    pub fn visitor(self: &Arc<Self>, name: &str) -> Client {
        Client::new(self, 97, name, hsm_protocol::Role::CryptoUser)
    }
}

//! Machines come into the cluster, come back, and leave it: what the process `kagimori-hsm` and the control plane do.

use std::sync::Arc;
use std::time::Duration;

use hsm_core::{Action, NodeId};
use hsm_replication::{History, OpenFault, StorageFault};

use crate::cluster::Cluster;
use crate::cluster::clients::Client;
use crate::cluster::machine::{Beginning, Machine};
use crate::cluster::observer::Promise;
use crate::cluster::run::HISTORY;
use crate::disk::Crash;
use crate::world;

/// The client number of whoever manages machines.
const MANAGEMENT: usize = 99;

/// How often a machine is started before it is given up.
const STARTS: usize = 100;

impl Cluster {
    /// Asks members to admit a machine under a new node id until one has. `None` when it is refused or nobody answers.
    pub async fn admit(self: &Arc<Self>, machine: &Machine) -> Option<u64> {
        let node = self.random.next();
        let mut client = Client::new(self, MANAGEMENT, "management", hsm_protocol::Role::Admin);
        for _ in 0..60 {
            let action = Action::AdmitMember { node: NodeId(node), member: machine.record() };
            match client.request(action).await {
                Some((_, Ok(_))) => return Some(node),
                Some((_, Err(refusal))) => {
                    self.trace.tell(|| format!("machine {} is not admitted: {refusal}", machine.place));
                    return None;
                }
                None => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
        None
    }

    /// Removes the HSM of a machine from the roster; true when it surely was.
    pub async fn remove(self: &Arc<Self>, machine: &Machine) -> bool {
        // Another one may stand there before this has ended.
        let (node, hsm) = (machine.identity().unwrap_or_default(), machine.hsm());
        let mut client = Client::new(self, MANAGEMENT, "management", hsm_protocol::Role::Admin);
        for _ in 0..30 {
            match client.request(Action::RemoveMember { hsm }).await {
                Some((index, Ok(_))) => {
                    drop(tokio::spawn(self.clone().settle(index, Promise::Removed(node))));
                    return true;
                }
                Some((_, Err(refusal))) => return refusal.code == hsm_protocol::ErrorCode::MemberUnknown,
                None => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
        false
    }

    /// Brings a machine that is off into the cluster: with what is on its disk, or as a new node when that is nothing, is
    /// not what it was, or was forgotten by the others. Whoever calls has its hands on the machine.
    pub async fn bring_back(self: &Arc<Self>, machine: &Arc<Machine>) {
        for _ in 0..STARTS {
            let begun = match machine.identity() {
                Some(_) if machine.was_node() => machine.start(Beginning::Open).await,
                // An attempt to join that a crash ended goes on under the same id.
                Some(node) => machine.start(Beginning::Join(node, history())).await,
                None => self.join(machine).await,
            };
            let Err(fault) = begun else { return };
            self.trace.tell(|| format!("machine {} does not start: {fault}", machine.place));
            machine.crash(self.any_crash()).await;
            if must_begin_again(&fault) {
                self.begin_again(machine, &fault.to_string());
            }
            let wait = 50 + self.random.below(400);
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        let line = "it could not be started again".to_owned();
        self.ledger.with(|seen| seen.faults.push((machine.place, line)));
    }

    async fn join(self: &Arc<Self>, machine: &Arc<Machine>) -> Result<(), OpenFault> {
        let refused = || OpenFault::Engine("nobody admits it".to_owned());
        let node = self.admit(machine).await.ok_or_else(refused)?;
        machine.assign(node);
        machine.start(Beginning::Join(node, history())).await
    }

    /// What an operator does with a disk that is not what it was: he puts an empty one in. A disk that was honest must not
    /// come to that.
    fn begin_again(&self, machine: &Machine, why: &str) {
        if !machine.is_damaged() && machine.identity().is_some() {
            let line = format!("its disk was honest, and yet: {why}");
            self.ledger.with(|seen| seen.faults.push((machine.place, line)));
        }
        self.trace.tell(|| format!("machine {} gets an empty disk", machine.place));
        machine.forget();
    }

    /// Starts a machine again whose process stops by itself or whose power goes in the middle of a commit, for ever.
    pub async fn keep(self: Arc<Self>, machine: Arc<Machine>) {
        loop {
            tokio::select! {
                biased;
                () = machine.stopped.notified() => {}
                () = machine.disk.power.notified() => {}
            }
            let hands = machine.hands.clone().lock_owned().await;
            if machine.has_stopped() {
                let (rolled_back, removed) = (machine.was_rolled_back(), machine.was_removed());
                let differs = machine.has_faltered() && machine.has_faulted();
                machine.crash(self.any_crash()).await;
                if rolled_back {
                    self.begin_again(&machine, "others remember more of it");
                }
                if removed {
                    machine.replace();
                }
                if differs {
                    self.begin_again(&machine, "it differs from the others");
                }
                let wait = 20 + self.random.below(1_500);
                tokio::time::sleep(Duration::from_millis(wait)).await;
                self.bring_back(&machine).await;
            }
            drop(hands);
        }
    }

    /// A kind of crash.
    pub fn any_crash(&self) -> Crash {
        Crash::ALL[self.random.place_below(Crash::ALL.len())]
    }
}

/// What a newcomer is told at its admission.
fn history() -> History {
    History { cluster: world::form().cluster, incarnation: HISTORY }
}

/// Whether nothing can be made of what is on the disk.
fn must_begin_again(fault: &OpenFault) -> bool {
    matches!(
        fault,
        OpenFault::RolledBack { .. }
            | OpenFault::NotFormed(_)
            | OpenFault::State(_)
            | OpenFault::OtherKey
            | OpenFault::Storage(StorageFault::Damaged(_) | StorageFault::Broken { .. })
    )
}

//! Epochs of the cluster master key, as one HSM takes part in them.
//!
//! Every HSM opens its share of a new epoch's master key, and destroys the one of the epoch before when nothing is sealed
//! under it any more. Whoever leads begins the epoch that is due after a removal, and moves the payloads to it in small
//! commands with rests between them. All of it is looked at from the state, again and again: an effect may be skipped by a
//! snapshot, a leader may change, and a crash may come between any two steps.
//!
//! It must not judge what is due (`hsm-core` does) or touch a client's request.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use hsm_core::command::{EpochStart, MovedPayload, Origin};
use hsm_core::{
    Action, ClusterId, Epoch, EpochRecord, Hsm, HsmId, Incarnation, MemberKind, MemberRecord, NodeId, Object,
    ObjectHandle, SealedMaster,
};
use hsm_crypto::{ClusterKeys, Handover, KeyRing, MasterKey, SealBroken};
use hsm_replication::{Node, Outcome};

use crate::dispatch::Service;
use crate::exit::Fault;
use crate::limits;
use crate::masters::{Held, Masters};
use crate::member::{PURPOSE_ACTIVATION, PURPOSE_CLUSTER_KEY, Surroundings, hexadecimal, stopped};
use crate::peers::Place;

/// In whose name epochs are begun and payloads moved.
const NOBODY: Origin = Origin { session: None, sequence: 0, lowest_unanswered: 0 };

/// What one HSM needs to take part in epochs.
pub(crate) struct Epochs {
    pub(crate) surroundings: Arc<Surroundings>,
    pub(crate) node: Arc<Node>,
    pub(crate) place: Place,
    pub(crate) masters: Arc<Masters>,
    pub(crate) keys: Arc<KeyRing>,
}

/// What a step of the leader's came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// There is nothing to do here now.
    Nothing,
    /// An epoch was begun, or payloads were moved; there may be more.
    Done,
    /// Somebody else was faster, or the log could not be reached: look again.
    Again,
}

/// What is known of the present epoch at one moment of the state.
struct Present {
    cluster: ClusterId,
    incarnation: Incarnation,
    epoch: Epoch,
    due: bool,
    record: Option<EpochRecord>,
}

/// What an HSM was given at the begin of an epoch.
struct Shares {
    next: MasterKey,
    before: Option<Arc<MasterKey>>,
}

impl Present {
    fn of(state: &Hsm) -> Option<Self> {
        let cluster = state.cluster()?;
        Some(Self {
            cluster: cluster.cluster,
            incarnation: cluster.incarnation,
            epoch: cluster.epoch,
            due: cluster.epoch_due,
            record: state.epoch_record().cloned(),
        })
    }

    fn binding(&self, epoch: Epoch, node: NodeId, hsm: HsmId) -> Handover {
        Handover { cluster: self.cluster, incarnation: self.incarnation, epoch, node, hsm }
    }
}

impl Shares {
    fn open(surroundings: &Surroundings, present: &Present, held: &Held, node: u64) -> Result<Self, Fault> {
        let epoch = present.epoch;
        let record = present.record.as_ref();
        let share = record.and_then(|record| record.masters.iter().find(|master| master.node == NodeId(node)));
        let share = share.ok_or_else(|| no_share(epoch, "none was sealed for this node"))?;
        let open = |epoch, sealed: &[u8]| open_share(surroundings, present, held, (epoch, NodeId(node)), sealed);
        let next = open(epoch, &share.sealed)?;
        // An HSM that was away while the epoch before began never had its key.
        let before = Epoch(epoch.0.saturating_sub(1));
        let before = match (held.present.epoch() == before, share.sealed_before.is_empty()) {
            (true, _) => Some(Arc::clone(&held.present)),
            (false, true) => None,
            (false, false) => Some(Arc::new(open(before, &share.sealed_before)?)),
        };
        Ok(Self { next, before })
    }
}

fn open_share(
    surroundings: &Surroundings,
    present: &Present,
    held: &Held,
    (epoch, node): (Epoch, NodeId),
    sealed: &[u8],
) -> Result<MasterKey, Fault> {
    let binding = present.binding(epoch, node, HsmId(surroundings.hsm));
    let opened = held.present.receive_beside(surroundings.identity.sealing(), &binding, sealed);
    opened.map_err(|fault| stopped(&fault))?.map_err(|broken: SealBroken| no_share(epoch, &broken.to_string()))
}

/// Gets the key of the epoch of a state that no node runs: for a survivor that begins a new history, in which the shares
/// of the old one open no more.
///
/// # Errors
/// [`Fault`] when the share does not open or the disk fails.
pub(crate) fn catch_up(surroundings: &Surroundings, masters: &Masters, node: u64, state: &Hsm) -> Result<(), Fault> {
    let Some(present) = Present::of(state) else { return Ok(()) };
    let held = masters.held();
    if held.present.epoch() >= present.epoch {
        return Ok(());
    }
    let shares = Shares::open(surroundings, &present, &held, node)?;
    masters.advance(surroundings, shares.next, shares.before)
}

impl Epochs {
    /// Goes on to the present epoch of the state, if this HSM is behind it (says whether it was), and destroys the master key
    /// of the one before when it is needed no more.
    ///
    /// # Errors
    /// [`Fault`] when the share does not open or the disk fails: nothing was lost, and it may be tried again.
    pub(crate) fn follow(&self) -> Result<bool, Fault> {
        let Some(present) = self.present() else { return Ok(false) };
        let held = self.masters.held();
        let is_behind = held.present.epoch() < present.epoch;
        if is_behind {
            self.advance(&present, &held)?;
        }
        let held = self.masters.held();
        let is_over = held.present.epoch() == present.epoch && held.before.is_some();
        if is_over && !self.node.read().is_epoch_before_needed() {
            self.masters.forget_before(&self.surroundings.folder)?;
            self.keys.forget_before();
            tracing::info!(epoch = present.epoch.0, "the master key of the epoch before is destroyed");
        }
        Ok(is_behind)
    }

    fn advance(&self, present: &Present, held: &Held) -> Result<(), Fault> {
        let shares = Shares::open(&self.surroundings, present, held, self.place.node)?;
        let keys = |master: &MasterKey| ClusterKeys::new(master, present.cluster).map_err(|fault| stopped(&fault));
        let next_keys = keys(&shares.next)?;
        let before_keys = shares.before.as_deref().map(keys).transpose()?;
        self.masters.advance(&self.surroundings, shares.next, shares.before)?;
        self.keys.advance(next_keys, before_keys);
        tracing::info!(epoch = present.epoch.0, "the cluster master key has a new epoch, and this HSM has it");
        Ok(())
    }

    fn present(&self) -> Option<Present> {
        let state = self.node.read();
        // One that was removed and still has a vote gets no share of what begins now, and begins nothing.
        Present::of(&state).filter(|_| state.members().contains_key(&NodeId(self.place.node)))
    }

    /// Does one step of what whoever leads must do.
    ///
    /// # Errors
    /// [`Fault`] when it cannot be done; the next step tries again.
    pub(crate) fn lead(&self) -> Result<Step, Fault> {
        let status = self.node.status();
        let Some(present) = self.present().filter(|_| status.leader == Some(status.node)) else {
            return Ok(Step::Nothing);
        };
        // Without the present key nothing can be sealed for anybody.
        if self.masters.epoch() != present.epoch {
            return Ok(Step::Nothing);
        }
        match &present.record {
            Some(record) if !record.is_settled() => self.move_some(&present, record),
            _ if present.due => self.begin(&present),
            _ => Ok(Step::Nothing),
        }
    }

    /// Begins the next epoch: a new master key, sealed for each HSM that is a member now.
    fn begin(&self, present: &Present) -> Result<Step, Fault> {
        let module = &self.surroundings.module;
        let epoch = Epoch(present.epoch.0.checked_add(1).ok_or_else(|| stopped(&"there are no more epochs"))?);
        let held = self.masters.held();
        let next = MasterKey::generate(module, epoch).map_err(|fault| stopped(&fault))?;
        let keys = ClusterKeys::new(&next, present.cluster).map_err(|fault| stopped(&fault))?;
        let (masters, cluster_key, password) = {
            let state = self.node.read();
            let Some(cluster) = state.cluster() else { return Ok(Step::Nothing) };
            let hsms = state.members().iter().filter(|(_, member)| member.kind == MemberKind::Hsm);
            let masters: Result<Vec<_>, Fault> =
                hsms.map(|(&node, member)| self.share(present, (&next, &held.present), node, member)).collect();
            (masters?, cluster.sealed_cluster_key.clone(), cluster.sealed_activation_password.clone())
        };
        // Whoever seals for others opens his own first: a key that opens for nobody must never get into the log.
        let own = masters.iter().find(|master| master.node.0 == self.place.node);
        let own = own.ok_or_else(|| no_share(epoch, "this HSM is in no roster"))?;
        open_share(&self.surroundings, present, &held, (epoch, own.node), &own.sealed)?;
        let start = EpochStart {
            epoch,
            masters,
            sealed_cluster_key: self.seal_again(&keys, PURPOSE_CLUSTER_KEY, &cluster_key)?,
            sealed_activation_password: self.seal_again(&keys, PURPOSE_ACTIVATION, &password)?,
        };
        let step = self.propose(Action::BeginEpoch(start));
        if step == Step::Done {
            tracing::info!(epoch = epoch.0, "a new epoch of the cluster master key has begun");
        }
        Ok(step)
    }

    /// The keys of an epoch and of the one before it, sealed for one HSM.
    fn share(
        &self,
        present: &Present,
        (next, before): (&MasterKey, &MasterKey),
        node: NodeId,
        member: &MemberRecord,
    ) -> Result<SealedMaster, Fault> {
        let seal = |master: &MasterKey| {
            let binding = present.binding(master.epoch(), node, member.hsm);
            master.hand_over(&member.sealing_key, &binding).map_err(|fault| {
                let hsm = hexadecimal(&member.hsm.0);
                stopped(&format!("no key can be sealed for HSM {hsm}, so no epoch can begin; remove it: {fault}"))
            })
        };
        Ok(SealedMaster { node, sealed: seal(next)?, sealed_before: seal(before)? })
    }

    /// A secret of the cluster under the keys of the next epoch.
    fn seal_again(&self, keys: &ClusterKeys, purpose: &str, sealed: &[u8]) -> Result<Vec<u8>, Fault> {
        if sealed.is_empty() {
            return Ok(Vec::new());
        }
        let secret = self.keys.open_bytes(purpose, sealed).map_err(|fault| stopped(&fault))?;
        keys.seal_bytes(&self.surroundings.module, purpose, secret.expose()).map_err(|fault| stopped(&fault))
    }

    /// Moves the next few payloads.
    fn move_some(&self, present: &Present, record: &EpochRecord) -> Result<Step, Fault> {
        let objects = self.node.read().objects_after(record.moved_to, hsm_core::limits::MOVES_PER_COMMAND);
        let is_last = objects.len() < hsm_core::limits::MOVES_PER_COMMAND;
        let mut objects = objects.into_iter().filter(|(handle, _)| *handle < record.end).peekable();
        let (mut moved, mut bytes) = (Vec::new(), 0);
        while bytes < limits::MOVE_BYTES
            && let Some((handle, object)) = objects.next()
        {
            // Changed or destroyed between the two looks: the next step sees it as it is then.
            let Some(payload) = self.moved(present.epoch, handle, &object)? else { return Ok(Step::Again) };
            bytes += payload.payload.ciphertext.len() + payload.payload.wrapped_data_key.len();
            moved.push(payload);
        }
        let is_last = objects.peek().is_none() && (is_last || moved.is_empty());
        let through = match moved.last() {
            Some(last) if !is_last => last.handle,
            _ => ObjectHandle(record.end.0.saturating_sub(1)),
        };
        let count = moved.len();
        let step = self.propose(Action::MovePayloads { epoch: present.epoch, after: record.moved_to, through, moved });
        if step == Step::Done {
            tracing::debug!(count, through = through.0, "payloads were moved to the present epoch");
            if is_last {
                tracing::info!(epoch = present.epoch.0, keys = record.keys, "every key is under the present epoch");
            }
        }
        Ok(step)
    }

    /// One payload under the present epoch; `None` when it does not belong to this version of the object any more.
    fn moved(&self, epoch: Epoch, handle: ObjectHandle, object: &Object) -> Result<Option<MovedPayload>, Fault> {
        let Some(sealed) = self.node.payload(handle).map_err(|fault| stopped(&fault))? else { return Ok(None) };
        let payload = if sealed.epoch == epoch {
            sealed
        } else {
            match self.keys.move_payload(&self.surroundings.module, object, &sealed) {
                Ok(payload) => payload,
                Err(fault) => {
                    // As a rule it changed between the two looks; if it is broken for good, this is said at every step.
                    tracing::warn!(handle = handle.0, %fault, "a key could not be moved to the present epoch yet");
                    return Ok(None);
                }
            }
        };
        Ok(Some(MovedPayload { handle, version: object.version(), payload }))
    }

    fn propose(&self, action: Action) -> Step {
        self.surroundings.metrics.proposal();
        match self.node.propose_and_wait(NOBODY, action, limits::PROPOSAL_TIME) {
            Outcome::Done { result: Ok(_), .. } => Step::Done,
            Outcome::Done { result: Err(refusal), .. } => {
                tracing::info!(%refusal, "a step of a new epoch is made again");
                Step::Again
            }
            Outcome::Unavailable(_) | Outcome::Unknown => Step::Again,
        }
    }
}

fn no_share(epoch: Epoch, why: &str) -> Fault {
    stopped(&format!(
        "this HSM has no key of epoch {}: {why}. It cannot use what is sealed under it; remove it from the cluster and let \
         it join anew",
        epoch.0
    ))
}

/// The thread that takes part in epochs for one member.
pub(crate) struct Tending {
    wake: Sender<()>,
    thread: JoinHandle<()>,
}

impl Tending {
    /// Starts it.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(crate) fn start(epochs: Arc<Epochs>, service: Arc<Service>) -> std::io::Result<Self> {
        let (wake, woken) = channel();
        let run = move || tend(&epochs, &service, &woken);
        let thread = std::thread::Builder::new().name("epochs".to_owned()).spawn(run)?;
        Ok(Self { wake, thread })
    }

    /// There may be something to do now.
    pub(crate) fn wake(&self) {
        // Without the thread the member stops.
        self.wake.send(()).ok();
    }

    /// Ends the thread after the step that it is at.
    pub(crate) fn stop(self) {
        drop(self.wake);
        if self.thread.join().is_err() {
            tracing::error!("the thread of epochs panicked");
        }
    }
}

/// Until nobody could wake it any more.
fn tend(epochs: &Epochs, service: &Service, woken: &Receiver<()>) {
    let follow = || {
        if epochs.follow()? {
            service.ask_for_attaching();
        }
        Ok(())
    };
    loop {
        let begun = Instant::now();
        let step = follow().and_then(|()| epochs.lead()).unwrap_or_else(|fault| {
            tracing::error!(%fault, "a step of an epoch of the master key failed; it is tried again");
            Step::Again
        });
        let rest = match step {
            // Others have the log and the processor for most of the time.
            Step::Done => (begun.elapsed() * limits::MOVE_REST).min(limits::EPOCH_INTERVAL),
            Step::Again => limits::EPOCH_AGAIN,
            Step::Nothing => limits::EPOCH_INTERVAL,
        };
        match woken.recv_timeout(rest) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// How far the present epoch is, in words; empty in the first.
pub(crate) fn progress(epoch: Epoch, record: Option<&EpochRecord>) -> String {
    let Some(record) = record else { return String::new() };
    if record.is_settled() {
        return format!("epoch {}: all keys moved", epoch.0);
    }
    format!("epoch {}: {} of {} keys moved", epoch.0, grouped(record.moved), grouped(record.keys))
}

/// Digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    groups.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_in_numbers_that_people_read() {
        let mut record = EpochRecord {
            before: Epoch(2),
            begun_at: hsm_core::Stamp(1),
            masters: Vec::new(),
            moved_to: ObjectHandle(5),
            end: ObjectHandle(9),
            keys: 100_000,
            moved: 41_200,
        };
        assert_eq!(progress(Epoch(3), Some(&record)), "epoch 3: 41,200 of 100,000 keys moved");
        record.moved_to = ObjectHandle(8);
        assert_eq!(progress(Epoch(3), Some(&record)), "epoch 3: all keys moved");
        assert_eq!(progress(Epoch(1), None), "");
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}

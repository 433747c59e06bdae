//! How this process comes into a cluster of others, follows its roster, and ends when it is in it no more.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use hsm_replication::Serving;

use super::{Event, Fault, PeerEvent, Process, member, report};
use crate::dispatch::serving_state;
use crate::joining::{self, JoinFault};
use crate::limits;
use crate::member::{Member, Stateless};

/// What [`Process::joining`] says while members are asked.
const ASKING: &str = "members of the cluster are asked for admission";

/// What it says from then on.
pub(super) const ADMITTED: &str = "admitted; the state of the cluster is on its way";

impl Process {
    /// Joins on a thread of its own, and waits for the outcome no longer than this; `None` when it is still under way.
    pub(super) fn join_within(
        self: &Arc<Self>,
        members: Vec<SocketAddr>,
        at_most: Duration,
    ) -> Option<Result<(), JoinFault>> {
        {
            let mut joining = self.joining.lock();
            if !joining.is_empty() {
                return None;
            }
            ASKING.clone_into(&mut joining);
        }
        let (sender, outcome) = sync_channel(1);
        let process = Arc::clone(self);
        let thread = std::thread::Builder::new().name("join".to_owned()).spawn(move || {
            let joined = process.join_now(&members);
            process.joining.lock().clear();
            // Whoever asked may have gone.
            drop(sender.send(joined));
        });
        if let Err(error) = thread {
            self.joining.lock().clear();
            return Some(Err(member::stopped(&error).into()));
        }
        outcome.recv_timeout(at_most).ok()
    }

    fn join_now(&self, members: &[SocketAddr]) -> Result<(), JoinFault> {
        let admitted = || ADMITTED.clone_into(&mut self.joining.lock());
        let member = joining::join(&self.surroundings, members, &admitted)?;
        self.adopt(member)?;
        tracing::info!("this HSM is a member of the cluster");
        Ok(())
    }

    /// Becomes a member when the state has come from the others.
    pub(super) fn await_state(self: &Arc<Self>, stateless: Stateless) -> Result<(), Fault> {
        tracing::warn!("the state was not on disk when this HSM stopped: it gets what it lacks from the other members");
        ADMITTED.clone_into(&mut self.joining.lock());
        *self.admitted_by.lock() = Some(stateless.told.admitted_by);
        let process = Arc::clone(self);
        let thread = std::thread::Builder::new().name("join".to_owned()).spawn(move || {
            let joined = joining::await_state(&process.surroundings, stateless)
                .and_then(|member| member.map(|member| process.adopt(member)).transpose());
            process.joining.lock().clear();
            *process.admitted_by.lock() = None;
            // Without a member the join begins again.
            if let Err(fault) = joined.and_then(|_| process.resume_join()) {
                report(&process.events, Event::Unable(fault));
            }
        });
        thread.map(drop).map_err(|error| member::stopped(&error))
    }

    /// Goes on with a join that was interrupted, until it succeeds.
    pub(super) fn resume_join(self: &Arc<Self>) -> Result<(), Fault> {
        if self.member().is_some() || !self.joining.lock().is_empty() {
            return Ok(());
        }
        let Some(members) = joining::interrupted(&self.surroundings.folder)? else { return Ok(()) };
        let process = Arc::clone(self);
        let thread = std::thread::Builder::new().name("join again".to_owned()).spawn(move || {
            tracing::info!("a join that was interrupted goes on");
            while process.member().is_none() {
                match process.join_within(members.clone(), Duration::MAX) {
                    Some(Ok(())) => return,
                    Some(Err(fault)) => tracing::warn!(%fault, "not joined yet"),
                    // Somebody else asked for a join: that is it.
                    None => return,
                }
                std::thread::sleep(limits::JOIN_AGAIN);
            }
        });
        thread.map(drop).map_err(|error| member::stopped(&error))
    }

    /// This node's disk is older than what others remember of it: it must never vote again. As a new node it may, with the
    /// certificate that it has and without anybody's approval.
    pub(super) fn rejoin(self: &Arc<Self>) -> Result<(), Fault> {
        let Some(member) = self.member.write().take() else { return Ok(()) };
        tracing::error!("this HSM's disk was rolled back: its state is dropped, and it joins its cluster anew");
        let members = member.peer_addresses();
        member.stop();
        let folder = &self.surroundings.folder;
        joining::begin(folder, &members)?;
        folder.destroy(&folder.seal())?;
        joining::discard_unfinished(folder)?;
        drop(member);
        self.resume_join()
    }

    /// What is not told by an effect, or was skipped because the state came as a snapshot.
    pub(super) fn look_round(&self) -> Result<(), Fault> {
        let Some(member) = self.member() else { return Ok(()) };
        member.announce();
        member.look_at_epochs();
        member.raise_version();
        member.settle_isolated();
        self.tell_serving(&member);
        member.open_doors()?;
        if member.follow_roster() { Ok(()) } else { self.depart(&member) }
    }

    /// Says in the log when this HSM is cut off, when it stops for that, and when it is heard again.
    fn tell_serving(&self, member: &Member) {
        let serving = member.node().serving();
        let (now, _) = serving_state(serving);
        let before = self.served.lock().replace(now);
        match serving {
            _ if before.is_none_or(|before| before == now) => {}
            Serving::Leased => tracing::info!("a majority is heard again: this HSM serves as ever"),
            Serving::Isolated { left_milliseconds, .. } => tracing::warn!(
                seconds_left = left_milliseconds / 1_000,
                "no majority is heard: this HSM goes on with the keys and sessions that it has, and changes nothing"
            ),
            Serving::Expired => tracing::warn!("no majority is heard: this HSM uses no key until it hears one"),
        }
    }

    /// Members came, went or moved.
    pub(super) fn follow_roster(&self) -> Result<(), Fault> {
        // Without a member this HSM is joining, and `joining` looks at the roster itself.
        let Some(member) = self.member() else { return Ok(()) };
        tracing::info!("the roster of the cluster changed");
        // A removal makes a new epoch due.
        member.look_at_epochs();
        if member.follow_roster() { Ok(()) } else { self.depart(&member) }
    }

    /// This HSM is in no roster any more, and serves nobody since it applied that. It votes as long as a majority may need it:
    /// if it went at once and the leader were lost just then, the others might be too few to decide who votes in its place.
    fn depart(&self, member: &Member) -> Result<(), Fault> {
        if !member.is_vote_needed() {
            return Err(self.removed());
        }
        if !self.departs.swap(true, Ordering::AcqRel) {
            tracing::warn!(
                "this HSM was removed from its cluster: it serves nobody, and votes until others do so for it"
            );
        }
        Ok(())
    }

    /// Another HSM had something to say of this one.
    pub(super) fn hear(&self, event: &PeerEvent) -> Result<(), Fault> {
        let PeerEvent::Stranger { by, applied } = event;
        let is_removed = match self.member() {
            Some(member) => member.is_removed_as_of(*applied),
            None => self.admitted_by.lock().is_some_and(|admitted_by| admitted_by <= *applied),
        };
        if is_removed {
            let by = member::hexadecimal(&by.0);
            tracing::error!(%by, applied, "a member says that this HSM was removed from the cluster");
            return Err(self.removed());
        }
        Ok(())
    }

    /// This HSM is no member any more: nothing of the cluster stays with it.
    pub(super) fn removed(&self) -> Fault {
        let hsm = member::hexadecimal(&self.surroundings.hsm);
        self.removed.store(true, Ordering::Release);
        tracing::warn!("this HSM is no member of its cluster any more: its keys and its state are destroyed");
        self.member().iter().for_each(|member| member.stop());
        match member::forget_cluster(&self.surroundings.folder) {
            Ok(()) => Fault::Removed { hsm },
            Err(fault) => fault,
        }
    }
}

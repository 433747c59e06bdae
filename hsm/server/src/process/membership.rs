//! How this process follows the roster: members that come and go, and its own end when it is none any more.

use super::{Fault, PeerEvent, Process, member};

impl Process {
    /// Members came, went or moved.
    pub(super) fn follow_roster(&self) -> Result<(), Fault> {
        // Without a member this HSM is joining, and `joining` looks at the roster itself.
        let Some(member) = self.member() else { return Ok(()) };
        tracing::info!("the roster of the cluster changed");
        if member.follow_roster() { Ok(()) } else { Err(self.removed()) }
    }

    /// Another HSM had something to say of this one.
    pub(super) fn hear(&self, event: &PeerEvent) -> Result<(), Fault> {
        let PeerEvent::Stranger { by, applied } = event;
        let Some(member) = self.member() else { return Ok(()) };
        if member.is_removed_as_of(*applied) {
            let by = member::hexadecimal(&by.0);
            tracing::error!(%by, applied, "a member says that this HSM was removed from the cluster");
            return Err(self.removed());
        }
        Ok(())
    }

    /// This HSM is no member any more: nothing of the cluster stays with it.
    pub(super) fn removed(&self) -> Fault {
        let hsm = member::hexadecimal(&self.surroundings.hsm);
        tracing::warn!("this HSM is no member of its cluster any more: its keys and its state are destroyed");
        if let Some(member) = self.member() {
            member.stop();
            if let Err(fault) = member.forget_cluster() {
                return fault;
            }
        }
        Fault::Removed { hsm }
    }
}

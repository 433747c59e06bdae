//! A newcomer's side of a join: it connects to a member, proves who it is, and takes what it is given.

use std::net::SocketAddr;

use hsm_core::{ClusterId, Epoch, HsmId, Incarnation, NodeId};
use hsm_crypto::Handover;
use hsm_protocol::peer::{Admitted, Join, Newcomer, opening, opening_reply};
use prost::Message;

use super::fault::DialFault;
use super::tls::{exporter, join_statement};
use super::wire::WireFault;
use super::{Known, Peers, Place, Roster};
use crate::limits;

/// What a member gave this HSM.
pub struct Admission {
    /// Where this HSM belongs from now on.
    pub place: Place,
    /// What the sealed key is bound to.
    pub handover: Handover,
    /// The cluster master key, sealed; empty for a witness.
    pub sealed_master_key: Vec<u8>,
    /// That of the epoch before, the same way; empty when nothing is sealed under it any more.
    pub sealed_master_key_before: Vec<u8>,
    /// The members, this HSM among them.
    pub roster: Roster,
    /// A command by which the roster had this HSM: who has applied it and does not know this node, knows of its removal.
    pub admitted_by: u64,
}

impl Peers {
    /// Asks the member at this address for admission. Blocks; not for threads of the runtime.
    ///
    /// # Errors
    /// [`DialFault`].
    pub fn ask_to_join(&self, address: SocketAddr, newcomer: &Newcomer) -> Result<Admission, DialFault> {
        self.parts.runtime.block_on(self.ask(address, newcomer))
    }

    async fn ask(&self, address: SocketAddr, newcomer: &Newcomer) -> Result<Admission, DialFault> {
        let (mut stream, caller) = self.dialer.dial(address).await?;
        let failed = |error: &dyn std::fmt::Display| DialFault::Tls(std::io::Error::other(error.to_string()));
        let exported = exporter(stream.get_ref().1).map_err(|error| failed(&error))?;
        let newcomer = newcomer.encode_to_vec();
        let proof = self.dialer.identity.sign(&join_statement(&exported, &newcomer)).map_err(|fault| failed(&fault))?;
        let purpose = opening::Purpose::Join(Join { newcomer, proof });
        match self.dialer.open(&mut stream, purpose, limits::ADMISSION_TIME).await? {
            opening_reply::Body::Admitted(admitted) => {
                tracing::info!(by = %super::name(caller.hsm), node = format!("{:x}", admitted.node), "admitted");
                parse(admitted, self.dialer.identity.hsm()).ok_or(WireFault::Malformed.into())
            }
            _ => Err(WireFault::Malformed.into()),
        }
    }
}

fn parse(admitted: Admitted, hsm: HsmId) -> Option<Admission> {
    let cluster: [u8; 16] = admitted.cluster.as_slice().try_into().ok()?;
    let incarnation: [u8; 16] = admitted.incarnation.as_slice().try_into().ok()?;
    let (node, admitted_by) = (admitted.node, admitted.applied);
    let roster = admitted.roster.into_iter().map(|entry| {
        let hsm = HsmId(entry.hsm.as_slice().try_into().ok()?);
        Some((entry.node, Known { hsm, address: entry.peer_address, certificate: entry.certificate }))
    });
    let roster: Roster = roster.collect::<Option<_>>()?;
    let handover = Handover {
        cluster: ClusterId(cluster),
        incarnation: Incarnation(incarnation),
        epoch: Epoch(admitted.epoch),
        node: NodeId(node),
        hsm,
    };
    // A member that names another HSM for our node is not to be trusted with anything else.
    let here = roster.get(&node).is_some_and(|known| known.hsm == hsm);
    let place = Place { cluster, incarnation, node };
    here.then_some(Admission {
        place,
        handover,
        sealed_master_key: admitted.sealed_master_key,
        sealed_master_key_before: admitted.sealed_master_key_before,
        roster,
        admitted_by,
    })
}

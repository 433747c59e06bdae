//! The way of this HSM into a cluster of others: asked for admission, given a place and the cluster master key, and made a
//! member when it has got the state.
//!
//! Interrupted while the state comes, it goes on with what has come. Interrupted earlier, or forgotten by the members, it
//! is done again: until the state is there nothing of it counts, and the cluster takes the same HSM back under a new node
//! id. `process` decides when; `peers` speaks to the members.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hsm_core::{Epoch, NodeId};
use hsm_crypto::{Handover, MasterKey};
use hsm_protocol::ErrorCode;
use hsm_protocol::peer::Newcomer;
use hsm_replication::Node;

use crate::data_folder::DataFolder;
use crate::exit::Fault;
use crate::masters::Masters;
use crate::member::{Member, Stateless, Surroundings, stopped};
use crate::node_watch::{self, Watch};
use crate::peers::{Admission, DialFault, Home, Peers, roster_of};
use crate::place_file::{self, Told};
use crate::{doors, formation, limits, root_of_trust};

/// How often it is looked whether the state has come.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Why there was no joining.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JoinFault {
    /// No member admitted this HSM; each with what it said.
    #[error("{message}")]
    Refused {
        /// What the refusal means.
        code: ErrorCode,
        /// All of it in words.
        message: String,
    },
    /// This HSM itself failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Asks these members in turn, and becomes a member of their cluster. Blocks until the state is there, which takes as long
/// as its transfer. `admitted` is called when the cluster has taken this HSM up.
///
/// # Errors
/// [`JoinFault`]; what was begun is undone by the next attempt.
pub(crate) fn join(
    surroundings: &Arc<Surroundings>,
    members: &[SocketAddr],
    admitted: &dyn Fn(),
) -> Result<Member, JoinFault> {
    let Surroundings { folder, peers, .. } = &**surroundings;
    let peers = peers.as_ref().ok_or(JoinFault::Refused {
        code: ErrorCode::NotReady,
        message: "this HSM was started without --peer-listen, so no other HSM can reach it".to_owned(),
    })?;
    if !surroundings.settings.witness() {
        // A member that nobody can use would count for the majority all the same.
        doors::check_free(&surroundings.settings)?;
    }
    discard_unfinished(folder)?;
    let admission = ask(surroundings, peers, members)?;
    remember(folder, members, &admission)?;
    let masters = take_keys(surroundings, &admission)?;
    admitted();
    become_member(surroundings, &admission, masters).map_err(JoinFault::Fault)
}

/// Addresses of a join that was interrupted, if there is one.
///
/// # Errors
/// [`Fault::Disk`], [`Fault::Broken`].
pub(crate) fn interrupted(folder: &DataFolder) -> Result<Option<Vec<SocketAddr>>, Fault> {
    let file = folder.joining();
    let Some(content) = folder.read(&file)? else { return Ok(None) };
    let addresses =
        String::from_utf8(content).ok().and_then(|text| text.lines().map(|line| line.parse().ok()).collect());
    addresses.map(Some).ok_or(Fault::Broken {
        file,
        cause: "it does not hold addresses".to_owned(),
        remedy: "Remove it, and join again with `kagimori-hsm manage join`",
    })
}

/// Makes this HSM one that joins these members at its next start or attempt.
///
/// # Errors
/// [`Fault::Disk`].
pub(crate) fn begin(folder: &DataFolder, members: &[SocketAddr]) -> Result<(), Fault> {
    let lines: String = members.iter().map(|address| format!("{address}\n")).collect();
    folder.write(&folder.joining(), lines.as_bytes())
}

/// Removes what an interrupted join left. An HSM whose seal has its last name is a member, and never comes here.
pub(crate) fn discard_unfinished(folder: &DataFolder) -> Result<(), Fault> {
    for file in [folder.store(), folder.store_mark(), folder.joining_seal()] {
        folder.remove(&file)?;
    }
    folder.destroy(&folder.seal_before())
}

fn ask(surroundings: &Surroundings, peers: &Peers, members: &[SocketAddr]) -> Result<Admission, JoinFault> {
    let own = formation::own_record(surroundings, None);
    let newcomer = Newcomer {
        witness: surroundings.settings.witness(),
        zone: own.zone,
        peer_address: own.peer_address,
        client_address: own.client_address,
        sealing_key: own.sealing_key,
        release: own.version,
        newest_state: own.state_version,
    };
    let mut said = Vec::new();
    let mut code = None;
    for &address in members {
        match peers.ask_to_join(address, &newcomer) {
            Ok(admission) => return Ok(admission),
            Err(fault) => {
                tracing::warn!(%address, %fault, "not admitted");
                said.push(format!("{address}: {fault}"));
                // What a member decided says more than that another one is away.
                if code.is_none() || matches!(fault, DialFault::Refused(_)) {
                    code = Some(fault.code());
                }
            }
        }
    }
    Err(JoinFault::Refused { code: code.unwrap_or(ErrorCode::NotReady), message: said.join("; ") })
}

/// Everybody who could be asked if this is interrupted, first whom the person named.
fn remember(folder: &DataFolder, members: &[SocketAddr], admission: &Admission) -> Result<(), Fault> {
    let here = admission.place.node;
    let others = admission.roster.iter().filter(|(node, _)| **node != here);
    let mut addresses = members.to_vec();
    for address in others.filter_map(|(_, known)| known.address.parse().ok()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    place_file::write(folder, &told(admission))?;
    begin(folder, &addresses)
}

/// The cluster master key, with a storage key of this node, and the one of the epoch before if something is still sealed
/// under it; on disk too.
fn take_keys(surroundings: &Surroundings, admission: &Admission) -> Result<Arc<Masters>, Fault> {
    let Surroundings { settings, folder, module, identity, .. } = surroundings;
    let root = root_of_trust::open(module, folder, settings.root_of_trust(), true)?;
    let write = |file: &Path, master: &MasterKey| {
        let seal = master.seal(module, &root).map_err(|fault| stopped(&fault))?;
        folder.write(file, &seal)
    };
    if settings.witness() {
        let master = MasterKey::for_witness(module).map_err(|fault| stopped(&fault))?;
        write(&folder.joining_seal(), &master)?;
        return Ok(Masters::new(master, None));
    }
    let strange = |fault| Fault::Stopped(format!("what the member handed over is not the cluster's key: {fault}"));
    let (pair, handover) = (identity.sealing(), &admission.handover);
    let master = MasterKey::receive(module, pair, handover, &admission.sealed_master_key)
        .map_err(|fault| stopped(&fault))?
        .map_err(strange)?;
    let before = match admission.sealed_master_key_before.as_slice() {
        [] => None,
        sealed => {
            let handover = Handover { epoch: Epoch(handover.epoch.0.saturating_sub(1)), ..*handover };
            let before = master.receive_beside(pair, &handover, sealed).map_err(|fault| stopped(&fault))?;
            Some(before.map_err(strange)?)
        }
    };
    if let Some(before) = &before {
        write(&folder.seal_before(), before)?;
    }
    write(&folder.joining_seal(), &master)?;
    Ok(Masters::new(master, before))
}

fn become_member(
    surroundings: &Arc<Surroundings>,
    admission: &Admission,
    masters: Arc<Masters>,
) -> Result<Member, Fault> {
    let Surroundings { folder, module, .. } = &**surroundings;
    let effects = (surroundings.effects)();
    let watch = Watch::new(surroundings);
    let storage = masters.held().present.storage_key(module).map_err(|fault| stopped(&fault))?;
    let (settings, place) = (node_watch::settings(surroundings, &effects, &watch), admission.place);
    let node = Node::join(settings, storage, place.node, place.history());
    let node = Arc::new(node.map_err(|fault| node_watch::open_fault(folder, fault))?);
    watch.begin();
    let stateless = Stateless { node, masters, effects, told: told(admission) };
    let joined = await_state(surroundings, stateless)?;
    joined.ok_or_else(|| Fault::Stopped("no member goes on sending the state: join again".to_owned()))
}

fn told(admission: &Admission) -> Told {
    Told { place: admission.place, admitted_by: admission.admitted_by, roster: admission.roster.clone() }
}

/// What an admitted HSM has that was interrupted while the state came; `None` when that is not enough to go on with, and the
/// join must begin again.
///
/// # Errors
/// [`Fault`] of the root of trust or of the disk.
pub(crate) fn go_on(surroundings: &Arc<Surroundings>) -> Result<Option<Stateless>, Fault> {
    let Surroundings { settings, folder, module, .. } = &**surroundings;
    let Some(told) = place_file::read(folder)?.filter(|_| folder.store().exists()) else { return Ok(None) };
    let root = root_of_trust::open(module, folder, settings.root_of_trust(), false)?;
    let master = match root_of_trust::unseal(folder, &root, folder.joining_seal()) {
        Ok(master) => master,
        Err(fault) => {
            tracing::warn!(%fault, "the key of an interrupted join does not open: it begins again");
            return Ok(None);
        }
    };
    let (effects, watch) = ((surroundings.effects)(), Watch::new(surroundings));
    let storage = master.storage_key(module).map_err(|fault| stopped(&fault))?;
    let node = match Node::open(node_watch::settings(surroundings, &effects, &watch), storage) {
        Ok(node) if node.status().node == told.place.node => Arc::new(node),
        Ok(node) => {
            node.stop();
            return Ok(None);
        }
        Err(fault) => {
            tracing::warn!(%fault, "the store of an interrupted join does not open: it begins again");
            return Ok(None);
        }
    };
    watch.begin();
    Ok(Some(Stateless { node, masters: Masters::read(folder, &root, master)?, effects, told }))
}

/// Takes part in the replication until the state has come. Blocks. `None` when an HSM that is not a member yet hears of
/// nobody who goes on sending it: what it has is dropped then.
///
/// # Errors
/// [`Fault`].
pub(crate) fn await_state(surroundings: &Arc<Surroundings>, stateless: Stateless) -> Result<Option<Member>, Fault> {
    let Stateless { node, masters, effects, told: Told { place, roster, .. } } = stateless;
    let Some(peers) = &surroundings.peers else {
        return Err(Fault::Settings("this HSM belongs to a cluster of several: start it with --peer-listen".into()));
    };
    peers.settle(Home { place, node: Arc::clone(&node), masters: Arc::clone(&masters) }, roster);
    let folder = &surroundings.folder;
    let joins = folder.joining_seal().exists();
    if !wait_for_state(peers, &node, place.node, joins) {
        tracing::warn!("no member goes on sending the state: this HSM asks for admission anew");
        node.stop();
        discard_unfinished(folder)?;
        return Ok(None);
    }
    // From here on it is a member, whose seal may be replaced by that of a new epoch.
    if joins {
        folder.rename(&folder.joining_seal(), &folder.seal())?;
        folder.remove(&folder.joining())?;
    }
    Member::around(surroundings, node, masters, effects).map(Some)
}

/// Waits until the state says that this node is a member. The process may end meanwhile, and begin again. `false` when one
/// that `joins` hears nothing for too long.
fn wait_for_state(peers: &Peers, node: &Node, here: u64, joins: bool) -> bool {
    let (mut heard, mut last) = (Instant::now(), (0, 0));
    // Until the state names this node it is older than its admission, and whoever was there then is known better.
    while !node.read().members().contains_key(&NodeId(here)) {
        let status = node.status();
        let now = (status.last_entry, status.snapshots.received_bytes + status.snapshots.held_bytes);
        if now != last || status.leader.is_some() {
            (heard, last) = (Instant::now(), now);
        } else if joins && heard.elapsed() > limits::JOIN_SILENCE {
            return false;
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
    peers.follow(roster_of(node.read().members()));
    true
}

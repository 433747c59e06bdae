//! This HSM as a member of a cluster: its keys, its node, its service, and the doors through which clients come.
//!
//! [`Member::form`] makes a cluster of one, [`Member::open`] goes on with what is on disk, [`Member::open_doors`] lets
//! clients in once there is a certificate to show. It must not decide when: `process` does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hsm_core::command::Origin;
use hsm_core::{Action, ClusterId, HsmId, NodeId};
use hsm_crypto::{ClusterKeys, KeyRing, MasterKey, Module};
use hsm_protocol::Lifecycle;
use hsm_replication::{Node, OpenFault, Outcome};
use parking_lot::Mutex;
use zeroize::Zeroizing;

use crate::ceremony::CeremonyKey;
use crate::data_folder::DataFolder;
use crate::dispatch::{Desk, Effects, Service, ServiceParts};
use crate::doors::Doors;
use crate::epochs::{Epochs, Tending};
use crate::exit::Fault;
use crate::identity::Identity;
use crate::isolated_journal::Journal;
use crate::masters::Masters;
use crate::metrics::Metrics;
use crate::node_watch::{self, Watch};
use crate::peer::Source;
use crate::peers::{Home, Peers, Place, roster_of};
use crate::place_file::Told;
use crate::release::ReleaseStatement;
use crate::settings::Settings;
use crate::{formation, joining, limits, place_file, root_of_trust};

/// What the seal of the cluster's TLS key is bound to.
pub(crate) const PURPOSE_CLUSTER_KEY: &str = "cluster TLS key";

/// What the seal of the activation password is bound to.
pub(crate) const PURPOSE_ACTIVATION: &str = "activation password";

/// What a member needs of the process around it.
pub struct Surroundings {
    /// Checked settings.
    pub settings: Settings,
    /// The data folder, locked.
    pub folder: DataFolder,
    /// The cryptographic module, tested.
    pub module: Arc<Module>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// This HSM's random name.
    pub hsm: [u8; 16],
    /// By what it proves that name.
    pub identity: Arc<Identity>,
    /// What its program is.
    pub release: Arc<ReleaseStatement>,
    /// The way to other HSMs; `None` when there can be none.
    pub peers: Option<Arc<Peers>>,
    /// Makes the sink for effects that is given to a node.
    pub effects: Box<dyn Fn() -> Arc<Effects> + Send + Sync>,
    /// Called when the node can not go on.
    pub on_fault: Arc<dyn Fn(hsm_replication::Fault) + Send + Sync>,
    /// Called when a node is something else to its cluster than before.
    pub on_standing: Arc<dyn Fn(hsm_replication::Standing) + Send + Sync>,
}

/// A member of a cluster.
pub struct Member {
    surroundings: Arc<Surroundings>,
    node: Arc<Node>,
    /// Which node of the roster this is.
    place: Place,
    masters: Arc<Masters>,
    /// `None` in a witness, which holds no key and serves nobody.
    serving: Option<Serving>,
    doors: Mutex<Doors>,
}

/// What a member that holds the cluster's keys serves clients with.
struct Serving {
    keys: Arc<KeyRing>,
    service: Arc<Service>,
    /// `None` once this member stops.
    tending: Mutex<Option<Tending>>,
}

/// What the data folder holds.
pub enum Found {
    /// No cluster, or one that this HSM was only joining.
    Nothing,
    /// A member of a cluster.
    Member(Member),
    /// A member that was stopped before any state was on its disk: it gets that from the others.
    Stateless(Stateless),
}

/// A member that waits for its state.
pub struct Stateless {
    pub(crate) node: Arc<Node>,
    pub(crate) masters: Arc<Masters>,
    pub(crate) effects: Arc<Effects>,
    /// What it was told when it was admitted.
    pub(crate) told: Told,
}

impl Member {
    /// Makes a cluster whose only member is this HSM. Blocks for a second.
    ///
    /// # Errors
    /// [`Fault`]; what was begun is undone by the next [`Member::open`].
    pub fn form(surroundings: &Arc<Surroundings>, label: &str, fips: bool) -> Result<Self, Fault> {
        let Surroundings { settings, folder, module, .. } = &**surroundings;
        discard_unfinished(folder)?;
        let master = MasterKey::generate(module, formation::FIRST_EPOCH).map_err(|fault| stopped(&fault))?;
        let root = root_of_trust::open(module, folder, settings.root_of_trust(), true)?;
        let seal = master.seal(module, &root).map_err(|fault| stopped(&fault))?;
        let cluster = ClusterId(formation::random(module)?);
        let keys = ClusterKeys::new(&master, cluster).map_err(|fault| stopped(&fault))?;
        let form = formation::first_command(surroundings, &keys, cluster, label, fips)?;
        folder.write(&folder.forming_seal(), &seal)?;
        let effects = (surroundings.effects)();
        let watch = Watch::new(surroundings);
        let storage = master.storage_key(module).map_err(|fault| stopped(&fault))?;
        let node = Node::form(node_watch::settings(surroundings, &effects, &watch), storage, form)
            .map_err(|fault| watch.disk_fault(folder).unwrap_or_else(|| node_watch::open_fault(folder, fault)))?;
        watch.begin();
        folder.rename(&folder.forming_seal(), &folder.seal())?;
        tracing::info!(cluster = %hexadecimal(&cluster.0), fips, memory = ?master.memory(), "cluster formed");
        Self::around(surroundings, Arc::new(node), Masters::new(master, None), effects)
    }

    /// Goes on with the cluster in the data folder, if there is one.
    ///
    /// # Errors
    /// [`Fault`] that names the file and what to do; nothing is repaired.
    pub fn open(surroundings: &Arc<Surroundings>) -> Result<Found, Fault> {
        let Surroundings { settings, folder, module, .. } = &**surroundings;
        if folder.joining_seal().exists() && !folder.seal().exists() {
            // It was joining: that goes on with what it has, or else begins again.
            return Ok(joining::go_on(surroundings)?.map_or(Found::Nothing, Found::Stateless));
        }
        if !folder.store().exists() {
            if folder.seal().exists() {
                return Err(Fault::Broken {
                    file: folder.store(),
                    cause: "master.seal is there but the store is not".to_owned(),
                    remedy: "Restore store.redb and store.mark from a copy; or, in a cluster of several, remove \
                             master.seal and join again: the HSM returns under its name",
                });
            }
            discard_unfinished(folder)?;
            return Ok(Found::Nothing);
        }
        let forming = !folder.seal().exists() && folder.forming_seal().exists();
        let seal = if forming { folder.forming_seal() } else { folder.seal() };
        let root = root_of_trust::open(module, folder, settings.root_of_trust(), false)?;
        let master = root_of_trust::unseal(folder, &root, seal)?;
        let effects = (surroundings.effects)();
        let storage = master.storage_key(module).map_err(|fault| stopped(&fault))?;
        let watch = Watch::new(surroundings);
        let node = match Node::open(node_watch::settings(surroundings, &effects, &watch), storage) {
            Ok(node) => node,
            Err(OpenFault::NotFormed(_)) if forming => {
                discard_unfinished(folder)?;
                return Ok(Found::Nothing);
            }
            Err(fault) => return Err(node_watch::open_fault(folder, fault)),
        };
        watch.begin();
        if forming {
            folder.rename(&folder.forming_seal(), &folder.seal())?;
        }
        folder.remove(&folder.joining())?;
        let (node, masters) = (Arc::new(node), Masters::read(folder, &root, master)?);
        // A state that does not name this node is older than its admission, or newer than its removal: the others tell.
        let here = node.status().node;
        if !node.read().members().contains_key(&NodeId(here))
            && let Some(told) = place_file::read(folder)?.filter(|told| told.place.node == here)
        {
            return Ok(Found::Stateless(Stateless { node, masters, effects, told }));
        }
        Self::around(surroundings, node, masters, effects).map(Found::Member)
    }

    /// A member with this node, whose state holds a cluster, and these master keys.
    pub(crate) fn around(
        surroundings: &Arc<Surroundings>,
        node: Arc<Node>,
        masters: Arc<Masters>,
        effects: Arc<Effects>,
    ) -> Result<Self, Fault> {
        let place = place_of(surroundings, &node)?;
        if surroundings.peers.is_none() && node.read().members().len() > 1 {
            return Err(Fault::Settings(
                "this HSM belongs to a cluster of several: start it with --peer-listen".into(),
            ));
        }
        let present = masters.held().present;
        tracing::info!(
            cluster = %hexadecimal(&place.cluster), node = format!("{:x}", place.node), memory = ?present.memory(),
            epoch = present.epoch().0, "cluster opened"
        );
        let serving = match present.is_keyless() {
            true => None,
            false => Some(Serving::start(surroundings, &node, place, &masters, effects)?),
        };
        if let Some(peers) = &surroundings.peers {
            let roster = roster_of(node.read().members());
            peers.settle(Home { place, node: Arc::clone(&node), masters: Arc::clone(&masters) }, roster);
        }
        let surroundings = Arc::clone(surroundings);
        Ok(Self { surroundings, node, place, masters, serving, doors: Mutex::default() })
    }

    /// The node, for asking and proposing.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Proposes on management's or the process's own behalf, and waits.
    pub fn propose(&self, action: Action) -> Outcome {
        self.surroundings.metrics.proposal();
        self.node.propose_and_wait(NOBODY, action, limits::PROPOSAL_TIME)
    }

    /// Ends sessions whose time is over, if there are any sessions. Does not wait.
    pub fn expire_sessions(&self) {
        if self.node.read().session_count() == 0 {
            return;
        }
        self.surroundings.metrics.proposal();
        let done = |outcome| match outcome {
            Outcome::Done { result: Ok(_), .. } => {}
            Outcome::Done { result: Err(refusal), .. } => tracing::warn!(%refusal, "sessions were not expired"),
            Outcome::Unavailable(code) => tracing::debug!(%code, "sessions were not expired; the next round will"),
            Outcome::Unknown => tracing::debug!("whether sessions were expired is unknown; the next round will"),
        };
        self.node.propose(NOBODY, Action::ExpireSessions, Box::new(done));
    }

    /// Tells the cluster who logged in here while this HSM was isolated, if it is heard again. Does not wait for it.
    pub fn settle_isolated(&self) {
        self.serving.iter().for_each(|serving| serving.service.settle_isolated());
    }

    /// Size of the journal of such log-ins, in bytes.
    pub fn isolated_journal_bytes(&self) -> u64 {
        self.serving.as_ref().map_or(0, |serving| serving.service.desk().journal_bytes())
    }

    /// The cluster master key may have a new epoch, or the one before may be over: it is looked at. Does not wait.
    pub fn look_at_epochs(&self) {
        let Some(Serving { tending, .. }) = &self.serving else { return };
        tending.lock().iter().for_each(Tending::wake);
    }

    /// Whether this HSM still holds the master key of the epoch before.
    pub fn holds_epoch_before(&self) -> bool {
        self.serving.as_ref().is_some_and(|serving| serving.keys.has_before())
    }

    /// The activation password; `None` once the cluster is active.
    ///
    /// # Errors
    /// [`Fault::Stopped`] when its seal does not open: the state is broken.
    pub fn activation_password(&self) -> Result<Option<Zeroizing<String>>, Fault> {
        let sealed = self.node.read().cluster().map(|record| record.sealed_activation_password.clone());
        let Some(sealed) = sealed.filter(|sealed| !sealed.is_empty()) else { return Ok(None) };
        let Some(Serving { keys, .. }) = &self.serving else { return Ok(None) };
        let opened = keys.open_bytes(PURPOSE_ACTIVATION, &sealed).map_err(|fault| stopped(&fault))?;
        let password = std::str::from_utf8(opened.expose()).map_err(|fault| stopped(&fault))?;
        Ok(Some(Zeroizing::new(password.to_owned())))
    }

    /// The cluster's public key: DER SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// [`Fault::Stopped`] when the seal of the key does not open: the state is broken.
    pub fn cluster_public_key(&self) -> Result<Vec<u8>, Fault> {
        let sealed = self.node.read().cluster().map(|record| record.sealed_cluster_key.clone()).unwrap_or_default();
        let key = self.open_cluster_key(&sealed)?;
        Ok(CeremonyKey::from_pkcs8(&key).map_err(|fault| stopped(&fault))?.public_key())
    }

    fn open_cluster_key(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let Some(Serving { keys, .. }) = &self.serving else { return Err(stopped(&"a witness holds no keys")) };
        let key = keys.open_bytes(PURPOSE_CLUSTER_KEY, sealed);
        let key = key.map_err(|_| stopped(&"the seal of the cluster's TLS key does not open"))?;
        Ok(Zeroizing::new(key.expose().to_vec()))
    }

    /// Where clients come in over TLS, once they may.
    pub fn client_address(&self) -> Option<SocketAddr> {
        self.doors.lock().address()
    }

    /// Lets clients in if the cluster has a certificate, or follows a change of certificate or of the rule for client
    /// certificates. Says whether connections that began before the change must be closed.
    ///
    /// # Errors
    /// [`Fault::Listen`], or [`Fault::Stopped`] when what the state holds cannot be used.
    pub fn open_doors(&self) -> Result<bool, Fault> {
        let mut doors = self.doors.lock();
        let Some(Serving { service, .. }) = &self.serving else { return Ok(false) };
        let Some(record) = self.node.read().cluster().cloned() else { return Ok(false) };
        if record.certificate.is_empty() || record.lifecycle == Lifecycle::Zeroized {
            return Ok(false);
        }
        let Surroundings { settings, metrics, .. } = &*self.surroundings;
        doors.open(&record, settings, metrics, service, || self.open_cluster_key(&record.sealed_cluster_key))
    }

    /// Ends every connection over TLS: they began under another rule for client certificates. Clients come again by
    /// themselves, and are judged by the new one.
    pub fn close_tls_connections(&self) {
        let Some(Serving { service, .. }) = &self.serving else { return };
        service.close_all(|facts| matches!(facts.source, Source::Network(_)));
    }

    /// The master keys that this member holds.
    pub(crate) fn masters(&self) -> &Arc<Masters> {
        &self.masters
    }

    /// Where it belongs.
    pub(crate) fn place(&self) -> Place {
        self.place
    }

    /// Lets nobody in any more, ends what is under way within the time for it, and closes the store.
    pub fn stop(&self) {
        self.doors.lock().close(&self.surroundings.settings);
        if let Some(Serving { service, .. }) = &self.serving {
            service.stop(limits::STOP_TIME);
        }
        self.node.stop();
        if let Some(tending) = self.serving.as_ref().and_then(|serving| serving.tending.lock().take()) {
            tending.stop();
        }
        if let Some(peers) = &self.surroundings.peers {
            peers.withdraw();
        }
    }

    /// Destroys the cluster master key's seal and root key, and the identity that the root key sealed. What the process
    /// still holds goes with the process.
    ///
    /// # Errors
    /// [`Fault::Disk`].
    pub fn destroy_seal(&self) -> Result<(), Fault> {
        destroy_seal(&self.surroundings.folder)
    }

    /// Follows a change of the roster. Says whether this HSM is still in it.
    pub fn follow_roster(&self) -> bool {
        let (members, rule) = {
            let state = self.node.read();
            (state.members().clone(), state.cluster().map(|cluster| cluster.policy.releases.clone()))
        };
        if let Some(peers) = &self.surroundings.peers {
            peers.follow_rule(&rule.unwrap_or_default());
            let removed = |node: u64| !members.contains_key(&NodeId(node));
            // One that was removed is heard as long as it has a vote: a majority may need it.
            let mut roster = peers.known();
            roster.retain(|&node, _| removed(node) && self.node.votes(node));
            roster.extend(roster_of(&members));
            peers.follow(roster);
        }
        members.contains_key(&NodeId(self.place.node))
    }

    /// Whether the others may need this HSM's vote, although it is in no roster any more.
    pub fn is_vote_needed(&self) -> bool {
        self.node.is_vote_needed()
    }

    /// Where the other members listen for this one.
    pub fn peer_addresses(&self) -> Vec<SocketAddr> {
        let here = NodeId(self.place.node);
        let state = self.node.read();
        let others = state.members().iter().filter(|(node, _)| **node != here);
        others.filter_map(|(_, member)| member.peer_address.parse().ok()).collect()
    }

    /// Whether a member that had applied so many commands, and says that this node is not in the roster, proves that this
    /// HSM was removed: this node was in the roster, and is as far as it has applied itself if it has not applied more; and a
    /// node id never comes back.
    pub fn is_removed_as_of(&self, applied: u64) -> bool {
        let here = self.node.applied().0;
        here <= applied || !self.node.read().members().contains_key(&NodeId(self.place.node))
    }

    /// Has the cluster use what every member's program knows by now, when this HSM leads. Does not wait.
    pub fn raise_version(&self) {
        let Some(version) = self.node.read().possible_version() else { return };
        let status = self.node.status();
        if status.leader != Some(status.node) {
            return;
        }
        tracing::info!(version, "every HSM knows this version of commands: the cluster uses it from now on");
        let done = |outcome| match outcome {
            Outcome::Done { result: Ok(_), .. } => {}
            _ => tracing::debug!("the version of commands is raised in the next round"),
        };
        self.node.propose(NOBODY, Action::RaiseVersion { version }, Box::new(done));
    }

    /// Corrects what the roster says of this HSM's addresses, zone and version. Does not wait.
    pub fn announce(&self) {
        let member = formation::own_record(&self.surroundings, self.client_address());
        let node = NodeId(self.place.node);
        let differs = self.node.read().members().get(&node).is_some_and(|known| {
            let same = known.zone == member.zone
                && known.peer_address == member.peer_address
                && known.client_address == member.client_address
                && known.version == member.version
                && known.state_version == member.state_version;
            !same && known.certificate == member.certificate
        });
        if !differs {
            return;
        }
        tracing::info!(
            zone = member.zone,
            peers = member.peer_address,
            clients = member.client_address,
            "this HSM moved"
        );
        self.surroundings.metrics.proposal();
        let done = |outcome| match outcome {
            Outcome::Done { result: Ok(_), .. } => {}
            Outcome::Done { result: Err(refusal), .. } => tracing::warn!(%refusal, "the roster was not corrected"),
            Outcome::Unavailable(_) | Outcome::Unknown => tracing::debug!("the roster is corrected in the next round"),
        };
        self.node.propose(NOBODY, Action::UpdateMember { node, member }, Box::new(done));
    }
}

impl Serving {
    /// What serves clients, and follows the epochs of the master key.
    fn start(
        surroundings: &Arc<Surroundings>,
        node: &Arc<Node>,
        place: Place,
        masters: &Arc<Masters>,
        effects: Arc<Effects>,
    ) -> Result<Self, Fault> {
        let keys = |master: &MasterKey| ClusterKeys::new(master, ClusterId(place.cluster));
        let held = masters.held();
        let before = held.before.as_deref().map(keys).transpose().map_err(|fault| stopped(&fault))?;
        let keys = KeyRing::new(keys(&held.present).map_err(|fault| stopped(&fault))?, before);
        let keys = Arc::new(keys);
        let epochs = Arc::new(Epochs {
            surroundings: Arc::clone(surroundings),
            node: Arc::clone(node),
            place,
            masters: Arc::clone(masters),
            keys: Arc::clone(&keys),
        });
        // An epoch may have begun that the last run of this process did not get to know.
        if let Err(fault) = epochs.follow() {
            tracing::error!(%fault, "the present epoch of the master key cannot be followed yet");
        }
        let parts = ServiceParts {
            node: Arc::clone(node),
            module: Arc::clone(&surroundings.module),
            keys: Arc::clone(&keys),
            metrics: Arc::clone(&surroundings.metrics),
            effects,
            hsm: surroundings.hsm,
            address: formation::own_record(surroundings, None).client_address,
            desk: Desk::new(open_journal(surroundings, node, &keys)),
        };
        let service = Service::new(parts).map_err(|error| stopped(&error))?;
        let tending = Tending::start(epochs, Arc::clone(&service)).map_err(|error| stopped(&error))?;
        Ok(Self { keys, service, tending: Mutex::new(Some(tending)) })
    }
}

/// The journal of log-ins while this HSM was isolated; `None` when it cannot be used, which is no reason not to serve.
fn open_journal(surroundings: &Arc<Surroundings>, node: &Node, keys: &Arc<KeyRing>) -> Option<Journal> {
    match Journal::open(surroundings, keys) {
        Ok((journal, logins)) => {
            node.alone(|hsm| hsm.open_isolated(HsmId(surroundings.hsm), logins));
            Some(journal)
        }
        Err(fault) => {
            tracing::error!(%fault, "the journal of log-ins while this HSM was isolated cannot be used");
            None
        }
    }
}

fn destroy_seal(folder: &DataFolder) -> Result<(), Fault> {
    folder.destroy(&folder.seal())?;
    folder.destroy(&folder.seal_before())?;
    folder.remove(&folder.isolated_journal())?;
    folder.remove(&folder.isolated_mark())?;
    folder.destroy(&folder.root_key())?;
    folder.remove(&folder.identity())
}

/// Destroys everything by which this HSM was a member. The folder is a blank HSM's then, whose process must end.
pub(crate) fn forget_cluster(folder: &DataFolder) -> Result<(), Fault> {
    destroy_seal(folder)?;
    for file in [folder.store(), folder.store_mark(), folder.place(), folder.joining(), folder.hsm_id()] {
        folder.remove(&file)?;
    }
    Ok(())
}

/// Which node of which history this is.
pub(crate) fn place_of(surroundings: &Surroundings, node: &Node) -> Result<Place, Fault> {
    let state = node.read();
    let record = state.cluster().ok_or_else(|| Fault::Broken {
        file: surroundings.folder.store(),
        cause: "the state holds no cluster".to_owned(),
        remedy: "Restore store.redb and store.mark from a copy",
    })?;
    Ok(Place { cluster: record.cluster.0, incarnation: record.incarnation.0, node: node.status().node })
}

/// In whose name management and housekeeping propose.
const NOBODY: Origin = Origin { session: None, sequence: 0, lowest_unanswered: 0 };

/// Removes what an interrupted `form` left. Nothing of it was ever acknowledged: the seal has its last name only after
/// the first command is durable.
fn discard_unfinished(folder: &DataFolder) -> Result<(), Fault> {
    if folder.forming_seal().exists() && !folder.seal().exists() {
        tracing::warn!("an unfinished cluster is discarded: the process ended while it was being formed");
        folder.remove(&folder.store())?;
        folder.remove(&folder.store_mark())?;
        folder.remove(&folder.forming_seal())?;
    }
    Ok(())
}

/// A fault after which the process ends, in its own words.
pub(crate) fn stopped(fault: &dyn std::fmt::Display) -> Fault {
    Fault::Stopped(fault.to_string())
}

/// Time since 1970-01-01 UTC, for certificates; everything else takes its time from the log.
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Octets as people read them.
pub(crate) fn hexadecimal(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

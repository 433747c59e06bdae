//! Several peers with one state: a cluster whose members can be killed, frozen, made to lag, added and removed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hsm_client::ClusterConfiguration;
use hsm_protocol::wire;
use rustls::ServerConfig;

use super::certificates::{Authority, TlsOptions, server_configuration};
use super::{Face, Peer, PeerAddress, World};

/// A cluster over TLS on this host.
pub(crate) struct Hsms {
    pub(crate) world: Arc<World>,
    pub(crate) faces: Vec<Arc<Face>>,
    pub(crate) folder: tempfile::TempDir,
    peers: Vec<Option<Peer>>,
    addresses: Vec<String>,
    zones: Vec<String>,
    authority: Authority,
    tls: Arc<ServerConfig>,
}

impl Hsms {
    pub(crate) fn new(count: u8) -> Self {
        Self::in_world(count, &World::new())
    }

    pub(crate) fn in_world(count: u8, world: &Arc<World>) -> Self {
        let authority = Authority::new("ca");
        let tls = server_configuration(&authority.sign(|_| {}), &TlsOptions::default());
        let mut hsms = Self {
            world: Arc::clone(world),
            faces: Vec::new(),
            folder: tempfile::tempdir().unwrap(),
            peers: Vec::new(),
            addresses: Vec::new(),
            zones: Vec::new(),
            authority,
            tls,
        };
        (0..count).for_each(|number| hsms.start_another(&format!("zone-{number}")));
        hsms.tell_roster(&(0..usize::from(count)).collect::<Vec<_>>());
        hsms
    }

    /// Starts an HSM that is not in the roster yet.
    pub(crate) fn start_another(&mut self, zone: &str) {
        let face = Face::new(u8::try_from(self.faces.len()).unwrap() + 1);
        let peer = Peer::on_port_as("127.0.0.1:0", &self.world, Arc::clone(&self.tls), &face);
        let PeerAddress::Tcp(address) = &peer.address else { panic!("over TCP") };
        self.addresses.push(address.clone());
        self.zones.push(zone.to_owned());
        self.faces.push(face);
        self.peers.push(Some(peer));
    }

    /// From now on these are the members.
    pub(crate) fn tell_roster(&self, members: &[usize]) {
        let member = |&position: &usize| wire::Member {
            hsm: self.faces[position].hsm.to_vec(),
            address: self.addresses[position].clone(),
            zone: self.zones[position].clone(),
            ..Default::default()
        };
        *self.world.members.lock().unwrap() = members.iter().map(member).collect();
        self.world.index.fetch_add(1, Ordering::Relaxed);
        self.world.roster.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn address(&self, position: usize) -> &str {
        &self.addresses[position]
    }

    /// Knows one address only.
    pub(crate) fn configuration(&self) -> ClusterConfiguration {
        let mut configuration = ClusterConfiguration::new("test");
        configuration.addresses = vec![self.addresses[0].clone()];
        configuration.trust_anchor = Some(self.authority.write_anchor(self.folder.path()));
        configuration
    }

    pub(crate) fn kill(&mut self, position: usize) {
        drop(self.peers[position].take());
    }

    pub(crate) fn restart(&mut self, position: usize) {
        let (world, face) = (&self.world, &self.faces[position]);
        self.peers[position] = Some(Peer::on_port_as(&self.addresses[position], world, Arc::clone(&self.tls), face));
    }

    pub(crate) fn freeze(&self, position: usize, frozen: bool) {
        self.faces[position].frozen.store(frozen, Ordering::Relaxed);
    }

    /// Cryptography that each has done since this was asked last.
    pub(crate) fn served(&self) -> Vec<u64> {
        self.faces.iter().map(|face| face.served.swap(0, Ordering::Relaxed)).collect()
    }

    /// Connections that each has had so far.
    pub(crate) fn connections(&self) -> Vec<usize> {
        self.faces.iter().map(|face| face.arrivals.lock().unwrap().len()).collect()
    }
}

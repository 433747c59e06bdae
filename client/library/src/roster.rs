//! Who the HSMs of the cluster are, as far as this process knows: the members that an HSM told of, and the addresses of the
//! configuration of which nobody knows yet whose they are.
//!
//! A process begins with the addresses of its configuration. The hello on a connection says whose an address is, and the
//! roster who else there is. Addresses of the configuration stay as a fall-back for when no member can be reached. A
//! roster takes the place of an older one only. Pure: [`crate::pool`] brings what was told and keeps the result.

use std::sync::Arc;

use hsm_protocol::wire;

use crate::address::Address;
use crate::configuration::ClusterConfiguration;
use crate::connection::HsmId;
use crate::limits::MEMBERS;
use crate::member::Member;

/// A member as an HSM tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    hsm: HsmId,
    address: Option<Address>,
    zone: String,
}

/// A roster as an HSM tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    listed: Vec<Listed>,
    /// 0 = there is none.
    pub(crate) version: u32,
    /// Log index that it is as new as.
    pub(crate) index: u64,
}

impl Told {
    /// Reads an HSM's answer. Members without an address that can be used from here are members all the same: one may be
    /// reached by an address of the configuration.
    pub(crate) fn read(reply: &wire::ClusterInfoReply) -> Self {
        let listed = reply.members.iter().filter(|member| !member.witness).take(MEMBERS);
        let listed = listed.filter_map(|member| {
            let hsm = member.hsm.as_slice().try_into().ok()?;
            let address = Address::parse(&member.address).ok().filter(Address::leads_somewhere);
            Some(Listed { hsm, address, zone: member.zone.clone() })
        });
        Self { listed: listed.collect(), version: reply.roster, index: reply.applied_index }
    }
}

/// The HSMs by how near they are.
#[derive(Default)]
pub(crate) struct Table {
    /// Members, or addresses of the configuration while there are none: on this host, in this zone, elsewhere.
    pub(crate) tiers: [Vec<Arc<Member>>; 3],
    /// Addresses of the configuration that are nobody's, once there are members.
    pub(crate) strangers: Vec<Arc<Member>>,
    /// Whose an address turned out to be.
    learnt: Vec<(Address, HsmId)>,
    told: Told,
    settings: Arc<Settings>,
}

/// What the configuration says.
#[derive(Default)]
struct Settings {
    addresses: Vec<Address>,
    zone: Option<String>,
    /// TLS can be spoken.
    tls: bool,
    connections: usize,
}

impl Table {
    /// The addresses of the configuration. The error is a sentence for a person.
    pub(crate) fn from_configuration(configuration: &ClusterConfiguration) -> Result<Self, String> {
        let mut addresses: Vec<Address> = configuration.unix_socket.iter().cloned().map(Address::Unix).collect();
        for text in &configuration.addresses {
            let address = Address::parse(text)?;
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() {
            return Err("is empty, and there is no `unix-socket`".to_owned());
        }
        let settings = Settings {
            addresses,
            zone: configuration.zone.clone(),
            tls: configuration.trust_anchor.is_some(),
            connections: configuration.connections,
        };
        Ok(Self::build(Arc::new(settings), Vec::new(), Told::default(), &[]))
    }

    /// With a roster that was told. `None` when this one is as new.
    pub(crate) fn with_roster(&self, told: Told) -> Option<Self> {
        let newer = told.version != 0 && (self.told.version == 0 || told.index > self.told.index);
        newer.then(|| self.rebuilt(self.learnt.clone(), told))
    }

    /// Without the roster: another one counts, of another incarnation.
    pub(crate) fn without_roster(&self) -> Self {
        self.rebuilt(self.learnt.clone(), Told::default())
    }

    /// With the knowledge whose an address of the configuration is. `None` when that is known.
    pub(crate) fn with_learnt(&self, address: &Address, hsm: HsmId) -> Option<Self> {
        let is_known = self.learnt.iter().any(|(known, owner)| known == address && *owner == hsm);
        if is_known || !self.settings.addresses.contains(address) {
            return None;
        }
        let mut learnt = self.learnt.clone();
        learnt.retain(|(known, _)| known != address);
        learnt.push((address.clone(), hsm));
        Some(self.rebuilt(learnt, self.told.clone()))
    }

    /// The member with this name.
    pub(crate) fn find(&self, hsm: HsmId) -> Option<&Arc<Member>> {
        self.tiers.iter().flatten().find(|member| member.identity() == Some(hsm))
    }

    /// Everybody whom a call may be made at.
    pub(crate) fn everybody(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.tiers.iter().flatten().chain(&self.strangers)
    }

    /// Whether anybody of the tiers is known by name.
    pub(crate) fn has_names(&self) -> bool {
        self.tiers.iter().flatten().any(|member| member.identity().is_some())
    }

    /// Version and index of the roster; (0, 0) while there is none.
    pub(crate) fn roster(&self) -> (u32, u64) {
        (self.told.version, self.told.index)
    }

    fn rebuilt(&self, learnt: Vec<(Address, HsmId)>, told: Told) -> Self {
        let known: Vec<_> = self.everybody().cloned().collect();
        Self::build(Arc::clone(&self.settings), learnt, told, &known)
    }

    fn build(settings: Arc<Settings>, learnt: Vec<(Address, HsmId)>, told: Told, known: &[Arc<Member>]) -> Self {
        let mut listed = told.listed.clone();
        if told.version == 0 {
            // No roster: whoever has answered at an address of the configuration is a member.
            for (_, hsm) in &learnt {
                if listed.iter().all(|member| member.hsm != *hsm) {
                    listed.push(Listed { hsm: *hsm, address: None, zone: String::new() });
                }
            }
        }
        let mut tiers = [const { Vec::new() }; 3];
        let mut owned: Vec<Address> = Vec::new();
        for member in &listed {
            let addresses = addresses_of(&settings, &learnt, member);
            owned.extend(addresses.iter().cloned());
            let tier = match &settings.zone {
                _ if addresses.iter().any(|address| matches!(address, Address::Unix(_))) => 0,
                Some(zone) if *zone == member.zone => 1,
                _ => 2,
            };
            if !addresses.is_empty() {
                tiers[tier].push(take_over(known, Some(member.hsm), addresses, settings.connections));
            }
        }
        let free = settings.addresses.iter().filter(|address| !owned.contains(address));
        let strangers = free.map(|address| take_over(known, None, vec![address.clone()], settings.connections));
        let mut strangers: Vec<_> = strangers.collect();
        if tiers.iter().all(Vec::is_empty) {
            for stranger in std::mem::take(&mut strangers) {
                let local = stranger.addresses().iter().any(|address| matches!(address, Address::Unix(_)));
                tiers[if local { 0 } else { 2 }].push(stranger);
            }
        }
        Self { tiers, strangers, learnt, told, settings }
    }
}

/// Where a member may be reached: what was learnt first, because it is known to lead there from here.
fn addresses_of(settings: &Settings, learnt: &[(Address, HsmId)], member: &Listed) -> Vec<Address> {
    let mut addresses: Vec<Address> = Vec::new();
    // In the order of the configuration, which begins with the Unix socket.
    for address in &settings.addresses {
        if learnt.iter().any(|(known, owner)| known == address && *owner == member.hsm) {
            addresses.push(address.clone());
        }
    }
    if let Some(address) = member.address.as_ref().filter(|address| settings.tls && !addresses.contains(address)) {
        addresses.push(address.clone());
    }
    addresses
}

/// The member as it is known, with its connections, or a new one.
fn take_over(
    known: &[Arc<Member>],
    identity: Option<HsmId>,
    addresses: Vec<Address>,
    connections: usize,
) -> Arc<Member> {
    let same = |member: &&Arc<Member>| match identity {
        Some(_) => member.identity() == identity,
        None => member.identity().is_none() && member.addresses() == addresses,
    };
    match known.iter().find(same) {
        Some(member) => {
            member.set_addresses(addresses);
            Arc::clone(member)
        }
        None => Arc::new(Member::new(identity, addresses, connections)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(addresses: &[&str]) -> ClusterConfiguration {
        let mut configuration = ClusterConfiguration::new("test");
        configuration.addresses = addresses.iter().map(|&address| address.to_owned()).collect();
        configuration.trust_anchor = Some("anchor".into());
        configuration.zone = Some("here".to_owned());
        configuration
    }

    fn reply(version: u32, index: u64, members: &[(u8, &str, &str)]) -> Told {
        let member = |&(hsm, address, zone): &(u8, &str, &str)| wire::Member {
            hsm: vec![hsm; 16],
            address: address.to_owned(),
            zone: zone.to_owned(),
            ..Default::default()
        };
        Told::read(&wire::ClusterInfoReply {
            members: members.iter().map(member).collect(),
            roster: version,
            applied_index: index,
            ..Default::default()
        })
    }

    fn names(members: &[Arc<Member>]) -> Vec<u8> {
        members.iter().map(|member| member.identity().map_or(0, |hsm| hsm[0])).collect()
    }

    #[test]
    fn members_are_ordered_by_nearness_and_keep_their_connections() {
        let mut configuration = configuration(&["a:1"]);
        configuration.unix_socket = Some("/socket".into());
        let table = Table::from_configuration(&configuration).unwrap();
        assert_eq!((names(&table.tiers[0]), names(&table.tiers[2])), (vec![0], vec![0]));
        let table = table.with_learnt(&Address::Unix("/socket".into()), [1; 16]).unwrap();
        assert_eq!((names(&table.tiers[0]), table.strangers.len()), (vec![1], 1));
        let first = Arc::clone(&table.tiers[0][0]);
        let told = reply(5, 10, &[(1, "x:1", "there"), (2, "a:1", "there"), (3, "c:1", "here")]);
        let table = table.with_roster(told).unwrap();
        assert_eq!([0, 1, 2].map(|tier| names(&table.tiers[tier])), [vec![1], vec![3], vec![2]]);
        assert!(Arc::ptr_eq(&first, &table.tiers[0][0]));
        assert!(table.strangers.is_empty(), "a:1 belongs to 2");
        assert_eq!(first.addresses().len(), 2, "its socket and its address in the roster");
    }

    #[test]
    fn an_older_roster_never_takes_the_place_of_a_newer_one() {
        let table = Table::from_configuration(&configuration(&["a:1"])).unwrap();
        let table = table.with_roster(reply(5, 10, &[(1, "a:1", ""), (2, "b:1", "")])).unwrap();
        assert!(table.with_roster(reply(4, 9, &[(1, "a:1", "")])).is_none());
        assert!(table.with_roster(reply(0, 11, &[])).is_none());
        let table = table.with_roster(reply(6, 11, &[(2, "b:1", "")])).unwrap();
        assert_eq!(names(&table.tiers[2]), [2]);
        assert_eq!(table.strangers.len(), 1, "the address of the configuration stays as a fall-back");
        assert!(table.without_roster().with_roster(reply(4, 1, &[(1, "a:1", "")])).is_some());
    }

    #[test]
    fn addresses_that_lead_nowhere_and_witnesses_are_left_out() {
        let table = Table::from_configuration(&configuration(&["a:1"])).unwrap();
        let mut told = reply(1, 1, &[(1, "0.0.0.0:1", ""), (2, "[::]:1", ""), (3, "nonsense", ""), (4, "d:1", "")]);
        told.listed.retain(|member| member.hsm != [9; 16]);
        let table = table.with_roster(told).unwrap();
        assert_eq!(names(&table.tiers[2]), [4]);
        let table = table.with_learnt(&Address::parse("a:1").unwrap(), [1; 16]).unwrap();
        assert_eq!(names(&table.tiers[2]), [1, 4], "the address of the configuration leads to it");
    }

    #[test]
    fn without_an_anchor_for_tls_only_the_socket_is_used() {
        let mut configuration = configuration(&[]);
        configuration.trust_anchor = None;
        configuration.unix_socket = Some("/socket".into());
        let table = Table::from_configuration(&configuration).unwrap();
        let table = table.with_learnt(&Address::Unix("/socket".into()), [1; 16]).unwrap();
        let table = table.with_roster(reply(1, 1, &[(1, "a:1", ""), (2, "b:1", "")])).unwrap();
        assert_eq!([0, 1, 2].map(|tier| names(&table.tiers[tier])), [vec![1], vec![], vec![]]);
    }

    #[test]
    fn a_roster_of_any_size_is_bounded() {
        let many: Vec<_> = (0..200).map(|number| (number, "a:1", "")).collect();
        assert_eq!(reply(1, 1, &many).listed.len(), MEMBERS);
    }
}

//! The roster as clients see it: its version, which rides in every reply, and a member as `ClusterInfo` tells it.
//!
//! The version is a hash of what clients use of the roster, so it is the same on every HSM with the same members and needs
//! no counter in the state. It is looked up once per log index and costs a reply two loads. A snapshot that brings another
//! roster moves the index too, so nothing has to tell this file.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use hsm_core::{MemberKind, MemberRecord, NodeId};
use hsm_protocol::wire;
use hsm_replication::Node;

/// The version of the roster, remembered for the log index at which it was looked up.
#[derive(Default)]
pub(crate) struct Roster {
    /// The version, and below it the last 32 bits of the index: one word, so that the two always belong together.
    remembered: AtomicU64,
}

impl Roster {
    /// The version of the roster as of the last applied command. 0 = there is none yet.
    pub(crate) fn version(&self, node: &Node) -> u32 {
        let applied = node.applied().0;
        self.at(applied, || version_of(node.read().members()))
    }

    fn at(&self, applied: u64, look_up: impl FnOnce() -> u32) -> u32 {
        let remembered = self.remembered.load(Ordering::Acquire);
        let index = applied & u64::from(u32::MAX);
        if remembered & u64::from(u32::MAX) == index {
            return upper_half(remembered);
        }
        let version = look_up();
        self.remembered.store((u64::from(version) << 32) | index, Ordering::Release);
        version
    }
}

fn upper_half(word: u64) -> u32 {
    u32::try_from(word >> 32).unwrap_or_else(|_| unreachable!("half of a word"))
}

/// The version of a roster with these members; 0 for one without any.
pub(super) fn version_of(members: &BTreeMap<NodeId, MemberRecord>) -> u32 {
    if members.is_empty() {
        return 0;
    }
    let mut hash = Fnv::new();
    for record in members.values() {
        hash.field(&record.hsm.0);
        hash.field(&[u8::from(record.kind == MemberKind::Witness)]);
        for text in [&record.client_address, &record.zone, &record.version] {
            hash.field(text.as_bytes());
        }
    }
    hash.folded().max(1)
}

/// A member, without what only replication knows of it.
pub(super) fn member(record: &MemberRecord) -> wire::Member {
    wire::Member {
        hsm: record.hsm.0.to_vec(),
        address: record.client_address.clone(),
        version: record.version.clone(),
        zone: record.zone.clone(),
        witness: record.kind == MemberKind::Witness,
        ..Default::default()
    }
}

/// FNV-1a of 64 bits (Fowler, Noll, Vo): nobody gains by a collision here, and every version of the program makes the same.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// A field with its length, so that two fields cannot run into each other.
    fn field(&mut self, octets: &[u8]) {
        for octet in (octets.len() as u64).to_be_bytes().iter().chain(octets) {
            self.0 = (self.0 ^ u64::from(*octet)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn folded(&self) -> u32 {
        upper_half(self.0 ^ (self.0 << 32))
    }
}

#[cfg(test)]
mod tests {
    use hsm_core::HsmId;

    use super::*;

    fn roster(members: &[(u64, u8, &str, &str)]) -> BTreeMap<NodeId, MemberRecord> {
        let record = |hsm: u8, address: &str, zone: &str| MemberRecord {
            client_address: address.to_owned(),
            zone: zone.to_owned(),
            ..MemberRecord::alone(HsmId([hsm; 16]), MemberKind::Hsm)
        };
        members.iter().map(|&(node, hsm, address, zone)| (NodeId(node), record(hsm, address, zone))).collect()
    }

    #[test]
    fn the_version_changes_with_every_field_that_clients_use() {
        let base = version_of(&roster(&[(1, 1, "a:1", "x"), (2, 2, "b:1", "y")]));
        assert_ne!(base, 0);
        for other in [
            roster(&[(1, 1, "a:1", "x")]),
            roster(&[(1, 1, "a:1", "x"), (2, 3, "b:1", "y")]),
            roster(&[(1, 1, "a:1", "x"), (2, 2, "b:2", "y")]),
            roster(&[(1, 1, "a:1", "x"), (2, 2, "b:1", "z")]),
            roster(&[(1, 1, "a:1x", ""), (2, 2, "b:1", "y")]),
        ] {
            assert_ne!(version_of(&other), base);
        }
        assert_eq!(version_of(&roster(&[(1, 1, "a:1", "x"), (2, 2, "b:1", "y")])), base);
        assert_eq!(version_of(&BTreeMap::new()), 0);
    }

    #[test]
    fn the_version_is_looked_up_once_for_each_index() {
        let roster = Roster::default();
        assert_eq!(roster.at(7, || 3), 3);
        assert_eq!(roster.at(7, || unreachable!("it is remembered")), 3);
        assert_eq!(roster.at(8, || 4), 4);
        assert_eq!(roster.at((1 << 32) | 9, || 5), 5);
    }
}

//! The token objects in memory, and the index that searches use.
//!
//! One ordered set holds a *posting* for each thing that an object can be found by, under a fingerprint of (who may see
//! it, what, value). A search walks the postings of its criteria in step, so it costs O(log n) and the objects that
//! match all indexed criteria. Fingerprints may collide: every candidate is compared with the template itself.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Bound;
use std::sync::Arc;

use hsm_protocol::attribute::{AttributeValue, Shape};
use hsm_protocol::{AttributeKind, KeyType, ObjectClass, Template};

use crate::curve;
use crate::ids::{ObjectHandle, ObjectUid, UserId};
use crate::object::Object;
use crate::policy::schema;

/// All token objects.
#[derive(Default)]
pub(crate) struct ObjectTable {
    objects: BTreeMap<ObjectHandle, Arc<Object>>,
    postings: BTreeSet<(Fingerprint, ObjectHandle)>,
    /// How many objects each user owns: as many private ones as public ones together.
    owned: BTreeMap<UserId, u64>,
    asymmetric: u64,
}

/// Identifies a list of postings. In memory only, so it may differ between versions of this program.
type Fingerprint = u64;

/// Who sees an object: everybody, or its owner.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    Public,
    Owner(UserId),
}

/// What an object can be found by.
#[derive(Hash)]
enum Term<'a> {
    Any,
    Class(u64),
    KeyType(u64),
    Label(&'a [u8]),
    Id(&'a [u8]),
    Subject(&'a [u8]),
}

impl ObjectTable {
    pub(crate) fn get(&self, handle: ObjectHandle) -> Option<&Arc<Object>> {
        self.objects.get(&handle)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ObjectHandle, &Arc<Object>)> {
        self.objects.iter().map(|(&handle, object)| (handle, object))
    }

    /// Objects with a handle above `after`, up to and with `through`, in order.
    pub(crate) fn between(
        &self,
        after: ObjectHandle,
        through: ObjectHandle,
    ) -> impl Iterator<Item = (ObjectHandle, &Arc<Object>)> {
        // A range whose end lies before its begin would panic.
        let range = (through > after).then_some((Bound::Excluded(after), Bound::Included(through)));
        let objects = range.map(|range| self.objects.range(range));
        objects.into_iter().flatten().map(|(&handle, object)| (handle, object))
    }

    pub(crate) fn len(&self) -> u64 {
        self.objects.len() as u64
    }

    /// Public and private keys.
    pub(crate) fn asymmetric(&self) -> u64 {
        self.asymmetric
    }

    /// How many objects a user owns.
    pub(crate) fn owned_by(&self, user: UserId) -> u64 {
        self.owned.get(&user).copied().unwrap_or(0)
    }

    /// The users who own objects.
    pub(crate) fn owners(&self) -> impl Iterator<Item = UserId> {
        self.owned.keys().copied()
    }

    /// The object with that uid.
    pub(crate) fn handle_of(&self, uid: ObjectUid) -> Option<ObjectHandle> {
        let fingerprint = fingerprint_of_uid(uid);
        let mut found = self.postings.range((fingerprint, ObjectHandle(0))..=(fingerprint, ObjectHandle(u64::MAX)));
        found.find_map(|&(_, handle)| (self.get(handle)?.uid() == uid).then_some(handle))
    }

    /// Puts an object, in the place of the one that had its handle.
    pub(crate) fn put(&mut self, handle: ObjectHandle, object: Arc<Object>) {
        self.remove(handle);
        for fingerprint in fingerprints(&object) {
            self.postings.insert((fingerprint, handle));
        }
        *self.owned.entry(object.owner()).or_default() += 1;
        self.asymmetric += u64::from(is_asymmetric(&object));
        self.objects.insert(handle, object);
    }

    /// Removes an object, if it is there.
    pub(crate) fn remove(&mut self, handle: ObjectHandle) {
        let Some(object) = self.objects.remove(&handle) else { return };
        for fingerprint in fingerprints(&object) {
            self.postings.remove(&(fingerprint, handle));
        }
        if let Some(count) = self.owned.get_mut(&object.owner()) {
            *count -= 1;
            if *count == 0 {
                self.owned.remove(&object.owner());
            }
        }
        self.asymmetric -= u64::from(is_asymmetric(&object));
    }

    /// Handles above `after` of the objects in `scopes` that match and are `shown`, in order, at most `limit`; and
    /// whether there are more.
    pub(crate) fn find(
        &self,
        scopes: &[Scope],
        wanted: &Template,
        shown: impl Fn(&Object) -> bool,
        after: ObjectHandle,
        limit: usize,
    ) -> (Vec<ObjectHandle>, bool) {
        let wanted = canonical(wanted);
        let terms = terms(&wanted);
        let lists: Vec<Vec<Fingerprint>> =
            scopes.iter().map(|&scope| terms.iter().map(|term| fingerprint(scope, term)).collect()).collect();
        let first = ObjectHandle(after.0.saturating_add(1));
        let heads = lists.iter().enumerate();
        let mut heads: BinaryHeap<_> =
            heads.filter_map(|(list, terms)| Some(Reverse((self.next_in_all(terms, first)?, list)))).collect();
        let mut found = Vec::new();
        while let Some(Reverse((handle, list))) = heads.pop() {
            if self.get(handle).is_some_and(|object| matches(object, &wanted) && shown(object)) {
                if found.len() == limit {
                    return (found, true);
                }
                found.push(handle);
            }
            let next = handle.0.checked_add(1).map(ObjectHandle);
            if let Some(next) = next.and_then(|next| self.next_in_all(&lists[list], next)) {
                heads.push(Reverse((next, list)));
            }
        }
        (found, false)
    }

    /// The first handle from `from` on that is in all of the lists.
    fn next_in_all(&self, lists: &[Fingerprint], from: ObjectHandle) -> Option<ObjectHandle> {
        let mut candidate = from;
        let mut agreed = 0;
        for &list in lists.iter().cycle() {
            let next = self.next_in(list, candidate)?;
            agreed = if next == candidate { agreed + 1 } else { 1 };
            candidate = next;
            if agreed == lists.len() {
                return Some(candidate);
            }
        }
        None
    }

    fn next_in(&self, list: Fingerprint, from: ObjectHandle) -> Option<ObjectHandle> {
        // No upper bound: looking for it would cost a second way down the tree.
        let &(found, handle) = self.postings.range((list, from)..).next()?;
        (found == list).then_some(handle)
    }
}

/// Who sees an object.
pub(crate) fn scope_of(object: &Object) -> Scope {
    if object.is(AttributeKind::Private) { Scope::Owner(object.owner()) } else { Scope::Public }
}

/// Whether an object matches a template: every attribute present with that value. Secret attributes never match.
pub(crate) fn matches(object: &Object, wanted: &Template) -> bool {
    wanted.iter().all(|(kind, value)| match kind {
        AttributeKind::UniqueId => value.as_octets() == Some(object.unique_id().as_bytes()),
        _ => match object.attribute(kind) {
            Some(held) => held == value,
            None => schema::value_when_absent(object, kind).is_some_and(|held| held == *value),
        },
    })
}

/// The template with big integers, curves and points in the form in which they are stored.
fn canonical(wanted: &Template) -> Template {
    let octets = |kind: AttributeKind, octets: &[u8]| match kind {
        _ if kind.shape() == Shape::BigInteger => schema::without_leading_zeros(octets).to_vec(),
        AttributeKind::EcParams => any_curve(octets).unwrap_or(octets).to_vec(),
        AttributeKind::EcPoint if curve::raw_point(octets).is_none() => curve::der_octet_string(octets),
        _ => octets.to_vec(),
    };
    let canonical = |(kind, value): (AttributeKind, &AttributeValue)| match value {
        AttributeValue::Octets(given) => (kind, AttributeValue::Octets(octets(kind, given))),
        other => (kind, other.clone()),
    };
    wanted.iter().map(canonical).collect()
}

/// The curve that a search asks for, whatever type of key it belongs to.
fn any_curve(params: &[u8]) -> Option<&'static [u8]> {
    let types = [KeyType::Ec, KeyType::EcEdwards, KeyType::EcMontgomery].into_iter();
    types.filter_map(|key_type| curve::canonical_params(key_type, params).ok()).next()
}

/// What a search can use of the index, what few objects share first: a search that finds nothing ends there.
fn terms(wanted: &Template) -> Vec<Term<'_>> {
    let terms = [
        wanted.octets(AttributeKind::Label).map(Term::Label),
        wanted.octets(AttributeKind::Id).map(Term::Id),
        wanted.octets(AttributeKind::Subject).filter(|subject| !subject.is_empty()).map(Term::Subject),
        wanted.number(AttributeKind::KeyType).map(Term::KeyType),
        wanted.number(AttributeKind::Class).map(Term::Class),
    ];
    let terms: Vec<_> = terms.into_iter().flatten().collect();
    if terms.is_empty() { vec![Term::Any] } else { terms }
}

fn fingerprints(object: &Object) -> impl Iterator<Item = Fingerprint> {
    let scope = scope_of(object);
    let octets = |kind| object.octets(kind).unwrap_or_default();
    let terms = [
        Some(Term::Any),
        object.number(AttributeKind::Class).map(Term::Class),
        object.number(AttributeKind::KeyType).map(Term::KeyType),
        Some(Term::Label(octets(AttributeKind::Label))),
        Some(Term::Id(octets(AttributeKind::Id))),
        object.octets(AttributeKind::Subject).map(Term::Subject),
    ];
    let of_terms = terms.into_iter().flatten().map(move |term| fingerprint(scope, &term));
    of_terms.chain([fingerprint_of_uid(object.uid())])
}

fn fingerprint(scope: Scope, term: &Term<'_>) -> Fingerprint {
    let mut hasher = DefaultHasher::new();
    (0_u8, scope, term).hash(&mut hasher);
    hasher.finish()
}

fn fingerprint_of_uid(uid: ObjectUid) -> Fingerprint {
    let mut hasher = DefaultHasher::new();
    (1_u8, uid).hash(&mut hasher);
    hasher.finish()
}

fn is_asymmetric(object: &Object) -> bool {
    matches!(object.class(), Some(ObjectClass::PublicKey | ObjectClass::PrivateKey))
}

//! Session objects, which an application's module holds sealed, go over to a new epoch of the cluster's keys with the login.
//!
//! An HSM that is shown a token of the epoch before has the library bring its session objects first: the key that opens
//! them may be destroyed as soon as no login holds a token of its epoch. See `ExchangeObjects` in `client.proto`.

use hsm_protocol::limits::{EXCHANGED_BYTES, EXCHANGED_OBJECTS};
use hsm_protocol::wire;

/// The session objects that belong to a login.
pub trait HeldObjects: Send + Sync {
    /// Whether there are any.
    fn is_any(&self) -> bool;

    /// All of them, with what is sealed.
    fn all(&self) -> Vec<HeldObject>;

    /// Takes an object as it is sealed now, unless it was changed since [`HeldObjects::all`] gave it.
    fn exchange(&self, old: &HeldObject, sealed: Vec<u8>);
}

/// One of them.
pub struct HeldObject {
    /// By which its holder knows it.
    pub handle: u64,
    /// As calls name it, with what is sealed.
    pub reference: wire::ObjectReference,
}

/// In parts that fit into one call each; one part at least, because the last one brings the token.
pub(crate) fn parts(objects: &[HeldObject]) -> Vec<&[HeldObject]> {
    let mut parts = Vec::new();
    let (mut begin, mut bytes) = (0, 0);
    for (at, object) in objects.iter().enumerate() {
        let more = object.reference.sealed.len();
        if at > begin && (at - begin >= EXCHANGED_OBJECTS || bytes + more > EXCHANGED_BYTES) {
            parts.push(&objects[begin..at]);
            (begin, bytes) = (at, 0);
        }
        bytes += more;
    }
    parts.push(&objects[begin..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(handle: u64, bytes: usize) -> HeldObject {
        let reference = wire::ObjectReference { sealed: vec![0; bytes], ..Default::default() };
        HeldObject { handle, reference }
    }

    fn lengths(objects: &[HeldObject]) -> Vec<usize> {
        parts(objects).into_iter().map(<[HeldObject]>::len).collect()
    }

    #[test]
    fn parts_are_bounded_by_number_and_by_bytes_and_leave_nothing_out() {
        let many: Vec<_> = (0..150).map(|handle| object(handle, 100)).collect();
        assert_eq!(lengths(&many), [64, 64, 22]);
        let heavy: Vec<_> = [300, 300, 100, 1_000, 1].map(|kilobytes| object(0, kilobytes * 1024)).into();
        assert_eq!(lengths(&heavy), [1, 2, 1, 1]);
        assert_eq!(lengths(&[]), [0], "the token is exchanged also when nothing is held any more");
    }
}

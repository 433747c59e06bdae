//! Operations in parts: `C_…Update` and `C_…Final`.
//!
//! A stream belongs to one connection and one login and ends with either. The right to use the key is asked for again at
//! every part: a key that was destroyed, or a login that ended, stops a stream in its middle. A failed part ends it.

use std::collections::BTreeMap;
use std::sync::Arc;

use hsm_core::permit::{BeDigested, Decrypt, Encrypt, KeyUse, Sign, Verify};
use hsm_core::{Actor, Confirmation, Object, Permit};
use hsm_crypto::{Finished, Key, Stream};
use hsm_protocol::wire::reply::Body;
use hsm_protocol::{ErrorCode, Mechanism, ObjectClass, Operation, Party, convert, limits, wire};
use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::call::{Answered, Call, Result};
use super::found::Found;
use super::limits::STREAM_BYTES;
use super::operate::{check_length, confirm};
use super::passwords::Password;

/// The streams of one connection.
#[derive(Default)]
pub(crate) struct Streams(Mutex<Table>);

#[derive(Default)]
struct Table {
    places: BTreeMap<u64, Place>,
    /// Last outputs that were too long for one answer, of streams that have ended.
    rests: BTreeMap<u64, Rest>,
    /// Input and last outputs that are held back, in bytes.
    held: usize,
}

/// What is still to be given of a last output.
struct Rest {
    actor: Actor,
    next_part: u64,
    bytes: Zeroizing<Vec<u8>>,
}

struct Place {
    actor: Actor,
    /// `None` while a part is being worked on.
    open: Option<Box<Open>>,
    held: usize,
}

/// A stream between two of its parts.
struct Open {
    operation: Operation,
    /// The key that must be allowed again at each part; `None` for digests.
    key: Option<(Found, Arc<Key>)>,
    mechanism: Mechanism,
    confirmation: Confirmation,
    next_part: u64,
    stream: Stream,
    /// Whether input may be kept in memory, and how much of it is.
    holds: bool,
    held: usize,
}

impl Streams {
    /// Ends the streams of the chosen actors. One whose part is being worked on ends when that is done.
    /// Whether no operation in parts is open or can be taken up.
    pub(crate) fn is_empty(&self) -> bool {
        let table = self.0.lock();
        table.places.is_empty() && table.rests.is_empty()
    }

    pub(crate) fn end_of(&self, ended: impl Fn(&Actor) -> bool) {
        let mut table = self.0.lock();
        let over: Vec<u64> =
            table.places.iter().filter(|(_, place)| ended(&place.actor)).map(|(&number, _)| number).collect();
        for number in over {
            table.remove(number);
        }
        let over: Vec<u64> =
            table.rests.iter().filter(|(_, rest)| ended(&rest.actor)).map(|(&number, _)| number).collect();
        for number in over {
            drop(table.remove_rest(number, |_| true));
        }
    }

    /// Reserves a place for a new stream.
    fn reserve(&self, number: u64, actor: Actor) -> Result<()> {
        let mut table = self.0.lock();
        if table.places.contains_key(&number) || table.rests.contains_key(&number) {
            return Err(ErrorCode::StreamUnknown.into());
        }
        if table.places.len() + table.rests.len() >= limits::STREAMS_PER_CONNECTION {
            return Err(ErrorCode::Busy.into());
        }
        table.places.insert(number, Place { actor, open: None, held: 0 });
        Ok(())
    }

    /// Takes a stream out of its place for its next part.
    fn take(&self, number: u64, actor: Actor) -> Result<Box<Open>> {
        let mut table = self.0.lock();
        let place = table.places.get_mut(&number).filter(|place| place.actor == actor);
        Ok(place.and_then(|place| place.open.take()).ok_or(ErrorCode::StreamUnknown)?)
    }

    /// Puts a stream back. One whose login ended meanwhile has no place any more and ends here.
    fn put_back(&self, number: u64, open: Box<Open>) -> Result<()> {
        let held = open.held;
        let mut table = self.0.lock();
        let others = table.held - table.places.get(&number).map_or(0, |place| place.held);
        if others + held > STREAM_BYTES {
            table.remove(number);
            return Err(ErrorCode::TooLarge.into());
        }
        let place = table.places.get_mut(&number).ok_or(ErrorCode::StreamUnknown)?;
        place.held = held;
        place.open = Some(open);
        table.held = others + held;
        Ok(())
    }

    fn remove(&self, number: u64) {
        self.0.lock().remove(number);
    }

    /// Cuts a last output down to one answer and keeps the rest, which counts as held back.
    fn keep_rest(&self, number: u64, actor: Actor, next_part: u64, mut output: Vec<u8>) -> Result<Vec<u8>> {
        if output.len() < limits::PART_LIMIT {
            return Ok(output);
        }
        let bytes = Zeroizing::new(output.split_off(limits::PART_LIMIT));
        let mut table = self.0.lock();
        if table.held + bytes.len() > STREAM_BYTES {
            return Err(ErrorCode::TooLarge.into());
        }
        table.held += bytes.len();
        table.rests.insert(number, Rest { actor, next_part, bytes });
        Ok(output)
    }

    /// The next piece of a last output, when `part` asks for one.
    fn take_rest(&self, part: &Part, actor: Actor) -> Option<Result<Vec<u8>>> {
        let asks = part.finish && part.data.is_empty();
        let fits = |rest: &Rest| asks && rest.actor == actor && rest.next_part == part.number;
        let rest = self.0.lock().remove_rest(part.stream, fits)?;
        Some(self.keep_rest(part.stream, actor, part.number + 1, rest.bytes.to_vec()))
    }

    /// Removes a stream of this actor; whether there was one.
    fn abandon(&self, number: u64, actor: Actor) {
        let mut table = self.0.lock();
        if table.places.get(&number).is_some_and(|place| place.actor == actor) {
            table.remove(number);
        }
        drop(table.remove_rest(number, |rest| rest.actor == actor));
    }
}

impl Table {
    fn remove(&mut self, number: u64) {
        if let Some(place) = self.places.remove(&number) {
            self.held -= place.held;
        }
    }

    fn remove_rest(&mut self, number: u64, is_meant: impl Fn(&Rest) -> bool) -> Option<Rest> {
        self.rests.get(&number).filter(|rest| is_meant(rest))?;
        let rest = self.rests.remove(&number)?;
        self.held -= rest.bytes.len();
        Some(rest)
    }
}

/// One part as it came.
struct Part {
    stream: u64,
    number: u64,
    data: Vec<u8>,
    finish: bool,
    signature: Vec<u8>,
    digest_key: Option<wire::ObjectReference>,
}

pub(super) fn part(call: &Call<'_>, message: wire::Stream) -> Result<Answered> {
    check_length(&message.data)?;
    let part = Part {
        stream: message.stream,
        number: message.part,
        data: message.data,
        finish: message.finish,
        signature: message.signature,
        digest_key: message.digest_key,
    };
    let streams = call.connection.streams();
    let open = match message.begin {
        None => match streams.take_rest(&part, call.actor) {
            Some(piece) => {
                return Ok(Answered::Now(Body::Bytes(wire::BytesReply { data: piece?, iv: Vec::new() })));
            }
            None => streams.take(part.stream, call.actor)?,
        },
        Some(begin) if part.number == 0 && begin.data.is_empty() && begin.signature.is_empty() => {
            streams.reserve(part.stream, call.actor)?;
            if !begin.context_password.is_empty() {
                return begin_with_password(call, begin, part);
            }
            let number = part.stream;
            self::begin(call, begin, Confirmation::None).inspect_err(|_| streams.remove(number))?
        }
        Some(_) => return Err(ErrorCode::StreamUnknown.into()),
    };
    go_on(call, open, part)
}

pub(super) fn abandon(call: &Call<'_>, message: &wire::AbandonStream) -> Result<Answered> {
    call.connection.streams().abandon(message.stream, call.actor);
    Ok(Answered::Now(Body::Done(wire::Done::default())))
}

/// Begins after a look at the user's password, on a thread for that.
fn begin_with_password(call: &Call<'_>, mut message: wire::Operate, part: Part) -> Result<Answered> {
    let password = Password::new(std::mem::take(&mut message.context_password));
    let number = part.stream;
    let queued = call.with_password(move |call| {
        let begun = confirm(call, &password).and_then(|()| begin(call, message, Confirmation::Given));
        let open = begun.inspect_err(|_| call.connection.streams().remove(number))?;
        run_part(call, open, part)
    });
    queued.inspect_err(|_| call.connection.streams().remove(number))
}

fn begin(call: &Call<'_>, message: wire::Operate, confirmation: Confirmation) -> Result<Box<Open>> {
    let operation = Operation::from_number(message.operation).ok_or(ErrorCode::Malformed)?;
    let mechanism = convert::mechanism(message.mechanism)?;
    if operation == Operation::Digest {
        call.service.node().read().authorize_digest(&mechanism)?;
        let stream = Stream::digest(&mechanism)?;
        let key = None;
        return Ok(Box::new(Open {
            operation,
            key,
            mechanism,
            confirmation,
            next_part: 0,
            stream,
            holds: false,
            held: 0,
        }));
    }
    let reference = convert::object(message.key)?;
    let found = Found::find(call, &reference)?;
    let module = call.service.module();
    macro_rules! begin {
        ($use:ty, $begin:ident) => {{
            let state = call.service.node().read();
            let permit = state.authorize::<$use>(&call.actor, &found.object, &mechanism, confirmation)?;
            drop(state);
            let key = found.key(call)?;
            (Stream::$begin(module, permit, &key, mechanism.clone())?, key)
        }};
    }
    let (stream, key) = match operation {
        Operation::Sign => begin!(Sign, sign),
        Operation::Verify => begin!(Verify, verify),
        Operation::Encrypt => begin!(Encrypt, encrypt),
        Operation::Decrypt => begin!(Decrypt, decrypt),
        // PKCS#11 has no parts for these (§5.13.5, §5.15.5).
        Operation::SignRecover | Operation::VerifyRecover => return Err(ErrorCode::MechanismInvalid.into()),
        Operation::Digest => unreachable!("digests have begun above"),
    };
    let holds = may_hold(operation, &key, &mechanism);
    let key = Some((found, key));
    Ok(Box::new(Open { operation, key, mechanism, confirmation, next_part: 0, stream, holds, held: 0 }))
}

/// Whether the module may keep input until the end: what a cipher has not given out yet, and messages that a signature
/// without a hash of its own takes whole.
fn may_hold(operation: Operation, key: &Key, mechanism: &Mechanism) -> bool {
    match operation {
        Operation::Encrypt | Operation::Decrypt => true,
        Operation::Sign | Operation::Verify => {
            let hash = hsm_core::mechanisms::find(mechanism.kind).and_then(|row| row.hash);
            key.class() != ObjectClass::SecretKey && hash.is_none()
        }
        Operation::Digest | Operation::SignRecover | Operation::VerifyRecover => false,
    }
}

/// Works on a part: here, or on a worker when it is the end of a long operation.
fn go_on(call: &Call<'_>, open: Box<Open>, part: Part) -> Result<Answered> {
    let number = part.stream;
    if part.finish && open.key.as_ref().is_some_and(|(_, key)| key.is_slow()) {
        let queued = call.compute(move |call| run_part(call, open, part));
        return queued.inspect_err(|_| call.connection.streams().remove(number));
    }
    run_part(call, open, part).map(Answered::Now)
}

/// Works on a part. A failure ends the stream, unless it came before anything was done and the same part may come again
/// (a sealed key that must be presented).
fn run_part(call: &Call<'_>, mut open: Box<Open>, part: Part) -> Result<Body> {
    let streams = call.connection.streams();
    let number = part.stream;
    let key = match prepare(call, &open, &part) {
        Ok(key) => key,
        Err(failure) if part.number > 0 && failure.code.party() == Party::Unavailable => {
            streams.put_back(number, open)?;
            return Err(failure);
        }
        Err(failure) => {
            streams.remove(number);
            return Err(failure);
        }
    };
    let fed = feed(call, &mut open, &part, key);
    if part.finish || fed.is_err() {
        streams.remove(number);
    }
    let (mut data, iv) = fed?;
    if part.finish {
        let signature = (open.operation == Operation::Verify).then_some(part.signature.as_slice());
        let next_part = open.next_part;
        if let Finished::Data(rest) = open.stream.finish(signature)? {
            data.extend(rest);
        }
        data = streams.keep_rest(number, call.actor, next_part, data)?;
    } else {
        streams.put_back(number, open)?;
    }
    Ok(Body::Bytes(wire::BytesReply { data, iv }))
}

/// A key whose value is to be digested, with the leave to do so.
type KeyToDigest = (Permit<BeDigested>, Found);

/// All that may be refused before the stream moves on.
fn prepare(call: &Call<'_>, open: &Open, part: &Part) -> Result<Option<KeyToDigest>> {
    if part.number != open.next_part {
        return Err(ErrorCode::StreamUnknown.into());
    }
    allow_again(call, open)?;
    let Some(reference) = part.digest_key.clone() else { return Ok(None) };
    if open.operation != Operation::Digest {
        return Err(ErrorCode::KeyIndigestible.into());
    }
    let found = Found::find(call, &convert::object(Some(reference))?)?;
    let state = call.service.node().read();
    let permit = state.authorize(&call.actor, &found.object, &open.mechanism, Confirmation::None)?;
    drop(state);
    Ok(Some((permit, found)))
}

/// The part's input; gives what it completed, and with the first part the IV that the HSM made.
fn feed(call: &Call<'_>, open: &mut Open, part: &Part, key: Option<KeyToDigest>) -> Result<(Vec<u8>, Vec<u8>)> {
    open.next_part = open.next_part.checked_add(1).ok_or(ErrorCode::TooLarge)?;
    let iv = if part.number == 0 { open.stream.iv().map(<[u8]>::to_vec) } else { None };
    if let Some((permit, found)) = key {
        open.stream.update_with_key(permit, &*found.key(call)?)?;
    }
    let data = if part.data.is_empty() { Vec::new() } else { open.stream.update(&part.data)? };
    if open.holds {
        open.held = (open.held + part.data.len()).saturating_sub(data.len());
    }
    Ok((data, iv.unwrap_or_default()))
}

/// Whether this use of the key is still allowed.
fn allow_again(call: &Call<'_>, open: &Open) -> Result<()> {
    let Some((found, _)) = &open.key else { return Ok(()) };
    let object = found.now(call)?;
    match open.operation {
        Operation::Sign => again::<Sign>(call, open, &object),
        Operation::Verify => again::<Verify>(call, open, &object),
        Operation::Encrypt => again::<Encrypt>(call, open, &object),
        Operation::Decrypt => again::<Decrypt>(call, open, &object),
        Operation::Digest | Operation::SignRecover | Operation::VerifyRecover => Ok(()),
    }
}

fn again<U: KeyUse>(call: &Call<'_>, open: &Open, object: &Object) -> Result<()> {
    let state = call.service.node().read();
    state.authorize::<U>(&call.actor, object, &open.mechanism, open.confirmation)?;
    Ok(())
}

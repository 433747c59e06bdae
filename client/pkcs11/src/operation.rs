//! One operation of a session between its `C_…Init` and its end: what was gathered, sent, given, kept.
//!
//! `C_…Init` and length questions cost no call. A whole operation is one call. Input of signatures and digests in parts
//! is gathered here and goes out whole at the end if it fits in one call, else as a stream; parts of a cipher go out
//! when they complete output. A result that did not fit in the caller's buffer is kept and never computed again. The
//! HSM judges the use of the key at each call; what is checked here only saves one.

use cryptoki_sys::*;
use hsm_client::With;
use hsm_protocol::limits::{PART_LIMIT, REPLAY_LIMIT};
use hsm_protocol::{Mechanism, MechanismKind, Operation, wire};
use zeroize::Zeroizing;

use crate::device::Stream;
use crate::lengths::{self, Length};
use crate::limits::STREAM_PART;
use crate::memory::{Input, Output};
use crate::objects::Reference;
use crate::parameters::ReadMechanism;
use crate::return_value::{About, Outcome, ReturnValue, refuse};
use crate::slot::Slot;

/// An operation under way.
pub(crate) struct Active {
    operation: Operation,
    key: Option<Reference>,
    mechanism: ReadMechanism,
    /// The user's password, for a key that wants it for each operation.
    context_password: Option<Zeroizing<Vec<u8>>>,
    /// The signature to check, where it was given at the beginning (`C_VerifySignatureInit`).
    signature: Option<Vec<u8>>,
    /// Parts have come: it cannot become a whole operation any more.
    in_parts: bool,
    /// Input that was not sent yet.
    gathered: Zeroizing<Vec<u8>>,
    stream: Option<Stream>,
    /// Bytes of a cipher that have gone in and come out so far.
    taken: u64,
    given: u64,
    /// Output that did not fit in the caller's buffer, and whether the operation ends when it does.
    kept: Option<Kept>,
}

struct Kept {
    bytes: Zeroizing<Vec<u8>>,
    ends: bool,
}

/// How a step of an operation ended.
pub(crate) struct Step {
    /// What the caller is told.
    pub(crate) outcome: Outcome,
    /// Whether the operation is over. PKCS#11 3.2 §5.2: it is after success and after every error, except a buffer that
    /// is too small and a question for a length.
    pub(crate) over: bool,
}

impl Step {
    fn stays(outcome: Outcome) -> Self {
        Self { outcome, over: false }
    }

    pub(crate) fn ends(outcome: Outcome) -> Self {
        Self { outcome, over: true }
    }

    /// A step that keeps the operation under way if it went well.
    fn goes_on(outcome: Outcome) -> Self {
        let over = outcome.is_err();
        Self { outcome, over }
    }
}

impl Active {
    pub(crate) fn new(operation: Operation, key: Option<Reference>, mechanism: ReadMechanism) -> Self {
        Self {
            operation,
            key,
            mechanism,
            context_password: None,
            signature: None,
            in_parts: false,
            gathered: Zeroizing::default(),
            stream: None,
            taken: 0,
            given: 0,
            kept: None,
        }
    }

    /// With the signature that is to be checked.
    pub(crate) fn with_signature(mut self, signature: Vec<u8>) -> Self {
        self.signature = Some(signature);
        self
    }

    /// Whether the user's password may go along: there is a key, and nothing was sent yet.
    pub(crate) fn takes_context_password(&self) -> bool {
        self.key.is_some() && self.stream.is_none() && self.kept.is_none()
    }

    pub(crate) fn set_context_password(&mut self, password: &[u8]) {
        self.context_password = Some(Zeroizing::new(password.to_vec()));
    }

    pub(crate) fn has_given_signature(&self) -> bool {
        self.signature.is_some()
    }

    fn about(&self) -> About {
        if self.key.is_some() { About::Key } else { About::Token }
    }

    fn message(&self, with: With) -> wire::Operate {
        wire::Operate {
            operation: self.operation as u32,
            key: self.key.as_ref().map(|key| key.message(with)),
            mechanism: Some(self.mechanism.message(with)),
            context_password: self.context_password.as_ref().map(|password| password.to_vec()).unwrap_or_default(),
            ..Default::default()
        }
    }

    // ---- whole operations ----

    /// `C_Sign`, `C_Encrypt`, `C_Digest` and the like: everything in one step.
    pub(crate) fn whole(&mut self, slot: &Slot, input: Input, output: Output) -> Step {
        if self.in_parts {
            return Step::stays(refuse(CKR_OPERATION_NOT_INITIALIZED));
        }
        if self.kept.is_some() {
            return self.deliver(output);
        }
        let length = self.length_of_whole(slot, input.len(), output.capacity().is_none());
        if let Some(step) = answer_length(length, output) {
            return step;
        }
        let result = input.copy().map(Zeroizing::new).and_then(|data| self.run(slot, &data, &[]));
        self.keep_and_deliver(result, output)
    }

    /// `C_Verify`: a whole verification.
    pub(crate) fn verify_whole(&mut self, slot: &Slot, input: Input, signature: Option<Input>) -> Step {
        if self.in_parts {
            return Step::stays(refuse(CKR_OPERATION_NOT_INITIALIZED));
        }
        Step::ends(self.signature_to_check(signature).and_then(|signature| {
            let data = input.copy()?;
            self.run(slot, &data, &signature).map(|_| ())
        }))
    }

    fn signature_to_check(&self, given: Option<Input>) -> Outcome<Vec<u8>> {
        match (given, &self.signature) {
            (Some(input), None) => input.copy(),
            (None, Some(signature)) => Ok(signature.clone()),
            _ => refuse(CKR_OPERATION_NOT_INITIALIZED),
        }
    }

    /// Runs the operation to its end over what is in the stream, what was gathered, and `data`.
    fn run(&mut self, slot: &Slot, data: &[u8], signature: &[u8]) -> Outcome<Vec<u8>> {
        if self.stream.is_none() && data.len() <= PART_LIMIT {
            let make = |with| {
                let mut message = self.message(with);
                // What comes in for a recovery is a signature.
                let recovers = self.operation == Operation::VerifyRecover;
                let (data, signature) = if recovers { (signature, data) } else { (data, signature) };
                message.data = data.to_vec();
                message.signature = signature.to_vec();
                wire::request::Body::Operate(message)
            };
            let answer = slot.call_for_bytes(self.about(), &make);
            return answer.map(|reply| reply.data).inspect_err(|error| self.forget_missing_key(slot, *error));
        }
        if matches!(self.operation, Operation::SignRecover | Operation::VerifyRecover) {
            // These have no parts, and no key is as long.
            return refuse(CKR_DATA_LEN_RANGE);
        }
        let mut result = Vec::new();
        for part in data.chunks(PART_LIMIT) {
            result.append(&mut self.send(slot, part)?);
        }
        let stream = self.take_stream(slot);
        result.append(&mut stream.finish(signature)?);
        Ok(result)
    }

    fn send(&mut self, slot: &Slot, part: &[u8]) -> Outcome<Vec<u8>> {
        let mut stream = self.take_stream(slot);
        let output = stream.update(part)?;
        self.stream = Some(stream);
        Ok(output)
    }

    /// The stream, begun if there is none. It is put back only after a part went well: after an error it is abandoned.
    fn take_stream(&mut self, slot: &Slot) -> Stream {
        if let Some(stream) = self.stream.take() {
            return stream;
        }
        let first = Self {
            context_password: self.context_password.clone(),
            ..Self::new(self.operation, self.key.clone(), self.mechanism.clone())
        };
        slot.stream(self.about(), Box::new(move |with| first.message(with)))
    }

    fn forget_missing_key(&self, slot: &Slot, error: ReturnValue) {
        if error == ReturnValue(CKR_KEY_HANDLE_INVALID)
            && let Some(key) = &self.key
        {
            slot.forget(key);
        }
    }

    // ---- lengths and results ----

    /// Length of the result over `input` bytes. Asks the HSM for the key's attributes only when the caller asks for the
    /// length and they are not known.
    fn length_of_whole(&self, slot: &Slot, input: usize, asked: bool) -> Length {
        let kind = self.mechanism.kind();
        let key = match &self.key {
            Some(key) if lengths::depends_on_key(kind) => match slot.known_attributes(key) {
                Some(known) if !asked => Some(known),
                _ if asked => slot.unchanging_attributes(key, About::Key).ok(),
                _ => None,
            },
            _ => None,
        };
        lengths::of_whole(self.operation, kind, self.mechanism.parameters(), key.as_deref(), input)
    }

    fn keep_and_deliver(&mut self, result: Outcome<Vec<u8>>, output: Output) -> Step {
        match result {
            Ok(bytes) => {
                self.kept = Some(Kept { bytes: Zeroizing::new(bytes), ends: true });
                self.deliver(output)
            }
            Err(error) => Step::ends(Err(error)),
        }
    }

    /// Gives what was kept, if it fits.
    fn deliver(&mut self, output: Output) -> Step {
        let Some(kept) = &self.kept else { return Step::stays(Ok(())) };
        let given = output.give(&kept.bytes);
        if given.is_err() || output.capacity().is_none() {
            return Step::stays(given);
        }
        let over = kept.ends;
        self.kept = None;
        Step { outcome: Ok(()), over }
    }

    // ---- signatures, verifications and digests in parts ----

    /// `C_SignUpdate`, `C_VerifyUpdate`, `C_DigestUpdate`.
    pub(crate) fn gather(&mut self, slot: &Slot, input: Input) -> Step {
        match input.copy() {
            Ok(data) => self.gather_bytes(slot, &data),
            Err(error) => Step::ends(Err(error)),
        }
    }

    /// As [`Self::gather`], for bytes that are ours already.
    pub(crate) fn gather_bytes(&mut self, slot: &Slot, data: &[u8]) -> Step {
        if self.kept.is_some() {
            return Step::stays(refuse(CKR_OPERATION_NOT_INITIALIZED));
        }
        self.in_parts = true;
        self.gathered.extend_from_slice(data);
        let limit = if self.stream.is_none() { REPLAY_LIMIT } else { STREAM_PART };
        Step::goes_on(if self.gathered.len() > limit { self.send_gathered(slot) } else { Ok(()) })
    }

    fn send_gathered(&mut self, slot: &Slot) -> Outcome {
        let gathered = std::mem::take(&mut self.gathered);
        for part in gathered.chunks(PART_LIMIT) {
            self.send(slot, part)?;
        }
        Ok(())
    }

    /// `C_DigestKey`: the value of a key is the next input.
    pub(crate) fn gather_key(&mut self, slot: &Slot, key: Reference) -> Step {
        if self.kept.is_some() {
            return Step::stays(refuse(CKR_OPERATION_NOT_INITIALIZED));
        }
        self.in_parts = true;
        Step::goes_on(self.send_gathered(slot).and_then(|()| {
            let mut stream = self.take_stream(slot);
            stream.update_with_key(Box::new(move |with| key.message(with)))?;
            self.stream = Some(stream);
            Ok(())
        }))
    }

    /// `C_SignFinal`, `C_DigestFinal`.
    pub(crate) fn finish_gathered(&mut self, slot: &Slot, output: Output) -> Step {
        if self.kept.is_some() {
            return self.deliver(output);
        }
        let length = self.length_of_whole(slot, self.gathered.len(), output.capacity().is_none());
        if let Some(step) = answer_length(length, output) {
            return step;
        }
        self.in_parts = true;
        let gathered = std::mem::take(&mut self.gathered);
        let result = self.run(slot, &gathered, &[]);
        self.keep_and_deliver(result, output)
    }

    /// `C_SignMessageNext` with a place for the signature: the last part and the end in one. The part is taken only when
    /// the signature is made, so that the same call can be made again after a question for the length.
    pub(crate) fn finish_with_part(&mut self, slot: &Slot, part: Input, output: Output) -> Step {
        if self.kept.is_some() {
            return self.deliver(output);
        }
        let length = self.length_of_whole(slot, part.len(), output.capacity().is_none());
        if let Some(step) = answer_length(length, output) {
            return step;
        }
        let gathered = self.gather(slot, part);
        if gathered.over { gathered } else { self.finish_gathered(slot, output) }
    }

    /// `C_VerifyFinal`.
    pub(crate) fn finish_verification(&mut self, slot: &Slot, signature: Option<Input>) -> Step {
        Step::ends(self.signature_to_check(signature).and_then(|signature| {
            let gathered = std::mem::take(&mut self.gathered);
            self.run(slot, &gathered, &signature).map(|_| ())
        }))
    }

    // ---- ciphers in parts ----

    /// `C_EncryptUpdate`, `C_DecryptUpdate`. Also answers the output that was given, for the dual functions.
    pub(crate) fn cipher_part(&mut self, slot: &Slot, input: Input, output: Output) -> (Step, Option<Vec<u8>>) {
        if self.kept.is_some() {
            return self.deliver_part(output);
        }
        let taken = self.taken.saturating_add(input.len() as u64);
        let given = lengths::given_before_end(self.operation, self.mechanism.kind(), taken);
        let due = usize::try_from(given.saturating_sub(self.given)).unwrap_or(usize::MAX);
        if let Some(step) = answer_length(Length::Exact(due), output) {
            return (step, None);
        }
        self.in_parts = true;
        self.taken = taken;
        let before = self.gathered.len();
        if let Err(error) = input.append_to(&mut self.gathered) {
            return (Step::ends(Err(error)), None);
        }
        if due == 0 && before + input.len() <= PART_LIMIT {
            output.announce(0);
            return (Step::stays(Ok(())), Some(Vec::new()));
        }
        let gathered = std::mem::take(&mut self.gathered);
        let mut bytes = Vec::with_capacity(due);
        for part in gathered.chunks(PART_LIMIT) {
            match self.send(slot, part) {
                Ok(mut given) => bytes.append(&mut given),
                Err(error) => return (Step::ends(Err(error)), None),
            }
        }
        self.given = self.given.saturating_add(bytes.len() as u64);
        self.kept = Some(Kept { bytes: Zeroizing::new(bytes), ends: false });
        self.deliver_part(output)
    }

    fn deliver_part(&mut self, output: Output) -> (Step, Option<Vec<u8>>) {
        let bytes = self.kept.as_ref().map(|kept| kept.bytes.to_vec());
        let step = self.deliver(output);
        let delivered = if self.kept.is_none() { bytes } else { None };
        (step, delivered)
    }

    /// `C_EncryptFinal`, `C_DecryptFinal`.
    pub(crate) fn finish_cipher(&mut self, slot: &Slot, output: Output) -> Step {
        if self.kept.as_ref().is_some_and(|kept| !kept.ends) {
            return Step::stays(refuse(CKR_OPERATION_NOT_INITIALIZED));
        }
        if self.kept.is_some() {
            return self.deliver(output);
        }
        let length = self.length_of_rest(slot, output.capacity().is_none());
        if let Some(step) = answer_length(length, output) {
            return step;
        }
        self.in_parts = true;
        let gathered = std::mem::take(&mut self.gathered);
        let result = self.run(slot, &gathered, &[]);
        self.keep_and_deliver(result, output)
    }

    fn length_of_rest(&self, slot: &Slot, asked: bool) -> Length {
        let kind = self.mechanism.kind();
        if matches!(kind, MechanismKind::AES_ECB | MechanismKind::AES_CBC) {
            // Nothing is left of whole blocks; of others the HSM says what is wrong.
            return Length::Exact(0);
        }
        let given = usize::try_from(self.given).unwrap_or(usize::MAX);
        let taken = usize::try_from(self.taken).unwrap_or(usize::MAX);
        match self.length_of_whole(slot, taken, asked) {
            Length::Exact(whole) => Length::Exact(whole.saturating_sub(given)),
            Length::AtMost(whole) => Length::AtMost(whole.saturating_sub(given)),
            Length::Unknown => Length::Unknown,
        }
    }

    // ---- saved digests ----

    /// The state of a digest in parts: mechanism and input so far. `None` when it is not only here.
    pub(crate) fn save(&self) -> Option<Vec<u8>> {
        if self.operation != Operation::Digest || self.stream.is_some() || self.kept.is_some() {
            return None;
        }
        let mut state = SAVED_DIGEST.to_vec();
        state.extend_from_slice(&self.mechanism.kind().0.to_be_bytes());
        state.push(u8::from(self.in_parts));
        state.extend_from_slice(&self.gathered);
        Some(state)
    }

    /// A digest as [`Self::save`] left it.
    pub(crate) fn restore(state: &[u8]) -> Outcome<Self> {
        let invalid = ReturnValue(CKR_SAVED_STATE_INVALID);
        let rest = state.strip_prefix(SAVED_DIGEST).ok_or(invalid)?;
        let (kind, rest) = rest.split_first_chunk::<8>().ok_or(invalid)?;
        let (&in_parts, gathered) = rest.split_first().ok_or(invalid)?;
        if in_parts > 1 || gathered.len() > REPLAY_LIMIT {
            return Err(invalid);
        }
        let mechanism = ReadMechanism::new(Mechanism::plain(MechanismKind(u64::from_be_bytes(*kind))));
        let mut digest = Self::new(Operation::Digest, None, mechanism);
        digest.in_parts = in_parts == 1;
        digest.gathered = Zeroizing::new(gathered.to_vec());
        Ok(digest)
    }

    /// Which mechanism it runs.
    pub(crate) fn mechanism_kind(&self) -> MechanismKind {
        self.mechanism.kind()
    }
}

/// What a saved digest begins with: what it is, and its version.
const SAVED_DIGEST: &[u8] = b"kagimori digest 1\0";

/// Answers a question for the length, or a buffer that is surely too small, without doing anything. A question whose
/// answer is not known runs the operation, and its result is kept.
fn answer_length(length: Length, output: Output) -> Option<Step> {
    match (output.capacity(), length) {
        (None, _) => {
            output.announce(length.bound()?);
            Some(Step::stays(Ok(())))
        }
        (Some(capacity), Length::Exact(needed)) if capacity < needed => {
            output.announce(needed);
            Some(Step::stays(refuse(CKR_BUFFER_TOO_SMALL)))
        }
        _ => None,
    }
}

#[cfg(test)]
#[path = "operation_tests.rs"]
mod tests;

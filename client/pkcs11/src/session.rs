//! A session: a handle, whether it may write, and the operations that are under way in it.
//!
//! Two threads that use one session wait for each other at [`Session::operations`]: an operation is a sequence of calls,
//! so that lock, and that one alone, is held while a call of it is under way. Sessions live on no HSM: they cost nothing
//! there and outlive connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cryptoki_sys::*;
use hsm_protocol::{AttributeKind, Operation, Template};
use std::sync::MutexGuard;

use crate::lock::Mutex;

use crate::limits::SLOT_BITS;
use crate::message::MessageOperation;
use crate::operation::Active;
use crate::return_value::{Outcome, ReturnValue, refuse};
use crate::search::Search;
use crate::slot::Slot;

/// For all slots and all `C_Initialize`s of this process: a handle is never used twice.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// One session.
pub(crate) struct Session {
    handle: CK_SESSION_HANDLE,
    slot: Arc<Slot>,
    read_write: bool,
    closed: AtomicBool,
    operations: Mutex<Operations>,
}

/// What is under way in a session: one operation of each kind at most.
#[derive(Default)]
pub(crate) struct Operations {
    active: [Option<Active>; Operation::ALL.len()],
    messages: [Option<MessageOperation>; Operation::ALL.len()],
    pub(crate) search: Option<Search>,
}

impl Session {
    pub(crate) fn new(slot: Arc<Slot>, read_write: bool) -> Self {
        let handle = (NEXT.fetch_add(1, Ordering::Relaxed) << SLOT_BITS) | slot.id;
        Self { handle, slot, read_write, closed: AtomicBool::new(false), operations: Mutex::default() }
    }

    pub(crate) fn handle(&self) -> CK_SESSION_HANDLE {
        self.handle
    }

    pub(crate) fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }

    pub(crate) fn is_read_write(&self) -> bool {
        self.read_write
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(crate) fn mark_closed(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// What is under way; waits for another thread that uses this session.
    ///
    /// # Errors
    /// `CKR_SESSION_CLOSED` when the session was closed while this thread waited.
    pub(crate) fn operations(&self) -> Outcome<MutexGuard<'_, Operations>> {
        let operations = self.operations.lock();
        if self.is_closed() { refuse(CKR_SESSION_CLOSED) } else { Ok(operations) }
    }

    /// `CKS_…`: PKCS#11 3.2 §5.6.1.
    pub(crate) fn state(&self) -> CK_STATE {
        match (self.read_write, self.slot.login().map(|login| login.user_type)) {
            (_, Some(CKU_SO)) => CKS_RW_SO_FUNCTIONS,
            (true, Some(_)) => CKS_RW_USER_FUNCTIONS,
            (true, None) => CKS_RW_PUBLIC_SESSION,
            (false, Some(_)) => CKS_RO_USER_FUNCTIONS,
            (false, None) => CKS_RO_PUBLIC_SESSION,
        }
    }

    /// Whether this session may make what a template describes, as far as that can be told here.
    ///
    /// # Errors
    /// `CKR_SESSION_READ_ONLY`, `CKR_USER_NOT_LOGGED_IN`.
    pub(crate) fn may_create(&self, template: &Template) -> Outcome {
        if template.is(AttributeKind::Token) {
            self.may_write()?;
        }
        if template.is(AttributeKind::Private) && !self.slot.user_is_logged_in() {
            return refuse(CKR_USER_NOT_LOGGED_IN);
        }
        Ok(())
    }

    /// Whether this session may change token objects.
    ///
    /// # Errors
    /// `CKR_SESSION_READ_ONLY`.
    pub(crate) fn may_write(&self) -> Outcome {
        if self.read_write { Ok(()) } else { refuse(CKR_SESSION_READ_ONLY) }
    }
}

impl Operations {
    /// The place of an operation.
    pub(crate) fn place(&mut self, operation: Operation) -> &mut Option<Active> {
        &mut self.active[operation as usize - 1]
    }

    /// The operation that is under way.
    ///
    /// # Errors
    /// `CKR_OPERATION_NOT_INITIALIZED`.
    pub(crate) fn active(&mut self, operation: Operation) -> Outcome<&mut Active> {
        self.place(operation).as_mut().ok_or(ReturnValue(CKR_OPERATION_NOT_INITIALIZED))
    }

    /// The place of an operation over messages (PKCS#11 3.0).
    pub(crate) fn message_place(&mut self, operation: Operation) -> &mut Option<MessageOperation> {
        &mut self.messages[operation as usize - 1]
    }

    /// All operations with a key that are under way.
    pub(crate) fn all_active(&mut self) -> impl Iterator<Item = &mut Active> {
        self.active.iter_mut().flatten()
    }
}

const _: () = {
    // `place` counts from the operations' numbers on the wire.
    let mut position = 0;
    while position < Operation::ALL.len() {
        assert!(Operation::ALL[position] as usize == position + 1);
        position += 1;
    }
};

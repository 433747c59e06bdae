//! A search: what `C_FindObjectsInit` asked for and how far its answers have been given.
//!
//! Nothing is asked of the HSM before the first `C_FindObjects`. Token objects come first, in the order of their
//! handles, then session objects in the order of theirs: the same search gives the same order every time.

use std::collections::VecDeque;

use cryptoki_sys::CK_OBJECT_HANDLE;
use hsm_protocol::limits::FIND_PAGE;
use hsm_protocol::wire::{FindObjects, reply, request};
use hsm_protocol::{AttributeKind, Template, convert};

use crate::device::wrong_answer;
use crate::limits::FIND_AHEAD;
use crate::return_value::{About, Outcome};
use crate::slot::Slot;

/// A search under way.
pub(crate) struct Search {
    /// `None` = nothing can match.
    wanted: Option<Template>,
    /// Where the next page of token objects begins; `None` = there are no more.
    after: Option<u64>,
    found: VecDeque<CK_OBJECT_HANDLE>,
    /// Session objects that matched when the search began.
    session_objects: VecDeque<CK_OBJECT_HANDLE>,
}

impl Search {
    /// Begins a search; session objects are looked at now.
    pub(crate) fn new(slot: &Slot, wanted: Option<Template>) -> Self {
        let token = wanted.as_ref().and_then(|wanted| wanted.flag(AttributeKind::Token));
        let session_objects = match &wanted {
            Some(wanted) if token != Some(true) => slot.objects.find(wanted, slot.user_is_logged_in()),
            _ => Vec::new(),
        };
        let after = if wanted.is_none() || token == Some(false) { None } else { Some(0) };
        Self { wanted, after, found: VecDeque::new(), session_objects: session_objects.into() }
    }

    /// The next handles, at most `limit`; none = the search is at its end.
    pub(crate) fn next(&mut self, slot: &Slot, limit: usize) -> Outcome<Vec<CK_OBJECT_HANDLE>> {
        while self.found.len() < limit
            && let Some(after) = self.after
        {
            self.next_page(slot, after, limit)?;
        }
        let mut handles: Vec<_> = self.found.drain(..self.found.len().min(limit)).collect();
        let room = limit - handles.len();
        handles.extend(self.session_objects.drain(..self.session_objects.len().min(room)));
        Ok(handles)
    }

    fn next_page(&mut self, slot: &Slot, after: u64, limit: usize) -> Outcome {
        let Some(wanted) = &self.wanted else { return Ok(()) };
        let page = u32::try_from(limit).unwrap_or(FIND_PAGE).clamp(FIND_AHEAD, FIND_PAGE);
        let make = |_| {
            request::Body::FindObjects(FindObjects {
                template: Some(convert::template_message(wanted)),
                after,
                limit: page,
            })
        };
        let reply::Body::FindObjects(reply) = slot.call(About::Object, &make)? else { return Err(wrong_answer()) };
        // Handles ascend, so that a search ends whatever an HSM may answer.
        let ascends = reply.objects.first().is_none_or(|&first| first > after) && reply.objects.is_sorted();
        if !ascends {
            return Err(wrong_answer());
        }
        self.after = reply.objects.last().copied().filter(|_| reply.more);
        self.found.extend(reply.objects);
        Ok(())
    }
}

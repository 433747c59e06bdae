//! The border to `hsm-client`: every call that leaves this process goes through here.
//!
//! It turns a failed call into a `CKR_…` and a line in the log that says who is at fault and what to do. It must not
//! hold a lock of this crate, nor decide what is worth a call. The tests put a small fake here.

use std::sync::Arc;
use std::time::Duration;

use hsm_client::{CallError, Cluster, ClusterConfiguration, Login, StreamCall, With};
use hsm_protocol::wire::{reply, request};
use hsm_protocol::{ErrorCode, Party, Role, wire};

use crate::return_value::{About, Outcome, ReturnValue};

/// One cluster, as this crate uses it.
pub(crate) struct Device {
    line: Line,
}

enum Line {
    Cluster(Cluster),
    #[cfg(test)]
    Fake(fake::Fake),
}

/// What a part of a long operation gave.
pub(crate) type PartOutput = Vec<u8>;

impl Device {
    pub(crate) fn new(configuration: ClusterConfiguration) -> Self {
        Self { line: Line::Cluster(Cluster::new(configuration)) }
    }

    /// Asks something that may be done twice without harm.
    pub(crate) fn call(
        &self,
        login: Option<&Login>,
        make: &dyn Fn(With) -> request::Body,
    ) -> Result<reply::Body, CallError> {
        match &self.line {
            Line::Cluster(cluster) => cluster.call(login, make),
            #[cfg(test)]
            Line::Fake(fake) => fake.answer(make),
        }
    }

    /// Changes state, exactly once.
    pub(crate) fn change(
        &self,
        login: Option<&Login>,
        make: &dyn Fn(With) -> request::Body,
    ) -> Result<reply::Body, CallError> {
        match &self.line {
            Line::Cluster(cluster) => cluster.change(login, make),
            #[cfg(test)]
            Line::Fake(fake) => fake.answer(make),
        }
    }

    /// Begins an operation in parts.
    pub(crate) fn stream(
        &self,
        login: Option<&Login>,
        about: About,
        begin: Box<dyn Fn(With) -> wire::Operate + Send + Sync>,
    ) -> Stream {
        let line = match &self.line {
            Line::Cluster(cluster) => StreamLine::Cluster(cluster.stream(login, begin)),
            #[cfg(test)]
            Line::Fake(fake) => StreamLine::Fake(fake.stream(begin)),
        };
        Stream { line, about }
    }

    pub(crate) fn log_in(&self, name: &str, role: Role, password: &[u8]) -> Outcome<Login> {
        let answer = match &self.line {
            Line::Cluster(cluster) => cluster.log_in(name, role, password),
            #[cfg(test)]
            Line::Fake(_) => Err(CallError::Forked),
        };
        answer.map_err(|error| explain(&error, About::Login))
    }

    /// Ends a login. Best effort: without an answer it ends by itself at its expiry, and the caller is logged out here
    /// in any case.
    pub(crate) fn log_out(&self, login: Login) {
        if let Some(Err(error)) = self.cluster().map(|cluster| cluster.log_out(login)) {
            tracing::info!("a login could not be ended at the HSM and will expire there: {error}");
        }
    }

    fn cluster(&self) -> Option<&Cluster> {
        match &self.line {
            Line::Cluster(cluster) => Some(cluster),
            #[cfg(test)]
            Line::Fake(_) => None,
        }
    }

    /// In a forked child: closes the inherited sockets, without a byte on them. This value is not used again.
    pub(crate) fn abandon(&self) {
        // In a child, dropping any clone closes the sockets and touches nothing else.
        drop(self.cluster().cloned());
    }

    pub(crate) fn hello(&self, patience: Duration) -> Outcome<Arc<wire::HelloReply>> {
        match &self.line {
            Line::Cluster(cluster) => cluster.hello_within(patience).map_err(|error| explain(&error, About::Token)),
            #[cfg(test)]
            Line::Fake(fake) => Ok(fake.hello()),
        }
    }

    pub(crate) fn mechanisms(&self) -> Outcome<Arc<Vec<wire::MechanismInfo>>> {
        match &self.line {
            Line::Cluster(cluster) => cluster.mechanisms().map_err(|error| explain(&error, About::Token)),
            #[cfg(test)]
            Line::Fake(fake) => Ok(fake.mechanisms()),
        }
    }
}

/// An operation in parts; dropping it abandons it.
pub(crate) struct Stream {
    line: StreamLine,
    about: About,
}

enum StreamLine {
    Cluster(StreamCall),
    #[cfg(test)]
    Fake(fake::FakeStream),
}

impl Stream {
    pub(crate) fn update(&mut self, data: &[u8]) -> Outcome<PartOutput> {
        let answer = match &mut self.line {
            StreamLine::Cluster(stream) => stream.update(data),
            #[cfg(test)]
            StreamLine::Fake(stream) => stream.update(data),
        };
        answer.map(|output| output.data).map_err(|error| explain(&error, self.about))
    }

    pub(crate) fn update_with_key(
        &mut self,
        key: Box<dyn Fn(With) -> wire::ObjectReference + Send + Sync>,
    ) -> Outcome<PartOutput> {
        let answer = match &mut self.line {
            StreamLine::Cluster(stream) => stream.update_with_key(key),
            #[cfg(test)]
            StreamLine::Fake(_) => Err(CallError::Forked),
        };
        answer.map(|output| output.data).map_err(|error| explain(&error, About::Key))
    }

    pub(crate) fn finish(self, signature: &[u8]) -> Outcome<PartOutput> {
        let about = self.about;
        let answer = match self.line {
            StreamLine::Cluster(stream) => stream.finish(signature),
            #[cfg(test)]
            StreamLine::Fake(stream) => stream.finish(signature),
        };
        answer.map(|output| output.data).map_err(|error| explain(&error, about))
    }
}

/// An answer of another kind than the request's: the HSM is of another version.
pub(crate) fn wrong_answer() -> ReturnValue {
    tracing::error!("the HSM answered a request with a reply of another kind; update the older side");
    ReturnValue(cryptoki_sys::CKR_DEVICE_ERROR)
}

/// The `CKR_…` of an error, and its line in the log.
pub(crate) fn explain(error: &CallError, about: About) -> ReturnValue {
    if is_everyday(error) {
        tracing::info!("{error}");
    } else {
        tracing::warn!("{error}");
    }
    ReturnValue::from_call_error(error, about)
}

/// A refusal that an honest application meets every day (a wrong signature, an attribute that is not there) is no
/// warning. What an operator must hear of is one: refused logins, and another user's key, whose `CKR_…` says less.
fn is_everyday(error: &CallError) -> bool {
    use ErrorCode as E;
    match error {
        CallError::Refused { code: E::LoginRefused | E::UserLocked | E::UserDisabled | E::OwnerRefused, .. } => false,
        CallError::Refused { code, .. } => matches!(code.party(), Party::Refusal | Party::Misuse),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_logins_and_the_keys_of_others_are_warned_about_and_a_wrong_signature_is_not() {
        let everyday = |code| is_everyday(&CallError::Refused { code, subject: 0 });
        use ErrorCode as E;
        for code in [E::LoginRefused, E::UserLocked, E::UserDisabled, E::LoginDelayed, E::OwnerRefused, E::Busy] {
            assert!(!everyday(code), "{code:?}");
        }
        for code in [E::SignatureInvalid, E::AttributeUnknown, E::NotExtractable] {
            assert!(everyday(code), "{code:?}");
        }
    }
}

#[cfg(test)]
pub(crate) mod fake {
    //! A stand-in for an HSM: answers by a closure, and notes what it was asked. Tests only.

    use hsm_client::StreamOutput;
    use hsm_protocol::convert::method;

    use super::*;

    type Answer = dyn Fn(&request::Body) -> Result<reply::Body, CallError> + Send + Sync;

    #[derive(Clone)]
    pub(crate) struct Fake {
        answer: Arc<Answer>,
        asked: Arc<crate::lock::Mutex<Vec<u16>>>,
        mechanisms: Arc<Vec<wire::MechanismInfo>>,
    }

    impl Fake {
        pub(crate) fn new(
            mechanisms: Vec<wire::MechanismInfo>,
            answer: impl Fn(&request::Body) -> Result<reply::Body, CallError> + Send + Sync + 'static,
        ) -> Self {
            Self { answer: Arc::new(answer), asked: Arc::default(), mechanisms: Arc::new(mechanisms) }
        }

        pub(crate) fn device(&self) -> Device {
            Device { line: Line::Fake(self.clone()) }
        }

        /// Methods of all calls so far.
        pub(crate) fn asked(&self) -> Vec<u16> {
            self.asked.lock().clone()
        }

        pub(super) fn answer(&self, make: &dyn Fn(With) -> request::Body) -> Result<reply::Body, CallError> {
            let body = make(With { sealed_objects: false, ..With::default() });
            self.asked.lock().push(method(&body));
            (self.answer)(&body)
        }

        pub(super) fn hello(&self) -> Arc<wire::HelloReply> {
            Arc::new(wire::HelloReply { label: "fake".into(), serial: "0123456789abcdef".into(), ..Default::default() })
        }

        pub(super) fn mechanisms(&self) -> Arc<Vec<wire::MechanismInfo>> {
            Arc::clone(&self.mechanisms)
        }

        pub(super) fn stream(&self, begin: Box<dyn Fn(With) -> wire::Operate + Send + Sync>) -> FakeStream {
            FakeStream { fake: self.clone(), begin, input: Vec::new() }
        }
    }

    /// Gathers all parts and answers them as one call when it is finished.
    pub(crate) struct FakeStream {
        fake: Fake,
        begin: Box<dyn Fn(With) -> wire::Operate + Send + Sync>,
        input: Vec<u8>,
    }

    impl FakeStream {
        pub(super) fn update(&mut self, data: &[u8]) -> Result<StreamOutput, CallError> {
            self.fake.asked.lock().push(51);
            self.input.extend_from_slice(data);
            Ok(StreamOutput::default())
        }

        pub(super) fn finish(self, signature: &[u8]) -> Result<StreamOutput, CallError> {
            let mut operate = (self.begin)(With { sealed_objects: false, ..With::default() });
            operate.data = self.input;
            operate.signature = signature.to_vec();
            match self.fake.answer(&|_| request::Body::Operate(operate.clone()))? {
                reply::Body::Bytes(reply) => Ok(StreamOutput { data: reply.data, iv: reply.iv }),
                _ => Ok(StreamOutput::default()),
            }
        }
    }
}

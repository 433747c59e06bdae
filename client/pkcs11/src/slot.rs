//! One slot: one cluster of the configuration, with the application's login, sessions and session objects on it.
//!
//! All locks here are short: none is held while a call is under way, except the gate that keeps two logins of this
//! application from crossing each other. What an HSM's answer means for the login is decided here, once
//! ([`Slot::settle`]).

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::lock::{Mutex, RwLock};
use cryptoki_sys::*;
use hsm_client::{CallError, ClusterConfiguration, Login, With};
use hsm_protocol::wire::{reply, request};
use hsm_protocol::{AttributeKind, ErrorCode, Lifecycle, MechanismKind, Role, Template, convert, wire};

use crate::device::{Device, Stream, explain, wrong_answer};
use crate::limits::{HELLO_PATIENCE, SESSIONS_PER_SLOT, UNREACHABLE_SECONDS};
use crate::objects::{self, Reference, SessionObjects};
use crate::pin::Credentials;
use crate::remembered::{Remembered, UNCHANGING};
use crate::return_value::{About, Outcome, ReturnValue, refuse};
use crate::session::Session;

/// One slot.
pub(crate) struct Slot {
    pub(crate) id: CK_SLOT_ID,
    pub(crate) label: String,
    pub(crate) default_user: Option<String>,
    pub(crate) objects: Arc<SessionObjects>,
    pub(crate) remembered: Remembered,
    device: Device,
    login: RwLock<Option<Arc<LoggedIn>>>,
    login_gate: Mutex<()>,
    sessions: RwLock<HashMap<CK_SESSION_HANDLE, Arc<Session>>>,
    greeting: Mutex<Greeting>,
}

/// The last answer to a greeting.
#[derive(Default)]
struct Greeting {
    hello: Option<Arc<wire::HelloReply>>,
    failed_at: Option<Instant>,
}

/// The application's login on a slot.
pub(crate) struct LoggedIn {
    pub(crate) user_type: CK_USER_TYPE,
    login: Login,
}

impl Slot {
    pub(crate) fn new(id: CK_SLOT_ID, configuration: ClusterConfiguration) -> Self {
        let (label, default_user) = (configuration.label.clone(), configuration.default_user.clone());
        Self::with_device(id, label, default_user, Device::new(configuration))
    }

    pub(crate) fn with_device(id: CK_SLOT_ID, label: String, default_user: Option<String>, device: Device) -> Self {
        Self {
            id,
            label,
            default_user,
            objects: Arc::default(),
            remembered: Remembered::default(),
            device,
            login: RwLock::new(None),
            login_gate: Mutex::new(()),
            sessions: RwLock::new(HashMap::new()),
            greeting: Mutex::default(),
        }
    }

    /// The connections, for the child of a fork to let go of.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    // ---- calls ----

    /// Asks something that may be done twice without harm, in the name of whoever is logged in.
    pub(crate) fn call(&self, about: About, make: &dyn Fn(With) -> request::Body) -> Outcome<reply::Body> {
        let login = self.login();
        self.device
            .call(login.as_deref().map(|login| &login.login), make)
            .map_err(|error| self.settle(&error, login.as_ref(), about))
    }

    /// Changes state, exactly once, in the name of whoever is logged in.
    pub(crate) fn change(&self, about: About, make: &dyn Fn(With) -> request::Body) -> Outcome<reply::Body> {
        let login = self.login();
        self.device
            .change(login.as_deref().map(|login| &login.login), make)
            .map_err(|error| self.settle(&error, login.as_ref(), about))
    }

    /// Begins an operation in parts.
    pub(crate) fn stream(&self, about: About, begin: Box<dyn Fn(With) -> wire::Operate + Send + Sync>) -> Stream {
        let login = self.login();
        self.device.stream(login.as_deref().map(|login| &login.login), about, begin)
    }

    /// Asks for a call whose answer is bytes.
    pub(crate) fn call_for_bytes(
        &self,
        about: About,
        make: &dyn Fn(With) -> request::Body,
    ) -> Outcome<wire::BytesReply> {
        match self.call(about, make)? {
            reply::Body::Bytes(bytes) => Ok(bytes),
            reply::Body::Done(_) => Ok(wire::BytesReply::default()),
            _ => Err(wrong_answer()),
        }
    }

    /// What an error means: its number and its line in the log, and whether the login is over. A login that the HSM no
    /// longer knows is dropped here too, so that the application can log in again.
    fn settle(&self, error: &CallError, login: Option<&Arc<LoggedIn>>, about: About) -> ReturnValue {
        if let Some(login) = login
            && says_login_is_over(error)
            && !self.still_stands(login)
        {
            tracing::warn!("the login of user {} has ended at the HSM; log in again", login.login.name());
            self.drop_login(login);
        }
        explain(error, about)
    }

    /// Whether the HSM still knows a login. It refuses with the same code where a key wants its user's password again
    /// (`CKA_ALWAYS_AUTHENTICATE`), so it is asked something that needs none.
    fn still_stands(&self, login: &LoggedIn) -> bool {
        let search = |_| {
            request::Body::FindObjects(wire::FindObjects {
                template: Some(wire::Attributes::default()),
                after: 0,
                limit: 1,
            })
        };
        !matches!(self.device.call(Some(&login.login), &search), Err(error) if says_login_is_over(&error))
    }

    // ---- the token ----

    /// What the cluster says of itself: asked once it is in service, and again while it is not. An HSM that did not
    /// answer is left alone for a moment.
    pub(crate) fn hello(&self) -> Outcome<Arc<wire::HelloReply>> {
        let in_service = |hello: &Arc<wire::HelloReply>| hello.lifecycle == Lifecycle::Active as u32;
        if let Some(hello) = self.greeting.lock().hello.clone().filter(in_service) {
            return Ok(hello);
        }
        let pause = Duration::from_secs(UNREACHABLE_SECONDS);
        if self.greeting.lock().failed_at.is_some_and(|failed_at| failed_at.elapsed() < pause) {
            return refuse(CKR_DEVICE_ERROR);
        }
        let hello = self.device.hello(HELLO_PATIENCE);
        let failed_at = if hello.is_err() { Some(Instant::now()) } else { None };
        *self.greeting.lock() = Greeting { hello: hello.as_ref().ok().cloned(), failed_at };
        hello
    }

    pub(crate) fn mechanisms(&self) -> Outcome<Arc<Vec<wire::MechanismInfo>>> {
        self.device.mechanisms()
    }

    /// A mechanism's line in the HSM's table.
    ///
    /// # Errors
    /// `CKR_MECHANISM_INVALID` when it has none.
    pub(crate) fn mechanism(&self, kind: MechanismKind) -> Outcome<wire::MechanismInfo> {
        let mechanisms = self.mechanisms()?;
        mechanisms.iter().find(|info| info.kind == kind.0).copied().ok_or(ReturnValue(CKR_MECHANISM_INVALID))
    }

    // ---- login ----

    pub(crate) fn login(&self) -> Option<Arc<LoggedIn>> {
        self.login.read().clone()
    }

    /// Whether a user (and not the security officer) is logged in.
    pub(crate) fn user_is_logged_in(&self) -> bool {
        self.login.read().as_ref().is_some_and(|login| login.user_type == CKU_USER)
    }

    pub(crate) fn log_in(&self, user_type: CK_USER_TYPE, credentials: &Credentials) -> Outcome {
        let _gate = self.login_gate.lock();
        if let Some(login) = self.login() {
            let same = login.user_type == user_type;
            return refuse(if same { CKR_USER_ALREADY_LOGGED_IN } else { CKR_USER_ANOTHER_ALREADY_LOGGED_IN });
        }
        if user_type == CKU_SO && self.sessions.read().values().any(|session| !session.is_read_write()) {
            return refuse(CKR_SESSION_READ_ONLY_EXISTS);
        }
        let login = self.device.log_in(&credentials.user, role_of(user_type), &credentials.password)?;
        // Answers for objects that were not visible before the login must not be taken from memory.
        self.remembered.clear();
        let objects: Weak<SessionObjects> = Arc::downgrade(&self.objects);
        login.holds(objects);
        *self.login.write() = Some(Arc::new(LoggedIn { user_type, login }));
        Ok(())
    }

    pub(crate) fn log_out(&self) -> Outcome {
        let _gate = self.login_gate.lock();
        let Some(login) = self.login() else { return refuse(CKR_USER_NOT_LOGGED_IN) };
        self.drop_login(&login);
        self.device.log_out(login.login.clone());
        Ok(())
    }

    /// Changes the password of the user whose old one is given. The old one is proven by a login of its own, which is
    /// counted like any other; the application's own login stands on, because it is the one that asks for the change.
    pub(crate) fn change_password(&self, user_type: CK_USER_TYPE, old: &Credentials, new_password: &[u8]) -> Outcome {
        let _gate = self.login_gate.lock();
        let proof = self.device.log_in(&old.user, role_of(user_type), &old.password)?;
        let current = self
            .login()
            .filter(|login| login.user_type == user_type && login.login.name() == proof.name())
            .map_or_else(|| proof.clone(), |login| login.login.clone());
        let make = |_| {
            request::Body::ChangePassword(wire::ChangePassword {
                name: String::new(),
                role: 0,
                password: new_password.to_vec(),
            })
        };
        let changed = self.device.change(Some(&current), &make);
        self.device.log_out(proof);
        changed.map(|_| ()).map_err(|error| explain(&error, About::Token))
    }

    /// Forgets a login, and all that was only to be had with it.
    fn drop_login(&self, login: &Arc<LoggedIn>) {
        let mut current = self.login.write();
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, login)) {
            *current = None;
            drop(current);
            self.objects.clear();
            self.remembered.clear();
        }
    }

    // ---- sessions ----

    pub(crate) fn open_session(self: &Arc<Self>, read_write: bool) -> Outcome<CK_SESSION_HANDLE> {
        let session = Arc::new(Session::new(Arc::clone(self), read_write));
        let handle = session.handle();
        let mut sessions = self.sessions.write();
        if sessions.len() >= SESSIONS_PER_SLOT {
            return refuse(CKR_SESSION_COUNT);
        }
        if !read_write && self.login.read().as_ref().is_some_and(|login| login.user_type == CKU_SO) {
            return refuse(CKR_SESSION_READ_WRITE_SO_EXISTS);
        }
        sessions.insert(handle, session);
        Ok(handle)
    }

    pub(crate) fn session(&self, handle: CK_SESSION_HANDLE) -> Outcome<Arc<Session>> {
        self.sessions.read().get(&handle).cloned().ok_or(ReturnValue(CKR_SESSION_HANDLE_INVALID))
    }

    /// Closes one session with its objects; with the last one the login ends (PKCS#11 3.2 §5.6.2).
    pub(crate) fn close_session(&self, handle: CK_SESSION_HANDLE) -> Outcome {
        let (session, was_last) = {
            let mut sessions = self.sessions.write();
            let session = sessions.remove(&handle).ok_or(ReturnValue(CKR_SESSION_HANDLE_INVALID))?;
            (session, sessions.is_empty())
        };
        session.mark_closed();
        let orphans = self.objects.remove_of_session(handle);
        if was_last {
            self.end_login();
        } else {
            for orphan in orphans.iter().take(crate::limits::DESTROYED_AT_CLOSE) {
                self.destroy_at_hsm(&Reference::Session(Arc::clone(orphan)));
            }
        }
        Ok(())
    }

    pub(crate) fn close_all_sessions(&self) {
        let closed: Vec<_> = self.sessions.write().drain().map(|(_, session)| session).collect();
        for session in &closed {
            session.mark_closed();
        }
        self.objects.clear();
        self.end_login();
    }

    /// Open sessions, and how many of them may write.
    pub(crate) fn session_counts(&self) -> (usize, usize) {
        let sessions = self.sessions.read();
        (sessions.len(), sessions.values().filter(|session| session.is_read_write()).count())
    }

    fn end_login(&self) {
        let ended = self.log_out();
        debug_assert!(matches!(ended, Ok(()) | Err(ReturnValue(CKR_USER_NOT_LOGGED_IN))));
    }

    // ---- objects ----

    /// What a handle names. Whether a token object exists is for the HSM to say.
    pub(crate) fn reference(&self, handle: CK_OBJECT_HANDLE, about: About) -> Outcome<Reference> {
        let invalid = ReturnValue(about.handle_invalid());
        if handle == CK_INVALID_HANDLE {
            return Err(invalid);
        }
        if objects::is_session_handle(handle) {
            return self.objects.get(handle).map(Reference::Session).ok_or(invalid);
        }
        Ok(Reference::Token(handle))
    }

    /// What is known of an object without a call.
    pub(crate) fn known_attributes(&self, reference: &Reference) -> Option<Arc<Template>> {
        match reference {
            Reference::Token(handle) => self.remembered.partial(*handle),
            Reference::Session(object) => Some(object.attributes()),
        }
    }

    /// The unchanging attributes of an object; asked for once.
    pub(crate) fn unchanging_attributes(&self, reference: &Reference, about: About) -> Outcome<Arc<Template>> {
        let handle = match reference {
            Reference::Session(object) => return Ok(object.attributes()),
            Reference::Token(handle) => *handle,
        };
        if let Some(known) = self.remembered.whole(handle) {
            return Ok(known);
        }
        let answers = self.ask_attributes(reference, UNCHANGING, about)?;
        let mut template = Template::new();
        for answer in answers {
            if let Some((kind, value)) = value_of(answer)? {
                template.insert(kind, value);
            }
        }
        self.remembered.learn(handle, template.iter(), true);
        Ok(self.remembered.whole(handle).unwrap_or_else(|| Arc::new(template)))
    }

    /// Asks the HSM for attributes: one answer for each kind, in the same order.
    pub(crate) fn ask_attributes(
        &self,
        reference: &Reference,
        kinds: &[AttributeKind],
        about: About,
    ) -> Outcome<Vec<wire::AttributeResult>> {
        let kinds: Vec<u64> = kinds.iter().map(|&kind| kind as u64).collect();
        let make = |with| {
            request::Body::GetAttributes(wire::GetAttributes {
                object: Some(reference.message(with)),
                kinds: kinds.clone(),
            })
        };
        let answer = self.call(about, &make).inspect_err(|_| self.forget(reference))?;
        match answer {
            reply::Body::Attributes(reply) if kinds.is_empty() || reply.items.len() == kinds.len() => Ok(reply.items),
            _ => Err(wrong_answer()),
        }
    }

    /// Takes a created object into use: its handle.
    pub(crate) fn adopt(&self, created: wire::CreatedObject, session: &Session) -> Outcome<CK_OBJECT_HANDLE> {
        let token_object = created.reference.as_ref().map_or(0, |reference| reference.token_object);
        if token_object == 0 {
            return self.objects.insert(created, session);
        }
        if let Some(attributes) = created.attributes
            && let Ok(attributes) = convert::template(attributes)
        {
            self.remembered.learn(token_object, attributes.iter(), false);
        }
        Ok(token_object)
    }

    /// Tells the HSM that a session object is no more. Best effort: without it the object lies there, sealed for a
    /// login that ends sooner or later.
    pub(crate) fn destroy_at_hsm(&self, reference: &Reference) {
        let login = self.login();
        let make = |_| {
            let object = Some(reference.message(With { sealed_objects: false, ..With::default() }));
            request::Body::DestroyObject(wire::DestroyObject { object })
        };
        if let Err(error) = self.device.call(login.as_deref().map(|login| &login.login), &make) {
            tracing::debug!("a session object was not destroyed at the HSM: {error}");
        }
    }

    /// Forgets what is remembered of a token object.
    pub(crate) fn forget(&self, reference: &Reference) {
        if let Reference::Token(handle) = reference {
            self.remembered.forget(*handle);
        }
    }
}

impl LoggedIn {
    /// The user's name, in lower case.
    pub(crate) fn name(&self) -> &str {
        self.login.name()
    }
}

/// The attribute in an answer, if it has one.
///
/// # Errors
/// `CKR_DEVICE_ERROR` when it cannot be read.
pub(crate) fn value_of(
    answer: wire::AttributeResult,
) -> Outcome<Option<(AttributeKind, hsm_protocol::AttributeValue)>> {
    let Some(attribute) = answer.attribute.filter(|_| answer.status == 0) else { return Ok(None) };
    let kind = AttributeKind::from_number(attribute.kind).ok_or_else(wrong_answer)?;
    let mut template = convert::template(wire::Attributes { items: vec![attribute] }).map_err(|_| wrong_answer())?;
    Ok(template.remove(kind).map(|value| (kind, value)))
}

fn role_of(user_type: CK_USER_TYPE) -> Role {
    if user_type == CKU_SO { Role::Admin } else { Role::CryptoUser }
}

fn says_login_is_over(error: &CallError) -> bool {
    matches!(
        error.code(),
        Some(ErrorCode::NotLoggedIn | ErrorCode::TokenRefused | ErrorCode::OtherIncarnation | ErrorCode::UserDisabled)
    )
}

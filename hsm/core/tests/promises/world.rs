//! A cluster in one thread, with an admin and two crypto users, and material made of nothing.

use hsm_core::audit::AuditRecord;
use hsm_core::command::{CeremonyCertificates, Form, NewObject, NewSession, Origin, SealedPayload, Verifier};
use hsm_core::ids::AttemptId;
use hsm_core::{
    Action, Actor, Change, ClusterId, Command, Curve, Draft, Effect, Epoch, Facts, Hsm, HsmId, Incarnation, Index,
    MemberKind, MemberRecord, Needs, NodeId, Object, ObjectHandle, ObjectUid, PairSpec, Refusal, Request, Response,
    Row, SessionId, Stamp, curve,
};
use hsm_protocol::{
    AttributeKind as A, ErrorCode, KeyType, Lifecycle, Mechanism, MechanismKind, ObjectClass, Role, Template, UserName,
};
use std::collections::BTreeMap;

pub(crate) const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
pub(crate) const NO_SESSION: Origin = Origin { session: None, sequence: 0, lowest_unanswered: 0 };
pub(crate) const HOUR: u64 = 60 * 60 * 1000;

pub(crate) type Answer = Result<Response, Refusal>;

/// The cluster and everything that came out of it.
pub(crate) struct World {
    pub(crate) hsm: Hsm,
    pub(crate) rows: BTreeMap<Row, Vec<u8>>,
    pub(crate) index: u64,
    pub(crate) now: Stamp,
    pub(crate) audit: Vec<AuditRecord>,
    pub(crate) closed: Vec<SessionId>,
    pub(crate) forgotten: Vec<ObjectUid>,
    pub(crate) effects: Vec<Effect>,
    next: u64,
}

impl World {
    /// Formed, initialised and active: the admin's password is the verifier `admin`.
    pub(crate) fn active(fips: bool) -> Self {
        Self::formed(fips).activated()
    }

    fn activated(self) -> Self {
        let mut world = self;
        let install = Action::InstallCertificate { certificate: PEM.to_owned(), trust_anchor: PEM.to_owned() };
        world.must(NO_SESSION, install);
        world.must(NO_SESSION, Action::Activate { verifier: verifier("admin") });
        world
    }

    pub(crate) fn formed(fips: bool) -> Self {
        Self::formed_by(form(fips))
    }

    fn formed_by(form: Form) -> Self {
        let mut world = Self {
            hsm: Hsm::empty(),
            rows: BTreeMap::new(),
            index: 0,
            now: Stamp(1_000_000_000_000),
            audit: Vec::new(),
            closed: Vec::new(),
            forgotten: Vec::new(),
            effects: Vec::new(),
            next: 0,
        };
        world.must(NO_SESSION, Action::Form(form));
        world
    }

    /// Active, with crypto users `alice` and `bob` logged in; the sessions are admin's, alice's, bob's.
    pub(crate) fn with_users(fips: bool) -> (Self, SessionId, SessionId, SessionId) {
        Self::active(fips).peopled()
    }

    /// [`World::with_users`], formed by a program that knows no later version of commands.
    pub(crate) fn with_users_of(state_version: u32) -> (Self, SessionId, SessionId, SessionId) {
        let mut form = form(false);
        form.member.state_version = state_version;
        Self::formed_by(form).activated().peopled()
    }

    fn peopled(self) -> (Self, SessionId, SessionId, SessionId) {
        let mut world = self;
        let admin = world.log_in("admin", Role::Admin).unwrap();
        for name in ["alice", "bob"] {
            world.must(by(admin), create_user(name, Role::CryptoUser));
        }
        let alice = world.log_in("alice", Role::CryptoUser).unwrap();
        let bob = world.log_in("bob", Role::CryptoUser).unwrap();
        (world, admin, alice, bob)
    }

    pub(crate) fn bytes(&mut self) -> [u8; 16] {
        self.next += 1;
        let mut bytes = [0; 16];
        bytes[8..].copy_from_slice(&self.next.to_be_bytes());
        bytes
    }

    pub(crate) fn act(&mut self, origin: Origin, action: Action) -> Answer {
        self.index += 1;
        let command = Command { stamp: self.now, origin, action };
        let applied = self.hsm.apply(Index(self.index), &command);
        self.hsm.absorb(&applied.changes);
        for Change { row, value } in applied.changes {
            match value {
                Some(value) => self.rows.insert(row, value),
                None => self.rows.remove(&row),
            };
        }
        let mut answer = None;
        self.effects = applied.effects;
        for effect in &self.effects {
            match effect {
                Effect::Respond(result) => assert!(answer.replace(result.clone()).is_none(), "answered twice"),
                Effect::Audit(record) => self.audit.push(record.clone()),
                Effect::CloseSessions(sessions) => self.closed.extend(sessions),
                Effect::ForgetKey(uid) => self.forgotten.push(*uid),
                Effect::ReloadTls | Effect::RosterChanged | Effect::EpochBegan(_) | Effect::Zeroize => {}
            }
        }
        answer.expect("every command is answered")
    }

    #[track_caller]
    pub(crate) fn must(&mut self, origin: Origin, action: Action) -> Response {
        self.act(origin, action).unwrap_or_else(|refusal| panic!("refused: {refusal}"))
    }

    #[track_caller]
    pub(crate) fn refused(&mut self, origin: Origin, action: Action) -> ErrorCode {
        self.act(origin, action).err().expect("was done").code
    }

    /// The state that the stored rows give.
    pub(crate) fn reloaded(&self) -> Hsm {
        let rows = self.rows.iter().map(|(row, value)| (row.clone(), value.clone()));
        Hsm::load(rows.filter(|(row, _)| row.in_memory())).expect("our own rows can be read")
    }

    pub(crate) fn reserve(&mut self, name: &str, role: Role) -> Result<(AttemptId, Option<Verifier>), Refusal> {
        let attempt = AttemptId(self.bytes());
        match self.act(NO_SESSION, Action::ReserveAttempt { attempt, name: user(name), role })? {
            Response::Attempt { verifier, .. } => Ok((attempt, verifier)),
            _ => panic!("another response"),
        }
    }

    /// A login with the right password.
    pub(crate) fn log_in(&mut self, name: &str, role: Role) -> Result<SessionId, Refusal> {
        let (attempt, _) = self.reserve(name, role)?;
        let session = SessionId(self.bytes());
        let new = NewSession { session, public_key: [7; 32], expires_at: Stamp(self.now.0 + HOUR) };
        self.act(NO_SESSION, Action::FinishLogin { attempt, session: Some(new) }).map(|_| session)
    }

    /// A login with a wrong password.
    pub(crate) fn guess(&mut self, name: &str, role: Role) -> ErrorCode {
        match self.reserve(name, role) {
            Ok((attempt, _)) => self.refused(NO_SESSION, Action::FailLogin { attempt }),
            Err(refusal) => refusal.code,
        }
    }

    pub(crate) fn actor(&self, session: SessionId) -> Actor {
        self.hsm.session(session, self.now).expect("the session stands").actor
    }

    pub(crate) fn user(&self, name: &str, role: Role) -> hsm_core::UserView {
        self.hsm.user(&user(name), role).expect("the user exists")
    }

    pub(crate) fn needs(&self, session: SessionId, request: Request<'_>) -> Result<Needs, Refusal> {
        self.hsm.needs(&self.actor(session), request)
    }

    /// Objects as a request would make them, with facts of nothing.
    pub(crate) fn make(&mut self, session: SessionId, request: Request<'_>) -> Result<Vec<Object>, Refusal> {
        let needs = self.needs(session, request)?;
        let uid = ObjectUid(self.bytes());
        let other = ObjectUid(self.bytes());
        Ok(match needs {
            Needs::SecretKey { draft, bytes } => vec![draft.complete(secret_facts(bytes), uid)?],
            Needs::KeyPair { public, private, pair } => {
                vec![public.complete(pair_facts(&pair), uid)?, private.complete(pair_facts(&pair), other)?]
            }
            Needs::Import { draft, material } => {
                let facts = import_facts(&draft, material.attributes());
                vec![draft.complete(facts, uid)?]
            }
            Needs::Copy { draft, .. } => vec![draft.complete(Facts::new(), uid)?],
            Needs::Unwrap { draft, length, .. } => vec![draft.complete(secret_facts(length.unwrap_or(16)), uid)?],
            Needs::Derive { draft, length, .. } => vec![draft.complete(secret_facts(length.unwrap_or(32)), uid)?],
            Needs::Replace { object, .. } => vec![object],
            Needs::Nothing => Vec::new(),
        })
    }

    /// Makes token objects and gives their handles.
    pub(crate) fn create(&mut self, session: SessionId, request: Request<'_>) -> Result<Vec<ObjectHandle>, Refusal> {
        let objects = self.make(session, request)?;
        match self.act(by(session), create_objects(objects))? {
            Response::Created(handles) => Ok(handles),
            _ => panic!("another response"),
        }
    }

    /// An AES key on the token.
    pub(crate) fn aes(&mut self, session: SessionId, template: &Template) -> Result<ObjectHandle, Refusal> {
        let mut whole = template.clone();
        for (kind, value) in Template::new().with_flag(A::Token, true).with_number(A::ValueLen, 32).iter() {
            if whole.get(kind).is_none() {
                whole.insert(kind, value.clone());
            }
        }
        let mechanism = Mechanism::plain(MechanismKind::AES_KEY_GEN);
        let request = Request::GenerateKey { mechanism: &mechanism, template: &whole };
        self.create(session, request).map(|handles| handles[0])
    }

    pub(crate) fn object(&self, session: SessionId, handle: ObjectHandle) -> std::sync::Arc<Object> {
        self.hsm.object(&self.actor(session), handle).expect("the object is seen")
    }
}

pub(crate) fn form(fips: bool) -> Form {
    Form {
        cluster: ClusterId([1; 16]),
        incarnation: Incarnation([2; 16]),
        fips,
        label: "kagimori".to_owned(),
        epoch: Epoch(1),
        lifecycle: Lifecycle::Uninitialized,
        activation: verifier("activation"),
        sealed_activation_password: vec![1],
        sealed_cluster_key: vec![2],
        releases: hsm_core::ReleaseRule::default(),
        certificates: CeremonyCertificates::default(),
        node: NodeId(1),
        member: MemberRecord::alone(HsmId([1; 16]), MemberKind::Hsm),
    }
}

pub(crate) fn user(name: &str) -> UserName {
    UserName::new(name).unwrap()
}

pub(crate) fn verifier(text: &str) -> Verifier {
    Verifier(text.as_bytes().to_vec())
}

pub(crate) fn by(session: SessionId) -> Origin {
    Origin { session: Some(session), sequence: 0, lowest_unanswered: 0 }
}

pub(crate) fn numbered(session: SessionId, sequence: u64, lowest_unanswered: u64) -> Origin {
    Origin { session: Some(session), sequence, lowest_unanswered }
}

pub(crate) fn create_user(name: &str, role: Role) -> Action {
    Action::CreateUser { name: user(name), role, verifier: verifier(name) }
}

pub(crate) fn sealed() -> SealedPayload {
    SealedPayload { epoch: Epoch(1), wrapped_data_key: vec![1; 60], ciphertext: vec![2; 44] }
}

pub(crate) fn create_objects(objects: Vec<Object>) -> Action {
    let with_payload = |object: Object| {
        let payload = object.has_payload().then(sealed);
        NewObject { object, payload }
    };
    Action::CreateObjects { objects: objects.into_iter().map(with_payload).collect() }
}

pub(crate) fn secret_facts(bytes: usize) -> Facts {
    Facts::new().with_number(A::ValueLen, bytes as u64).with_octets(A::CheckValue, [1, 2, 3])
}

/// A modulus of so many bits.
pub(crate) fn modulus(bits: usize) -> Vec<u8> {
    vec![0x81; bits / 8]
}

pub(crate) fn point(curve: Curve) -> Vec<u8> {
    let mut raw = vec![9; 1 + 2 * curve.field_bytes()];
    raw[0] = 4;
    curve::der_octet_string(&raw)
}

pub(crate) fn pair_facts(pair: &PairSpec) -> Facts {
    match pair {
        PairSpec::Rsa { bits, exponent } => Facts::new()
            .with_octets(A::Modulus, modulus(*bits as usize))
            .with_octets(A::PublicExponent, exponent.clone())
            .with_octets(A::PublicKeyInfo, "spki"),
        PairSpec::Ec(curve) => {
            Facts::new().with_octets(A::EcParams, curve.params()).with_octets(A::EcPoint, point(*curve))
        }
        PairSpec::Ed25519 => edwards(curve::ED25519_PARAMS),
        PairSpec::X25519 => edwards(curve::X25519_PARAMS),
    }
}

fn edwards(params: &'static [u8]) -> Facts {
    Facts::new().with_octets(A::EcParams, params).with_octets(A::EcPoint, curve::der_octet_string(&[5; 32]))
}

pub(crate) fn import_facts(draft: &Draft, material: &Template) -> Facts {
    let public = [A::Modulus, A::PublicExponent, A::EcParams, A::EcPoint];
    let known = public.into_iter().filter_map(|kind| Some((kind, material.octets(kind)?)));
    let facts = known.fold(Facts::new(), |facts, (kind, octets)| facts.with_octets(kind, octets));
    match (draft.class(), draft.key_type()) {
        (ObjectClass::SecretKey, Some(key_type)) => {
            let bytes = material.octets(A::Value).map_or(0, <[u8]>::len);
            let facts = facts.with_number(A::ValueLen, bytes as u64);
            if key_type == KeyType::Aes { facts.with_octets(A::CheckValue, [1, 2, 3]) } else { facts }
        }
        _ => facts,
    }
}

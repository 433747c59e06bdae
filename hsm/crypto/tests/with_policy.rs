//! The module together with the policy that makes its permits: a key's whole life, and permits that do not fit.
#![expect(clippy::unwrap_used, reason = "what cannot fail in a test may stop it")]

use std::sync::Arc;

use hsm_core::command::{CeremonyCertificates, Form, NewSession, Origin, Verifier};
use hsm_core::ids::AttemptId;
use hsm_core::permit::{BeDigested, Decrypt, Encrypt, Sign, Verify};
use hsm_core::request::Confirmation;
use hsm_core::{
    Action, Actor, ClusterId, Command, Disclosure, Effect, Epoch, Hsm, HsmId, Incarnation, Index, MemberKind,
    MemberRecord, Needs, NodeId, Object, ObjectUid, Refusal, Request, Response, SessionId, Stamp,
};
use hsm_crypto::{ClusterKeys, CryptoFault, Finished, Key, MasterKey, Module, Payload, Stream};
use hsm_protocol::mechanism::kdf;
use hsm_protocol::{
    AttributeKind as A, AttributeValue, ErrorCode, KeyType, Lifecycle, Mechanism, MechanismKind as M, ObjectClass,
    Parameters, Role, Template, UserName,
};

const NOW: Stamp = Stamp(1_000_000_000_000);
const SESSION: SessionId = SessionId([9; 16]);

/// A cluster with one crypto user logged in, and a module.
struct Bench {
    hsm: Hsm,
    actor: Actor,
    module: Arc<Module>,
    keys: ClusterKeys,
}

/// An object with its payload as the server keeps it.
struct Held {
    object: Object,
    payload: Option<Payload>,
}

impl Held {
    fn key(&self) -> Arc<Key> {
        Arc::new(Key::load(&self.object, self.payload.as_ref()).unwrap())
    }
}

fn act(hsm: &mut Hsm, index: &mut u64, session: Option<SessionId>, action: Action) -> Response {
    *index += 1;
    let origin = Origin { session, sequence: 0, lowest_unanswered: 0 };
    let applied = hsm.apply(Index(*index), &Command { stamp: NOW, origin, action });
    hsm.absorb(&applied.changes);
    let answer = applied.effects.into_iter().find_map(|effect| match effect {
        Effect::Respond(answer) => Some(answer),
        _ => None,
    });
    answer.unwrap().unwrap_or_else(|refusal| panic!("refused: {refusal}"))
}

fn log_in(hsm: &mut Hsm, index: &mut u64, name: &str, role: Role, session: SessionId) {
    let attempt = AttemptId(session.0);
    let name = UserName::new(name).unwrap();
    act(hsm, index, None, Action::ReserveAttempt { attempt, name, role });
    let session = NewSession { session, public_key: [7; 32], expires_at: Stamp(NOW.0 + 3_600_000) };
    act(hsm, index, None, Action::FinishLogin { attempt, session: Some(session) });
}

fn bench(fips: bool) -> Bench {
    let (mut hsm, mut index) = (Hsm::empty(), 0);
    let verifier = || Verifier(vec![1]);
    let form = Form {
        cluster: ClusterId([1; 16]),
        incarnation: Incarnation([2; 16]),
        fips,
        label: "bench".to_owned(),
        epoch: Epoch(1),
        lifecycle: Lifecycle::Uninitialized,
        activation: verifier(),
        sealed_activation_password: vec![1],
        sealed_cluster_key: vec![1],
        releases: hsm_core::ReleaseRule::default(),
        certificates: CeremonyCertificates::default(),
        node: NodeId(1),
        member: MemberRecord::alone(HsmId([1; 16]), MemberKind::Hsm),
    };
    let pem = || "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned();
    act(&mut hsm, &mut index, None, Action::Form(form));
    act(&mut hsm, &mut index, None, Action::InstallCertificate { certificate: pem(), trust_anchor: pem() });
    act(&mut hsm, &mut index, None, Action::Activate { verifier: verifier() });
    let admin = SessionId([8; 16]);
    log_in(&mut hsm, &mut index, "admin", Role::Admin, admin);
    let name = UserName::new("alice").unwrap();
    let create = Action::CreateUser { name, role: Role::CryptoUser, verifier: verifier() };
    act(&mut hsm, &mut index, Some(admin), create);
    log_in(&mut hsm, &mut index, "alice", Role::CryptoUser, SESSION);
    let actor = hsm.session(SESSION, NOW).unwrap().actor;
    let module = Module::start().unwrap();
    let keys = ClusterKeys::new(&MasterKey::generate(&module, Epoch(1)).unwrap(), ClusterId([1; 16])).unwrap();
    Bench { hsm, actor, module, keys }
}

impl Bench {
    fn uid(&self) -> ObjectUid {
        ObjectUid(self.module.random_bytes().unwrap())
    }

    fn needs(&self, request: Request<'_>) -> Result<Needs, Refusal> {
        self.hsm.needs(&self.actor, request)
    }

    /// Makes what a request asks for, and takes it through its seal.
    fn make(&self, request: Request<'_>) -> Result<Vec<Held>, Refusal> {
        let held = match self.needs(request)? {
            Needs::SecretKey { draft, bytes } => {
                let made = hsm_crypto::generate_secret(&self.module, &draft, bytes)?;
                vec![Held { object: draft.complete(made.facts, self.uid())?, payload: made.payload }]
            }
            Needs::KeyPair { public, private, pair } => {
                let made = hsm_crypto::generate_pair(&self.module, &pair)?;
                let public = Held { object: public.complete(made.public, self.uid())?, payload: None };
                let private = private.complete(made.private, self.uid())?;
                vec![public, Held { object: private, payload: Some(made.payload) }]
            }
            Needs::Import { draft, material } => {
                let made = hsm_crypto::import(&draft, &material)?;
                vec![Held { object: draft.complete(made.facts, self.uid())?, payload: made.payload }]
            }
            _ => panic!("needs something else"),
        };
        let through_seal = |held: Held| {
            let payload = held.payload.map(|payload| {
                let sealed = self.keys.seal_payload(&self.module, &held.object, &payload).unwrap();
                self.keys.open_payload(&held.object, &sealed).unwrap()
            });
            Held { object: held.object, payload }
        };
        Ok(held.into_iter().map(through_seal).collect())
    }

    fn pair(&self, kind: M, public: Template, private: Template) -> (Held, Held) {
        let mechanism = Mechanism::plain(kind);
        let request =
            Request::GenerateKeyPair { mechanism: &mechanism, public_template: &public, private_template: &private };
        let mut made = self.make(request).unwrap_or_else(|refusal| panic!("refused: {refusal}")).into_iter();
        (made.next().unwrap(), made.next().unwrap())
    }

    fn p256(&self) -> (Held, Held) {
        let params = hsm_core::Curve::P256.params();
        self.pair(M::EC_KEY_PAIR_GEN, Template::new().with_octets(A::EcParams, params), Template::new())
    }

    fn secret(&self, key_type: KeyType, value: &[u8]) -> Held {
        let template = Template::new()
            .with_number(A::Class, ObjectClass::SecretKey as u64)
            .with_number(A::KeyType, key_type as u64)
            .with_flag(A::Sensitive, false)
            .with_flag(A::Extractable, true)
            .with_octets(A::Value, value);
        let flags = [A::Sign, A::Verify, A::Encrypt, A::Decrypt, A::Wrap, A::Unwrap, A::Derive];
        let template = flags.into_iter().fold(template, |template, flag| template.with_flag(flag, true));
        let made = self.make(Request::CreateObject { template: &template });
        made.unwrap_or_else(|refusal| panic!("refused: {refusal}")).remove(0)
    }

    fn permit<U: hsm_core::permit::KeyUse>(&self, held: &Held, mechanism: &Mechanism) -> hsm_core::Permit<U> {
        self.hsm.authorize(&self.actor, &held.object, mechanism, Confirmation::None).unwrap()
    }
}

#[test]
fn a_pair_is_made_sealed_loaded_and_signs() {
    let bench = bench(false);
    let (public, private) = bench.p256();
    let mechanism = Mechanism::plain(M::ECDSA_SHA256);
    let permit = bench.permit::<Sign>(&private, &mechanism);
    let signature = hsm_crypto::sign(&bench.module, permit, &private.key(), &mechanism, b"data").unwrap();
    let permit = bench.permit::<Verify>(&public, &mechanism);
    hsm_crypto::verify(&bench.module, permit, &public.key(), &mechanism, b"data", &signature).unwrap();

    let permit = bench.permit::<Sign>(&private, &mechanism);
    let mut stream = Stream::sign(&bench.module, permit, &private.key(), mechanism.clone()).unwrap();
    stream.update(b"da").unwrap();
    stream.update(b"ta").unwrap();
    let Finished::Data(signature) = stream.finish(None).unwrap() else { panic!("a signature is data") };
    let permit = bench.permit::<Verify>(&public, &mechanism);
    let mut stream = Stream::verify(&bench.module, permit, &public.key(), mechanism).unwrap();
    stream.update(b"data").unwrap();
    assert!(matches!(stream.finish(Some(&signature)), Ok(Finished::Verified)));
}

#[test]
fn a_permit_is_good_for_its_key_and_mechanism_only() {
    let bench = bench(false);
    let (_, mine) = bench.p256();
    let (_, other) = bench.p256();
    let (plain, hashed) = (Mechanism::plain(M::ECDSA), Mechanism::plain(M::ECDSA_SHA256));
    let refused = |key: &Held, permitted: &Mechanism, used: &Mechanism| {
        let permit = bench.permit::<Sign>(&mine, permitted);
        hsm_crypto::sign(&bench.module, permit, &key.key(), used, &[1; 32]).err()
    };
    assert_eq!(refused(&mine, &plain, &plain), None);
    assert_eq!(refused(&other, &plain, &plain), Some(CryptoFault::PermitMismatch));
    assert_eq!(refused(&mine, &plain, &hashed), Some(CryptoFault::PermitMismatch));
    assert_eq!(CryptoFault::PermitMismatch.code(), ErrorCode::CryptoFailed);
}

#[test]
fn rsa_keys_of_the_smallest_size_and_ed25519_and_x25519_are_made() {
    let bench = bench(false);
    let rsa = Template::new().with_number(A::ModulusBits, 2048).with_octets(A::PublicExponent, [1, 0, 1]);
    let (public, _) = bench.pair(M::RSA_PKCS_KEY_PAIR_GEN, rsa, Template::new());
    assert_eq!(public.object.octets(A::Modulus).unwrap().len(), 256);
    for (kind, params) in [
        (M::EC_EDWARDS_KEY_PAIR_GEN, hsm_core::curve::ED25519_PARAMS),
        (M::EC_MONTGOMERY_KEY_PAIR_GEN, hsm_core::curve::X25519_PARAMS),
    ] {
        let (public, _) = bench.pair(kind, Template::new().with_octets(A::EcParams, params), Template::new());
        assert_eq!(public.object.octets(A::EcPoint).unwrap().len(), 34);
    }
}

#[test]
fn a_value_that_may_be_told_comes_out_of_the_payload() {
    let bench = bench(false);
    let key = bench.secret(KeyType::GenericSecret, b"some value");
    let mut answers = bench.hsm.disclose(&bench.actor, &key.object, &[A::Value]);
    let Some(Disclosure::FromPayload(permit, kind)) = answers.pop() else { panic!("the value is in the payload") };
    let told = hsm_crypto::disclose(permit, &key.object, key.payload.as_ref().unwrap(), kind).unwrap();
    assert!(told == Some(AttributeValue::Octets(b"some value".to_vec())));

    let other = bench.secret(KeyType::GenericSecret, b"another");
    let mut answers = bench.hsm.disclose(&bench.actor, &key.object, &[A::Value]);
    let Some(Disclosure::FromPayload(permit, kind)) = answers.pop() else { panic!("the value is in the payload") };
    let refused = hsm_crypto::disclose(permit, &other.object, other.payload.as_ref().unwrap(), kind);
    assert!(matches!(refused, Err(CryptoFault::PermitMismatch)));
}

#[test]
fn a_secret_key_travels_and_a_shared_one_is_derived() {
    let bench = bench(false);
    let wrapping = bench.secret(KeyType::Aes, &[3; 32]);
    let travelling = bench.secret(KeyType::GenericSecret, b"seven b");
    let mechanism = Mechanism::plain(M::AES_KEY_WRAP_PAD);
    let permits = bench.hsm.authorize_wrap(&bench.actor, &wrapping.object, &travelling.object, &mechanism).unwrap();
    let payload = travelling.payload.as_ref().unwrap();
    let wrapped =
        hsm_crypto::wrap(&bench.module, permits, &wrapping.key(), &mechanism, &travelling.object, payload).unwrap();
    let template = Template::new()
        .with_number(A::Class, ObjectClass::SecretKey as u64)
        .with_number(A::KeyType, KeyType::GenericSecret as u64);
    let request = Request::UnwrapKey {
        mechanism: &mechanism,
        unwrapping_key: &wrapping.object,
        template: &template,
        confirmation: Confirmation::None,
    };
    let Needs::Unwrap { draft, permit, length } = bench.needs(request).unwrap() else { panic!("unwraps") };
    let key = wrapping.key();
    let made = hsm_crypto::unwrap(&bench.module, permit, &key, &mechanism, &wrapped.data, &draft, length).unwrap();
    let object = draft.complete(made.facts, bench.uid()).unwrap();
    assert_eq!(object.octets(A::CheckValue), travelling.object.octets(A::CheckValue));

    let derives = || Template::new().with_flag(A::Derive, true);
    let params = hsm_core::Curve::P256.params();
    let public = || Template::new().with_octets(A::EcParams, params);
    let (public_one, one) = bench.pair(M::EC_KEY_PAIR_GEN, public(), derives());
    let (public_two, two) = bench.pair(M::EC_KEY_PAIR_GEN, public(), derives());
    let derive = |mine: &Held, theirs: &Held| {
        let public_data = theirs.object.octets(A::EcPoint).unwrap().to_vec();
        let parameters = Parameters::Ecdh { kdf: kdf::SHA256, shared_data: vec![], public_data };
        let mechanism = Mechanism { kind: M::ECDH1_DERIVE, parameters };
        let template = template.clone().with_number(A::KeyType, KeyType::Aes as u64).with_number(A::ValueLen, 32);
        let request = Request::DeriveKey {
            mechanism: &mechanism,
            base_key: &mine.object,
            second: None,
            template: &template,
            confirmation: Confirmation::None,
        };
        let Needs::Derive { draft, permit, length, .. } = bench.needs(request).unwrap() else { panic!("derives") };
        let made = hsm_crypto::derive(&bench.module, permit, &mine.key(), None, &mechanism, &draft, length).unwrap();
        draft.complete(made.facts, bench.uid()).unwrap().octets(A::CheckValue).unwrap().to_vec()
    };
    assert_eq!(derive(&one, &public_two), derive(&two, &public_one));
}

#[test]
fn a_key_of_no_octets_makes_an_hmac() {
    let bench = bench(false);
    let key = bench.secret(KeyType::GenericSecret, b"");
    let mechanism = Mechanism::plain(M::SHA256_HMAC);
    let permit = bench.permit::<Sign>(&key, &mechanism);
    let mac = hsm_crypto::sign(&bench.module, permit, &key.key(), &mechanism, b"").unwrap();
    // HMAC-SHA-256 of nothing under nothing, by OpenSSL.
    assert_eq!(hex::encode(mac), "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad");
}

#[test]
fn a_key_is_the_input_of_a_digest() {
    let bench = bench(false);
    let key = bench.secret(KeyType::GenericSecret, b"abc");
    let mechanism = Mechanism::plain(M::SHA256);
    let mut stream = Stream::digest(&mechanism).unwrap();
    stream.update_with_key(bench.permit::<BeDigested>(&key, &mechanism), &key.key()).unwrap();
    let Finished::Data(digest) = stream.finish(None).unwrap() else { panic!("a digest is data") };
    assert_eq!(digest, hsm_crypto::digest(&mechanism, b"abc").unwrap());
}

#[test]
fn mode_fips_makes_the_iv_itself() {
    let bench = bench(true);
    let mechanism = Mechanism::plain(M::AES_KEY_GEN);
    let template = Template::new().with_number(A::ValueLen, 32).with_flag(A::Encrypt, true).with_flag(A::Decrypt, true);
    let key = bench.make(Request::GenerateKey { mechanism: &mechanism, template: &template }).unwrap().remove(0);
    let gcm = |iv: Vec<u8>, generate_iv| {
        let parameters = Parameters::Gcm { iv, additional_data: vec![], tag_bits: 128, generate_iv };
        Mechanism { kind: M::AES_GCM, parameters }
    };
    let chosen = gcm(vec![1; 12], false);
    let refused = bench.hsm.authorize::<Encrypt>(&bench.actor, &key.object, &chosen, Confirmation::None);
    assert_eq!(refused.err().unwrap().code, ErrorCode::FipsRefused);
    let made = gcm(vec![], true);
    let permit = bench.permit::<Encrypt>(&key, &made);
    let encrypted = hsm_crypto::encrypt(&bench.module, permit, &key.key(), &made, b"data").unwrap();
    let again = gcm(encrypted.iv.unwrap(), false);
    let permit = bench.permit::<Decrypt>(&key, &again);
    let opened = hsm_crypto::decrypt(&bench.module, permit, &key.key(), &again, &encrypted.data).unwrap();
    assert_eq!(opened.as_slice(), b"data");
}

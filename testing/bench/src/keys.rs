//! Keys for the workloads, many keys, and what finding one among them and logging in beside them costs.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};
use conformance::module::{Attribute, Module, Session};
use cryptoki_sys::{
    CK_OBJECT_CLASS, CK_OBJECT_HANDLE, CK_SLOT_ID, CKA_CLASS, CKA_DECRYPT, CKA_EC_PARAMS, CKA_ENCRYPT, CKA_LABEL,
    CKA_MODULUS_BITS, CKA_PUBLIC_EXPONENT, CKA_SIGN, CKA_TOKEN, CKA_VALUE_LEN, CKA_VERIFY, CKM_AES_KEY_GEN,
    CKM_EC_KEY_PAIR_GEN, CKM_RSA_PKCS_KEY_PAIR_GEN, CKO_PRIVATE_KEY, CKO_SECRET_KEY, CKU_USER,
};

use crate::Length;
use crate::load::{Operation, measure};

/// DER of the object identifier of P-256.
const P256: &[u8] = &[0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07];

/// Threads that destroy what was made: each destruction waits until every HSM knows of it.
const TIDIERS: usize = 64;

/// Label of keys that nobody looks for.
pub(crate) const MADE: &str = "bench-made";

/// A token as an application has it.
pub(crate) struct Token {
    module: Arc<Module>,
    slot: CK_SLOT_ID,
    pin: String,
}

impl Token {
    /// The one that the environment names.
    pub(crate) fn from_environment() -> Result<Self> {
        let variable = |name: &str| std::env::var(name).with_context(|| format!("{name} is not set"));
        let module = Module::load(&PathBuf::from(variable("P11_MODULE")?)).map_err(|error| anyhow!(error))?;
        let slot = module.slot(&variable("P11_TOKEN_LABEL")?).map_err(|error| anyhow!(error))?;
        Ok(Self { module, slot, pin: variable("P11_PIN")? })
    }

    /// A session, and this process's login.
    pub(crate) fn logged_in(&self) -> Result<Session> {
        let session = self.session()?;
        session.log_in(CKU_USER, &self.pin)?;
        Ok(session)
    }

    /// A further session.
    pub(crate) fn session(&self) -> Result<Session> {
        Ok(self.module.open(self.slot)?)
    }
}

/// The one object of a class with a label.
pub(crate) fn find_one(session: &Session, class: CK_OBJECT_CLASS, label: &str) -> Result<CK_OBJECT_HANDLE> {
    let found = session.find(&[Attribute::number(CKA_CLASS, class), Attribute::octets(CKA_LABEL, label)])?;
    found.first().copied().with_context(|| format!("there is no {label}; run `prepare` first"))
}

/// Makes the keys of the workloads.
pub(crate) fn prepare() -> Result<()> {
    let token = Token::from_environment()?;
    let session = token.logged_in()?;
    let named = |label: &str| [Attribute::flag(CKA_TOKEN, true), Attribute::octets(CKA_LABEL, label)];
    let signs =
        |label: &str| Vec::from(named(label)).into_iter().chain([Attribute::flag(CKA_SIGN, true)]).collect::<Vec<_>>();
    if find_one(&session, CKO_PRIVATE_KEY, "bench-p256").is_err() {
        let mut public = Vec::from(named("bench-p256"));
        public.extend([Attribute::flag(CKA_VERIFY, true), Attribute::octets(CKA_EC_PARAMS, P256)]);
        session.generate_pair(CKM_EC_KEY_PAIR_GEN, &public, &signs("bench-p256"))?;
    }
    if find_one(&session, CKO_PRIVATE_KEY, "bench-rsa2048").is_err() {
        let mut public = Vec::from(named("bench-rsa2048"));
        public.extend([
            Attribute::flag(CKA_VERIFY, true),
            Attribute::number(CKA_MODULUS_BITS, 2048),
            Attribute::octets(CKA_PUBLIC_EXPONENT, [1, 0, 1]),
        ]);
        session.generate_pair(CKM_RSA_PKCS_KEY_PAIR_GEN, &public, &signs("bench-rsa2048"))?;
    }
    if find_one(&session, CKO_SECRET_KEY, "bench-aes").is_err() {
        let mut template = Vec::from(named("bench-aes"));
        template.extend([
            Attribute::flag(CKA_ENCRYPT, true),
            Attribute::flag(CKA_DECRYPT, true),
            Attribute::number(CKA_VALUE_LEN, 32),
        ]);
        session.generate_key(CKM_AES_KEY_GEN, &template)?;
    }
    Ok(())
}

fn filler(number: usize) -> String {
    format!("bench-filler-{number}")
}

/// Makes token keys until there are so many of them, and prints how many it made and how long that took.
pub(crate) fn fill(count: usize, threads: usize) -> Result<()> {
    let token = Token::from_environment()?;
    let login = token.logged_in()?;
    let present = present(&login, count)?;
    let began = Instant::now();
    side_by_side(&token, threads, present..count, |session, number| make_one(session, &filler(number)).map(drop))?;
    println!("{{\"keys\":{},\"seconds\":{:.6}}}", count - present, began.elapsed().as_secs_f64());
    Ok(())
}

/// How many of the keys of `fill` there are: they are made in order, but for the last ones of each thread.
fn present(login: &Session, count: usize) -> Result<usize> {
    let (mut there, mut missing) = (0, count);
    while there < missing {
        let middle = there.midpoint(missing);
        if login.find(&[Attribute::octets(CKA_LABEL, filler(middle))])?.is_empty() {
            missing = middle;
        } else {
            there = middle + 1;
        }
    }
    Ok(there)
}

/// Does something for each number, by so many threads with a session each.
fn side_by_side(
    token: &Token,
    threads: usize,
    numbers: Range<usize>,
    act: impl Fn(&Session, usize) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(numbers.start);
    std::thread::scope(|scope| {
        let worker = || -> Result<()> {
            let session = token.session()?;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= numbers.end {
                    return Ok(());
                }
                act(&session, number)?;
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
    })
}

/// Makes an AES-256 key on the token.
pub(crate) fn make_one(session: &Session, label: &str) -> Result<CK_OBJECT_HANDLE> {
    let template =
        [Attribute::flag(CKA_TOKEN, true), Attribute::octets(CKA_LABEL, label), Attribute::number(CKA_VALUE_LEN, 32)];
    Ok(session.generate_key(CKM_AES_KEY_GEN, &template)?)
}

/// Makes durable keys, each acknowledged before the next; `tidy` destroys them afterwards.
pub(crate) fn make(threads: usize, tidy: bool, length: &Length) -> Result<()> {
    let token = Token::from_environment()?;
    let _login = token.logged_in()?;
    let made = Mutex::new(Vec::new());
    let mut operations: Vec<Operation<'_>> = Vec::new();
    for _ in 0..threads {
        let (session, made) = (token.session()?, &made);
        operations.push(Box::new(move || {
            let key = make_one(&session, MADE)?;
            made.lock().unwrap_or_else(PoisonError::into_inner).push(key);
            Ok(())
        }));
    }
    measure(operations, length)?;
    let made = made.into_inner().unwrap_or_else(PoisonError::into_inner);
    let many = if tidy { 0..made.len() } else { 0..0 };
    side_by_side(&token, TIDIERS, many, |session, number| Ok(session.destroy(made[number])?))
}

/// Searches by label, the labels in turn.
pub(crate) fn find(length: &Length) -> Result<()> {
    let token = Token::from_environment()?;
    let session = token.logged_in()?;
    let mut number = 0;
    let operation: Operation<'_> = Box::new(move || {
        number = (number + 37) % 100;
        match session.find(&[Attribute::octets(CKA_LABEL, filler(number))])?.len() {
            1 => Ok(()),
            found => bail!("{found} keys have the label {}", filler(number)),
        }
    });
    measure(vec![operation], length)
}

/// Logs in and out.
pub(crate) fn login(length: &Length) -> Result<()> {
    let token = Token::from_environment()?;
    let session = token.session()?;
    let operation: Operation<'_> = Box::new(|| {
        session.log_in(CKU_USER, &token.pin)?;
        Ok(session.log_out()?)
    });
    measure(vec![operation], length)
}

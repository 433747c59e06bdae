//! The workloads on a PKCS#11 module: exactly `C_…Init` and one call for each operation, a session for each thread.

use anyhow::Result;
use conformance::module::{Mechanism, Session};
use cryptoki_sys::{CK_OBJECT_HANDLE, CKM_ECDSA, CKM_SHA256_RSA_PKCS, CKO_PRIVATE_KEY, CKO_SECRET_KEY};

use crate::keys::{Token, find_one};
use crate::load::{Operation, measure};
use crate::{Length, Workload};

/// What is signed.
pub(crate) const DATA: [u8; 32] = [3; 32];

/// Bytes that are encrypted.
pub(crate) const GCM_BYTES: usize = 1024;

/// Runs one.
pub(crate) fn run(workload: Workload, threads: usize, length: &Length) -> Result<()> {
    let token = Token::from_environment()?;
    let login = token.logged_in()?;
    let (class, label) = match workload {
        Workload::P256 => (CKO_PRIVATE_KEY, "bench-p256"),
        Workload::Rsa2048 => (CKO_PRIVATE_KEY, "bench-rsa2048"),
        Workload::Gcm => (CKO_SECRET_KEY, "bench-aes"),
    };
    let key = find_one(&login, class, label)?;
    let mut operations = Vec::new();
    for _ in 0..threads {
        operations.push(operation(workload, token.session()?, key));
    }
    measure(operations, length)
}

fn operation<'a>(workload: Workload, session: Session, key: CK_OBJECT_HANDLE) -> Operation<'a> {
    let mut out = vec![0; GCM_BYTES + 16];
    match workload {
        Workload::P256 | Workload::Rsa2048 => {
            let kind = if workload == Workload::P256 { CKM_ECDSA } else { CKM_SHA256_RSA_PKCS };
            let mechanism = Mechanism::Plain(kind);
            Box::new(move || Ok(session.sign(&mechanism, key, &DATA, &mut out).map(drop)?))
        }
        Workload::Gcm => {
            let (mechanism, data) = (Mechanism::Gcm(vec![7; 12]), vec![0; GCM_BYTES]);
            Box::new(move || Ok(session.encrypt(&mechanism, key, &data, &mut out).map(drop)?))
        }
    }
}

//! The cryptographic module of an HSM: mechanisms, secret memory, sealing, randomness, self-tests.
//!
//! What uses a key demands a [`Permit`](hsm_core::Permit), which only `hsm-core`'s policy can make; what is stored or
//! handed to a client leaves sealed ([`ClusterKeys`]); what is drawn at random comes from the [`Module`], which tests
//! itself before it serves. Key material goes out in two ways only: wrapped, or by [`disclose`], both under a permit.
//!
//! It must not decide policy, keep state, talk to a network or log. Below it are `hsm-core` and `hsm-protocol`;
//! `hsm-replication` seals its rows with [`StorageKey`], `hsm-server` does the rest. Foreign code is called in `wide/`
//! only, and system calls for memory in `secret/`.

mod fault;
mod key;
mod mechanism;
mod module;
mod node_proof;
mod operation;
pub mod password;
mod payload;
mod random;
pub mod release_proof;
mod sealing;
#[expect(unsafe_code, reason = "mapping, locking and wiping pages is system calls")]
mod secret;
mod self_test;
mod session_proof;
mod stream;
#[cfg(test)]
mod tests;
#[expect(unsafe_code, reason = "the C interface of AWS-LC")]
mod wide;

pub use fault::{CryptoFault, SealBroken, SelfTestFailure};
pub use key::Key;
pub use key::make::{Made, MadePair, generate_pair, generate_secret, import, is_slow_pair};
pub use mechanism::Encrypted;
pub use module::Module;
pub use node_proof::verify_node_proof;
pub use operation::{decrypt, derive, digest, encrypt, sign, sign_recover, unwrap, verify, verify_recover, wrap};
pub use payload::{Payload, disclose};
pub use random::{NoiseSource, SystemNoise};
pub use sealing::{
    ClusterKeys, Handover, KeyRing, MasterKey, Opened, RootFault, RootOfTrust, RowSum, SealingPair, StorageKey,
    TokenClaims,
};
pub use secret::{MemoryKind, SecretBytes};
pub use session_proof::verify_session_proof;
pub use stream::{Finished, Stream};

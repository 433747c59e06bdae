//! The workloads on aws-lc-rs in this process: what the HSM could do if reaching it cost nothing.

use anyhow::{Result, anyhow};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};

use crate::load::{Operation, measure};
use crate::token::{DATA, GCM_BYTES};
use crate::{Length, Workload};

/// Runs one.
pub(crate) fn run(workload: Workload, threads: usize, length: &Length) -> Result<()> {
    match workload {
        Workload::P256 => {
            let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| anyhow!("no key"))?;
            let random = SystemRandom::new();
            let operation = || -> Operation<'_> {
                Box::new(|| key.sign(&random, &DATA).map(drop).map_err(|_| anyhow!("no signature")))
            };
            measure((0..threads).map(|_| operation()).collect(), length)
        }
        Workload::Rsa2048 => {
            let key = RsaKeyPair::generate(KeySize::Rsa2048).map_err(|_| anyhow!("no key"))?;
            let (random, bytes) = (SystemRandom::new(), key.public_modulus_len());
            let operation = || -> Operation<'_> {
                let mut out = vec![0; bytes];
                let (key, random) = (&key, &random);
                Box::new(move || {
                    key.sign(&RSA_PKCS1_SHA256, random, &DATA, &mut out).map_err(|_| anyhow!("no signature"))
                })
            };
            debug_assert!(!key.public_key().as_ref().is_empty());
            measure((0..threads).map(|_| operation()).collect(), length)
        }
        Workload::Gcm => {
            let key = UnboundKey::new(&AES_256_GCM, &[5; 32]).map(LessSafeKey::new).map_err(|_| anyhow!("no key"))?;
            let operation = || -> Operation<'_> {
                let (key, mut buffer) = (&key, vec![0; GCM_BYTES]);
                Box::new(move || {
                    let nonce = Nonce::assume_unique_for_key([7; 12]);
                    let sealed = key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut buffer);
                    sealed.map(drop).map_err(|_| anyhow!("nothing sealed"))
                })
            };
            measure((0..threads).map(|_| operation()).collect(), length)
        }
    }
}

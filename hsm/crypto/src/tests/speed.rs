//! How much of the bare library's speed is left: `cargo test --release -p hsm-crypto -- --ignored --nocapture speed`.

use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use hsm_core::curve::Curve;
use hsm_protocol::{KeyType, Mechanism, MechanismKind as M, Parameters};

use super::keys::{self, encrypt, module, secret, sign};
use crate::key::exported;

/// Operations per second of the faster of several runs, the two sides by turns.
fn compare(name: &str, ours: &dyn Fn(), bare: &dyn Fn()) -> f64 {
    let rate = |work: &dyn Fn()| {
        let begin = Instant::now();
        let mut done = 0_u32;
        while begin.elapsed() < Duration::from_millis(200) {
            (0..8).for_each(|_| work());
            done += 8;
        }
        f64::from(done) / begin.elapsed().as_secs_f64()
    };
    let (mut best_ours, mut best_bare) = (0.0_f64, 0.0_f64);
    for _ in 0..7 {
        best_ours = best_ours.max(rate(ours));
        best_bare = best_bare.max(rate(bare));
    }
    println!("{name}: {best_ours:.0}/s here, {best_bare:.0}/s bare, ratio {:.3}", best_ours / best_bare);
    best_ours / best_bare
}

#[test]
#[ignore = "measures; needs a quiet machine"]
fn speed_of_signing_is_that_of_the_bare_library() {
    let pair = keys::curve(Curve::P256);
    let info = exported(&pair.private_object, &pair.payload).unwrap();
    let bare = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, info.expose()).unwrap();
    let random = SystemRandom::new();
    let mechanism = Mechanism::plain(M::ECDSA_SHA256);
    let ours = || assert!(sign(&pair.private, &mechanism, &[1; 32]).is_ok());
    let ratio = compare("P-256", &ours, &|| assert!(bare.sign(&random, &[1; 32]).is_ok()));
    assert!(ratio > 0.95);

    let pair = keys::rsa();
    let info = exported(&pair.private_object, &pair.payload).unwrap();
    let bare = RsaKeyPair::from_pkcs8(info.expose()).unwrap();
    let mechanism = Mechanism::plain(M::SHA256_RSA_PKCS);
    let ours = || assert!(sign(&pair.private, &mechanism, &[1; 32]).is_ok());
    let theirs = || assert!(bare.sign(&RSA_PKCS1_SHA256, &random, &[1; 32], &mut [0; 256]).is_ok());
    let ratio = compare("RSA-2048", &ours, &theirs);
    assert!(ratio > 0.95);
}

#[test]
#[ignore = "measures; needs a quiet machine"]
fn speed_of_aes_gcm_and_random_bytes() {
    use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
    let key = secret(KeyType::Aes, &[1; 32]);
    let bare = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[1; 32]).unwrap());
    let gcm = Parameters::Gcm { iv: vec![1; 12], additional_data: vec![], tag_bits: 128, generate_iv: false };
    let mechanism = Mechanism { kind: M::AES_GCM, parameters: gcm };
    let theirs = || {
        let mut data = vec![7; 1024];
        let nonce = Nonce::assume_unique_for_key([1; 12]);
        assert!(bare.seal_in_place_append_tag(nonce, Aad::empty(), &mut data).is_ok());
    };
    compare("AES-256-GCM 1 KiB", &|| assert!(encrypt(&key, &mechanism, &[7; 1024]).is_ok()), &theirs);
    let ours = || assert!(module().random(&mut [0; 32]).is_ok());
    compare("32 random bytes", &ours, &|| assert!(aws_lc_rs::rand::fill(&mut [0; 32]).is_ok()));
}

//! RSA, ECDSA and ECDH on each curve, Ed25519, X25519.

use hsm_core::curve::Curve;

use super::{Case, Test};
use crate::key::curve::CurveKey;
use crate::secret::SecretBytes;
use crate::wide::edwards::{self, Scheme, SigningKey};
use crate::wide::rsa::{Padding, RsaNumbers};
use crate::wide::{Failed, Hash, Rsa};

pub(super) const TESTS: &[Test] = &[
    ("RSA", rsa),
    ("P-256", || curve(Curve::P256, &Case::new(include_str!("../../testdata/ec_p256.txt")))),
    ("P-384", || curve(Curve::P384, &Case::new(include_str!("../../testdata/ec_p384.txt")))),
    ("P-521", || curve(Curve::P521, &Case::new(include_str!("../../testdata/ec_p521.txt")))),
    ("secp256k1", || curve(Curve::Secp256k1, &Case::new(include_str!("../../testdata/ec_secp256k1.txt")))),
    ("Ed25519", ed25519),
    ("X25519", x25519),
];

fn rsa() -> Result<bool, Failed> {
    const CASE: Case = Case::new(include_str!("../../testdata/rsa_2048.txt"));
    let number = |name| CASE.bytes(name).map(SecretBytes::from);
    let numbers = RsaNumbers {
        n: number("n")?,
        e: number("e")?,
        d: number("d")?,
        p: number("p")?,
        q: number("q")?,
        dp: number("dp")?,
        dq: number("dq")?,
        qi: number("qi")?,
    };
    let key = Rsa::from_numbers(&numbers)?;
    let message = CASE.bytes("message")?;
    let digest = Hash::Sha256.digest(&message)?;
    // DigestInfo of SHA-256: RFC 8017 §9.2 note 1.
    let mut info = CASE.bytes("digest_info")?;
    info.extend_from_slice(&digest);
    let signature = CASE.bytes("signature_pkcs1")?;
    let opened = key.decrypt_oaep(Hash::Sha256, Hash::Sha1, &CASE.bytes("label")?, &CASE.bytes("ciphertext_oaep")?)?;
    Ok(key.sign(Padding::Pkcs1, &info)? == signature
        && key.recover(Padding::Pkcs1, &signature)? == info
        && key.verify_pss(Hash::Sha256, Hash::Sha384, 20, &digest, &CASE.bytes("signature_pss")?)
        && *opened == message)
}

fn curve(curve: Curve, case: &Case) -> Result<bool, Failed> {
    let known = |_| Failed;
    let (digest, signature) = (case.bytes("digest")?, case.bytes("signature")?);
    let private = CurveKey::from_scalar(curve, &case.bytes("private")?).map_err(known)?;
    let public = CurveKey::from_point(curve, &case.bytes("point")?).map_err(known)?;
    let mut wrong = digest.clone();
    wrong[0] ^= 1;
    let made = private.sign(&digest).map_err(known)?;
    Ok(private.point().map_err(known)? == case.bytes("point")?
        && public.verify(&digest, &signature).is_ok()
        && public.verify(&wrong, &signature).is_err()
        && public.verify(&digest, &made).is_ok()
        && private.agree(&case.bytes("peer")?).map_err(known)?.expose() == case.bytes("shared")?)
}

fn ed25519() -> Result<bool, Failed> {
    const CASE: Case = Case::new(include_str!("../../testdata/ed25519.txt"));
    let key = SigningKey::from_seed(&CASE.array("seed")?);
    let (message, signature) = (CASE.bytes("message")?, CASE.array("signature")?);
    Ok(key.public() == CASE.bytes("public")?
        && key.sign(Scheme::Pure, &message)? == signature
        && edwards::verify(Scheme::Pure, &CASE.array("public")?, &message, &signature)
        && !edwards::verify(Scheme::Pure, &CASE.array("public")?, b"", &signature))
}

fn x25519() -> Result<bool, Failed> {
    const CASE: Case = Case::new(include_str!("../../testdata/x25519.txt"));
    let private = CASE.array("private")?;
    Ok(edwards::x25519_public(&private) == CASE.array("public")?
        && edwards::x25519(&private, &CASE.array("peer")?)?.expose() == CASE.bytes("shared")?)
}

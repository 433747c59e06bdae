//! Keys in DER: SubjectPublicKeyInfo (RFC 5280 §4.1.2.7) and PKCS#8 PrivateKeyInfo (RFC 5208, RFC 8410).

use aws_lc_sys as c;

use super::edwards;
use super::elliptic::EcKey;
use super::owned::Owned;
use super::rsa::Rsa;
use super::{Failed, check, failed};
use crate::secret::SecretBytes;

/// A key to write, or one that was read.
pub(crate) enum ParsedKey {
    /// RSA.
    Rsa(Rsa),
    /// A curve in Weierstrass form.
    Ec(EcKey),
    /// The seed of an Ed25519 key.
    Ed25519(SecretBytes),
    /// An X25519 private key.
    X25519(SecretBytes),
}

/// A public key to write.
pub(crate) enum PublicKey<'a> {
    /// RSA.
    Rsa(&'a Rsa),
    /// A curve in Weierstrass form.
    Ec(&'a EcKey),
    /// Ed25519.
    Ed25519(&'a [u8]),
    /// X25519.
    X25519(&'a [u8]),
}

/// SubjectPublicKeyInfo of a key (of its public part, when it is private).
pub(crate) fn public_info(key: &PublicKey<'_>) -> Result<Vec<u8>, Failed> {
    let raw = |kind, bytes: &[u8]| {
        // SAFETY: the slice is live and is copied; the object is fresh.
        unsafe { Owned::take(c::EVP_PKEY_new_raw_public_key(kind, std::ptr::null_mut(), bytes.as_ptr(), bytes.len())) }
    };
    let info = match key {
        PublicKey::Rsa(rsa) => write(c::EVP_marshal_public_key, rsa.key()),
        PublicKey::Ec(key) => write(c::EVP_marshal_public_key, wrapped(key)?.pointer()),
        PublicKey::Ed25519(bytes) => write(c::EVP_marshal_public_key, raw(c::EVP_PKEY_ED25519, bytes)?.pointer()),
        PublicKey::X25519(bytes) => write(c::EVP_marshal_public_key, raw(c::EVP_PKEY_X25519, bytes)?.pointer()),
    };
    Ok(info?.expose().to_vec())
}

/// PKCS#8 of a private key.
pub(crate) fn private_info(key: &ParsedKey) -> Result<SecretBytes, Failed> {
    let raw = |kind, secret: &SecretBytes| {
        let bytes = secret.expose();
        // SAFETY: the slice is live and is copied; the object is fresh.
        unsafe { Owned::take(c::EVP_PKEY_new_raw_private_key(kind, std::ptr::null_mut(), bytes.as_ptr(), bytes.len())) }
    };
    match key {
        ParsedKey::Rsa(rsa) => write(c::EVP_marshal_private_key, rsa.key()),
        ParsedKey::Ec(key) => write(c::EVP_marshal_private_key, wrapped(key)?.pointer()),
        ParsedKey::Ed25519(seed) => write(c::EVP_marshal_private_key, raw(c::EVP_PKEY_ED25519, seed)?.pointer()),
        ParsedKey::X25519(key) => write(c::EVP_marshal_private_key, raw(c::EVP_PKEY_X25519, key)?.pointer()),
    }
}

/// Reads PKCS#8. Nothing may follow it, except zeros up to one AES block, which CBC without padding leaves behind.
pub(crate) fn parse_private_info(bytes: &[u8]) -> Result<ParsedKey, Failed> {
    const MOST_PADDING: usize = 15;
    // SAFETY: CBS is a pointer and a length into a live slice; parsing returns a fresh object.
    let (key, rest) = unsafe {
        let mut input: c::CBS = std::mem::zeroed();
        c::CBS_init(&raw mut input, bytes.as_ptr(), bytes.len());
        let key = Owned::take(c::EVP_parse_private_key(&raw mut input))?;
        (key, c::CBS_len(&raw const input))
    };
    let trailing = &bytes[bytes.len() - rest..];
    if trailing.len() > MOST_PADDING || trailing.iter().any(|&byte| byte != 0) {
        return Err(Failed);
    }
    // SAFETY: the key is live.
    match unsafe { c::EVP_PKEY_id(key.pointer()) } {
        c::EVP_PKEY_RSA => Rsa::from_key(key).map(ParsedKey::Rsa),
        c::EVP_PKEY_EC => {
            // SAFETY: the key is live and an EC key; `get1` gives a reference of our own.
            let key = unsafe { Owned::take(c::EVP_PKEY_get1_EC_KEY(key.pointer())) }?;
            EcKey::adopt(key).map(ParsedKey::Ec)
        }
        c::EVP_PKEY_ED25519 => raw_private(&key).map(ParsedKey::Ed25519),
        c::EVP_PKEY_X25519 => raw_private(&key).map(ParsedKey::X25519),
        _ => Err(Failed),
    }
}

fn raw_private(key: &Owned<c::EVP_PKEY>) -> Result<SecretBytes, Failed> {
    let mut secret = SecretBytes::zeros(edwards::KEY);
    let mut length = secret.len();
    // SAFETY: the output has the length that is passed.
    check(unsafe {
        c::EVP_PKEY_get_raw_private_key(key.pointer(), secret.expose_mut().as_mut_ptr(), &raw mut length)
    })?;
    if length == edwards::KEY { Ok(secret) } else { Err(Failed) }
}

fn wrapped(key: &EcKey) -> Result<Owned<c::EVP_PKEY>, Failed> {
    // SAFETY: both objects are live; `set1` takes a reference of its own.
    unsafe {
        let wrapped = Owned::take(c::EVP_PKEY_new())?;
        check(c::EVP_PKEY_set1_EC_KEY(wrapped.pointer(), key.pointer()))?;
        Ok(wrapped)
    }
}

type Marshal = unsafe extern "C" fn(*mut c::CBB, *const c::EVP_PKEY) -> i32;

fn write(marshal: Marshal, key: *const c::EVP_PKEY) -> Result<SecretBytes, Failed> {
    const FIRST_CAPACITY: usize = 8192;
    // SAFETY: the builder is initialized before use and either finished (its buffer is then ours, and is freed, which
    // wipes it) or cleaned up; the key is live.
    unsafe {
        let mut builder: c::CBB = std::mem::zeroed();
        check(c::CBB_init(&raw mut builder, FIRST_CAPACITY))?;
        let (mut buffer, mut length) = (std::ptr::null_mut(), 0);
        let written = marshal(&raw mut builder, key) == 1
            && c::CBB_finish(&raw mut builder, &raw mut buffer, &raw mut length) == 1;
        if !written {
            c::CBB_cleanup(&raw mut builder);
            return Err(failed());
        }
        let bytes = SecretBytes::copy_of(std::slice::from_raw_parts(buffer, length));
        c::OPENSSL_free(buffer.cast());
        Ok(bytes)
    }
}

//! How long a result will be, told without a call: for callers that ask with a NULL buffer, and for small buffers.
//!
//! Pure functions of mechanism, key attributes and input length. An answer is exact or a bound; where neither can be
//! told, the HSM is asked for the result itself, which is then kept. Sections are those of PKCS#11 3.2 §6.

use hsm_protocol::{AttributeKind, MechanismKind, Operation, Parameters, Template};

/// Length of a result in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// This and no other.
    Exact(usize),
    /// This or less.
    AtMost(usize),
    /// Not to be told from here.
    Unknown,
}

impl Length {
    /// What a caller who asks is told.
    pub(crate) fn bound(self) -> Option<usize> {
        match self {
            Self::Exact(length) | Self::AtMost(length) => Some(length),
            Self::Unknown => None,
        }
    }
}

/// Bytes of an AES block.
const BLOCK: usize = 16;

/// Whether the length depends on the key.
pub(crate) fn depends_on_key(kind: MechanismKind) -> bool {
    is_rsa(kind) || is_ecdsa(kind) || kind == MechanismKind::EDDSA
}

/// Length of the result of a whole operation over `input` bytes. `key` matters only where [`depends_on_key`] says so.
pub(crate) fn of_whole(
    operation: Operation,
    kind: MechanismKind,
    parameters: &Parameters,
    key: Option<&Template>,
    input: usize,
) -> Length {
    match operation {
        Operation::Sign | Operation::SignRecover => of_signature(kind, parameters, key),
        Operation::Digest => digest_bytes(kind).map_or(Length::Unknown, Length::Exact),
        Operation::Encrypt => of_ciphertext(kind, parameters, key, input),
        Operation::Decrypt => of_plaintext(kind, parameters, key, input),
        Operation::VerifyRecover => modulus_bytes(key).map_or(Length::Unknown, Length::AtMost),
        Operation::Verify => Length::Exact(0),
    }
}

/// Bytes that have come out when `taken` bytes have gone in and the end is not told yet; what PKCS#11 §5.2 and the
/// padding of the mechanism demand. Only for encryption and decryption.
pub(crate) fn given_before_end(operation: Operation, kind: MechanismKind, taken: u64) -> u64 {
    let block = BLOCK as u64;
    match (operation, kind) {
        (_, MechanismKind::AES_ECB | MechanismKind::AES_CBC) => taken / block * block,
        (Operation::Encrypt, MechanismKind::AES_CBC_PAD) => taken / block * block,
        // The last block may be padding: it is held back until the end.
        (Operation::Decrypt, MechanismKind::AES_CBC_PAD) => taken.saturating_sub(1) / block * block,
        (_, MechanismKind::AES_CTR) => taken,
        (Operation::Encrypt, MechanismKind::AES_GCM) => taken,
        // Nothing comes out before the tag is checked; nothing comes out of the others before the end either.
        _ => 0,
    }
}

fn of_signature(kind: MechanismKind, parameters: &Parameters, key: Option<&Template>) -> Length {
    use MechanismKind as M;
    if let Parameters::OutputLength(length) = parameters {
        return usize::try_from(*length).map_or(Length::Unknown, Length::Exact);
    }
    if is_rsa(kind) {
        return modulus_bytes(key).map_or(Length::Unknown, Length::Exact);
    }
    if is_ecdsa(kind) {
        return order_bytes(key).map_or(Length::Unknown, |bytes| Length::Exact(2 * bytes));
    }
    match kind {
        M::EDDSA => eddsa_bytes(key).map_or(Length::Unknown, Length::Exact),
        M::AES_CMAC | M::AES_GMAC => Length::Exact(BLOCK),
        // §6.13.5: half the block size.
        M::AES_MAC => Length::Exact(BLOCK / 2),
        _ => hmac_bytes(kind).map_or(Length::Unknown, Length::Exact),
    }
}

fn of_ciphertext(kind: MechanismKind, parameters: &Parameters, key: Option<&Template>, input: usize) -> Length {
    use MechanismKind as M;
    match (kind, parameters) {
        (M::AES_ECB | M::AES_CBC | M::AES_CTR, _) => Length::Exact(input),
        (M::AES_CBC_PAD, _) => Length::Exact((input / BLOCK + 1) * BLOCK),
        (M::AES_GCM, Parameters::Gcm { tag_bits, .. }) => Length::Exact(input.saturating_add(*tag_bits as usize / 8)),
        (M::AES_KEY_WRAP, _) => Length::Exact(input.saturating_add(8)),
        (M::AES_KEY_WRAP_KWP | M::AES_KEY_WRAP_PAD, _) => Length::Exact(input.div_ceil(8).saturating_mul(8) + 8),
        (M::AES_KEY_WRAP_PKCS7, _) => Length::Exact((input / 8 + 1) * 8 + 8),
        _ if is_rsa(kind) => modulus_bytes(key).map_or(Length::Unknown, Length::Exact),
        _ => Length::Unknown,
    }
}

fn of_plaintext(kind: MechanismKind, parameters: &Parameters, key: Option<&Template>, input: usize) -> Length {
    use MechanismKind as M;
    match (kind, parameters) {
        (M::AES_ECB | M::AES_CBC | M::AES_CTR, _) => Length::Exact(input),
        (M::AES_CBC_PAD, _) => Length::AtMost(input),
        (M::AES_GCM, Parameters::Gcm { tag_bits, .. }) => Length::Exact(input.saturating_sub(*tag_bits as usize / 8)),
        (M::AES_KEY_WRAP, _) => Length::Exact(input.saturating_sub(8)),
        (M::AES_KEY_WRAP_KWP | M::AES_KEY_WRAP_PAD | M::AES_KEY_WRAP_PKCS7, _) => {
            Length::AtMost(input.saturating_sub(8))
        }
        (M::RSA_X_509, _) => modulus_bytes(key).map_or(Length::Unknown, Length::Exact),
        _ if is_rsa(kind) => modulus_bytes(key).map_or(Length::Unknown, Length::AtMost),
        _ => Length::Unknown,
    }
}

/// Length of a wrapped key, where it follows from the keys' attributes.
pub(crate) fn of_wrapped(kind: MechanismKind, wrapping_key: Option<&Template>, key: Option<&Template>) -> Length {
    if is_rsa(kind) {
        return modulus_bytes(wrapping_key).map_or(Length::Unknown, Length::Exact);
    }
    let value_bytes = key
        .and_then(|attributes| attributes.number(AttributeKind::ValueLen))
        .and_then(|bytes| usize::try_from(bytes).ok());
    match value_bytes {
        Some(bytes) => of_ciphertext(kind, &Parameters::None, None, bytes),
        None => Length::Unknown,
    }
}

fn is_rsa(kind: MechanismKind) -> bool {
    use MechanismKind as M;
    matches!(kind, M::RSA_PKCS | M::RSA_X_509 | M::RSA_PKCS_OAEP | M::RSA_PKCS_PSS)
        || kind.name().is_some_and(|name| name.ends_with("_RSA_PKCS") || name.ends_with("_RSA_PKCS_PSS"))
}

fn is_ecdsa(kind: MechanismKind) -> bool {
    kind.name().is_some_and(|name| name == "ECDSA" || name.starts_with("ECDSA_"))
}

fn modulus_bytes(key: Option<&Template>) -> Option<usize> {
    let key = key?;
    if let Some(modulus) = key.octets(AttributeKind::Modulus) {
        return Some(modulus.iter().skip_while(|&&byte| byte == 0).count()).filter(|&bytes| bytes > 0);
    }
    let bits = key.number(AttributeKind::ModulusBits)?;
    usize::try_from(bits.div_ceil(8)).ok()
}

/// Bytes of the curve's order, by the curve's object identifier or name (§6.3.3).
fn order_bytes(key: Option<&Template>) -> Option<usize> {
    const CURVES: &[(&[u8], usize)] = &[
        (&[0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07], 32), // P-256
        (&[0x06, 0x05, 0x2B, 0x81, 0x04, 0x00, 0x22], 48),                   // P-384
        (&[0x06, 0x05, 0x2B, 0x81, 0x04, 0x00, 0x23], 66),                   // P-521
        (&[0x06, 0x05, 0x2B, 0x81, 0x04, 0x00, 0x0A], 32),                   // secp256k1
        (&[0x06, 0x05, 0x2B, 0x81, 0x04, 0x00, 0x21], 28),                   // P-224
        (b"\x13\x09secp256r1", 32),
        (b"\x13\x09secp384r1", 48),
        (b"\x13\x09secp521r1", 66),
        (b"\x13\x09secp256k1", 32),
        (b"\x13\x09secp224r1", 28),
    ];
    let parameters = key?.octets(AttributeKind::EcParams)?;
    CURVES.iter().find(|(curve, _)| *curve == parameters).map(|&(_, bytes)| bytes)
}

fn eddsa_bytes(key: Option<&Template>) -> Option<usize> {
    const ED25519: [&[u8]; 2] = [&[0x06, 0x03, 0x2B, 0x65, 0x70], b"\x13\x0cedwards25519"];
    const ED448: [&[u8]; 2] = [&[0x06, 0x03, 0x2B, 0x65, 0x71], b"\x13\x0aedwards448"];
    let parameters = key?.octets(AttributeKind::EcParams)?;
    if ED25519.contains(&parameters) {
        Some(64)
    } else if ED448.contains(&parameters) {
        Some(114)
    } else {
        None
    }
}

fn digest_bytes(kind: MechanismKind) -> Option<usize> {
    use MechanismKind as M;
    Some(match kind {
        M::SHA_1 => 20,
        M::SHA224 | M::SHA3_224 => 28,
        M::SHA256 | M::SHA3_256 => 32,
        M::SHA384 | M::SHA3_384 => 48,
        M::SHA512 | M::SHA3_512 => 64,
        _ => return None,
    })
}

fn hmac_bytes(kind: MechanismKind) -> Option<usize> {
    use MechanismKind as M;
    digest_bytes(match kind {
        M::SHA_1_HMAC => M::SHA_1,
        M::SHA224_HMAC => M::SHA224,
        M::SHA256_HMAC => M::SHA256,
        M::SHA384_HMAC => M::SHA384,
        M::SHA512_HMAC => M::SHA512,
        M::SHA3_224_HMAC => M::SHA3_224,
        M::SHA3_256_HMAC => M::SHA3_256,
        M::SHA3_384_HMAC => M::SHA3_384,
        M::SHA3_512_HMAC => M::SHA3_512,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rsa(bytes: usize) -> Template {
        let mut modulus = vec![0xC0; bytes];
        modulus.insert(0, 0);
        Template::new().with_octets(AttributeKind::Modulus, modulus)
    }

    fn whole(operation: Operation, kind: MechanismKind, key: Option<&Template>, input: usize) -> Length {
        of_whole(operation, kind, &Parameters::None, key, input)
    }

    #[test]
    fn signatures_are_as_long_as_their_key_says() {
        use MechanismKind as M;
        let key = rsa(256);
        for kind in [M::RSA_PKCS, M::SHA256_RSA_PKCS, M::SHA512_RSA_PKCS_PSS, M::RSA_X_509] {
            assert_eq!(whole(Operation::Sign, kind, Some(&key), 9), Length::Exact(256), "{:?}", kind.name());
        }
        let curve = Template::new().with_octets(AttributeKind::EcParams, [0x06, 0x05, 0x2B, 0x81, 0x04, 0x00, 0x23]);
        assert_eq!(whole(Operation::Sign, M::ECDSA_SHA512, Some(&curve), 9), Length::Exact(132));
        assert_eq!(whole(Operation::Sign, M::ECDSA, None, 9), Length::Unknown);
        assert_eq!(whole(Operation::Sign, M::SHA384_HMAC, None, 9), Length::Exact(48));
        assert!(depends_on_key(M::ECDSA_SHA1) && !depends_on_key(M::SHA256_HMAC));
    }

    #[test]
    fn ciphertexts_grow_by_padding_and_tag() {
        use MechanismKind as M;
        for (input, padded) in [(0, 16), (15, 16), (16, 32), (17, 32)] {
            assert_eq!(whole(Operation::Encrypt, M::AES_CBC_PAD, None, input), Length::Exact(padded));
        }
        let gcm = Parameters::Gcm { iv: vec![0; 12], additional_data: vec![], tag_bits: 96, generate_iv: false };
        assert_eq!(of_whole(Operation::Encrypt, M::AES_GCM, &gcm, None, 5), Length::Exact(17));
        assert_eq!(of_whole(Operation::Decrypt, M::AES_GCM, &gcm, None, 17), Length::Exact(5));
        assert_eq!(whole(Operation::Encrypt, M::AES_KEY_WRAP_KWP, None, 9), Length::Exact(24));
    }

    #[test]
    fn parts_come_out_in_whole_blocks_and_the_last_padded_block_is_held_back() {
        use MechanismKind as M;
        let given = |operation, kind| [0, 1, 15, 16, 17, 32, 33].map(|taken| given_before_end(operation, kind, taken));
        assert_eq!(given(Operation::Encrypt, M::AES_CBC), [0, 0, 0, 16, 16, 32, 32]);
        assert_eq!(given(Operation::Encrypt, M::AES_CBC_PAD), [0, 0, 0, 16, 16, 32, 32]);
        assert_eq!(given(Operation::Decrypt, M::AES_CBC_PAD), [0, 0, 0, 0, 16, 16, 32]);
        assert_eq!(given(Operation::Encrypt, M::AES_GCM), [0, 1, 15, 16, 17, 32, 33]);
        assert_eq!(given(Operation::Decrypt, M::AES_GCM), [0; 7]);
        assert_eq!(given(Operation::Encrypt, M::RSA_PKCS), [0; 7]);
    }
}

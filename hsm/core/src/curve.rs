//! Elliptic curves: their names on the wire (`CKA_EC_PARAMS`) and the size of their points. No arithmetic is done here.

use hsm_protocol::{AttributeKind, ErrorCode, KeyType};
use serde::{Deserialize, Serialize};

use crate::object::Object;
use crate::refusal::Refusal;

/// A curve in short Weierstrass form, for keys of type `CKK_EC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Curve {
    /// NIST P-256 (SEC 2 secp256r1).
    P256,
    /// NIST P-384.
    P384,
    /// NIST P-521.
    P521,
    /// SEC 2 secp256k1.
    Secp256k1,
}

impl Curve {
    /// All curves.
    pub const ALL: &[Self] = &[Self::P256, Self::P384, Self::P521, Self::Secp256k1];

    /// The curve that `CKA_EC_PARAMS` names: an object identifier in DER, or a PrintableString `curveName`
    /// (PKCS#11 3.2 §6.3.3).
    ///
    /// # Errors
    /// [`ErrorCode::CurveUnsupported`].
    pub fn from_params(params: &[u8]) -> Result<Self, Refusal> {
        let named =
            |curve: &Self| params == curve.params() || printable(params).is_some_and(|name| curve.is_named(name));
        Self::ALL.iter().copied().find(named).ok_or_else(unsupported)
    }

    /// The curve of an EC key.
    pub fn of(object: &Object) -> Option<Self> {
        if object.key_type() != Some(KeyType::Ec) {
            return None;
        }
        let params = object.attribute(AttributeKind::EcParams)?.as_octets()?;
        Self::from_params(params).ok()
    }

    /// `CKA_EC_PARAMS` as it is stored: the object identifier in DER (SEC 2 §A.2, RFC 5480 §2.1.1.1).
    pub fn params(self) -> &'static [u8] {
        match self {
            Self::P256 => &[0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07],
            Self::P384 => &[0x06, 0x05, 0x2B, 0x81, 0x04, 0x00, 0x22],
            Self::P521 => &[0x06, 0x05, 0x2B, 0x81, 0x04, 0x00, 0x23],
            Self::Secp256k1 => &[0x06, 0x05, 0x2B, 0x81, 0x04, 0x00, 0x0A],
        }
    }

    /// Bits of the field.
    pub fn bits(self) -> u64 {
        match self {
            Self::P256 | Self::Secp256k1 => 256,
            Self::P384 => 384,
            Self::P521 => 521,
        }
    }

    /// Bytes of a field element, which are also the bytes of a private key and of half a signature.
    pub fn field_bytes(self) -> usize {
        match self {
            Self::P256 | Self::Secp256k1 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    /// Whether FIPS 186-5 and SP 800-186 approve of it.
    pub fn is_fips(self) -> bool {
        self != Self::Secp256k1
    }

    fn is_named(self, name: &[u8]) -> bool {
        let names: &[&[u8]] = match self {
            Self::P256 => &[b"secp256r1", b"prime256v1", b"P-256"],
            Self::P384 => &[b"secp384r1", b"P-384"],
            Self::P521 => &[b"secp521r1", b"P-521"],
            Self::Secp256k1 => &[b"secp256k1"],
        };
        names.contains(&name)
    }
}

/// `CKA_EC_PARAMS` of Ed25519 as it is stored: 1.3.101.112 (RFC 8410 §3).
pub const ED25519_PARAMS: &[u8] = &[0x06, 0x03, 0x2B, 0x65, 0x70];

/// `CKA_EC_PARAMS` of X25519 as it is stored: 1.3.101.110 (RFC 8410 §3).
pub const X25519_PARAMS: &[u8] = &[0x06, 0x03, 0x2B, 0x65, 0x6E];

/// 1.3.6.1.4.1.11591.15.1: what GnuPG and older clients call Ed25519.
const ED25519_OLD_PARAMS: &[u8] = &[0x06, 0x09, 0x2B, 0x06, 0x01, 0x04, 0x01, 0xDA, 0x47, 0x0F, 0x01];

/// 1.3.6.1.4.1.3029.1.5.1: what they call X25519.
const X25519_OLD_PARAMS: &[u8] = &[0x06, 0x0A, 0x2B, 0x06, 0x01, 0x04, 0x01, 0x97, 0x55, 0x01, 0x05, 0x01];

/// Bytes of an Ed25519 or X25519 public key, and of a private key.
pub const EDWARDS_BYTES: usize = 32;

/// Brings `CKA_EC_PARAMS` of a key type into the form in which it is stored: the object identifier in DER.
///
/// # Errors
/// [`ErrorCode::CurveUnsupported`].
pub fn canonical_params(key_type: KeyType, params: &[u8]) -> Result<&'static [u8], Refusal> {
    match key_type {
        KeyType::Ec => Curve::from_params(params).map(Curve::params),
        KeyType::EcEdwards
            if params == ED25519_PARAMS
                || params == ED25519_OLD_PARAMS
                || printable(params) == Some(b"edwards25519") =>
        {
            Ok(ED25519_PARAMS)
        }
        KeyType::EcMontgomery
            if params == X25519_PARAMS || params == X25519_OLD_PARAMS || printable(params) == Some(b"curve25519") =>
        {
            Ok(X25519_PARAMS)
        }
        _ => Err(unsupported()),
    }
}

/// Brings `CKA_EC_POINT` into the form in which it is stored: a DER OCTET STRING (PKCS#11 3.2 §6.3.3). Takes the raw
/// octets as well, which many libraries send. Says nothing of whether the point lies on its curve.
///
/// # Errors
/// [`ErrorCode::AttributeValue`] when the length is not one that a point of this key can have.
pub fn canonical_point(key_type: KeyType, params: &[u8], point: &[u8]) -> Result<Vec<u8>, Refusal> {
    let inner = octet_string(point).filter(|inner| is_point(key_type, params, inner));
    let raw = inner.or(Some(point)).filter(|raw| is_point(key_type, params, raw));
    raw.map(der_octet_string).ok_or(Refusal::of(ErrorCode::AttributeValue, AttributeKind::EcPoint))
}

/// The raw octets of a `CKA_EC_POINT` as it is stored; `None` when it is not a DER OCTET STRING.
pub fn raw_point(point: &[u8]) -> Option<&[u8]> {
    octet_string(point)
}

/// Wraps octets as a DER OCTET STRING.
pub fn der_octet_string(octets: &[u8]) -> Vec<u8> {
    const OCTET_STRING: u8 = 0x04;
    let mut der = vec![OCTET_STRING];
    match u8::try_from(octets.len()) {
        Ok(short @ ..=0x7F) => der.push(short),
        Ok(long) => der.extend([0x81, long]),
        Err(_) => {
            der.push(0x82);
            der.extend(u16::try_from(octets.len()).unwrap_or(u16::MAX).to_be_bytes());
        }
    }
    der.extend_from_slice(octets);
    der
}

/// Whether octets have the form of a point of the key: uncompressed or compressed (SEC 1 §2.3.3), or 32 bytes.
fn is_point(key_type: KeyType, params: &[u8], raw: &[u8]) -> bool {
    match key_type {
        KeyType::Ec => Curve::from_params(params).is_ok_and(|curve| {
            let bytes = curve.field_bytes();
            match raw.first() {
                Some(4) => raw.len() == 1 + 2 * bytes,
                Some(2 | 3) => raw.len() == 1 + bytes,
                _ => false,
            }
        }),
        KeyType::EcEdwards | KeyType::EcMontgomery => raw.len() == EDWARDS_BYTES,
        _ => false,
    }
}

fn octet_string(der: &[u8]) -> Option<&[u8]> {
    match der {
        [0x04, length @ ..=0x7F, rest @ ..] if rest.len() == usize::from(*length) => Some(rest),
        [0x04, 0x81, length @ 0x80..=0xFF, rest @ ..] if rest.len() == usize::from(*length) => Some(rest),
        _ => None,
    }
}

fn printable(der: &[u8]) -> Option<&[u8]> {
    match der {
        [0x13, length @ ..=0x7F, rest @ ..] if rest.len() == usize::from(*length) => Some(rest),
        _ => None,
    }
}

fn unsupported() -> Refusal {
    Refusal::of(ErrorCode::CurveUnsupported, AttributeKind::EcParams)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Vec<u8> {
        let mut der = vec![0x13, u8::try_from(text.len()).unwrap()];
        der.extend_from_slice(text.as_bytes());
        der
    }

    #[test]
    fn curves_are_known_by_identifier_and_by_name() {
        for &curve in Curve::ALL {
            assert_eq!(Curve::from_params(curve.params()), Ok(curve));
        }
        assert_eq!(Curve::from_params(&name("secp256k1")), Ok(Curve::Secp256k1));
        assert_eq!(canonical_params(KeyType::EcEdwards, &name("edwards25519")), Ok(ED25519_PARAMS));
        assert_eq!(canonical_params(KeyType::EcMontgomery, &name("curve25519")), Ok(X25519_PARAMS));
        assert_eq!(canonical_params(KeyType::EcMontgomery, X25519_PARAMS), Ok(X25519_PARAMS));
        assert_eq!(canonical_params(KeyType::EcEdwards, ED25519_OLD_PARAMS), Ok(ED25519_PARAMS));
        assert_eq!(canonical_params(KeyType::EcMontgomery, X25519_OLD_PARAMS), Ok(X25519_PARAMS));
        for bad in [&b""[..], &[0x06], &[0x30, 0x03], ED25519_PARAMS] {
            assert_eq!(canonical_params(KeyType::Ec, bad).unwrap_err().code, ErrorCode::CurveUnsupported);
        }
    }

    #[test]
    fn points_are_taken_raw_or_in_der_and_kept_in_der() {
        for &curve in Curve::ALL {
            let mut raw = vec![4; 1 + 2 * curve.field_bytes()];
            let der = der_octet_string(&raw);
            assert_eq!(canonical_point(KeyType::Ec, curve.params(), &raw).unwrap(), der);
            assert_eq!(canonical_point(KeyType::Ec, curve.params(), &der).unwrap(), der);
            assert_eq!(raw_point(&der).unwrap(), raw);
            raw.push(0);
            assert_eq!(canonical_point(KeyType::Ec, curve.params(), &raw).unwrap_err().code, ErrorCode::AttributeValue);
        }
        let edwards = [7; 32];
        let der = der_octet_string(&edwards);
        assert_eq!(canonical_point(KeyType::EcEdwards, ED25519_PARAMS, &edwards).unwrap(), der);
        assert_eq!(canonical_point(KeyType::EcEdwards, ED25519_PARAMS, &der).unwrap(), der);
    }
}

//! Keys on curves in Weierstrass form, whichever library computes on them.

use hsm_core::curve::Curve;

use super::secp256k1;
use crate::fault::CryptoFault;
use crate::secret::SecretBytes;
use crate::wide::encoding::{self, ParsedKey, PublicKey};
use crate::wide::{EcKey, Failed, NamedCurve};

/// A key of type `CKK_EC`.
pub(crate) enum CurveKey {
    /// P-256, P-384, P-521; private or public.
    Nist(EcKey),
    /// secp256k1, private.
    KoblitzPrivate(secp256k1::PrivateKey),
    /// secp256k1, public.
    KoblitzPublic(secp256k1::PublicKey),
}

/// The library's name of a curve.
fn named(curve: Curve) -> NamedCurve {
    match curve {
        Curve::P256 => NamedCurve::P256,
        Curve::P384 => NamedCurve::P384,
        Curve::P521 => NamedCurve::P521,
        Curve::Secp256k1 => NamedCurve::Secp256k1,
    }
}

impl CurveKey {
    /// A new random pair.
    pub(crate) fn generate(curve: Curve) -> Result<Self, CryptoFault> {
        let key = EcKey::generate(named(curve))?;
        if curve != Curve::Secp256k1 {
            return Ok(Self::Nist(key));
        }
        let scalar = key.scalar()?.ok_or(CryptoFault::ModuleFailed)?;
        Ok(Self::KoblitzPrivate(secp256k1::PrivateKey::from_scalar(scalar.expose())?))
    }

    /// The pair of a scalar, of any length.
    pub(crate) fn from_scalar(curve: Curve, scalar: &[u8]) -> Result<Self, CryptoFault> {
        let key = match curve {
            Curve::Secp256k1 => secp256k1::PrivateKey::from_scalar(scalar).map(Self::KoblitzPrivate),
            _ => EcKey::from_scalar(named(curve), scalar).map(Self::Nist),
        };
        key.map_err(|Failed| CryptoFault::KeyMaterial)
    }

    /// The public key of a point, raw octets.
    pub(crate) fn from_point(curve: Curve, point: &[u8]) -> Result<Self, CryptoFault> {
        let key = match curve {
            Curve::Secp256k1 => secp256k1::PublicKey::from_point(point).map(Self::KoblitzPublic),
            _ => EcKey::from_point(named(curve), point).map(Self::Nist),
        };
        key.map_err(|Failed| CryptoFault::KeyMaterial)
    }

    /// A key that was read from DER.
    pub(crate) fn adopt(key: EcKey) -> Result<Self, CryptoFault> {
        if key.curve() != NamedCurve::Secp256k1 {
            return Ok(Self::Nist(key));
        }
        let scalar = key.scalar()?.ok_or(CryptoFault::KeyMaterial)?;
        Self::from_scalar(Curve::Secp256k1, scalar.expose())
    }

    /// Its curve.
    pub(crate) fn curve(&self) -> Curve {
        match self {
            Self::Nist(key) => match key.curve() {
                NamedCurve::P256 => Curve::P256,
                NamedCurve::P384 => Curve::P384,
                NamedCurve::P521 => Curve::P521,
                NamedCurve::Secp256k1 => Curve::Secp256k1,
            },
            Self::KoblitzPrivate(_) | Self::KoblitzPublic(_) => Curve::Secp256k1,
        }
    }

    /// The scalar, as long as the order; an error for a public key.
    pub(crate) fn scalar(&self) -> Result<SecretBytes, CryptoFault> {
        match self {
            Self::Nist(key) => key.scalar()?.ok_or(CryptoFault::KeyType),
            Self::KoblitzPrivate(key) => Ok(key.scalar()),
            Self::KoblitzPublic(_) => Err(CryptoFault::KeyType),
        }
    }

    /// The public point, uncompressed.
    pub(crate) fn point(&self) -> Result<Vec<u8>, CryptoFault> {
        match self {
            Self::Nist(key) => Ok(key.point()?),
            Self::KoblitzPrivate(key) => Ok(key.public().point()),
            Self::KoblitzPublic(key) => Ok(key.point()),
        }
    }

    /// Signs a digest of any length: r ‖ s, each as long as the order.
    pub(crate) fn sign(&self, digest: &[u8]) -> Result<Vec<u8>, CryptoFault> {
        match self {
            Self::Nist(key) => Ok(key.sign(digest)?),
            Self::KoblitzPrivate(key) => Ok(key.sign(digest)?),
            Self::KoblitzPublic(_) => Err(CryptoFault::KeyType),
        }
    }

    /// Checks a signature r ‖ s. Both halves may be shorter than the order, as long as they are equally long: SunPKCS11
    /// writes them without leading zeros.
    pub(crate) fn verify(&self, digest: &[u8], signature: &[u8]) -> Result<(), CryptoFault> {
        let half = signature.len() / 2;
        if signature.is_empty() || !signature.len().is_multiple_of(2) || half > self.curve().field_bytes() {
            return Err(CryptoFault::SignatureLength);
        }
        let (r, s) = signature.split_at(half);
        let right = match self {
            Self::Nist(key) => key.verify(digest, r, s)?,
            Self::KoblitzPrivate(key) => key.public().verify(digest, r, s),
            Self::KoblitzPublic(key) => key.verify(digest, r, s),
        };
        if right { Ok(()) } else { Err(CryptoFault::SignatureInvalid) }
    }

    /// The shared secret with a peer's point, raw octets. [`CryptoFault::MechanismParameters`] when it is not on the curve.
    pub(crate) fn agree(&self, peer: &[u8]) -> Result<SecretBytes, CryptoFault> {
        let shared = match self {
            Self::Nist(key) => key.agree(peer),
            Self::KoblitzPrivate(key) => secp256k1::PublicKey::from_point(peer).map(|peer| key.agree(&peer)),
            Self::KoblitzPublic(_) => return Err(CryptoFault::KeyType),
        };
        shared.map_err(|Failed| CryptoFault::MechanismParameters)
    }

    /// SubjectPublicKeyInfo.
    pub(crate) fn public_info(&self) -> Result<Vec<u8>, CryptoFault> {
        match self {
            Self::Nist(key) => Ok(encoding::public_info(&PublicKey::Ec(key))?),
            Self::KoblitzPrivate(_) | Self::KoblitzPublic(_) => {
                let key = EcKey::from_point(NamedCurve::Secp256k1, &self.point()?)?;
                Ok(encoding::public_info(&PublicKey::Ec(&key))?)
            }
        }
    }

    /// PKCS#8.
    pub(crate) fn private_info(&self) -> Result<SecretBytes, CryptoFault> {
        let scalar = self.scalar()?;
        let key = EcKey::from_scalar(named(self.curve()), scalar.expose())?;
        Ok(encoding::private_info(&ParsedKey::Ec(key))?)
    }
}

//! Keys as they are used: parsed once, kept hot beside their object, shared by all threads.
//!
//! [`Key::load`] parses an object and its payload; [`make`] makes new ones and checks what comes from outside. Nothing
//! here decides whether a key may be used: that is what permits are for.

pub(crate) mod curve;
pub(crate) mod make;
pub(crate) mod secp256k1;

use hsm_core::curve::{Curve, raw_point};
use hsm_core::{Object, ObjectUid};
use hsm_protocol::{AttributeKind, KeyType, ObjectClass};

use crate::fault::CryptoFault;
use crate::payload::Payload;
use crate::secret::SecretBytes;
use crate::wide::edwards::{self, SigningKey};
use crate::wide::encoding::{self, ParsedKey, PublicKey};
use crate::wide::rsa::RsaNumbers;
use crate::wide::{Gcm, Rsa};
use curve::CurveKey;

/// A parsed key. Its provider's objects (Montgomery values, blinding, expanded AES keys) live as long as it does and are
/// wiped when it goes.
pub struct Key {
    uid: ObjectUid,
    version: u32,
    class: ObjectClass,
    key_type: KeyType,
    material: KeyMaterial,
}

/// What a key is made of.
pub(crate) enum KeyMaterial {
    /// RSA, private or public by the class.
    Rsa(Rsa),
    /// A curve in Weierstrass form, private or public by the class.
    Curve(CurveKey),
    /// Ed25519, private.
    Ed25519Private(SigningKey),
    /// Ed25519, public.
    Ed25519Public([u8; edwards::KEY]),
    /// X25519, private.
    X25519Private(SecretBytes),
    /// X25519, public.
    X25519Public([u8; edwards::KEY]),
    /// AES.
    Aes(AesKey),
    /// Plain octets.
    Octets(SecretBytes),
}

/// An AES key, expanded for GCM with the whole tag.
pub(crate) struct AesKey {
    pub(crate) bytes: SecretBytes,
    pub(crate) gcm: Gcm,
}

impl Key {
    /// Parses the key of an object.
    ///
    /// # Errors
    /// [`CryptoFault::KeyType`] when the object is no key, [`CryptoFault::KeyMaterial`] or
    /// [`CryptoFault::AttributeMissing`] when attributes and payload do not make one.
    pub fn load(object: &Object, payload: Option<&Payload>) -> Result<Self, CryptoFault> {
        let class = object.class().ok_or(CryptoFault::KeyType)?;
        let key_type = object.key_type().ok_or(CryptoFault::KeyType)?;
        let public = |kind| {
            let value = object.attribute(kind).and_then(|value| value.as_octets());
            value.ok_or(CryptoFault::AttributeMissing(kind))
        };
        let material = match class {
            ObjectClass::SecretKey => {
                KeyMaterial::secret(key_type, payload.ok_or(CryptoFault::KeyMaterial)?.get(AttributeKind::Value))?
            }
            ObjectClass::PublicKey => KeyMaterial::public(key_type, public)?,
            ObjectClass::PrivateKey => {
                KeyMaterial::private(key_type, public, payload.ok_or(CryptoFault::KeyMaterial)?)?
            }
            ObjectClass::Data | ObjectClass::Certificate => return Err(CryptoFault::KeyType),
        };
        Ok(Self { uid: object.uid(), version: object.version(), class, key_type, material })
    }

    /// The object it belongs to.
    pub fn uid(&self) -> ObjectUid {
        self.uid
    }

    /// The version of the object that it was parsed from.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Its class.
    pub fn class(&self) -> ObjectClass {
        self.class
    }

    /// Its type.
    pub fn key_type(&self) -> KeyType {
        self.key_type
    }

    /// Whether one private operation takes so long (half a millisecond or more) that it should not hold up others on its
    /// thread: RSA from 3072 bits on.
    pub fn is_slow(&self) -> bool {
        const FROM_BITS: u32 = 3072;
        matches!(&self.material, KeyMaterial::Rsa(rsa) if self.class == ObjectClass::PrivateKey && rsa.bits() >= FROM_BITS)
    }

    pub(crate) fn material(&self) -> &KeyMaterial {
        &self.material
    }

    /// The octets of a secret key.
    pub(crate) fn secret(&self) -> Result<&[u8], CryptoFault> {
        match &self.material {
            KeyMaterial::Aes(aes) => Ok(aes.bytes.expose()),
            KeyMaterial::Octets(octets) => Ok(octets.expose()),
            _ => Err(CryptoFault::KeyType),
        }
    }

    pub(crate) fn rsa(&self) -> Result<&Rsa, CryptoFault> {
        if let KeyMaterial::Rsa(rsa) = &self.material { Ok(rsa) } else { Err(CryptoFault::KeyType) }
    }

    pub(crate) fn curve(&self) -> Result<&CurveKey, CryptoFault> {
        if let KeyMaterial::Curve(key) = &self.material { Ok(key) } else { Err(CryptoFault::KeyType) }
    }

    pub(crate) fn aes(&self) -> Result<&AesKey, CryptoFault> {
        if let KeyMaterial::Aes(aes) = &self.material { Ok(aes) } else { Err(CryptoFault::KeyType) }
    }

    /// A key that belongs to no object, for tests.
    #[cfg(test)]
    pub(crate) fn bare(class: ObjectClass, key_type: KeyType, material: KeyMaterial) -> Self {
        Self { uid: ObjectUid([0; 16]), version: 1, class, key_type, material }
    }
}

impl KeyMaterial {
    /// A secret key of its octets.
    pub(crate) fn secret(key_type: KeyType, value: Option<&[u8]>) -> Result<Self, CryptoFault> {
        let value = value.ok_or(CryptoFault::AttributeMissing(AttributeKind::Value))?;
        let bytes = SecretBytes::copy_of(value);
        match key_type {
            KeyType::Aes => {
                let gcm = Gcm::new(value, Gcm::TAG).map_err(|_| CryptoFault::AttributeValue(AttributeKind::Value))?;
                Ok(Self::Aes(AesKey { bytes, gcm }))
            }
            _ if key_type.is_octets() => Ok(Self::Octets(bytes)),
            _ => Err(CryptoFault::KeyType),
        }
    }

    /// A public key of its attributes.
    pub(crate) fn public<'a>(
        key_type: KeyType,
        attribute: impl Fn(AttributeKind) -> Result<&'a [u8], CryptoFault>,
    ) -> Result<Self, CryptoFault> {
        match key_type {
            KeyType::Rsa => {
                let (n, e) = (attribute(AttributeKind::Modulus)?, attribute(AttributeKind::PublicExponent)?);
                Rsa::from_public(n, e).map(Self::Rsa).map_err(|_| CryptoFault::KeyMaterial)
            }
            KeyType::Ec => {
                let curve = curve_of(attribute(AttributeKind::EcParams)?)?;
                CurveKey::from_point(curve, raw_on(curve, attribute(AttributeKind::EcPoint)?)).map(Self::Curve)
            }
            KeyType::EcEdwards => Ok(Self::Ed25519Public(fixed(raw_edwards(attribute(AttributeKind::EcPoint)?))?)),
            KeyType::EcMontgomery => Ok(Self::X25519Public(fixed(raw_edwards(attribute(AttributeKind::EcPoint)?))?)),
            _ => Err(CryptoFault::KeyType),
        }
    }

    /// A private key of its public attributes and its payload.
    pub(crate) fn private<'a>(
        key_type: KeyType,
        attribute: impl Fn(AttributeKind) -> Result<&'a [u8], CryptoFault>,
        payload: &Payload,
    ) -> Result<Self, CryptoFault> {
        let secret = |kind| payload.get(kind).map(SecretBytes::copy_of).ok_or(CryptoFault::AttributeMissing(kind));
        match key_type {
            KeyType::Rsa => {
                let numbers = RsaNumbers {
                    n: SecretBytes::copy_of(attribute(AttributeKind::Modulus)?),
                    e: SecretBytes::copy_of(attribute(AttributeKind::PublicExponent)?),
                    d: secret(AttributeKind::PrivateExponent)?,
                    p: secret(AttributeKind::Prime1)?,
                    q: secret(AttributeKind::Prime2)?,
                    dp: secret(AttributeKind::Exponent1)?,
                    dq: secret(AttributeKind::Exponent2)?,
                    qi: secret(AttributeKind::Coefficient)?,
                };
                Rsa::from_numbers(&numbers).map(Self::Rsa).map_err(|_| CryptoFault::KeyMaterial)
            }
            KeyType::Ec => {
                let curve = curve_of(attribute(AttributeKind::EcParams)?)?;
                CurveKey::from_scalar(curve, payload.value()?).map(Self::Curve)
            }
            KeyType::EcEdwards => Ok(Self::Ed25519Private(SigningKey::from_seed(&fixed(payload.value()?)?))),
            KeyType::EcMontgomery => {
                fixed(payload.value()?)?;
                Ok(Self::X25519Private(secret(AttributeKind::Value)?))
            }
            _ => Err(CryptoFault::KeyType),
        }
    }

    /// SubjectPublicKeyInfo of an asymmetric key.
    pub(crate) fn public_info(&self) -> Result<Vec<u8>, CryptoFault> {
        Ok(match self {
            Self::Rsa(rsa) => encoding::public_info(&PublicKey::Rsa(rsa))?,
            Self::Curve(key) => key.public_info()?,
            Self::Ed25519Private(key) => encoding::public_info(&PublicKey::Ed25519(key.public()))?,
            Self::Ed25519Public(key) => encoding::public_info(&PublicKey::Ed25519(key))?,
            Self::X25519Private(key) => {
                encoding::public_info(&PublicKey::X25519(&edwards::x25519_public(&fixed(key.expose())?)))?
            }
            Self::X25519Public(key) => encoding::public_info(&PublicKey::X25519(key))?,
            Self::Aes(_) | Self::Octets(_) => return Err(CryptoFault::KeyType),
        })
    }
}

/// What travels when a key is wrapped: the octets of a secret key, PKCS#8 of a private one.
pub(crate) fn exported(object: &Object, payload: &Payload) -> Result<SecretBytes, CryptoFault> {
    match object.class() {
        Some(ObjectClass::SecretKey) => Ok(SecretBytes::copy_of(payload.value()?)),
        Some(ObjectClass::PrivateKey) => match Key::load(object, Some(payload))?.material {
            KeyMaterial::Rsa(rsa) => Ok(encoding::private_info(&ParsedKey::Rsa(rsa))?),
            KeyMaterial::Curve(key) => key.private_info(),
            KeyMaterial::Ed25519Private(_) => {
                Ok(encoding::private_info(&ParsedKey::Ed25519(SecretBytes::copy_of(payload.value()?)))?)
            }
            KeyMaterial::X25519Private(key) => Ok(encoding::private_info(&ParsedKey::X25519(key))?),
            _ => Err(CryptoFault::NotWrappable),
        },
        _ => Err(CryptoFault::NotWrappable),
    }
}

/// The curve that stored `CKA_EC_PARAMS` name.
pub(crate) fn curve_of(params: &[u8]) -> Result<Curve, CryptoFault> {
    Curve::from_params(params).map_err(|_| CryptoFault::CurveUnsupported)
}

/// The octets of a point on a curve, given raw or as a DER OCTET STRING. The length tells: a raw point whose second byte
/// is by chance its length less two looks like DER (one in 256 does).
pub(crate) fn raw_on(curve: Curve, point: &[u8]) -> &[u8] {
    let bytes = curve.field_bytes();
    if [1 + bytes, 1 + 2 * bytes].contains(&point.len()) { point } else { raw_point(point).unwrap_or(point) }
}

/// The octets of an Ed25519 or X25519 public key, given raw or as a DER OCTET STRING.
pub(crate) fn raw_edwards(point: &[u8]) -> &[u8] {
    if point.len() == edwards::KEY { point } else { raw_point(point).unwrap_or(point) }
}

/// Exactly 32 bytes.
pub(crate) fn fixed(bytes: &[u8]) -> Result<[u8; edwards::KEY], CryptoFault> {
    bytes.try_into().map_err(|_| CryptoFault::KeyMaterial)
}

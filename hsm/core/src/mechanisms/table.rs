//! The rows, in the order of their numbers. Operations and key sizes are those of PKCS#11 3.2 §6; what mode FIPS leaves
//! follows SP 800-131A r2 (no SHA-1 signatures, no RSA PKCS#1 v1.5 encryption), SP 800-38F (keys are wrapped by
//! authenticated modes only), FIPS 186-5 and AWS CloudHSM (Ed25519 never in mode FIPS).

use hsm_protocol::{KeyType, MechanismKind as M};

use super::operations::Operations;
use super::parameters::Shape;
use super::{KeySize, MechanismRow};
use crate::limits::{RSA_BITS_MAXIMUM, RSA_BITS_MINIMUM, SECRET_KEY_BYTES};

const NONE: Operations = Operations::NONE;
const VERIFY: Operations = Operations::VERIFY;
const DIGEST: Operations = Operations::DIGEST;
const GENERATE: Operations = Operations::GENERATE;
const PAIR: Operations = Operations::GENERATE_KEY_PAIR;
const DERIVE: Operations = Operations::DERIVE;
const CIPHER: Operations = Operations::ENCRYPT.and(Operations::DECRYPT);
const WRAPPING: Operations = Operations::WRAP.and(Operations::UNWRAP);
const CIPHER_WRAP: Operations = CIPHER.and(WRAPPING);
const SIGN_VERIFY: Operations = Operations::SIGN.and(Operations::VERIFY);
const RECOVER: Operations = Operations::SIGN_RECOVER.and(Operations::VERIFY_RECOVER);

const RSA_BITS: KeySize = KeySize::Bits(RSA_BITS_MINIMUM, RSA_BITS_MAXIMUM);
const EC_BITS: KeySize = KeySize::Bits(256, 521);
const ECDH_BITS: KeySize = KeySize::Bits(255, 521);
const CURVE25519_BITS: KeySize = KeySize::Bits(255, 255);
const AES_BYTES: KeySize = KeySize::Bytes(16, 32);
const SECRET_BYTES: KeySize = KeySize::Bytes(1, SECRET_KEY_BYTES);
const SECRET_BITS: KeySize = KeySize::Bits(8, SECRET_KEY_BYTES * 8);

const RSA: &[KeyType] = &[KeyType::Rsa];
const EC: &[KeyType] = &[KeyType::Ec];
const EDWARDS: &[KeyType] = &[KeyType::EcEdwards];
const MONTGOMERY: &[KeyType] = &[KeyType::EcMontgomery];
const ECDH: &[KeyType] = &[KeyType::Ec, KeyType::EcMontgomery];
const AES: &[KeyType] = &[KeyType::Aes];
const HKDF: &[KeyType] = &[KeyType::Hkdf, KeyType::GenericSecret];
const HKDF_KEY: &[KeyType] = &[KeyType::Hkdf];
const OCTETS: &[KeyType] = &[
    KeyType::GenericSecret,
    KeyType::Sha1Hmac,
    KeyType::Sha256Hmac,
    KeyType::Sha384Hmac,
    KeyType::Sha512Hmac,
    KeyType::Sha224Hmac,
    KeyType::Sha3_224Hmac,
    KeyType::Sha3_256Hmac,
    KeyType::Sha3_384Hmac,
    KeyType::Sha3_512Hmac,
    KeyType::Hkdf,
];
const SECRETS: &[KeyType] = &[
    KeyType::GenericSecret,
    KeyType::Aes,
    KeyType::Sha1Hmac,
    KeyType::Sha256Hmac,
    KeyType::Sha384Hmac,
    KeyType::Sha512Hmac,
    KeyType::Sha224Hmac,
    KeyType::Sha3_224Hmac,
    KeyType::Sha3_256Hmac,
    KeyType::Sha3_384Hmac,
    KeyType::Sha3_512Hmac,
    KeyType::Hkdf,
];
const SHA_1_HMAC_KEY: &[KeyType] = &[KeyType::Sha1Hmac];
const SHA_1_HMAC_KEYS: &[KeyType] = &[KeyType::GenericSecret, KeyType::Sha1Hmac];
const SHA224_HMAC_KEY: &[KeyType] = &[KeyType::Sha224Hmac];
const SHA224_HMAC_KEYS: &[KeyType] = &[KeyType::GenericSecret, KeyType::Sha224Hmac];
const SHA256_HMAC_KEY: &[KeyType] = &[KeyType::Sha256Hmac];
const SHA256_HMAC_KEYS: &[KeyType] = &[KeyType::GenericSecret, KeyType::Sha256Hmac];
const SHA384_HMAC_KEY: &[KeyType] = &[KeyType::Sha384Hmac];
const SHA384_HMAC_KEYS: &[KeyType] = &[KeyType::GenericSecret, KeyType::Sha384Hmac];
const SHA512_HMAC_KEY: &[KeyType] = &[KeyType::Sha512Hmac];
const SHA512_HMAC_KEYS: &[KeyType] = &[KeyType::GenericSecret, KeyType::Sha512Hmac];
const SHA3_224_HMAC_KEY: &[KeyType] = &[KeyType::Sha3_224Hmac];
const SHA3_224_HMAC_KEYS: &[KeyType] = &[KeyType::GenericSecret, KeyType::Sha3_224Hmac];
const SHA3_256_HMAC_KEY: &[KeyType] = &[KeyType::Sha3_256Hmac];
const SHA3_256_HMAC_KEYS: &[KeyType] = &[KeyType::GenericSecret, KeyType::Sha3_256Hmac];
const SHA3_384_HMAC_KEY: &[KeyType] = &[KeyType::Sha3_384Hmac];
const SHA3_384_HMAC_KEYS: &[KeyType] = &[KeyType::GenericSecret, KeyType::Sha3_384Hmac];
const SHA3_512_HMAC_KEY: &[KeyType] = &[KeyType::Sha3_512Hmac];
const SHA3_512_HMAC_KEYS: &[KeyType] = &[KeyType::GenericSecret, KeyType::Sha3_512Hmac];

const fn digest(kind: M) -> MechanismRow {
    let (key_types, size, parameters): (&[KeyType], _, _) = (&[], KeySize::None, Shape::None);
    MechanismRow { kind, operations: DIGEST, fips: DIGEST, key_types, size, parameters, hash: Some(kind) }
}

const fn row(kind: M, operations: Operations, key_types: &'static [KeyType], size: KeySize) -> MechanismRow {
    MechanismRow { kind, operations, fips: operations, key_types, size, parameters: Shape::None, hash: None }
}

impl MechanismRow {
    const fn fips(self, fips: Operations) -> Self {
        Self { fips, ..self }
    }

    const fn with(self, parameters: Shape) -> Self {
        Self { parameters, ..self }
    }

    const fn hash(self, hash: M) -> Self {
        Self { hash: Some(hash), ..self }
    }
}

/// Every mechanism, in the order of the numbers.
pub const TABLE: &[MechanismRow] = &[
    row(M::RSA_PKCS_KEY_PAIR_GEN, PAIR, RSA, RSA_BITS),
    row(M::RSA_PKCS, CIPHER_WRAP.and(SIGN_VERIFY).and(RECOVER), RSA, RSA_BITS).fips(SIGN_VERIFY.and(RECOVER)),
    row(M::RSA_X_509, CIPHER.and(SIGN_VERIFY).and(RECOVER), RSA, RSA_BITS).fips(NONE),
    row(M::SHA1_RSA_PKCS, SIGN_VERIFY, RSA, RSA_BITS).fips(VERIFY).hash(M::SHA_1),
    row(M::RSA_PKCS_OAEP, CIPHER_WRAP, RSA, RSA_BITS).with(Shape::Oaep),
    row(M::RSA_X9_31_KEY_PAIR_GEN, PAIR, RSA, RSA_BITS),
    row(M::RSA_PKCS_PSS, SIGN_VERIFY, RSA, RSA_BITS).with(Shape::Pss),
    row(M::SHA1_RSA_PKCS_PSS, SIGN_VERIFY, RSA, RSA_BITS).fips(VERIFY).with(Shape::Pss).hash(M::SHA_1),
    row(M::SHA256_RSA_PKCS, SIGN_VERIFY, RSA, RSA_BITS).hash(M::SHA256),
    row(M::SHA384_RSA_PKCS, SIGN_VERIFY, RSA, RSA_BITS).hash(M::SHA384),
    row(M::SHA512_RSA_PKCS, SIGN_VERIFY, RSA, RSA_BITS).hash(M::SHA512),
    row(M::SHA256_RSA_PKCS_PSS, SIGN_VERIFY, RSA, RSA_BITS).with(Shape::Pss).hash(M::SHA256),
    row(M::SHA384_RSA_PKCS_PSS, SIGN_VERIFY, RSA, RSA_BITS).with(Shape::Pss).hash(M::SHA384),
    row(M::SHA512_RSA_PKCS_PSS, SIGN_VERIFY, RSA, RSA_BITS).with(Shape::Pss).hash(M::SHA512),
    row(M::SHA224_RSA_PKCS, SIGN_VERIFY, RSA, RSA_BITS).hash(M::SHA224),
    row(M::SHA224_RSA_PKCS_PSS, SIGN_VERIFY, RSA, RSA_BITS).with(Shape::Pss).hash(M::SHA224),
    row(M::SHA3_256_RSA_PKCS, SIGN_VERIFY, RSA, RSA_BITS).hash(M::SHA3_256),
    row(M::SHA3_384_RSA_PKCS, SIGN_VERIFY, RSA, RSA_BITS).hash(M::SHA3_384),
    row(M::SHA3_512_RSA_PKCS, SIGN_VERIFY, RSA, RSA_BITS).hash(M::SHA3_512),
    row(M::SHA3_256_RSA_PKCS_PSS, SIGN_VERIFY, RSA, RSA_BITS).with(Shape::Pss).hash(M::SHA3_256),
    row(M::SHA3_384_RSA_PKCS_PSS, SIGN_VERIFY, RSA, RSA_BITS).with(Shape::Pss).hash(M::SHA3_384),
    row(M::SHA3_512_RSA_PKCS_PSS, SIGN_VERIFY, RSA, RSA_BITS).with(Shape::Pss).hash(M::SHA3_512),
    row(M::SHA3_224_RSA_PKCS, SIGN_VERIFY, RSA, RSA_BITS).hash(M::SHA3_224),
    row(M::SHA3_224_RSA_PKCS_PSS, SIGN_VERIFY, RSA, RSA_BITS).with(Shape::Pss).hash(M::SHA3_224),
    digest(M::SHA_1),
    row(M::SHA_1_HMAC, SIGN_VERIFY, SHA_1_HMAC_KEYS, SECRET_BYTES).hash(M::SHA_1),
    row(M::SHA_1_HMAC_GENERAL, SIGN_VERIFY, SHA_1_HMAC_KEYS, SECRET_BYTES).with(Shape::OutputLength).hash(M::SHA_1),
    digest(M::SHA256),
    row(M::SHA256_HMAC, SIGN_VERIFY, SHA256_HMAC_KEYS, SECRET_BYTES).hash(M::SHA256),
    row(M::SHA256_HMAC_GENERAL, SIGN_VERIFY, SHA256_HMAC_KEYS, SECRET_BYTES).with(Shape::OutputLength).hash(M::SHA256),
    digest(M::SHA224),
    row(M::SHA224_HMAC, SIGN_VERIFY, SHA224_HMAC_KEYS, SECRET_BYTES).hash(M::SHA224),
    row(M::SHA224_HMAC_GENERAL, SIGN_VERIFY, SHA224_HMAC_KEYS, SECRET_BYTES).with(Shape::OutputLength).hash(M::SHA224),
    digest(M::SHA384),
    row(M::SHA384_HMAC, SIGN_VERIFY, SHA384_HMAC_KEYS, SECRET_BYTES).hash(M::SHA384),
    row(M::SHA384_HMAC_GENERAL, SIGN_VERIFY, SHA384_HMAC_KEYS, SECRET_BYTES).with(Shape::OutputLength).hash(M::SHA384),
    digest(M::SHA512),
    row(M::SHA512_HMAC, SIGN_VERIFY, SHA512_HMAC_KEYS, SECRET_BYTES).hash(M::SHA512),
    row(M::SHA512_HMAC_GENERAL, SIGN_VERIFY, SHA512_HMAC_KEYS, SECRET_BYTES).with(Shape::OutputLength).hash(M::SHA512),
    digest(M::SHA3_256),
    row(M::SHA3_256_HMAC, SIGN_VERIFY, SHA3_256_HMAC_KEYS, SECRET_BYTES).hash(M::SHA3_256),
    row(M::SHA3_256_HMAC_GENERAL, SIGN_VERIFY, SHA3_256_HMAC_KEYS, SECRET_BYTES)
        .with(Shape::OutputLength)
        .hash(M::SHA3_256),
    row(M::SHA3_256_KEY_GEN, GENERATE, SHA3_256_HMAC_KEY, SECRET_BYTES),
    digest(M::SHA3_224),
    row(M::SHA3_224_HMAC, SIGN_VERIFY, SHA3_224_HMAC_KEYS, SECRET_BYTES).hash(M::SHA3_224),
    row(M::SHA3_224_HMAC_GENERAL, SIGN_VERIFY, SHA3_224_HMAC_KEYS, SECRET_BYTES)
        .with(Shape::OutputLength)
        .hash(M::SHA3_224),
    row(M::SHA3_224_KEY_GEN, GENERATE, SHA3_224_HMAC_KEY, SECRET_BYTES),
    digest(M::SHA3_384),
    row(M::SHA3_384_HMAC, SIGN_VERIFY, SHA3_384_HMAC_KEYS, SECRET_BYTES).hash(M::SHA3_384),
    row(M::SHA3_384_HMAC_GENERAL, SIGN_VERIFY, SHA3_384_HMAC_KEYS, SECRET_BYTES)
        .with(Shape::OutputLength)
        .hash(M::SHA3_384),
    row(M::SHA3_384_KEY_GEN, GENERATE, SHA3_384_HMAC_KEY, SECRET_BYTES),
    digest(M::SHA3_512),
    row(M::SHA3_512_HMAC, SIGN_VERIFY, SHA3_512_HMAC_KEYS, SECRET_BYTES).hash(M::SHA3_512),
    row(M::SHA3_512_HMAC_GENERAL, SIGN_VERIFY, SHA3_512_HMAC_KEYS, SECRET_BYTES)
        .with(Shape::OutputLength)
        .hash(M::SHA3_512),
    row(M::SHA3_512_KEY_GEN, GENERATE, SHA3_512_HMAC_KEY, SECRET_BYTES),
    row(M::GENERIC_SECRET_KEY_GEN, GENERATE, OCTETS, SECRET_BITS),
    row(M::CONCATENATE_BASE_AND_KEY, DERIVE, SECRETS, SECRET_BYTES).fips(NONE).with(Shape::OtherKey),
    row(M::CONCATENATE_BASE_AND_DATA, DERIVE, SECRETS, SECRET_BYTES).fips(NONE).with(Shape::DerivationData),
    row(M::CONCATENATE_DATA_AND_BASE, DERIVE, SECRETS, SECRET_BYTES).fips(NONE).with(Shape::DerivationData),
    row(M::XOR_BASE_AND_DATA, DERIVE, SECRETS, SECRET_BYTES).fips(NONE).with(Shape::DerivationData),
    row(M::SHA1_KEY_DERIVATION, DERIVE, SECRETS, SECRET_BYTES).fips(NONE).hash(M::SHA_1),
    row(M::SHA256_KEY_DERIVATION, DERIVE, SECRETS, SECRET_BYTES).fips(NONE).hash(M::SHA256),
    row(M::SHA384_KEY_DERIVATION, DERIVE, SECRETS, SECRET_BYTES).fips(NONE).hash(M::SHA384),
    row(M::SHA512_KEY_DERIVATION, DERIVE, SECRETS, SECRET_BYTES).fips(NONE).hash(M::SHA512),
    row(M::SHA224_KEY_DERIVATION, DERIVE, SECRETS, SECRET_BYTES).fips(NONE).hash(M::SHA224),
    row(M::EC_KEY_PAIR_GEN, PAIR, EC, EC_BITS),
    row(M::ECDSA, SIGN_VERIFY, EC, EC_BITS),
    row(M::ECDSA_SHA1, SIGN_VERIFY, EC, EC_BITS).fips(VERIFY).hash(M::SHA_1),
    row(M::ECDSA_SHA224, SIGN_VERIFY, EC, EC_BITS).hash(M::SHA224),
    row(M::ECDSA_SHA256, SIGN_VERIFY, EC, EC_BITS).hash(M::SHA256),
    row(M::ECDSA_SHA384, SIGN_VERIFY, EC, EC_BITS).hash(M::SHA384),
    row(M::ECDSA_SHA512, SIGN_VERIFY, EC, EC_BITS).hash(M::SHA512),
    row(M::ECDSA_SHA3_224, SIGN_VERIFY, EC, EC_BITS).hash(M::SHA3_224),
    row(M::ECDSA_SHA3_256, SIGN_VERIFY, EC, EC_BITS).hash(M::SHA3_256),
    row(M::ECDSA_SHA3_384, SIGN_VERIFY, EC, EC_BITS).hash(M::SHA3_384),
    row(M::ECDSA_SHA3_512, SIGN_VERIFY, EC, EC_BITS).hash(M::SHA3_512),
    row(M::ECDH1_DERIVE, DERIVE, ECDH, ECDH_BITS).with(Shape::Ecdh),
    row(M::ECDH1_COFACTOR_DERIVE, DERIVE, ECDH, ECDH_BITS).with(Shape::Ecdh),
    row(M::EC_EDWARDS_KEY_PAIR_GEN, PAIR, EDWARDS, CURVE25519_BITS).fips(NONE),
    row(M::EC_MONTGOMERY_KEY_PAIR_GEN, PAIR, MONTGOMERY, CURVE25519_BITS).fips(NONE),
    row(M::EDDSA, SIGN_VERIFY, EDWARDS, CURVE25519_BITS).fips(NONE).with(Shape::Eddsa),
    row(M::AES_KEY_GEN, GENERATE, AES, AES_BYTES),
    row(M::AES_ECB, CIPHER, AES, AES_BYTES),
    row(M::AES_CBC, CIPHER_WRAP, AES, AES_BYTES).fips(CIPHER).with(Shape::Iv),
    row(M::AES_MAC, SIGN_VERIFY, AES, AES_BYTES).fips(NONE),
    row(M::AES_CBC_PAD, CIPHER_WRAP, AES, AES_BYTES).fips(CIPHER).with(Shape::Iv),
    row(M::AES_CTR, CIPHER, AES, AES_BYTES).with(Shape::Ctr),
    row(M::AES_GCM, CIPHER_WRAP, AES, AES_BYTES).with(Shape::Gcm),
    row(M::AES_CMAC, SIGN_VERIFY, AES, AES_BYTES),
    row(M::AES_CMAC_GENERAL, SIGN_VERIFY, AES, AES_BYTES).with(Shape::OutputLength),
    row(M::AES_GMAC, SIGN_VERIFY, AES, AES_BYTES).fips(VERIFY).with(Shape::GmacIv),
    row(M::AES_ECB_ENCRYPT_DATA, DERIVE, AES, AES_BYTES).fips(NONE).with(Shape::DerivationData),
    row(M::AES_CBC_ENCRYPT_DATA, DERIVE, AES, AES_BYTES).fips(NONE).with(Shape::CbcDerivation),
    row(M::AES_KEY_WRAP, WRAPPING, AES, AES_BYTES).with(Shape::WrapIv),
    row(M::AES_KEY_WRAP_PAD, WRAPPING, AES, AES_BYTES).with(Shape::WrapIv),
    row(M::AES_KEY_WRAP_KWP, WRAPPING, AES, AES_BYTES).with(Shape::WrapIv),
    row(M::AES_KEY_WRAP_PKCS7, WRAPPING, AES, AES_BYTES).fips(NONE).with(Shape::WrapIv),
    row(M::SHA_1_KEY_GEN, GENERATE, SHA_1_HMAC_KEY, SECRET_BYTES),
    row(M::SHA224_KEY_GEN, GENERATE, SHA224_HMAC_KEY, SECRET_BYTES),
    row(M::SHA256_KEY_GEN, GENERATE, SHA256_HMAC_KEY, SECRET_BYTES),
    row(M::SHA384_KEY_GEN, GENERATE, SHA384_HMAC_KEY, SECRET_BYTES),
    row(M::SHA512_KEY_GEN, GENERATE, SHA512_HMAC_KEY, SECRET_BYTES),
    row(M::HKDF_DERIVE, DERIVE, HKDF, SECRET_BYTES).with(Shape::Hkdf),
    row(M::HKDF_DATA, DERIVE, HKDF, SECRET_BYTES).with(Shape::Hkdf),
    row(M::HKDF_KEY_GEN, GENERATE, HKDF_KEY, SECRET_BYTES),
];

//! The policy's table against what is here: each operation of each row is tried.

use hsm_core::curve::Curve;
use hsm_core::mechanisms::{MechanismRow, Operations, Shape, TABLE};
use hsm_core::request::PairSpec;
use hsm_protocol::mechanism::{HkdfSalt, kdf, mgf};
use hsm_protocol::{KeyType, Mechanism, MechanismKind, ObjectReference, Parameters};

use super::keys::{self, Pair, call, decrypt, encrypt, module, sign, verify};
use crate::CryptoFault;
use crate::key::Key;
use crate::key::make::new_secret;
use crate::mechanism::{built_in_hash, family};
use crate::wide::Hash;

/// Parameters that fit a row.
fn parameters(row: &MechanismRow, peer: &[u8]) -> Parameters {
    match row.parameters {
        Shape::None | Shape::WrapIv | Shape::Eddsa => Parameters::None,
        Shape::Iv | Shape::GmacIv => Parameters::Iv(vec![3; 16]),
        Shape::Gcm => {
            Parameters::Gcm { iv: vec![4; 12], additional_data: b"more".to_vec(), tag_bits: 128, generate_iv: false }
        }
        Shape::Ctr => Parameters::Ctr { counter_bits: 32, block: [5; 16] },
        Shape::Pss => {
            Parameters::Pss { hash: row.hash.unwrap_or(MechanismKind::SHA256), mgf: mgf::SHA256, salt_length: 20 }
        }
        Shape::Oaep => Parameters::Oaep { hash: MechanismKind::SHA256, mgf: mgf::SHA1, label: b"label".to_vec() },
        Shape::Ecdh => Parameters::Ecdh { kdf: kdf::SHA256, shared_data: vec![1], public_data: peer.to_vec() },
        Shape::Hkdf => Parameters::Hkdf {
            extract: true,
            expand: true,
            hash: MechanismKind::SHA256,
            salt: HkdfSalt::Null,
            info: b"info".to_vec(),
        },
        Shape::OutputLength => Parameters::OutputLength(7),
        Shape::DerivationData => Parameters::DerivationData(vec![6; 32]),
        Shape::CbcDerivation => Parameters::CbcDerivation { iv: vec![7; 16], data: vec![8; 32] },
        Shape::OtherKey => Parameters::OtherKey(ObjectReference::Token(1)),
    }
}

/// A pair of keys of a type: the same twice for secret keys.
enum Keys {
    Pair(Pair),
    Secret(Key),
    None,
}

impl Keys {
    fn of(row: &MechanismRow) -> Self {
        match row.key_types.first() {
            None => Self::None,
            Some(KeyType::Rsa) => Self::None,
            Some(KeyType::Ec) => Self::Pair(keys::curve(Curve::P256)),
            Some(KeyType::EcEdwards) => Self::Pair(keys::pair(&PairSpec::Ed25519)),
            Some(KeyType::EcMontgomery) => Self::Pair(keys::pair(&PairSpec::X25519)),
            Some(&key_type) => Self::Secret(keys::secret(key_type, &[9; 32])),
        }
    }

    fn private(&self) -> &Key {
        match self {
            Self::Pair(pair) => &pair.private,
            Self::Secret(key) => key,
            Self::None => &keys::rsa().private,
        }
    }

    fn public(&self) -> &Key {
        match self {
            Self::Pair(pair) => &pair.public,
            Self::Secret(key) => key,
            Self::None => &keys::rsa().public,
        }
    }
}

fn data_for(mechanism: &Mechanism) -> Vec<u8> {
    match mechanism.kind {
        // A whole digest.
        MechanismKind::RSA_PKCS_PSS => vec![1; 32],
        // Two blocks.
        _ => vec![1; 32],
    }
}

fn try_row(row: &MechanismRow) {
    let name = row.kind.name().unwrap_or("?");
    let keys = Keys::of(row);
    let peer = if let Keys::Pair(pair) = &keys {
        pair.public_object.attribute(hsm_protocol::AttributeKind::EcPoint).and_then(|point| point.as_octets())
    } else {
        None
    };
    let mechanism = Mechanism { kind: row.kind, parameters: parameters(row, peer.unwrap_or_default()) };
    let offers = |operation| row.operations.contains(operation);
    let data = data_for(&mechanism);
    family(row.kind).unwrap_or_else(|_| panic!("{name} has no family"));

    if offers(Operations::SIGN) {
        let signature = sign(keys.private(), &mechanism, &data).unwrap_or_else(|fault| panic!("{name}: {fault}"));
        verify(keys.public(), &mechanism, &data, &signature).unwrap_or_else(|fault| panic!("{name}: {fault}"));
        let mut altered = signature.clone();
        *altered.last_mut().unwrap() ^= 1;
        let refused = verify(keys.public(), &mechanism, &data, &altered);
        assert_eq!(refused, Err(CryptoFault::SignatureInvalid), "{name}");
        let refused = verify(keys.public(), &mechanism, &data, &signature[1..]);
        assert!(refused.is_err(), "{name}");
    }
    if offers(Operations::SIGN_RECOVER) {
        let signature = family(row.kind).unwrap().sign(&call(keys.private(), &mechanism), &data).unwrap();
        let recovered = family(row.kind).unwrap().recover(&call(keys.public(), &mechanism), &signature).unwrap();
        assert!(recovered.ends_with(&data), "{name}");
    }
    if offers(Operations::ENCRYPT) {
        let encrypted = encrypt(keys.public(), &mechanism, &data).unwrap_or_else(|fault| panic!("{name}: {fault}"));
        let opened = decrypt(keys.private(), &mechanism, &encrypted.data).unwrap();
        assert!(opened.ends_with(&data), "{name}");
    }
    if offers(Operations::WRAP) {
        let family = family(row.kind).unwrap();
        let wrapped = family.wrap(&call(keys.public(), &mechanism), &data, true).unwrap();
        let opened = family.unwrap(&call(keys.private(), &mechanism), &wrapped.data, None).unwrap();
        assert_eq!(opened.expose(), data, "{name}");
    }
    if offers(Operations::DERIVE) {
        let second = keys::secret(KeyType::GenericSecret, &[2; 8]);
        let derived = family(row.kind).unwrap().derive(&call(keys.private(), &mechanism), Some(&second), Some(16));
        assert_eq!(derived.unwrap_or_else(|fault| panic!("{name}: {fault}")).len(), 16, "{name}");
    }
    if offers(Operations::DIGEST) {
        let digest = crate::digest(&mechanism, &data).unwrap();
        assert_eq!(digest.len(), built_in_hash(row.kind).unwrap().size(), "{name}");
    }
    if offers(Operations::GENERATE) {
        let made = new_secret(module(), row.key_types[0], 32).unwrap();
        assert_eq!(made.payload.unwrap().value().unwrap().len(), 32, "{name}");
    }
}

#[test]
fn every_operation_of_every_mechanism_works() {
    for row in TABLE {
        try_row(row);
    }
}

#[test]
fn a_mechanism_that_nobody_knows_is_refused() {
    assert!(matches!(family(MechanismKind(0x7777)), Err(CryptoFault::MechanismInvalid)));
    assert_eq!(crate::digest(&Mechanism::plain(MechanismKind::ECDSA), b""), Err(CryptoFault::MechanismInvalid));
}

#[test]
fn a_key_of_another_type_is_refused() {
    for row in TABLE.iter().filter(|row| !row.key_types.is_empty()) {
        let wrong = if row.takes(KeyType::Aes) || row.takes(KeyType::GenericSecret) {
            &keys::rsa().private
        } else {
            &keys::secret(KeyType::Aes, &[1; 16])
        };
        let mechanism = Mechanism { kind: row.kind, parameters: parameters(row, &[4; 65]) };
        let data = data_for(&mechanism);
        if row.operations.contains(Operations::SIGN) {
            assert_eq!(sign(wrong, &mechanism, &data), Err(CryptoFault::KeyType), "{:?}", row.kind.name());
        }
        if row.operations.contains(Operations::DERIVE) {
            let refused = family(row.kind).unwrap().derive(&call(wrong, &mechanism), Some(wrong), None).err();
            assert_eq!(refused, Some(CryptoFault::KeyType), "{:?}", row.kind.name());
        }
    }
}

#[test]
fn fips_refuses_what_only_the_module_sees() {
    let key = keys::secret(KeyType::Aes, &[1; 32]);
    let gcm = |generate_iv, tag_bits| {
        let parameters = Parameters::Gcm { iv: vec![1; 12], additional_data: vec![], tag_bits, generate_iv };
        Mechanism { kind: MechanismKind::AES_GCM, parameters }
    };
    let refused = |mechanism: &Mechanism| {
        let call = crate::mechanism::Call { fips: true, ..call(&key, mechanism) };
        family(mechanism.kind).unwrap().encrypt(&call, b"data").err()
    };
    assert_eq!(refused(&gcm(false, 128)), Some(CryptoFault::FipsRefused));
    assert_eq!(refused(&gcm(true, 64)), Some(CryptoFault::FipsRefused));
    assert_eq!(refused(&gcm(true, 128)), None);
    assert_eq!(Hash::Sha256.size(), 32);
}

#[test]
fn an_iv_that_the_hsm_makes_is_new_each_time_and_opens() {
    let key = keys::secret(KeyType::Aes, &[1; 32]);
    let with = |iv: Vec<u8>, generate_iv| {
        let parameters = Parameters::Gcm { iv, additional_data: vec![], tag_bits: 128, generate_iv };
        Mechanism { kind: MechanismKind::AES_GCM, parameters }
    };
    let one = encrypt(&key, &with(vec![], true), b"data").unwrap();
    let two = encrypt(&key, &with(vec![], true), b"data").unwrap();
    assert_ne!(one.iv, two.iv);
    assert_eq!(one.iv.as_ref().unwrap().len(), 12);
    assert_eq!(decrypt(&key, &with(one.iv.unwrap(), false), &one.data).unwrap(), b"data");
    assert_eq!(encrypt(&key, &with(vec![], false), b"data").err(), Some(CryptoFault::MechanismParameters));
}

#[test]
fn every_tag_length_of_the_standard_and_no_other_is_taken() {
    let key = keys::secret(KeyType::Aes, &[1; 16]);
    for tag_bits in 0..=136 {
        let parameters = Parameters::Gcm { iv: vec![1], additional_data: vec![2], tag_bits, generate_iv: false };
        let mechanism = Mechanism { kind: MechanismKind::AES_GCM, parameters };
        let encrypted = encrypt(&key, &mechanism, b"some data");
        if [32, 64, 96, 104, 112, 120, 128].contains(&tag_bits) {
            let encrypted = encrypted.unwrap().data;
            assert_eq!(encrypted.len(), 9 + tag_bits as usize / 8);
            assert_eq!(decrypt(&key, &mechanism, &encrypted).unwrap(), b"some data");
            for bit in 0..encrypted.len() * 8 {
                let mut altered = encrypted.clone();
                altered[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(decrypt(&key, &mechanism, &altered), Err(CryptoFault::EncryptedInvalid));
            }
        } else {
            assert_eq!(encrypted.err(), Some(CryptoFault::MechanismParameters), "{tag_bits}");
        }
    }
}

#[test]
fn ecdsa_takes_digests_of_any_length_and_signatures_of_shorter_even_length() {
    for &curve in Curve::ALL {
        let pair = keys::curve(curve);
        let plain = Mechanism::plain(MechanismKind::ECDSA);
        for length in [1, 20, 31, 32, 33, 48, 64, 66, 100] {
            let digest = vec![0xA5; length];
            let signature = sign(&pair.private, &plain, &digest).unwrap();
            assert_eq!(signature.len(), 2 * curve.field_bytes());
            verify(&pair.public, &plain, &digest, &signature).unwrap();
            if length > curve.field_bytes() {
                let mut other_tail = digest;
                *other_tail.last_mut().unwrap() ^= 1;
                verify(&pair.public, &plain, &other_tail, &signature).unwrap();
            }
        }
        // Sign until both halves begin with a zero byte once (about 2^7 tries on P-521, else too many: one half there).
        let short = (0..200_000_u32).map(|turn| (turn, sign(&pair.private, &plain, &turn.to_be_bytes()).unwrap()));
        let half = curve.field_bytes();
        let found = short.take(2_000).find(|(_, signature)| signature[0] == 0 && signature[half] == 0);
        if let Some((turn, signature)) = found {
            let shorter = [&signature[1..half], &signature[half + 1..]].concat();
            verify(&pair.public, &plain, &turn.to_be_bytes(), &shorter).unwrap();
        } else {
            assert_ne!(curve, Curve::P521, "on P-521 half of all halves begin with a zero byte");
        }
        let signature = sign(&pair.private, &plain, &[1; 32]).unwrap();
        let odd = verify(&pair.public, &plain, &[1; 32], &signature[1..]);
        assert_eq!(odd, Err(CryptoFault::SignatureLength));
        let long = [signature.as_slice(), &[0, 0]].concat();
        assert_eq!(verify(&pair.public, &plain, &[1; 32], &long), Err(CryptoFault::SignatureLength));
        assert_eq!(verify(&pair.public, &plain, &[1; 32], &[]), Err(CryptoFault::SignatureLength));
        assert_eq!(sign(&pair.private, &plain, &[]), Err(CryptoFault::DataLength));
    }
}

#[test]
fn secp256k1_takes_high_s() {
    // n - s by schoolbook subtraction.
    const ORDER: [u8; 32] = [
        0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFE, 0xBA, 0xAE,
        0xDC, 0xE6, 0xAF, 0x48, 0xA0, 0x3B, 0xBF, 0xD2, 0x5E, 0x8C, 0xD0, 0x36, 0x41, 0x41,
    ];
    let pair = keys::curve(Curve::Secp256k1);
    let plain = Mechanism::plain(MechanismKind::ECDSA);
    let mut signature = sign(&pair.private, &plain, &[1; 32]).unwrap();
    let mut borrow = 0_i16;
    for (index, byte) in signature[32..].iter_mut().enumerate().rev() {
        let difference = i16::from(ORDER[index]) - i16::from(*byte) - borrow;
        borrow = i16::from(difference < 0);
        *byte = u8::try_from(difference.rem_euclid(256)).unwrap();
    }
    verify(&pair.public, &plain, &[1; 32], &signature).unwrap();
}

//! Ciphers and digests in parts give what they give at once.

use hsm_protocol::{KeyType, Mechanism, MechanismKind, Parameters};

use super::keys::{call, decrypt, encrypt, secret};
use crate::mechanism::family;
use crate::wide::Direction;
use crate::{CryptoFault, Finished, Stream};

fn mechanisms() -> Vec<Mechanism> {
    let with = |kind, parameters| Mechanism { kind, parameters };
    vec![
        Mechanism::plain(MechanismKind::AES_ECB),
        with(MechanismKind::AES_CBC, Parameters::Iv(vec![1; 16])),
        with(MechanismKind::AES_CBC_PAD, Parameters::Iv(vec![1; 16])),
        with(MechanismKind::AES_CTR, Parameters::Ctr { counter_bits: 9, block: [0xFF; 16] }),
        with(
            MechanismKind::AES_GCM,
            Parameters::Gcm { iv: vec![2; 12], additional_data: vec![3; 5], tag_bits: 96, generate_iv: false },
        ),
    ]
}

#[test]
fn ciphers_in_parts_equal_ciphers_at_once() {
    let key = secret(KeyType::Aes, &[7; 24]);
    let data: Vec<u8> = (0..=255).cycle().take(4096).collect();
    for mechanism in mechanisms() {
        let whole = encrypt(&key, &mechanism, &data).unwrap().data;
        for step in [1, 15, 16, 17, 100, 4096] {
            for (direction, input, expected) in
                [(Direction::Encrypt, &data, &whole), (Direction::Decrypt, &whole, &data)]
            {
                let mut cipher =
                    family(mechanism.kind).unwrap().transform(&call(&key, &mechanism), direction).unwrap().unwrap();
                let mut output = Vec::new();
                for part in input.chunks(step) {
                    cipher.update(part, &mut output).unwrap();
                }
                cipher.finish(&mut output).unwrap();
                assert!(&output == expected, "{:?} in steps of {step}", mechanism.kind.name());
            }
        }
    }
}

#[test]
fn padding_makes_every_length_whole_and_nothing_else_is_taken() {
    let key = secret(KeyType::Aes, &[7; 16]);
    let mechanism = Mechanism { kind: MechanismKind::AES_CBC_PAD, parameters: Parameters::Iv(vec![1; 16]) };
    for length in 0..50 {
        let data = vec![0xAB; length];
        let encrypted = encrypt(&key, &mechanism, &data).unwrap().data;
        assert_eq!(encrypted.len(), (length / 16 + 1) * 16);
        assert_eq!(decrypt(&key, &mechanism, &encrypted).unwrap(), data);
        let cut = decrypt(&key, &mechanism, &encrypted[..encrypted.len() - 1]);
        assert_eq!(cut, Err(CryptoFault::EncryptedLength));
    }
    assert_eq!(decrypt(&key, &mechanism, &[]), Err(CryptoFault::EncryptedLength));
}

#[test]
fn blocks_that_are_not_whole_are_refused() {
    let key = secret(KeyType::Aes, &[7; 16]);
    let mechanism = Mechanism::plain(MechanismKind::AES_ECB);
    assert_eq!(encrypt(&key, &mechanism, &[1; 17]).err(), Some(CryptoFault::DataLength));
    assert_eq!(decrypt(&key, &mechanism, &[1; 17]).err(), Some(CryptoFault::EncryptedLength));
}

#[test]
fn an_aead_gives_out_nothing_before_its_tag_was_checked() {
    let key = secret(KeyType::Aes, &[7; 32]);
    let mechanism = mechanisms().pop().unwrap();
    let mut encrypted = encrypt(&key, &mechanism, &[1; 1000]).unwrap().data;
    encrypted[0] ^= 1;
    let mut cipher =
        family(mechanism.kind).unwrap().transform(&call(&key, &mechanism), Direction::Decrypt).unwrap().unwrap();
    let mut output = Vec::new();
    cipher.update(&encrypted, &mut output).unwrap();
    assert!(output.is_empty());
    assert_eq!(cipher.finish(&mut output), Err(CryptoFault::EncryptedInvalid));
    assert!(output.is_empty());
}

#[test]
fn a_digest_in_parts_equals_a_digest_at_once() {
    let mechanism = Mechanism::plain(MechanismKind::SHA3_384);
    let mut stream = Stream::digest(&mechanism).unwrap();
    for part in [&b"a"[..], b"", b"bc"] {
        assert!(stream.update(part).unwrap().is_empty());
    }
    let Finished::Data(digest) = stream.finish(None).unwrap() else { panic!("a digest is data") };
    assert_eq!(digest, crate::digest(&mechanism, b"abc").unwrap());
}

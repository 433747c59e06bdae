//! The system's OpenSSL as the other side: what is signed and encrypted here is verified and decrypted there, and the
//! other way round. Keys cross the border as PKCS#8 and SubjectPublicKeyInfo, which checks those as well.

use std::path::Path;
use std::process::Command;

use hsm_core::curve::Curve;
use hsm_core::request::PairSpec;
use hsm_protocol::mechanism::mgf;
use hsm_protocol::{AttributeKind, KeyType, Mechanism, MechanismKind as M, Parameters};

use super::keys::{self, Pair, call, decrypt, encrypt, secret, sign, verify, with};
use crate::key::exported;
use crate::mechanism::family;

/// A folder with files, in which `openssl` runs.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.0.path().join(name), bytes).unwrap();
    }

    fn get(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.0.path().join(name)).unwrap()
    }

    /// Runs `openssl` with words that are parted by spaces.
    fn try_run(&self, words: &str) -> Result<Vec<u8>, String> {
        let output = Command::new("openssl").current_dir(self.0.path()).args(words.split(' ')).output().unwrap();
        if output.status.success() {
            Ok(output.stdout)
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    fn run(&self, words: &str) -> Vec<u8> {
        self.try_run(words).unwrap_or_else(|fault| panic!("openssl {words}: {fault}"))
    }

    /// Writes `key.der` and `pub.der`.
    fn keys(&self, pair: &Pair) {
        let info = pair.public_object.attribute(AttributeKind::PublicKeyInfo).and_then(|info| info.as_octets());
        self.put("pub.der", info.unwrap());
        self.put("key.der", exported(&pair.private_object, &pair.payload).unwrap().expose());
        assert!(Path::new("/").exists());
    }
}

const DIGESTS: [(&str, M, M, u64); 9] = [
    ("sha1", M::SHA_1, M::SHA1_RSA_PKCS, mgf::SHA1),
    ("sha224", M::SHA224, M::SHA224_RSA_PKCS, mgf::SHA224),
    ("sha256", M::SHA256, M::SHA256_RSA_PKCS, mgf::SHA256),
    ("sha384", M::SHA384, M::SHA384_RSA_PKCS, mgf::SHA384),
    ("sha512", M::SHA512, M::SHA512_RSA_PKCS, mgf::SHA512),
    ("sha3-224", M::SHA3_224, M::SHA3_224_RSA_PKCS, mgf::SHA3_224),
    ("sha3-256", M::SHA3_256, M::SHA3_256_RSA_PKCS, mgf::SHA3_256),
    ("sha3-384", M::SHA3_384, M::SHA3_384_RSA_PKCS, mgf::SHA3_384),
    ("sha3-512", M::SHA3_512, M::SHA3_512_RSA_PKCS, mgf::SHA3_512),
];

#[test]
fn openssl_verifies_and_makes_rsa_signatures() {
    let bench = Bench::new();
    let pair = keys::rsa();
    bench.keys(pair);
    bench.put("data", b"some data");
    for (name, hash, pkcs1, mgf) in DIGESTS {
        let mechanism = Mechanism::plain(pkcs1);
        bench.put("sig", &sign(&pair.private, &mechanism, b"some data").unwrap());
        bench.run(&format!("dgst -{name} -verify pub.der -keyform DER -signature sig data"));
        let made = bench.run(&format!("dgst -{name} -sign key.der -keyform DER data"));
        verify(&pair.public, &mechanism, b"some data", &made).unwrap();

        let digest = crate::digest(&Mechanism::plain(hash), b"some data").unwrap();
        bench.put("digest", &digest);
        let (other_name, _, _, other_mgf) = DIGESTS[2];
        for (mgf, mgf_name, salt) in [(mgf, name, digest.len()), (other_mgf, other_name, 0), (mgf, name, 11)] {
            let pss = Parameters::Pss { hash, mgf, salt_length: salt as u64 };
            let mechanism = with(M::RSA_PKCS_PSS, pss);
            let options = format!(
                "-pkeyopt digest:{name} -pkeyopt rsa_padding_mode:pss -pkeyopt rsa_pss_saltlen:{salt} \
                 -pkeyopt rsa_mgf1_md:{mgf_name}"
            );
            bench.put("sig", &sign(&pair.private, &mechanism, &digest).unwrap());
            let there = "pkeyutl -verify -pubin -inkey pub.der -keyform DER -in digest -sigfile sig";
            bench.run(&format!("{there} {options}"));
            let made = bench.run(&format!("pkeyutl -sign -inkey key.der -keyform DER -in digest {options}"));
            verify(&pair.public, &mechanism, &digest, &made).unwrap();
        }
    }
}

#[test]
fn openssl_decrypts_and_makes_rsa_ciphertexts() {
    let bench = Bench::new();
    let pair = keys::rsa();
    bench.keys(pair);
    bench.put("data", b"some data");
    for (name, hash, _, mgf) in DIGESTS {
        for (mgf, mgf_name) in [(mgf, name), (mgf::SHA1, "sha1")] {
            for label in ["", "6c6162656c"] {
                let parameters = Parameters::Oaep { hash, mgf, label: hex::decode(label).unwrap() };
                let mechanism = with(M::RSA_PKCS_OAEP, parameters);
                let mut options = format!(
                    "-pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:{name} -pkeyopt rsa_mgf1_md:{mgf_name}"
                );
                if !label.is_empty() {
                    options += &format!(" -pkeyopt rsa_oaep_label:{label}");
                }
                bench.put("secret", &encrypt(&pair.public, &mechanism, b"some data").unwrap().data);
                let there = format!("pkeyutl -decrypt -inkey key.der -keyform DER -in secret {options}");
                assert_eq!(bench.run(&there), b"some data");
                let there = format!("pkeyutl -encrypt -pubin -inkey pub.der -keyform DER -in data {options}");
                assert_eq!(decrypt(&pair.private, &mechanism, &bench.run(&there)).unwrap(), b"some data");
            }
        }
    }
    let mechanism = Mechanism::plain(M::RSA_PKCS);
    bench.put("secret", &encrypt(&pair.public, &mechanism, b"some data").unwrap().data);
    assert_eq!(bench.run("pkeyutl -decrypt -inkey key.der -keyform DER -in secret"), b"some data");
}

/// r ‖ s as the DER that OpenSSL speaks: SEQUENCE of two INTEGERs.
fn to_der(signature: &[u8]) -> Vec<u8> {
    let integer = |half: &[u8]| {
        let first = half.iter().position(|&byte| byte != 0).unwrap_or(half.len() - 1);
        let mut number = half[first..].to_vec();
        if number[0] & 0x80 != 0 {
            number.insert(0, 0);
        }
        [&[0x02, u8::try_from(number.len()).unwrap()], number.as_slice()].concat()
    };
    let (r, s) = signature.split_at(signature.len() / 2);
    let body = [integer(r), integer(s)].concat();
    let length = u8::try_from(body.len()).unwrap();
    let head: &[u8] = if length < 0x80 { &[0x30, length] } else { &[0x30, 0x81, length] };
    [head, &body].concat()
}

/// The DER that OpenSSL speaks as r ‖ s.
fn from_der(der: &[u8], half: usize) -> Vec<u8> {
    let body = if der[1] == 0x81 { &der[3..] } else { &der[2..] };
    let (r, rest) = body[2..].split_at(usize::from(body[1]));
    let s = &rest[2..];
    let pad = |number: &[u8]| {
        let first = number.iter().position(|&byte| byte != 0).unwrap_or(0);
        let number = &number[first..];
        [vec![0; half - number.len()], number.to_vec()].concat()
    };
    [pad(r), pad(s)].concat()
}

#[test]
fn openssl_verifies_and_makes_ecdsa_signatures() {
    for &curve in Curve::ALL {
        let bench = Bench::new();
        let pair = keys::curve(curve);
        bench.keys(&pair);
        bench.put("data", b"some data");
        let kinds = [
            ("sha1", M::ECDSA_SHA1),
            ("sha224", M::ECDSA_SHA224),
            ("sha256", M::ECDSA_SHA256),
            ("sha384", M::ECDSA_SHA384),
            ("sha512", M::ECDSA_SHA512),
            ("sha3-224", M::ECDSA_SHA3_224),
            ("sha3-256", M::ECDSA_SHA3_256),
            ("sha3-384", M::ECDSA_SHA3_384),
            ("sha3-512", M::ECDSA_SHA3_512),
        ];
        for (name, kind) in kinds {
            let mechanism = Mechanism::plain(kind);
            bench.put("sig", &to_der(&sign(&pair.private, &mechanism, b"some data").unwrap()));
            bench.run(&format!("dgst -{name} -verify pub.der -keyform DER -signature sig data"));
            let made = bench.run(&format!("dgst -{name} -sign key.der -keyform DER data"));
            verify(&pair.public, &mechanism, b"some data", &from_der(&made, curve.field_bytes())).unwrap();
        }
    }
}

#[test]
fn openssl_agrees_on_ecdh() {
    for spec in Curve::ALL.iter().map(|&curve| PairSpec::Ec(curve)).chain([PairSpec::X25519]) {
        let (bench, there) = (Bench::new(), Bench::new());
        let (mine, theirs) = (keys::pair(&spec), keys::pair(&spec));
        bench.keys(&mine);
        there.keys(&theirs);
        bench.put("peer.der", &there.get("pub.der"));
        let expected = bench.run("pkeyutl -derive -inkey key.der -keyform DER -peerkey peer.der -peerform DER");
        let point = theirs.public_object.attribute(AttributeKind::EcPoint).and_then(|point| point.as_octets());
        let raw = hsm_core::curve::raw_point(point.unwrap()).unwrap();
        for public_data in [point.unwrap(), raw] {
            let parameters = Parameters::Ecdh { kdf: 1, shared_data: vec![], public_data: public_data.to_vec() };
            let mechanism = with(M::ECDH1_DERIVE, parameters);
            let derive =
                |length| family(M::ECDH1_DERIVE).unwrap().derive(&call(&mine.private, &mechanism), None, length);
            assert_eq!(derive(None).unwrap().expose(), expected);
            assert_eq!(derive(Some(16)).unwrap().expose(), &expected[expected.len() - 16..]);
            assert!(derive(Some(expected.len() + 1)).is_err());
        }
        bench.put("z", &expected);
        let parameters = Parameters::Ecdh { kdf: 7, shared_data: vec![0xAB, 0xCD], public_data: raw.to_vec() };
        let mechanism = with(M::ECDH1_DERIVE, parameters);
        let derived =
            family(M::ECDH1_DERIVE).unwrap().derive(&call(&mine.private, &mechanism), None, Some(100)).unwrap();
        let options =
            format!("-kdfopt digest:SHA384 -kdfopt hexsecret:{} -kdfopt hexinfo:abcd", hex::encode(&expected));
        assert_eq!(derived.expose(), bench.run(&format!("kdf -binary -keylen 100 {options} X963KDF")));
    }
}

#[test]
fn openssl_verifies_and_makes_ed25519_signatures() {
    let bench = Bench::new();
    let pair = keys::pair(&PairSpec::Ed25519);
    bench.keys(&pair);
    bench.put("data", b"some data");
    let mechanism = Mechanism::plain(M::EDDSA);
    bench.put("sig", &sign(&pair.private, &mechanism, b"some data").unwrap());
    bench.run("pkeyutl -verify -pubin -inkey pub.der -keyform DER -rawin -in data -sigfile sig");
    let made = bench.run("pkeyutl -sign -inkey key.der -keyform DER -rawin -in data");
    verify(&pair.public, &mechanism, b"some data", &made).unwrap();
}

#[test]
fn openssl_decrypts_aes() {
    let bench = Bench::new();
    let data: Vec<u8> = (0..96).collect();
    bench.put("data", &data);
    for bytes in [16, 24, 32] {
        let key = secret(KeyType::Aes, &vec![0x2B; bytes]);
        let (bits, hex_key, hex_iv) = (bytes * 8, "2b".repeat(bytes), "07".repeat(16));
        let iv = Parameters::Iv(vec![7; 16]);
        let cases = [
            ("ecb", "-nopad", with(M::AES_ECB, Parameters::None)),
            ("cbc", "-nopad", with(M::AES_CBC, iv.clone())),
            ("cbc", "-v", with(M::AES_CBC_PAD, iv)),
            ("ctr", "-nopad", with(M::AES_CTR, Parameters::Ctr { counter_bits: 128, block: [7; 16] })),
        ];
        for (mode, padding, mechanism) in cases {
            bench.put("secret", &encrypt(&key, &mechanism, &data).unwrap().data);
            let iv = if mode == "ecb" { String::new() } else { format!(" -iv {hex_iv}") };
            let there = format!("enc -d -aes-{bits}-{mode} -K {hex_key}{iv} {padding} -in secret -out back");
            bench.run(&there);
            assert_eq!(bench.get("back"), data, "{mode}");
        }
        let cmac = bench.run(&format!("mac -binary -in data -cipher AES-{bits}-CBC -macopt hexkey:{hex_key} CMAC"));
        assert_eq!(sign(&key, &Mechanism::plain(M::AES_CMAC), &data).unwrap(), cmac);
        let gmac = bench.run(&format!(
            "mac -binary -in data -cipher AES-{bits}-GCM -macopt hexkey:{hex_key} -macopt hexiv:{hex_iv} GMAC"
        ));
        assert_eq!(sign(&key, &with(M::AES_GMAC, Parameters::Iv(vec![7; 16])), &data).unwrap(), gmac);
    }
}

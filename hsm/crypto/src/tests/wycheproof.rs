//! C2SP's Wycheproof vectors, whole files: a valid one must give its result, an invalid one must be refused.

use hsm_core::curve::{Curve, ED25519_PARAMS, X25519_PARAMS};
use hsm_protocol::mechanism::{HkdfSalt, mgf};
use hsm_protocol::{AttributeKind as A, KeyType, Mechanism, MechanismKind as M, Parameters, Template};
use serde_json::Value;

use super::keys::{call, decrypt, encrypt, import_private, import_public, secret, sign, verify, with};
use crate::key::Key;
use crate::mechanism::family;

/// What the vectors want. "Acceptable" ones may go either way.
fn judge(file: &str, test: &Value, right: bool) {
    let (wanted, id) = (text(test, "result"), &test["tcId"]);
    assert!(wanted != "valid" || right, "{file} {id}: a valid one was refused: {}", text(test, "comment"));
    assert!(wanted != "invalid" || !right, "{file} {id}: an invalid one was taken: {}", text(test, "comment"));
}

fn run(file: &str, json: &str, check: impl Fn(&Value, &Value) -> Option<bool>) {
    let set: Value = serde_json::from_str(json).unwrap();
    let mut done = 0;
    for group in set["testGroups"].as_array().unwrap() {
        for test in group["tests"].as_array().unwrap() {
            if let Some(right) = check(group, test) {
                judge(file, test, right);
                done += 1;
            }
        }
    }
    assert!(done > 0, "{file}: nothing was tried");
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn bytes(value: &Value, name: &str) -> Vec<u8> {
    hex::decode(text(value, name)).unwrap_or_else(|_| panic!("{name} is not hexadecimal"))
}

/// A number as PKCS#11 has it: without leading zeros.
fn number(value: &Value, name: &str) -> Vec<u8> {
    let digits = text(value, name);
    let even = if digits.len().is_multiple_of(2) { digits.to_owned() } else { format!("0{digits}") };
    let whole = hex::decode(even).unwrap();
    whole.into_iter().skip_while(|&byte| byte == 0).collect()
}

fn hash(name: &str) -> Option<(M, u64)> {
    Some(match name {
        "SHA-1" => (M::SHA_1, mgf::SHA1),
        "SHA-224" => (M::SHA224, mgf::SHA224),
        "SHA-256" => (M::SHA256, mgf::SHA256),
        "SHA-384" => (M::SHA384, mgf::SHA384),
        "SHA-512" => (M::SHA512, mgf::SHA512),
        "SHA3-224" => (M::SHA3_224, mgf::SHA3_224),
        "SHA3-256" => (M::SHA3_256, mgf::SHA3_256),
        "SHA3-384" => (M::SHA3_384, mgf::SHA3_384),
        "SHA3-512" => (M::SHA3_512, mgf::SHA3_512),
        _ => return None,
    })
}

#[test]
fn aes_gcm() {
    run("aes_gcm", wycheproof::aead::TestName::AesGcm.json_data(), |group, test| {
        let key = secret(KeyType::Aes, &bytes(test, "key"));
        let tag_bits = u32::try_from(group["tagSize"].as_u64()?).ok()?;
        let (iv, additional_data) = (bytes(test, "iv"), bytes(test, "aad"));
        let mechanism = with(M::AES_GCM, Parameters::Gcm { iv, additional_data, tag_bits, generate_iv: false });
        let whole = [bytes(test, "ct"), bytes(test, "tag")].concat();
        let opened = decrypt(&key, &mechanism, &whole).is_ok_and(|opened| opened == bytes(test, "msg"));
        let sealed = encrypt(&key, &mechanism, &bytes(test, "msg")).is_ok_and(|sealed| sealed.data == whole);
        Some(opened && sealed)
    });
}

#[test]
fn aes_cbc_with_padding() {
    run("aes_cbc_pkcs5", wycheproof::cipher::TestName::AesCbcPkcs5.json_data(), |_, test| {
        let key = secret(KeyType::Aes, &bytes(test, "key"));
        let mechanism = with(M::AES_CBC_PAD, Parameters::Iv(bytes(test, "iv")));
        Some(decrypt(&key, &mechanism, &bytes(test, "ct")).is_ok_and(|opened| opened == bytes(test, "msg")))
    });
}

#[test]
fn macs() {
    use wycheproof::mac::TestName as N;
    let files = [
        (N::AesCmac, M::AES_CMAC_GENERAL, KeyType::Aes),
        (N::HmacSha1, M::SHA_1_HMAC_GENERAL, KeyType::GenericSecret),
        (N::HmacSha224, M::SHA224_HMAC_GENERAL, KeyType::GenericSecret),
        (N::HmacSha256, M::SHA256_HMAC_GENERAL, KeyType::GenericSecret),
        (N::HmacSha384, M::SHA384_HMAC_GENERAL, KeyType::GenericSecret),
        (N::HmacSha512, M::SHA512_HMAC_GENERAL, KeyType::GenericSecret),
        (N::HmacSha3_224, M::SHA3_224_HMAC_GENERAL, KeyType::GenericSecret),
        (N::HmacSha3_256, M::SHA3_256_HMAC_GENERAL, KeyType::GenericSecret),
        (N::HmacSha3_384, M::SHA3_384_HMAC_GENERAL, KeyType::GenericSecret),
        (N::HmacSha3_512, M::SHA3_512_HMAC_GENERAL, KeyType::GenericSecret),
    ];
    for (file, kind, key_type) in files {
        run(kind.name().unwrap(), file.json_data(), |group, test| {
            let value = bytes(test, "key");
            if key_type == KeyType::Aes && ![16, 24, 32].contains(&value.len()) {
                return None;
            }
            let key = secret(key_type, &value);
            let mechanism = with(kind, Parameters::OutputLength(group["tagSize"].as_u64()? / 8));
            Some(verify(&key, &mechanism, &bytes(test, "msg"), &bytes(test, "tag")).is_ok())
        });
    }
}

#[test]
fn key_wraps() {
    use wycheproof::keywrap::TestName as N;
    for (file, kind) in [(N::AesKeyWrap, M::AES_KEY_WRAP), (N::AesKeyWrapWithPadding, M::AES_KEY_WRAP_PAD)] {
        run(kind.name().unwrap(), file.json_data(), |_, test| {
            let key = secret(KeyType::Aes, &bytes(test, "key"));
            let mechanism = Mechanism::plain(kind);
            let opened = decrypt(&key, &mechanism, &bytes(test, "ct")).is_ok_and(|opened| opened == bytes(test, "msg"));
            let wrapped =
                encrypt(&key, &mechanism, &bytes(test, "msg")).is_ok_and(|made| made.data == bytes(test, "ct"));
            Some(opened && wrapped)
        });
    }
}

#[test]
fn hkdf() {
    use wycheproof::hkdf::TestName as N;
    let files =
        [(N::HkdfSha1, M::SHA_1), (N::HkdfSha256, M::SHA256), (N::HkdfSha384, M::SHA384), (N::HkdfSha512, M::SHA512)];
    for (file, hash) in files {
        run("hkdf", file.json_data(), |_, test| {
            let key = secret(KeyType::Hkdf, &bytes(test, "ikm"));
            let parameters = Parameters::Hkdf {
                extract: true,
                expand: true,
                hash,
                salt: HkdfSalt::Data(bytes(test, "salt")),
                info: bytes(test, "info"),
            };
            let mechanism = with(M::HKDF_DERIVE, parameters);
            let length = usize::try_from(test["size"].as_u64()?).ok();
            let derived = family(M::HKDF_DERIVE).unwrap().derive(&call(&key, &mechanism), None, length);
            Some(derived.is_ok_and(|derived| derived.expose() == bytes(test, "okm")))
        });
    }
}

fn curve(name: &str) -> Option<Curve> {
    Some(match name {
        "secp256r1" => Curve::P256,
        "secp384r1" => Curve::P384,
        "secp521r1" => Curve::P521,
        "secp256k1" => Curve::Secp256k1,
        _ => return None,
    })
}

#[test]
fn ecdsa() {
    use wycheproof::ecdsa::TestName;
    let mut files = 0;
    for file in TestName::all() {
        let json = file.json_data();
        let set: Value = serde_json::from_str(json).unwrap();
        let group = &set["testGroups"][0];
        let known = curve(text(&group["publicKey"], "curve")).zip(hash(text(group, "sha")));
        let Some(_) = known.filter(|_| text(&set, "schema").contains("p1363")) else { continue };
        files += 1;
        run("ecdsa p1363", json, |group, test| {
            let curve = curve(text(&group["publicKey"], "curve"))?;
            let (hash, _) = hash(text(group, "sha"))?;
            let attributes = Template::new()
                .with_octets(A::EcParams, curve.params())
                .with_octets(A::EcPoint, bytes(&group["publicKey"], "uncompressed"));
            let key = import_public(KeyType::Ec, &attributes).unwrap_or_else(|_| panic!("{}", group["publicKey"]));
            let digest = crate::digest(&Mechanism::plain(hash), &bytes(test, "msg")).unwrap();
            let right = verify(&key, &Mechanism::plain(M::ECDSA), &digest, &bytes(test, "sig")).is_ok();
            // Halves without leading zeros are taken on purpose; the vectors call them invalid by their size alone.
            let flags = test["flags"].as_array()?;
            let by_size = flags.iter().any(|flag| flag == "SignatureSize");
            if by_size && right { None } else { Some(right) }
        });
    }
    assert!(files >= 6, "{files} files");
}

#[test]
fn ecdh() {
    for file in wycheproof::ecdh::TestName::all() {
        let json = file.json_data();
        let set: Value = serde_json::from_str(json).unwrap();
        if text(&set, "schema") != "ecdh_ecpoint_test_schema_v1.json"
            && text(&set, "schema") != "ecdh_ecpoint_test_schema.json"
        {
            continue;
        }
        if curve(text(&set["testGroups"][0], "curve")).is_none() {
            continue;
        }
        run("ecdh", json, |group, test| {
            let curve = curve(text(group, "curve"))?;
            let attributes =
                Template::new().with_octets(A::EcParams, curve.params()).with_octets(A::Value, number(test, "private"));
            let (object, payload) = import_private(KeyType::Ec, &attributes).unwrap();
            let key = Key::load(&object, Some(&payload)).unwrap();
            let parameters = Parameters::Ecdh { kdf: 1, shared_data: vec![], public_data: bytes(test, "public") };
            let mechanism = with(M::ECDH1_DERIVE, parameters);
            let shared = family(M::ECDH1_DERIVE).unwrap().derive(&call(&key, &mechanism), None, None);
            Some(shared.is_ok_and(|shared| shared.expose() == bytes(test, "shared")))
        });
    }
}

#[test]
fn x25519() {
    run("x25519", wycheproof::xdh::TestName::X25519.json_data(), |_, test| {
        let attributes =
            Template::new().with_octets(A::EcParams, X25519_PARAMS).with_octets(A::Value, bytes(test, "private"));
        let (object, payload) = import_private(KeyType::EcMontgomery, &attributes).unwrap();
        let key = Key::load(&object, Some(&payload)).unwrap();
        let parameters = Parameters::Ecdh { kdf: 1, shared_data: vec![], public_data: bytes(test, "public") };
        let mechanism = with(M::ECDH1_DERIVE, parameters);
        let shared = family(M::ECDH1_DERIVE).unwrap().derive(&call(&key, &mechanism), None, None);
        Some(shared.is_ok_and(|shared| shared.expose() == bytes(test, "shared")))
    });
}

#[test]
fn ed25519() {
    run("ed25519", wycheproof::eddsa::TestName::Ed25519.json_data(), |group, test| {
        let attributes = Template::new()
            .with_octets(A::EcParams, ED25519_PARAMS)
            .with_octets(A::EcPoint, bytes(&group["publicKey"], "pk"));
        let key = import_public(KeyType::EcEdwards, &attributes).unwrap();
        Some(verify(&key, &Mechanism::plain(M::EDDSA), &bytes(test, "msg"), &bytes(test, "sig")).is_ok())
    });
}

/// Attributes of an RSA key of the vectors.
fn rsa_attributes(key: &Value, private: bool) -> Template {
    let mut attributes = Template::new()
        .with_octets(A::Modulus, number(key, "modulus"))
        .with_octets(A::PublicExponent, number(key, "publicExponent"));
    if private {
        attributes = attributes
            .with_octets(A::PrivateExponent, number(key, "privateExponent"))
            .with_octets(A::Prime1, number(key, "prime1"))
            .with_octets(A::Prime2, number(key, "prime2"))
            .with_octets(A::Exponent1, number(key, "exponent1"))
            .with_octets(A::Exponent2, number(key, "exponent2"))
            .with_octets(A::Coefficient, number(key, "coefficient"));
    }
    attributes
}

#[test]
fn rsa_signatures() {
    for file in wycheproof::rsa_pkcs1_verify::TestName::all() {
        let set: Value = serde_json::from_str(file.json_data()).unwrap();
        let Some((hash, _)) = hash(text(&set["testGroups"][0], "sha")) else { continue };
        let row = hsm_core::mechanisms::TABLE
            .iter()
            .find(|row| row.hash == Some(hash) && row.kind.name().is_some_and(|name| name.ends_with("RSA_PKCS")));
        let mechanism = Mechanism::plain(row.unwrap().kind);
        run("rsa_signature", file.json_data(), |group, test| {
            let key = import_public(KeyType::Rsa, &rsa_attributes(&group["publicKey"], false)).unwrap();
            Some(verify(&key, &mechanism, &bytes(test, "msg"), &bytes(test, "sig")).is_ok())
        });
    }
}

#[test]
fn rsa_pss() {
    for file in wycheproof::rsa_pss_verify::TestName::all() {
        let set: Value = serde_json::from_str(file.json_data()).unwrap();
        let group = &set["testGroups"][0];
        if hash(text(group, "sha")).is_none() || hash(text(group, "mgfSha")).is_none() {
            continue;
        }
        run("rsa_pss", file.json_data(), |group, test| {
            let ((hash, _), (_, mgf)) = (hash(text(group, "sha"))?, hash(text(group, "mgfSha"))?);
            let key = import_public(KeyType::Rsa, &rsa_attributes(&group["publicKey"], false)).ok()?;
            let mechanism = with(M::RSA_PKCS_PSS, Parameters::Pss { hash, mgf, salt_length: group["sLen"].as_u64()? });
            let digest = crate::digest(&Mechanism::plain(hash), &bytes(test, "msg")).unwrap();
            Some(verify(&key, &mechanism, &digest, &bytes(test, "sig")).is_ok())
        });
    }
}

#[test]
fn rsa_oaep() {
    for file in wycheproof::rsa_oaep::TestName::all() {
        let set: Value = serde_json::from_str(file.json_data()).unwrap();
        let group = &set["testGroups"][0];
        if hash(text(group, "sha")).is_none() || hash(text(group, "mgfSha")).is_none() {
            continue;
        }
        run("rsa_oaep", file.json_data(), |group, test| {
            let ((hash, _), (_, mgf)) = (hash(text(group, "sha"))?, hash(text(group, "mgfSha"))?);
            let (object, payload) = import_private(KeyType::Rsa, &rsa_attributes(&group["privateKey"], true)).ok()?;
            let key = Key::load(&object, Some(&payload)).unwrap();
            let mechanism = with(M::RSA_PKCS_OAEP, Parameters::Oaep { hash, mgf, label: bytes(test, "label") });
            Some(decrypt(&key, &mechanism, &bytes(test, "ct")).is_ok_and(|opened| opened == bytes(test, "msg")))
        });
    }
}

#[test]
fn rsa_decryption() {
    for file in wycheproof::rsa_pkcs1_decrypt::TestName::all() {
        run("rsa_pkcs1", file.json_data(), |group, test| {
            let attributes = rsa_attributes(&group["privateKey"], true);
            let (object, payload) = import_private(KeyType::Rsa, &attributes).unwrap();
            let key = Key::load(&object, Some(&payload)).unwrap();
            let opened = decrypt(&key, &Mechanism::plain(M::RSA_PKCS), &bytes(test, "ct"));
            Some(opened.is_ok_and(|opened| opened == bytes(test, "msg")))
        });
    }
    assert!(sign(&secret(KeyType::Aes, &[0; 16]), &Mechanism::plain(M::RSA_PKCS), &[]).is_err());
}

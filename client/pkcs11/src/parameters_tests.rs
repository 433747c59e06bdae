//! Parameters as C callers give them.

use hsm_protocol::mechanism::{kdf, mgf};

use super::*;

const STANDARD: &[(MechanismKind, CK_ULONG)] = &[
    (MechanismKind::RSA_PKCS_KEY_PAIR_GEN, CKM_RSA_PKCS_KEY_PAIR_GEN),
    (MechanismKind::RSA_PKCS, CKM_RSA_PKCS),
    (MechanismKind::RSA_X_509, CKM_RSA_X_509),
    (MechanismKind::SHA1_RSA_PKCS, CKM_SHA1_RSA_PKCS),
    (MechanismKind::RSA_PKCS_OAEP, CKM_RSA_PKCS_OAEP),
    (MechanismKind::RSA_X9_31_KEY_PAIR_GEN, CKM_RSA_X9_31_KEY_PAIR_GEN),
    (MechanismKind::RSA_PKCS_PSS, CKM_RSA_PKCS_PSS),
    (MechanismKind::SHA1_RSA_PKCS_PSS, CKM_SHA1_RSA_PKCS_PSS),
    (MechanismKind::SHA256_RSA_PKCS, CKM_SHA256_RSA_PKCS),
    (MechanismKind::SHA384_RSA_PKCS, CKM_SHA384_RSA_PKCS),
    (MechanismKind::SHA512_RSA_PKCS, CKM_SHA512_RSA_PKCS),
    (MechanismKind::SHA256_RSA_PKCS_PSS, CKM_SHA256_RSA_PKCS_PSS),
    (MechanismKind::SHA384_RSA_PKCS_PSS, CKM_SHA384_RSA_PKCS_PSS),
    (MechanismKind::SHA512_RSA_PKCS_PSS, CKM_SHA512_RSA_PKCS_PSS),
    (MechanismKind::SHA224_RSA_PKCS, CKM_SHA224_RSA_PKCS),
    (MechanismKind::SHA224_RSA_PKCS_PSS, CKM_SHA224_RSA_PKCS_PSS),
    (MechanismKind::SHA3_256_RSA_PKCS, CKM_SHA3_256_RSA_PKCS),
    (MechanismKind::SHA3_384_RSA_PKCS, CKM_SHA3_384_RSA_PKCS),
    (MechanismKind::SHA3_512_RSA_PKCS, CKM_SHA3_512_RSA_PKCS),
    (MechanismKind::SHA3_256_RSA_PKCS_PSS, CKM_SHA3_256_RSA_PKCS_PSS),
    (MechanismKind::SHA3_384_RSA_PKCS_PSS, CKM_SHA3_384_RSA_PKCS_PSS),
    (MechanismKind::SHA3_512_RSA_PKCS_PSS, CKM_SHA3_512_RSA_PKCS_PSS),
    (MechanismKind::SHA3_224_RSA_PKCS, CKM_SHA3_224_RSA_PKCS),
    (MechanismKind::SHA3_224_RSA_PKCS_PSS, CKM_SHA3_224_RSA_PKCS_PSS),
    (MechanismKind::SHA_1, CKM_SHA_1),
    (MechanismKind::SHA_1_HMAC, CKM_SHA_1_HMAC),
    (MechanismKind::SHA_1_HMAC_GENERAL, CKM_SHA_1_HMAC_GENERAL),
    (MechanismKind::SHA256, CKM_SHA256),
    (MechanismKind::SHA256_HMAC, CKM_SHA256_HMAC),
    (MechanismKind::SHA256_HMAC_GENERAL, CKM_SHA256_HMAC_GENERAL),
    (MechanismKind::SHA224, CKM_SHA224),
    (MechanismKind::SHA224_HMAC, CKM_SHA224_HMAC),
    (MechanismKind::SHA224_HMAC_GENERAL, CKM_SHA224_HMAC_GENERAL),
    (MechanismKind::SHA384, CKM_SHA384),
    (MechanismKind::SHA384_HMAC, CKM_SHA384_HMAC),
    (MechanismKind::SHA384_HMAC_GENERAL, CKM_SHA384_HMAC_GENERAL),
    (MechanismKind::SHA512, CKM_SHA512),
    (MechanismKind::SHA512_HMAC, CKM_SHA512_HMAC),
    (MechanismKind::SHA512_HMAC_GENERAL, CKM_SHA512_HMAC_GENERAL),
    (MechanismKind::SHA3_256, CKM_SHA3_256),
    (MechanismKind::SHA3_256_HMAC, CKM_SHA3_256_HMAC),
    (MechanismKind::SHA3_256_HMAC_GENERAL, CKM_SHA3_256_HMAC_GENERAL),
    (MechanismKind::SHA3_256_KEY_GEN, CKM_SHA3_256_KEY_GEN),
    (MechanismKind::SHA3_224, CKM_SHA3_224),
    (MechanismKind::SHA3_224_HMAC, CKM_SHA3_224_HMAC),
    (MechanismKind::SHA3_224_HMAC_GENERAL, CKM_SHA3_224_HMAC_GENERAL),
    (MechanismKind::SHA3_224_KEY_GEN, CKM_SHA3_224_KEY_GEN),
    (MechanismKind::SHA3_384, CKM_SHA3_384),
    (MechanismKind::SHA3_384_HMAC, CKM_SHA3_384_HMAC),
    (MechanismKind::SHA3_384_HMAC_GENERAL, CKM_SHA3_384_HMAC_GENERAL),
    (MechanismKind::SHA3_384_KEY_GEN, CKM_SHA3_384_KEY_GEN),
    (MechanismKind::SHA3_512, CKM_SHA3_512),
    (MechanismKind::SHA3_512_HMAC, CKM_SHA3_512_HMAC),
    (MechanismKind::SHA3_512_HMAC_GENERAL, CKM_SHA3_512_HMAC_GENERAL),
    (MechanismKind::SHA3_512_KEY_GEN, CKM_SHA3_512_KEY_GEN),
    (MechanismKind::GENERIC_SECRET_KEY_GEN, CKM_GENERIC_SECRET_KEY_GEN),
    (MechanismKind::CONCATENATE_BASE_AND_KEY, CKM_CONCATENATE_BASE_AND_KEY),
    (MechanismKind::CONCATENATE_BASE_AND_DATA, CKM_CONCATENATE_BASE_AND_DATA),
    (MechanismKind::CONCATENATE_DATA_AND_BASE, CKM_CONCATENATE_DATA_AND_BASE),
    (MechanismKind::XOR_BASE_AND_DATA, CKM_XOR_BASE_AND_DATA),
    (MechanismKind::SHA1_KEY_DERIVATION, CKM_SHA1_KEY_DERIVATION),
    (MechanismKind::SHA256_KEY_DERIVATION, CKM_SHA256_KEY_DERIVATION),
    (MechanismKind::SHA384_KEY_DERIVATION, CKM_SHA384_KEY_DERIVATION),
    (MechanismKind::SHA512_KEY_DERIVATION, CKM_SHA512_KEY_DERIVATION),
    (MechanismKind::SHA224_KEY_DERIVATION, CKM_SHA224_KEY_DERIVATION),
    (MechanismKind::EC_KEY_PAIR_GEN, CKM_EC_KEY_PAIR_GEN),
    (MechanismKind::ECDSA, CKM_ECDSA),
    (MechanismKind::ECDSA_SHA1, CKM_ECDSA_SHA1),
    (MechanismKind::ECDSA_SHA224, CKM_ECDSA_SHA224),
    (MechanismKind::ECDSA_SHA256, CKM_ECDSA_SHA256),
    (MechanismKind::ECDSA_SHA384, CKM_ECDSA_SHA384),
    (MechanismKind::ECDSA_SHA512, CKM_ECDSA_SHA512),
    (MechanismKind::ECDSA_SHA3_224, CKM_ECDSA_SHA3_224),
    (MechanismKind::ECDSA_SHA3_256, CKM_ECDSA_SHA3_256),
    (MechanismKind::ECDSA_SHA3_384, CKM_ECDSA_SHA3_384),
    (MechanismKind::ECDSA_SHA3_512, CKM_ECDSA_SHA3_512),
    (MechanismKind::ECDH1_DERIVE, CKM_ECDH1_DERIVE),
    (MechanismKind::ECDH1_COFACTOR_DERIVE, CKM_ECDH1_COFACTOR_DERIVE),
    (MechanismKind::EC_EDWARDS_KEY_PAIR_GEN, CKM_EC_EDWARDS_KEY_PAIR_GEN),
    (MechanismKind::EC_MONTGOMERY_KEY_PAIR_GEN, CKM_EC_MONTGOMERY_KEY_PAIR_GEN),
    (MechanismKind::EDDSA, CKM_EDDSA),
    (MechanismKind::AES_KEY_GEN, CKM_AES_KEY_GEN),
    (MechanismKind::AES_ECB, CKM_AES_ECB),
    (MechanismKind::AES_CBC, CKM_AES_CBC),
    (MechanismKind::AES_MAC, CKM_AES_MAC),
    (MechanismKind::AES_CBC_PAD, CKM_AES_CBC_PAD),
    (MechanismKind::AES_CTR, CKM_AES_CTR),
    (MechanismKind::AES_GCM, CKM_AES_GCM),
    (MechanismKind::AES_CMAC_GENERAL, CKM_AES_CMAC_GENERAL),
    (MechanismKind::AES_CMAC, CKM_AES_CMAC),
    (MechanismKind::AES_ECB_ENCRYPT_DATA, CKM_AES_ECB_ENCRYPT_DATA),
    (MechanismKind::AES_CBC_ENCRYPT_DATA, CKM_AES_CBC_ENCRYPT_DATA),
    (MechanismKind::AES_GMAC, CKM_AES_GMAC),
    (MechanismKind::AES_KEY_WRAP, CKM_AES_KEY_WRAP),
    (MechanismKind::AES_KEY_WRAP_PAD, CKM_AES_KEY_WRAP_PAD),
    (MechanismKind::AES_KEY_WRAP_KWP, CKM_AES_KEY_WRAP_KWP),
    (MechanismKind::AES_KEY_WRAP_PKCS7, CKM_AES_KEY_WRAP_PKCS7),
    (MechanismKind::SHA_1_KEY_GEN, CKM_SHA_1_KEY_GEN),
    (MechanismKind::SHA224_KEY_GEN, CKM_SHA224_KEY_GEN),
    (MechanismKind::SHA256_KEY_GEN, CKM_SHA256_KEY_GEN),
    (MechanismKind::SHA384_KEY_GEN, CKM_SHA384_KEY_GEN),
    (MechanismKind::SHA512_KEY_GEN, CKM_SHA512_KEY_GEN),
    (MechanismKind::HKDF_DERIVE, CKM_HKDF_DERIVE),
    (MechanismKind::HKDF_DATA, CKM_HKDF_DATA),
    (MechanismKind::HKDF_KEY_GEN, CKM_HKDF_KEY_GEN),
];

#[test]
fn every_mechanism_has_the_number_of_the_standard() {
    for &(kind, number) in STANDARD {
        assert_eq!(kind.0, number, "{:?}", kind.name());
    }
    let known = (0..=0xFFFF).filter(|&number| MechanismKind(number).name().is_some()).count();
    assert_eq!(known, STANDARD.len(), "a mechanism of the protocol is not compared with the standard");
}

#[test]
fn every_mask_generation_and_key_derivation_function_has_the_number_of_the_standard() {
    let table = [
        (mgf::SHA1, CKG_MGF1_SHA1),
        (mgf::SHA224, CKG_MGF1_SHA224),
        (mgf::SHA256, CKG_MGF1_SHA256),
        (mgf::SHA384, CKG_MGF1_SHA384),
        (mgf::SHA512, CKG_MGF1_SHA512),
        (mgf::SHA3_224, CKG_MGF1_SHA3_224),
        (mgf::SHA3_256, CKG_MGF1_SHA3_256),
        (mgf::SHA3_384, CKG_MGF1_SHA3_384),
        (mgf::SHA3_512, CKG_MGF1_SHA3_512),
        (kdf::NULL, CKD_NULL),
        (kdf::SHA1, CKD_SHA1_KDF),
        (kdf::SHA224, CKD_SHA224_KDF),
        (kdf::SHA256, CKD_SHA256_KDF),
        (kdf::SHA384, CKD_SHA384_KDF),
        (kdf::SHA512, CKD_SHA512_KDF),
    ];
    for (ours, standard) in table {
        assert_eq!(ours, standard);
    }
}

fn no_key(_: CK_OBJECT_HANDLE) -> Outcome<Reference> {
    refuse(CKR_KEY_HANDLE_INVALID)
}

fn token_key(handle: CK_OBJECT_HANDLE) -> Outcome<Reference> {
    Ok(Reference::Token(handle))
}

fn read_as<T>(kind: MechanismKind, parameters: Option<&mut T>) -> Outcome<ReadMechanism> {
    let length = if parameters.is_some() { size_of::<T>() as CK_ULONG } else { 0 };
    let pointer = parameters.map_or(std::ptr::null_mut(), |parameters| std::ptr::from_mut(parameters).cast());
    let mechanism = CK_MECHANISM { mechanism: kind.0, pParameter: pointer, ulParameterLen: length };
    // SAFETY: the parameters live as long as this call.
    unsafe { read(&raw const mechanism, &token_key) }
}

fn plain(kind: MechanismKind) -> Outcome<ReadMechanism> {
    read_as::<u8>(kind, None)
}

#[test]
fn null_mechanisms_and_null_parameters_with_a_length_are_refused() {
    // SAFETY: NULL is allowed.
    let null = unsafe { read(std::ptr::null(), &no_key) };
    assert_eq!(null.err(), Some(ReturnValue(CKR_ARGUMENTS_BAD)));
    let mechanism = CK_MECHANISM { mechanism: CKM_AES_CBC, pParameter: std::ptr::null_mut(), ulParameterLen: 16 };
    // SAFETY: the pointer inside is NULL.
    assert_eq!(unsafe { read(&raw const mechanism, &no_key) }.err(), Some(INVALID));
}

#[test]
fn a_mechanism_without_parameters_takes_none_and_one_with_takes_its_own_length() {
    assert!(plain(MechanismKind::ECDSA).is_ok());
    assert_eq!(read_as(MechanismKind::ECDSA, Some(&mut 0u32)).err(), Some(INVALID));
    assert_eq!(plain(MechanismKind::AES_CBC).err(), Some(INVALID));
    assert_eq!(read_as(MechanismKind::AES_CBC, Some(&mut [0u8; 15])).err(), Some(INVALID));
    assert!(read_as(MechanismKind::AES_CBC, Some(&mut [0u8; 16])).is_ok());
    assert!(plain(MechanismKind::AES_KEY_WRAP).is_ok());
    assert_eq!(read_as(MechanismKind::AES_KEY_WRAP_KWP, Some(&mut [0u8; 8])).err(), Some(INVALID));
}

#[test]
fn both_layouts_of_gcm_parameters_are_read() {
    let (mut iv, mut data) = ([1u8; 12], [2u8; 3]);
    let mut whole = CK_GCM_PARAMS {
        pIv: iv.as_mut_ptr(),
        ulIvLen: 12,
        ulIvBits: 96,
        pAAD: data.as_mut_ptr(),
        ulAADLen: 3,
        ulTagBits: 128,
    };
    let mut short: [u64; 5] = [iv.as_mut_ptr() as u64, 12, data.as_mut_ptr() as u64, 3, 128];
    let expected = Parameters::Gcm { iv: vec![1; 12], additional_data: vec![2; 3], tag_bits: 128, generate_iv: false };
    assert!(*read_as(MechanismKind::AES_GCM, Some(&mut whole)).unwrap().parameters() == expected);
    assert!(*read_as(MechanismKind::AES_GCM, Some(&mut short)).unwrap().parameters() == expected);
    whole.ulTagBits = 129;
    assert_eq!(read_as(MechanismKind::AES_GCM, Some(&mut whole)).err(), Some(INVALID));
    whole.ulTagBits = 128;
    whole.ulIvLen = 0;
    assert_eq!(read_as(MechanismKind::AES_GCM, Some(&mut whole)).err(), Some(INVALID), "an empty IV was taken");
    whole.ulIvLen = 12;
    whole.pAAD = std::ptr::null_mut();
    assert_eq!(read_as(MechanismKind::AES_GCM, Some(&mut whole)).err(), Some(INVALID));
}

#[test]
fn oaep_without_a_label_may_leave_the_source_open_and_with_one_must_name_it() {
    let mut parameters = CK_RSA_PKCS_OAEP_PARAMS {
        hashAlg: CKM_SHA256,
        mgf: CKG_MGF1_SHA256,
        source: 0,
        pSourceData: std::ptr::null_mut(),
        ulSourceDataLen: 0,
    };
    assert!(read_as(MechanismKind::RSA_PKCS_OAEP, Some(&mut parameters)).is_ok());
    let mut label = [1u8, 2];
    parameters.pSourceData = label.as_mut_ptr().cast();
    parameters.ulSourceDataLen = 2;
    assert_eq!(read_as(MechanismKind::RSA_PKCS_OAEP, Some(&mut parameters)).err(), Some(INVALID));
    parameters.source = CKZ_DATA_SPECIFIED;
    let read = read_as(MechanismKind::RSA_PKCS_OAEP, Some(&mut parameters)).unwrap();
    assert!(matches!(read.parameters(), Parameters::Oaep { label, .. } if label == &[1, 2]));
}

#[test]
fn a_second_key_is_looked_up_and_named_in_the_message() {
    let mut handle: CK_OBJECT_HANDLE = 77;
    let read = read_as(MechanismKind::CONCATENATE_BASE_AND_KEY, Some(&mut handle)).unwrap();
    match read.message(With { sealed_objects: true, ..With::default() }).parameters {
        Some(wire::mechanism::Parameters::OtherKey(reference)) => assert_eq!(reference.token_object, 77),
        _ => panic!("the second key is missing"),
    }
    let mut salt: CK_HKDF_PARAMS = unsafe_zeroed();
    salt.ulSaltType = CKF_HKDF_SALT_KEY;
    salt.hSaltKey = 78;
    let read = read_as(MechanismKind::HKDF_DERIVE, Some(&mut salt)).unwrap();
    assert!(matches!(read.parameters(), Parameters::Hkdf { salt: HkdfSalt::Key(_), .. }));
    salt.ulSaltType = 7;
    assert_eq!(read_as(MechanismKind::HKDF_DERIVE, Some(&mut salt)).err(), Some(INVALID));
}

fn unsafe_zeroed() -> CK_HKDF_PARAMS {
    // SAFETY: numbers and raw pointers, for which zero is a value.
    unsafe { std::mem::zeroed() }
}

#[test]
fn the_remaining_structures_are_read() {
    let mut data = [9u8; 4];
    let mut pss = CK_RSA_PKCS_PSS_PARAMS { hashAlg: CKM_SHA384, mgf: CKG_MGF1_SHA384, sLen: 48 };
    let read = read_as(MechanismKind::RSA_PKCS_PSS, Some(&mut pss)).unwrap();
    assert!(matches!(read.parameters(), Parameters::Pss { salt_length: 48, .. }));
    let mut ctr = CK_AES_CTR_PARAMS { ulCounterBits: 128, cb: [3; 16] };
    assert!(read_as(MechanismKind::AES_CTR, Some(&mut ctr)).is_ok());
    ctr.ulCounterBits = CK_ULONG::MAX;
    assert_eq!(read_as(MechanismKind::AES_CTR, Some(&mut ctr)).err(), Some(INVALID));
    let mut string = CK_KEY_DERIVATION_STRING_DATA { pData: data.as_mut_ptr(), ulLen: 4 };
    let read = read_as(MechanismKind::XOR_BASE_AND_DATA, Some(&mut string)).unwrap();
    assert!(matches!(read.parameters(), Parameters::DerivationData(data) if data == &[9; 4]));
    let mut cbc = CK_AES_CBC_ENCRYPT_DATA_PARAMS { iv: [1; 16], pData: data.as_mut_ptr(), length: 4 };
    assert!(read_as(MechanismKind::AES_CBC_ENCRYPT_DATA, Some(&mut cbc)).is_ok());
    let mut ecdh = CK_ECDH1_DERIVE_PARAMS {
        kdf: CKD_NULL,
        ulSharedDataLen: 0,
        pSharedData: std::ptr::null_mut(),
        ulPublicDataLen: 4,
        pPublicData: data.as_mut_ptr(),
    };
    assert!(read_as(MechanismKind::ECDH1_DERIVE, Some(&mut ecdh)).is_ok());
    let mut eddsa = CK_EDDSA_PARAMS { phFlag: 2, ulContextDataLen: 0, pContextData: std::ptr::null_mut() };
    assert_eq!(read_as(MechanismKind::EDDSA, Some(&mut eddsa)).err(), Some(INVALID));
    eddsa.phFlag = CK_TRUE;
    assert!(read_as(MechanismKind::EDDSA, Some(&mut eddsa)).is_ok());
    let mut length: CK_ULONG = 10;
    let read = read_as(MechanismKind::SHA256_HMAC_GENERAL, Some(&mut length)).unwrap();
    assert!(matches!(read.parameters(), Parameters::OutputLength(10)));
}

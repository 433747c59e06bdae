//! Hostile and honest templates.

use super::*;

fn attribute<T>(kind: CK_ULONG, value: &mut [T]) -> CK_ATTRIBUTE {
    CK_ATTRIBUTE { type_: kind, pValue: value.as_mut_ptr().cast(), ulValueLen: size_of_val(value) as CK_ULONG }
}

fn read(items: &mut [CK_ATTRIBUTE]) -> Outcome<Template> {
    // SAFETY: the tests build arrays from values that live as long.
    unsafe { Attributes::new(items.as_mut_ptr(), items.len() as CK_ULONG) }?.read()
}

fn null(kind: CK_ULONG, length: CK_ULONG) -> CK_ATTRIBUTE {
    CK_ATTRIBUTE { type_: kind, pValue: std::ptr::null_mut(), ulValueLen: length }
}

const STANDARD: &[(AttributeKind, CK_ULONG)] = &[
    (AttributeKind::Class, CKA_CLASS),
    (AttributeKind::Token, CKA_TOKEN),
    (AttributeKind::Private, CKA_PRIVATE),
    (AttributeKind::Label, CKA_LABEL),
    (AttributeKind::UniqueId, CKA_UNIQUE_ID),
    (AttributeKind::Application, CKA_APPLICATION),
    (AttributeKind::Value, CKA_VALUE),
    (AttributeKind::ObjectId, CKA_OBJECT_ID),
    (AttributeKind::CertificateType, CKA_CERTIFICATE_TYPE),
    (AttributeKind::Issuer, CKA_ISSUER),
    (AttributeKind::SerialNumber, CKA_SERIAL_NUMBER),
    (AttributeKind::AcIssuer, CKA_AC_ISSUER),
    (AttributeKind::Owner, CKA_OWNER),
    (AttributeKind::AttributeTypes, CKA_ATTR_TYPES),
    (AttributeKind::Trusted, CKA_TRUSTED),
    (AttributeKind::CertificateCategory, CKA_CERTIFICATE_CATEGORY),
    (AttributeKind::JavaMidpSecurityDomain, CKA_JAVA_MIDP_SECURITY_DOMAIN),
    (AttributeKind::Url, CKA_URL),
    (AttributeKind::HashOfSubjectPublicKey, CKA_HASH_OF_SUBJECT_PUBLIC_KEY),
    (AttributeKind::HashOfIssuerPublicKey, CKA_HASH_OF_ISSUER_PUBLIC_KEY),
    (AttributeKind::NameHashAlgorithm, CKA_NAME_HASH_ALGORITHM),
    (AttributeKind::CheckValue, CKA_CHECK_VALUE),
    (AttributeKind::KeyType, CKA_KEY_TYPE),
    (AttributeKind::Subject, CKA_SUBJECT),
    (AttributeKind::Id, CKA_ID),
    (AttributeKind::Sensitive, CKA_SENSITIVE),
    (AttributeKind::Encrypt, CKA_ENCRYPT),
    (AttributeKind::Decrypt, CKA_DECRYPT),
    (AttributeKind::Wrap, CKA_WRAP),
    (AttributeKind::Unwrap, CKA_UNWRAP),
    (AttributeKind::Sign, CKA_SIGN),
    (AttributeKind::SignRecover, CKA_SIGN_RECOVER),
    (AttributeKind::Verify, CKA_VERIFY),
    (AttributeKind::VerifyRecover, CKA_VERIFY_RECOVER),
    (AttributeKind::Derive, CKA_DERIVE),
    (AttributeKind::StartDate, CKA_START_DATE),
    (AttributeKind::EndDate, CKA_END_DATE),
    (AttributeKind::Modulus, CKA_MODULUS),
    (AttributeKind::ModulusBits, CKA_MODULUS_BITS),
    (AttributeKind::PublicExponent, CKA_PUBLIC_EXPONENT),
    (AttributeKind::PrivateExponent, CKA_PRIVATE_EXPONENT),
    (AttributeKind::Prime1, CKA_PRIME_1),
    (AttributeKind::Prime2, CKA_PRIME_2),
    (AttributeKind::Exponent1, CKA_EXPONENT_1),
    (AttributeKind::Exponent2, CKA_EXPONENT_2),
    (AttributeKind::Coefficient, CKA_COEFFICIENT),
    (AttributeKind::PublicKeyInfo, CKA_PUBLIC_KEY_INFO),
    (AttributeKind::ValueBits, CKA_VALUE_BITS),
    (AttributeKind::ValueLen, CKA_VALUE_LEN),
    (AttributeKind::Extractable, CKA_EXTRACTABLE),
    (AttributeKind::Local, CKA_LOCAL),
    (AttributeKind::NeverExtractable, CKA_NEVER_EXTRACTABLE),
    (AttributeKind::AlwaysSensitive, CKA_ALWAYS_SENSITIVE),
    (AttributeKind::KeyGenMechanism, CKA_KEY_GEN_MECHANISM),
    (AttributeKind::Modifiable, CKA_MODIFIABLE),
    (AttributeKind::Copyable, CKA_COPYABLE),
    (AttributeKind::Destroyable, CKA_DESTROYABLE),
    (AttributeKind::EcParams, CKA_EC_PARAMS),
    (AttributeKind::EcPoint, CKA_EC_POINT),
    (AttributeKind::AlwaysAuthenticate, CKA_ALWAYS_AUTHENTICATE),
    (AttributeKind::WrapWithTrusted, CKA_WRAP_WITH_TRUSTED),
    (AttributeKind::ProfileId, CKA_PROFILE_ID),
    (AttributeKind::WrapTemplate, CKA_WRAP_TEMPLATE),
    (AttributeKind::UnwrapTemplate, CKA_UNWRAP_TEMPLATE),
    (AttributeKind::DeriveTemplate, CKA_DERIVE_TEMPLATE),
    (AttributeKind::AllowedMechanisms, CKA_ALLOWED_MECHANISMS),
];

#[test]
fn every_attribute_has_the_number_of_the_standard() {
    for &(kind, number) in STANDARD {
        assert_eq!(kind as CK_ULONG, number, "{kind:?}");
    }
    for kind in AttributeKind::ALL {
        assert!(STANDARD.iter().any(|(known, _)| known == kind), "{kind:?} is not compared with the standard");
    }
}

#[test]
fn null_with_a_length_and_absurd_lengths_are_values_that_cannot_be() {
    let invalid = Some(ReturnValue(CKR_ATTRIBUTE_VALUE_INVALID));
    assert_eq!(read(&mut [null(CKA_LABEL, 5)]).err(), invalid);
    assert_eq!(read(&mut [null(CKA_LABEL, CK_ULONG::MAX)]).err(), invalid);
    assert_eq!(read(&mut [null(CKA_TOKEN, 0)]).err(), invalid);
    let mut byte = [1u8];
    let mut absurd = attribute(CKA_LABEL, &mut byte);
    absurd.ulValueLen = CK_ULONG::MAX / 2;
    assert_eq!(read(&mut [absurd]).err(), invalid);
    assert!(read(&mut [null(CKA_LABEL, 0)]).is_ok());
}

#[test]
fn flags_and_numbers_have_one_size() {
    let invalid = Some(ReturnValue(CKR_ATTRIBUTE_VALUE_INVALID));
    assert_eq!(read(&mut [attribute(CKA_TOKEN, &mut [1u8, 1])]).err(), invalid);
    assert_eq!(read(&mut [attribute(CKA_TOKEN, &mut [2u8])]).err(), invalid);
    assert_eq!(read(&mut [attribute(CKA_CLASS, &mut [3u32])]).err(), invalid);
    let template = read(&mut [attribute(CKA_TOKEN, &mut [1u8]), attribute(CKA_CLASS, &mut [3 as CK_ULONG])]).unwrap();
    assert!(template.is(AttributeKind::Token));
    assert_eq!(template.number(AttributeKind::Class), Some(3));
}

#[test]
fn a_repeated_attribute_may_agree_and_not_contradict() {
    let (mut yes, mut no) = ([1u8], [0u8]);
    let twice = read(&mut [attribute(CKA_TOKEN, &mut yes), attribute(CKA_TOKEN, &mut [1u8])]);
    assert_eq!(twice.unwrap().len(), 1);
    let contradicts = read(&mut [attribute(CKA_TOKEN, &mut yes), attribute(CKA_TOKEN, &mut no)]);
    assert_eq!(contradicts.err(), Some(ReturnValue(CKR_TEMPLATE_INCONSISTENT)));
}

#[test]
fn unknown_attributes_are_refused_but_a_search_for_them_finds_nothing() {
    let mut items = [attribute(0x7777, &mut [1u8])];
    assert_eq!(read(&mut items).err(), Some(ReturnValue(CKR_ATTRIBUTE_TYPE_INVALID)));
    // SAFETY: the array and its value live on this stack.
    let attributes = unsafe { Attributes::new(items.as_mut_ptr(), 1) }.unwrap();
    assert!(attributes.read_for_search().unwrap().is_none());
}

#[test]
fn more_attributes_than_any_template_has_are_bad_arguments() {
    let bad = Some(ReturnValue(CKR_ARGUMENTS_BAD));
    let mut items = vec![null(CKA_LABEL, 0); TEMPLATE_ATTRIBUTES + 1];
    assert_eq!(read(&mut items).err(), bad);
    assert!(read(&mut items[..TEMPLATE_ATTRIBUTES]).is_ok());
    // SAFETY: nothing is read before the count is checked.
    assert_eq!(unsafe { Attributes::new(std::ptr::null_mut(), 1) }.err(), bad);
}

#[test]
fn a_template_in_a_template_in_a_template_is_refused() {
    let mut flag = [1u8];
    let mut inner = [attribute(CKA_SIGN, &mut flag)];
    let mut middle = [attribute(CKA_WRAP_TEMPLATE, &mut inner)];
    assert!(read(&mut middle.clone()).is_ok());
    assert_eq!(
        read(&mut [attribute(CKA_UNWRAP_TEMPLATE, &mut middle)]).err(),
        Some(ReturnValue(CKR_ATTRIBUTE_VALUE_INVALID))
    );
}

fn fill(items: &mut [CK_ATTRIBUTE], found: &[Found]) -> Outcome {
    // SAFETY: the tests build arrays from values that live as long.
    unsafe { Attributes::new(items.as_mut_ptr(), items.len() as CK_ULONG) }.unwrap().fill(found)
}

#[test]
fn every_attribute_gets_its_length_and_the_worst_fault_is_returned() {
    let mut buffer = [0u8; 2];
    let mut items = [null(CKA_LABEL, 0), attribute(CKA_ID, &mut buffer), null(CKA_VALUE, 0), null(CKA_MODULUS, 0)];
    let octets = |bytes: &[u8]| Found::Value(AttributeValue::Octets(bytes.to_vec()));
    let found = [octets(b"name"), octets(b"id3"), Found::Sensitive, Found::Absent];
    assert_eq!(fill(&mut items, &found), Err(ReturnValue(CKR_ATTRIBUTE_SENSITIVE)));
    assert_eq!(items.map(|item| item.ulValueLen), [4, UNAVAILABLE, UNAVAILABLE, UNAVAILABLE]);
    assert_eq!(fill(&mut [null(CKA_MODULUS, 0)], &[Found::Absent]), Err(ReturnValue(CKR_ATTRIBUTE_TYPE_INVALID)));
    assert_eq!(fill(&mut [attribute(CKA_ID, &mut buffer)], &[octets(b"id3")]), Err(ReturnValue(CKR_BUFFER_TOO_SMALL)));
    assert_eq!(fill(&mut [attribute(CKA_ID, &mut buffer)], &[octets(b"id")]), Ok(()));
    assert_eq!(&buffer, b"id");
}

#[test]
fn values_are_written_to_misaligned_places() {
    let mut bytes = [0u8; 1 + NUMBER_BYTES];
    let mut items = [CK_ATTRIBUTE {
        type_: CKA_CLASS,
        pValue: bytes[1..].as_mut_ptr().cast(),
        ulValueLen: NUMBER_BYTES as CK_ULONG,
    }];
    assert_eq!(fill(&mut items, &[Found::Value(AttributeValue::Number(4))]), Ok(()));
    assert_eq!(number(&bytes[1..]), Some(4));
    assert_eq!(read(&mut items).unwrap().number(AttributeKind::Class), Some(4));
}

#[test]
fn an_array_attribute_tells_its_length_then_its_parts_then_their_values() {
    let template = Template::new().with_flag(AttributeKind::Sign, true).with_octets(AttributeKind::Label, "abc");
    let found = [Found::Value(AttributeValue::Template(template))];
    let mut items = [null(CKA_WRAP_TEMPLATE, 0)];
    assert_eq!(fill(&mut items, &found), Ok(()));
    assert_eq!(items[0].ulValueLen, 2 * ATTRIBUTE_STRUCTURE_BYTES as CK_ULONG);
    let mut inner = [null(0, 0), null(0, 0)];
    let mut items = [attribute(CKA_WRAP_TEMPLATE, &mut inner)];
    assert_eq!(fill(&mut items, &found), Ok(()));
    assert_eq!((inner[0].type_, inner[0].ulValueLen), (CKA_LABEL, 3));
    assert_eq!((inner[1].type_, inner[1].ulValueLen), (CKA_SIGN, 1));
    let (mut label, mut flag) = ([0u8; 3], [0u8; 1]);
    inner[0].pValue = label.as_mut_ptr().cast();
    inner[1].pValue = flag.as_mut_ptr().cast();
    let mut items = [attribute(CKA_WRAP_TEMPLATE, &mut inner)];
    assert_eq!(fill(&mut items, &found), Ok(()));
    assert_eq!((&label, flag), (b"abc", [1]));
}

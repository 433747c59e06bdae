//! Templates of `C_UnwrapKey` and `C_DeriveKey`: keys that come out of other keys.

use hsm_protocol::mechanism::HkdfSalt;
use hsm_protocol::{
    AttributeKind as A, ErrorCode, KeyType, Mechanism, MechanismKind, ObjectClass, Parameters, Template,
};

use crate::limits::SECRET_KEY_BYTES;
use crate::object::Object;
use crate::permit::{Derive, Unwrap};
use crate::policy::creation::{Birth, Plan, class_of, key_type_in, require_pairing};
use crate::policy::generation::check_length;
use crate::policy::sight;
use crate::policy::usage::{Use, second_key};
use crate::refusal::Refusal;
use crate::request::Needs;

/// What `C_UnwrapKey` needs.
pub(crate) fn unwrapped(using: &Use<'_>, template: &Template) -> Result<Needs, Refusal> {
    sight::require_crypto_user(using.caller)?;
    let permit = using.permit::<Unwrap>()?;
    let template = forced(using.object, A::UnwrapTemplate, template)?;
    let class = class_of(&template)?;
    let key_type = key_type_in(&template)?.ok_or(Refusal::of(ErrorCode::TemplateIncomplete, A::KeyType))?;
    require_secret(class)?;
    require_pairing(class, key_type)?;
    let length = length(class, key_type, &template)?;
    let (caller, fips) = (using.caller, using.fips);
    let plan = Plan { caller, class, key_type: Some(key_type), birth: Birth::Unwrapped, template: &template, fips };
    Ok(Needs::Unwrap { draft: plan.settle()?, permit, length })
}

/// What `C_DeriveKey` needs.
pub(crate) fn derived(using: &Use<'_>, second: Option<&Object>, template: &Template) -> Result<Needs, Refusal> {
    sight::require_crypto_user(using.caller)?;
    let permit = using.permit::<Derive>()?;
    let second_permit = match (takes_second(using.mechanism), second) {
        (true, Some(second)) => Some(second_key(using, second)?),
        (false, None) => None,
        _ => return Err(Refusal::of_mechanism(ErrorCode::MechanismParameters, using.mechanism.kind)),
    };
    let template = forced(using.object, A::DeriveTemplate, template)?;
    let bases: Vec<_> = [Some(using.object), second].into_iter().flatten().collect();
    let template = inherited(using.mechanism.kind, &bases, template)?;
    let is_data = using.mechanism.kind == MechanismKind::HKDF_DATA;
    let class = if is_data { ObjectClass::Data } else { ObjectClass::SecretKey };
    match template.number(A::Class) {
        Some(number) if number != class as u64 => return Err(Refusal::of(ErrorCode::TemplateInconsistent, A::Class)),
        _ => {}
    }
    let key_type = if is_data { None } else { Some(key_type_in(&template)?.unwrap_or(KeyType::GenericSecret)) };
    if let Some(key_type) = key_type {
        require_pairing(class, key_type)?;
    }
    let length = length(class, key_type.unwrap_or(KeyType::GenericSecret), &template)?;
    let birth = Birth::Derived {
        always_sensitive: bases.iter().all(|base| base.is(A::AlwaysSensitive)),
        never_extractable: bases.iter().all(|base| base.is(A::NeverExtractable)),
    };
    let template = if is_data { without(&template, A::ValueLen) } else { template };
    let (caller, fips) = (using.caller, using.fips);
    let draft = Plan { caller, class, key_type, birth, template: &template, fips }.settle()?;
    Ok(Needs::Derive { draft, permit, second: second_permit, length })
}

/// The template with what the key's own template demands of every key that comes out of it (PKCS#11 3.2 §4.9:
/// `CKA_UNWRAP_TEMPLATE`, `CKA_DERIVE_TEMPLATE`). A caller who wants something else is refused.
fn forced(key: &Object, rule: A, template: &Template) -> Result<Template, Refusal> {
    use hsm_protocol::attribute::AttributeValue;
    let mut template = template.clone();
    if let Some(AttributeValue::Template(demanded)) = key.attribute(rule) {
        for (kind, value) in demanded.iter() {
            match template.get(kind) {
                Some(asked) if asked != value => return Err(Refusal::of(ErrorCode::TemplateInconsistent, kind)),
                _ => template.insert(kind, value.clone()),
            };
        }
    }
    Ok(template)
}

/// Where the derived key contains the base key, it is no less protected (PKCS#11 3.2 §6.43, miscellaneous derivations).
fn inherited(kind: MechanismKind, bases: &[&Object], mut template: Template) -> Result<Template, Refusal> {
    use hsm_protocol::attribute::AttributeValue;
    let contains_base = matches!(
        kind,
        MechanismKind::CONCATENATE_BASE_AND_KEY
            | MechanismKind::CONCATENATE_BASE_AND_DATA
            | MechanismKind::CONCATENATE_DATA_AND_BASE
            | MechanismKind::XOR_BASE_AND_DATA
    );
    let sensitive = bases.iter().any(|base| base.is(A::Sensitive));
    let kept = bases.iter().any(|base| !base.is(A::Extractable));
    for (kind, must, value) in [(A::Sensitive, sensitive, true), (A::Extractable, kept, false)] {
        if contains_base
            && must
            && template
                .insert(kind, AttributeValue::Flag(value))
                .is_some_and(|asked| asked != AttributeValue::Flag(value))
        {
            return Err(Refusal::of(ErrorCode::TemplateInconsistent, kind));
        }
    }
    Ok(template)
}

fn takes_second(mechanism: &Mechanism) -> bool {
    matches!(&mechanism.parameters, Parameters::OtherKey(_) | Parameters::Hkdf { salt: HkdfSalt::Key(_), .. })
}

fn require_secret(class: ObjectClass) -> Result<(), Refusal> {
    let secret = matches!(class, ObjectClass::SecretKey | ObjectClass::PrivateKey);
    if secret { Ok(()) } else { Err(Refusal::of(ErrorCode::TemplateInconsistent, A::Class)) }
}

fn length(class: ObjectClass, key_type: KeyType, template: &Template) -> Result<Option<usize>, Refusal> {
    let Some(length) = template.number(A::ValueLen) else { return Ok(None) };
    if class == ObjectClass::SecretKey {
        check_length(key_type, length)?;
    }
    let length = usize::try_from(length).ok().filter(|&length| length as u64 <= SECRET_KEY_BYTES);
    length.map(Some).ok_or(Refusal::of(ErrorCode::AttributeValue, A::ValueLen))
}

fn without(template: &Template, kind: A) -> Template {
    let mut template = template.clone();
    template.remove(kind);
    template
}

//! Who sees an object, who may change it, and who may put one where.
//!
//! Private objects are seen by their owner, the others by everybody; only the owner changes them. An admin uses no key,
//! but sees every key's metadata, because he marks keys as trusted (AWS CloudHSM: `key list` and `key set-attribute`).

use hsm_protocol::{AttributeKind, ErrorCode, ObjectClass, Role, Template};

use crate::ids::UserId;
use crate::object::Object;
use crate::objects::Scope;
use crate::records::Caller;
use crate::refusal::Refusal;

/// Whether the caller may know that the object exists.
pub(crate) fn sees(caller: Caller, object: &Object) -> bool {
    let is_key = object.class().is_some_and(ObjectClass::is_key);
    !object.is(AttributeKind::Private)
        || (caller.role.is_some() && object.owner() == caller.user)
        || (caller.role == Some(Role::Admin) && is_key)
}

/// Where a caller's searches look; `owners` are all users who own objects. What [`sees`] does not let him see is to be
/// left out besides.
pub(crate) fn scopes(caller: Caller, wanted: &Template, owners: impl Iterator<Item = UserId>) -> Vec<Scope> {
    let private = match caller.role {
        None => Vec::new(),
        Some(Role::Admin) => owners.map(Scope::Owner).collect(),
        Some(_) => vec![Scope::Owner(caller.user)],
    };
    match wanted.flag(AttributeKind::Private) {
        Some(true) => private,
        Some(false) => vec![Scope::Public],
        None => [Scope::Public].into_iter().chain(private).collect(),
    }
}

/// Refuses those who do not see the object.
///
/// # Errors
/// [`ErrorCode::ObjectUnknown`], as if it did not exist.
pub(crate) fn require_sight(caller: Caller, object: &Object) -> Result<(), Refusal> {
    if sees(caller, object) { Ok(()) } else { Err(ErrorCode::ObjectUnknown.into()) }
}

/// Refuses those who do not own the object. What nobody owns (session objects made without login) everybody may change
/// who holds it.
///
/// # Errors
/// [`ErrorCode::ObjectUnknown`] or [`ErrorCode::OwnerRefused`].
pub(crate) fn require_ownership(caller: Caller, object: &Object) -> Result<(), Refusal> {
    require_sight(caller, object)?;
    let owns = object.owner() == caller.user || object.owner() == UserId::NOBODY;
    if owns { Ok(()) } else { Err(ErrorCode::OwnerRefused.into()) }
}

/// Refuses those who may not use keys: admins never do.
///
/// # Errors
/// [`ErrorCode::RoleRefused`].
pub(crate) fn require_key_user(caller: Caller) -> Result<(), Refusal> {
    if matches!(caller.role, None | Some(Role::CryptoUser)) { Ok(()) } else { Err(ErrorCode::RoleRefused.into()) }
}

/// Refuses those who may not make keys with secrets.
///
/// # Errors
/// [`ErrorCode::NotLoggedIn`] or [`ErrorCode::RoleRefused`].
pub(crate) fn require_crypto_user(caller: Caller) -> Result<(), Refusal> {
    match caller.role {
        None => Err(ErrorCode::NotLoggedIn.into()),
        Some(Role::CryptoUser) => Ok(()),
        Some(_) => Err(ErrorCode::RoleRefused.into()),
    }
}

/// Refuses objects that the caller may not make. Without a login, and as an admin, only public session objects without a
/// secret can be made (PKCS#11 3.2 §5.6, R/O and R/W public sessions; token objects need a login here).
///
/// # Errors
/// [`ErrorCode::NotLoggedIn`] or [`ErrorCode::RoleRefused`].
pub(crate) fn require_maker(caller: Caller, class: ObjectClass, attributes: &Template) -> Result<(), Refusal> {
    let has_secret = matches!(class, ObjectClass::PrivateKey | ObjectClass::SecretKey);
    let harmless = !has_secret && !attributes.is(AttributeKind::Token) && !attributes.is(AttributeKind::Private);
    if harmless { Ok(()) } else { require_crypto_user(caller) }
}

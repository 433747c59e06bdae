//! Judges requests before anything is made for them, and says what must be made.

use hsm_protocol::ErrorCode;

use crate::apply;
use crate::policy::usage::Use;
use crate::policy::{change, copying, derivation, generation, import};
use crate::records::Caller;
use crate::refusal::Refusal;
use crate::request::{Draft, Needs, Request};
use crate::state::State;

/// What a request needs.
pub(crate) fn needs(state: &State, caller: Caller, request: Request<'_>) -> Result<Needs, Refusal> {
    let needs = of_object(state, caller, request)?;
    judge_room(state, &needs)?;
    Ok(needs)
}

fn of_object(state: &State, caller: Caller, request: Request<'_>) -> Result<Needs, Refusal> {
    let fips = state.is_fips();
    match request {
        Request::GenerateKey { mechanism, template } => generation::secret_key(caller, mechanism, template, fips),
        Request::GenerateKeyPair { mechanism, public_template, private_template } => {
            generation::key_pair(caller, mechanism, public_template, private_template, fips)
        }
        Request::CreateObject { template } => import::object(caller, template, fips),
        Request::CopyObject { source, template } => copying::copy(caller, source, template, fips),
        Request::SetAttributes { object, template } => {
            let handle = state.objects.handle_of(object.uid());
            Ok(Needs::Replace { handle, object: change::changed(caller, object, template)? })
        }
        Request::DestroyObject { object } => {
            apply::judge_destruction(caller, object)?;
            Ok(Needs::Nothing)
        }
        Request::UnwrapKey { mechanism, unwrapping_key, template, confirmation } => {
            derivation::unwrapped(&Use { caller, object: unwrapping_key, mechanism, confirmation, fips }, template)
        }
        Request::DeriveKey { mechanism, base_key, second, template, confirmation } => {
            let using = Use { caller, object: base_key, mechanism, confirmation, fips };
            derivation::derived(&using, second, template)
        }
        of_users => {
            judge(state, caller, of_users)?;
            Ok(Needs::Nothing)
        }
    }
}

/// Requests about users and policy need nothing made by `hsm-crypto` but verifiers, which the server makes afterwards.
fn judge(state: &State, caller: Caller, request: Request<'_>) -> Result<(), Refusal> {
    match request {
        Request::CreateUser { name, role } => apply::judge_creation(state, caller, name, role),
        Request::DeleteUser { name, role } => apply::judge_deletion(state, caller, name, role, None).map(|_| ()),
        Request::ChangePassword { name, role } => apply::judge_password(state, caller, name, role).map(|_| ()),
        Request::SetUserEnabled { name, role, enabled } => {
            apply::judge_enabling(state, caller, name, role, enabled).map(|_| ())
        }
        Request::LogoutEverywhere { name, role } => {
            apply::judge_logout_everywhere(state, caller, name, role).map(|_| ())
        }
        Request::RegisterTrustAnchor { certificate } => apply::judge_registration(state, caller, certificate),
        Request::DeregisterTrustAnchor { reference } => apply::judge_deregistration(state, caller, reference),
        Request::SetClientCertificates { required } => apply::judge_client_certificates(state, caller, required),
        Request::RemoveMember { hsm } => apply::judge_removal(state, caller, hsm).map(|_| ()),
        Request::ApproveMember { hsm } => apply::judge_approval(state, caller, hsm),
        Request::SetAdmissionRule { rule } => apply::judge_rule(caller, rule),
        Request::SetIsolationWindow { seconds } => apply::judge_window(caller, seconds),
        Request::SetReleaseRule { rule } => apply::judge_release_rule(state, caller, rule),
        Request::BeginReissue => apply::judge_reissue(state, caller).map(|_| ()),
        Request::FinishReissue => apply::judge_waiting_reissue(state, caller).map(|_| ()),
        // Where members are and which rule admits one more is not for strangers.
        Request::ShowCluster if caller.role.is_some() => Ok(()),
        Request::ShowCluster => Err(ErrorCode::NotLoggedIn.into()),
        // AWS's table: basic cluster information and the list of users are for every role, logged in or not.
        Request::ListUsers | Request::ListTrustAnchors => Ok(()),
        _ => Err(ErrorCode::NotSupported.into()),
    }
}

/// Refuses early what the quotas have no room for.
fn judge_room(state: &State, needs: &Needs) -> Result<(), Refusal> {
    let drafts: Vec<&Draft> = match needs {
        Needs::SecretKey { draft, .. }
        | Needs::Import { draft, .. }
        | Needs::Copy { draft, .. }
        | Needs::Unwrap { draft, .. }
        | Needs::Derive { draft, .. } => vec![draft],
        Needs::KeyPair { public, private, .. } => vec![public, private],
        Needs::Replace { .. } | Needs::Nothing => Vec::new(),
    };
    let token = drafts.into_iter().filter(|draft| draft.is_token());
    apply::judge_room(state, token.map(|draft| Some(draft.class())))
}

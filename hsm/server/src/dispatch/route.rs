//! Which chapter runs which message, and what must be true before it does.

use hsm_protocol::wire::request::Body;

use super::call::{Answered, Call, Result};
use super::{
    exchange, hello, login, members, objects, operate, policy, random, reissue, streams, transport_keys, users,
};

/// Whether this version knows a method.
pub(crate) fn is_known(method: u16) -> bool {
    matches!(method, 10..=12 | 20..=24 | 30..=40 | 50..=54 | 70..=75 | 90..=103)
}

/// Whether a method works before a cluster is in service, and in nobody's name.
pub(crate) fn needs_no_login(method: u16) -> bool {
    matches!(method, 10 | 11 | 20 | 21 | 75)
}

/// Runs a message. What acts in the name of a login (or of nobody, where that is allowed) asks first whether it stands.
pub(crate) fn run(call: &Call<'_>, message: Body) -> Result<Answered> {
    let message = match run_without_login(call, message)? {
        Unchecked::Answered(answered) => return Ok(answered),
        Unchecked::Other(message) => message,
    };
    call.check()?;
    call.check_serving()?;
    if let Some(first) = call.first_answer() {
        return first.and_then(|body| call.answer_again(body));
    }
    run_chapter(call, message).or_else(|failure| {
        // The first execution of this call may have come in between, and be the reason of the refusal.
        call.first_answer().map_or(Err(failure), |first| first.and_then(|body| call.answer_again(body)))
    })
}

fn run_chapter(call: &Call<'_>, message: Body) -> Result<Answered> {
    match message {
        Body::Logout(_) => login::log_out(call),
        Body::LogoutEverywhere(message) => users::log_out_everywhere(call, &message),
        Body::ExchangeObjects(message) => exchange::exchange(call, message),
        Body::GenerateKey(message) => objects::generate_key(call, message),
        Body::GenerateKeyPair(message) => objects::generate_key_pair(call, message),
        Body::CreateObject(message) => objects::create(call, message),
        Body::CopyObject(message) => objects::copy(call, message),
        Body::DestroyObject(message) => objects::destroy(call, message),
        Body::GetAttributes(message) => objects::get_attributes(call, message),
        Body::SetAttributes(message) => objects::set_attributes(call, message),
        Body::FindObjects(message) => objects::find(call, message),
        Body::WrapKey(message) => transport_keys::wrap(call, message),
        Body::UnwrapKey(message) => transport_keys::unwrap(call, message),
        Body::DeriveKey(message) => transport_keys::derive(call, message),
        Body::Operate(message) => operate::operate(call, message),
        Body::Stream(message) => streams::part(call, message),
        Body::AbandonStream(message) => streams::abandon(call, &message),
        Body::Random(message) => random::random(call, &message),
        Body::SeedRandom(message) => random::seed(call, message),
        Body::CreateUser(message) => users::create(call, message),
        Body::DeleteUser(message) => users::delete(call, &message),
        Body::ListUsers(_) => users::list(call),
        Body::ChangePassword(message) => users::change_password(call, message),
        Body::SetUserEnabled(message) => users::set_enabled(call, &message),
        Body::RegisterTrustAnchor(message) => policy::register(call, message),
        Body::DeregisterTrustAnchor(message) => policy::deregister(call, &message),
        Body::ListTrustAnchors(_) => policy::list(call),
        Body::SetClientCertificates(message) => policy::require(call, &message),
        Body::SetAdmissionRule(message) => members::set_rule(call, message),
        Body::ApproveMember(message) => members::approve(call, &message),
        Body::SetIsolationWindow(message) => members::set_window(call, &message),
        Body::RemoveMember(message) => members::remove(call, &message),
        Body::GetClusterPolicy(_) => members::policy(call),
        Body::ListMembers(_) => members::list(call),
        Body::BeginReissue(_) => reissue::begin(call),
        Body::GetReissueRequest(_) => reissue::request(call),
        Body::FinishReissue(message) => reissue::finish(call, message),
        Body::SetReleaseRule(message) => members::set_releases(call, message),
        Body::Hello(_)
        | Body::ListMechanisms(_)
        | Body::ClusterInfo(_)
        | Body::Login(_)
        | Body::Attach(_)
        | Body::Activate(_) => unreachable!("these were run above"),
    }
}

enum Unchecked {
    Answered(Answered),
    Other(Body),
}

/// What must work before a cluster is in service, and before anybody is logged in.
fn run_without_login(call: &Call<'_>, message: Body) -> Result<Unchecked> {
    let answered = match message {
        Body::Hello(_) => hello::hello(call),
        Body::ListMechanisms(_) => hello::list_mechanisms(call),
        Body::ClusterInfo(_) => hello::cluster_info(call),
        Body::Login(message) => login::log_in(call, message),
        Body::Attach(message) => login::attach(call, &message),
        Body::Activate(message) => login::activate(call, message),
        other => return Ok(Unchecked::Other(other)),
    };
    answered.map(Unchecked::Answered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hsm_protocol::{convert, wire};

    #[test]
    fn the_known_methods_are_those_of_the_protocol() {
        // Decoding an empty message of each field number gives that body, for exactly the numbers that are known.
        for number in 1..200_u16 {
            let mut bytes = Vec::new();
            prost::encoding::encode_key(u32::from(number), prost::encoding::WireType::LengthDelimited, &mut bytes);
            bytes.push(0);
            let body =
                <wire::Request as prost::Message>::decode(bytes.as_slice()).ok().and_then(|request| request.body);
            assert_eq!(body.map(|body| convert::method(&body)), is_known(number).then_some(number), "{number}");
        }
    }
}

//! Users: made, deleted, listed, their passwords and whether they may log in. The state decides who may do it; it is
//! asked before a password is stretched, and again by the log.

use hsm_core::{Action, Actor, Request};
use hsm_crypto::password;
use hsm_protocol::wire::reply::Body;
use hsm_protocol::{ErrorCode, Role, UserName, wire};

use super::call::{Answered, Call, Effort, Made, Result};
use super::passwords::Password;

fn role(number: u32) -> Result<Role> {
    Ok(Role::from_number(number).ok_or(ErrorCode::Malformed)?)
}

fn allowed(call: &Call<'_>, request: Request<'_>) -> Result<()> {
    call.service.node().read().needs(&call.actor, request)?;
    Ok(())
}

pub(super) fn create(call: &Call<'_>, message: wire::CreateUser) -> Result<Answered> {
    let password = Password::new(message.password);
    let (name, role) = (UserName::new(&message.name)?, role(message.role)?);
    password.check_rules(&name)?;
    allowed(call, Request::CreateUser { name: &name, role })?;
    call.stretched(password, move |verifier| Action::CreateUser { name: name.clone(), role, verifier })
}

pub(super) fn change_password(call: &Call<'_>, message: wire::ChangePassword) -> Result<Answered> {
    let password = Password::new(message.password);
    let (name, role) =
        if message.name.is_empty() { caller(call)? } else { (UserName::new(&message.name)?, role(message.role)?) };
    password.check_rules(&name)?;
    allowed(call, Request::ChangePassword { name: &name, role })?;
    call.stretched(password, move |verifier| Action::ChangePassword { name: name.clone(), role, verifier })
}

/// Name and role of whoever asks.
pub(super) fn caller(call: &Call<'_>) -> Result<(UserName, Role)> {
    let Actor::Session { user, .. } = call.actor else { return Err(ErrorCode::NotLoggedIn.into()) };
    let view = call.service.node().read().user_by_id(user).ok_or(ErrorCode::NotLoggedIn)?;
    Ok((view.name, view.role))
}

impl Call<'_> {
    /// Stretches a password on a password thread and proposes the action that carries it.
    fn stretched(
        &self,
        password: Password,
        action: impl Fn(hsm_core::command::Verifier) -> Action + Send + 'static,
    ) -> Result<Answered> {
        self.change(
            Effort::Password,
            Box::new(move |call| {
                let fips = call.service.node().read().is_fips();
                let verifier = password::make(call.service.module(), password.octets(), fips)?;
                Ok(Made::Action(action(verifier), Box::new(|_, _| Ok(Body::Done(wire::Done {})))))
            }),
        )
    }
}

pub(super) fn delete(call: &Call<'_>, message: &wire::DeleteUser) -> Result<Answered> {
    let (name, role) = (UserName::new(&message.name)?, role(message.role)?);
    allowed(call, Request::DeleteUser { name: &name, role })?;
    call.change_plainly(Action::DeleteUser { name, role })
}

pub(super) fn set_enabled(call: &Call<'_>, message: &wire::SetUserEnabled) -> Result<Answered> {
    let (name, role, enabled) = (UserName::new(&message.name)?, role(message.role)?, message.enabled);
    allowed(call, Request::SetUserEnabled { name: &name, role, enabled })?;
    call.change_plainly(Action::SetUserEnabled { name, role, enabled })
}

pub(super) fn log_out_everywhere(call: &Call<'_>, message: &wire::LogoutEverywhere) -> Result<Answered> {
    let (name, role) =
        if message.user.is_empty() { caller(call)? } else { (UserName::new(&message.user)?, role(message.role)?) };
    allowed(call, Request::LogoutEverywhere { name: &name, role })?;
    call.change_plainly(Action::LogoutEverywhere { name, role })
}

pub(super) fn list(call: &Call<'_>) -> Result<Answered> {
    let state = call.service.node().read();
    state.needs(&call.actor, Request::ListUsers)?;
    let users = state.users();
    drop(state);
    let users = users
        .into_iter()
        .map(|user| wire::User {
            name: user.name.as_str().into(),
            role: user.role as u32,
            locked: user.locked,
            enabled: user.enabled,
            created_at: user.created_at.0,
            keys: user.keys,
            sessions: user.sessions,
        })
        .collect();
    Ok(Answered::Now(Body::ListUsers(wire::ListUsersReply { users })))
}

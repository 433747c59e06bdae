//! `login` and `user …`.

use hsm_client::{Cluster, Login, User};
use hsm_protocol::{ErrorCode, Role};
use serde_json::json;

use crate::answer::{Answer, table};
use crate::command_line::{LoginArguments, UserCommand, Who};
use crate::credentials::Session;
use crate::failure::{Failure, USER_IN_USE};
use crate::unreached::Unreached;

/// Checks credentials by a login that ends at once.
pub(crate) fn log_in(cluster: &Cluster, who: &LoginArguments) -> Result<Answer, Failure> {
    let role = Role::from(who.role);
    let password = who.password.obtain(&format!("Password of {}: ", who.username))?;
    let login = cluster.log_in(&who.username, role, password.as_bytes())?;
    cluster.log_out(login)?;
    let data = json!({ "username": who.username, "role": role.name() });
    let text = format!(
        "user name and password are right: {} may log in as {}. The login was ended again; to work as this user, set \
         KAGIMORI_ROLE and KAGIMORI_PIN.",
        who.username,
        role.name()
    );
    Ok(Answer::new(data, text))
}

/// Runs a command.
pub(crate) fn run(session: &Session<'_>, command: &UserCommand) -> Result<Answer, Failure> {
    let cluster = session.cluster();
    match command {
        UserCommand::Create { who, password } => {
            let acting = session.credentials()?;
            let password = password.choose(&who.username)?;
            let role = who.role.into();
            session.work_as(&acting, |login| {
                Ok(cluster.create_user(login, &who.username, role, password.as_bytes())?)
            })?;
            Ok(about(who, "is made"))
        }
        UserCommand::Delete(who) => session.logged_in(|login| delete(cluster, login, who)),
        UserCommand::ChangePassword { who, password } => {
            let acting = session.credentials()?;
            let password = password.choose(&who.username)?;
            session.work_as(&acting, |login| change_password(cluster, login, who, password.as_bytes()))
        }
        UserCommand::Enable(who) => session.logged_in(|login| enable(cluster, login, who)),
        UserCommand::Disable(who) => {
            let unreached = session
                .logged_in(|login| Ok(cluster.set_user_enabled(login, &who.username, who.role.into(), false)?))?;
            Ok(Unreached::from(unreached).added_to(about(who, "is disabled; his logins have ended")))
        }
        UserCommand::Logout(who) => {
            let unreached =
                session.logged_in(|login| Ok(cluster.log_out_everywhere(login, &who.username, who.role.into())?))?;
            Ok(Unreached::from(unreached).added_to(about(who, "is logged out everywhere")))
        }
        UserCommand::List => {
            let users = session.perhaps_logged_in(|login| Ok(cluster.list_users(login)?))?;
            Ok(list(&users))
        }
    }
}

fn delete(cluster: &Cluster, login: &Login, who: &Who) -> Result<Answer, Failure> {
    match cluster.delete_user(login, &who.username, who.role.into()) {
        Ok(unreached) => Ok(Unreached::from(unreached).added_to(about(who, "is deleted"))),
        Err(error) if error.code() == Some(ErrorCode::UserInUse) => {
            let held = look_up(cluster, login, who)?
                .map_or(String::new(), |user| format!("he has {} key(s) and {} login(s): ", user.keys, user.sessions));
            Err(Failure::from(error).with_next(format!("{held}{USER_IN_USE}")))
        }
        Err(error) => Err(error.into()),
    }
}

fn change_password(cluster: &Cluster, login: &Login, who: &Who, password: &[u8]) -> Result<Answer, Failure> {
    let is_admin = login.role() == Role::Admin;
    let unreached = cluster.change_password(login, Some((who.username.as_str(), who.role.into())), password)?;
    // Only an admin can do this for somebody who is disabled, and a crypto user need not see the list of users.
    let user = if is_admin { look_up(cluster, login, who)? } else { None };
    Ok(Unreached::from(unreached).added_to(about(who, &after_new_password(user.as_ref()))))
}

fn after_new_password(user: Option<&User>) -> String {
    let done = "has a new password; his other logins have ended";
    match user {
        Some(user) if !user.enabled => {
            format!("{done}. He is still disabled: `kagimori user enable` lets him log in")
        }
        _ => done.to_owned(),
    }
}

fn enable(cluster: &Cluster, login: &Login, who: &Who) -> Result<Answer, Failure> {
    cluster.set_user_enabled(login, &who.username, who.role.into(), true)?;
    Ok(about(who, after_enabling(look_up(cluster, login, who)?.as_ref())))
}

fn after_enabling(user: Option<&User>) -> &'static str {
    match user {
        Some(user) if user.locked => {
            "is enabled, and still locked by wrong passwords: `kagimori user change-password` unlocks him"
        }
        _ => "is enabled and may log in",
    }
}

fn look_up(cluster: &Cluster, login: &Login, who: &Who) -> Result<Option<User>, Failure> {
    let role = Role::from(who.role);
    let users = cluster.list_users(Some(login))?;
    Ok(users.into_iter().find(|user| user.role == Some(role) && user.name.eq_ignore_ascii_case(&who.username)))
}

fn about(who: &Who, what: &str) -> Answer {
    let role = Role::from(who.role).name();
    let name = who.username.to_ascii_lowercase();
    Answer::new(json!({ "username": name, "role": role }), format!("{role} {name} {what}"))
}

fn list(users: &[User]) -> Answer {
    // cloudhsm-cli prints these booleans as strings; scripts compare them so.
    let items: Vec<_> = users
        .iter()
        .map(|user| {
            json!({
                "username": user.name, "role": role_name(user), "locked": user.locked.to_string(),
                "enabled": user.enabled.to_string(), "mfa": [], "quorum": [], "cluster-coverage": "full",
                "keys": user.keys, "sessions": user.sessions,
            })
        })
        .collect();
    let rows = users.iter().map(|user| {
        let name = user.name.clone();
        vec![name, role_name(user).to_owned(), state(user).to_owned(), user.keys.to_string(), user.sessions.to_string()]
    });
    Answer::new(json!({ "users": items }), table(&["user", "role", "state", "keys", "logins"], rows))
}

fn state(user: &User) -> &'static str {
    match (user.role, user.enabled, user.locked) {
        (Some(Role::Appliance), ..) => "the cluster's own; nobody logs in as it",
        (_, false, true) => "disabled, locked",
        (_, false, false) => "disabled",
        (_, true, true) => "locked",
        (_, true, false) => "may log in",
    }
}

fn role_name(user: &User) -> &'static str {
    user.role.map_or("unknown to this version", Role::name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(role: Role, enabled: bool, locked: bool) -> User {
        User { name: "app".to_owned(), role: Some(role), locked, enabled, created_at: 0, keys: 0, sessions: 0 }
    }

    #[test]
    fn an_enabled_user_who_is_locked_is_not_said_to_get_in() {
        assert!(after_enabling(Some(&user(Role::CryptoUser, true, true))).contains("still locked"));
        assert!(after_enabling(Some(&user(Role::CryptoUser, true, false))).contains("may log in"));
    }

    #[test]
    fn a_new_password_of_a_disabled_user_is_not_said_to_let_him_in() {
        assert!(after_new_password(Some(&user(Role::CryptoUser, false, false))).contains("still disabled"));
        assert!(!after_new_password(Some(&user(Role::CryptoUser, true, false))).contains("disabled"));
    }

    #[test]
    fn the_list_says_what_the_appliance_user_is() {
        assert!(state(&user(Role::Appliance, true, false)).contains("nobody logs in"));
        assert_eq!(state(&user(Role::CryptoUser, false, true)), "disabled, locked");
    }
}

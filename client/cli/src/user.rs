//! `login` and `user …`.

use hsm_client::{Cluster, User};
use hsm_protocol::Role;
use serde_json::json;

use crate::answer::{Answer, table};
use crate::command_line::{LoginArguments, UserCommand, Who};
use crate::credentials::Session;
use crate::failure::Failure;

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
            let password = password.choose(&who.username)?;
            let role = who.role.into();
            session.logged_in(|login| Ok(cluster.create_user(login, &who.username, role, password.as_bytes())?))?;
            Ok(about(who, "is made"))
        }
        UserCommand::Delete(who) => {
            session.logged_in(|login| Ok(cluster.delete_user(login, &who.username, who.role.into())?))?;
            Ok(about(who, "is deleted"))
        }
        UserCommand::ChangePassword { who, password } => {
            let password = password.choose(&who.username)?;
            let user = Some((who.username.as_str(), who.role.into()));
            session.logged_in(|login| Ok(cluster.change_password(login, user, password.as_bytes())?))?;
            Ok(about(who, "has a new password; his other logins have ended"))
        }
        UserCommand::Enable(who) => set_enabled(session, who, true),
        UserCommand::Disable(who) => set_enabled(session, who, false),
        UserCommand::List => {
            let users = session.perhaps_logged_in(|login| Ok(cluster.list_users(login)?))?;
            Ok(list(&users))
        }
    }
}

fn set_enabled(session: &Session<'_>, who: &Who, enabled: bool) -> Result<Answer, Failure> {
    let role = who.role.into();
    session.logged_in(|login| Ok(session.cluster().set_user_enabled(login, &who.username, role, enabled)?))?;
    Ok(about(who, if enabled { "may log in again" } else { "is disabled; his logins have ended" }))
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
        let state = match (user.enabled, user.locked) {
            (false, _) => "disabled",
            (true, true) => "locked",
            (true, false) => "may log in",
        };
        let name = user.name.clone();
        vec![name, role_name(user).to_owned(), state.to_owned(), user.keys.to_string(), user.sessions.to_string()]
    });
    Answer::new(json!({ "users": items }), table(&["user", "role", "state", "keys", "logins"], rows))
}

fn role_name(user: &User) -> &'static str {
    user.role.map_or("unknown to this version", Role::name)
}

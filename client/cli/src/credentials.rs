//! Who runs a command: user, role and password, from arguments, the environment, a file or the terminal.
//!
//! A password lives in wiped memory and only until the call is made.

use std::path::Path;

use hsm_client::{Cluster, Login};
use hsm_protocol::Role;
use zeroize::Zeroizing;

use crate::command_line::{Common, NewPassword};
use crate::failure::Failure;

/// Pairs of variables for role and `user:password`, in the order in which they count: ours, then cloudhsm-cli's.
const VARIABLES: &[(&str, &str)] = &[("KAGIMORI_ROLE", "KAGIMORI_PIN"), ("CLOUDHSM_ROLE", "CLOUDHSM_PIN")];

/// The admin to whom a PIN without a name belongs: activation fixes the first admin's.
const DEFAULT_ADMIN: &str = "admin";

/// A password.
pub(crate) type Password = Zeroizing<String>;

/// A cluster and whoever shall be logged in to it.
pub(crate) struct Session<'a> {
    cluster: &'a Cluster,
    common: &'a Common,
}

/// A user with what he needs to log in. No `Debug`: it holds the password.
pub(crate) struct Credentials {
    name: String,
    role: Role,
    password: Password,
}

impl<'a> Session<'a> {
    /// Nobody is logged in yet.
    pub(crate) fn new(cluster: &'a Cluster, common: &'a Common) -> Self {
        Self { cluster, common }
    }

    /// The cluster.
    pub(crate) fn cluster(&self) -> &'a Cluster {
        self.cluster
    }

    /// Who does this; asks for the password when it is not given. For commands that ask for another one after it.
    pub(crate) fn credentials(&self) -> Result<Credentials, Failure> {
        self.find()?.ok_or_else(|| {
            Failure::misuse(
                "this command needs a login and nobody is named",
                "set KAGIMORI_ROLE and KAGIMORI_PIN (user:password), or use --as, --as-role and --as-password-file",
            )
        })
    }

    /// Logs in, does the work and logs out.
    pub(crate) fn logged_in<T>(&self, work: impl FnOnce(&Login) -> Result<T, Failure>) -> Result<T, Failure> {
        self.work_as(&self.credentials()?, work)
    }

    /// The same for commands that need no login: logs in only when somebody is named.
    pub(crate) fn perhaps_logged_in<T>(
        &self,
        work: impl FnOnce(Option<&Login>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        match self.find()? {
            Some(found) => self.work_as(&found, |login| work(Some(login))),
            None => work(None),
        }
    }

    /// Logs in as somebody, does the work and logs out.
    pub(crate) fn work_as<T>(
        &self,
        who: &Credentials,
        work: impl FnOnce(&Login) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let login = self.cluster.log_in(&who.name, who.role, who.password.as_bytes())?;
        let outcome = work(&login);
        // What was done is done; a session that cannot be ended now ends by itself at its expiry.
        if let Err(error) = self.cluster.log_out(login) {
            tracing::warn!(%error, "the login could not be ended; it ends by itself");
        }
        outcome
    }

    fn find(&self) -> Result<Option<Credentials>, Failure> {
        let Some(name) = &self.common.acting_user else {
            let default_user = self.cluster.configuration().default_user.as_deref();
            return from_environment(&|name| std::env::var(name).ok(), default_user);
        };
        let Some(role) = self.common.acting_role else {
            return Err(Failure::misuse("--as needs a role", "add --as-role admin or --as-role crypto-user"));
        };
        let role = Role::from(role);
        let password = match &self.common.acting_password_file {
            Some(file) => read_file(file)?,
            None => ask(&format!("Current password of {name} ({}): ", role.name()))?,
        };
        Ok(Some(Credentials { name: name.clone(), role, password }))
    }
}

/// Who the environment names: the first pair of variables that is complete. `None` when no PIN is set.
fn from_environment(
    variable: &dyn Fn(&str) -> Option<String>,
    default_user: Option<&str>,
) -> Result<Option<Credentials>, Failure> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    for &(role_variable, pin_variable) in VARIABLES {
        if let (Some(role), Some(pin)) = (set(role_variable), set(pin_variable)) {
            return from_pin(role_variable, &role, pin_variable, &Zeroizing::new(pin), default_user).map(Some);
        }
    }
    match VARIABLES.iter().find(|(_, pin)| set(pin).is_some()) {
        Some((role, pin)) => {
            Err(Failure::misuse(format!("{pin} is set and {role} is not"), "set it to admin or crypto-user"))
        }
        None => Ok(None),
    }
}

fn from_pin(
    role_variable: &str,
    role: &str,
    pin_variable: &str,
    pin: &Password,
    default_user: Option<&str>,
) -> Result<Credentials, Failure> {
    let role = match role.to_ascii_lowercase().as_str() {
        "admin" => Role::Admin,
        "crypto-user" => Role::CryptoUser,
        _ => return Err(Failure::misuse(format!("{role_variable} holds no role"), "set it to admin or crypto-user")),
    };
    let unnamed = if role == Role::Admin { Some(DEFAULT_ADMIN) } else { default_user };
    let (name, password) = match (pin.split_once(':'), unnamed) {
        (Some(named), _) => named,
        (None, Some(user)) => (user, pin.as_str()),
        (None, None) => {
            let cause = format!("{pin_variable} names no user and client.toml has no `default-user`");
            return Err(Failure::misuse(cause, "set it to user:password"));
        }
    };
    Ok(Credentials { name: name.to_owned(), role, password: Zeroizing::new(password.to_owned()) })
}

impl NewPassword {
    /// The password of a user who logs in.
    pub(crate) fn obtain(&self, prompt: &str) -> Result<Password, Failure> {
        match self.given()? {
            Some(password) => Ok(password),
            None => ask(prompt),
        }
    }

    /// A password that is being chosen: asked for twice on a terminal.
    pub(crate) fn choose(&self, whose: &str) -> Result<Password, Failure> {
        if let Some(password) = self.given()? {
            return Ok(password);
        }
        let password = ask(&format!("New password of {whose}: "))?;
        if *ask("The same again: ")? != *password {
            return Err(Failure::misuse("the two passwords differ", "run the command again"));
        }
        Ok(password)
    }

    fn given(&self) -> Result<Option<Password>, Failure> {
        if let Some(file) = &self.password_file {
            return read_file(file).map(Some);
        }
        let Some(password) = &self.password else { return Ok(None) };
        eprintln!(
            "warning: a password in the arguments can be read by every user of this machine and stays in the shell's \
             history; use --password-file or answer the prompt"
        );
        Ok(Some(Zeroizing::new(password.clone())))
    }
}

/// The first line of a file.
pub(crate) fn read_file(path: &Path) -> Result<Password, Failure> {
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(|error| Failure::file(path, &error))?);
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        let cause = format!("{}: the first line is empty", path.display());
        return Err(Failure::misuse(cause, "write the password in the first line of the file"));
    }
    Ok(Zeroizing::new(line.to_owned()))
}

/// Asks on the terminal without echo.
pub(crate) fn ask(prompt: &str) -> Result<Password, Failure> {
    rpassword::prompt_password(prompt).map(Zeroizing::new).map_err(|_| {
        Failure::misuse(
            "a password is needed and there is no terminal to ask on",
            "give it by a file or the environment",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(variables: &[(&str, &str)], default_user: Option<&str>) -> Result<Option<Credentials>, Failure> {
        let value =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        from_environment(&value, default_user)
    }

    #[track_caller]
    fn assert_found(variables: &[(&str, &str)], default_user: Option<&str>, wanted: (&str, Role, &str)) {
        let found = found(variables, default_user).unwrap().unwrap();
        assert_eq!((found.name.as_str(), found.role, found.password.as_str()), wanted);
    }

    #[test]
    fn a_pin_is_user_and_password_and_the_password_may_hold_colons() {
        let variables = [("KAGIMORI_ROLE", "Crypto-User"), ("KAGIMORI_PIN", "app:a:b")];
        assert_found(&variables, None, ("app", Role::CryptoUser, "a:b"));
    }

    #[test]
    fn a_pin_without_a_user_is_the_configured_users_or_admins_as_through_pkcs11() {
        let of = |role| [("KAGIMORI_ROLE", role), ("KAGIMORI_PIN", "secretpassword")];
        assert_found(&of("crypto-user"), Some("app"), ("app", Role::CryptoUser, "secretpassword"));
        assert_found(&of("admin"), Some("app"), ("admin", Role::Admin, "secretpassword"));
        let refused = found(&of("crypto-user"), None).err().unwrap();
        assert!(refused.cause().contains("KAGIMORI_PIN") && !refused.cause().contains("secret"), "{refused:?}");
    }

    #[test]
    fn a_pin_without_a_role_is_said_to_lack_it() {
        let refused = found(&[("KAGIMORI_PIN", "app:secret")], None).err().unwrap();
        assert_eq!(refused.cause(), "KAGIMORI_PIN is set and KAGIMORI_ROLE is not");
        let aws = [("KAGIMORI_PIN", "app:x"), ("CLOUDHSM_ROLE", "admin"), ("CLOUDHSM_PIN", "boss:y")];
        assert_found(&aws, None, ("boss", Role::Admin, "y"));
        assert!(found(&[("KAGIMORI_ROLE", "admin")], None).unwrap().is_none());
    }

    #[test]
    fn a_role_that_cannot_be_is_refused_by_the_name_of_its_variable() {
        let refused = found(&[("CLOUDHSM_ROLE", "root"), ("CLOUDHSM_PIN", "a:b")], None).err().unwrap();
        assert!(refused.cause().contains("CLOUDHSM_ROLE"));
    }

    #[test]
    fn a_password_file_holds_it_in_its_first_line() {
        let path = std::env::temp_dir().join(format!("kagimori-password-{}", std::process::id()));
        std::fs::write(&path, "secret123\nmore\n").unwrap();
        assert_eq!(*read_file(&path).unwrap(), "secret123");
        std::fs::write(&path, "\n").unwrap();
        assert!(read_file(&path).is_err());
        std::fs::remove_file(&path).unwrap();
    }
}

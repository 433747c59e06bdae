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

/// A password.
pub(crate) type Password = Zeroizing<String>;

/// A cluster and whoever shall be logged in to it.
pub(crate) struct Session<'a> {
    cluster: &'a Cluster,
    common: &'a Common,
}

/// A user with what he needs to log in.
struct Credentials {
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

    /// Logs in, does the work and logs out.
    pub(crate) fn logged_in<T>(&self, work: impl FnOnce(&Login) -> Result<T, Failure>) -> Result<T, Failure> {
        let Some(found) = find(self.common)? else {
            return Err(Failure::misuse(
                "this command needs a login and nobody is named",
                "set KAGIMORI_ROLE and KAGIMORI_PIN (user:password), or use --as, --as-role and --as-password-file",
            ));
        };
        self.work_as(&found, work)
    }

    /// The same for commands that need no login: logs in only when somebody is named.
    pub(crate) fn perhaps_logged_in<T>(
        &self,
        work: impl FnOnce(Option<&Login>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        match find(self.common)? {
            Some(found) => self.work_as(&found, |login| work(Some(login))),
            None => work(None),
        }
    }

    fn work_as<T>(&self, who: &Credentials, work: impl FnOnce(&Login) -> Result<T, Failure>) -> Result<T, Failure> {
        let login = self.cluster.log_in(&who.name, who.role, who.password.as_bytes())?;
        let outcome = work(&login);
        // What was done is done; a session that cannot be ended now ends by itself at its expiry.
        if let Err(error) = self.cluster.log_out(login) {
            tracing::warn!(%error, "the login could not be ended; it ends by itself");
        }
        outcome
    }
}

fn find(common: &Common) -> Result<Option<Credentials>, Failure> {
    let environment =
        VARIABLES.iter().find_map(|(role, pin)| Some((role, std::env::var(role).ok()?, pin, std::env::var(pin).ok()?)));
    let Some(name) = &common.acting_user else {
        let Some((variable, role, pin_variable, pin)) = environment else { return Ok(None) };
        return Ok(Some(from_environment(variable, &role, pin_variable, Zeroizing::new(pin))?));
    };
    let Some(role) = common.acting_role else {
        return Err(Failure::misuse("--as needs a role", "add --as-role admin or --as-role crypto-user"));
    };
    let password = match &common.acting_password_file {
        Some(file) => read_file(file)?,
        None => ask(&format!("Password of {name}: "))?,
    };
    Ok(Some(Credentials { name: name.clone(), role: role.into(), password }))
}

fn from_environment(variable: &str, role: &str, pin_variable: &str, pin: Password) -> Result<Credentials, Failure> {
    let role = match role.to_ascii_lowercase().as_str() {
        "admin" => Role::Admin,
        "crypto-user" => Role::CryptoUser,
        _ => return Err(Failure::misuse(format!("{variable} holds no role"), "set it to admin or crypto-user")),
    };
    let Some((name, password)) = pin.split_once(':') else {
        return Err(Failure::misuse(format!("{pin_variable} has no colon"), "set it to user:password"));
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

    #[test]
    fn a_pin_is_user_and_password_and_the_password_may_hold_colons() {
        let found = from_environment("R", "Crypto-User", "P", Zeroizing::new("app:a:b".to_owned()))
            .unwrap_or_else(|_| unreachable!());
        assert_eq!((found.name.as_str(), found.role, found.password.as_str()), ("app", Role::CryptoUser, "a:b"));
    }

    #[test]
    fn a_role_or_pin_that_cannot_be_is_refused_without_repeating_it() {
        let refuse =
            |role: &str, pin: &str| from_environment("R", role, "P", Zeroizing::new(pin.to_owned())).err().unwrap();
        assert!(!refuse("admin", "secretpassword").cause().contains("secret"));
        assert!(refuse("root", "a:b").cause().contains('R'));
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

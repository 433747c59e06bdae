//! Users and client certificates of an installation, by the `kagimori` command line.

use std::process::Command;

use anyhow::{Context, Result};

use super::authority::CLIENTS;
use super::files::{Password, write_private};
use super::{ADMIN, CRYPTO_USER, Installation};
use crate::narrate;
use crate::workspace::capture;

impl Installation {
    /// Gives the first admin his password.
    pub(super) fn activate(&self, activation: Option<Password>) -> Result<()> {
        let step = narrate::begin("activate the cluster: the first admin gets his password");
        let activation = activation.context(
            "the HSM shows no activation password although nobody has activated its cluster; look at its log",
        )?;
        let file = self.admin().join("activation.password");
        write_private(&file, activation.expose())?;
        let mut command = self.kagimori();
        command.args(["cluster", "activate", "--activation-password-file"]).arg(&file);
        capture(command.arg("--password-file").arg(self.password_path(ADMIN)?))?;
        std::fs::remove_file(&file).context("the file of the void activation password cannot be removed")?;
        step.done(format!("admin {ADMIN}"));
        Ok(())
    }

    /// Makes the crypto user, unless he is there.
    pub(super) fn create_crypto_user(&self) -> Result<()> {
        let step = narrate::begin("create a crypto user");
        match self.keys_of(CRYPTO_USER)? {
            Some(keys) => step.done(from_before(CRYPTO_USER, keys)),
            None => {
                self.create_user(CRYPTO_USER)?;
                step.done(CRYPTO_USER);
            }
        }
        Ok(())
    }

    /// Makes a crypto user with a password of his own in `admin/`.
    pub(crate) fn create_user(&self, name: &str) -> Result<()> {
        let mut command = self.kagimori_as_admin()?;
        command.args(["user", "create", "--username", name, "--role", "crypto-user", "--password-file"]);
        capture(command.arg(self.password_path(name)?))?;
        Ok(())
    }

    /// How many keys a crypto user owns; `None` when there is no such user.
    fn keys_of(&self, name: &str) -> Result<Option<u64>> {
        let answer = answer(self.kagimori_as_admin()?.args(["user", "list", "--output", "json"]))?;
        let users = answer["data"]["users"].as_array().context("`kagimori user list` listed no users")?;
        let found = users.iter().find(|user| user["username"] == name && user["role"] == "crypto-user");
        Ok(found.map(|user| user["keys"].as_u64().unwrap_or_default()))
    }

    /// Registers the clients' CA and turns away whoever has no certificate of it.
    pub(super) fn require_client_certificates(&self) -> Result<()> {
        let step = narrate::begin("register the clients' CA and require client certificates");
        let mut command = self.kagimori_as_admin()?;
        let listed = answer(command.args(["cluster", "mtls", "list-trust-anchors", "--output", "json"]))?;
        let anchors = listed["data"]["trust_anchors"].as_array().map_or(0, Vec::len);
        if anchors == 0 {
            let mut command = self.kagimori_as_admin()?;
            command.args(["cluster", "mtls", "register-trust-anchor", "--path"]);
            capture(command.arg(self.authority_certificate(CLIENTS)))?;
        }
        capture(self.kagimori_as_admin()?.args(["cluster", "mtls", "set-enforcement", "--level", "cluster"]))?;
        step.done("mutual TLS from here on");
        Ok(())
    }
}

/// What is said of a user whom an earlier run made.
fn from_before(name: &str, keys: u64) -> String {
    format!("{name} is there from before, with {keys} key{}", if keys == 1 { "" } else { "s" })
}

fn answer(command: &mut Command) -> Result<serde_json::Value> {
    serde_json::from_str(&capture(command)?).context("`kagimori … --output json` printed no JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_of_an_earlier_run_is_not_said_to_be_new() {
        assert_eq!(from_before("app", 1), "app is there from before, with 1 key");
        assert_eq!(from_before("app", 4), "app is there from before, with 4 keys");
    }
}

//! Files of an installation: who may read them, and the passwords in them.
//!
//! Every file that holds a secret is made with its final mode, so that there is no moment in which others can read it.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{ADMIN, CRYPTO_USER, Installation, LABEL};
use crate::narrate;
use crate::workspace::capture;

/// Letters and digits of a generated password: 62^24 is more than 142 bits.
const PASSWORD_CHARACTERS: usize = 24;

/// A password that was made here or told by the HSM. No `Debug`, so that it does not get into a message.
pub(crate) struct Password(String);

impl Password {
    /// A password that is known already.
    pub(super) fn known(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// A new one, from the kernel's generator.
    fn random() -> Result<Self> {
        const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        let mut source =
            std::fs::File::open("/dev/urandom").context("/dev/urandom cannot be opened; is /dev mounted?")?;
        let mut text = String::with_capacity(PASSWORD_CHARACTERS);
        while text.len() < PASSWORD_CHARACTERS {
            let mut octet = [0];
            source.read_exact(&mut octet).context("/dev/urandom cannot be read")?;
            // 248 = 4 × 62: what lies above would make some letters likelier than others.
            if octet[0] < 248 {
                text.push(char::from(ALPHABET[usize::from(octet[0]) % ALPHABET.len()]));
            }
        }
        Ok(Self(text))
    }

    /// The text, to be written to a file or an environment and nowhere else.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

/// Who may read a file or enter a folder.
#[derive(Clone, Copy)]
pub(super) enum Readers<'a> {
    /// The owner.
    Owner,
    /// The owner and a group.
    Group(&'a str),
}

impl Readers<'_> {
    /// Gives a file or folder to its readers.
    pub(super) fn give(self, path: &Path) -> Result<()> {
        let folder = path.is_dir();
        let mode = match self {
            Self::Owner => 0o600,
            Self::Group(group) => {
                let mut command = Command::new("chgrp");
                capture(command.arg("--").arg(group).arg(path))
                    .with_context(|| format!("is there a group {group:?}, and are you in it or root?"))?;
                0o640
            }
        };
        // Whoever may read a folder must be able to enter it.
        let mode = if folder { mode | (mode & 0o444) >> 2 } else { mode };
        std::fs::set_permissions(path, Permissions::from_mode(mode))
            .with_context(|| format!("the mode of {} cannot be set", path.display()))
    }
}

/// Makes a folder that only its owner may enter.
pub(super) fn private_folder(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("the folder {} cannot be made", path.display()))
}

/// Writes a file that only its owner may read.
pub(super) fn write_private(path: &Path, text: &str) -> Result<()> {
    let partial = path.with_extension("partial");
    let write = || {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    };
    write().with_context(|| format!("{} cannot be written", path.display()))
}

impl Installation {
    /// Makes the folders. The top one may be entered by all, so that a client group reaches `client/`.
    pub(crate) fn make_folders(&self) -> Result<()> {
        std::fs::create_dir_all(self.folder())
            .with_context(|| format!("the folder {} cannot be made", self.folder().display()))?;
        for folder in [self.hsm(), self.admin(), self.client()] {
            private_folder(&folder)?;
        }
        Ok(())
    }

    fn password_file(&self, user: &str) -> PathBuf {
        self.admin().join(format!("{user}.password"))
    }

    /// The password of a user, made when it is asked for first: it is on disk before the HSM knows it.
    pub(crate) fn password(&self, user: &str) -> Result<Password> {
        let path = self.password_file(user);
        if !path.is_file() {
            write_private(&path, Password::random()?.expose())?;
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        Ok(Password(text))
    }

    /// The file that [`Self::password`] keeps a password in.
    pub(super) fn password_path(&self, user: &str) -> Result<PathBuf> {
        self.password(user)?;
        Ok(self.password_file(user))
    }

    /// Configuration, certificates and library for applications.
    pub(super) fn write_client_files(&self) -> Result<()> {
        private_folder(&self.client())?;
        self.make_client_certificate()?;
        let addresses = self.client_addresses()?;
        let patience =
            self.wishes.call_timeout.map_or_else(String::new, |time| format!("call-timeout-seconds = {time}\n"));
        let text = format!(
            "# Written by `cargo xtask quickstart`. See docs/operations/client-toml.md.\n\n[[cluster]]\nlabel = \
             \"{LABEL}\"\naddresses = [{addresses}]\ntrust-anchor = \"customerCA.crt\"\nclient-certificate = \
             \"client.crt\"\nclient-key = \"client.key\"\ndefault-user = \"{CRYPTO_USER}\"\n{patience}"
        );
        std::fs::write(self.client_configuration(), text).context("client.toml cannot be written")?;
        let copies = [
            (self.authority_certificate(super::authority::CUSTOMER), self.client().join("customerCA.crt")),
            (self.programs.join("libkagimori_pkcs11.so"), self.module()),
        ];
        for (from, to) in copies {
            // A library that a process has open must not be written into: replace the file instead.
            let partial = to.with_extension("partial");
            std::fs::copy(&from, &partial)
                .and_then(|_| std::fs::rename(&partial, &to))
                .with_context(|| format!("{} cannot be copied to {}", from.display(), to.display()))?;
        }
        self.give_client_files()
    }

    /// The group that may read the clients' files: the one that is wished for, else the one of last time.
    fn client_group(&self) -> Result<Option<String>> {
        let path = self.hsm().join("client-group");
        match &self.wishes.client_group {
            Some(group) => {
                write_private(&path, group)?;
                Ok(Some(group.clone()))
            }
            None if path.is_file() => {
                Ok(Some(std::fs::read_to_string(&path).context("the client group cannot be read")?))
            }
            None => Ok(None),
        }
    }

    fn give_client_files(&self) -> Result<()> {
        let group = self.client_group()?;
        let readers = group.as_deref().map_or(Readers::Owner, Readers::Group);
        let entries = std::fs::read_dir(self.client()).context("the clients' folder cannot be read")?;
        for entry in entries {
            readers.give(&entry?.path())?;
        }
        readers.give(&self.client())
    }

    /// Variables for a shell. Holds two PINs, so it is the owner's alone.
    pub(super) fn write_environment(&self) -> Result<()> {
        let step = narrate::begin("write the environment for a shell");
        let path = |path: PathBuf| path.into_os_string().into_string().ok().context("the folder's path is no UTF-8");
        let variables = [
            ("P11_MODULE", path(self.module())?),
            ("P11_TOKEN_LABEL", LABEL.to_owned()),
            ("P11_PIN", self.pin(CRYPTO_USER)?),
            ("P11_SO_PIN", self.pin(ADMIN)?),
            ("PKCS11_MODULE_PATH", path(self.module())?),
            ("KAGIMORI_CONFIG", path(self.client_configuration())?),
            ("KAGIMORI_ROLE", "crypto-user".to_owned()),
            ("KAGIMORI_PIN", self.pin(CRYPTO_USER)?),
        ];
        let text = shell_text(&path(self.programs.clone())?, &variables);
        write_private(&self.environment(), &text)?;
        step.done(self.environment().display());
        Ok(())
    }

    /// The variables of the environment file, for a program that is started from here.
    pub(crate) fn give_environment(&self, command: &mut Command) -> Result<()> {
        command.env("P11_MODULE", self.module()).env("P11_TOKEN_LABEL", LABEL);
        command.env("P11_PIN", self.pin(CRYPTO_USER)?).env("P11_SO_PIN", self.pin(ADMIN)?);
        command.env("KAGIMORI_CONFIG", self.client_configuration());
        Ok(())
    }
}

/// Lines for a shell: the programs' folder in front of `PATH`, once, and variables.
fn shell_text(programs: &str, variables: &[(&str, String)]) -> String {
    let quoted = |value: &str| format!("'{}'", value.replace('\'', r"'\''"));
    let programs = quoted(programs);
    let path = format!("case \":$PATH:\" in *:{programs}:*) ;; *) export PATH={programs}\":$PATH\" ;; esac\n");
    let lines = variables.iter().map(|(name, value)| format!("export {name}={}\n", quoted(value)));
    std::iter::once(path).chain(lines).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_file_sets_variables_as_they_are_and_path_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("env");
        std::fs::write(&file, shell_text("/a b/it's", &[("SECRET", "a'b $c".to_owned())])).unwrap();
        let script = r#"PATH=/bin; . "$1"; . "$1"; printf '%s|%s' "$PATH" "$SECRET""#;
        let said = Command::new("/bin/sh").args(["-c", script, "sh"]).arg(&file).output().unwrap();
        assert_eq!(String::from_utf8(said.stdout).unwrap(), "/a b/it's:/bin|a'b $c");
    }

    #[test]
    fn generated_passwords_are_letters_and_digits_and_differ() {
        let (one, other) = (Password::random().unwrap(), Password::random().unwrap());
        assert_eq!(one.expose().len(), PASSWORD_CHARACTERS);
        assert!(one.expose().chars().all(|character| character.is_ascii_alphanumeric()));
        assert_ne!(one.expose(), other.expose());
    }

    #[test]
    fn a_secret_is_readable_by_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.password");
        write_private(&path, "x").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        private_folder(&folder.path().join("b")).unwrap();
        assert_eq!(std::fs::metadata(folder.path().join("b")).unwrap().permissions().mode() & 0o777, 0o700);
    }
}

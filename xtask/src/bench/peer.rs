//! SoftHSM2 from Debian with a throw-away token.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace::capture;

const LABEL: &str = "bench";
const PIN: &str = "123456";

/// A token of SoftHSM2 that vanishes.
pub(super) struct SoftHsm {
    folder: tempfile::TempDir,
    module: PathBuf,
}

impl SoftHsm {
    /// Makes the token.
    pub(super) fn new() -> Result<Self> {
        let folder = tempfile::tempdir().context("no folder for temporary files")?;
        let places = ["/usr/lib/softhsm", "/usr/lib/x86_64-linux-gnu/softhsm", "/usr/lib/aarch64-linux-gnu/softhsm"];
        let modules = places.map(|place| PathBuf::from(place).join("libsofthsm2.so"));
        let module =
            modules.into_iter().find(|path| path.is_file()).context("libsofthsm2.so is nowhere to be found")?;
        let tokens = folder.path().join("tokens");
        std::fs::create_dir(&tokens)?;
        let text =
            format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", tokens.display());
        std::fs::write(folder.path().join("softhsm2.conf"), text)?;
        let peer = Self { folder, module };
        let mut command = Command::new("softhsm2-util");
        peer.give_environment(&mut command);
        capture(command.args(["--init-token", "--free", "--label", LABEL, "--pin", PIN, "--so-pin", "87654321"]))?;
        Ok(peer)
    }

    /// The variables that the load generator reads.
    pub(super) fn give_environment(&self, command: &mut Command) {
        command.env("SOFTHSM2_CONF", self.folder.path().join("softhsm2.conf"));
        command.env("P11_MODULE", &self.module).env("P11_TOKEN_LABEL", LABEL).env("P11_PIN", PIN);
    }
}

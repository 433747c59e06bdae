//! SoftHSM2 from Debian with a throw-away token, and a fetch of our own metrics.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

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

/// Fetches a page by HTTP/1.0.
pub(super) fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

//! `release`: signs the built `kagimori-hsm` as a release: its SHA-384 and version, by Ed25519, in a file beside it.
//!
//! The system's OpenSSL signs, so that the format is not made by the code that reads it (`hsm/server/src/release.rs`). It
//! must not print or copy the private key.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace::{Workspace, capture};
use crate::{narrate, packages};

/// Arguments of `cargo xtask release`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Private key of releases: Ed25519, PEM (PKCS#8). Keep it where nothing is built.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,

    /// Make the key first; the file must not be there.
    #[arg(long)]
    new_key: bool,

    /// Program to sign [default: kagimori-hsm of this tree, which is built first].
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

/// Octets before the 32 of the key in an Ed25519 SubjectPublicKeyInfo (RFC 8410 §4).
const PUBLIC_KEY_PREFIX: usize = 12;

/// Builds, signs, and says what to install and whom to trust.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    narrate::heading("release");
    packages::ensure(packages::QUICKSTART)?;
    if arguments.new_key {
        make_key(&arguments.key)?;
    }
    let program = match &arguments.program {
        Some(program) => program.clone(),
        None => {
            workspace.build()?;
            workspace.built("kagimori-hsm")
        }
    };
    let version = version_of(&program)?;
    let content = sign(&program, &version, &arguments.key)?;
    let mut file = program.clone().into_os_string();
    file.push(".release");
    std::fs::write(&file, &content.text).with_context(|| format!("{} cannot be written", file.display()))?;
    println!("{} {version} is signed: install it together with {}", program.display(), file.display());
    println!("clusters trust it after: kagimori cluster releases set --key {}", content.key);
    Ok(())
}

struct Content {
    text: String,
    key: String,
}

/// What the program says of itself.
fn version_of(program: &Path) -> Result<String> {
    let said = capture(Command::new(program).arg("--version"))?;
    let version = said.trim().rsplit(' ').next().unwrap_or_default().to_owned();
    let plain = version.split('.').count() == 3 && version.bytes().all(|octet| octet.is_ascii_digit() || octet == b'.');
    if plain { Ok(version) } else { bail!("{} says that its version is {said:?}, which is none", program.display()) }
}

fn make_key(key: &Path) -> Result<()> {
    if key.exists() {
        bail!("{} is there already: leave --new-key away, or name another file", key.display());
    }
    // OpenSSL makes the file with mode 0600.
    capture(Command::new("openssl").args(["genpkey", "-algorithm", "ed25519", "-out"]).arg(key))?;
    Ok(())
}

fn sign(program: &Path, version: &str, key: &Path) -> Result<Content> {
    let folder = tempfile::tempdir().context("no folder for temporary files")?;
    let path = |name: &str| folder.path().join(name);
    let read = |name: &str| std::fs::read(path(name)).with_context(|| format!("OpenSSL made no {name}"));
    let mut digest = Command::new("openssl");
    digest.args(["dgst", "-sha384", "-binary", "-out"]).arg(path("sha384")).arg(program);
    capture(&mut digest)?;
    let sha384 = read("sha384")?;
    let statement = [b"kagimori release 1\0", version.as_bytes(), b"\0", &sha384].concat();
    std::fs::write(path("statement"), statement).context("the statement cannot be written")?;
    let mut signing = Command::new("openssl");
    signing.args(["pkeyutl", "-sign", "-rawin", "-inkey"]).arg(key);
    signing.arg("-in").arg(path("statement")).arg("-out").arg(path("signature"));
    capture(&mut signing)?;
    let mut public = Command::new("openssl");
    public.args(["pkey", "-pubout", "-outform", "DER", "-in"]).arg(key).arg("-out").arg(path("public"));
    capture(&mut public)?;
    let public = read("public")?;
    let key = public.get(PUBLIC_KEY_PREFIX..).filter(|key| key.len() == 32).context("the key is no Ed25519 key")?;
    let key = hexadecimal(key);
    let (sha384, signature) = (hexadecimal(&sha384), hexadecimal(&read("signature")?));
    let text = format!("kagimori release 1\nversion {version}\nsha384 {sha384}\nkey {key}\nsignature {signature}\n");
    Ok(Content { text, key })
}

fn hexadecimal(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

//! Debian packages that a task needs and the machine may lack.
//!
//! Installs when it runs as root; otherwise it prints the one line to run. Must not touch anything that is there
//! already.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::narrate;
use crate::workspace::{capture, has_program};

/// A package and the file that shows that it is there.
pub(crate) struct Package {
    name: &'static str,
    evidence: Evidence,
}

enum Evidence {
    Program(&'static str),
    File(&'static [&'static str]),
}

const fn program(name: &'static str, program: &'static str) -> Package {
    Package { name, evidence: Evidence::Program(program) }
}

/// What quickstart needs: a certificate authority, and a program that loads PKCS#11 modules.
pub(crate) const QUICKSTART: &[Package] = &[program("openssl", "openssl"), program("opensc", "pkcs11-tool")];

/// What the tests need beyond that: the foreign clients, and what their scripts call.
pub(crate) const TEST: &[Package] = &[
    program("openssl", "openssl"),
    program("opensc", "pkcs11-tool"),
    program("xxd", "xxd"),
    program("curl", "curl"),
    program("gcc", "gcc"),
    program("g++", "g++"),
    program("python3", "python3"),
    Package { name: "python3-venv", evidence: Evidence::Program("python3") },
    program("gnutls-bin", "p11tool"),
    Package {
        name: "libengine-pkcs11-openssl",
        evidence: Evidence::File(&[
            "/usr/lib/x86_64-linux-gnu/engines-3/pkcs11.so",
            "/usr/lib/aarch64-linux-gnu/engines-3/pkcs11.so",
        ]),
    },
    program("openjdk-17-jdk-headless", "javac"),
];

/// What the benchmark needs: the peer that it measures beside us.
pub(crate) const BENCH: &[Package] = &[Package {
    name: "softhsm2",
    evidence: Evidence::File(&[
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    ]),
}];

/// What makes namespaces into hosts, and cuts them off from each other.
pub(crate) const NETWORK: &[Package] = &[program("iproute2", "ip"), program("nftables", "nft")];

impl Package {
    fn is_there(&self) -> bool {
        if self.name == "python3-venv" {
            return python_makes_environments();
        }
        match self.evidence {
            Evidence::Program(program) => has_program(program),
            Evidence::File(paths) => paths.iter().any(|path| Path::new(path).exists()),
        }
    }
}

/// Debian splits `ensurepip` from Python, so that `python3 -m venv` exists and fails.
fn python_makes_environments() -> bool {
    capture(Command::new("python3").args(["-c", "import ensurepip, venv"])).is_ok()
}

/// Makes sure of the packages.
///
/// # Errors
/// When something is missing and this is not root, with the line to run.
pub(crate) fn ensure(packages: &[Package]) -> Result<()> {
    let missing: Vec<&str> =
        packages.iter().filter(|package| !package.is_there()).map(|package| package.name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !is_root() || !has_program("apt-get") {
        bail!(
            "this machine lacks: {names}\n  as root, run:  apt-get update && apt-get install -y --no-install-recommends \
             {names}\n  (on a system that is not Debian, install what gives the same programs), then start this again"
        );
    }
    let step = narrate::begin(format!("install Debian packages {names}"));
    capture(apt_get().arg("update"))?;
    capture(apt_get().args(["install", "-y", "--no-install-recommends"]).args(&missing))?;
    step.done("");
    Ok(())
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["-q", "-o", "DPkg::Lock::Timeout=300"]);
    command
}

/// Whether this process may install packages.
pub(crate) fn is_root() -> bool {
    // The owner of our own entry in /proc is the effective user, which std cannot tell otherwise.
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

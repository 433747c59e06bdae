//! Files and ports that the process may use from now on, by Landlock.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, PathFd,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope, make_bitflags,
};

use super::Enforcement;
use crate::exit::Fault;

/// What stays allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileRules {
    /// Folders whose files may be read, written, made and removed.
    pub owned_folders: Vec<PathBuf>,
    /// Folders in which sockets may be made and removed.
    pub socket_folders: Vec<PathBuf>,
    /// Files that may be read.
    pub readable_files: Vec<PathBuf>,
    /// TCP ports that may be listened on; 0 stands for one that the system chooses.
    pub ports: Vec<u16>,
    /// TCP ports that may be connected to.
    pub connect_ports: Vec<u16>,
}

/// The newest Landlock whose rights we know and use; an older kernel enforces what it knows of them.
const KNOWN: ABI = ABI::V6;

/// Restricts the calling thread and the threads that it will start. There is no way back.
///
/// # Errors
/// [`Fault::Sandbox`] when a rule cannot be made, such as for a folder that does not exist. A kernel without Landlock is
/// no error: then the answer is partial.
pub fn restrict_files(rules: &FileRules) -> Result<Enforcement, Fault> {
    let status = enforce(rules).map_err(|cause| Fault::Sandbox(format!("Landlock: {cause}")))?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Enforcement::Full,
        RulesetStatus::PartiallyEnforced => Enforcement::Partial(
            "this kernel's Landlock is older than Linux 6.12: part of the file and network rules".into(),
        ),
        RulesetStatus::NotEnforced => {
            Enforcement::Partial("this kernel has no Landlock: every file of this user stays within reach".into())
        }
    })
}

fn enforce(rules: &FileRules) -> Result<RestrictionStatus, String> {
    let words = |error: landlock::RulesetError| error.to_string();
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))
        .map_err(words)?
        .handle_access(AccessNet::from_all(KNOWN))
        .map_err(words)?
        .scope(Scope::from_all(KNOWN))
        .map_err(words)?
        .create()
        .map_err(words)?;
    let owned = AccessFs::from_all(KNOWN)
        & !make_bitflags!(AccessFs::{Execute | MakeChar | MakeBlock | MakeSym | IoctlDev | Refer});
    for folder in &rules.owned_folders {
        ruleset = allow(ruleset, folder, owned)?;
    }
    for folder in &rules.socket_folders {
        ruleset = allow(ruleset, folder, make_bitflags!(AccessFs::{MakeSock | RemoveFile}))?;
    }
    for file in &rules.readable_files {
        ruleset = allow(ruleset, file, AccessFs::ReadFile.into())?;
    }
    for &port in &rules.ports {
        ruleset = ruleset.add_rule(NetPort::new(port, AccessNet::BindTcp)).map_err(words)?;
    }
    for &port in &rules.connect_ports {
        ruleset = ruleset.add_rule(NetPort::new(port, AccessNet::ConnectTcp)).map_err(words)?;
    }
    ruleset.restrict_self().map_err(words)
}

fn allow(ruleset: RulesetCreated, path: &Path, access: BitFlags<AccessFs>) -> Result<RulesetCreated, String> {
    let within = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let opened = PathFd::new(path).map_err(|error| within(&error))?;
    ruleset.add_rule(PathBeneath::new(opened, access)).map_err(|error| within(&error))
}

//! Attributes of the process itself: who may look into it, what it may leave behind, how much it may hold.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, setrlimit};

use super::Enforcement;
use crate::exit::Fault;
use crate::limits::OPEN_FILES;

/// Forbids core dumps, debuggers of the same user and new privileges, and raises the limits on locked memory and open
/// files as far as the system permits. Call before the first thread is started.
///
/// # Errors
/// [`Fault::Sandbox`] when the kernel refuses one of the bans; that a limit could not be raised is only partial.
pub fn harden_process() -> Result<Enforcement, Fault> {
    let refused = |what: &str| {
        let what = what.to_owned();
        move |error: rustix::io::Errno| Fault::Sandbox(format!("{what}: {error}"))
    };
    // Not dumpable: no core file, and only a process with CAP_SYS_PTRACE may attach or read /proc/PID/mem (ptrace(2)).
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(refused("PR_SET_DUMPABLE"))?;
    // Also where a later change of credentials would make the process dumpable again.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).map_err(refused("RLIMIT_CORE"))?;
    rustix::thread::set_no_new_privs(true).map_err(refused("PR_SET_NO_NEW_PRIVS"))?;
    Ok(raise_limits())
}

/// Soft limits up to the hard ones.
fn raise_limits() -> Enforcement {
    let files = getrlimit(Resource::Nofile);
    let wanted = files.maximum.map_or(OPEN_FILES, |hard| hard.min(OPEN_FILES));
    let mut failures = Vec::new();
    if files.current.is_some_and(|current| current < wanted)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: files.maximum })
    {
        failures.push(format!("open files stay limited ({error})"));
    }
    let locked = getrlimit(Resource::Memlock);
    if locked.current != locked.maximum
        && let Err(error) = setrlimit(Resource::Memlock, Rlimit { current: locked.maximum, maximum: locked.maximum })
    {
        failures.push(format!("locked memory stays limited ({error})"));
    }
    if failures.is_empty() { Enforcement::Full } else { Enforcement::Partial(failures.join("; ")) }
}

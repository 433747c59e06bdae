//! System calls that the process may make from now on, by seccomp.
//!
//! Three filters lie on each other, and the kernel takes the strictest answer (seccomp(2)). What no part of this program
//! ever calls is refused with `EPERM`, so that a library's harmless new habit is an error and not an outage. What only
//! an attacker would call ends the process at once. `clone3` hides its flags in memory where no filter can look, so it
//! is said not to exist and the C library falls back to `clone`, whose flags are checked: threads yes, processes no.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use crate::exit::Fault;

/// Restricts every thread of the process. There is no way back. Call when start-up is over. Only an HSM that has `peers`
/// may still connect to anybody; to which ports, Landlock says.
///
/// # Errors
/// [`Fault::Sandbox`] when the kernel refuses a filter.
pub fn restrict_system_calls(peers: bool) -> Result<(), Fault> {
    let refused = |cause: String| Fault::Sandbox(format!("seccomp: {cause}"));
    for filter in filters(peers).map_err(|error| refused(error.to_string()))? {
        seccompiler::apply_filter_all_threads(&filter).map_err(|error| refused(error.to_string()))?;
    }
    Ok(())
}

/// The filters in the order in which they must be installed: the last one forbids installing more.
fn filters(peers: bool) -> Result<[BpfProgram; 3], seccompiler::BackendError> {
    let architecture: TargetArch = std::env::consts::ARCH.try_into()?;
    let whole = |calls: &[libc::c_long]| calls.iter().map(|&call| (call, Vec::new())).collect::<BTreeMap<_, _>>();
    let deadly = SeccompFilter::new(whole(DEADLY), SeccompAction::Allow, SeccompAction::KillProcess, architecture)?;
    let absent = SeccompFilter::new(
        whole(&[libc::SYS_clone3]),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS.unsigned_abs()),
        architecture,
    )?;
    let mut rules = whole(ALLOWED);
    rules.extend(conditional()?);
    if peers {
        rules.extend(whole(&[libc::SYS_connect]));
    }
    let refusal = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let allowed = SeccompFilter::new(rules, refusal, SeccompAction::Allow, architecture)?;
    Ok([deadly.try_into()?, absent.try_into()?, allowed.try_into()?])
}

/// Calls that depend on an argument: allowed when one of the rules fits.
fn conditional() -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    let equals = |argument, value: i64| rule(argument, SeccompCmpOp::Eq, value);
    let no_bits = |argument, mask: i64| rule(argument, SeccompCmpOp::MaskedEq(mask.unsigned_abs()), 0);
    let thread = i64::from(libc::CLONE_THREAD);
    let executable = i64::from(libc::PROT_EXEC);
    Ok(BTreeMap::from([
        (libc::SYS_clone, vec![rule(0, SeccompCmpOp::MaskedEq(thread.unsigned_abs()), thread)?]),
        // Memory is never writable and executable, nor made executable later.
        (libc::SYS_mmap, vec![no_bits(2, executable)?]),
        (libc::SYS_mprotect, vec![no_bits(2, executable)?]),
        (
            libc::SYS_socket,
            vec![
                equals(0, i64::from(libc::AF_UNIX))?,
                equals(0, i64::from(libc::AF_INET))?,
                equals(0, i64::from(libc::AF_INET6))?,
            ],
        ),
        // Names of threads and of anonymous memory.
        (libc::SYS_prctl, vec![equals(0, i64::from(libc::PR_SET_NAME))?, equals(0, PR_SET_VMA)?]),
        // std's set_nonblocking and close-on-exec.
        #[expect(clippy::cast_possible_wrap, reason = "request numbers are below 2^31")]
        (libc::SYS_ioctl, vec![equals(1, libc::FIONBIO as i64)?, equals(1, libc::FIOCLEX as i64)?]),
        // Reading limits, not setting them.
        (libc::SYS_prlimit64, vec![rule_wide(2, 0)?]),
        // abort(3) signals its own thread.
        (libc::SYS_tgkill, vec![equals(0, i64::from(std::process::id()))?]),
    ]))
}

fn rule(argument: u8, operator: SeccompCmpOp, value: i64) -> Result<SeccompRule, seccompiler::BackendError> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value.unsigned_abs())?;
    SeccompRule::new(vec![condition])
}

fn rule_wide(argument: u8, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, value)?;
    SeccompRule::new(vec![condition])
}

/// `PR_SET_VMA`: recent allocators and C libraries name their mappings with it.
const PR_SET_VMA: i64 = 0x5356_4d41;

/// No defect explains these; an intruder does.
const DEADLY: &[libc::c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_kexec_load,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    libc::SYS_pidfd_getfd,
];

/// What this program does all day.
const ALLOWED: &[libc::c_long] = &[
    // Sockets: listening and answering. `connect` is not among them: an HSM without peers never does.
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    // Waiting.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_eventfd2,
    libc::SYS_futex,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_restart_syscall,
    // Files: Landlock says which.
    libc::SYS_openat,
    libc::SYS_close,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_fcntl,
    libc::SYS_flock,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fadvise64,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_umask,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_munlock,
    libc::SYS_memfd_create,
    libc::SYS_memfd_secret,
    // Threads and signals. clone3 is answered by a filter of its own.
    libc::SYS_clone3,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Facts.
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrusage,
    libc::SYS_getcpu,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    // Older forms of the same, which glibc still uses on this architecture.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_dup2,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_call_is_both_allowed_and_deadly() {
        assert!(DEADLY.iter().all(|call| !ALLOWED.contains(call)));
    }

    #[test]
    fn the_process_may_neither_connect_nor_fork_nor_signal_others() {
        for call in [libc::SYS_connect, libc::SYS_kill, libc::SYS_execve, libc::SYS_seccomp] {
            assert!(!ALLOWED.contains(&call), "{call}");
        }
        #[cfg(target_arch = "x86_64")]
        for call in [libc::SYS_fork, libc::SYS_vfork] {
            assert!(!ALLOWED.contains(&call), "{call}");
        }
    }

    #[test]
    fn the_filters_compile() {
        assert!([true, false].into_iter().flat_map(|peers| filters(peers).unwrap()).all(|filter| !filter.is_empty()));
    }
}

//! The system calls that std lacks: futex words, non-blocking sockets, waiting for them, a page that fork wipes, and
//! keeping a thread from being cancelled in the midst of a call. Safe wrappers only; nothing here knows the protocol.
#![expect(unsafe_code, reason = "the foreign function interface to libc; each call says why it is sound")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Number of the user whose rights this process has.
pub(crate) fn effective_user() -> u32 {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// Whether the process was started with more rights than its caller has, so that the caller's environment must not
/// steer it (as `secure_getenv`).
pub(crate) fn privileges_were_raised() -> bool {
    // SAFETY: getauxval takes a number and cannot fail; an unknown number gives 0.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Sleeps while `word` is `expected`, at most `patience`. May return early for no reason: look at the word again.
pub(crate) fn futex_wait(word: &AtomicU32, expected: u32, patience: Duration) {
    let time = timespec(patience);
    // SAFETY: the word and the timespec live during the call; FUTEX_WAIT reads both and writes neither.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            expected,
            &raw const time,
        );
    }
}

/// Wakes the thread that sleeps at `word`, if one does.
pub(crate) fn futex_wake(word: &AtomicU32) {
    // SAFETY: FUTEX_WAKE uses the address as a name only.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1);
    }
}

fn timespec(duration: Duration) -> libc::timespec {
    // SAFETY: timespec is plain numbers, for which zero is a value.
    let mut time: libc::timespec = unsafe { std::mem::zeroed() };
    time.tv_sec = libc::time_t::try_from(duration.as_secs()).unwrap_or(libc::time_t::MAX);
    time.tv_nsec = libc::c_long::from(i32::try_from(duration.subsec_nanos()).unwrap_or(0));
    time
}

/// Yields that are worth it: lets other threads run first, and stops doing so while that turns out to be dear.
///
/// When a foreign program is busy on the same cores, a yield hands it a whole slice of time (measured on Linux 6.18: 1 to
/// 3 ms where it is 10 µs otherwise). Nothing depends on a yield for correctness, so after a dear one the next ones are
/// left out; twice as many each time in a row.
pub(crate) struct Courtesy {
    left_out: AtomicU32,
    penalty: AtomicU32,
}

/// A yield that takes longer has handed the core to a foreign program: threads of ours and of the HSM's run for some ten
/// microseconds each, a whole slice is 1.4 ms and more.
const DEAR: Duration = Duration::from_millis(1);

/// Yields left out after the first dear one, and at most.
const PENALTY: std::ops::RangeInclusive<u32> = 16..=1024;

impl Courtesy {
    pub(crate) fn new() -> Self {
        Self { left_out: AtomicU32::new(0), penalty: AtomicU32::new(*PENALTY.start()) }
    }

    /// Yields, unless that is dear at present; says whether it did. The counters are approximate by intention.
    pub(crate) fn give_way(&self) -> bool {
        let left_out = self.left_out.load(Ordering::Relaxed);
        if left_out > 0 {
            self.left_out.store(left_out - 1, Ordering::Relaxed);
            return false;
        }
        let begin = Instant::now();
        std::thread::yield_now();
        let penalty = self.penalty.load(Ordering::Relaxed);
        if begin.elapsed() > DEAR {
            self.left_out.store(penalty, Ordering::Relaxed);
            self.penalty.store((penalty * 2).min(*PENALTY.end()), Ordering::Relaxed);
        } else if penalty > *PENALTY.start() {
            self.penalty.store(penalty - 1, Ordering::Relaxed);
        }
        true
    }
}

/// Receives what is there. `Ok(0)` = the peer has closed; `WouldBlock` = nothing is there.
pub(crate) fn receive(socket: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        // SAFETY: the pointer and the length are those of a live, writable buffer.
        let count = unsafe { libc::recv(socket, buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) };
        match usize::try_from(count) {
            Ok(count) => return Ok(count),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// Whether nothing can come from this socket any more. What has arrived stays in it.
pub(crate) fn is_hung_up(socket: RawFd) -> bool {
    let mut octet = 0_u8;
    // SAFETY: the pointer and the length are those of a live octet.
    let count = unsafe { libc::recv(socket, (&raw mut octet).cast(), 1, libc::MSG_PEEK | libc::MSG_DONTWAIT) };
    match count {
        0 => true,
        1.. => false,
        _ => !matches!(io::Error::last_os_error().kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
    }
}

/// Sends what the socket takes now, without a SIGPIPE when the peer is gone. `WouldBlock` = it takes nothing.
pub(crate) fn send(socket: RawFd, bytes: &[u8]) -> io::Result<usize> {
    loop {
        // SAFETY: the pointer and the length are those of a live buffer.
        let count =
            unsafe { libc::send(socket, bytes.as_ptr().cast(), bytes.len(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
        match usize::try_from(count) {
            Ok(count) => return Ok(count),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// Ends both directions of a socket, so that the peer and whoever waits for it learn of it now.
pub(crate) fn shut_down(socket: RawFd) {
    // SAFETY: takes two numbers; a socket that is no longer connected is refused, which is as good.
    unsafe {
        libc::shutdown(socket, libc::SHUT_RDWR);
    }
}

/// What a socket is waited for.
#[derive(Clone, Copy)]
pub(crate) struct Readiness {
    pub(crate) read: bool,
    pub(crate) write: bool,
}

/// Waits until the socket is ready or has failed (which shows as ready), at most `patience`; says what it is ready for.
/// A signal counts as nothing ready: look at the clock and wait again.
pub(crate) fn wait_for(socket: RawFd, wanted: Readiness, patience: Duration) -> Readiness {
    let mut events = 0;
    if wanted.read {
        events |= libc::POLLIN;
    }
    if wanted.write {
        events |= libc::POLLOUT;
    }
    let mut entry = libc::pollfd { fd: socket, events, revents: 0 };
    let time = timespec(patience);
    // SAFETY: one entry and a timespec that live during the call; no signal mask is given.
    let count = unsafe { libc::ppoll(&raw mut entry, 1, &raw const time, std::ptr::null()) };
    if count <= 0 {
        return Readiness { read: false, write: false };
    }
    let failed = entry.revents & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0;
    Readiness {
        read: wanted.read && (failed || entry.revents & libc::POLLIN != 0),
        write: wanted.write && (failed || entry.revents & libc::POLLOUT != 0),
    }
}

/// Connects to a Unix socket within `patience`: std's own waits without end when the listener's queue is full.
pub(crate) fn connect_unix(path: &Path, patience: Duration) -> io::Result<OwnedFd> {
    // SAFETY: sockaddr_un is plain numbers, for which zero is a value.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    let bytes = path.as_os_str().as_bytes();
    // One byte is left for the zero at the end.
    if bytes.len() >= address.sun_path.len() || bytes.contains(&0) {
        let reason = format!("the path of a Unix socket has at most {} bytes", address.sun_path.len() - 1);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    address.sun_family = libc::sa_family_t::try_from(libc::AF_UNIX).map_err(io::Error::other)?;
    for (place, &byte) in address.sun_path.iter_mut().zip(bytes) {
        *place = libc::c_char::from_ne_bytes([byte]);
    }
    // SAFETY: takes numbers; the result is checked.
    let descriptor = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that was just made and that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
    // On a Unix socket the time-out for sending also bounds connect (socket(7), unix(7)).
    let time = libc::timeval {
        tv_sec: libc::time_t::try_from(patience.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_usec: libc::suseconds_t::from(i32::try_from(patience.subsec_micros()).unwrap_or(0).max(1)),
    };
    set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_SNDTIMEO, &time)?;
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_un>()).map_err(io::Error::other)?;
    // SAFETY: the address lives during the call, and `length` is its size.
    let result = unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if result == 0 {
        return Ok(socket);
    }
    let error = io::Error::last_os_error();
    match error.kind() {
        io::ErrorKind::WouldBlock => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")),
        _ => Err(error),
    }
}

/// Has the kernel notice a peer that went away without a word: probes when idle, and a bound on unacknowledged data.
pub(crate) fn watch_peer(socket: BorrowedFd<'_>, patience: Duration) -> io::Result<()> {
    let seconds = libc::c_int::try_from(patience.as_secs().max(1)).unwrap_or(libc::c_int::MAX);
    let milliseconds = libc::c_int::try_from(patience.as_millis().max(1)).unwrap_or(libc::c_int::MAX);
    set_option(socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE, &1)?;
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, &seconds)?;
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, &1)?;
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, &3)?;
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, &milliseconds)
}

/// What the value of a socket option may be here.
trait OptionValue {}
impl OptionValue for libc::c_int {}
impl OptionValue for libc::timeval {}

fn set_option<V: OptionValue>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &V,
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<V>()).map_err(io::Error::other)?;
    // SAFETY: the value is a plain C structure that lives during the call, and `length` is its size.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The inode of what `descriptor` means now, so that a number used anew is not mistaken for it; `None` when it is closed.
pub(crate) fn inode(descriptor: RawFd) -> Option<u64> {
    // SAFETY: stat is plain numbers, for which zero is a value.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: fstat writes into a live stat and refuses a number that is no descriptor.
    let result = unsafe { libc::fstat(descriptor, &raw mut status) };
    (result == 0).then_some(status.st_ino)
}

/// Closes a descriptor of this process's copy of the table that no Rust value of this process will use again: only for a
/// forked child, whose parent's values are leaked.
pub(crate) fn close_inherited(descriptor: RawFd) {
    // SAFETY: the caller has checked by its identity that the number still means the inherited socket, and the value
    // that owned it is leaked, so this is its only owner.
    drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
}

/// A page that reads as zero in a child made by fork: tells a child from its parent without a system call.
pub(crate) struct ForkPage {
    /// `None` when the kernel has no `MADV_WIPEONFORK` (before Linux 4.14): the process id is compared instead.
    page: Option<NonNull<AtomicU32>>,
    process: u32,
}

// SAFETY: the page is only read after it was made, through an atomic, and is unmapped by the owner's drop.
unsafe impl Send for ForkPage {}
// SAFETY: as above.
unsafe impl Sync for ForkPage {}

const FORK_PAGE_BYTES: usize = 4096;
const NOT_FORKED: u32 = 0x6b61_6769;

impl ForkPage {
    pub(crate) fn new() -> Self {
        // SAFETY: a fresh private mapping at an address of the kernel's choice touches nothing that exists.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                FORK_PAGE_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        let process = std::process::id();
        if address == libc::MAP_FAILED {
            return Self { page: None, process };
        }
        // SAFETY: the page was just mapped and is ours alone.
        let wiped = unsafe { libc::madvise(address, FORK_PAGE_BYTES, libc::MADV_WIPEONFORK) } == 0;
        let page = NonNull::new(address.cast::<AtomicU32>()).filter(|_| wiped);
        match page {
            // SAFETY: the page is mapped, aligned and zero, which is a valid AtomicU32.
            Some(page) => unsafe { page.as_ref() }.store(NOT_FORKED, Ordering::Relaxed),
            // SAFETY: the page was mapped above and nothing refers to it.
            None => unsafe {
                libc::munmap(address, FORK_PAGE_BYTES);
            },
        }
        Self { page, process }
    }

    /// Whether this process is a child of the one that made the page.
    pub(crate) fn is_child(&self) -> bool {
        match self.page {
            // SAFETY: the page stays mapped as long as this value lives.
            Some(page) => unsafe { page.as_ref() }.load(Ordering::Relaxed) != NOT_FORKED,
            None => std::process::id() != self.process,
        }
    }
}

impl Drop for ForkPage {
    fn drop(&mut self) {
        if let Some(page) = self.page {
            // SAFETY: mapped by `new` with this size; nothing refers to it after this value.
            unsafe {
                libc::munmap(page.as_ptr().cast(), FORK_PAGE_BYTES);
            }
        }
    }
}

/// Keeps the calling thread from being cancelled (`pthread_cancel`) until it is dropped: a thread that vanished at a
/// system call would leave its role on the connection taken for ever.
pub(crate) struct CancellationBlocked {
    before: libc::c_int,
    /// Belongs to the thread that made it.
    _thread: std::marker::PhantomData<*const ()>,
}

/// `PTHREAD_CANCEL_DISABLE` of Linux, by glibc and musl alike.
const PTHREAD_CANCEL_DISABLE: libc::c_int = 1;

unsafe extern "C" {
    fn pthread_setcancelstate(state: libc::c_int, before: *mut libc::c_int) -> libc::c_int;
}

impl CancellationBlocked {
    pub(crate) fn new() -> Self {
        let mut before = 0;
        // SAFETY: changes a flag of the calling thread and writes the old one to a live int.
        unsafe {
            pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &raw mut before);
        }
        Self { before, _thread: std::marker::PhantomData }
    }
}

impl Drop for CancellationBlocked {
    fn drop(&mut self) {
        let mut ignored = 0;
        // SAFETY: puts back what `new` found, on the same thread (the value is not Send).
        unsafe {
            pthread_setcancelstate(self.before, &raw mut ignored);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fork_page_tells_a_child_from_its_parent() {
        let page = ForkPage::new();
        assert!(!page.is_child());
        // SAFETY: the child calls only async-signal-safe functions.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let status = i32::from(!page.is_child());
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(status) };
        }
        let mut status = 0;
        // SAFETY: waits for our own child.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!(status, 0);
        assert!(!page.is_child());
    }

    #[test]
    fn a_futex_word_that_changed_does_not_put_to_sleep() {
        let word = AtomicU32::new(1);
        let begin = std::time::Instant::now();
        futex_wait(&word, 0, Duration::from_secs(10));
        assert!(begin.elapsed() < Duration::from_secs(5));
        futex_wait(&word, 1, Duration::from_millis(5));
    }
}

//! Pages of memory for the few secrets that open everything else.
//!
//! First choice is `memfd_secret(2)`: the pages leave the kernel's direct map, so neither `/proc/PID/mem`, a core, a
//! swap device nor a bug in the kernel that reads arbitrary memory shows them. Where the kernel does not offer it
//! (before 5.14, or `secretmem.enable=0`), anonymous pages that are locked, excluded from cores and emptied in a child
//! take its place, and [`MemoryKind`] says so.

use std::ptr::NonNull;

use zeroize::Zeroize;

use crate::fault::SelfTestFailure;

/// What protects the master key and the working keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryKind {
    /// `memfd_secret(2)`: outside the kernel's direct map.
    MemfdSecret,
    /// Locked, not in a core, empty in a child.
    Locked,
}

/// One mapping, wiped and unmapped when it goes. Its size is that of the secret rounded up to whole pages.
pub(crate) struct Pages {
    start: NonNull<u8>,
    length: usize,
    mapped: usize,
    kind: MemoryKind,
}

// SAFETY: the mapping belongs to this value alone; writing needs `&mut`.
unsafe impl Send for Pages {}
// SAFETY: through `&` it is only read.
unsafe impl Sync for Pages {}

impl Pages {
    /// Zeroed pages for a secret of `length` bytes.
    ///
    /// # Errors
    /// [`SelfTestFailure::NoSecretMemory`] when the system locks no memory for us.
    pub(crate) fn new(length: usize) -> Result<Self, SelfTestFailure> {
        let mapped = length.max(1).next_multiple_of(page_bytes());
        let (start, kind) = map_secret(mapped)
            .map(|start| (start, MemoryKind::MemfdSecret))
            .or_else(|| map_locked(mapped).map(|start| (start, MemoryKind::Locked)))
            .ok_or(SelfTestFailure::NoSecretMemory)?;
        Ok(Self { start, length, mapped, kind })
    }

    /// What protects them.
    pub(crate) fn kind(&self) -> MemoryKind {
        self.kind
    }

    /// The secret.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is readable, at least `length` long, initialized (zeros) and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }

    /// The secret, to be filled.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut self` is the only access.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.bytes_mut().zeroize();
        // SAFETY: the range is exactly the mapping that `new` made, and nobody has a reference into it any more.
        let status = unsafe { libc::munmap(self.start.as_ptr().cast(), self.mapped) };
        debug_assert_eq!(status, 0, "unmapping a mapping of ours cannot fail");
    }
}

fn page_bytes() -> usize {
    // SAFETY: sysconf only reads.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

fn map_secret(length: usize) -> Option<NonNull<u8>> {
    let size = libc::off_t::try_from(length).ok()?;
    let close_on_exec = libc::c_long::from(libc::O_CLOEXEC);
    // SAFETY: the system call takes one flag and returns a descriptor or -1.
    let descriptor = libc::c_int::try_from(unsafe { libc::syscall(libc::SYS_memfd_secret, close_on_exec) }).ok()?;
    if descriptor < 0 {
        return None;
    }
    // SAFETY: the descriptor is ours and open.
    let start = if unsafe { libc::ftruncate(descriptor, size) } == 0 {
        map(length, libc::MAP_SHARED, descriptor)
    } else {
        None
    };
    // SAFETY: the descriptor is ours, and is closed once; the mapping outlives it.
    unsafe { libc::close(descriptor) };
    let start = start?;
    // A child must not inherit what only this process may use.
    // SAFETY: the range is the mapping just made.
    if unsafe { libc::madvise(start.as_ptr().cast(), length, libc::MADV_DONTFORK) } != 0 {
        // SAFETY: as above; nobody has seen the mapping.
        unsafe { libc::munmap(start.as_ptr().cast(), length) };
        return None;
    }
    Some(start)
}

fn map_locked(length: usize) -> Option<NonNull<u8>> {
    let start = map(length, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)?;
    let address = start.as_ptr().cast();
    // SAFETY: the range is the mapping just made.
    let protected = unsafe {
        libc::mlock(address, length) == 0
            && libc::madvise(address, length, libc::MADV_DONTDUMP) == 0
            && libc::madvise(address, length, libc::MADV_WIPEONFORK) == 0
    };
    if protected {
        return Some(start);
    }
    // SAFETY: the mapping is ours and nobody has seen it.
    unsafe { libc::munmap(address, length) };
    None
}

fn map(length: usize, flags: libc::c_int, descriptor: libc::c_int) -> Option<NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address that the kernel chooses.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, descriptor, 0) };
    if start == libc::MAP_FAILED { None } else { NonNull::new(start.cast()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_hold_a_secret_and_say_what_protects_it() {
        let mut pages = Pages::new(48).unwrap();
        assert!(pages.bytes().iter().all(|&byte| byte == 0));
        pages.bytes_mut().fill(0xA5);
        assert_eq!(pages.bytes(), [0xA5; 48]);
        println!("secret memory here: {:?}", pages.kind());
    }

    #[test]
    fn locked_pages_take_the_place_of_memfd_secret() {
        assert!(map_locked(page_bytes()).is_some());
    }
}

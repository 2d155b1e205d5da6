//! A file's bytes mapped into this process alone. A read uses the file's own pages; the first write
//! to a page copies that page.
//!
//! This is sound for sealed files only. A file that a process can still write to would change under
//! a slice of it, and an access to a page that has been cut off is SIGBUS. A seal cannot be
//! removed, so the seals of a file hold for as long as it is mapped. Not here: which files are
//! sealed, and what happens to the others (`wire::memory`).

use super::choice::backend;
use rustix::fd::BorrowedFd;
use std::ptr::NonNull;

/// A private, writable mapping of a whole file. It needs no descriptor.
#[derive(Debug)]
pub(crate) struct Private {
    start: NonNull<u8>,
    size: usize,
}

// SAFETY: plain memory with one owner, like a boxed slice.
unsafe impl Send for Private {}
// SAFETY: likewise; writes need `&mut`.
unsafe impl Sync for Private {}

impl Private {
    /// Maps a file that no process can change any more. Returns None if this file is not known to
    /// be so, or is empty, or if there is no room.
    pub(crate) fn of_sealed(file: BorrowedFd<'_>) -> Option<Private> {
        use rustix::mm::{mmap, MapFlags, ProtFlags};
        let size = backend().unchanging_size(file)?;
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let start = unsafe { mmap(std::ptr::null_mut(), size, access, flags, file, 0) }.ok()?;
        Some(Private { start: NonNull::new(start.cast())?, size })
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: mapped for as long as `self` lives, and initialised by the kernel. Only a borrow
        // of `&mut self` can change it, because the file cannot change.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.size) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and there is no other reference while `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.size) }
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's, and no slice of it outlives `self`. An error would
        // mean that it is not mapped; there is no caller to report it to.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.size) };
    }
}

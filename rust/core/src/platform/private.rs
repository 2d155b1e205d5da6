//! A file's bytes mapped into this process alone: read from the file's own pages, and copied a
//! page at a time when they are written to.
//!
//! Sound for sealed files only. A file that somebody can still write to would change under a
//! slice of it, and touching a page that has been cut off is SIGBUS. A seal cannot be broken,
//! so what a file's seals say once holds for as long as it is mapped. Not here: which files are
//! sealed, and what becomes of those that are not (`channel::memory`).

use super::choice::backend;
use rustix::fd::BorrowedFd;
use std::ptr::NonNull;

/// A private, writable mapping of all of a file. It needs no descriptor.
#[derive(Debug)]
pub(crate) struct Private {
    start: NonNull<u8>,
    size: usize,
}

// SAFETY: it is plain memory with one owner, like a boxed slice.
unsafe impl Send for Private {}
// SAFETY: likewise; it is written to through `&mut` only.
unsafe impl Sync for Private {}

impl Private {
    /// Maps a file that nobody can change any more. None if this one is not known to be so, or
    /// is empty, or if there is no room.
    pub(crate) fn of_sealed(file: BorrowedFd<'_>) -> Option<Private> {
        use rustix::mm::{mmap, MapFlags, ProtFlags};
        let size = backend().unchanging_size(file)?;
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let start = unsafe { mmap(std::ptr::null_mut(), size, access, flags, file, 0) }.ok()?;
        Some(Private { start: NonNull::new(start.cast())?, size })
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: mapped for as long as `self` lives, initialised by the kernel, and changed by
        // nobody but through `&mut self`, since the file cannot change.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.size) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and nobody else refers to it while `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.size) }
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no slice of it outlives `self`. An error would mean
        // that it is not mapped, and there is nobody to tell.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.size) };
    }
}

//! A file's bytes mapped into this process alone: read from the file's own pages, and copied a
//! page at a time when they are written to.
//!
//! Sound for sealed files only. A file that somebody can still write to would change under a
//! slice of it, and touching a page that has been cut off is SIGBUS. A seal cannot be broken,
//! so what a file's seals say once holds for as long as it is mapped. Not here: which files are
//! sealed, and what becomes of those that are not (`channel::memory`).

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
        let size = unchanging_size(file)?;
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

#[cfg(all(target_os = "linux", not(jobserver_portable)))]
mod seals {
    use rustix::fd::BorrowedFd;
    use rustix::fs::{fcntl_add_seals, fcntl_get_seals, fstat, fstatfs, SealFlags};

    fn all() -> SealFlags {
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE
    }

    /// Sees to it that a memory file cannot change any more. Where that is not possible, who
    /// maps it finds out.
    pub(crate) fn seal(file: BorrowedFd<'_>) {
        let _ = fcntl_add_seals(file, all());
    }

    /// The size of a file that is as good as memory: on a file system of memory, sealed, and
    /// with all of its pages there. (To read a hole of it is to ask for a page, and if there is
    /// none left, SIGBUS.)
    pub(super) fn unchanging_size(file: BorrowedFd<'_>) -> Option<usize> {
        // Not the one of huge pages, which run out by themselves when a page is copied.
        const TMPFS: u64 = 0x0102_1994;
        if !crate::sys::linux()
            || !fcntl_get_seals(file).ok()?.contains(all())
            || u64::try_from(fstatfs(file).ok()?.f_type).ok()? != TMPFS
        {
            return None;
        }
        let stat = fstat(file).ok()?;
        let there = u64::try_from(stat.st_blocks).ok()?.checked_mul(512)?;
        let size = usize::try_from(stat.st_size).ok()?;
        (size > 0 && there >= size as u64).then_some(size)
    }
}

#[cfg(not(all(target_os = "linux", not(jobserver_portable))))]
mod seals {
    use rustix::fd::BorrowedFd;

    /// Files of other systems cannot be sealed.
    pub(crate) fn seal(_: BorrowedFd<'_>) {}

    pub(super) fn unchanging_size(_: BorrowedFd<'_>) -> Option<usize> {
        None
    }
}

pub(crate) use seals::seal;
use seals::unchanging_size;

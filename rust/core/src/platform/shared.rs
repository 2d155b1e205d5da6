//! Memory that several processes share, and the two system calls that move a byte between it and a
//! pipe in one step.
//!
//! A process can be killed between any two of its instructions, but not within these system calls:
//! a call that has begun its work completes it. So a byte that is read directly into shared memory
//! is either still in the pipe or visible to all processes that share the memory. A byte that is
//! sent by `splice`, with its file offset in shared memory, is either not in the pipe or recorded
//! there as sent. Not here: what the words mean (`slots::ledger`).

use super::Descriptor;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::{Errno, Result};
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// A word of shared memory. In tests, one that counts its accesses.
#[cfg(all(test, target_os = "linux"))]
pub(crate) use super::kill_point::Word;
#[cfg(not(all(test, target_os = "linux")))]
pub(crate) use std::sync::atomic::AtomicU64 as Word;

/// The size of a word, in bytes.
pub(crate) const WORD: usize = 8;

/// A file mapped into this process, as words that other processes may change at any time.
#[derive(Debug)]
pub(crate) struct Shared {
    file: Arc<Descriptor>,
    start: NonNull<Word>,
    words: usize,
}

// SAFETY: all access to the mapping is through atomics or the kernel, from any thread.
unsafe impl Send for Shared {}
// SAFETY: likewise.
unsafe impl Sync for Shared {}

impl Shared {
    /// Maps the first `words` words of `file`, which must be that long already and must never
    /// become shorter.
    pub(crate) fn map(file: impl Into<Arc<Descriptor>>, words: usize) -> Result<Shared> {
        use rustix::mm::{mmap, MapFlags, ProtFlags};
        let file = file.into();
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let start =
            unsafe { mmap(std::ptr::null_mut(), words * WORD, access, flags, file.as_fd(), 0) }?;
        let start = NonNull::new(start.cast()).ok_or(Errno::NOMEM)?;
        Ok(Shared { file, start, words })
    }

    /// Returns the file.
    pub(crate) fn file(&self) -> &Arc<Descriptor> {
        &self.file
    }

    /// Returns one word. Panics if `index` is outside the mapping.
    pub(crate) fn word(&self, index: usize) -> &Word {
        assert!(index < self.words, "a word outside the mapping");
        // SAFETY: within the mapping, as just asserted, which lives as long as `self`.
        let word = unsafe { self.start.add(index) };
        // SAFETY: pages are aligned for any word, and all bits are valid. All other writers of this
        // word, in processes or in the kernel, write atomically or write a single byte.
        unsafe { word.as_ref() }
    }

    /// Reads one byte of `pipe` into the first byte of a word. Returns how many were read: 0 or 1.
    pub(crate) fn read_into(&self, index: usize, pipe: BorrowedFd<'_>) -> Result<usize> {
        let into = std::ptr::from_ref(self.word(index)).cast_mut();
        #[cfg(all(test, target_os = "linux"))]
        super::kill_point::pass();
        // SAFETY: the kernel writes one byte into a word of the mapping. The word is shared and
        // atomic, so there is no plain reference to it.
        let read = unsafe { libc::read(pipe.as_raw_fd(), into.cast(), 1) };
        usize::try_from(read).map_err(|_| last_error())
    }

    /// Sends one byte of the file to `pipe`, the one whose offset the word holds, and advances the
    /// word by one. Returns false if there is no room in the pipe; then neither changes.
    ///
    /// `splice` passes on the page and not a copy, so the byte in the file must never change.
    #[cfg(target_os = "linux")]
    pub(crate) fn send(&self, offset: usize, pipe: BorrowedFd<'_>) -> Result<bool> {
        let file = self.file.intact_or_anew()?;
        let (from, to) = (file.as_fd().as_raw_fd(), pipe.as_raw_fd());
        let offset = std::ptr::from_ref(self.word(offset)).cast_mut().cast::<libc::loff_t>();
        let flags = libc::SPLICE_F_NONBLOCK;
        #[cfg(test)]
        super::kill_point::pass();
        // SAFETY: reads and writes the offset, a word of the mapping, as above.
        match unsafe { libc::splice(from, offset, to, std::ptr::null_mut(), 1, flags) } {
            1 => Ok(true),
            -1 => match last_error() {
                Errno::AGAIN => Ok(false),
                e => Err(e),
            },
            _ => Err(Errno::IO),
        }
    }

    /// Returns false: no call here moves a byte from a file to a pipe in one step.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn send(&self, _offset: usize, _pipe: BorrowedFd<'_>) -> Result<bool> {
        Ok(false)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's, and no reference to a word outlives `self`. An error
        // would mean that it is not mapped; there is no caller to report it to.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.words * WORD) };
    }
}

pub(super) fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// The memory order of all of the ledger's steps. The protocol is argued one step at a time, which
/// needs one total order.
pub(crate) const IN_ORDER: Ordering = Ordering::SeqCst;

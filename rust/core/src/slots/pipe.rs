//! The token pipe: a byte for each free slot, GNU Make's protocol.
//!
//! Reads never block: a process must never hang on an empty pool while its own jobs end, so
//! it waits with poll on the pipe *and* its jobs (see `scan`), then tries. But O_NONBLOCK
//! belongs to the open description, and setting it on one that others share (make, above
//! all) breaks them. A fifo is opened anew anyway; for an inherited pipe, Linux gives a
//! description of our own through /proc. Elsewhere we poll, and accept that a sibling may
//! take the byte before us, when the read waits for the next.

use super::auth::Auth;
use crate::error::{Error, ErrorKind, Result};
use crate::platform::shared::Shared;
use crate::platform::{backend, duplicate, enlarge_pipe, open_anew, AtHand, Descriptor};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{fcntl_getfl, fstat, FileType, Mode, OFlags};
use rustix::io::{retry_on_intr, Errno};
use std::os::fd::RawFd;
use std::path::Path;
use std::sync::Arc;

/// The most slots a pool may have: every token must fit into the pipe at once, and this
/// many fit into a pipe of the default size everywhere.
pub const MAX_SLOTS: usize = 16 * 1024;

/// What a new pool's tokens are; GNU Make uses the same byte.
const TOKEN: u8 = b'+';

/// The two ends of a pool's pipe.
#[derive(Debug)]
pub(crate) struct TokenPipe {
    read: Arc<Descriptor>,
    /// The same for a fifo.
    write: Arc<Descriptor>,
    /// Whether bytes can be put back by `splice`: see `enlarge`.
    splices: bool,
    /// Whether a read waits for a byte, where there is none.
    waits: bool,
}

impl TokenPipe {
    /// As MAKEFLAGS names it.
    pub(crate) fn named(auth: &Auth, slots: usize) -> Result<TokenPipe> {
        match auth {
            Auth::Fifo(path) => {
                TokenPipe::open(path, slots).map_err(Error::system("cannot join a pool"))
            }
            Auth::Pipe { read, write } => {
                let joining = |e| Error::refused("cannot join a pool", e);
                let end = |raw: &RawFd| duplicate(*raw).map_err(joining);
                TokenPipe::of_ends(end(read)?, end(write)?, slots)
            }
        }
    }

    /// By the name of a fifo.
    pub(crate) fn open(path: &Path, slots: usize) -> rustix::io::Result<TokenPipe> {
        // To read and write: the opening does not wait, and no reader sees an end of file.
        let flags = OFlags::RDWR | OFlags::NONBLOCK;
        let read = Arc::new(Descriptor::open(path, flags, Mode::empty())?);
        if FileType::from_raw_mode(fstat(&read)?.st_mode) != FileType::Fifo {
            return Err(Errno::INVAL);
        }
        let splices = enlarge(&read, slots);
        Ok(TokenPipe { write: Arc::clone(&read), read, splices, waits: false })
    }

    /// By its two ends, which must be those of a pipe.
    pub(crate) fn of_ends(read: Descriptor, write: Descriptor, slots: usize) -> Result<TokenPipe> {
        let doing = "cannot join a pool";
        for (end, only) in [(&read, OFlags::WRONLY), (&write, OFlags::RDONLY)] {
            let mode = fstat(end).map_err(Error::system(doing))?.st_mode;
            let direction = fcntl_getfl(end).map_err(Error::system(doing))? & OFlags::RWMODE;
            if FileType::from_raw_mode(mode) != FileType::Fifo || direction == only {
                return Err(Error::new(
                    ErrorKind::InvalidInput,
                    "a pool is joined by the readable and the writable end of a pipe, in this order",
                ));
            }
        }
        let read = private(read).map_err(Error::system(doing))?;
        let splices = enlarge(&write, slots);
        let flags = fcntl_getfl(&read).map_err(Error::system(doing))?;
        let waits = !flags.contains(OFlags::NONBLOCK);
        Ok(TokenPipe { read: Arc::new(read), write: Arc::new(write), splices, waits })
    }

    /// Puts the tokens of a new pool in.
    pub(crate) fn fill(&self, slots: usize) -> rustix::io::Result<()> {
        enlarge_pipe(&self.write, slots)?; // a full pipe would block us
        let mut tokens = vec![TOKEN; slots];
        while !tokens.is_empty() {
            let written = retry_on_intr(|| rustix::io::write(&self.write, &tokens))?;
            tokens.truncate(tokens.len() - written);
        }
        Ok(())
    }

    /// Reads a byte into a word of shared memory: how many were read. Only after
    /// `may_have_any` has just said so: if it is gone meanwhile, AGAIN, or else a wait for the next (see above).
    pub(crate) fn take_into(&self, memory: &Shared, word: usize) -> rustix::io::Result<usize> {
        memory.read_into(word, self.read.as_fd())
    }

    /// The end to put bytes back by. None if this program has closed it, and it has no name by
    /// which to open it again.
    pub(crate) fn end_to_write(&self) -> Option<AtHand<'_>> {
        self.write.intact_or_anew().ok()
    }

    /// Sends the byte at the file offset that the word holds, in one step with the word's
    /// advance. False if that cannot be done, when nothing has been.
    pub(crate) fn send_from(&self, memory: &Shared, offset: usize, end: BorrowedFd<'_>) -> bool {
        self.splices && matches!(memory.send(offset, end), Ok(true))
    }

    /// Whether it is in the pipe now.
    pub(crate) fn put_back(byte: u8, end: BorrowedFd<'_>) -> bool {
        // The pipe cannot be full: it held this byte before.
        matches!(retry_on_intr(|| rustix::io::write(end, &[byte])), Ok(1))
    }

    /// Whether it is worth a try to take one. If `exactly`, or if the try might wait for one, that is
    /// whether there is one.
    ///
    /// # Errors
    ///
    /// As of `free`.
    pub(crate) fn may_have_any(&self, exactly: bool) -> rustix::io::Result<bool> {
        match exactly || self.waits {
            true => Ok(self.free()? > 0),
            false => self.read.intact().map(|_| true),
        }
    }

    /// How many bytes are in it (FIONREAD: nobody starves while we count).
    ///
    /// # Errors
    ///
    /// BADF: this program has closed it, or has opened something else in its place.
    pub(crate) fn free(&self) -> rustix::io::Result<usize> {
        let bytes = rustix::io::ioctl_fionread(self.read.intact()?)?;
        Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    pub(crate) fn read_end(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }

    pub(crate) fn shared_read_end(&self) -> Arc<Descriptor> {
        Arc::clone(&self.read)
    }

    pub(crate) fn write_end(&self) -> BorrowedFd<'_> {
        self.write.as_fd()
    }
}

/// Whether bytes can be put back by `splice`. A byte that is spliced occupies a whole buffer of the
/// pipe, which has 16 from the start; the system's limit is 256 for most users (the sysctl
/// fs.pipe-max-size). The pipe is never made smaller: others know what they have.
fn enlarge(pipe: &Descriptor, slots: usize) -> bool {
    backend().splices(pipe, slots)
}

/// A non-blocking read end with a description of its own, where the system can give one.
fn private(read: Descriptor) -> rustix::io::Result<Descriptor> {
    if !fcntl_getfl(&read)?.contains(OFlags::NONBLOCK) {
        if let Some(own) = open_anew(&read) {
            return Descriptor::new(own);
        }
    }
    Ok(read)
}

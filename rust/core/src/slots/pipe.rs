//! The token pipe: a byte for each free slot, as in GNU Make's protocol.
//!
//! Reads never block: a process must not hang on an empty pool while its own jobs end. So it waits
//! with poll on the pipe *and* its jobs (see `owner::scan`), then tries. But O_NONBLOCK belongs to
//! the open description: setting it on one that other processes share (make above all) breaks those
//! processes. Each process opens a fifo for itself. For an inherited pipe, Linux gives a
//! description of our own through /proc. Elsewhere this process polls first, and accepts that a
//! sibling may take the byte before it; then the read waits for the next byte.

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

/// The most slots that a pool may have. Every token must fit into the pipe at once, and this many
/// fit into a pipe of the default size everywhere.
pub const MAX_SLOTS: usize = 16 * 1024;

/// The byte of a new pool's tokens. GNU Make uses the same byte.
const TOKEN: u8 = b'+';

/// The two ends of a pool's pipe.
#[derive(Debug)]
pub(crate) struct TokenPipe {
    read: Arc<Descriptor>,
    /// The same descriptor as `read` for a fifo.
    write: Arc<Descriptor>,
    /// Whether `splice` can put bytes back: see `enlarge`.
    splices: bool,
    /// Whether a read waits for a byte when there is none.
    waits: bool,
}

impl TokenPipe {
    /// Opens the pipe that MAKEFLAGS names.
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

    /// Opens the pipe by the name of its fifo.
    pub(crate) fn open(path: &Path, slots: usize) -> rustix::io::Result<TokenPipe> {
        // To read and write: then the opening does not wait, and no reader sees an end of file.
        let flags = OFlags::RDWR | OFlags::NONBLOCK;
        let read = Arc::new(Descriptor::open(path, flags, Mode::empty())?);
        if FileType::from_raw_mode(fstat(&read)?.st_mode) != FileType::Fifo {
            return Err(Errno::INVAL);
        }
        let splices = enlarge(&read, slots);
        Ok(TokenPipe { write: Arc::clone(&read), read, splices, waits: false })
    }

    /// Makes it from its two ends, which must be those of a pipe.
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

    /// Writes the tokens of a new pool into the pipe.
    pub(crate) fn fill(&self, slots: usize) -> rustix::io::Result<()> {
        enlarge_pipe(&self.write, slots)?; // a write to a full pipe would block
        let mut tokens = vec![TOKEN; slots];
        while !tokens.is_empty() {
            let written = retry_on_intr(|| rustix::io::write(&self.write, &tokens))?;
            tokens.truncate(tokens.len() - written);
        }
        Ok(())
    }

    /// Reads a byte into a word of shared memory. Returns how many bytes were read. The caller must
    /// call `may_have_any` just before. If the byte is gone by then, this fails with AGAIN, or
    /// waits for the next byte (see the module).
    pub(crate) fn take_into(&self, memory: &Shared, word: usize) -> rustix::io::Result<usize> {
        memory.read_into(word, self.read.as_fd())
    }

    /// Returns the end to write bytes to. None if this program has closed it, and it has no name by
    /// which to open it again.
    pub(crate) fn end_to_write(&self) -> Option<AtHand<'_>> {
        self.write.intact_or_anew().ok()
    }

    /// Sends the byte at the file offset that the word holds, in one step with the word's advance.
    /// Returns false if that cannot be done; then nothing has been sent.
    pub(crate) fn send_from(&self, memory: &Shared, offset: usize, end: BorrowedFd<'_>) -> bool {
        self.splices && matches!(memory.send(offset, end), Ok(true))
    }

    /// Writes the byte. Returns whether it is in the pipe now.
    pub(crate) fn put_back(byte: u8, end: BorrowedFd<'_>) -> bool {
        #[cfg(all(test, target_os = "linux"))]
        crate::platform::kill_point::pass_gap();
        // The pipe cannot be full: it held this byte before.
        matches!(retry_on_intr(|| rustix::io::write(end, &[byte])), Ok(1))
    }

    /// Returns whether a try to take a byte may succeed. If `exactly`, or if the try might wait for
    /// a byte, returns whether there is one.
    ///
    /// # Errors
    ///
    /// Those of `free`.
    pub(crate) fn may_have_any(&self, exactly: bool) -> rustix::io::Result<bool> {
        match exactly || self.waits {
            true => Ok(self.free()? > 0),
            false => self.read.intact().map(|_| true),
        }
    }

    /// Returns how many bytes are in the pipe. (FIONREAD counts them without taking them.)
    ///
    /// # Errors
    ///
    /// BADF: this program has closed the descriptor, or has opened another file in its place.
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

/// Makes the pipe large enough for `splice`, and returns whether `splice` can put bytes back. A
/// spliced byte occupies a whole buffer of the pipe. A pipe has 16 buffers from the start; the
/// system's limit is 256 for most users (the sysctl fs.pipe-max-size). The pipe is never made
/// smaller: other processes rely on its size.
fn enlarge(pipe: &Descriptor, slots: usize) -> bool {
    backend().splices(pipe, slots)
}

/// Returns a non-blocking read end with a description of its own, where the system can give one.
fn private(read: Descriptor) -> rustix::io::Result<Descriptor> {
    if !fcntl_getfl(&read)?.contains(OFlags::NONBLOCK) {
        if let Some(own) = open_anew(&read) {
            return Descriptor::new(own);
        }
    }
    Ok(read)
}

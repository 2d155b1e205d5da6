//! The pool: N tokens in a pipe, taken by reading a byte and given back by writing it.
//!
//! Reads never block: a process must never hang on an empty pool while its own jobs end,
//! so it waits with poll on the read end *and* its jobs (see `scan`), then tries. A
//! non-blocking read end normally belongs to everyone who shares its description; on
//! Linux we therefore open a description of our own through /proc. Where that cannot be
//! done the flag is set on the shared description, which is sound as long as every
//! process of the pool is one of ours.

use crate::error::{Error, ErrorKind, Result};
use crate::sys;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{fcntl_getfl, fcntl_setfl, Mode, OFlags};
use rustix::io::{retry_on_intr, Errno};
use rustix::process::{getpid, Pid};
use std::fmt;
use std::os::fd::AsRawFd;
use std::sync::Arc;

/// The most slots a pool may have: every token must fit into the pipe at once, and this
/// many fit into a pipe of the default size everywhere.
pub const MAX_SLOTS: usize = 16 * 1024;

/// What a new pool's tokens are; GNU Make uses the same byte.
const TOKEN: u8 = b'+';

/// A pool of slots, shared by every process that has its two descriptors. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pool {
    pipe: Arc<Pipe>,
}

#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    slots: usize,
}

impl Pool {
    /// A new pool with `slots` free slots, 1 to [`MAX_SLOTS`].
    pub fn new(slots: usize) -> Result<Pool> {
        if !(1..=MAX_SLOTS).contains(&slots) {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "the number of slots must be between 1 and 16384",
            ));
        }
        let (read, write) = sys::pipe().map_err(Error::system("cannot make a pool of slots"))?;
        let pool = Pool::join(read, write, slots)?;
        pool.fill().map_err(Error::system("cannot fill a pool of slots"))?;
        Ok(pool)
    }

    /// Joins a pool of `slots` slots by the two ends of its pipe.
    pub fn join(read: OwnedFd, write: OwnedFd, slots: usize) -> Result<Pool> {
        if !may(&read, OFlags::WRONLY) || !may(&write, OFlags::RDONLY) {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "a pool is joined by a readable and a writable end, in this order",
            ));
        }
        let read = private_nonblocking(read).map_err(Error::system("cannot join a pool"))?;
        Ok(Pool { pipe: Arc::new(Pipe { read, write, slots }) })
    }

    fn fill(&self) -> rustix::io::Result<()> {
        // A user with many pipes gets small ones, and a full pipe would block us.
        #[cfg(target_os = "linux")]
        if rustix::pipe::fcntl_getpipe_size(&self.pipe.write)? < self.pipe.slots {
            rustix::pipe::fcntl_setpipe_size(&self.pipe.write, self.pipe.slots)?;
        }
        let mut tokens = vec![TOKEN; self.pipe.slots];
        while !tokens.is_empty() {
            let written = retry_on_intr(|| rustix::io::write(&self.pipe.write, &tokens))?;
            tokens.truncate(tokens.len() - written);
        }
        Ok(())
    }

    /// Takes a slot if one is free at this moment; never waits.
    pub fn try_take(&self) -> Result<Option<Slot>> {
        let mut token = [0u8];
        match retry_on_intr(|| rustix::io::read(&self.pipe.read, &mut token)) {
            Ok(0) | Err(Errno::AGAIN) => Ok(None),
            Ok(_) => {
                let pipe = Arc::clone(&self.pipe);
                Ok(Some(Slot { pipe, token: token[0], taker: getpid() }))
            }
            Err(e) => Err(Error::system("cannot take a slot")(e)),
        }
    }

    /// How many slots the pool has, free or not.
    pub fn slots(&self) -> usize {
        self.pipe.slots
    }

    /// How many slots are free at this moment (FIONREAD: nobody starves while we count).
    pub fn free(&self) -> Result<usize> {
        let bytes = rustix::io::ioctl_fionread(&self.pipe.read)
            .map_err(Error::system("cannot count the free slots"))?;
        Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    /// The read end, which polls as readable while a slot is free.
    pub fn read_end(&self) -> BorrowedFd<'_> {
        self.pipe.read.as_fd()
    }

    /// The write end.
    pub fn write_end(&self) -> BorrowedFd<'_> {
        self.pipe.write.as_fd()
    }
}

/// The right to run one job; dropping it gives it back.
///
/// Only the process that took a slot gives it back: a copy that a fork made is inert.
pub struct Slot {
    pipe: Arc<Pipe>,
    token: u8,
    taker: Pid,
}

impl Drop for Slot {
    fn drop(&mut self) {
        if getpid() != self.taker {
            return;
        }
        // The pipe cannot be full (it held this byte before) nor widowed (we hold its read
        // end), so only a signal can get in the way; an error has nobody to be told to.
        let _ = retry_on_intr(|| rustix::io::write(&self.pipe.write, &[self.token]));
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("taker", &self.taker).finish_non_exhaustive()
    }
}

/// Whether a descriptor is not limited to the other direction (`only`).
fn may(end: &OwnedFd, only: OFlags) -> bool {
    fcntl_getfl(end).is_ok_and(|flags| flags & OFlags::RWMODE != only)
}

/// A non-blocking read end, with a description of its own where the system can give one.
fn private_nonblocking(read: OwnedFd) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    if fcntl_getfl(&read)?.contains(OFlags::NONBLOCK) {
        return Ok(read);
    }
    #[cfg(target_os = "linux")]
    if let Ok(own) =
        rustix::fs::open(format!("/proc/self/fd/{}", read.as_raw_fd()), flags, Mode::empty())
    {
        return Ok(own);
    }
    let _ = (flags, Mode::empty(), read.as_raw_fd());
    fcntl_setfl(&read, fcntl_getfl(&read)? | OFlags::NONBLOCK)?;
    Ok(read)
}

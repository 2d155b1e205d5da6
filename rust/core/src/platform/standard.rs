//! The standard streams: whether a new program has them open, and the null device in their place.

use super::descriptor::{above_standard, STANDARD};
use super::shared::last_error;
use super::Descriptor;
use crate::error::{self, Error};
use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use rustix::fs::{fstat, stat, Mode, OFlags};
use rustix::io::{fcntl_getfd, FdFlags, Result};

/// Returns whether a new program would find this standard stream open.
pub(crate) fn is_inherited(stream: RawFd) -> bool {
    // SAFETY: it is only looked at, by a call that says whether it is open at all.
    let stream = unsafe { BorrowedFd::borrow_raw(stream) };
    fcntl_getfd(stream).is_ok_and(|flags| !flags.contains(FdFlags::CLOEXEC))
}

/// Whether standard input is the null device.
pub fn reads_nothing() -> bool {
    // SAFETY: it is only looked at, by a call that says whether it is open at all.
    let input = fstat(unsafe { BorrowedFd::borrow_raw(0) });
    input.is_ok_and(|input| stat(NULL_DEVICE).is_ok_and(|null| null.st_rdev == input.st_rdev))
}

const NULL_DEVICE: &str = "/dev/null";

/// Opens the null device, to read and to write.
pub(crate) fn null_device() -> Result<Descriptor> {
    Descriptor::new(open_null_device()?)
}

fn open_null_device() -> Result<OwnedFd> {
    rustix::fs::open(NULL_DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

/// In a process of this crate: puts the null device where a standard stream is closed, and in the
/// place of standard input if there is `nothing_to_read`.
pub fn fill_standard(nothing_to_read: bool) -> error::Result<()> {
    for stream in STANDARD {
        // SAFETY: as above.
        let open = fcntl_getfd(unsafe { BorrowedFd::borrow_raw(stream) }).is_ok();
        if !open || (stream == 0 && nothing_to_read) {
            put_null_device(stream).map_err(Error::system("cannot open /dev/null"))?;
        }
    }
    Ok(())
}

fn put_null_device(stream: RawFd) -> Result<()> {
    let null = above_standard(open_null_device()?)?;
    // SAFETY: code that uses this number can still use it, and reads and writes the null device.
    match unsafe { libc::dup2(null.as_raw_fd(), stream) } {
        -1 => Err(last_error()),
        _ => Ok(()),
    }
}

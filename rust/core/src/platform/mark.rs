//! Marks on open descriptions. The mark is the number of the signal that a description would send
//! with O_ASYNC, which is never set. Epoll sets have no other property that tells one from another; and
//! to see a mark is faster than to ask for a file's identity.

use super::hang_up::F_SETSIG;
use super::shared::last_error;
use rustix::fd::{AsFd, AsRawFd};
use rustix::io::Result;
use std::sync::atomic::{AtomicI32, Ordering};

const F_GETSIG: libc::c_int = 11;

/// Gives a description the next mark. There are as many marks as signals, but for one.
pub(super) fn put(fd: impl AsFd) -> Result<libc::c_int> {
    static COUNT: AtomicI32 = AtomicI32::new(0);
    let mark = 1 + COUNT.fetch_add(1, Ordering::Relaxed).rem_euclid(INHERITED - 1);
    set(fd, mark)?;
    Ok(mark)
}

fn set(fd: impl AsFd, mark: libc::c_int) -> Result<()> {
    // SAFETY: this request takes a number and touches no memory of ours.
    match unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), F_SETSIG, mark) } {
        -1 => Err(last_error()),
        _ => Ok(()),
    }
}

/// The mark of all that the children of forks close: the highest signal.
const INHERITED: libc::c_int = 64;

pub(super) fn put_inherited(fd: impl AsFd) {
    let _ = set(fd, INHERITED); // without it, its identity is asked for
}

pub(super) fn is_inherited(fd: impl AsFd) -> bool {
    is_on(fd, INHERITED)
}

pub(super) fn is_on(fd: impl AsFd, mark: libc::c_int) -> bool {
    // SAFETY: as above.
    mark == unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), F_GETSIG) }
}

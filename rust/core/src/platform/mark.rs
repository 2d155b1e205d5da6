//! Marks on open descriptions. The mark is the number of the signal that a description would send
//! with O_ASYNC, which is never set. Epoll sets have no other property that tells one from another.

use super::hang_up::F_SETSIG;
use super::shared::last_error;
use rustix::fd::{AsFd, AsRawFd};
use rustix::io::Result;
use std::sync::atomic::{AtomicI32, Ordering};

const F_GETSIG: libc::c_int = 11;

/// Gives a description the next mark. There are as many marks as signals.
pub(super) fn put(fd: impl AsFd) -> Result<libc::c_int> {
    static COUNT: AtomicI32 = AtomicI32::new(0);
    let mark = 1 + COUNT.fetch_add(1, Ordering::Relaxed).rem_euclid(64);
    // SAFETY: this request takes a number and touches no memory of ours.
    match unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), F_SETSIG, mark) } {
        -1 => Err(last_error()),
        _ => Ok(mark),
    }
}

pub(super) fn is_on(fd: impl AsFd, mark: libc::c_int) -> bool {
    // SAFETY: as above.
    mark == unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), F_GETSIG) }
}

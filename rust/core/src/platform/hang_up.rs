//! A signal from the kernel when the last writer of a pipe is gone.

use super::{getpid, Descriptor};
use rustix::fd::AsRawFd;
use rustix::fs::{open, Mode, OFlags};
use rustix::process::Signal;
use std::io;

/// Asks the kernel to kill this process once the last writer of a pipe is gone; at once if it is
/// gone already. `read_end` is the path of the pipe's read end. The kernel does so for as long as
/// the returned descriptor stays open.
pub(crate) fn kill_at_hang_up(read_end: &std::path::Path) -> io::Result<Descriptor> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let own = Descriptor::new(open(read_end, flags, Mode::empty())?)?;
    let me = getpid().as_raw_nonzero().get();
    let status = libc::O_ASYNC | libc::O_NONBLOCK;
    let requests = [(libc::F_SETOWN, me), (F_SETSIG, libc::SIGKILL), (libc::F_SETFL, status)];
    for (request, argument) in requests {
        // SAFETY: these requests take a number and touch no memory of ours.
        if unsafe { libc::fcntl(own.as_raw_fd(), request, argument) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    end_if_hung_up(&own);
    Ok(own)
}

/// Makes the kernel do that, or not do that for a time, by the descriptor that
/// [`kill_at_hang_up`] returned.
pub(crate) fn set_kill_at_hang_up(own: &Descriptor, kills: bool) -> io::Result<()> {
    let asynchronous = OFlags::from_bits_retain(libc::O_ASYNC.unsigned_abs());
    let flags = if kills { OFlags::NONBLOCK | asynchronous } else { OFlags::NONBLOCK };
    rustix::fs::fcntl_setfl(own, flags)?;
    if kills {
        end_if_hung_up(own);
    }
    Ok(())
}

/// The kernel sends no signal for what has happened before it was asked.
fn end_if_hung_up(own: &Descriptor) {
    if own.is_readable() {
        let _ = rustix::process::kill_process(getpid(), Signal::KILL);
    }
}

/// Linux's number of the request, which libc leaves out for some targets.
pub(super) const F_SETSIG: libc::c_int = 10;

//! Forks of this process, and its immediate exit.

use super::namespace::begin_child;
use rustix::process::Pid;
use std::io;

/// The side of a fork on which the caller is.
#[derive(Debug)]
pub enum Forked {
    /// In the process that forked; its child has this pid.
    Parent(Pid),
    /// In the new process.
    Child,
}

/// Duplicates this process.
///
/// # Safety
///
/// If the process has other threads, the child may call only async-signal-safe functions
/// until it has made its memory consistent again (as CPython's fork hooks do).
pub unsafe fn fork() -> io::Result<Forked> {
    // SAFETY: the caller keeps the contract above; fork itself touches no memory of ours.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        pid => match Pid::from_raw(pid) {
            Some(child) => Ok(Forked::Parent(child)),
            None => {
                begin_child();
                Ok(Forked::Child)
            }
        },
    }
}

/// Ends this process at once: no buffer is flushed, no value is dropped and no exit handler runs.
pub fn exit_at_once(code: i32) -> ! {
    // SAFETY: touches no memory of ours, and does not return.
    unsafe { libc::_exit(code) }
}

//! The time limit of a process, on systems without Linux's timers: there is none.

use rustix::process::Pid;
use std::io;
use std::time::Duration;

/// A time limit. It has no value on this system.
#[derive(Debug)]
pub enum TimeLimit {}

/// Fails: this system has no timer that could end the process.
pub fn end_after(_limit: Duration) -> io::Result<TimeLimit> {
    Err(io::ErrorKind::Unsupported.into())
}

impl TimeLimit {
    /// Removes the limit.
    pub fn lift(self) -> bool {
        match self {}
    }
}

/// Returns false: no process has a time limit here.
pub(crate) fn is_marked(_pid: Pid) -> bool {
    false
}

//! The end of a process that has run for longer than it may, which only Linux's timers can see to.

use rustix::process::Pid;
use std::io;
use std::time::Duration;

/// A limit, of which there is none here.
#[derive(Debug)]
pub enum TimeLimit {}

/// Refuses: nothing here could end the process.
pub fn end_after(_limit: Duration) -> io::Result<TimeLimit> {
    Err(io::ErrorKind::Unsupported.into())
}

impl TimeLimit {
    /// Takes it away.
    pub fn lift(self) -> bool {
        match self {}
    }
}

/// No process is: none could be told to end after a while.
pub(crate) fn is_marked(_pid: Pid) -> bool {
    false
}

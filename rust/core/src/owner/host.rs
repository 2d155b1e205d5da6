//! What only the host of an owner can do.

use super::Outcome;
use crate::host::Host;
use crate::platform::Forked;
use std::io;

/// The host of an owner that keeps a `J` for each job.
pub trait OwnerHost<J>: Host {
    /// Puts what came of a job where the caller looks for it.
    fn deliver(&self, job: J, outcome: Outcome) -> Result<(), Self::Error>;

    /// Whether the caller has something to do before a wait goes on, such as callbacks of jobs that
    /// have finished.
    fn is_due(&self) -> Result<bool, Self::Error>;
}

/// A host that can fork this process.
pub trait ForkHost: Host {
    /// Forks, with whatever the host has to do before and after that; unless `not_now` says so at the
    /// last moment: then the error's kind is [`io::ErrorKind::Interrupted`].
    fn fork(&self, not_now: &dyn Fn() -> bool) -> io::Result<Forked>;
}

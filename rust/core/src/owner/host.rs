//! The operations that an owner needs from its host.

use super::Outcome;
use crate::host::Host;
use crate::platform::Forked;
use std::io;

/// The host of an owner that keeps a `J` for each job.
pub trait OwnerHost<J>: Host {
    /// Stores the outcome of a job where the caller looks for it.
    fn deliver(&self, job: J, outcome: Outcome) -> Result<(), Self::Error>;

    /// Whether the caller has something to do before a wait goes on, such as callbacks of finished
    /// jobs.
    fn is_due(&self) -> Result<bool, Self::Error>;
}

/// A host that can fork this process.
pub trait ForkHost: Host {
    /// Forks, with the steps of the host before and after. If `not_now` returns true just before
    /// the fork, does not fork: the error's kind is [`io::ErrorKind::Interrupted`].
    fn fork(&self, not_now: &dyn Fn() -> bool) -> io::Result<Forked>;
}

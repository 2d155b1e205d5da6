//! The owner: the jobs that a process submits, and the calls that work on them.
//!
//! Each call is one complete step: it admits, launches, hires, waits, kills or closes, and scans
//! meanwhile. [`Owner`] is for programs, and interpreters, whose threads share one. [`Jobs`] is the
//! table below it, a plain value, which is enough for a program that starts commands.
//!
//! Traits have the operations that only the caller can do: run signal handlers and let other
//! threads run ([`Host`]), take outcomes ([`OwnerHost`]), fork within its own hooks ([`ForkHost`]).

mod admit;
mod close;
mod fork;
mod hire;
mod host;
mod jobs;
mod kill;
mod launch;
mod outcome;
mod own;
mod process;
mod quiet;
mod readiness;
mod scan;
mod shared;
mod sleepers;
mod wait;
mod waits;

pub use crate::host::Host;
pub use admit::Admitted;
pub use fork::{Birth, Born, NeverOn};
pub use hire::First;
pub use host::{ForkHost, OwnerHost};
pub use jobs::Jobs;
pub use outcome::{Finished, JobId, Outcome, Started};
pub use readiness::Readiness;
pub use shared::{has_owner, Options, Owner};
pub use wait::{Look, Waiting};
pub use waits::Until;

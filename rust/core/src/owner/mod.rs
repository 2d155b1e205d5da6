//! The owner: what a process does with the jobs that it submits.
//!
//! Each call is complete in itself: it admits, launches, hires, waits, kills or closes, and meanwhile looks
//! at everything that has finished. [`Owner`] is for programs, and interpreters, whose threads share
//! one; [`Jobs`] is the table below it, a plain value, and enough for a program that starts commands.
//!
//! What only the caller can do is in traits: run signal handlers and let other threads run
//! ([`Host`]), be told of outcomes ([`OwnerHost`]), fork between its own hooks ([`ForkHost`]).

mod admit;
mod close;
mod fork;
mod hire;
mod host;
mod jobs;
mod kill;
mod launch;
mod outcome;
mod process;
mod quiet;
mod scan;
mod shared;
mod wait;
mod waits;

pub use crate::host::Host;
pub use admit::Admitted;
pub use fork::{Birth, Born, NeverOn};
pub use hire::First;
pub use host::{ForkHost, OwnerHost};
pub use jobs::Jobs;
pub use outcome::{Finished, JobId, Outcome, Started};
pub use shared::{has_owner, Options, Owner};
pub use wait::{Look, Waiting};
pub use waits::Until;

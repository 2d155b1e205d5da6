//! Processes: how one is watched, how it is signalled, and what its end was.
//!
//! Births are elsewhere, since they differ in who does the work: `sys::fork` for a copy of
//! this process, `std::process::Command` for a new program, `forkserver` for a job forked
//! by a helper. Whatever was born becomes a [`Child`] here.

mod child;
mod exit;
mod family;
pub(crate) mod identity;
mod left;
mod lifeline;
pub(crate) mod namespace;
mod own;

pub use crate::sys::getpid;
pub use child::Child;
pub use exit::ExitStatus;
pub use family::Family;
pub use identity::{is_this, Named};
pub(crate) use left::{leave, reap_left_but};
pub use left::{reap_left, wait_for_left, Kept};
pub use lifeline::Lifeline;
pub use namespace::begin_child;
pub use own::{has_children, Growth};
pub use rustix::process::{Pid, Signal};

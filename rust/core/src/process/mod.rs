//! Processes: how a process is watched and signalled, and how it ended.
//!
//! A birth is done by `platform::fork` for a copy of this process, by `std::process::Command` for a
//! new program, and by `forkserver` for a worker that the fork server forks. Each becomes a
//! [`Child`] (`births`).

mod births;
mod child;
mod death;
mod family;
mod left;
mod leftovers;
mod lifeline;
mod outliving;
mod surroundings;

pub use crate::platform::identity::ProcessId;
pub use crate::platform::liveness::is_this;
pub use crate::platform::{begin_child, getpid};
pub use child::Child;
pub use death::ExitStatus;
pub use family::Family;
pub(crate) use left::leave_running;
pub use left::{has_left, reap_left, wait_for_left, Kept};
pub use leftovers::{has_children, Growth};
pub use lifeline::Lifeline;
pub(crate) use lifeline::{hang_on_again, let_go};
pub(crate) use outliving::WARDEN;
pub use rustix::process::{Pid, Signal};
pub use surroundings::surroundings;

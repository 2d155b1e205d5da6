//! Everything that is `unsafe`, or differs from one Unix to another, and nothing else.
//!
//! Linux and the other Unixes differ most in the work of a *backend*, which is behind one contract
//! (`backend`). Small differences between systems are in `system` and `birth`.
//!
//! The rest of the crate uses rustix, whose calls are safe and whose descriptors are owned. This
//! folder has the few calls that rustix leaves out or marks `unsafe` (fork above all), one block
//! for each call.
#![allow(unsafe_code)]

mod backend;
mod birth;
mod choice;
mod descriptor;
mod detach;
#[cfg(all(target_os = "linux", not(jobserver_portable)))]
mod epoll;
mod file_size;
mod fork;
#[cfg(all(target_os = "linux", not(jobserver_portable)))]
mod hang_up;
pub(crate) mod identity;
mod inherited;
#[cfg(all(test, target_os = "linux"))]
pub(crate) mod kill_point;
#[cfg(target_os = "linux")]
mod limit;
#[cfg(not(target_os = "linux"))]
#[path = "no_limit.rs"]
mod limit;
#[cfg(all(target_os = "linux", not(jobserver_portable)))]
mod linux;
pub(crate) mod liveness;
#[cfg(all(target_os = "linux", not(jobserver_portable)))]
mod mark;
pub(crate) mod namespace;
mod pass_on;
mod pid;
mod poll;
mod portable;
pub(crate) mod private;
pub(crate) mod proc;
#[cfg(all(target_os = "linux", not(jobserver_portable)))]
mod readiness;
pub(crate) mod shared;
mod signals;
mod standard;
mod system;
mod tracker;

pub(crate) use backend::{Readiness, ReadySet, AT_ONCE};
pub use birth::pipe_without_reader;
pub(crate) use birth::{close_on_exec, no_sigpipe, pipe, socket_pair, RESET_BEFORE_PACKETS};
pub(crate) use choice::{backend, empty_set};
#[cfg(all(test, target_os = "linux", not(jobserver_portable)))]
pub(crate) use descriptor::put_in_place_of;
pub use descriptor::{duplicate, Descriptor};
pub(crate) use descriptor::{is_free_or, open_for_others, open_in_place, AtHand, Undisturbed};
pub(crate) use detach::detach;
pub use file_size::within_limit;
pub use fork::{exit_at_once, fork, Forked};
pub(crate) use inherited::{close_inherited, is_still_ours, mark_inherited};
pub(crate) use limit::is_marked;
pub use limit::{end_after, TimeLimit};
pub use namespace::begin_child;
pub use pass_on::{pass_on, pass_on_to};
pub use pid::getpid;
pub use signals::{
    alarm_signal, is_ignored, see_children_end, signal_from_raw, time_limit_signal, unblock,
    SignalIgnored, SignalsHeld,
};
pub use standard::{fill_standard, reads_nothing};
pub(crate) use standard::{is_inherited, null_device};
pub use system::put_environment;
pub(crate) use system::{
    become_subreaper, enlarge_pipe, make_fifo, occupy, open_anew, rename_new, INLINE_LIMIT,
};
pub(crate) use tracker::is_resource_tracker;

/// Whether the backend is Linux's.
#[cfg(all(test, target_os = "linux"))]
pub(crate) fn is_linux() -> bool {
    #[cfg(not(jobserver_portable))]
    return choice::linux();
    #[cfg(jobserver_portable)]
    return false;
}

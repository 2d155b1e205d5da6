//! The fork server: a small, single-threaded process that forks jobs for other processes.
//!
//! Forking an owner costs time that grows with its memory, and is unsafe while it has
//! threads. A helper that is neither large nor threaded forks in its stead. One helper
//! serves a whole tree: every process of it holds the writing end of one request socket,
//! an inherited pair and never a name that a stranger could reach, and sends the job's end
//! of a fresh channel. All else happens on that channel:
//!
//! ```text
//! owner  ── request: the job's end of a channel, a lifeline ──> helper ── fork ──> job
//! owner <── Started(pid, pidfd) or Refused(errno) ── helper
//! owner  ── Launch: what to run ─────────────────────────────────────> job
//! owner <── Result ────────────────────────────────────────────────── job
//! owner <── Exited(status) ───────── helper
//! ```
//!
//! An owner may ask for processes ahead of need ([`Ahead`]): they cost it a message then, and not
//! a fork. A job runs nothing before its owner knows its pid, and an owner that gives up in
//! between just closes its end: the job sees an end of file and ends.

mod ahead;
mod client;
mod helper;
mod server;

pub use ahead::Ahead;
pub use client::{gone, ForkServer};
pub use helper::Helper;
pub use server::Server;

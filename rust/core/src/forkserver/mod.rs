//! The fork server: a small, single-threaded process that forks jobs for other processes.
//!
//! A fork of an owner costs time that grows with its memory, and is unsafe while it has threads. So
//! a helper, which is small and has one thread, forks for it. One helper serves a whole tree: every
//! process of the tree holds the writing end of one request socket, and sends the job's end of a
//! new channel. The socket is an inherited pair; it has no name by which another user could reach
//! it. All other messages go over the new channel:
//!
//! ```text
//! owner  ── request: the job's end of a channel, a lifeline ──> helper ── fork ──> job
//! owner <── Started(pid, pidfd) or Refused(errno) ── helper
//! owner  ── Launch: what to run ─────────────────────────────────────> job
//! owner <── Result ────────────────────────────────────────────────── job
//! owner <── Exited(status) ───────── helper
//! ```
//!
//! Under start method spawn the helper starts a new program for each request, where the fork server
//! forks ([`Server::serve_by`]). All else is the same.
//!
//! An owner may request workers ahead ([`Ahead`]): each then costs it a message and not a fork. A
//! job runs nothing before its owner knows its pid. An owner that gives up before that closes its
//! end: the job reads an end of file and ends.

mod ahead;
mod client;
mod helper;
mod idle;
mod server;

pub use ahead::Ahead;
pub(crate) use client::JOINED;
pub use client::{fork_server_gone, ForkServer};
pub use helper::{ForkedBy, ForkedWorker, Helper};
pub use idle::IdleWorkers;
pub use server::Server;

//! Slots, processes and exact deaths: the core of a nestable jobserver, without Python.
//!
//! A program that runs many jobs at once needs four things, which this crate provides:
//!
//! * **slots** ([`slots`]): a [`Pool`] of N tokens in a pipe. Any process below can take a token
//!   and give it back, so a tree of processes of any depth never runs more than N jobs. The pool
//!   uses GNU Make's protocol, so make, cargo, ninja and gcc share it. A ledger beside the pipe
//!   ensures that no slot is lost, whichever process is killed;
//! * **processes** ([`process`]): how a process is started, how its end is noticed, and how exactly
//!   it ended;
//! * **channels** ([`wire`]): how a job sends one result of any size, without ever waiting for its
//!   owner to read it;
//! * **the scan** ([`owner`], [`Jobs`]): one look, without blocking, at everything that has
//!   finished, at a cost that grows with what is ready; and one wait, in one system call, for the
//!   first event.
//!
//! [`forkserver`] adds a small helper process. It forks jobs for an owner that is too large, or has
//! too many threads, to be forked itself.
//!
//! # Example: commands, two at a time
//!
//! ```
//! use jobserver_core::{ExitStatus, Jobs, Outcome, Pool};
//! use std::process::Command;
//!
//! # fn main() -> Result<(), jobserver_core::Error> {
//! let pool = Pool::new(2)?;
//! let mut jobs = Jobs::new();
//! let mut ended = 0;
//! let mut start = 0;
//! while ended < 4 {
//!     for finished in jobs.scan()? {
//!         assert!(matches!(finished.outcome, Outcome::Ended(ExitStatus::Code(0), _)));
//!         ended += 1;
//!     }
//!     if start < 4 {
//!         if let Some(slot) = pool.try_take()? {
//!             jobs.spawn(&mut Command::new("true"), Some(slot))?;
//!             start += 1;
//!             continue;
//!         }
//!     }
//!     if ended < 4 {
//!         jobs.wait(None, None)?;
//!     }
//! }
//! assert_eq!(pool.free()?, 2);
//! # Ok(())
//! # }
//! ```
//!
//! `examples/build_tool.rs` joins the pool that it was started in, or makes one.
//!
//! # Caveats
//!
//! * Only a program that has taken a token can give it back. If a program that does not use this
//!   crate is killed with tokens, they are lost. `jobserver run` reports that.
//! * A pool of more than 256 slots (fs.pipe-max-size in pages), and any pool on other Unixes than
//!   Linux, gives slots back in two steps. A kill in the few instructions between them loses a
//!   slot.
//! * `make::flags` reads and writes MAKEFLAGS; this crate does not change this process's
//!   environment. Set it on each [`std::process::Command`] whose program must find the pool.
//! * Where the kernel has no pidfds (Linux before 5.3, other Unixes), a death that no channel shows
//!   is noticed by a look every 20 ms while a wait lasts.
//! * If other code in the process reaps our children (`waitpid(-1)`, an ignored `SIGCHLD`), their
//!   ends are noticed, but how they ended is [`ExitStatus::Unknown`].
//! * Windows has neither fork nor descriptors to pass: this crate does not build there.
//!
//! The environment variable `JOBSERVER_PORTABLE=1` makes Linux use the backend of the other Unixes.
//! The tests use it to test that backend.

#[cfg(not(unix))]
compile_error!(
    "jobserver-core needs a Unix: fork, pipes and descriptor passing. Windows is not supported."
);

mod error;
pub mod forkserver;
pub mod host;
pub mod make;
pub mod owner;
pub mod platform;
pub mod process;
pub mod slots;
mod wait;
pub mod wire;
pub mod worker;

pub use error::{advice, Error, ErrorKind, Result};
pub use owner::{JobId, Jobs, Outcome, Owner};
pub use process::{Child, ExitStatus};
pub use slots::{usable_cpus, Pool, Slot};
pub use wait::{Wait, Woken};
pub use wire::{Body, Channel};

//! Joining the pool in force: the one that MAKEFLAGS names to this program.
//!
//! Whoever started this program, make in a recipe or a job of ours, did so on a slot of
//! theirs: the *implicit* slot, which is this program's to use, and is used first. Below a
//! job, or `exec`, it is borrowed from that (`lineage`). What make has left to a recipe has no
//! byte in the pipe, and is never written there. Not here: how MAKEFLAGS is written
//! (`makeflags`).

use crate::error::Result;
use crate::slots::makeflags::{Auth, MakeFlags, Named};
use crate::slots::Pool;
use std::ffi::{OsStr, OsString};
use std::fmt;

/// The variables that may name a pool, the first that does being the one that counts: cargo
/// has one of its own for build scripts.
const VARIABLES: [&str; 3] = ["CARGO_MAKEFLAGS", "MAKEFLAGS", "MFLAGS"];

/// What the environment says of a pool to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InForce {
    /// Nothing.
    Nothing,
    /// There is one, which we cannot join.
    Closed(NotJoined),
    /// There is one, with as many slots, as far as is said.
    Pool(Auth, Option<usize>),
    /// There is none: make was told to run one job at a time.
    OneJob,
}

/// Why the pool that the environment names is not joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotJoined {
    /// Its descriptors are negative: make says that it is not for this program.
    Disabled,
    /// It is named in a way that is not known here.
    Unknown(OsString),
    /// It is not there, or is something else by now.
    Stale(Auth),
}

impl fmt::Display for NotJoined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotJoined::Disabled => f.write_str(
                "make has a pool of slots but has not opened it to this program: put `+` before \
                 the command in the recipe",
            ),
            NotJoined::Unknown(name) => {
                write!(f, "MAKEFLAGS names a pool of slots in an unknown way, {name:?}")
            }
            NotJoined::Stale(Auth::Fifo(path)) => write!(
                f,
                "MAKEFLAGS names a pool of slots, {}, that is not there (any more): unset it, or \
                 run this below what made the pool, while that lives",
                path.display()
            ),
            NotJoined::Stale(Auth::Pipe { read, write }) => write!(
                f,
                "MAKEFLAGS names a pool of slots, the descriptors {read} and {write}, but they \
                 are closed, or something else: put `+` before the command in the recipe, and \
                 let no program in between close them"
            ),
        }
    }
}

impl InForce {
    /// By this process's environment.
    pub fn of_environment() -> InForce {
        let values = VARIABLES.iter().filter_map(std::env::var_os);
        InForce::by(values)
    }

    /// By the values of the variables, those that count first being the first.
    pub fn by(values: impl IntoIterator<Item = impl AsRef<OsStr>>) -> InForce {
        for value in values {
            let flags = MakeFlags::parse(value.as_ref());
            match flags.named {
                Named::Nothing if flags.jobs == Some(1) => return InForce::OneJob,
                Named::Nothing => {}
                Named::Disabled => return InForce::Closed(NotJoined::Disabled),
                Named::Unknown(name) => return InForce::Closed(NotJoined::Unknown(name)),
                Named::Pool(auth) => return InForce::Pool(auth, flags.jobs),
            }
        }
        InForce::Nothing
    }
}

impl Pool {
    /// Joins the pool that MAKEFLAGS names in this way, as the program that was started on
    /// one of its slots. `jobs` is how many MAKEFLAGS says it has, if it says.
    ///
    /// # Errors
    ///
    /// The pool is not there, or the system refuses.
    pub fn join_in_force(auth: &Auth, jobs: Option<usize>) -> Result<Pool> {
        Pool::join_named(auth, jobs.unwrap_or_else(crate::slots::usable_cpus))
    }
}

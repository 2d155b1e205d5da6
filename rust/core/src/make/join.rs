//! Joining the pool in force: the one that MAKEFLAGS names to this program.
//!
//! Make in a recipe, or a job of ours, started this program on one of its slots: the *implicit*
//! slot. This program uses that slot first. Below a job, or `jobserver exec`, the program borrows
//! it (`slots::lineage`). The slot that make has left to a recipe has no byte in the pipe, and is
//! never written there. Not here: how MAKEFLAGS is written (`flags`).

use super::flags::{MakeFlags, PoolName};
use super::variables::NAMING;
use crate::error::{Error, ErrorKind};
use crate::slots::{current_pool_named, usable_cpus, Auth, Pool, WeakPool};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// The pool that the environment names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InForce {
    /// It names none.
    Nothing,
    /// It names a pool that this program cannot join.
    Closed(NotJoined),
    /// It names a pool, with this number of slots if it says so.
    Pool(Auth, Option<usize>),
    /// There is none: make was told to run one job at a time.
    OneJob,
}

/// Why the pool that the environment names is not joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotJoined {
    /// Its descriptors are negative: make says that the pool is not for this program.
    Disabled,
    /// Its name has an unknown form.
    Unknown(OsString),
    /// It does not exist, or its name belongs to another file by now.
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
    /// Reads this process's environment.
    pub fn of_environment() -> InForce {
        InForce::by(NAMING.iter().filter_map(std::env::var_os))
    }

    /// Reads the values of the variables. The earlier ones count first.
    pub fn by(values: impl IntoIterator<Item = impl AsRef<OsStr>>) -> InForce {
        for value in values {
            let flags = MakeFlags::parse(value.as_ref());
            match flags.named {
                PoolName::Nothing if flags.jobs == Some(1) => return InForce::OneJob,
                PoolName::Nothing => {}
                PoolName::Disabled => return InForce::Closed(NotJoined::Disabled),
                PoolName::Unknown(name) => return InForce::Closed(NotJoined::Unknown(name)),
                PoolName::Pool(auth) => return InForce::Pool(auth, flags.jobs),
            }
        }
        InForce::Nothing
    }
}

/// The result of joining the pool in force.
#[derive(Debug)]
pub enum Joined {
    /// There is no pool.
    Nothing,
    /// The pool is joined. A second join in this process, while the first pool exists, returns the
    /// same.
    Pool(Pool),
    /// There is a pool that this program cannot join, for this reason: the program may make one of
    /// its own.
    Refused(String),
    /// There is a pool, and this program was started on one of its slots, but the program cannot
    /// use it from here, for this reason: it has that one slot.
    OutOfReach(String),
    /// Make was told to run one job at a time: this program has that one slot.
    OneJob,
}

/// The joined pools by their names, as long as they exist: two joins would count the implicit slot
/// twice.
static JOINED: Mutex<Option<HashMap<OsString, WeakPool>>> = Mutex::new(None);

impl Joined {
    /// Joins the pool that this process's environment names.
    pub fn by_environment() -> Joined {
        Joined::by(InForce::of_environment())
    }

    /// Does the same for a copy of the environment.
    pub fn by(in_force: InForce) -> Joined {
        match in_force {
            InForce::Nothing => Joined::Nothing,
            InForce::OneJob => Joined::OneJob,
            InForce::Closed(why) => Joined::Refused(why.to_string()),
            InForce::Pool(auth, jobs) => match join_once(&auth, jobs) {
                Ok(pool) => Joined::Pool(pool),
                Err(e) if matches!(e.kind(), ErrorKind::Elsewhere | ErrorKind::Protocol) => {
                    Joined::OutOfReach(e.to_string())
                }
                Err(e) => Joined::Refused(format!("{} ({e})", NotJoined::Stale(auth))),
            },
        }
    }
}

fn join_once(auth: &Auth, jobs: Option<usize>) -> Result<Pool, Error> {
    if let Some(pool) = current_pool_named(auth) {
        return Ok(pool);
    }
    let mut joined = JOINED.lock().unwrap_or_else(PoisonError::into_inner);
    let joined = joined.get_or_insert_default();
    let name = auth.to_os_string();
    if let Some(pool) = joined.get(&name).and_then(WeakPool::upgrade) {
        return Ok(pool);
    }
    let pool = Pool::join_in_force(auth, jobs)?;
    joined.insert(name, pool.downgrade());
    Ok(pool)
}

impl Pool {
    /// Joins the pool that MAKEFLAGS names in this way, as the program that was started on one of its
    /// slots. `jobs` is how many slots MAKEFLAGS says it has, if it says so. A program must join a pool
    /// once only, since each join counts the implicit slot: see [`Joined`].
    ///
    /// # Errors
    ///
    /// The pool is not there, or the system refuses.
    pub fn join_in_force(auth: &Auth, jobs: Option<usize>) -> Result<Pool, Error> {
        Pool::join_named(auth, jobs.unwrap_or_else(usable_cpus))
    }
}

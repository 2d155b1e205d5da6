//! The pool that this process is a job of. A process is a job of one pool at most.

use super::lineage::makes_above;
use super::own_slot::OnYield;
use super::style::Style;
use super::{Auth, Ends, Pool};
use crate::error::Result;
use crate::platform::getpid;
use rustix::process::Pid;
use std::sync::{Mutex, MutexGuard, PoisonError};

struct Current {
    pool: Pool,
    /// The job's process.
    pid: Pid,
    /// The descriptors by which MAKEFLAGS names the pool to programs below, if it does so.
    ends: Option<Ends>,
}

static CURRENT: Mutex<Option<Current>> = Mutex::new(None);

fn current() -> MutexGuard<'static, Option<Current>> {
    CURRENT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// In a job: returns the pool that the job was started in, with a slot of it or (with `consume=0`)
/// without.
pub fn current_pool() -> Option<Pool> {
    current().as_ref().map(|current| current.pool.clone())
}

/// The same. Returns None in a process that a job has forked.
pub fn pool_of_this_job() -> Option<Pool> {
    let current = current();
    current.as_ref().filter(|current| current.pid == getpid()).map(|it| it.pool.clone())
}

/// Returns the pool of the job that this process is, if MAKEFLAGS names that pool by `auth`.
/// Returns None in a process that a job has forked: that process has no slot of its own, like a
/// program below the job.
pub(crate) fn current_pool_named(auth: &Auth) -> Option<Pool> {
    let current = current();
    let Current { pool, pid, ends } = current.as_ref()?;
    let by_ends = ends.map(|(read, write)| Auth::Pipe { read, write });
    let named = pool.auth() == auth || by_ends.as_ref() == Some(auth);
    (*pid == getpid() && named).then(|| pool.clone())
}

/// Gives back the slot that this process runs on, if it is a job with one. `waits` says that the
/// process will wait for jobs of its own; then this also tells the owner, if the owner asked for
/// that. Returns false if the process cannot give the slot back because it has closed its way to
/// the pool: then it must end.
pub fn release_own_slot(waits: bool) -> bool {
    current().as_ref().is_none_or(|current| {
        let own = &current.pool.own;
        if waits {
            own.tell_owner();
        }
        own.slot().release()
    })
}

impl Pool {
    /// In a job of several slots: makes a pool of as many, for the programs below the job. It is
    /// like [`Pool::for_command`], but the job's process goes on with its MAKELEVEL.
    pub fn below_job(slots: usize) -> Result<(Pool, Option<Ends>)> {
        let own = pool_of_this_job().filter(|own| *own.auth() == Auth::Fifo(own.bank.home.fifo()));
        let style = own.map_or_else(Style::for_make, |own| own.style());
        Pool::with_common(slots, style, makes_above())
    }

    /// In a job of this pool: returns the number of the slot that it runs on, less than
    /// [`Pool::slots`]; no other job that runs has the same. A job that waits, and runs on another
    /// slot afterwards, may have another number. None if it has no slot now.
    pub fn own_slot_number(&self) -> Option<usize> {
        self.own.slot().number()
    }

    /// In a new job of this pool: makes this the process's current pool. `ends` are the descriptors
    /// by which MAKEFLAGS names the pool to the job, if it does so.
    pub fn become_current(&self, ends: Option<Ends>) {
        let replaced = current().replace(Current { pool: self.clone(), pid: getpid(), ends });
        std::mem::forget(replaced); // it belongs to the job that forked this one
    }

    /// In a new job: sets how it tells its owner that it gives its slot away.
    pub fn set_on_yield(&self, on_yield: Option<OnYield>) {
        self.own.set_on_yield(on_yield);
    }

    /// In a job of this pool: returns the descriptors that programs below must inherit to share it,
    /// if any.
    pub fn inherited_ends(&self) -> Option<Ends> {
        let current = current();
        current.as_ref().filter(|current| current.pool.is_same(self)).and_then(|it| it.ends)
    }
}

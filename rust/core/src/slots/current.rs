//! The pool that this process is a job of: nobody else in the process has another one.

use super::own_slot::OnYield;
use super::{Auth, Ends, Pool};
use crate::platform::getpid;
use rustix::process::Pid;
use std::sync::{Mutex, MutexGuard, PoisonError};

struct Current {
    pool: Pool,
    /// The job's process.
    pid: Pid,
    /// By which descriptors MAKEFLAGS names the pool to programs below, if by any.
    ends: Option<Ends>,
}

static CURRENT: Mutex<Option<Current>> = Mutex::new(None);

fn current() -> MutexGuard<'static, Option<Current>> {
    CURRENT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// In a job: the pool that it was started in, on a slot of it or (with `consume=0`) without.
pub fn current_pool() -> Option<Pool> {
    current().as_ref().map(|current| current.pool.clone())
}

/// The pool of the job that this process is, if MAKEFLAGS names it so to the job. Not in a process that a
/// job has forked: that has no slot of its own, like a program below it.
pub(crate) fn current_pool_named(auth: &Auth) -> Option<Pool> {
    let current = current();
    let Current { pool, pid, ends } = current.as_ref()?;
    let by_ends = ends.map(|(read, write)| Auth::Pipe { read, write });
    let named = pool.auth() == auth || by_ends.as_ref() == Some(auth);
    (*pid == getpid() && named).then(|| pool.clone())
}

/// Gives the slot back that this process runs on, if it is a job with one. `waits` says whether it
/// will wait for jobs of its own, which its owner may want to hear. False if it cannot give the slot
/// back, having closed its way to the pool: then it must end.
pub fn release_own_slot(waits: bool) -> bool {
    current().as_ref().is_none_or(|current| {
        let own = &current.pool.own;
        if waits {
            own.tell();
        }
        own.slot().release()
    })
}

impl Pool {
    /// In a new job of this pool, which MAKEFLAGS names to it by these descriptors, if by any: this is
    /// its pool from now on.
    pub fn become_current(&self, ends: Option<Ends>) {
        let replaced = current().replace(Current { pool: self.clone(), pid: getpid(), ends });
        std::mem::forget(replaced); // that of a job which has forked this one
    }

    /// In a new job: its owner is to hear if it gives its slot away.
    pub fn set_on_yield(&self, on_yield: Option<OnYield>) {
        self.own.set_on_yield(on_yield);
    }

    /// In a job of this pool: the descriptors that programs below must inherit to share it, if any.
    pub fn inherited_ends(&self) -> Option<Ends> {
        let current = current();
        current.as_ref().filter(|current| current.pool.is_same(self)).and_then(|it| it.ends)
    }
}

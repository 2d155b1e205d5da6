//! The lifeline: what ends jobs when their owner is killed.
//!
//! A pipe of which the owner alone has the writing end. When the owner is gone, however it
//! went, the kernel says so on the reading end, and a job has asked it to say that with
//! SIGKILL. Why not PR_SET_PDEATHSIG: that fires when the *thread* that forked ends, and
//! tells a job of the fork server of the helper's end, not its owner's.
//!
//! Each job needs an open description of its own to ask by, which Linux gives through /proc.
//! Other Unixes know no such signal: there, jobs outlive an owner that is killed.

use crate::error::{Error, Result};
use crate::sys;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::process::{getpid, Pid};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The reading end of a lifeline, for jobs to hang on to.
#[derive(Debug, Clone)]
pub struct Lifeline(Arc<OwnedFd>);

#[derive(Debug)]
struct Ends {
    owner: Pid,
    lifeline: Lifeline,
    _write: OwnedFd,
}

/// What this process itself hangs on. Kept open for as long as it lives; a job that it forks
/// has inherited it, and puts its own in its place.
static HELD: Mutex<Option<OwnedFd>> = Mutex::new(None);

static ENDS: Mutex<Option<Ends>> = Mutex::new(None);

fn ends() -> MutexGuard<'static, Option<Ends>> {
    ENDS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lifeline {
    /// This process's own, made when it is first wanted.
    pub fn of_this_process() -> Result<Lifeline> {
        let mut ends = ends();
        if let Some(ends) = ends.as_ref().filter(|ends| ends.owner == getpid()) {
            return Ok(ends.lifeline.clone());
        }
        let (read, write) = sys::pipe().map_err(Error::system("cannot start a job"))?;
        let lifeline = Lifeline(Arc::new(read));
        *ends = Some(Ends { owner: getpid(), lifeline: lifeline.clone(), _write: write });
        Ok(lifeline)
    }

    /// In a forked child, as soon as may be: lets go of what it has of its parent's lifeline,
    /// which would otherwise outlast the parent.
    pub fn forget_parents() {
        let mut ends = ends();
        if ends.as_ref().is_some_and(|ends| ends.owner != getpid()) {
            *ends = None;
        }
    }

    /// The descriptor, to be sent to a job.
    pub fn as_descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// In a job: from now on, this process ends when its owner does.
    pub fn hang_on(lifeline: BorrowedFd<'_>) -> Result<()> {
        #[cfg(target_os = "linux")]
        if sys::linux() {
            let held = sys::kill_at_hang_up(lifeline)
                .map_err(Error::system("cannot watch a job's owner"))?;
            *HELD.lock().unwrap_or_else(PoisonError::into_inner) = Some(held);
        }
        let _ = lifeline;
        Ok(())
    }
}

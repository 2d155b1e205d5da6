//! Left children: their Jobserver was dropped while they ran.
//!
//! Their results are discarded, but they run on to their ends. No zombie stays: each is reaped once
//! it has ended, when another process is born or the program looks. Things that a job needs
//! meanwhile are kept with it: its lifeline, and the home of its pool. At its end, a program waits
//! for left jobs ([`wait_for_left`]), but not for other children. Not here: the rest of what the
//! owner had, which is dropped at once.

use super::Child;
use crate::error::Result;
use crate::platform::{getpid, Descriptor};
use crate::wait::{Wait, POLL_INTERVAL};
use rustix::io::Errno;
use rustix::process::{test_kill_process, Pid};
use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A value that a job needs for as long as it runs.
pub type Kept = Arc<dyn Any + Send + Sync>;

#[derive(Debug)]
struct Left {
    child: Child,
    /// The process that left it. In a fork of that process, the child is not this process's.
    by: Pid,
    /// None for a child that is no job.
    kept: Option<Kept>,
}

static LEFT: Mutex<Vec<Left>> = Mutex::new(Vec::new());

fn left() -> MutexGuard<'static, Vec<Left>> {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Leaves a child that still runs, with the value that is kept for it if it is a job.
pub(crate) fn leave_running(child: Child, kept: Option<Kept>) {
    let left_now = Left { child, by: getpid(), kept };
    if left_now.runs() {
        left().push(left_now);
    }
}

impl Left {
    /// Returns whether it still runs. Reaps it if it has ended and is this process's child.
    fn runs(&self) -> bool {
        if self.by != getpid() {
            return false;
        }
        match (self.child.is_ours(), self.child.intact_watch()) {
            (true, _) => matches!(self.child.try_wait(), Ok(None)),
            (false, Some(_)) => !self.child.has_ended(),
            // The fork server reaps it. While a process of that pid exists, it may be this one.
            (false, None) => test_kill_process(self.child.pid()) != Err(Errno::SRCH),
        }
    }
}

/// Reaps left processes that have ended, and forgets any with the pid of `newborn`: other code has
/// reaped that one.
pub(crate) fn reap_left_but(newborn: Pid) {
    left().retain(|each| each.child.pid() != newborn && each.runs());
}

/// Reaps left processes that have ended.
pub fn reap_left() {
    left().retain(Left::runs);
}

/// Returns whether a left job runs.
pub fn has_left() -> bool {
    left().iter().any(|each| each.kept.is_some() && each.runs())
}

/// Waits until a left job has ended. Returns true if there is none any more. Returns early when a
/// signal comes.
pub fn wait_for_left() -> Result<bool> {
    reap_left();
    let watches: Vec<Option<Arc<Descriptor>>> = left()
        .iter()
        .filter(|each| each.kept.is_some())
        .map(|each| each.child.intact_watch().cloned())
        .collect();
    if watches.is_empty() {
        return Ok(true);
    }
    let look_after = watches.iter().any(Option::is_none).then_some(POLL_INTERVAL);
    Wait::new(watches.into_iter().flatten().collect(), look_after).block(None)?;
    Ok(false)
}

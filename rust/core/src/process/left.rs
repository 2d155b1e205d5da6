//! Children whose owner has been dropped, while they ran.
//!
//! Nobody will have what comes of them, but they go on to their ends, and no zombie stays: each is
//! reaped when it has ended and another process is born, or its program looks. What a job needs
//! meanwhile is kept with it: the lifeline that it hangs on, and the home of its pool. A program
//! waits for jobs at its end ([`wait_for_left`]), but not for other children. Not here: what else
//! the owner had, which is given up at once.

use super::Child;
use crate::error::Result;
use crate::platform::{getpid, Descriptor};
use crate::wait::{Wait, POLL_INTERVAL};
use rustix::io::Errno;
use rustix::process::{test_kill_process, Pid};
use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a job needs for as long as it runs.
pub type Kept = Arc<dyn Any + Send + Sync>;

#[derive(Debug)]
struct Left {
    child: Child,
    /// The process that left it. In one that was forked from that, it is not ours.
    by: Pid,
    /// None for what is no job.
    kept: Option<Kept>,
}

static LEFT: Mutex<Vec<Left>> = Mutex::new(Vec::new());

fn left() -> MutexGuard<'static, Vec<Left>> {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Leaves a child to its end, if it runs still; with what is kept for it if it is a job.
pub(crate) fn leave(child: Child, kept: Option<Kept>) {
    let left_now = Left { child, by: getpid(), kept };
    if left_now.runs() {
        left().push(left_now);
    }
}

impl Left {
    /// Whether it runs still; reaps it if it has ended and is ours.
    fn runs(&self) -> bool {
        if self.by != getpid() {
            return false;
        }
        match (self.child.is_ours(), self.child.intact_watch()) {
            (true, _) => matches!(self.child.try_wait(), Ok(None)),
            (false, Some(_)) => !self.child.has_ended(),
            // The fork server reaps it: as long as there is such a pid, it may be this one.
            (false, None) => test_kill_process(self.child.pid()) != Err(Errno::SRCH),
        }
    }
}

/// Reaps those that have ended. Not the `newborn`: should one of them have had its pid, somebody
/// else has reaped that.
pub(crate) fn reap_left_but(newborn: Pid) {
    left().retain(|each| each.child.pid() != newborn && each.runs());
}

/// Reaps those that have ended.
pub fn reap_left() {
    left().retain(Left::runs);
}

/// Waits until a job of those has ended: whether there is none any more. Returns early when a
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

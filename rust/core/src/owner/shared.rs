//! An owner that threads share: its state, and its scan.

use super::jobs::Jobs;
use super::wait::Look;
use super::{Finished, JobId, OwnerHost};
use crate::error::{Error, Result};
use crate::platform::signal_from_raw;
use crate::process::{getpid, is_this, Lifeline, Pid};
use crate::slots::Pool;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

/// The process that last made an owner.
static LAST_OWNER: AtomicI32 = AtomicI32::new(0);

/// Whether this process may have jobs of its own.
pub fn has_owner() -> bool {
    LAST_OWNER.load(Ordering::Relaxed) == getpid().as_raw_nonzero().get()
}

/// The options for all jobs of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Jobs run on when this process is killed.
    pub orphans_stay: bool,
    /// If this process is a job, it gives its slot to the pool while it waits for jobs.
    pub yields: bool,
}

/// The jobs that this process submits to one pool. It keeps a `J` for each.
///
/// No code of the host runs while `state` is locked. Such code may let another thread run, which
/// would wait for the lock, or fork, which would leave the lock locked in the child.
#[derive(Debug)]
pub struct Owner<J> {
    state: Mutex<OwnerState<J>>,
    /// The process whose jobs these are.
    pub(super) pid: Pid,
    pub(super) options: Options,
    /// The number of slots of the pool.
    pub(super) slots: usize,
}

#[derive(Debug)]
pub(super) struct OwnerState<J> {
    pub(super) jobs: Jobs<J>,
    /// Jobs that were taken from the table and are not delivered yet. They are kept here because
    /// code that runs in between (for example a finalizer of the host) may itself wait for one of
    /// them.
    pub(super) undelivered: VecDeque<Finished<J>>,
    /// The threads that have begun a launch; see [`Owner::begin_launch`].
    pub(super) launching: Vec<ThreadId>,
    /// The lifeline of the jobs; None until there was a job.
    pub(super) lifeline: Option<Lifeline>,
    pub(super) phase: Phase,
}

/// Whether an owner starts jobs.
#[derive(Debug)]
pub(super) enum Phase {
    /// The owner starts jobs, in this pool.
    Open(Pool),
    /// The owner starts no more jobs; running jobs go on.
    Closing(Pool),
    /// No job runs any more, and the owner has released the pool.
    Closed,
}

impl Phase {
    pub(super) fn pool(&self) -> Option<&Pool> {
        match self {
            Phase::Open(pool) | Phase::Closing(pool) => Some(pool),
            Phase::Closed => None,
        }
    }
}

impl<J> Owner<J> {
    /// For jobs in this pool. Without a pool the owner is closed from the beginning.
    pub fn new(pool: Option<Pool>, options: Options) -> Owner<J> {
        let pid = getpid();
        LAST_OWNER.store(pid.as_raw_nonzero().get(), Ordering::Relaxed);
        let slots = pool.as_ref().map_or(0, Pool::slots);
        let state = OwnerState {
            jobs: Jobs::default(),
            undelivered: VecDeque::new(),
            launching: Vec::new(),
            lifeline: None,
            phase: pool.map_or(Phase::Closed, Phase::Open),
        };
        Owner { state: Mutex::new(state), pid, options, slots }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, OwnerState<J>> {
        // Only a bug in this crate poisons it; the state is then no worse than before.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pool of its jobs.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed): the owner is closed.
    pub fn pool(&self) -> Result<Pool> {
        self.state().phase.pool().cloned().ok_or_else(Error::closed)
    }

    /// The pool. Fails if the owner starts no more jobs.
    pub fn open_pool(&self) -> Result<Pool> {
        match &self.state().phase {
            Phase::Open(pool) => Ok(pool.clone()),
            _ => Err(Error::closed()),
        }
    }

    /// Fails if the owner starts no more jobs.
    pub fn check_open(&self) -> Result<()> {
        match self.is_closing() {
            true => Err(Error::closed()),
            false => Ok(()),
        }
    }

    /// Whether the owner starts no more jobs.
    pub fn is_closing(&self) -> bool {
        !matches!(self.state().phase, Phase::Open(_))
    }

    /// Whether the owner is closed.
    pub fn is_closed(&self) -> bool {
        matches!(self.state().phase, Phase::Closed)
    }

    /// Fails in a process that was forked from the owner during a call, by code of the user that
    /// the call ran (a signal handler, a finalizer). Such a process must not take entries of the
    /// table.
    pub(super) fn check_process(&self) -> Result<()> {
        match is_this(self.pid) {
            true => Ok(()),
            false => Err(Error::forked_within_call(self.pid)),
        }
    }

    /// Scans once, and delivers the finished jobs. Returns the state that the scan saw, for
    /// [`Owner::wait`].
    pub fn scan<H: OwnerHost<J>>(&self, host: &H) -> std::result::Result<Look, H::Error> {
        self.scan_and(host, false)
    }

    /// Does the same. If the caller does not do what the host has to do then, such as callbacks,
    /// another thread that waits is woken to do it.
    pub(super) fn scan_and<H: OwnerHost<J>>(
        &self,
        host: &H,
        callbacks: bool,
    ) -> std::result::Result<Look, H::Error> {
        let look = self.take_finished()?;
        let mut delivered = Vec::new();
        let mut result = Ok(());
        while result.is_ok() {
            let Some(finished) = self.next_finished() else { break };
            delivered.push(finished.id);
            result = host.deliver(finished.job, finished.outcome);
            self.check_process()?; // the delivery may run code of the host, which may fork
        }
        if delivered.is_empty() {
            return Ok(look);
        }
        if result.is_err() {
            self.state().jobs.wake(); // the next scan delivers the rest
        }
        let due = !callbacks && host.is_due().unwrap_or(true);
        let look = self.wake_after_delivery(look, &delivered, due);
        result.map(|()| look)
    }

    /// Wakes all threads that wait, and the event loops: something of the host's has changed, or it
    /// has left undone what it has to do, such as callbacks of finished jobs. (In a process that the
    /// host has forked, these are the parent's.)
    pub fn wake(&self) {
        if self.check_process().is_ok() {
            self.state().jobs.wake();
        }
    }

    fn take_finished(&self) -> Result<Look> {
        self.check_process()?;
        let OwnerState { jobs, undelivered, .. } = &mut *self.state();
        undelivered.extend(jobs.scan()?);
        Ok(jobs.look())
    }

    fn next_finished(&self) -> Option<Finished<J>> {
        let mut state = self.state();
        let finished = state.undelivered.pop_front()?;
        state.jobs.hand_over(); // its delivery may run code of the host
        Some(finished)
    }

    /// After a scan's outcomes are delivered: wakes the threads that looked after the scan had
    /// taken them from the table and before they were delivered, and found nothing. (Each object
    /// that the host makes may let another thread run, for example through a garbage collector.)
    /// Returns what `scan` returns. This includes the wake-up if nothing else has happened since.
    fn wake_after_delivery(&self, look: Look, delivered: &[JobId], due: bool) -> Look {
        let jobs = &mut self.state().jobs;
        jobs.wake_for(delivered);
        if due {
            jobs.sleepers.ring_for_host();
        }
        if jobs.look() == look.next() {
            jobs.look()
        } else {
            look
        }
    }

    /// Sends the signal of this number to a job. If the job has ended, does nothing.
    ///
    /// # Errors
    ///
    /// There is no such signal, or the system refused.
    pub fn signal(&self, job: JobId, signal: i32) -> Result<()> {
        let known = signal_from_raw(signal).ok_or_else(|| Error::no_signal(signal))?;
        self.state().jobs.signal(job, known)
    }

    /// At the end of a job of this process: whether this owner has no jobs and no processes any
    /// more. Gives its idle processes to all owners of the tree if they can use them, and makes the
    /// others end.
    pub fn is_at_rest(&self) -> bool {
        let mut state = self.state();
        if state.jobs.unfinished() > 0 {
            return false;
        }
        state.jobs.share_idle();
        state.jobs.dismiss_idle();
        state.jobs.is_empty()
    }

    /// Makes the idle processes end.
    pub fn dismiss_idle(&self) {
        self.state().jobs.dismiss_idle();
    }

    /// The number of idle processes.
    pub fn idle(&self) -> usize {
        self.state().jobs.idle()
    }

    /// The number of processes that run a job, that are to end, or that have ended and are not
    /// reaped.
    pub fn outstanding(&self) -> usize {
        self.state().jobs.outstanding()
    }

    /// The number of jobs whose outcomes are not known yet.
    pub fn unfinished(&self) -> usize {
        self.state().jobs.unfinished()
    }

    /// Whether a job has given its slot away, so that this process must give its own away while it
    /// waits.
    pub fn any_has_yielded(&self) -> bool {
        self.state().jobs.any_has_yielded()
    }

    /// Whether this process must give its own slots away while it waits: it has several, or a job of
    /// its own has given its slot away.
    pub fn must_yield(&self) -> bool {
        let several = || self.state().phase.pool().is_some_and(Pool::runs_on_several);
        self.any_has_yielded() || several()
    }

    /// Whether jobs report that they give their slots away. They do if this process is a job that
    /// holds its slot, because it would keep that slot while it waits for them.
    pub fn hears_of_yields(&self) -> bool {
        !self.options.yields && self.state().phase.pool().is_some_and(Pool::is_job)
    }

    /// Visits the values kept for running jobs, and for jobs whose outcomes are not delivered.
    /// Visits none if this thread or another is in a call that changes them.
    pub fn visit_kept<E>(
        &self,
        mut visit: impl FnMut(&J) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let Ok(state) = self.state.try_lock() else { return Ok(()) };
        state.jobs.kept().try_for_each(&mut visit)?;
        state.undelivered.iter().try_for_each(|finished| visit(&finished.job))
    }

    /// Takes the values kept for jobs: their outcomes are not delivered any more.
    pub fn take_kept(&self) -> Vec<J> {
        let mut state = self.state();
        let undelivered = std::mem::take(&mut state.undelivered);
        let kept = state.jobs.take_kept();
        drop(state); // unlocked before the caller drops them, which may run code
        kept.into_iter().chain(undelivered.into_iter().map(|finished| finished.job)).collect()
    }

    /// Keeps the owner open until the launch succeeds or fails. Another thread may run meanwhile,
    /// and may want to close the owner: in a fork's hooks, or in a wait for the fork server.
    pub(super) fn begin_launch(&self) -> Result<Launching<'_, J>> {
        self.check_process()?;
        let mut state = self.state();
        if !matches!(state.phase, Phase::Open(_)) {
            return Err(Error::closed());
        }
        state.launching.push(thread::current().id());
        Ok(Launching(self))
    }
}

/// A launch that has begun and is not over.
pub(super) struct Launching<'a, J>(&'a Owner<J>);

impl<J> Drop for Launching<'_, J> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        let this = thread::current().id();
        if let Some(place) = state.launching.iter().position(|thread| *thread == this) {
            state.launching.swap_remove(place);
        }
        let is_open = matches!(state.phase, Phase::Open(_));
        drop(state);
        if !is_open {
            self.0.wake(); // a closing thread may have waited for this
        }
    }
}

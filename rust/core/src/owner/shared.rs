//! An owner whose threads share it: what it consists of, and its scan.

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

/// The process that has made an owner last.
static LAST_OWNER: AtomicI32 = AtomicI32::new(0);

/// Whether this process may have jobs of its own.
pub fn has_owner() -> bool {
    LAST_OWNER.load(Ordering::Relaxed) == getpid().as_raw_nonzero().get()
}

/// What a caller chooses for all jobs of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Jobs go on when this process is killed.
    pub orphans_stay: bool,
    /// This process, if it is a job, gives its slot to the pool while it waits for jobs.
    pub yields: bool,
}

/// The jobs that this process submits to one pool, of which it keeps a `J` each.
///
/// No code of the host's runs while `state` is locked: such code may let another thread run, which
/// would then want the lock, or fork, which would leave it locked in the child.
#[derive(Debug)]
pub struct Owner<J> {
    state: Mutex<State<J>>,
    /// The process whose jobs these are.
    pid: Pid,
    pub(super) options: Options,
    /// How many slots the pool has.
    pub(super) slots: usize,
}

#[derive(Debug)]
pub(super) struct State<J> {
    pub(super) jobs: Jobs<J>,
    /// Taken from the table, and not delivered yet. Kept here, since what runs in between (a
    /// finalizer of the host's, for one) may itself wait for one of these.
    pub(super) undelivered: VecDeque<Finished<J>>,
    /// The threads that have a launch under way; see [`Owner::begin_launch`].
    pub(super) launching: Vec<ThreadId>,
    /// What the jobs hang on, once there have been any.
    pub(super) lifeline: Option<Lifeline>,
    pub(super) phase: Phase,
}

/// Whether an owner starts jobs.
#[derive(Debug)]
pub(super) enum Phase {
    /// In this pool.
    Open(Pool),
    /// Nothing new; what runs goes on.
    Closing(Pool),
    /// Nothing runs any more, and the pool is given up.
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
    /// For jobs in this pool; closed from the beginning if there is none.
    pub fn new(pool: Option<Pool>, options: Options) -> Owner<J> {
        let pid = getpid();
        LAST_OWNER.store(pid.as_raw_nonzero().get(), Ordering::Relaxed);
        let slots = pool.as_ref().map_or(0, Pool::slots);
        let state = State {
            jobs: Jobs::default(),
            undelivered: VecDeque::new(),
            launching: Vec::new(),
            lifeline: None,
            phase: pool.map_or(Phase::Closed, Phase::Open),
        };
        Owner { state: Mutex::new(state), pid, options, slots }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State<J>> {
        // Poisoned only by a bug of ours; what it guards is then no worse than before.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pool that its jobs run in.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed): it is closed.
    pub fn pool(&self) -> Result<Pool> {
        self.state().phase.pool().cloned().ok_or_else(Error::closed)
    }

    /// The pool, while something may still be started.
    pub fn open_pool(&self) -> Result<Pool> {
        match &self.state().phase {
            Phase::Open(pool) => Ok(pool.clone()),
            _ => Err(Error::closed()),
        }
    }

    /// Fails once nothing is started any more.
    pub fn check_open(&self) -> Result<()> {
        match self.is_closing() {
            true => Err(Error::closed()),
            false => Ok(()),
        }
    }

    /// Whether nothing is started any more.
    pub fn is_closing(&self) -> bool {
        !matches!(self.state().phase, Phase::Open(_))
    }

    /// Whether everything has been given up.
    pub fn is_closed(&self) -> bool {
        matches!(self.state().phase, Phase::Closed)
    }

    /// Fails in a process that was forked from the owner in the midst of a call, by code of the user's
    /// that this has run (a signal handler, a finalizer): what is in the table is not for it to take.
    pub(super) fn check_process(&self) -> Result<()> {
        match is_this(self.pid) {
            true => Ok(()),
            false => Err(Error::forked_within_call(self.pid)),
        }
    }

    /// One scan: delivers what has finished. What has been seen then, for [`Owner::wait`].
    pub fn scan<H: OwnerHost<J>>(&self, host: &H) -> std::result::Result<Look, H::Error> {
        let look = self.take_finished()?;
        let mut delivered = false;
        while let Some(finished) = self.next_finished() {
            host.deliver(finished.job, finished.outcome)?;
            delivered = true;
        }
        Ok(if delivered { self.wake_after_delivery(look) } else { look })
    }

    fn take_finished(&self) -> Result<Look> {
        self.check_process()?;
        let State { jobs, undelivered, .. } = &mut *self.state();
        undelivered.extend(jobs.scan()?);
        Ok(jobs.look())
    }

    fn next_finished(&self) -> Option<Finished<J>> {
        self.state().undelivered.pop_front()
    }

    /// After what a scan has found is delivered: wakes the threads that looked, in vain, after the
    /// scan had taken it from the table and before it was delivered. (Any object of the host's that is
    /// made may let another thread run: through a garbage collector, for one.) Returns what `scan`
    /// does, which includes this wake-up if nothing else has happened since.
    fn wake_after_delivery(&self, look: Look) -> Look {
        let jobs = &mut self.state().jobs;
        jobs.wake();
        if jobs.look() == look.next() {
            jobs.look()
        } else {
            look
        }
    }

    /// Sends the signal of this number to a job; harmless if it has ended.
    ///
    /// # Errors
    ///
    /// There is no such signal, or the system refuses.
    pub fn signal(&self, job: JobId, signal: i32) -> Result<()> {
        let known = signal_from_raw(signal).ok_or_else(|| Error::no_signal(signal))?;
        self.state().jobs.signal(job, known)
    }

    /// Has those processes end that wait for jobs.
    pub fn dismiss_idle(&self) {
        self.state().jobs.dismiss_idle();
    }

    /// How many processes wait for jobs.
    pub fn idle(&self) -> usize {
        self.state().jobs.idle()
    }

    /// How many processes run a job, or have ended or are to end and are not yet reaped.
    pub fn outstanding(&self) -> usize {
        self.state().jobs.outstanding()
    }

    /// How many jobs have not been told of yet.
    pub fn unfinished(&self) -> usize {
        self.state().jobs.unfinished()
    }

    /// Whether a job has given its slot away, and so this process is to do so while it waits.
    pub fn any_has_yielded(&self) -> bool {
        self.state().jobs.any_has_yielded()
    }

    /// Whether its jobs are to tell when they give their slots away, since this process, a job that
    /// holds a slot, would keep that while it waits for them.
    pub fn hears_of_yields(&self) -> bool {
        !self.options.yields && self.state().phase.pool().is_some_and(Pool::is_job)
    }

    /// What is kept for the jobs that run, and for those whose outcomes are not delivered. None if this
    /// very thread, or another, is in a call that changes it.
    pub fn visit_kept<E>(
        &self,
        mut visit: impl FnMut(&J) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let Ok(state) = self.state.try_lock() else { return Ok(()) };
        state.jobs.kept().try_for_each(&mut visit)?;
        state.undelivered.iter().try_for_each(|finished| visit(&finished.job))
    }

    /// Lets go of what is kept for jobs: nobody has what comes of them.
    pub fn take_kept(&self) -> Vec<J> {
        let mut state = self.state();
        let undelivered = std::mem::take(&mut state.undelivered);
        let kept = state.jobs.take_kept();
        drop(state); // before the caller drops them, as that may run code
        kept.into_iter().chain(undelivered.into_iter().map(|finished| finished.job)).collect()
    }

    /// Keeps the owner open until the launch, or its failure, is over. Another thread may run
    /// meanwhile, and may want to close: in a fork's hooks, or in a wait for the fork server.
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

/// A launch under way.
pub(super) struct Launching<'a, J>(&'a Owner<J>);

impl<J> Drop for Launching<'_, J> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        let this = thread::current().id();
        if let Some(place) = state.launching.iter().position(|thread| *thread == this) {
            state.launching.swap_remove(place);
        }
        if !matches!(state.phase, Phase::Open(_)) {
            state.jobs.wake(); // whoever closes may have waited for this
        }
    }
}

//! An owner's waits: scans and sleeps by turns, while other threads of the host can run and the
//! handlers of signals are run.

use super::shared::Owner;
use super::wait::{Look, Waiting};
use super::OwnerHost;
use crate::error::Result;
use crate::slots::Pool;
use crate::wait::Woken;
use std::time::{Duration, Instant};

/// How a wait has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until<T> {
    /// What was waited for is there.
    Found(T),
    /// The host has something to do first: see [`OwnerHost::is_due`].
    Due,
    /// The time is up.
    TimedOut,
}

impl<J> Owner<J> {
    /// Scans and sleeps by turns until `look` finds something, the time is up, or, if `callbacks`, the
    /// host has something to do.
    pub(super) fn until<H: OwnerHost<J>, T>(
        &self,
        host: &H,
        timeout: Option<f64>,
        pool: Option<&Pool>,
        callbacks: bool,
        look: impl FnMut() -> Result<Option<T>>,
    ) -> std::result::Result<Until<T>, H::Error> {
        self.until_releasing(host, timeout, pool, callbacks, &mut || (), look)
    }

    /// The same, with something to be done before each sleep.
    fn until_releasing<H: OwnerHost<J>, T>(
        &self,
        host: &H,
        timeout: Option<f64>,
        pool: Option<&Pool>,
        callbacks: bool,
        release: &mut dyn FnMut(),
        mut find: impl FnMut() -> Result<Option<T>>,
    ) -> std::result::Result<Until<T>, H::Error> {
        let deadline = deadline(timeout);
        let mut more_time = true;
        loop {
            let look = self.scan(host)?;
            if callbacks && host.is_due()? {
                return Ok(Until::Due);
            }
            if let Some(found) = find()? {
                return Ok(Until::Found(found));
            }
            if !more_time || timeout.is_some_and(|seconds| seconds <= 0.0) {
                return Ok(Until::TimedOut);
            }
            release();
            // What wakes us may do so for ever, without being what we wait for.
            more_time = self.sleep(host, look, pool, deadline)?
                && deadline.is_none_or(|deadline| Instant::now() < deadline);
        }
    }

    /// Scans, and waits if need be, until a job is `done`, `timeout` seconds are over, or the host has
    /// something to do. A job gives its slot to the pool while it waits
    /// if it `yields`, or must.
    pub fn wait_for<H: OwnerHost<J>>(
        &self,
        host: &H,
        done: impl Fn() -> bool,
        timeout: Option<f64>,
        yields: bool,
    ) -> std::result::Result<Until<()>, H::Error> {
        self.yielding(host, yields, |release| {
            let find = || Ok(done().then_some(()));
            self.until_releasing(host, timeout, None, true, release, find)
        })
    }

    /// Waits until something may be ready: a job, another thread's scan, the end of `timeout` seconds;
    /// or, `for_slot`, a free slot, for which a job keeps its own. Otherwise it gives that to the pool
    /// meanwhile, if it `yields`, or must. Returns at once if something has changed since the `look`.
    pub fn wait<H: OwnerHost<J>>(
        &self,
        host: &H,
        look: Look,
        for_slot: bool,
        keeps_slot: bool,
        timeout: Option<f64>,
        yields: bool,
    ) -> std::result::Result<(), H::Error> {
        let pool = if for_slot { Some(self.pool()?) } else { None };
        let deadline = deadline(timeout);
        if keeps_slot {
            return self.sleep(host, look, pool.as_ref(), deadline).map(drop);
        }
        self.yielding(host, yields, |release| {
            release();
            self.sleep(host, look, pool.as_ref(), deadline).map(drop)
        })
    }

    /// Waits, where a job's own slot is given to the pool for as long as it sleeps, and one is there
    /// again afterwards: if it `yields`, or if a job of its own has, which will need one to go on.
    /// An error goes on without: Ctrl-C must work at once.
    pub(super) fn yielding<H: OwnerHost<J>, T>(
        &self,
        host: &H,
        yields: bool,
        wait: impl FnOnce(&mut dyn FnMut()) -> std::result::Result<T, H::Error>,
    ) -> std::result::Result<T, H::Error> {
        let pool = self.pool().ok();
        let mut yielded = false;
        let waited = wait(&mut || {
            let yields = yields || self.any_has_yielded();
            yielded |= pool.as_ref().is_some_and(|pool| yields && pool.give_own_slot_away());
        })?;
        if yielded {
            self.resume(host)?;
        }
        Ok(waited)
    }

    /// Sleeps until something may be ready, or the deadline: whether it was not the deadline.
    pub(super) fn sleep<H: OwnerHost<J>>(
        &self,
        host: &H,
        look: Look,
        pool: Option<&Pool>,
        deadline: Option<Instant>,
    ) -> std::result::Result<bool, H::Error> {
        loop {
            // Not only when a wait was interrupted: a signal that comes together with what is
            // waited for, as Ctrl-C does that also ends a job, interrupts nothing.
            host.run_signal_handlers()?;
            self.check_process()?;
            let begun = self.state().jobs.begin_wait(look, pool)?;
            let Some(waiting) = begun else { return Ok(true) };
            let woken = self.sleep_through(host, &waiting, deadline);
            self.state().jobs.end_wait(waiting);
            match woken? {
                Woken::Interrupted | Woken::Missed => {}
                Woken::Ready => return Ok(true),
                Woken::TimedOut => return Ok(false),
            }
        }
    }

    fn sleep_through<H: OwnerHost<J>>(
        &self,
        host: &H,
        waiting: &Waiting,
        deadline: Option<Instant>,
    ) -> std::result::Result<Woken, H::Error> {
        if host.unlocked(|| waiting.spin()) {
            return Ok(Woken::Ready);
        }
        loop {
            host.run_signal_handlers()?;
            self.check_process()?;
            match host.unlocked(|| waiting.block(deadline))? {
                Woken::Missed => {}
                woken => return Ok(woken),
            }
        }
    }
}

/// When a timeout is over. One too long for the clock (infinity included) never is.
fn deadline(timeout: Option<f64>) -> Option<Instant> {
    let timeout = timeout.and_then(|t| Duration::try_from_secs_f64(t.max(0.0)).ok());
    timeout.and_then(|timeout| Instant::now().checked_add(timeout))
}

//! Waiting for jobs and slots: scans and sleeps by turns, with the GIL released while it sleeps, and
//! Python's signal handlers run when it wakes.

use super::Jobs;
use crate::errors::to_python;
use crate::pool::Pool;
use jobserver_core as core;
use jobserver_core::{Waiting, Woken};
use pyo3::prelude::*;
use std::time::{Duration, Instant};

impl Jobs {
    /// Scans and sleeps by turns until `look` finds something, the time is up, or, if
    /// `callbacks`, some are due. Stands here and not in Python since every Python function
    /// that runs between two forks writes to memory, and each page written costs a copy.
    pub(super) fn until<T>(
        &self,
        py: Python<'_>,
        timeout: Option<f64>,
        pool: Option<&core::Pool>,
        callbacks: bool,
        look: impl FnMut() -> PyResult<Option<T>>,
    ) -> PyResult<Option<T>> {
        self.until_releasing(py, timeout, pool, callbacks, &mut || (), look)
    }

    /// The same, with something to be done before each sleep.
    pub(super) fn until_releasing<T>(
        &self,
        py: Python<'_>,
        timeout: Option<f64>,
        pool: Option<&core::Pool>,
        callbacks: bool,
        release: &mut dyn FnMut(),
        mut look: impl FnMut() -> PyResult<Option<T>>,
    ) -> PyResult<Option<T>> {
        let deadline = deadline(timeout);
        let mut more_time = true;
        loop {
            let handled = self.scan(py)?;
            if callbacks && self.finished.bind(py).len()? > 0 {
                return Ok(None);
            }
            if let Some(found) = look()? {
                return Ok(Some(found));
            }
            if !more_time || timeout.is_some_and(|seconds| seconds <= 0.0) {
                return Ok(None);
            }
            release();
            // What wakes us may do so for ever, without being what we wait for.
            more_time = self.sleep(py, handled, pool, deadline)?
                && deadline.is_none_or(|deadline| Instant::now() < deadline);
        }
    }

    /// Waits, where a job's own slot is given to `pool` for as long as it sleeps, and one is
    /// there again afterwards: if it `yields`, or if a job of its own has, which will need one to go
    /// on. An exception goes on without: Ctrl-C must work at once.
    pub(super) fn yielding<T>(
        &self,
        py: Python<'_>,
        pool: Option<&Bound<'_, Pool>>,
        yields: bool,
        wait: impl FnOnce(&mut dyn FnMut()) -> PyResult<T>,
    ) -> PyResult<T> {
        let mut yielded = false;
        let waited = wait(&mut || {
            let yields = yields || self.state().table.any_has_yielded();
            yielded |= pool.is_some_and(|pool| yields && pool.get().give_away());
        })?;
        if yielded {
            self.resume(py, pool)?;
        }
        Ok(waited)
    }

    /// Sleeps until something may be ready, or the deadline: whether it was not the deadline.
    pub(super) fn sleep(
        &self,
        py: Python<'_>,
        handled: u64,
        pool: Option<&core::Pool>,
        deadline: Option<Instant>,
    ) -> PyResult<bool> {
        loop {
            // Not only when a wait was interrupted: a signal that comes together with what is
            // waited for, as Ctrl-C does that also ends a job, interrupts nothing.
            py.check_signals()?;
            self.check_process()?;
            let begun = self.state().table.begin_wait(handled, pool);
            let Some(waiting) = begun.map_err(to_python)? else { return Ok(true) };
            let woken = self.sleep_through(py, &waiting, deadline);
            self.state().table.end_wait(waiting);
            match woken? {
                Woken::Interrupted | Woken::Missed => {}
                Woken::Ready => return Ok(true),
                Woken::TimedOut => return Ok(false),
            }
        }
    }

    fn sleep_through(
        &self,
        py: Python<'_>,
        waiting: &Waiting,
        deadline: Option<Instant>,
    ) -> PyResult<Woken> {
        if py.detach(|| waiting.spin()) {
            return Ok(Woken::Ready);
        }
        loop {
            py.check_signals()?;
            self.check_process()?;
            match py.detach(|| waiting.block(deadline)).map_err(to_python)? {
                Woken::Missed => {}
                woken => return Ok(woken),
            }
        }
    }
}

/// When a timeout is over. One too long for the clock (infinity included) never is.
pub(super) fn deadline(timeout: Option<f64>) -> Option<Instant> {
    let timeout = timeout.and_then(|t| Duration::try_from_secs_f64(t.max(0.0)).ok());
    timeout.and_then(|timeout| Instant::now().checked_add(timeout))
}

//! Closing an owner, and the fate of its jobs when it is dropped.

use super::shared::{Owner, OwnerState, Phase};
use super::OwnerHost;
use crate::error::{Error, Result};
use crate::process::{reap_left, Kept};
use crate::slots::Pool;
use std::sync::Arc;
use std::thread;

impl<J> Owner<J> {
    /// From now on no job can be started. Wakes the threads that wait for a slot. Running jobs go
    /// on.
    ///
    /// # Errors
    ///
    /// This thread itself has begun a launch that is not over; nothing has changed.
    pub fn begin_close(&self) -> Result<()> {
        self.check_process()?;
        let mut state = self.state();
        state.refuse_within_launch()?;
        state.phase = match std::mem::replace(&mut state.phase, Phase::Closed) {
            Phase::Open(pool) => {
                state.jobs.wake();
                Phase::Closing(pool)
            }
            phase => phase,
        };
        Ok(())
    }

    /// After [`Owner::begin_close`]: waits until no job runs, and closes everything. Returns true
    /// when all is closed. With `callbacks`, returns false if the host has something to do first.
    pub fn close<H: OwnerHost<J>>(
        &self,
        host: &H,
        callbacks: bool,
    ) -> std::result::Result<bool, H::Error> {
        loop {
            let look = self.scan(host)?;
            if callbacks && host.is_due()? {
                return Ok(false);
            }
            if self.close_if_idle()? {
                // (Another thread may just have delivered the last outcome.)
                return Ok(!(callbacks && host.is_due()?));
            }
            // As in a wait for a job without a slot, which has no slot to lend to jobs of its own.
            let yields = self.options.yields || self.state().jobs.any_without_slot();
            self.wait(host, look, None, None, yields)?;
        }
    }

    /// Closes everything if no job runs. Returns whether the owner is closed.
    fn close_if_idle(&self) -> Result<bool> {
        let mut state = self.state();
        state.refuse_within_launch()?;
        if state.is_idle() {
            state.jobs.dismiss_idle();
        }
        let mut pool = None;
        if state.is_idle() {
            pool = Some(std::mem::replace(&mut state.phase, Phase::Closed));
            state.jobs.wake(); // nothing that a waiter waits for can come any more
            state.jobs.abandon();
            state.lifeline = None;
        }
        let closed = matches!(state.phase, Phase::Closed);
        drop(state);
        drop(pool);
        if closed {
            reap_left();
        }
        Ok(closed)
    }
}

impl<J> OwnerState<J> {
    /// After a wait of a closed owner: closes what the wait has opened, unless another thread
    /// waits.
    pub(super) fn abandon_if_closed(&mut self) {
        if matches!(self.phase, Phase::Closed) && !self.jobs.is_waited_for() {
            self.jobs.abandon();
        }
    }

    /// Whether no job runs and no launch has begun.
    fn is_idle(&self) -> bool {
        self.launching.is_empty() && self.jobs.outstanding() == 0
    }

    /// A closing thread waits for all launches, so it must not be within a launch itself.
    fn refuse_within_launch(&self) -> Result<()> {
        match self.launching.contains(&thread::current().id()) {
            true => Err(Error::closed_within_launch()),
            false => Ok(()),
        }
    }
}

/// The owner is dropped: its jobs run on to their ends.
impl<J> Drop for Owner<J> {
    fn drop(&mut self) {
        let mut state = self.state();
        let home = state.phase.pool().map(Pool::kept_home);
        let kept: Kept = Arc::new((home, state.lifeline.take()));
        let jobs = state.jobs.take_kept();
        state.jobs.let_run_on(&kept);
        drop(state); // unlocked before the kept values are dropped, which may run code
        drop(jobs);
    }
}

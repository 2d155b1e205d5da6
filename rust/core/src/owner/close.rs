//! Closing an owner, and what becomes of its jobs when it is dropped.

use super::shared::{Owner, Phase, State};
use super::OwnerHost;
use crate::error::{Error, Result};
use crate::process::{reap_left, Kept};
use crate::slots::Pool;
use std::sync::Arc;
use std::thread;

impl<J> Owner<J> {
    /// Lets nothing be started from now on, and tells those that wait for a slot. What runs goes on.
    ///
    /// # Errors
    ///
    /// This very thread has a launch under way; nothing has changed.
    pub fn begin_close(&self) -> Result<()> {
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

    /// After [`Owner::begin_close`]: waits until nothing runs any more, and gives everything up:
    /// whether it has. False if `callbacks`, and the host has something to do first.
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
                // (Another thread may just have taken in the last.)
                return Ok(!(callbacks && host.is_due()?));
            }
            // As whoever waits for a job without a slot, which has none to lend to jobs of its own.
            let yields = self.options.yields || self.state().jobs.any_without_slot();
            self.wait(host, look, false, false, None, yields)?;
        }
    }

    /// Gives everything up if nothing runs any more: whether it has.
    fn close_if_idle(&self) -> Result<bool> {
        let mut state = self.state();
        state.refuse_within_launch()?;
        if state.is_idle() {
            state.jobs.dismiss_idle();
        }
        let mut pool = None;
        if state.is_idle() {
            pool = Some(std::mem::replace(&mut state.phase, Phase::Closed));
            state.jobs.wake(); // what was waited for will not come any more
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

impl<J> State<J> {
    /// Whether nothing runs, nor is being launched.
    fn is_idle(&self) -> bool {
        self.launching.is_empty() && self.jobs.outstanding() == 0
    }

    /// Whoever closes waits for the launches that are under way.
    fn refuse_within_launch(&self) -> Result<()> {
        match self.launching.contains(&thread::current().id()) {
            true => Err(Error::closed_within_launch()),
            false => Ok(()),
        }
    }
}

/// Nobody has the owner any more: its jobs go on to their ends.
impl<J> Drop for Owner<J> {
    fn drop(&mut self) {
        let mut state = self.state();
        let home = state.phase.pool().map(Pool::kept_home);
        let kept: Kept = Arc::new((home, state.lifeline.take()));
        let jobs = state.jobs.take_kept();
        state.jobs.let_run_on(&kept);
        drop(state); // before what was kept for the jobs, as that may run code
        drop(jobs);
    }
}

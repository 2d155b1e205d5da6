//! Launching a job on an idle worker.

use super::hire::First;
use super::shared::{Owner, OwnerState};
use super::waits::any_change;
use super::{OwnerHost, Started};
use crate::error::Result;
use crate::slots::{Assignment, Pool};
use std::time::{Duration, Instant};

/// How long a launch waits for a worker that is about to be idle, before another one is hired.
const HIRE_DELAY: Duration = Duration::from_millis(1);

impl<J> Owner<J> {
    /// Launches a job on an idle worker. None if there is none, and nothing has happened: hire one.
    /// If all slots are taken, a job on one of them is about to send its result, after which its
    /// worker is idle. This waits for that, but not long.
    pub fn launch<H: OwnerHost<J>>(
        &self,
        host: &H,
        mut first: First<'_, J>,
    ) -> std::result::Result<Option<Started>, H::Error> {
        let _launching = self.begin_launch()?;
        let looks_until = Instant::now() + HIRE_DELAY;
        let sleep = any_change(host);
        let _sleeper = self.sleeper(sleep, false);
        let mut look = None;
        loop {
            let mut state = self.state();
            if let Some(started) = state.launch(&mut first)? {
                return Ok(Some(started));
            }
            let about_to_stay = first.slot.is_some() && state.jobs.on_slots() >= self.slots;
            drop(state);
            let in_time = match look {
                Some(look) => self.sleep(host, look, None, sleep, Some(looks_until))?,
                None => true, // no scan yet
            };
            if !about_to_stay || !in_time {
                return Ok(None);
            }
            look = Some(self.scan(host)?);
        }
    }
}

impl<J> Owner<J> {
    /// Launches a job on a worker that is idle now. None if there is none. Never waits.
    pub fn launch_at_once(&self, mut first: First<'_, J>) -> Result<Option<Started>> {
        let _launching = self.begin_launch()?;
        let mut state = self.state(); // released before the launch is over, which locks it again
        state.launch(&mut first)
    }
}

impl<J> OwnerState<J> {
    /// Launches a job on an idle worker; None if there is none.
    pub(super) fn launch(&mut self, first: &mut First<'_, J>) -> Result<Option<Started>> {
        let without_slot = match first.slot {
            Some(_) => Assignment::none(), // not used
            None => self.phase.pool().map_or_else(Assignment::none, Pool::without_slot),
        };
        let First { slot, message, job } = first;
        self.jobs.launch(slot, without_slot, job, |channel, head| message.send(channel, head))
    }
}

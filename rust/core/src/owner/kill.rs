//! Killing a job, and everything that it has started.

use super::shared::Owner;
use super::JobId;
use crate::host::Host;
use crate::process::ProcessId;
use crate::wait::Woken;
use std::time::{Duration, Instant};

/// For how long those that are killed are waited for. One that does not end is left to the system.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longer than anybody waits, and no more than a clock can add.
const FOR_EVER: Duration = Duration::from_secs(1 << 30);

impl<J> Owner<J> {
    /// Ends a job and everything that it has started. All are asked by SIGTERM, in half of `grace`
    /// (in seconds) those that have nobody below them, then everybody; what is left after `grace` is
    /// killed, at once if that is 0.
    pub fn kill<H: Host>(
        &self,
        host: &H,
        job: JobId,
        grace: f64,
    ) -> std::result::Result<(), H::Error> {
        let Some(mut family) = self.state().jobs.family(job) else { return Ok(()) };
        let pool = self.pool().ok();
        let kin =
            |owner: ProcessId| pool.as_ref().map_or_else(Vec::new, |pool| pool.jobs_of(owner));
        let begun = Instant::now();
        let grace = Duration::try_from_secs_f64(grace).unwrap_or(FOR_EVER).min(FOR_EVER);
        for until in [begun + grace / 2, begun + grace] {
            while Instant::now() < until {
                match host.unlocked(|| family.ask(&kin, until))? {
                    Woken::Ready => return Ok(()),
                    Woken::TimedOut => break,
                    Woken::Missed => {}
                    Woken::Interrupted => {
                        if let Err(e) = host.run_signal_handlers() {
                            family.ask_everybody(); // nobody is to stay stopped
                            return Err(e);
                        }
                    }
                }
            }
            if !grace.is_zero() {
                family.ask_everybody();
            }
        }
        Ok(host.unlocked(|| family.kill(&kin, PATIENCE))?)
    }
}

//! Killing a job and all processes below it.

use super::shared::Owner;
use super::JobId;
use crate::host::Host;
use crate::process::ProcessId;
use crate::wait::Woken;
use std::time::{Duration, Instant};

/// How long this waits for killed processes. A process that does not end in time is left to the
/// system.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longer than any caller waits, and short enough to add to a clock.
const FOR_EVER: Duration = Duration::from_secs(1 << 30);

impl<J> Owner<J> {
    /// Ends a job and all processes below it. In the first half of `grace` (in seconds), each
    /// process gets SIGTERM when no process is below it; after that half, all others get SIGTERM.
    /// After `grace` the processes that are left are killed; with 0 at once.
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
                        if let Err(e) = host.run_signal_handlers_in(self.pid) {
                            if self.check_process().is_ok() {
                                family.ask_everybody(); // no process must stay stopped
                            }
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

//! The clock of a job that makes many calls, and the decision when to read it.

use std::time::Instant;

/// Reads the clock less often than once a call, because a reading would take as long as a short
/// call. The readings take about a hundredth of the time (50 ns each, in a virtual machine).
#[derive(Debug, Default)]
pub struct Clock {
    skip: u32,
    skipped: u32,
    seen: f64,
}

/// The time between two readings, in seconds, and the largest number of calls between them, because
/// the next calls may be slow.
const READ_EACH: f64 = 5e-6;
const MOST_SKIPPED: u32 = 15;

impl Clock {
    /// Whether the clock must be read after this call.
    pub fn is_to_be_read(&mut self) -> bool {
        let skips = self.skipped < self.skip;
        self.skipped += u32::from(skips);
        !skips
    }

    /// Reads the clock. Returns the seconds since the calls began.
    pub fn read(&mut self, begun: Instant) -> f64 {
        let seconds = begun.elapsed().as_secs_f64();
        let calls = f64::from(self.skipped + 1);
        let fitting = READ_EACH * calls / (seconds - self.seen).max(1e-9);
        // It at most doubles, because a few calls may be quicker than most.
        self.skip = (fitting as u32).min(2 * self.skip + 1).min(MOST_SKIPPED);
        self.skipped = 0;
        self.seen = seconds;
        seconds
    }
}

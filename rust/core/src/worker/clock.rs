//! The clock of a job that makes many calls: when it is read.

use std::time::Instant;

/// Spares short calls the reading of the clock, which would take as long as they do: it is read
/// about as often as it takes a hundredth of the time (50 ns, in a virtual machine).
#[derive(Debug, Default)]
pub struct Clock {
    skip: u32,
    skipped: u32,
    seen: f64,
}

/// How often the clock is read, in seconds, and between how many calls at most: the next may be
/// slow.
const READ_EACH: f64 = 5e-6;
const MOST_SKIPPED: u32 = 15;

impl Clock {
    /// Whether the clock is to be read after this call.
    pub fn is_to_be_read(&mut self) -> bool {
        let skips = self.skipped < self.skip;
        self.skipped += u32::from(skips);
        !skips
    }

    /// Reads it: the seconds since the calls have begun.
    pub fn read(&mut self, begun: Instant) -> f64 {
        let seconds = begun.elapsed().as_secs_f64();
        let calls = f64::from(self.skipped + 1);
        let fitting = READ_EACH * calls / (seconds - self.seen).max(1e-9);
        // It at most doubles, since a few calls may be quicker than most.
        self.skip = (fitting as u32).min(2 * self.skip + 1).min(MOST_SKIPPED);
        self.skipped = 0;
        self.seen = seconds;
        seconds
    }
}

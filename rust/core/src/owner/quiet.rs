//! When an owner looks at all of its descriptors.
//!
//! This program may have closed descriptors that the owner waits for. The kernel does not report
//! that, so perhaps no event can come any more. So the owner checks all descriptors from time to
//! time: a second after the first change, and then, while nothing changes, after pauses that double.
//! A check at each wait would cost each job time that grows with the number of other jobs.

use std::time::{Duration, Instant};

/// The pause before the check that follows a change.
const SHORTEST: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Quiet {
    check_at: Instant,
    /// The pause after that check.
    pause: Duration,
    /// The table's count of changes, which stays the same while nothing happens. None if a job has
    /// begun since, whose descriptors are to be checked too.
    pub(super) changes: Option<u64>,
}

impl Quiet {
    /// The quiet time that goes on or begins now. A change does not put off a check.
    pub(super) fn go_on(known: &mut Option<Quiet>, changes: u64, now: Instant) -> &mut Quiet {
        let soon = now + SHORTEST;
        let begins = Quiet { check_at: soon, pause: SHORTEST, changes: None };
        let quiet = known.get_or_insert(begins);
        if quiet.changes != Some(changes) {
            let check_at = quiet.check_at.min(soon);
            *quiet = Quiet { check_at, pause: SHORTEST, changes: Some(changes) };
        }
        quiet
    }

    /// Ends the quiet time because a job has begun.
    pub(super) fn end(known: &mut Option<Quiet>) {
        known.iter_mut().for_each(|quiet| quiet.changes = None);
    }

    /// Returns whether to check the descriptors now. If so, the next check is planned.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let due = now >= self.check_at;
        if due {
            self.check_at = now + self.pause;
            self.pause = (self.pause * 2).min(LONGEST);
        }
        due
    }

    /// The time until the next check.
    pub(super) fn left(&self, now: Instant) -> Duration {
        self.check_at.saturating_duration_since(now)
    }
}

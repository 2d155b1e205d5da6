//! When an owner looks at all of its descriptors.
//!
//! This program may have closed descriptors that the owner waits for. The kernel does not report
//! that, so perhaps no event can come any more. So the owner checks all descriptors, a second after
//! the first change since the last check. A check at each wait would cost each job time that grows
//! with the number of other jobs. While nothing changes there is no other check: a wait must not
//! wake again and again. So descriptors that are closed after the check are not noticed before the
//! next change.

use std::time::{Duration, Instant};

/// The time from a change to the check.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Quiet {
    /// The time of the next check. None if there is nothing to check since the last one.
    check_at: Option<Instant>,
    /// The table's count of changes, which stays the same while nothing happens. None if a job has
    /// begun since, whose descriptors are to be checked too.
    changes: Option<u64>,
}

impl Quiet {
    /// Returns whether something has changed since the last call. A change does not put off a check
    /// that is planned: an owner with steady traffic checks too.
    pub(super) fn has_ended(&mut self, changes: u64, now: Instant) -> bool {
        let ended = self.changes != Some(changes);
        if ended {
            self.changes = Some(changes);
            self.check_at.get_or_insert(now + PAUSE);
        }
        ended
    }

    /// Ends the quiet time because a job has begun.
    pub(super) fn end(&mut self) {
        self.changes = None;
    }

    /// Returns whether to check the descriptors now.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        self.check_at.take_if(|check_at| *check_at <= now).is_some()
    }

    /// The time until the next check. None if none is planned.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        self.check_at.map(|check_at| check_at.saturating_duration_since(now))
    }
}

//! A quiet time: a time in which no event reaches an owner.
//!
//! Perhaps no event can reach it: this program may have closed the descriptors that it waits for,
//! which the kernel does not report. So the owner checks all descriptors once in each quiet time. A
//! check at each wait would cost each job time that grows with the number of other jobs.

use std::time::{Duration, Instant};

/// The length of a quiet time before the check.
const QUIET_TIME: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Quiet {
    since: Instant,
    /// The table's count of changes, which stays the same during a quiet time.
    pub(super) changes: u64,
    pub(super) looked: bool,
}

impl Quiet {
    /// The quiet time that goes on or begins now.
    pub(super) fn go_on(known: &mut Option<Quiet>, changes: u64) -> &mut Quiet {
        let begins = Quiet { since: Instant::now(), changes, looked: false };
        let goes_on = known.take().filter(|quiet| quiet.changes == changes);
        known.insert(goes_on.unwrap_or(begins))
    }

    /// The time until the check. None if the check is done.
    pub(super) fn left(&self) -> Option<Duration> {
        (!self.looked).then(|| QUIET_TIME.saturating_sub(self.since.elapsed()))
    }
}

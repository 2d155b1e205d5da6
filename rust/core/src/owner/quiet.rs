//! A time in which an owner hears nothing.
//!
//! It may be that nothing can be heard: this program may have closed what it would be heard by, of which
//! the kernel says nothing. So once in such a time everything is looked at. To do so at each wait would
//! cost each job as much as there are others.

use std::time::{Duration, Instant};

/// How long such a time lasts before that is done.
const QUIET_TIME: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Quiet {
    since: Instant,
    /// The table's count of changes, which stays the same meanwhile.
    pub(super) changes: u64,
    pub(super) looked: bool,
}

impl Quiet {
    /// The quiet time that goes on, or begins now.
    pub(super) fn go_on(known: &mut Option<Quiet>, changes: u64) -> &mut Quiet {
        let begins = Quiet { since: Instant::now(), changes, looked: false };
        let goes_on = known.take().filter(|quiet| quiet.changes == changes);
        known.insert(goes_on.unwrap_or(begins))
    }

    /// How long it is until everything is to be looked at. None if that has been done.
    pub(super) fn left(&self) -> Option<Duration> {
        (!self.looked).then(|| QUIET_TIME.saturating_sub(self.since.elapsed()))
    }
}

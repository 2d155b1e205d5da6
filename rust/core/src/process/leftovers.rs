//! The children and the memory that a job has left behind in this process. They decide whether
//! another job may follow it here. Not here: what the job has left in the interpreter, which the
//! interpreter's side checks.

use rustix::io::Errno;
use rustix::process::{waitid, WaitId, WaitIdOptions};
use std::time::{Duration, Instant};

/// Returns whether this process has children, zombies included.
pub fn has_children() -> bool {
    let how = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(waitid(WaitId::All, how), Err(Errno::CHILD))
}

/// How much more resident memory this process has than at first.
#[derive(Debug, Clone, Copy)]
pub struct Growth {
    first: Option<u64>,
    looked: Instant,
}

/// The least time between two looks. A look takes microseconds, and a job does not fill much memory
/// in less than this. (`getrusage` gives the peak for less, but the peak of a new program is at
/// least the memory of the process that started it.)
const RESIDENT_CHECK_INTERVAL: Duration = Duration::from_millis(5);

impl Growth {
    /// Takes the current size as the first one.
    pub fn since_now() -> Growth {
        Growth { first: resident(), looked: Instant::now() }
    }

    /// Returns whether the growth is more than `bound` bytes, as of the last look.
    pub fn exceeds(&mut self, bound: u64) -> bool {
        if self.looked.elapsed() < RESIDENT_CHECK_INTERVAL {
            return false;
        }
        self.looked = Instant::now();
        let now = self.first.and_then(|first| Some((first, resident()?)));
        now.is_some_and(|(first, now)| now > first.saturating_add(bound))
    }
}

/// Returns the resident memory in bytes, where the system tells it.
fn resident() -> Option<u64> {
    let told = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = told.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

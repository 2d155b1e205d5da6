//! What a job has left behind in this process, by which it is decided whether another may
//! follow it here. Not here: what it has left in the interpreter, which is for that to know.

use rustix::io::Errno;
use rustix::process::{waitid, WaitId, WaitIdOptions};
use std::time::{Duration, Instant};

/// Whether this process has children, zombies included.
pub fn has_children() -> bool {
    let how = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(waitid(WaitId::All, how), Err(Errno::CHILD))
}

/// How much more memory this process has resident than at first.
#[derive(Debug, Clone, Copy)]
pub struct Growth {
    first: Option<u64>,
    looked: Instant,
}

/// How often to look: a look takes microseconds, and nobody fills much memory in less than this.
/// (The peak that `getrusage` tells is had for less, but that of a new program is no less than the
/// memory of who has started it.)
const LOOK: Duration = Duration::from_millis(5);

impl Growth {
    /// Compares with what there is now.
    pub fn since_now() -> Growth {
        Growth { first: resident(), looked: Instant::now() }
    }

    /// Whether it is more than `bound` bytes, as far as the last look tells.
    pub fn exceeds(&mut self, bound: u64) -> bool {
        if self.looked.elapsed() < LOOK {
            return false;
        }
        self.looked = Instant::now();
        let now = self.first.and_then(|first| Some((first, resident()?)));
        now.is_some_and(|(first, now)| now > first.saturating_add(bound))
    }
}

/// What is resident now, in bytes, where the system says so.
fn resident() -> Option<u64> {
    let told = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = told.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

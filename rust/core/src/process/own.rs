//! What a job has left behind in this process, by which it is decided whether another may
//! follow it here. Not here: what it has left in the interpreter, which is for that to know.

use crate::sys;
use rustix::io::Errno;
use rustix::process::{waitid, WaitId, WaitIdOptions};

/// Whether this process has children, zombies included.
pub fn has_children() -> bool {
    let how = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(waitid(WaitId::All, how), Err(Errno::CHILD))
}

/// How much more memory this process has resident than at first.
#[derive(Debug, Clone, Copy)]
pub struct Growth {
    first: u64,
}

impl Growth {
    /// Compares with what there is now.
    pub fn since_now() -> Growth {
        Growth { first: sys::peak_memory() }
    }

    /// Whether it is more than `bound` bytes.
    pub fn exceeds(&self, bound: u64) -> bool {
        // The peak is had by one system call, and mostly decides: only where that has grown is
        // it asked how much of it is still there.
        let limit = self.first.saturating_add(bound);
        sys::peak_memory() > limit && resident().is_none_or(|now| now > limit)
    }
}

/// What is resident now, in bytes, where the system says so.
fn resident() -> Option<u64> {
    let told = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = told.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

//! The namespaces of Linux in which a process's pid, and the time of its birth, mean something.
//!
//! A container, a sandbox or `unshare` may put a program below a job into a pid namespace of its
//! own. There the pids of all other processes mean nothing, and those processes would seem to be
//! dead. So a ledger records the namespaces of its pids (`slots::ledger`), and this module finds
//! the namespaces of this process.

use super::getpid;
use super::identity::{Marks, ProcessId};
use super::liveness::{forget_parent, marks};
use rustix::process::Pid;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

/// The namespaces in which pids and times of birth mean the same: the inode numbers of the two,
/// mixed. 0 where there is no /proc, and on other Unixes, which have no namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Namespace(pub(crate) u64);

/// The namespaces that were found last, and the pid that found them. A look costs a new process
/// some 15 us, so a child does not look if it is certainly in its parent's namespaces.
static FOUND: AtomicU64 = AtomicU64::new(0);
static FOUND_BY: AtomicI32 = AtomicI32::new(0);

impl Namespace {
    /// Returns the namespace of this process.
    pub(crate) fn current() -> Namespace {
        Namespace::of_this(getpid())
    }

    /// Does the same, for a caller that knows its pid.
    pub(crate) fn of_this(pid: Pid) -> Namespace {
        if FOUND_BY.load(Ordering::Acquire) != pid.as_raw_nonzero().get() {
            ProcessId::current(); // so that a forked child of it knows the parent
            FOUND.store(look(), Ordering::Relaxed);
            remember_by(pid);
        }
        Namespace(FOUND.load(Ordering::Relaxed))
    }
}

fn remember_by(pid: Pid) {
    FOUND_BY.store(pid.as_raw_nonzero().get(), Ordering::Release);
}

/// In the child of a fork, before any use of pids: makes the child find its own name. The child
/// keeps its parent's namespaces if the system says that its parent is that process: a parent in
/// another pid namespace is shown as 0. A second call does no harm.
pub fn begin_child() {
    super::pid::renew();
    let Some(parent) = forget_parent() else { return };
    let known = FOUND_BY.swap(0, Ordering::Relaxed) != 0;
    if known && rustix::process::getppid() == Some(parent) {
        remember_by(getpid());
    }
}

#[cfg(target_os = "linux")]
fn look() -> u64 {
    let inode = |name| std::fs::metadata(name).map(|file| file.ino()).ok();
    let Some(pids) = inode("/proc/self/ns/pid") else { return 0 };
    // Where marks are not times, the time namespace does not matter.
    let times = match marks() {
        Marks::Times => inode("/proc/self/ns/time").unwrap_or(0),
        _ => 0,
    };
    pids | times << 32
}

#[cfg(not(target_os = "linux"))]
fn look() -> u64 {
    let _ = std::fs::Metadata::ino;
    0
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_in_one_namespace() {
        assert_ne!(Namespace::current().0, 0);
        assert_eq!(Namespace::current(), Namespace(look()));
    }
}

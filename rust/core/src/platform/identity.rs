//! Which process is meant, and whether it still lives.
//!
//! A pid alone may mean another process by now. So a process is named by its pid and a *mark* that
//! no other process of that pid has:
//!
//! * where the kernel has pidfs (Linux 6.9), the lowest bits of its pidfd's inode number, which the
//!   kernel gives to one process only, in whatever namespace somebody looks;
//! * elsewhere on Linux, a time at which the process was seen to live, in ticks of 10 ms: a process of
//!   that pid that was born later is another one;
//! * on other Unixes nothing: there, a pid that is used again passes for the process that had it.
//!
//! A mark of 0 is not known yet, and fits any process of that pid.
//!
//! A pid means something in one pid namespace only, and a time in one time namespace. Not here: what
//! follows from that (`namespace`, `slots::ledger`).

use super::backend::backend;
use super::{getpid, Descriptor};
use rustix::process::Pid;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

/// How many bits a mark has. Inode numbers come again after 2^29 births of processes, ticks after
/// 62 days; the pid would have to be the same too.
pub(super) const MARK: u32 = (1 << 29) - 1;

/// A process: its pid, and what tells it from others of that pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProcessId {
    pub(crate) pid: Pid,
    pub(crate) mark: u32,
}

/// What the marks of this system are. The numbers stand in ledgers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marks {
    #[allow(dead_code)] // on Linux
    None = 2,
    #[allow(dead_code)] // on other Unixes
    Times = 0,
    #[allow(dead_code)] // without Linux's backend
    Inodes = 1,
}

/// This process as it was named last: its pid and mark. A forked child has another pid, and is
/// named anew.
static CURRENT: AtomicU64 = AtomicU64::new(0);

impl ProcessId {
    /// This process.
    pub(crate) fn current() -> ProcessId {
        let pid = getpid();
        match ProcessId::known() {
            Some(known) if known.pid == pid => known,
            _ => {
                let found = ProcessId::of_live(pid);
                found.remember();
                found
            }
        }
    }

    fn known() -> Option<ProcessId> {
        ProcessId::from_word(CURRENT.load(Ordering::Relaxed))
    }

    /// What [`ProcessId::to_word`] returned; None if that is 0.
    pub(crate) fn from_word(word: u64) -> Option<ProcessId> {
        let pid = i32::try_from(word >> 32).ok().and_then(Pid::from_raw)?;
        Some(ProcessId { pid, mark: word as u32 })
    }

    fn remember(self) {
        CURRENT.store(self.to_word(), Ordering::Relaxed);
    }

    /// This process as far as it can be named without a look at it, which costs a new process some
    /// 10 us; or as another process has `named` it, if that is known to be right.
    pub(crate) fn current_if_known(pid: Pid, named: Option<ProcessId>) -> ProcessId {
        match (ProcessId::known(), named) {
            (Some(known), _) if known.pid == pid => known,
            (_, Some(named)) if named.pid == pid && named.mark != 0 => {
                named.remember();
                named
            }
            _ => ProcessId { pid, mark: 0 },
        }
    }

    /// A process that is alive now, or has not been reaped.
    pub(crate) fn of_live(pid: Pid) -> ProcessId {
        ProcessId { pid, mark: backend().mark_of(pid).unwrap_or(0) }
    }

    /// The same, of which there is a pidfd, perhaps.
    pub(crate) fn of_watched(pid: Pid, watch: Option<&Descriptor>) -> ProcessId {
        match watch.and_then(|watch| backend().mark_of_watched(watch)) {
            Some(mark) => ProcessId { pid, mark },
            None => ProcessId::of_live(pid),
        }
    }

    /// As a word that is not 0.
    pub(crate) fn to_word(self) -> u64 {
        u64::from(self.pid_bits()) << 32 | u64::from(self.mark)
    }

    pub(crate) fn pid_bits(self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// From a pid, 0 for none, and the lowest bits of a mark.
    pub(crate) fn from_bits(pid: u32, mark: u32) -> Option<ProcessId> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
        Some(ProcessId { pid, mark: mark & MARK })
    }

    /// Whether both names may be of one process.
    pub(crate) fn may_be(self, other: ProcessId) -> bool {
        let told_apart = marks() == Marks::Inodes && self.mark != 0 && other.mark != 0;
        self.pid == other.pid && !(told_apart && self.mark != other.mark)
    }
}

/// Whether this is the process of that pid, mostly without a system call. Not for what a copy of
/// this process would do harm by: one that a C library has forked, and that nobody has told so
/// ([`super::begin_child`]), takes itself for its parent here.
pub fn is_this(pid: Pid) -> bool {
    ProcessId::known().is_some_and(|known| known.pid == pid) || getpid() == pid
}

/// In the child of a fork, which may have its parent's very pid in another namespace: forgets its
/// parent's name, and returns the parent's pid, if that has ever been named.
pub(super) fn forget_parent() -> Option<Pid> {
    let parent = ProcessId::known().map(|parent| parent.pid);
    if parent.is_some() {
        CURRENT.store(0, Ordering::Relaxed);
    }
    parent
}

/// What a look at another process finds.
#[derive(Debug)]
pub(crate) enum Life {
    Dead,
    /// With what polls as readable at its death, where the system has that.
    Alive(Option<Arc<Descriptor>>),
}

/// Whether a process lives. (A zombie does not.)
pub(crate) fn is_alive(process: ProcessId) -> bool {
    process.may_be(ProcessId::current()) || matches!(look(process), Life::Alive(_))
}

/// Looks whether a process lives.
pub(crate) fn look(process: ProcessId) -> Life {
    backend().look(process)
}

/// What tells a process from a later one that has its pid, here.
pub(crate) fn marks() -> Marks {
    backend().marks()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_one_that_has_ended_does_not() {
        assert!(matches!(look(ProcessId::current()), Life::Alive(_)));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let named = ProcessId::of_live(Pid::from_raw(child.id() as i32).unwrap());
        child.wait().unwrap();
        assert!(matches!(look(named), Life::Dead));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_process_that_has_the_pid_of_another_is_not_that_one() {
        let this = ProcessId::current();
        let another = match marks() {
            Marks::Inodes => this.mark.wrapping_add(1) & MARK,
            _ => super::super::proc::birth_of(this.pid).unwrap().wrapping_sub(1) & MARK,
        };
        assert!(matches!(look(ProcessId { mark: another, ..this }), Life::Dead));
        assert!(matches!(look(ProcessId { mark: 0, ..this }), Life::Alive(_)));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_process_that_was_born_after_the_time_that_marks_another_is_not_that_one() {
        use super::super::proc::{birth_of, is_another};
        let birth = birth_of(getpid()).unwrap();
        let named = |mark| ProcessId { pid: getpid(), mark: mark & MARK };
        assert!(is_another(named(birth.wrapping_sub(1))));
        assert!(!is_another(named(birth)));
        assert!(!is_another(named(birth.wrapping_add(1))));
    }
}

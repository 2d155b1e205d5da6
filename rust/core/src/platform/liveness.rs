//! Processes by pid and mark: this process, and whether another one lives.

use super::choice::backend;
use super::identity::{Life, Marks, ProcessId};
use super::{getpid, Descriptor};
use rustix::process::Pid;
use std::sync::atomic::{AtomicU64, Ordering};

/// The pid and mark of this process, as found last. A forked child has another pid, and finds its
/// own.
static REMEMBERED: AtomicU64 = AtomicU64::new(0);

impl ProcessId {
    /// Returns this process.
    pub(crate) fn current() -> ProcessId {
        let pid = getpid();
        match ProcessId::remembered() {
            Some(known) if known.pid == pid => known,
            _ => {
                let found = ProcessId::of_live(pid);
                found.remember();
                found
            }
        }
    }

    fn remembered() -> Option<ProcessId> {
        ProcessId::from_word(REMEMBERED.load(Ordering::Relaxed))
    }

    fn remember(self) {
        REMEMBERED.store(self.to_word(), Ordering::Relaxed);
    }

    /// Returns this process as far as it is known without a look at it, which costs a new process
    /// some 10 us; or as another process has `named` it, if its pid and mark are given.
    pub(crate) fn current_if_known(pid: Pid, named: Option<ProcessId>) -> ProcessId {
        match (ProcessId::remembered(), named) {
            (Some(known), _) if known.pid == pid => known,
            (_, Some(named)) if named.pid == pid && named.mark != 0 => {
                named.remember();
                named
            }
            _ => ProcessId { pid, mark: 0 },
        }
    }

    /// Returns the name of a process that is alive now, or has not been reaped.
    pub(crate) fn of_live(pid: Pid) -> ProcessId {
        ProcessId { pid, mark: backend().mark_of(pid).unwrap_or(0) }
    }

    /// Does the same, by a pidfd if there is one.
    pub(crate) fn of_watched(pid: Pid, watch: Option<&Descriptor>) -> ProcessId {
        match watch.and_then(|watch| backend().mark_of_watched(watch)) {
            Some(mark) => ProcessId { pid, mark },
            None => ProcessId::of_live(pid),
        }
    }

    /// Returns whether both names may mean the same process.
    pub(crate) fn may_be(self, other: ProcessId) -> bool {
        let told_apart = marks() == Marks::Inodes && self.mark != 0 && other.mark != 0;
        self.pid == other.pid && !(told_apart && self.mark != other.mark)
    }
}

/// Returns whether this is the process of that pid, mostly without a system call. Not for a use
/// where a copy of this process would do harm: if a C library has forked the copy without
/// [`super::begin_child`], the copy takes itself for its parent here.
pub fn is_this(pid: Pid) -> bool {
    ProcessId::remembered().is_some_and(|known| known.pid == pid) || getpid() == pid
}

/// In the child of a fork: forgets the parent's name, and returns the parent's pid, if it was
/// known. In another namespace the child may have its parent's very pid.
pub(super) fn forget_parent() -> Option<Pid> {
    let parent = ProcessId::remembered().map(|parent| parent.pid);
    if parent.is_some() {
        REMEMBERED.store(0, Ordering::Relaxed);
    }
    parent
}

/// Returns whether a process lives. (A zombie does not.)
pub(crate) fn is_alive(process: ProcessId) -> bool {
    process.may_be(ProcessId::current()) || matches!(look(process), Life::Alive(_))
}

/// Looks whether a process lives.
pub(crate) fn look(process: ProcessId) -> Life {
    backend().look(process)
}

/// Returns the kind of marks that this system has.
pub(crate) fn marks() -> Marks {
    backend().marks()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::identity::MARK;
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

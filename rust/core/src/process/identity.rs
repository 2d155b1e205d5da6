//! Who a process is, and whether it still lives.
//!
//! A pid alone may mean another process by now. So a process is named by its pid and a *mark* that
//! no other process of that pid has:
//!
//! * where the kernel has pidfs (Linux 6.9), the lowest bits of its pidfd's inode number, which the
//!   kernel gives to one process only, in whatever namespace somebody looks;
//! * elsewhere on Linux, a time at which it was seen to live, in ticks of 10 ms: a process of that
//!   pid that was born later is another one;
//! * on other Unixes nothing: there, a pid that is used again passes for the process that had it.
//!
//! A mark of 0 is not known yet, and fits any process of that pid.
//!
//! A pid means something in one pid namespace only, and a time in one time namespace. Not here: what
//! follows from that (`process::namespace`, `slots::ledger`).

use super::Child;
use crate::sys::getpid;
use crate::sys::Descriptor;
use rustix::io::Errno;
use rustix::process::Pid;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

/// How many bits a mark has. Inode numbers come again after 2^29 births of processes, ticks after
/// 62 days; it would have to be the same pid too.
const MARK: u32 = (1 << 29) - 1;

/// A process: its pid, and what tells it from others of that pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Named {
    pub(crate) pid: Pid,
    pub(crate) mark: u32,
}

/// What the marks of this system are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marks {
    #[cfg(not(target_os = "linux"))]
    None,
    #[cfg(target_os = "linux")]
    Times,
    Inodes,
}

/// This process as it was named last: its pid and mark. A forked child has another pid, and is
/// named anew.
static ME: AtomicU64 = AtomicU64::new(0);

impl Named {
    /// This process.
    pub(crate) fn me() -> Named {
        Named::this(getpid())
    }

    /// The same, for a caller that knows its pid.
    fn this(pid: Pid) -> Named {
        match Named::known() {
            Some(me) if me.pid == pid => me,
            _ => {
                let me = Named::now(pid);
                me.remember();
                me
            }
        }
    }

    fn known() -> Option<Named> {
        Named::from_word(ME.load(Ordering::Relaxed))
    }

    /// What [`Named::to_word`] made; None if that is 0.
    pub(crate) fn from_word(word: u64) -> Option<Named> {
        let pid = i32::try_from(word >> 32).ok().and_then(Pid::from_raw)?;
        Some(Named { pid, mark: word as u32 })
    }

    fn remember(self) {
        ME.store(self.to_word(), Ordering::Relaxed);
    }

    /// This process as far as it can be named without a look at it, which a new process pays dearly
    /// for; or as it has been named by another, if that is known to be right.
    pub(crate) fn me_cheaply(pid: Pid, named: Option<Named>) -> Named {
        match (Named::known(), named) {
            (Some(me), _) if me.pid == pid => me,
            (_, Some(named)) if named.pid == pid && named.mark != 0 => {
                named.remember();
                named
            }
            _ => Named { pid, mark: 0 },
        }
    }

    /// A process that is alive now, or has not been reaped.
    pub(crate) fn now(pid: Pid) -> Named {
        Named { pid, mark: mark_of(pid).unwrap_or(0) }
    }

    /// A process that we hold.
    pub(crate) fn of(child: &Child) -> Named {
        match child.watch().map(|pidfd| mark_of_pidfd(pidfd)) {
            Some(Some(mark)) => Named { pid: child.pid(), mark },
            _ => Named::now(child.pid()),
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
    pub(crate) fn from_bits(pid: u32, mark: u32) -> Option<Named> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
        Some(Named { pid, mark: mark & MARK })
    }

    /// Whether both names may be of one process.
    pub(crate) fn may_be(self, other: Named) -> bool {
        let told_apart = marks() == Marks::Inodes && self.mark != 0 && other.mark != 0;
        self.pid == other.pid && !(told_apart && self.mark != other.mark)
    }
}

/// Whether this is the process of that pid, mostly without a system call. Not for what a copy of
/// this process would do harm by: one that a C library has forked, and that nobody has told so
/// ([`super::begin_child`]), takes itself for its parent here.
pub fn is_this(pid: Pid) -> bool {
    Named::known().is_some_and(|me| me.pid == pid) || getpid() == pid
}

/// In the child of a fork, which may have its parent's very pid in another namespace: forgets its
/// parent's name, and says which pid the parent had, if that has ever been named.
pub(super) fn forget_parent() -> Option<Pid> {
    let parent = Named::known().map(|parent| parent.pid);
    if parent.is_some() {
        ME.store(0, Ordering::Relaxed);
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
pub(crate) fn is_alive(named: Named) -> bool {
    named.may_be(Named::me()) || matches!(look(named), Life::Alive(_))
}

#[cfg(all(target_os = "linux", not(jobserver_portable)))]
pub(crate) use linux::{look, mark_of, mark_of_pidfd, marks};

#[cfg(all(target_os = "linux", not(jobserver_portable)))]
mod linux {
    use super::*;
    use rustix::fs::fstatfs;
    use rustix::process::{pidfd_open, PidfdFlags};
    use std::sync::OnceLock;

    /// The kernel's PID_FS_MAGIC (linux/magic.h).
    const PIDFS: u64 = 0x5049_4446;

    pub(crate) fn marks() -> Marks {
        static MARKS: OnceLock<Marks> = OnceLock::new();
        *MARKS.get_or_init(|| {
            if !crate::sys::linux() {
                return Marks::Times;
            }
            let own = open(getpid());
            let kind = own.and_then(fstatfs).map(|system| u64::try_from(system.f_type));
            match kind {
                Ok(Ok(PIDFS)) => Marks::Inodes,
                _ => Marks::Times,
            }
        })
    }

    fn open(pid: Pid) -> rustix::io::Result<Descriptor> {
        pidfd_open(pid, PidfdFlags::empty()).and_then(Descriptor::new)
    }

    pub(crate) fn mark_of(pid: Pid) -> Option<u32> {
        match marks() {
            Marks::Inodes => mark_of_pidfd(&open(pid).ok()?),
            _ => Some(proc::now()),
        }
    }

    pub(crate) fn mark_of_pidfd(pidfd: &Descriptor) -> Option<u32> {
        match marks() {
            // Never 0, which would be no mark.
            Marks::Inodes => pidfd.inode().map(|inode| (inode as u32 & MARK).max(1)),
            _ => None,
        }
    }

    pub(crate) fn look(named: Named) -> Life {
        match open(named.pid) {
            Ok(pidfd) => {
                // After the opening: what is asked now is about the process that the pidfd holds.
                if is_stranger(named, &pidfd) || pidfd.is_readable() {
                    return Life::Dead;
                }
                Life::Alive(crate::sys::linux().then(|| Arc::new(pidfd)))
            }
            // The number of a thread, say, or of nothing.
            Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => Life::Dead,
            Err(_) => proc::look(named, marks() == Marks::Times),
        }
    }

    fn is_stranger(named: Named, pidfd: &Descriptor) -> bool {
        match marks() {
            Marks::Inodes => {
                named.mark != 0 && mark_of_pidfd(pidfd).is_some_and(|mark| mark != named.mark)
            }
            // (One that was named in this very tick was born before now, which is all that could be
            // found out.)
            _ => named.mark != proc::now() && proc::is_stranger(named),
        }
    }
}

#[cfg(not(all(target_os = "linux", not(jobserver_portable))))]
mod portable {
    use super::*;

    pub(crate) fn marks() -> Marks {
        #[cfg(target_os = "linux")]
        return Marks::Times;
        #[cfg(not(target_os = "linux"))]
        return Marks::None;
    }

    pub(crate) fn mark_of(_pid: Pid) -> Option<u32> {
        Some(proc::now())
    }

    pub(crate) fn mark_of_pidfd(_pidfd: &Descriptor) -> Option<u32> {
        None
    }

    pub(crate) fn look(named: Named) -> Life {
        proc::look(named, true)
    }
}

#[cfg(not(all(target_os = "linux", not(jobserver_portable))))]
pub(crate) use portable::{look, mark_of, mark_of_pidfd, marks};

pub(crate) use proc::parent;

/// What signals and /proc tell.
mod proc {
    use super::*;

    /// Whether a process lives, without a pidfd. A zombie passes for alive where there is no /proc.
    pub(super) fn look(named: Named, by_times: bool) -> Life {
        let gone = rustix::process::test_kill_process(named.pid) == Err(Errno::SRCH);
        if gone || by_times && is_stranger(named) || is_zombie(named.pid) {
            return Life::Dead;
        }
        Life::Alive(None)
    }

    /// Whether its pid is another process's by now, which was born after the time that is the mark.
    pub(super) fn is_stranger(named: Named) -> bool {
        let younger = |birth: u32| named.mark.wrapping_sub(birth) & MARK > MARK / 2;
        named.mark != 0 && birth(named.pid).is_some_and(younger)
    }

    /// The fields of /proc/PID/stat from the third on; the second, a name, may hold anything.
    #[cfg(target_os = "linux")]
    fn stat(pid: Pid) -> Option<Vec<String>> {
        let stat = std::fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
        let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
        let fields = std::str::from_utf8(&stat[after_name..]).ok()?;
        Some(fields.split_whitespace().map(String::from).collect())
    }

    /// The tick since boot in which a process was born.
    #[cfg(target_os = "linux")]
    pub(super) fn birth(pid: Pid) -> Option<u32> {
        let ticks: u64 = stat(pid)?.get(19)?.parse().ok()?;
        Some(ticks as u32 & MARK)
    }

    /// The pid of a process's parent.
    #[cfg(target_os = "linux")]
    pub(crate) fn parent(pid: Pid) -> Option<i32> {
        stat(pid)?.get(1)?.parse().ok()
    }

    #[cfg(target_os = "linux")]
    fn is_zombie(pid: Pid) -> bool {
        stat(pid).is_some_and(|fields| fields.first().is_some_and(|state| state == "Z"))
    }

    /// The tick since boot that this is; never 0.
    #[cfg(target_os = "linux")]
    pub(super) fn now() -> u32 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let a_second = rustix::param::clock_ticks_per_second();
        let ticks = now.tv_sec as u64 * a_second + now.tv_nsec as u64 * a_second / 1_000_000_000;
        (ticks as u32 & MARK).max(1)
    }

    #[cfg(not(target_os = "linux"))]
    fn birth(_pid: Pid) -> Option<u32> {
        None
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn parent(_pid: Pid) -> Option<i32> {
        None
    }

    #[cfg(not(target_os = "linux"))]
    fn is_zombie(_pid: Pid) -> bool {
        false
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn now() -> u32 {
        0
    }
}

/// Whether the system shows a process by this name.
pub(crate) fn is_called(pid: Pid, name: &std::ffi::CStr) -> bool {
    let comm = std::fs::read(format!("/proc/{}/comm", pid.as_raw_nonzero())).unwrap_or_default();
    comm.strip_suffix(b"\n") == Some(name.to_bytes())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_one_that_has_ended_does_not() {
        assert!(matches!(look(Named::me()), Life::Alive(_)));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let named = Named::now(Pid::from_raw(child.id() as i32).unwrap());
        child.wait().unwrap();
        assert!(matches!(look(named), Life::Dead));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_process_that_has_the_pid_of_another_is_not_that_one() {
        let me = Named::me();
        let another = match marks() {
            Marks::Inodes => me.mark.wrapping_add(1) & MARK,
            _ => proc::birth(me.pid).unwrap().wrapping_sub(1) & MARK,
        };
        assert!(matches!(look(Named { mark: another, ..me }), Life::Dead));
        assert!(matches!(look(Named { mark: 0, ..me }), Life::Alive(_)));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_process_that_was_born_after_the_time_that_marks_another_is_not_that_one() {
        let birth = proc::birth(getpid()).unwrap();
        let named = |mark| Named { pid: getpid(), mark: mark & MARK };
        assert!(proc::is_stranger(named(birth.wrapping_sub(1))));
        assert!(!proc::is_stranger(named(birth)));
        assert!(!proc::is_stranger(named(birth.wrapping_add(1))));
    }
}

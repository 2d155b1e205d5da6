//! What signals and (on Linux) /proc show about other processes.

use super::identity::{Life, Marks, ProcessId, MARK};
use rustix::io::Errno;
use rustix::process::Pid;

/// Looks whether a process lives, without a pidfd. A zombie passes for alive where there is no
/// /proc.
pub(super) fn look(process: ProcessId, by_times: bool) -> Life {
    let gone = rustix::process::test_kill_process(process.pid) == Err(Errno::SRCH);
    if gone || by_times && is_another(process) || is_zombie(process.pid) {
        return Life::Dead;
    }
    Life::Alive(None)
}

/// Returns whether another process has its pid by now: one that was born after the time that is the
/// mark.
pub(super) fn is_another(process: ProcessId) -> bool {
    let younger = |birth: u32| process.mark.wrapping_sub(birth) & MARK > MARK / 2;
    process.mark != 0 && birth(process.pid).is_some_and(younger)
}

/// Returns whether the system shows a process under this name.
pub(crate) fn is_called(pid: Pid, name: &std::ffi::CStr) -> bool {
    let comm = std::fs::read(format!("/proc/{}/comm", pid.as_raw_nonzero())).unwrap_or_default();
    comm.strip_suffix(b"\n") == Some(name.to_bytes())
}

#[cfg(all(test, target_os = "linux"))]
pub(super) use system::birth as birth_of;
pub(crate) use system::parent;
use system::{birth, is_zombie};
pub(super) use system::{now, MARKS};

#[cfg(target_os = "linux")]
mod system {
    use super::*;

    /// Without pidfds, a process is marked by a time.
    pub(in crate::platform) const MARKS: Marks = Marks::Times;

    /// Returns the fields of /proc/PID/stat from the third on. The second, the name, may contain
    /// any byte.
    fn stat(pid: Pid) -> Option<Vec<String>> {
        let stat = std::fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
        let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
        let fields = std::str::from_utf8(&stat[after_name..]).ok()?;
        Some(fields.split_whitespace().map(String::from).collect())
    }

    /// Returns the tick since boot in which a process was born.
    pub(in crate::platform) fn birth(pid: Pid) -> Option<u32> {
        let ticks: u64 = stat(pid)?.get(19)?.parse().ok()?;
        Some(ticks as u32 & MARK)
    }

    /// Returns the pid of a process's parent.
    pub(crate) fn parent(pid: Pid) -> Option<i32> {
        stat(pid)?.get(1)?.parse().ok()
    }

    pub(super) fn is_zombie(pid: Pid) -> bool {
        stat(pid).is_some_and(|fields| fields.first().is_some_and(|state| state == "Z"))
    }

    /// Returns the current tick since boot; never 0.
    pub(in crate::platform) fn now() -> u32 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let a_second = rustix::param::clock_ticks_per_second();
        let ticks = now.tv_sec as u64 * a_second + now.tv_nsec as u64 * a_second / 1_000_000_000;
        (ticks as u32 & MARK).max(1)
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use super::*;

    /// This system does not tell when a process was born.
    pub(in crate::platform) const MARKS: Marks = Marks::None;

    pub(in crate::platform) fn birth(_pid: Pid) -> Option<u32> {
        None
    }

    /// Returns None: there is no portable call for the parent of another process.
    pub(crate) fn parent(_pid: Pid) -> Option<i32> {
        None
    }

    pub(super) fn is_zombie(_pid: Pid) -> bool {
        false
    }

    pub(in crate::platform) fn now() -> u32 {
        0
    }
}

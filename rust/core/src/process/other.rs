//! Processes that are not ours: whether one that was named still lives.
//!
//! A pid alone may mean another process by now. So a process is named by its pid and the
//! time at which it was seen to live: whoever has that pid and was born later is another.
//! That needs no look at the process when it is named, only when its life is doubted.

use crate::sys::Descriptor;
use rustix::io::Errno;
use rustix::process::{getpid, Pid};
use std::sync::Arc;

/// Times are seconds since boot in 29 bits: some 17 years, after which they begin anew.
const SECONDS: u32 = (1 << 29) - 1;

/// A process: its pid, and a second (since boot) in which it was alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Named {
    pub(crate) pid: Pid,
    pub(crate) since: u32,
}

impl Named {
    /// This process.
    pub(crate) fn me() -> Named {
        Named::now(getpid())
    }

    /// A process that is alive now.
    pub(crate) fn now(pid: Pid) -> Named {
        Named { pid, since: now() }
    }

    pub(crate) fn pid_bits(self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// From a pid, 0 for none, and the lowest bits of a time.
    pub(crate) fn from_bits(pid: u32, since: u32) -> Option<Named> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
        Some(Named { pid, since: since & SECONDS })
    }

    /// How long ago it was named.
    pub(crate) fn seconds(self) -> u32 {
        now().wrapping_sub(self.since) & SECONDS
    }

    /// Whether a process of this pid that was born at `birth` cannot be this one.
    fn is_younger(self, birth: u32) -> bool {
        let lived = self.since.wrapping_sub(birth) & SECONDS;
        lived > SECONDS / 2
    }
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
    named.pid == getpid() || matches!(look(named), Life::Alive(_))
}

#[cfg(all(target_os = "linux", not(jobserver_portable)))]
pub(crate) fn look(named: Named) -> Life {
    use rustix::process::{pidfd_open, PidfdFlags};
    if !crate::sys::linux() {
        return look_by_signal(named);
    }
    match pidfd_open(named.pid, PidfdFlags::empty()).and_then(Descriptor::new) {
        Ok(pidfd) => {
            // After the opening: what is read now is of the process that the pidfd holds. (That
            // one was born before now, which is all that could be found out if this is now.)
            if named.since != now() && is_stranger(named) || has_ended(&pidfd) {
                return Life::Dead;
            }
            Life::Alive(Some(Arc::new(pidfd)))
        }
        // The number of a thread, say, or of nothing.
        Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => Life::Dead,
        Err(_) => look_by_signal(named),
    }
}

#[cfg(not(all(target_os = "linux", not(jobserver_portable))))]
pub(crate) fn look(named: Named) -> Life {
    look_by_signal(named)
}

/// Where there is no pidfd. A zombie passes for alive until it is reaped.
fn look_by_signal(named: Named) -> Life {
    let gone = rustix::process::test_kill_process(named.pid) == Err(Errno::SRCH);
    if gone || is_stranger(named) || is_zombie(named.pid) {
        return Life::Dead;
    }
    Life::Alive(None)
}

/// Whether its pid is another process's by now.
fn is_stranger(named: Named) -> bool {
    birth(named.pid).is_some_and(|birth| named.is_younger(birth))
}

#[cfg(all(target_os = "linux", not(jobserver_portable)))]
pub(crate) fn has_ended(pidfd: &Descriptor) -> bool {
    use rustix::event::{poll, PollFd, PollFlags, Timespec};
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// The fields of /proc/PID/stat from the third on; the second, a name, may hold anything.
#[cfg(target_os = "linux")]
fn stat(pid: Pid) -> Option<Vec<String>> {
    let stat = std::fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let fields = std::str::from_utf8(&stat[after_name..]).ok()?;
    Some(fields.split_whitespace().map(String::from).collect())
}

/// The second since boot in which a process was born.
#[cfg(target_os = "linux")]
fn birth(pid: Pid) -> Option<u32> {
    let ticks: u64 = stat(pid)?.get(19)?.parse().ok()?;
    Some((ticks / rustix::param::clock_ticks_per_second()) as u32 & SECONDS)
}

/// The pid of a process's parent.
#[cfg(target_os = "linux")]
pub(crate) fn parent(pid: Pid) -> Option<i32> {
    stat(pid)?.get(1)?.parse().ok()
}

/// Whether the system shows a process by this name.
pub(crate) fn is_called(pid: Pid, name: &std::ffi::CStr) -> bool {
    let comm = std::fs::read(format!("/proc/{}/comm", pid.as_raw_nonzero())).unwrap_or_default();
    comm.strip_suffix(b"\n") == Some(name.to_bytes())
}

#[cfg(target_os = "linux")]
fn is_zombie(pid: Pid) -> bool {
    stat(pid).is_some_and(|fields| fields.first().is_some_and(|state| state == "Z"))
}

#[cfg(target_os = "linux")]
fn now() -> u32 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as u32 & SECONDS
}

// Elsewhere a pid that is used again passes for the process that had it before.

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
fn now() -> u32 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u32 & SECONDS
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
    fn a_process_that_was_born_after_the_one_that_had_its_pid_is_another() {
        let me = Named::me();
        let birth = birth(me.pid).unwrap();
        let before = Named { since: birth.wrapping_sub(1) & SECONDS, ..me };
        assert!(matches!(look(before), Life::Dead));
        assert!(matches!(look(Named { since: birth, ..me }), Life::Alive(_)));
    }
}

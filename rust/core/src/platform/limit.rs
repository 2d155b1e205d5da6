//! The end of a process that has run for longer than its time limit, and of the processes that it
//! has started.
//!
//! A timer of the kernel sends a signal. Its handler kills the children and then raises the same
//! signal with its default action; by that signal the owner knows the reason. A handler may
//! interrupt any code, so it does not allocate or lock: it only makes system calls.
//!
//! A process that blocks, ignores or handles the signal is killed a second later by SIGKILL. A
//! zombie of SIGKILL does not show which process sent it, nor when the zombie died. But signals
//! that were pending at its death stay visible. So there is a *mark*: a blocked signal that is
//! pending from shortly after the limit.

use super::signals::{change_mask, last_signal, time_limit_signal};
use super::tracker::is_resource_tracker;
use rustix::fd::OwnedFd;
use rustix::fs::{open, openat, Mode, OFlags, RawDir};
use rustix::process::{kill_process, waitpid, Pid, Signal, WaitOptions};
use std::io;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::time::{Duration, Instant};

/// Asks the kernel to end this process and its children after `limit`, by [`time_limit_signal`]. If
/// that signal is blocked, ignored or handled, SIGKILL ends this process alone a second later.
/// Neither this process nor its owner must do anything for that. It does not happen after
/// [`TimeLimit::lift`].
///
/// Timers do not outlive an exec, with one exception: a program that this process has become by
/// exec gets SIGALRM, unless the process has used that timer (alarm, setitimer) for another
/// purpose.
pub fn end_after(limit: Duration) -> io::Result<TimeLimit> {
    // A timer of 0 would be disarmed.
    let limit = limit.max(Duration::from_nanos(1));
    let (marked, ended) =
        (limit.saturating_add(Duration::from_millis(500)), limit.saturating_add(A_SECOND));
    let until = Instant::now().checked_add(limit);
    handle(time_limit_signal())?;
    change_mask(libc::SIG_UNBLOCK, time_limit_signal()); // the owner may have blocked it
    change_mask(libc::SIG_BLOCK, mark());
    let timers = [
        Timer::begin(limit, time_limit_signal())?,
        Timer::begin(marked, mark())?,
        Timer::begin(ended, libc::SIGKILL)?,
    ];
    set_alarm(ended)?;
    Ok(TimeLimit { timers: ManuallyDrop::new(timers), until })
}

const A_SECOND: Duration = Duration::from_secs(1);

/// The signal that is pending in a process that has passed its limit. No other code uses it.
fn mark() -> libc::c_int {
    last_signal() - 1
}

/// Returns whether a process that has not been reaped yet, this process's child or not, has passed
/// its limit.
pub(crate) fn is_marked(pid: Pid) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()));
    let pending = status.ok().and_then(|status| {
        let of_process = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"))?;
        u64::from_str_radix(of_process.trim(), 16).ok()
    });
    pending.is_some_and(|pending| pending >> (mark() - 1) & 1 == 1)
}

/// The time limit of this process. It stays in force after this is dropped.
#[derive(Debug)]
pub struct TimeLimit {
    timers: ManuallyDrop<[Timer; 3]>,
    /// None: the limit is longer than the clock can represent.
    until: Option<Instant>,
}

impl TimeLimit {
    /// Removes the limit. Returns whether it was in force until now. If the limit is already over,
    /// its signals may be pending, and would be taken for those of the next limit; so it is not
    /// removed.
    pub fn lift(self) -> bool {
        let until = self.until;
        let in_time = || until.is_none_or(|until| Instant::now() < until);
        if !in_time() {
            return false; // the process must end; the limit ends it
        }
        drop(ManuallyDrop::into_inner(self.timers));
        let _ = set_alarm(Duration::ZERO);
        in_time()
    }
}

/// A kernel timer that sends this process a signal. It is deleted at the drop.
#[derive(Debug)]
struct Timer(libc::timer_t);

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: timer_create made it, and only this deletes it.
        unsafe { libc::timer_delete(self.0) };
    }
}

fn handle(signal: libc::c_int) -> io::Result<()> {
    // SAFETY: all zeroes is a valid sigaction. The fields that matter are set next.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = at_limit as extern "C" fn(libc::c_int) as libc::sighandler_t;
    action.sa_flags = libc::SA_RESETHAND;
    // SAFETY: reads `action`. Its handler does only what a handler may do.
    if unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn set_alarm(after: Duration) -> io::Result<()> {
    let none = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let value = libc::timeval {
        tv_sec: after.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_usec: after.subsec_micros().into(),
    };
    let once = libc::itimerval { it_interval: none, it_value: value };
    // SAFETY: reads `once`; no old value is asked for.
    match unsafe { libc::setitimer(libc::ITIMER_REAL, &once, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Timer {
    /// Starts a timer that sends `signal` once, after this time.
    fn begin(after: Duration, signal: libc::c_int) -> io::Result<Timer> {
        // SAFETY: all zeroes is a valid sigevent. The fields that matter are set next.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_SIGNAL;
        event.sigev_signo = signal;
        let mut timer = MaybeUninit::uninit();
        // SAFETY: reads `event`, and writes `timer` if it succeeds.
        if unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, timer.as_mut_ptr()) } != 0
        {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: timer_create has succeeded, and so has written it.
        let timer = Timer(unsafe { timer.assume_init() });
        let none = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let value = libc::timespec {
            tv_sec: after.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_nsec: after.subsec_nanos().into(),
        };
        let once = libc::itimerspec { it_interval: none, it_value: value };
        // SAFETY: reads `once`; no old value is asked for.
        match unsafe { libc::timer_settime(timer.0, 0, &once, std::ptr::null_mut()) } {
            0 => Ok(timer),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

extern "C" fn at_limit(signal: libc::c_int) {
    // The orphans of a killed child become children of this process (a job is the reaper of its
    // orphans).
    while matches!(kill_children(), Ok(true)) {}
    // SAFETY: the call is async-signal-safe. The default action is in force again, and happens when
    // this handler returns.
    unsafe { libc::raise(signal) };
}

/// Kills and reaps all current children except the tree's resource tracker. Returns whether there
/// were any.
fn kill_children() -> rustix::io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let tasks = open(c"/proc/self/task", flags, Mode::empty())?;
    let (mut buffer, mut any) = ([MaybeUninit::uninit(); 1024], false);
    // /proc lists children by the thread that forked them.
    let mut entries = RawDir::new(&tasks, &mut buffer);
    while let Some(Ok(task)) = entries.next() {
        let (from, flags) = (OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        if task.file_name().to_bytes().starts_with(b".") {
            continue;
        }
        let Ok(task) = openat(&tasks, task.file_name(), from, flags) else { continue };
        let Ok(children) = openat(&task, c"children", from, flags) else { continue };
        any |= kill_each(&children);
    }
    Ok(any)
}

/// Kills and reaps the processes whose pids are in the file, each followed by a blank.
fn kill_each(children: &OwnedFd) -> bool {
    let (mut pid, mut any, mut buffer) = (0, false, [0; 1024]);
    while let Ok(read @ 1..) = rustix::io::read(children, &mut buffer) {
        for byte in buffer.iter().take(read) {
            if byte.is_ascii_digit() {
                pid = pid * 10 + i32::from(byte - b'0');
                continue;
            }
            let child = Pid::from_raw(std::mem::take(&mut pid));
            if let Some(child) = child.filter(|child| !is_resource_tracker(*child)) {
                any = true;
                let _ = kill_process(child, Signal::KILL);
                let _ = waitpid(Some(child), WaitOptions::empty());
            }
        }
    }
    any
}

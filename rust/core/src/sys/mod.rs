//! Everything that is `unsafe`, or differs from one Unix to another, and nothing else.
//!
//! The rest of the crate goes through rustix, whose calls are safe and whose descriptors
//! are owned. Here stand the few calls that rustix leaves out or marks `unsafe` (fork
//! above all), one block a call. Each descriptor is close-on-exec from birth where the
//! system can do that; on Apple's systems, which cannot, there is a gap of two calls.
#![allow(unsafe_code)]

mod descriptor;
mod file_size;
#[cfg(target_os = "linux")]
mod limit;
mod pass_on;
mod pid;
pub(crate) mod private;
pub(crate) mod shared;
mod signals;
mod tracker;

#[cfg(all(test, target_os = "linux", not(jobserver_portable)))]
pub(crate) use descriptor::put_in_place_of;
pub use descriptor::{fill_standard, Descriptor};
pub(crate) use descriptor::{
    is_free_or, is_inherited, null_device, open_for_others, open_in_place, AtHand, Undisturbed,
};
pub use file_size::within_limit;
#[cfg(target_os = "linux")]
pub(crate) use limit::is_marked;
#[cfg(target_os = "linux")]
pub use limit::{end_after, TimeLimit};
pub use pass_on::{pass_on, pass_on_to};
pub(crate) use pid::begin_child;
pub use pid::getpid;
pub use signals::{unblock, SignalIgnored, SignalsHeld};
pub(crate) use tracker::is_resource_tracker;

use rustix::fd::{FromRawFd, OwnedFd, RawFd};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, Signal, WaitOptions};
use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;

/// On which side of a fork the caller finds itself.
#[derive(Debug)]
pub enum Forked {
    /// In the process that forked; its child has this pid.
    Parent(Pid),
    /// In the new process.
    Child,
}

/// Duplicates this process.
///
/// # Safety
///
/// If the process has other threads, the child may call only async-signal-safe functions
/// until it has made its memory consistent again (as CPython's fork hooks do).
pub unsafe fn fork() -> io::Result<Forked> {
    // SAFETY: the caller keeps the contract above; fork itself touches no memory of ours.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        pid => match Pid::from_raw(pid) {
            Some(child) => Ok(Forked::Parent(child)),
            None => {
                crate::process::begin_child();
                Ok(Forked::Child)
            }
        },
    }
}

/// Runs `task` in a process of this name that is nobody's child and is in a session of its own, so that
/// neither a signal to this process's group nor one to its terminal's reaches it. Of the
/// descriptors it has only those to `keep`, so that nobody waits in vain for the end of one.
///
/// The task must not need anything that another thread of this process may hold at this
/// moment. (The C library makes its own locks free in a fork.)
pub(crate) fn detach(name: &CStr, keep: &[RawFd], task: impl FnOnce()) -> io::Result<()> {
    let held = SignalsHeld::begin();
    // SAFETY: the child runs `detached` only, which keeps to what is said above.
    match unsafe { fork() }? {
        Forked::Child => detached(name, keep, task),
        Forked::Parent(between) => {
            drop(held);
            // It ends at once; and it is no matter if this program reaps whatever ends.
            let wait = || rustix::process::waitpid(Some(between), WaitOptions::empty());
            let _ = rustix::io::retry_on_intr(wait);
            Ok(())
        }
    }
}

fn detached(name: &CStr, keep: &[RawFd], task: impl FnOnce()) -> ! {
    let _ = rustix::process::setsid();
    // SAFETY: as for the first fork.
    if let Ok(Forked::Child) = unsafe { fork() } {
        let run = || {
            set_name(name)?;
            leave_all_but(keep)?;
            task();
            io::Result::Ok(())
        };
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    }
    exit_at_once(0) // nothing of the program that it was forked from is to run
}

/// What the system is to show this process as, where it can.
fn set_name(name: &CStr) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::thread::set_name(name)?;
    let _ = name;
    Ok(())
}

/// Ends this process as it is: nothing is flushed, freed or told of it.
pub fn exit_at_once(code: i32) -> ! {
    // SAFETY: touches no memory of ours, and does not return.
    unsafe { libc::_exit(code) }
}

fn leave_all_but(keep: &[RawFd]) -> io::Result<()> {
    rustix::process::chdir("/")?;
    let listed = std::fs::read_dir("/proc/self/fd").or_else(|_| std::fs::read_dir("/dev/fd"))?;
    let open: Vec<RawFd> =
        listed.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    for number in open.into_iter().filter(|number| !keep.contains(number)) {
        // SAFETY: nothing of the program whose descriptor it was runs in this process.
        unsafe { libc::close(number) };
    }
    Ok(())
}

/// A new duplicate of the descriptor numbered `raw`.
///
/// This is how a bare number from outside becomes an owned type: the kernel says whether
/// the number means anything (EBADF otherwise).
pub fn duplicate(raw: RawFd) -> io::Result<Descriptor> {
    // SAFETY: fcntl(F_DUPFD_CLOEXEC) reads and writes no memory of ours, whatever `raw` is.
    let new = match unsafe { libc::fcntl(raw, libc::F_DUPFD_CLOEXEC, 3) } {
        -1 => return Err(io::Error::last_os_error()),
        // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
        new => unsafe { OwnedFd::from_raw_fd(new) },
    };
    Ok(Descriptor::new(new)?)
}

/// Sets a variable of this process's environment by an assignment, `NAME=value`, which the C
/// library has from then on.
///
/// # Safety
///
/// No other thread may use the environment meanwhile.
pub unsafe fn put_environment(assignment: CString) -> io::Result<()> {
    // SAFETY: the string is leaked, so that it stays; the caller sees to the rest.
    match unsafe { libc::putenv(assignment.into_raw()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The signal numbered `raw`, real-time signals included; None if there is no such signal.
pub fn signal_from_raw(raw: i32) -> Option<Signal> {
    if !(1..=last_signal()).contains(&raw) {
        return None;
    }
    // SAFETY: `raw` is a signal number of this system, and is only ever sent, by the
    // user's wish: no handler is installed for it here.
    Some(unsafe { Signal::from_raw_unchecked(raw) })
}

/// Has this process see how its children end, though whoever started it ignores that (SIGCHLD), in
/// which case the system keeps it to itself. The command is born with the signal as it was.
pub fn see_children_end(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    if !is_ignored(libc::SIGCHLD) {
        return;
    }
    // SAFETY: an action that names no code of this process's.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    let ignore_again = || {
        // SAFETY: as above; and it may be called between fork and exec.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        Ok(())
    };
    // SAFETY: what it calls may be called between fork and exec.
    unsafe { command.pre_exec(ignore_again) };
}

/// Whether this process ignores the signal numbered `raw`.
pub fn is_ignored(raw: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: changes nothing, and writes the whole of `action` if it succeeds.
    if unsafe { libc::sigaction(raw, std::ptr::null(), action.as_mut_ptr()) } != 0 {
        return false;
    }
    // SAFETY: sigaction has succeeded, and so has written it.
    unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn last_signal() -> i32 {
    libc::SIGRTMAX()
}

/// No process is, where none can be told to end after a while.
#[cfg(not(target_os = "linux"))]
pub(crate) fn is_marked(_pid: Pid) -> bool {
    false
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn last_signal() -> i32 {
    libc::SIGUSR2
}

#[cfg(not(target_vendor = "apple"))]
mod birth {
    use super::*;
    use rustix::pipe::PipeFlags;

    pub(super) fn pipe() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
    }

    pub(super) fn socketpair(kind: SocketType) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
        rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)
    }
}

#[cfg(target_vendor = "apple")]
mod birth {
    use super::*;
    use rustix::io::{fcntl_setfd, FdFlags};

    fn close_on_exec(ends: (OwnedFd, OwnedFd)) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
        fcntl_setfd(&ends.0, FdFlags::CLOEXEC)?;
        fcntl_setfd(&ends.1, FdFlags::CLOEXEC)?;
        Ok(ends)
    }

    pub(super) fn pipe() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
        close_on_exec(rustix::pipe::pipe()?)
    }

    pub(super) fn socketpair(kind: SocketType) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
        let none = SocketFlags::empty();
        close_on_exec(rustix::net::socketpair(AddressFamily::UNIX, kind, none, None)?)
    }
}

/// A pipe: (read end, write end).
pub(crate) fn pipe() -> rustix::io::Result<(Descriptor, Descriptor)> {
    both(birth::pipe()?)
}

fn both((one, other): (OwnedFd, OwnedFd)) -> rustix::io::Result<(Descriptor, Descriptor)> {
    Ok((Descriptor::new(one)?, Descriptor::new(other)?))
}

/// The writing end of a pipe that nobody reads yet: whoever is to do so opens it anew.
pub fn pipe_without_reader() -> io::Result<Descriptor> {
    Ok(pipe()?.1)
}

/// A connected pair of sockets that keep messages whole and in order, for many writers.
///
/// SEQPACKET, because its reader sees an end of file when the last writer is gone. Apple
/// has only datagrams, whose reader gets ECONNRESET then.
pub(crate) fn socket_pair() -> rustix::io::Result<(Descriptor, Descriptor)> {
    #[cfg(target_vendor = "apple")]
    let kind = SocketType::DGRAM;
    #[cfg(not(target_vendor = "apple"))]
    let kind = SocketType::SEQPACKET;
    both(birth::socketpair(kind)?)
}

/// Whether to use what only Linux has (epoll, pidfd, memfd).
#[cfg(all(target_os = "linux", not(jobserver_portable)))]
pub(crate) fn linux() -> bool {
    use std::sync::OnceLock;
    static LINUX: OnceLock<bool> = OnceLock::new();
    *LINUX.get_or_init(|| std::env::var_os("JOBSERVER_PORTABLE").is_none_or(|v| v != "1"))
}

#[cfg(all(target_os = "linux", jobserver_portable))]
pub(crate) const fn linux() -> bool {
    false
}

/// Gives a file another name, which nothing must have yet. (Where the system cannot see to that, an
/// empty folder of this name is replaced.)
pub(crate) fn rename_new(old: &std::path::Path, new: &std::path::Path) -> rustix::io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{renameat_with, RenameFlags, CWD};
        match renameat_with(CWD, old, CWD, new, RenameFlags::NOREPLACE) {
            Err(rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL) => {}
            renamed => return renamed,
        }
    }
    rustix::fs::rename(old, new)
}

/// Makes a named pipe that only this user may open.
pub(crate) fn make_fifo(path: &std::path::Path) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: reads a string that ends with NUL and lives through the call.
    match unsafe { libc::mkfifo(path.as_ptr(), 0o600) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has the kernel kill this process once the last writer of a pipe is gone, whose read end has
/// this path; at once if it is gone already. It does so for as long as the descriptor that is returned stays open.
#[cfg(target_os = "linux")]
pub(crate) fn kill_at_hang_up(read_end: &std::path::Path) -> io::Result<Descriptor> {
    use rustix::fd::AsRawFd;
    use rustix::fs::{open, Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let own = Descriptor::new(open(read_end, flags, Mode::empty())?)?;
    let me = crate::sys::getpid().as_raw_nonzero().get();
    let status = libc::O_ASYNC | libc::O_NONBLOCK;
    let requests = [(libc::F_SETOWN, me), (F_SETSIG, libc::SIGKILL), (libc::F_SETFL, status)];
    for (request, argument) in requests {
        // SAFETY: these requests take a number and touch no memory of ours.
        if unsafe { libc::fcntl(own.as_raw_fd(), request, argument) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    if own.is_readable() {
        let _ = rustix::process::kill_process(crate::sys::getpid(), Signal::KILL);
    }
    Ok(own)
}

/// Linux's number for it, which libc leaves out for some targets.
#[cfg(target_os = "linux")]
const F_SETSIG: libc::c_int = 10;

/// The signal that says that a job has run for longer than it may: one that nobody uses.
/// (SIGPROF, say, comes from profilers too, which arm their timers anew after a fork.)
pub fn time_limit_signal() -> libc::c_int {
    last_signal()
}

/// The signal by which a program is ended that such a job has become by exec.
pub fn alarm_signal() -> libc::c_int {
    libc::SIGALRM
}

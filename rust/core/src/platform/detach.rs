//! A process that outlives this one. It is not this process's child, and it has its own session and
//! name.

use super::fork::{exit_at_once, fork, Forked};
use super::system::set_thread_name;
use super::SignalsHeld;
use rustix::fd::RawFd;
use rustix::process::WaitOptions;
use std::ffi::CStr;
use std::io;

/// Runs `task` in a process with this name, which is not this process's child. It is in a session
/// of its own, so neither a signal to this process's group nor one to its terminal's reaches it. It
/// has only the descriptors in `keep`: with others, it would keep pipes open whose readers wait for
/// an end of file.
///
/// The task must not need anything that another thread of this process may hold at this moment.
/// (The C library makes its own locks free in a fork.)
pub(crate) fn detach(name: &CStr, keep: &[RawFd], task: impl FnOnce()) -> io::Result<()> {
    let held = SignalsHeld::begin();
    // SAFETY: the child runs only `detached`, which follows the rule above.
    match unsafe { fork() }? {
        Forked::Child => detached(name, keep, task),
        Forked::Parent(between) => {
            drop(held);
            // It ends at once. If other code of this program reaps it first, that does no harm.
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
            set_thread_name(name)?;
            close_all_but(keep)?;
            task();
            io::Result::Ok(())
        };
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    }
    exit_at_once(0) // no code of the program that it was forked from must run
}

fn close_all_but(keep: &[RawFd]) -> io::Result<()> {
    rustix::process::chdir("/")?;
    let listed = std::fs::read_dir("/proc/self/fd").or_else(|_| std::fs::read_dir("/dev/fd"))?;
    let open: Vec<RawFd> =
        listed.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    for number in open.into_iter().filter(|number| !keep.contains(number)) {
        // SAFETY: no code of the program that owned the descriptor runs in this process.
        unsafe { libc::close(number) };
    }
    Ok(())
}

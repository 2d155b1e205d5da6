//! Signals: their numbers, and how this thread blocks, unblocks or ignores them.

use rustix::process::Signal;
use std::io;
use std::mem::MaybeUninit;

/// Blocks signals in this thread until it is dropped, on both sides of a fork.
#[derive(Debug)]
pub struct SignalsHeld {
    before: libc::sigset_t,
}

impl SignalsHeld {
    /// Blocks all signals that can be blocked.
    pub fn begin() -> SignalsHeld {
        let mut all = MaybeUninit::uninit();
        let mut before = MaybeUninit::uninit();
        // SAFETY: sigfillset initialises the set that it is given.
        unsafe { libc::sigfillset(all.as_mut_ptr()) };
        // SAFETY: reads `all`, which is initialised, and writes the whole of `before`.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
        // SAFETY: pthread_sigmask can fail only for a wrong first argument, so it wrote it.
        SignalsHeld { before: unsafe { before.assume_init() } }
    }

    /// Returns whether this signal is pending, and is blocked by this value alone.
    pub fn holds(&self, signal: Signal) -> bool {
        let mut pending = MaybeUninit::uninit();
        // SAFETY: sigpending writes the whole of the set, or fails, and then the set is not read.
        if unsafe { libc::sigpending(pending.as_mut_ptr()) } != 0 {
            return false;
        }
        // SAFETY: sigpending has succeeded, and so has written it.
        let pending = unsafe { pending.assume_init() };
        // SAFETY: reads the set, which is initialised.
        let is_in = |set: &libc::sigset_t| unsafe { libc::sigismember(set, signal.as_raw()) } == 1;
        is_in(&pending) && !is_in(&self.before)
    }

    /// Blocks this signal besides those that are blocked already.
    pub fn this(signal: Signal) -> SignalsHeld {
        let mut before = MaybeUninit::uninit();
        // SAFETY: without a set to read, pthread_sigmask only writes the whole of `before`.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), before.as_mut_ptr()) };
        change_mask(libc::SIG_BLOCK, signal.as_raw());
        // SAFETY: pthread_sigmask can fail only for a wrong first argument, so it wrote it.
        SignalsHeld { before: unsafe { before.assume_init() } }
    }
}

impl Drop for SignalsHeld {
    fn drop(&mut self) {
        // SAFETY: reads `before`, which the kernel wrote; a null third argument is allowed.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut()) };
    }
}

/// Unblocks this signal in this thread.
pub fn unblock(signal: Signal) {
    change_mask(libc::SIG_UNBLOCK, signal.as_raw());
}

/// Makes this process ignore a signal until it is dropped, even one that is blocked and pending
/// already. The drop restores the former action.
#[derive(Debug)]
pub struct SignalIgnored {
    signal: Signal,
    before: libc::sigaction,
}

impl SignalIgnored {
    /// Ignores this signal from now on.
    pub fn begin(signal: Signal) -> io::Result<SignalIgnored> {
        let mut before = MaybeUninit::uninit();
        // SAFETY: `before` is written by this call.
        unsafe { ignore(signal, before.as_mut_ptr()) }?;
        // SAFETY: that has succeeded, and so has written it.
        Ok(SignalIgnored { signal, before: unsafe { before.assume_init() } })
    }
}

impl Drop for SignalIgnored {
    fn drop(&mut self) {
        // A second time: a blocked signal stays pending although it is ignored, and this call
        // discards it.
        // SAFETY: a null pointer asks for no old action.
        let _ = unsafe { ignore(self.signal, std::ptr::null_mut()) };
        // SAFETY: reads `before`, which the kernel wrote; the action that it names was in force.
        unsafe { libc::sigaction(self.signal.as_raw(), &self.before, std::ptr::null_mut()) };
    }
}

/// # Safety
///
/// `before` must be valid to be written to, or null.
unsafe fn ignore(signal: Signal, before: *mut libc::sigaction) -> io::Result<()> {
    // SAFETY: all zeroes is a valid sigaction, of which the field that counts is set next.
    let mut ignore: libc::sigaction = unsafe { std::mem::zeroed() };
    ignore.sa_sigaction = libc::SIG_IGN;
    // SAFETY: reads `ignore`, and writes the whole of `before` if it succeeds and may do so.
    match unsafe { libc::sigaction(signal.as_raw(), &ignore, before) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Changes the mask of this thread, which threads that it starts inherit.
pub(super) fn change_mask(how: libc::c_int, signal: libc::c_int) {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set that it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: the set is initialised.
    unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
    // SAFETY: reads the set.
    unsafe { libc::pthread_sigmask(how, set.as_ptr(), std::ptr::null_mut()) };
}

/// Returns the signal numbered `raw`, real-time signals included; None if there is no such signal.
pub fn signal_from_raw(raw: i32) -> Option<Signal> {
    if !(1..=last_signal()).contains(&raw) {
        return None;
    }
    // SAFETY: `raw` is a signal number of this system. It is only sent, at the user's wish: no
    // handler is installed for it here.
    Some(unsafe { Signal::from_raw_unchecked(raw) })
}

/// Returns whether this process ignores the signal numbered `raw`.
pub fn is_ignored(raw: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: changes nothing, and writes the whole of `action` if it succeeds.
    if unsafe { libc::sigaction(raw, std::ptr::null(), action.as_mut_ptr()) } != 0 {
        return false;
    }
    // SAFETY: sigaction has succeeded, and so has written it.
    unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// Makes this process able to see how its children end, even if it was started with SIGCHLD
/// ignored, when the system discards that. The command starts with the signal as it was.
pub fn see_children_end(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    if !is_ignored(libc::SIGCHLD) {
        return;
    }
    // SAFETY: the action is the default one, and calls no code of this process.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    let ignore_again = || {
        // SAFETY: as above; and it may be called between fork and exec.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        Ok(())
    };
    // SAFETY: the closure calls only functions that may be called between fork and exec.
    unsafe { command.pre_exec(ignore_again) };
}

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn last_signal() -> i32 {
    libc::SIGRTMAX()
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn last_signal() -> i32 {
    libc::SIGUSR2
}

/// Returns the signal of a job's time limit: one that no other code uses. (SIGPROF, for example, is
/// also used by profilers, which start their timers again after a fork.)
pub fn time_limit_signal() -> libc::c_int {
    last_signal()
}

/// Returns the signal that ends a job over its limit after it has become another program by exec.
pub fn alarm_signal() -> libc::c_int {
    libc::SIGALRM
}

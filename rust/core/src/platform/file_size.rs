//! Files larger than the limit of this process (RLIMIT_FSIZE, `ulimit -f`): the call that grows the
//! file fails, and the program goes on.
//!
//! The kernel reports the limit by EFBIG and by SIGXFSZ, which kills a process that does not ignore
//! it. (CPython ignores it; other programs do not.) This module blocks the signal in this thread,
//! and takes it before it is unblocked. So no handler of the program runs, and no other thread is
//! affected; to ignore the signal meanwhile would affect all threads.

use std::mem::MaybeUninit;

/// Runs `work`, which may make a file larger than the limit.
pub fn within_limit<T>(work: impl FnOnce() -> T) -> T {
    let _held = SizeSignalHeld::begin();
    work()
}

/// Blocks this thread's SIGXFSZ. The drop discards a pending one and unblocks it.
struct SizeSignalHeld {
    signal: libc::sigset_t,
    before: libc::sigset_t,
}

impl SizeSignalHeld {
    fn begin() -> SizeSignalHeld {
        let mut signal = MaybeUninit::uninit();
        let mut before = MaybeUninit::uninit();
        // SAFETY: sigemptyset initialises the set that it is given.
        unsafe { libc::sigemptyset(signal.as_mut_ptr()) };
        // SAFETY: the set is initialised, and the signal is one of this system's.
        unsafe { libc::sigaddset(signal.as_mut_ptr(), libc::SIGXFSZ) };
        // SAFETY: reads `signal`, which is initialised, and writes the whole of `before`.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, signal.as_ptr(), before.as_mut_ptr()) };
        // SAFETY: initialised by sigemptyset.
        let signal = unsafe { signal.assume_init() };
        // SAFETY: pthread_sigmask can fail only for a wrong first argument, so it wrote it.
        SizeSignalHeld { signal, before: unsafe { before.assume_init() } }
    }

    /// Returns whether the signal is in a set.
    fn is_in(set: &libc::sigset_t) -> bool {
        // SAFETY: reads a set that is initialised.
        unsafe { libc::sigismember(set, libc::SIGXFSZ) == 1 }
    }

    fn has_come(&self) -> bool {
        let mut pending = self.before;
        // SAFETY: writes to the set that it is given.
        unsafe { libc::sigpending(&mut pending) == 0 && SizeSignalHeld::is_in(&pending) }
    }
}

impl Drop for SizeSignalHeld {
    fn drop(&mut self) {
        // If the program itself has blocked the signal, the signal stays pending for the program.
        if !SizeSignalHeld::is_in(&self.before) && self.has_come() {
            let mut number = 0;
            // SAFETY: reads the set and writes the number; it is pending, so this does not wait.
            unsafe { libc::sigwait(&self.signal, &mut number) };
        }
        // SAFETY: reads `before`, which the kernel wrote; a null third argument is allowed.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut()) };
    }
}

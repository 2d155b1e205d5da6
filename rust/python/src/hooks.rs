//! What `os` does to the process, done in the same way: a fork, with CPython's own hooks
//! around it, and a change of the environment.
#![allow(unsafe_code)]

use jobserver_core::platform::{self, Forked};
use pyo3::prelude::*;
use std::ffi::CString;
use std::io;

/// Forks. In the child, the interpreter is consistent again and this thread its only one.
pub(crate) fn fork(py: Python<'_>) -> io::Result<Forked> {
    fork_unless(py, || false)
}

/// The same, unless `not_now` says so at the last moment: then the error is that of a call which a
/// signal has interrupted.
pub(crate) fn fork_unless(_py: Python<'_>, not_now: impl Fn() -> bool) -> io::Result<Forked> {
    // SAFETY: the GIL is held, as `_py` shows; one of the After hooks follows below.
    unsafe { pyo3::ffi::PyOS_BeforeFork() };
    let forked = match not_now() {
        true => Err(io::ErrorKind::Interrupted.into()),
        // SAFETY: CPython's hooks stand on both sides, and nothing of ours runs in the child
        // before PyOS_AfterFork_Child has made the interpreter's state consistent.
        false => unsafe { platform::fork() },
    };
    match forked {
        // SAFETY: called once, in the child, by the thread that called PyOS_BeforeFork.
        Ok(Forked::Child) => unsafe { pyo3::ffi::PyOS_AfterFork_Child() },
        // SAFETY: called once, in the parent (also of a failed fork), likewise.
        _ => unsafe { pyo3::ffi::PyOS_AfterFork_Parent() },
    }
    forked
}

/// Runs CPython's hooks as in the child of a fork, without one: so that the interpreter knows the
/// way by heart, and the children that follow do not each find it cold. For a process that could
/// as well be a forked child: it has one thread (the states of others' would be freed), and nobody
/// has registered hooks that would mind.
pub(crate) fn rehearse_fork(_py: Python<'_>) {
    // SAFETY: the GIL is held, as `_py` shows; the After hook follows.
    unsafe { pyo3::ffi::PyOS_BeforeFork() };
    // SAFETY: called once, by the thread that called PyOS_BeforeFork, which is the only one. What
    // this makes anew (locks, thread states) is what a child would have been given.
    unsafe { pyo3::ffi::PyOS_AfterFork_Child() };
}

/// Sets a variable of the C library's environment by an assignment (`NAME=value`), as
/// `os.putenv` does.
pub(crate) fn put_environment(_py: Python<'_>, assignment: CString) -> io::Result<()> {
    // SAFETY: the GIL is held, and a job that is only being set up has no thread yet that
    // would do without it.
    unsafe { platform::put_environment(assignment) }
}

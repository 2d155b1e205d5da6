//! Two operations as the module `os` does them: a fork, with CPython's hooks around it, and a
//! change of the environment.
#![allow(unsafe_code)]

use jobserver_core::platform::{self, Forked};
use pyo3::prelude::*;
use std::ffi::CString;
use std::io;

/// Forks. In the child, the interpreter is consistent again, and this thread is its only one.
pub(crate) fn fork(py: Python<'_>) -> io::Result<Forked> {
    fork_unless(py, || false)
}

/// The same, but does not fork if `not_now` returns true just before the fork. The error is then
/// the one of an interrupted call.
pub(crate) fn fork_unless(_py: Python<'_>, not_now: impl Fn() -> bool) -> io::Result<Forked> {
    // SAFETY: the GIL is held, as `_py` shows; one of the After hooks follows below.
    unsafe { pyo3::ffi::PyOS_BeforeFork() };
    let forked = match not_now() {
        true => Err(io::ErrorKind::Interrupted.into()),
        // SAFETY: CPython's hooks run before and after, and no code of this crate runs in the child
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

/// Runs CPython's hooks as in the child of a fork, but without a fork. CPython then has this code
/// in its caches, and each child runs it faster. Only for a process that could as well be a forked
/// child: it has one thread (the states of other threads would be freed), and no other code has
/// registered hooks that must not run here.
pub(crate) fn rehearse_fork(_py: Python<'_>) {
    // SAFETY: the GIL is held, as `_py` shows; the After hook follows.
    unsafe { pyo3::ffi::PyOS_BeforeFork() };
    // SAFETY: called once, by the thread that called PyOS_BeforeFork, which is the only one. This
    // makes new locks and thread states, as a child would have them.
    unsafe { pyo3::ffi::PyOS_AfterFork_Child() };
}

/// Sets a variable of the C library's environment by an assignment (`NAME=value`), as
/// `os.putenv` does.
pub(crate) fn put_environment(_py: Python<'_>, assignment: CString) -> io::Result<()> {
    // SAFETY: the GIL is held, and a job that is being set up has no thread yet that runs without
    // the GIL.
    unsafe { platform::put_environment(assignment) }
}

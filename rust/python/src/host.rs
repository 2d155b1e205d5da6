//! The core's host operations, for CPython: signal handlers, the GIL, forks.

use crate::errors::to_python;
use crate::{hooks, upcalls};
use jobserver_core::host::Host;
use jobserver_core::owner::ForkHost;
use jobserver_core::platform::Forked;
use jobserver_core::process::{getpid, Pid};
use jobserver_core::worker::WorkerHost;
use jobserver_core::Error;
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;
use std::cell::Cell;

/// An error of a call: the core's, or one that Python code has raised.
pub(crate) struct Raised(PyErr);

impl From<Error> for Raised {
    fn from(error: Error) -> Raised {
        Raised(to_python(error))
    }
}

impl From<PyErr> for Raised {
    fn from(error: PyErr) -> Raised {
        Raised(error)
    }
}

impl From<Raised> for PyErr {
    fn from(raised: Raised) -> PyErr {
        raised.0
    }
}

/// The interpreter, whose GIL this thread holds.
pub(crate) struct Interpreter<'py>(pub(crate) Python<'py>);

impl Host for Interpreter<'_> {
    type Error = Raised;

    fn run_signal_handlers(&self) -> Result<(), Raised> {
        Ok(self.0.check_signals()?)
    }

    fn handles_signals(&self) -> bool {
        thread_local! {
            /// What is known of this thread, in the process of this pid. (In a forked child, the
            /// thread that forked handles signals.)
            static KNOWN: Cell<Option<(Pid, bool)>> = const { Cell::new(None) };
        }
        let pid = getpid();
        match KNOWN.get() {
            Some((known, handles)) if known == pid => handles,
            _ => {
                let handles = upcalls::handles_signals(self.0);
                KNOWN.set(Some((pid, handles)));
                handles
            }
        }
    }

    fn unlocked<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.0.detach(work)
    }
}

impl ForkHost for Interpreter<'_> {
    fn fork(&self, not_now: &dyn Fn() -> bool) -> std::io::Result<Forked> {
        hooks::fork_unless(self.0, not_now)
    }
}

impl WorkerHost for Interpreter<'_> {
    fn forget_interrupt(&self) -> Result<(), Raised> {
        match self.0.check_signals() {
            Err(e) if !e.is_instance_of::<PyKeyboardInterrupt>(self.0) => Err(e.into()),
            _ => Ok(()),
        }
    }

    fn memory_is_short(&self) -> Result<bool, Raised> {
        Ok(upcalls::memory_is_short(self.0)?)
    }
}

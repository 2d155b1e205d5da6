//! The host operations of the core's owner: it delivers outcomes to Futures.

use crate::host::{Interpreter, Raised};
use crate::outcome::outcome_to_python;
use crate::promise::{append, Promise};
use jobserver_core::host::Host;
use jobserver_core::owner::{ForkHost, OwnerHost};
use jobserver_core::platform::Forked;
use jobserver_core::Outcome;
use pyo3::prelude::*;

/// The interpreter, for the calls of an owner. It appends finished Futures that have callbacks, or
/// a memory file to read, to the deque `finished`.
pub(crate) struct OwnersInterpreter<'a, 'py> {
    pub(crate) py: Python<'py>,
    pub(crate) finished: &'a Py<PyAny>,
}

impl Host for OwnersInterpreter<'_, '_> {
    type Error = Raised;

    fn run_signal_handlers(&self) -> Result<(), Raised> {
        Interpreter(self.py).run_signal_handlers()
    }

    fn handles_signals(&self) -> bool {
        Interpreter(self.py).handles_signals()
    }

    fn unlocked<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.py.detach(work)
    }
}

impl ForkHost for OwnersInterpreter<'_, '_> {
    fn fork(&self, not_now: &dyn Fn() -> bool) -> std::io::Result<Forked> {
        Interpreter(self.py).fork(not_now)
    }
}

impl OwnerHost<Py<Promise>> for OwnersInterpreter<'_, '_> {
    fn deliver(&self, job: Py<Promise>, outcome: Outcome) -> Result<(), Raised> {
        let future = job.into_bound(self.py);
        let outcome = outcome_to_python(&future, outcome)
            .unwrap_or_else(|error| error.into_value(self.py).into_any());
        if Promise::deliver(&future, outcome)? {
            append(self.finished.bind(self.py), &future)?;
        }
        Ok(())
    }

    fn is_due(&self) -> Result<bool, Raised> {
        Ok(self.finished.bind(self.py).len()? > 0)
    }
}

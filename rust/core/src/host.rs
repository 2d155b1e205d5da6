//! The host of this crate: the program, or the interpreter, whose threads call it.

use crate::error::Error;

/// The operations that a call which may wait needs from its host.
pub trait Host {
    /// The error of calls that use this host. The reason is this crate's or the host's.
    type Error: From<Error>;

    /// Runs the handlers of signals that have come. The call that called this returns its error.
    fn run_signal_handlers(&self) -> Result<(), Self::Error>;

    /// Whether this thread may run signal handlers. Other threads run none, and call
    /// [`Host::run_signal_handlers`] in no wait for jobs.
    fn handles_signals(&self) -> bool {
        true
    }

    /// Runs `work`, which may take long, while other threads of the host can run.
    fn unlocked<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T;
}

/// A plain Rust program: a host without signal handlers and without a lock.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plain;

impl Host for Plain {
    type Error = Error;

    fn run_signal_handlers(&self) -> Result<(), Error> {
        Ok(())
    }

    fn handles_signals(&self) -> bool {
        false
    }

    fn unlocked<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        work()
    }
}

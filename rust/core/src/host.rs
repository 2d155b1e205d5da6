//! What only the host of this crate can do: the program, or the interpreter, whose threads call it.

use crate::error::Error;

/// The host of a call that may wait.
pub trait Host {
    /// What the calls return that fail, for a reason of this crate's or the host's.
    type Error: From<Error>;

    /// Runs the handlers of signals that have come. An error leaves the call that has asked for this.
    fn run_signal_handlers(&self) -> Result<(), Self::Error>;

    /// Does this, which may take long, while other threads of the host can run.
    fn unlocked<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T;
}

/// A host without signal handlers of its own, and without a lock: a plain Rust program.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plain;

impl Host for Plain {
    type Error = Error;

    fn run_signal_handlers(&self) -> Result<(), Error> {
        Ok(())
    }

    fn unlocked<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        work()
    }
}

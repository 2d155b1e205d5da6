//! The host of this crate: the program, or the interpreter, whose threads call it.

use crate::error::Error;
use crate::platform::getpid;
use rustix::process::Pid;

/// The operations that a call which may wait needs from its host.
pub trait Host {
    /// The error of calls that use this host. The reason is this crate's or the host's.
    type Error: From<Error>;

    /// Runs the handlers of signals that have come. The call that called this returns its error.
    fn run_signal_handlers(&self) -> Result<(), Self::Error>;

    /// Does the same in this process. Fails in a process that a handler has forked: it must not go
    /// on with its parent's call, and with what the two share.
    fn run_signal_handlers_in(&self, process: Pid) -> Result<(), Self::Error> {
        self.run_signal_handlers()?;
        match getpid() == process {
            true => Ok(()),
            false => Err(Error::forked_within_call(process).into()),
        }
    }

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

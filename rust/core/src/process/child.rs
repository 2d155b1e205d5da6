//! One process that we started, or had started for us: watching, reaping, signalling.
//!
//! On Linux a child is held by a pidfd, which becomes readable at its death and can never
//! mean another process. Elsewhere, or when no descriptor could be had for it, there is
//! only its pid, and whoever holds the child looks from time to time ([`Child::watch`]
//! is None then); that is sound for our own children, whose pids stay theirs until reaped.

use super::ExitStatus;
use crate::error::{Error, Result};
use crate::platform::identity::ProcessId;
use crate::platform::{self, backend, Descriptor};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use std::sync::Arc;

/// A process whose end we want to know.
#[derive(Debug)]
pub struct Child {
    pub(super) pid: Pid,
    pub(super) watch: Option<Arc<Descriptor>>,
    pub(super) ours: bool,
}

impl Child {
    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// It, told from others of its pid.
    pub(crate) fn id(&self) -> ProcessId {
        ProcessId::of_watched(self.pid, self.watch.as_deref())
    }

    /// Whether it is ours to reap.
    pub(crate) fn is_ours(&self) -> bool {
        self.ours
    }

    /// What polls as readable once the process has ended, where the system has that.
    pub(crate) fn watch(&self) -> Option<&Arc<Descriptor>> {
        self.watch.as_ref()
    }

    /// The same, unless this program has closed it: then there is only the pid.
    pub(crate) fn intact_watch(&self) -> Option<&Arc<Descriptor>> {
        self.watch.as_ref().filter(|watch| watch.is_intact())
    }

    /// Whether this program has closed what it was watched by.
    pub(crate) fn is_lost(&self) -> bool {
        self.watch.is_some() && self.intact_watch().is_none()
    }

    /// Forgets what it was watched by if that is closed.
    pub(crate) fn look_to_watch(&mut self) {
        self.watch = self.intact_watch().cloned();
    }

    /// Whether it has ended, as far as a look can tell.
    pub fn has_ended(&self) -> bool {
        // Whether the descriptor is intact is asked only where it matters: if another file that has
        // its number is not readable, this says no, as it does of a process that is about to end.
        match &self.watch {
            Some(watch) if !watch.is_readable() => false,
            Some(watch) if watch.is_intact() => true,
            _ => {
                let looked = WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
                self.ours && !matches!(self.waitid(looked), Ok(None))
            }
        }
    }

    /// Reaps a direct child if it has ended; never waits.
    pub fn try_wait(&self) -> Result<Option<ExitStatus>> {
        // Only a zombie tells whether it was overdue, so it is looked at before it is reaped.
        let status = match self.waitid(WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT) {
            Ok(None) => return Ok(None),
            Ok(Some(status)) => ExitStatus::from_wait(&status),
            Err(Errno::CHILD) => return Ok(Some(ExitStatus::Unknown)),
            Err(e) => return Err(Error::system("cannot wait for a process")(e)),
        };
        let overdue = status == ExitStatus::Signal(libc::SIGKILL) && platform::is_marked(self.pid);
        // If other code is quicker and reaps it, we know its end all the same.
        let _ = self.waitid(WaitIdOptions::NOHANG);
        Ok(Some(if overdue { ExitStatus::Overdue(libc::SIGKILL) } else { status }))
    }

    /// Kills it, unless it is another's to reap and its pid may be another process's by now.
    pub(crate) fn end(&self) {
        if self.ours || self.intact_watch().is_some() {
            let _ = self.signal(Signal::KILL);
        }
    }

    /// Ends a direct child at once and reaps it: for a birth that could not be completed.
    pub(crate) fn destroy(self) {
        let _ = self.signal(Signal::KILL);
        let _ = rustix::io::retry_on_intr(|| self.waitid(WaitIdOptions::empty()));
    }

    fn waitid(
        &self,
        how: WaitIdOptions,
    ) -> rustix::io::Result<Option<rustix::process::WaitIdStatus>> {
        let options = how | WaitIdOptions::EXITED;
        let watch = self.intact_watch();
        let waited = watch.and_then(|watch| backend().wait_process(watch, options));
        waited.unwrap_or_else(|| rustix::process::waitid(WaitId::Pid(self.pid), options))
    }

    /// Sends a signal; a process that has ended already is no error.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let sent = signal_process(self.pid, self.intact_watch(), signal);
        match sent {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(e) => Err(Error::system("cannot signal a job")(e)),
        }
    }
}

/// Signals a process, by what watches it where that can be had.
pub(crate) fn signal_process(
    pid: Pid,
    watch: Option<&Arc<Descriptor>>,
    signal: Signal,
) -> rustix::io::Result<()> {
    let sent = watch.and_then(|watch| backend().signal_process(watch, signal));
    sent.unwrap_or_else(|| rustix::process::kill_process(pid, signal))
}

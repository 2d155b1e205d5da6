//! One process that this process started, or had started by the fork server: watching, reaping,
//! signalling.
//!
//! On Linux a child is held by a pidfd, which becomes readable at its death and can never mean
//! another process. Elsewhere, or when no descriptor is left for a pidfd, there is only its pid,
//! and [`Child::watch`] is None. Then the owner of the child looks from time to time. That is sound
//! for this process's own children, whose pids stay theirs until they are reaped.

use super::ExitStatus;
use crate::error::{Error, Result};
use crate::platform::identity::ProcessId;
use crate::platform::{self, backend, Descriptor};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use std::sync::Arc;

/// A process whose end its owner must notice.
#[derive(Debug)]
pub struct Child {
    pub(super) pid: Pid,
    pub(super) watch: Option<Arc<Descriptor>>,
    pub(super) ours: bool,
}

impl Child {
    /// Returns its process id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Returns its pid and mark.
    pub(crate) fn id(&self) -> ProcessId {
        ProcessId::of_watched(self.pid, self.watch.as_deref())
    }

    /// Returns whether this process must reap it.
    pub(crate) fn is_ours(&self) -> bool {
        self.ours
    }

    /// Returns the descriptor that polls as readable once the process has ended, where the system
    /// has that.
    pub(crate) fn watch(&self) -> Option<&Arc<Descriptor>> {
        self.watch.as_ref()
    }

    /// Does the same, but returns None if this program has closed the descriptor: then there is
    /// only the pid.
    pub(crate) fn intact_watch(&self) -> Option<&Arc<Descriptor>> {
        self.watch.as_ref().filter(|watch| watch.is_intact())
    }

    /// Returns whether this program has closed the descriptor that watched it.
    pub(crate) fn is_lost(&self) -> bool {
        self.watch.is_some() && self.intact_watch().is_none()
    }

    /// Forgets the descriptor that watched it if that is closed.
    pub(crate) fn look_to_watch(&mut self) {
        self.watch = self.intact_watch().cloned();
    }

    /// Returns whether it has ended, as far as a look can tell.
    pub fn has_ended(&self) -> bool {
        // Whether the descriptor is intact is checked only if it is readable. If another file has
        // its number and is not readable, this returns false, as for a process that is about to
        // end.
        match &self.watch {
            Some(watch) if !watch.is_readable() => false,
            Some(watch) if watch.is_intact() => true,
            _ => {
                let looked = WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
                self.ours && !matches!(self.waitid(looked), Ok(None))
            }
        }
    }

    /// Reaps a direct child if it has ended, and returns how it ended; never waits.
    pub fn try_wait(&self) -> Result<Option<ExitStatus>> {
        // Only a zombie shows whether it had passed its time limit, so this looks before it reaps.
        let status = match self.waitid(WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT) {
            Ok(None) => return Ok(None),
            Ok(Some(status)) => ExitStatus::from_wait(&status),
            Err(Errno::CHILD) => return Ok(Some(ExitStatus::Unknown)),
            Err(e) => return Err(Error::system("cannot wait for a process")(e)),
        };
        let overdue = status == ExitStatus::Signal(libc::SIGKILL) && platform::is_marked(self.pid);
        // If other code reaps it first, its end is known all the same.
        let _ = self.waitid(WaitIdOptions::NOHANG);
        Ok(Some(if overdue { ExitStatus::Overdue(libc::SIGKILL) } else { status }))
    }

    /// The same, for a caller that need not know how it ended. Returns whether it has.
    pub(crate) fn reap(&self) -> bool {
        !matches!(self.waitid(WaitIdOptions::NOHANG), Ok(None))
    }

    /// Kills it, unless another process reaps it and its pid may be another process's by now.
    pub(crate) fn end(&self) {
        if self.ours || self.intact_watch().is_some() {
            let _ = self.signal(Signal::KILL);
        }
    }

    /// Kills a direct child and reaps it: for a birth that could not be completed.
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

    /// Sends a signal. A process that has ended already is no error.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let sent = signal_process(self.pid, self.intact_watch(), signal);
        match sent {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(e) => Err(Error::system("cannot signal a job")(e)),
        }
    }
}

/// Signals a process: by its pidfd, or where there is none by its pid.
pub(crate) fn signal_process(
    pid: Pid,
    watch: Option<&Arc<Descriptor>>,
    signal: Signal,
) -> rustix::io::Result<()> {
    let sent = watch.and_then(|watch| backend().signal_process(watch, signal));
    sent.unwrap_or_else(|| rustix::process::kill_process(pid, signal))
}

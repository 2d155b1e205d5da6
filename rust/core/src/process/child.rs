//! One process that we started, or had started for us: watching, reaping, signalling.
//!
//! On Linux a child is held by a pidfd, which becomes readable at its death and can never
//! mean another process. Elsewhere, or when no descriptor could be had for it, there is
//! only its pid, and whoever holds the child looks from time to time ([`Child::watch`]
//! is None then); that is sound for our own children, whose pids stay theirs until reaped.

use crate::error::{Error, Result};
use crate::process::{reap_left, reap_left_but, ExitStatus};
use crate::sys::{self, Descriptor};
#[cfg(all(target_os = "linux", not(jobserver_portable)))]
use rustix::fd::AsFd;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use std::process::{Command, Stdio};
use std::sync::Arc;

type SetStream = fn(&mut Command, Stdio) -> &mut Command;

/// A process whose end we want to know.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    watch: Option<Arc<Descriptor>>,
    ours: bool,
}

impl Child {
    /// A direct child of this process that has not been reaped yet.
    pub fn adopt(pid: Pid) -> Child {
        reap_left_but(pid);
        Child { pid, watch: pidfd(pid), ours: true }
    }

    /// Starts a command as a direct child (through posix_spawn where std can, so that the
    /// cost does not grow with this process's memory).
    pub fn spawn(command: &mut Command) -> Result<Child> {
        let child = command.spawn().map_err(Error::system("cannot start a process"))?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        pid.map(Child::adopt).ok_or_else(|| Error::system("cannot start a process")(Errno::SRCH))
    }

    /// Starts an interpreter, or another program of ours, that has this as its standard input and
    /// is to find something on each of the other two: else what it opens first would be there, and
    /// be written to by whoever has a warning.
    pub fn spawn_on(stdin: impl Into<OwnedFd>, command: &mut Command) -> Result<Child> {
        command.stdin(Stdio::from(stdin.into()));
        for (stream, set) in [(1, Command::stdout as SetStream), (2, Command::stderr)] {
            if !sys::is_inherited(stream) {
                let null = sys::null_device().map_err(Error::system("cannot start a process"))?;
                // Not `Stdio::null`, which may itself be opened as one of the three.
                set(command, Stdio::from(OwnedFd::from(null)));
            }
        }
        let child = Child::spawn(command);
        command.stdin(Stdio::null()); // std keeps the other end open until it is replaced
        child
    }

    /// A process that somebody else reaps, with the pidfd that they gave us for it.
    pub(crate) fn of_others(pid: Pid, watch: Option<Descriptor>) -> Child {
        reap_left();
        Child { pid, watch: watch.map(Arc::new), ours: false }
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.pid
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
            Ok(Some(status)) => ExitStatus::of(&status),
            Err(Errno::CHILD) => return Ok(Some(ExitStatus::Unknown)),
            Err(e) => return Err(Error::system("cannot wait for a process")(e)),
        };
        let overdue = status == ExitStatus::Signal(libc::SIGKILL) && sys::is_marked(self.pid);
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
        // A pidfd cannot mean another child that got the pid after somebody else's wait.
        #[cfg(all(target_os = "linux", not(jobserver_portable)))]
        if let Some(pidfd) = self.intact_watch() {
            match rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), how | WaitIdOptions::EXITED)
            {
                Err(Errno::INVAL) => {} // Linux 5.3 has pidfds that cannot be waited for
                waited => return waited,
            }
        }
        rustix::process::waitid(WaitId::Pid(self.pid), how | WaitIdOptions::EXITED)
    }

    /// Sends a signal; a process that has ended already is no error.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let sent = match self.intact_watch() {
            #[cfg(all(target_os = "linux", not(jobserver_portable)))]
            Some(pidfd) => rustix::process::pidfd_send_signal(pidfd, signal),
            _ => rustix::process::kill_process(self.pid, signal),
        };
        match sent {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(e) => Err(Error::system("cannot signal a job")(e)),
        }
    }
}

/// A pidfd, unless the kernel has none, or no descriptor is left for it: the child is
/// then looked at from time to time, which is better than failing after its birth.
#[cfg(all(target_os = "linux", not(jobserver_portable)))]
fn pidfd(pid: Pid) -> Option<Arc<Descriptor>> {
    if !crate::sys::linux() {
        return None;
    }
    let flags = rustix::process::PidfdFlags::empty();
    rustix::process::pidfd_open(pid, flags).and_then(Descriptor::new).ok().map(Arc::new)
}

#[cfg(not(all(target_os = "linux", not(jobserver_portable))))]
fn pidfd(_pid: Pid) -> Option<Arc<Descriptor>> {
    None
}

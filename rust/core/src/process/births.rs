//! How a process becomes a [`Child`] of this process: by a fork, as a new program, or as a process
//! that another one forked. Each birth also reaps the left processes that have ended.

use super::left::{reap_left, reap_left_but};
use super::Child;
use crate::error::{Error, Result};
use crate::platform::{self, backend, Descriptor};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::Pid;
use std::process::{Command, Stdio};
use std::sync::Arc;

type SetStream = fn(&mut Command, Stdio) -> &mut Command;

impl Child {
    /// Wraps a direct child of this process that has not been reaped yet.
    pub fn adopt(pid: Pid) -> Child {
        reap_left_but(pid);
        // If no descriptor is left for a pidfd, the child is looked at from time to time. That is
        // better than a failure after its birth.
        let watch = backend().watch_process(pid).map(Arc::new);
        Child { pid, watch, ours: true }
    }

    /// Starts a command as a direct child. std uses posix_spawn where it can, so the cost does not
    /// grow with this process's memory.
    pub fn spawn(command: &mut Command) -> Result<Child> {
        let child = command.spawn().map_err(Error::system("cannot start a process"))?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        pid.map(Child::adopt).ok_or_else(|| Error::system("cannot start a process")(Errno::SRCH))
    }

    /// Starts an interpreter, or another program of ours, with `stdin` as its standard input. Where
    /// standard output or error is closed, it gets the null device: otherwise the first file that
    /// the program opens would have that number, and warnings would be written into it.
    pub fn spawn_on(stdin: impl Into<OwnedFd>, command: &mut Command) -> Result<Child> {
        command.stdin(Stdio::from(stdin.into()));
        for (stream, set) in [(1, Command::stdout as SetStream), (2, Command::stderr)] {
            if !platform::is_inherited(stream) {
                let null =
                    platform::null_device().map_err(Error::system("cannot start a process"))?;
                // Not `Stdio::null`: it may itself be opened as one of the three.
                set(command, Stdio::from(OwnedFd::from(null)));
            }
        }
        let child = Child::spawn(command);
        command.stdin(Stdio::null()); // std keeps the other end open until it is replaced
        child
    }

    /// Wraps a process that another process reaps, with its pidfd if that process sent one.
    pub(crate) fn of_others(pid: Pid, watch: Option<Descriptor>) -> Child {
        reap_left();
        Child { pid, watch: watch.map(Arc::new), ours: false }
    }
}

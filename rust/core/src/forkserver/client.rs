//! The client's end of a fork server: requests for workers, and the helper's end.

use super::IdleWorkers;
use crate::error::{Error, ErrorKind, Result};
use crate::platform::{no_sigpipe, Descriptor};
use crate::process::{leave_running, Child, ExitStatus, Lifeline};
use crate::wait::{Wait, Woken};
use crate::wire::{Channel, Frame, Head, Received};
use rustix::fd::AsFd;
use rustix::io::Errno;
use rustix::net::{sendmsg, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown};
use rustix::process::{Pid, Signal};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The client's end: requests forks of workers. In the process that started the helper it also
/// holds the helper's process.
#[derive(Debug)]
pub struct ForkServer {
    requests: Arc<Descriptor>,
    process: Option<Child>,
    /// Its workers that no owner has. None if owners do not share them.
    idle: Option<IdleWorkers>,
    /// How the helper ended; set when it is reaped.
    ended: OnceLock<ExitStatus>,
}

/// The largest number of descriptors in a request.
pub(super) const REQUEST: usize = 2;

/// The number of descriptors by which another process joins, where owners share idle workers.
pub(crate) const JOINED: usize = 4;

/// The buffer size for the helper's answers, which are short, in bytes.
const SHORT: usize = 64;

impl ForkServer {
    /// Starts a helper by running `command`, which gets the request socket as its standard
    /// input and must serve it with a [`Server`](super::Server).
    pub fn start(command: &mut Command) -> Result<ForkServer> {
        let (ours, theirs) = Channel::pair()?;
        Ok(ForkServer::started(ours, Child::spawn_on(theirs.into_socket()?, command)?, None))
    }

    /// A helper that was started with the other end of this channel, to serve it.
    pub fn started(requests: Channel, helper: Child, idle: Option<IdleWorkers>) -> ForkServer {
        let (requests, process) = (requests.into_shared(), Some(helper));
        ForkServer { requests, process, idle, ended: OnceLock::new() }
    }

    /// Joins a helper that another process of the tree has started, by its
    /// [`ForkServer::descriptors`]. None if some are missing.
    pub fn join(descriptors: impl IntoIterator<Item = Descriptor>) -> Option<ForkServer> {
        let mut all = descriptors.into_iter();
        let requests = all.next()?;
        let idle: Vec<_> = all.take(JOINED - 1).collect();
        let idle = <[Descriptor; JOINED - 1]>::try_from(idle).ok().map(IdleWorkers::join);
        let requests = Arc::new(requests);
        Some(ForkServer { requests, process: None, idle, ended: OnceLock::new() })
    }

    /// Its workers that no owner has, if owners share them.
    pub fn idle(&self) -> Option<&IdleWorkers> {
        self.idle.as_ref()
    }

    /// The request socket as a channel, to send the helper an introduction before the first
    /// request. The helper must know how to receive it.
    pub fn introduction(&self) -> Result<Channel> {
        let socket = self.requests.duplicate();
        let socket = socket.map_err(Error::system("cannot start a fork server"))?;
        Ok(Channel::from_socket(socket))
    }

    /// The descriptors by which other processes join: the writing end of the request socket and, if
    /// owners share idle workers, those of [`IdleWorkers::descriptors`].
    pub fn descriptors(&self) -> Vec<&Descriptor> {
        let idle = self.idle.iter().flat_map(IdleWorkers::descriptors);
        std::iter::once(&*self.requests).chain(idle).collect()
    }

    /// The helper's pid, in the process that started it.
    pub fn pid(&self) -> Option<Pid> {
        self.process.as_ref().map(Child::pid)
    }

    /// Requests a worker with this end of a channel, which hangs on this lifeline from its start.
    /// The answer comes on the other end. Waits while the helper is behind with many requests.
    /// Returns false if a signal came meanwhile: request again.
    pub fn request(&self, job_end: &Channel, lifeline: Option<&Lifeline>) -> Result<bool> {
        self.send_request(job_end, lifeline, no_sigpipe(), Errno::INTR)
    }

    /// The same, but never waits: returns false if it would have to.
    pub fn try_request(&self, job_end: &Channel, lifeline: Option<&Lifeline>) -> Result<bool> {
        self.send_request(job_end, lifeline, no_sigpipe() | SendFlags::DONTWAIT, Errno::AGAIN)
    }

    /// Returns false if the system returns the error `not_now`.
    fn send_request(
        &self,
        job_end: &Channel,
        lifeline: Option<&Lifeline>,
        flags: SendFlags,
        not_now: Errno,
    ) -> Result<bool> {
        let lifeline = lifeline.map(Lifeline::as_descriptor);
        let fds = [job_end.as_descriptor()].into_iter().chain(lifeline);
        let fds: Vec<_> = fds.map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(REQUEST))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        let requests = self.requests.intact().map_err(|_| fork_server_gone())?;
        match sendmsg(requests, &[IoSlice::new(b"f")], &mut ancillary, flags) {
            Ok(_) => Ok(true),
            Err(e) if e == not_now => Ok(false),
            Err(e) => {
                let error = Error::system("cannot ask the fork server")(e);
                Err(if error.is_hang_up() { fork_server_gone() } else { error })
            }
        }
    }

    /// Waits for the helper's answer on the owner's end of the channel of a request. None if a
    /// signal came: call this again.
    pub fn wait_answer(&self, channel: &Channel) -> Result<Option<Child>> {
        // The wait includes the request socket. If the helper is killed between the fork and the
        // answer, its child keeps the channel open and waits for this process.
        let descriptors = vec![Arc::clone(channel.socket()), Arc::clone(&self.requests)];
        let woken = Wait::new(descriptors, None).block(None)?;
        match channel.try_receive(&mut [0; SHORT])? {
            Received::Frame(frame) => answered(frame).map(Some),
            Received::NothingYet if woken == Woken::Interrupted => Ok(None),
            _ => Err(fork_server_gone()),
        }
    }

    /// Whether this program has closed the request socket; the helper may still run.
    pub fn is_lost(&self) -> bool {
        !self.requests.is_intact()
    }

    /// The descriptors one of which is readable if [`ForkServer::is_gone`].
    pub(crate) fn watched(&self) -> impl Iterator<Item = &Descriptor> {
        let process = self.process.as_ref().and_then(Child::watch);
        [&self.requests].into_iter().chain(process).map(|fd| &**fd)
    }

    /// Whether the helper has ended, as far as one check can tell. Then it serves no request, and
    /// reports no exits.
    pub fn is_gone(&self) -> bool {
        // The socket is readable when either side has closed it. A child that the helper has just
        // forked may still hold the other end.
        self.requests.is_readable() || self.process.as_ref().is_some_and(Child::has_ended)
    }

    /// Makes the helper end when its children have ended. May be called again. If this program has
    /// closed the request socket, kills the helper at once.
    pub fn stop(&self) {
        if let (Some(idle), Some(_)) = (&self.idle, &self.process) {
            idle.close();
        }
        let _ = match (self.requests.intact(), &self.process) {
            (Ok(requests), _) => {
                let told = rustix::net::shutdown(requests, Shutdown::Both);
                told.map_err(Error::system("cannot stop a fork server"))
            }
            (Err(_), Some(process)) => process.signal(Signal::KILL),
            (Err(_), None) => Ok(()),
        };
    }

    /// After [`ForkServer::stop`]: waits for the helper's end, and returns whether it has ended.
    /// Returns early when a signal comes.
    pub fn wait_stopped(&self) -> Result<bool> {
        let Some(process) = &self.process else { return Ok(true) };
        if self.reap(process)? {
            return Ok(true);
        }
        match process.intact_watch() {
            Some(exit) => Wait::on(exit).block(None)?,
            // Its end of the socket closes when it ends; its exit follows soon.
            None => Wait::new(vec![], Some(Duration::from_millis(1))).block(None)?,
        };
        self.reap(process)
    }

    /// How the helper ended, if this process started it and has reaped it.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.ended.get().copied()
    }

    fn reap(&self, process: &Child) -> Result<bool> {
        if self.ended.get().is_none() {
            if let Some(status) = process.try_wait()? {
                let _ = self.ended.set(status); // fails if another thread has set it
            }
        }
        Ok(self.ended.get().is_some())
    }
}

impl Drop for ForkServer {
    fn drop(&mut self) {
        match self.process.take() {
            Some(process) if self.ended.get().is_none() => leave_running(process, None),
            _ => {}
        }
    }
}

fn answered(frame: Frame) -> Result<Child> {
    match frame.head {
        Head::Started { pid } => Ok(Child::of_others(pid, frame.descriptors.into_iter().next())),
        Head::Refused { errno } => {
            Err(Error::system("the fork server cannot fork a job")(Errno::from_raw_os_error(errno)))
        }
        _ => Err(Error::new(ErrorKind::Protocol, "the fork server sent an unknown answer")),
    }
}

/// The error of a request to a helper that has ended.
pub fn fork_server_gone() -> Error {
    Error::new(ErrorKind::ForkServerGone, "the fork server has ended")
}

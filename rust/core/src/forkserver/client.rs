//! The client's end of a fork server: requests for workers, and the helper's end.

use crate::error::{Error, ErrorKind, Result};
use crate::platform::{no_sigpipe, Descriptor};
use crate::process::{leave, Child, ExitStatus, Lifeline};
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

/// The client's end: asks for jobs to be forked. The process that started the helper also
/// holds the helper itself.
#[derive(Debug)]
pub struct ForkServer {
    requests: Arc<Descriptor>,
    process: Option<Child>,
    /// How the helper has ended, once it is reaped.
    ended: OnceLock<ExitStatus>,
}

/// How many descriptors come with a request, at most.
pub(super) const REQUEST: usize = 2;

/// Room for the helper's answers, which are short.
const SHORT: usize = 64;

impl ForkServer {
    /// Starts a helper by running `command`, which gets the request socket as its standard
    /// input and must serve it with a [`Server`].
    pub fn start(command: &mut Command) -> Result<ForkServer> {
        let (ours, theirs) = Channel::pair()?;
        Ok(ForkServer::started(ours, Child::spawn_on(theirs.into_socket()?, command)?))
    }

    /// A helper that has been started with the other end of this channel to serve.
    pub fn started(requests: Channel, helper: Child) -> ForkServer {
        let (requests, process) = (requests.into_shared(), Some(helper));
        ForkServer { requests, process, ended: OnceLock::new() }
    }

    /// Joins a helper that another process of the tree has started.
    pub fn join(requests: Descriptor) -> ForkServer {
        ForkServer { requests: Arc::new(requests), process: None, ended: OnceLock::new() }
    }

    /// The request socket as a channel, to tell the helper something before the first request;
    /// it must know how to take that.
    pub fn introduction(&self) -> Result<Channel> {
        let socket = self.requests.duplicate();
        let socket = socket.map_err(Error::system("cannot start a fork server"))?;
        Ok(Channel::from_socket(socket))
    }

    /// The writing end of the request socket, for other processes to join by.
    pub fn as_descriptor(&self) -> &Descriptor {
        &self.requests
    }

    /// The helper's pid, in the process that started it.
    pub fn pid(&self) -> Option<Pid> {
        self.process.as_ref().map(Child::pid)
    }

    /// Asks for a process with this end of a channel, that hangs on this lifeline from its birth;
    /// the answer comes on the other end. Waits while the helper is behind with many requests;
    /// false if a signal has come meanwhile: ask again.
    pub fn request(&self, job_end: &Channel, lifeline: Option<&Lifeline>) -> Result<bool> {
        self.send_request(job_end, lifeline, no_sigpipe(), Errno::INTR)
    }

    /// The same without waiting: false if it would have to.
    pub fn try_request(&self, job_end: &Channel, lifeline: Option<&Lifeline>) -> Result<bool> {
        self.send_request(job_end, lifeline, no_sigpipe() | SendFlags::DONTWAIT, Errno::AGAIN)
    }

    /// False where the system says "not now" by this error.
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
        let requests = self.requests.intact().map_err(|_| gone())?;
        match sendmsg(requests, &[IoSlice::new(b"f")], &mut ancillary, flags) {
            Ok(_) => Ok(true),
            Err(e) if e == not_now => Ok(false),
            Err(e) => {
                let error = Error::system("cannot ask the fork server")(e);
                Err(if error.is_hang_up() { gone() } else { error })
            }
        }
    }

    /// Waits for the helper's answer, on the owner's end of the channel that it was sent the
    /// other end of. None if a signal has come: ask again.
    pub fn wait_answer(&self, channel: &Channel) -> Result<Option<Child>> {
        // The request socket too: were the helper killed between fork and answer, its child
        // would keep the channel open, and wait for us.
        let descriptors = vec![Arc::clone(channel.socket()), Arc::clone(&self.requests)];
        let woken = Wait::new(descriptors, None).block(None)?;
        match channel.try_receive(&mut [0; SHORT])? {
            Received::Frame(frame) => answered(frame).map(Some),
            Received::NothingYet if woken == Woken::Interrupted => Ok(None),
            _ => Err(gone()),
        }
    }

    /// Whether this program has closed the way to the helper, which may be there still.
    pub fn is_lost(&self) -> bool {
        !self.requests.is_intact()
    }

    /// Whether the helper has gone, as far as a look can tell: it serves nobody, and tells of no
    /// death.
    pub fn is_gone(&self) -> bool {
        // The socket is readable when it is closed, by whichever side. A child that the helper has
        // just forked may have the other end still.
        self.requests.is_readable() || self.process.as_ref().is_some_and(Child::has_ended)
    }

    /// Tells the helper to end as soon as its children have. Harmless when repeated. One that can
    /// be told nothing any more is ended at once.
    pub fn stop(&self) {
        let _ = match (self.requests.intact(), &self.process) {
            (Ok(requests), _) => {
                let told = rustix::net::shutdown(requests, Shutdown::Both);
                told.map_err(Error::system("cannot stop a fork server"))
            }
            (Err(_), Some(process)) => process.signal(Signal::KILL),
            (Err(_), None) => Ok(()),
        };
    }

    /// After [`ForkServer::stop`]: whether the helper has ended; waits, and returns early
    /// when a signal comes.
    pub fn wait_stopped(&self) -> Result<bool> {
        let Some(process) = &self.process else { return Ok(true) };
        if self.reap(process)? {
            return Ok(true);
        }
        match process.intact_watch() {
            Some(exit) => Wait::on(exit).block(None)?,
            // Its end of the socket closes as it ends; the exit itself follows at once.
            None => Wait::new(vec![], Some(Duration::from_millis(1))).block(None)?,
        };
        self.reap(process)
    }

    /// How the helper has ended, if this process has started it and that is known by now.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.ended.get().copied()
    }

    fn reap(&self, process: &Child) -> Result<bool> {
        if self.ended.get().is_none() {
            if let Some(status) = process.try_wait()? {
                let _ = self.ended.set(status); // or another thread has
            }
        }
        Ok(self.ended.get().is_some())
    }
}

impl Drop for ForkServer {
    fn drop(&mut self) {
        match self.process.take() {
            Some(process) if self.ended.get().is_none() => leave(process, None),
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
        _ => Err(Error::new(ErrorKind::Protocol, "the fork server gave a strange answer")),
    }
}

/// What a request to a helper that has gone away is answered with.
pub fn gone() -> Error {
    Error::new(ErrorKind::ForkServerGone, "the fork server has gone away")
}

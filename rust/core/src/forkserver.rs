//! The fork server: a small, single-threaded process that forks jobs for other processes.
//!
//! Forking an owner costs time that grows with its memory, and is unsafe while it has
//! threads. A helper that is neither large nor threaded forks in its stead. One helper
//! serves a whole tree: every process of it holds the writing end of one request socket,
//! an inherited pair and never a name that a stranger could reach, and sends the job's end
//! of a fresh channel. All else happens on that channel:
//!
//! ```text
//! owner  ── request: the job's end of a channel, a lifeline ──> helper ── fork ──> job
//! owner <── Started(pid, pidfd) or Refused(errno) ── helper
//! owner  ── Launch: what to run ─────────────────────────────────────> job
//! owner <── Result ────────────────────────────────────────────────── job
//! owner <── Exited(status) ───────── helper
//! ```
//!
//! An owner may ask for processes ahead of need ([`Ahead`]): they cost it a message then, and not
//! a fork. A job runs nothing before its owner knows its pid, and an owner that gives up in
//! between just closes its end: the job sees an end of file and ends.

use crate::channel::{close_on_exec, no_sigpipe, Channel, Frame, Kind, Received};
use crate::error::{Error, ErrorKind, Result};
use crate::process::{getpid, leave, Child, ExitStatus, Lifeline};
use crate::scan::{ReadySet, Wait, Woken, LOOK_AFTER};
use crate::sys::{self, Descriptor, Forked};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::{retry_on_intr, Errno};
use rustix::net::{
    recvmsg, sendmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown,
};
use rustix::process::{Pid, Signal};
use std::collections::{HashMap, VecDeque};
use std::io::{IoSlice, IoSliceMut};
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
const REQUEST: usize = 2;

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

/// Processes that an owner has asked a fork server for ahead of need. They hold nothing, hang on
/// the owner's lifeline, and end when their channels do.
#[derive(Debug, Default)]
pub struct Ahead {
    /// The owner's ends. The answers are read when the processes are needed.
    channels: VecDeque<Channel>,
    /// The owner, once it has asked for some.
    owner: Option<Pid>,
}

impl Ahead {
    /// How many there are, or will be in a moment.
    pub fn number(&self) -> usize {
        self.channels.len()
    }

    /// The next of them: its answer is there, or will be in a moment. None if there is none.
    pub fn take(&mut self) -> Option<Channel> {
        self.channels.pop_front()
    }

    /// Sees to it that there are `number` of them, or will be in a moment; or fewer, if the helper
    /// is behind with many requests: never waits.
    pub fn top_up(
        &mut self,
        number: usize,
        server: &ForkServer,
        lifeline: Option<&Lifeline>,
    ) -> Result<()> {
        self.owner = Some(getpid());
        while self.channels.len() < number {
            let (owner_end, job_end) = Channel::pair()?;
            if !server.try_request(&job_end, lifeline)? {
                break;
            }
            self.channels.push_back(owner_end);
        }
        Ok(())
    }

    /// Has them end, whoever else has copies of the channels.
    pub fn dismiss(&mut self) {
        for channel in self.channels.drain(..) {
            channel.finish();
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        if self.owner == Some(getpid()) {
            self.dismiss(); // else these are a forked child's copies
        }
    }
}

fn answered(frame: Frame) -> Result<Child> {
    let [number] = frame.integers()?;
    match (frame.kind, Pid::from_raw(number)) {
        (Kind::Started, Some(pid)) => {
            Ok(Child::of_others(pid, frame.descriptors.into_iter().next()))
        }
        (Kind::Refused, _) => Err(Error::system("the fork server cannot fork a job")(
            Errno::from_raw_os_error(number),
        )),
        _ => Err(Error::new(ErrorKind::Protocol, "the fork server gave a strange answer")),
    }
}

/// A place in the table of descriptors, for a moment.
fn place() -> rustix::io::Result<OwnedFd> {
    rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// What a request to a helper that has gone away is answered with.
pub fn gone() -> Error {
    Error::new(ErrorKind::ForkServerGone, "the fork server has gone away")
}

/// The helper's end: serves requests until every client is gone and every child reaped.
#[derive(Debug)]
pub struct Server {
    requests: Option<Arc<Descriptor>>,
    /// Keeps a place in the table of descriptors; see `next_request`.
    spare: Option<Descriptor>,
    set: ReadySet,
    children: HashMap<u64, (Child, Channel)>,
    next: u64,
}

/// What a request brings: the job's end of a channel, and what it is to hang on.
type Request = (Channel, Option<Descriptor>);

const RECEIVING: &str = "cannot receive a request";

/// The key of the request socket in the ready set; children count up from 1.
const REQUESTS: u64 = 0;

impl Server {
    /// Serves the requests that come on this socket.
    pub fn new(requests: Descriptor) -> Result<Server> {
        let starting = "cannot serve as fork server";
        let requests = Arc::new(requests);
        let mut set = ReadySet::new().map_err(Error::system(starting))?;
        set.add(&requests, REQUESTS).map_err(Error::system(starting))?;
        let spare = Some(sys::null_device().map_err(Error::system(starting))?);
        Ok(Server { requests: Some(requests), spare, set, children: HashMap::new(), next: 1 })
    }

    /// Serves. In the helper, returns None when there is nothing left to serve; in each
    /// job that `fork` makes, returns the job's end of its channel.
    pub fn serve(
        &mut self,
        mut fork: impl FnMut() -> std::io::Result<Forked>,
    ) -> Result<Option<Channel>> {
        while self.requests.is_some() || !self.children.is_empty() {
            for key in self.wait()? {
                if key != REQUESTS {
                    self.report_end(key);
                } else if let Some((channel, lifeline)) = self.next_request()? {
                    if let Some(channel) = self.launch(channel, &mut fork) {
                        if let Some(lifeline) = lifeline {
                            Lifeline::hang_on_to(&lifeline)?;
                        }
                        return Ok(Some(channel));
                    }
                }
            }
        }
        Ok(None)
    }

    fn wait(&mut self) -> Result<Vec<u64>> {
        let unwatched: Vec<u64> = self
            .children
            .iter()
            .filter(|(_, (child, _))| child.watch().is_none())
            .map(|(key, _)| *key)
            .collect();
        let look_after = (!unwatched.is_empty()).then_some(LOOK_AFTER);
        let woken = Wait::new(self.set.watched(), look_after).block(None)?;
        if woken == Woken::Interrupted {
            return Ok(Vec::new());
        }
        let mut ready = self.set.ready().map_err(Error::system("cannot serve as fork server"))?;
        ready.extend(unwatched);
        Ok(ready)
    }

    /// Takes one request: the channel that came with it. At the end of file, stops asking.
    ///
    /// The kernel silently drops a descriptor that does not fit into the receiver's table,
    /// and with it the only way to answer. So there must be room: if there is none, a spare
    /// place serves to refuse the request.
    fn next_request(&mut self) -> Result<Option<Request>> {
        let room = [(); REQUEST].map(|()| place());
        if let Some(full) = room.iter().find_map(|place| place.as_ref().err()) {
            let full = full.raw_os_error().to_ne_bytes();
            drop(room);
            self.spare = None;
            if let Some((channel, _)) = self.receive_request()? {
                let _ = channel.try_send(Kind::Refused, &full, &[]);
            }
            self.spare = sys::null_device().ok();
            return Ok(None);
        }
        drop(room);
        self.receive_request()
    }

    fn receive_request(&mut self) -> Result<Option<Request>> {
        let Some(requests) = &self.requests else { return Ok(None) };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(REQUEST))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | close_on_exec();
        let mut byte = [0u8; 1];
        let received = requests.intact().and_then(|requests| {
            retry_on_intr(|| {
                recvmsg(requests, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, flags)
            })
        });
        match received.map(|message| message.bytes) {
            Ok(0) | Err(Errno::CONNRESET) => {
                self.set.remove(requests, REQUESTS);
                self.requests = None;
                Ok(None)
            }
            Err(Errno::AGAIN) => Ok(None),
            Err(e) => Err(Error::system(RECEIVING)(e)),
            Ok(_) => {
                let came = ancillary.drain().find_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(mut fds) => Some((fds.next()?, fds.next())),
                    _ => None,
                });
                let Some((channel, lifeline)) = came else { return Ok(None) };
                let known = |fd| Descriptor::new(fd).map_err(Error::system(RECEIVING));
                let lifeline = lifeline.map(known).transpose()?;
                Ok(Some((Channel::from_socket(known(channel)?), lifeline)))
            }
        }
    }

    fn launch(
        &mut self,
        channel: Channel,
        fork: &mut impl FnMut() -> std::io::Result<Forked>,
    ) -> Option<Channel> {
        match fork() {
            Ok(Forked::Child) => {
                self.abandon();
                return Some(channel);
            }
            Ok(Forked::Parent(pid)) => self.enter(Child::adopt(pid), channel),
            Err(e) => {
                let errno = e.raw_os_error().unwrap_or(0);
                let _ = channel.try_send(Kind::Refused, &errno.to_ne_bytes(), &[]);
            }
        }
        None
    }

    /// Says that a job is born, and remembers to say when it ends. An owner that is gone
    /// by now hears neither; its job sees the end of file.
    fn enter(&mut self, child: Child, channel: Channel) {
        let pid = child.pid().as_raw_nonzero().get().to_ne_bytes();
        let pidfd: Vec<_> = child.watch().into_iter().map(|fd| fd.as_fd()).collect();
        if channel.try_send(Kind::Started, &pid, &pidfd).is_err() {
            // The pidfd could not travel (ETOOMANYREFS): its owner can do without.
            let _ = channel.try_send(Kind::Started, &pid, &[]);
        }
        let key = self.next;
        self.next += 1;
        if let Some(exit) = child.watch() {
            if self.set.add(exit, key).is_err() {
                child.destroy();
                return;
            }
        }
        self.children.insert(key, (child, channel));
    }

    fn report_end(&mut self, key: u64) {
        let Some((child, _)) = self.children.get(&key) else { return };
        let status = match child.try_wait() {
            Ok(None) => return,
            Ok(Some(status)) => status,
            Err(_) => ExitStatus::Unknown,
        };
        let Some((child, channel)) = self.children.remove(&key) else { return };
        if let Some(exit) = child.watch() {
            self.set.remove(exit, key);
        }
        let wire = status.to_wire().map(i32::to_ne_bytes).concat();
        let _ = channel.try_send(Kind::Exited, &wire, &[]);
    }

    /// In a job: lets go of everything of the helper's, without touching the set that the
    /// helper goes on using.
    fn abandon(&mut self) {
        self.requests = None;
        self.spare = None;
        self.children.clear();
        self.set = ReadySet::default();
    }
}

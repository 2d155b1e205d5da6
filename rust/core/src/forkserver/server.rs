//! The helper's end of a fork server: it serves requests until there are no clients and no
//! children.

use super::client::REQUEST;
use crate::error::{Error, Result};
use crate::platform::{
    backend, close_inherited, close_on_exec, empty_set, null_device, Descriptor, Forked, ReadySet,
};
use crate::process::{Child, ExitStatus, Lifeline};
use crate::wait::{Wait, Woken, POLL_INTERVAL};
use crate::wire::{Channel, Head};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::{retry_on_intr, Errno};
use rustix::net::{recvmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use std::collections::HashMap;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::process::Command;
use std::sync::Arc;

/// The helper's end: serves requests until every client has ended and every child is reaped.
#[derive(Debug)]
pub struct Server {
    requests: Option<Arc<Descriptor>>,
    /// Reserves a place in the table of descriptors; see `next_request`.
    spare: Option<Descriptor>,
    set: Box<dyn ReadySet>,
    children: HashMap<u64, (Child, Channel)>,
    next: u64,
}

/// A request: the job's end of a channel, and its lifeline, if it has one.
type Request = (Channel, Option<Descriptor>);

const RECEIVING: &str = "cannot receive a request";

/// The key of the request socket in the ready set; children count up from 1.
const REQUESTS: u64 = 0;

/// Takes a place in the table of descriptors, to find out whether there is one.
fn place() -> rustix::io::Result<OwnedFd> {
    rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

impl Server {
    /// A server of the requests that come on this socket.
    pub fn new(requests: Descriptor) -> Result<Server> {
        let starting = "cannot serve as fork server";
        let requests = Arc::new(requests);
        let mut set = backend().ready_set().map_err(Error::system(starting))?;
        set.add(&requests, REQUESTS).map_err(Error::system(starting))?;
        let spare = Some(null_device().map_err(Error::system(starting))?);
        Ok(Server { requests: Some(requests), spare, set, children: HashMap::new(), next: 1 })
    }

    /// Serves by starting `command` for each request, a program with its channel as its standard
    /// input. Returns when there are no clients and no children.
    pub fn serve_by(&mut self, command: &mut Command) -> Result<()> {
        let served = self.serve(|channel| {
            let child = Child::spawn_on(channel.as_descriptor().duplicate()?, command);
            let child =
                child.map_err(|e| e.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))?;
            Ok(Forked::Parent(child.pid()))
        });
        served.map(drop)
    }

    /// Serves. In the helper, returns None when there are no clients and no children. In each job
    /// that `fork` makes, returns the job's end of its channel.
    pub fn serve(
        &mut self,
        mut fork: impl FnMut(&Channel) -> std::io::Result<Forked>,
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
        let look_after = (!unwatched.is_empty()).then_some(POLL_INTERVAL);
        let woken = Wait::new(self.set.watched(), look_after).block(None)?;
        if woken == Woken::Interrupted {
            return Ok(Vec::new());
        }
        let mut ready = self.set.ready().map_err(Error::system("cannot serve as fork server"))?;
        ready.extend(unwatched);
        Ok(ready)
    }

    /// Receives one request. At the end of file, watches the socket no more.
    ///
    /// The kernel silently drops a descriptor for which the receiver's table has no place, and with
    /// it the only way to answer. If there is no place, the spare place is used to receive the
    /// channel and to refuse the request.
    fn next_request(&mut self) -> Result<Option<Request>> {
        let room = [(); REQUEST].map(|()| place());
        if let Some(full) = room.iter().find_map(|place| place.as_ref().err()) {
            let full = full.raw_os_error();
            drop(room);
            self.spare = None;
            if let Some((channel, _)) = self.receive_request()? {
                let _ = channel.try_send(Head::Refused { errno: full }, &[]);
            }
            self.spare = null_device().ok();
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
        fork: &mut impl FnMut(&Channel) -> std::io::Result<Forked>,
    ) -> Option<Channel> {
        match fork(&channel) {
            Ok(Forked::Child) => {
                self.abandon();
                return Some(channel);
            }
            Ok(Forked::Parent(pid)) => self.enter(Child::adopt(pid), channel),
            Err(e) => {
                let errno = e.raw_os_error().unwrap_or(0);
                let _ = channel.try_send(Head::Refused { errno }, &[]);
            }
        }
        None
    }

    /// Reports that a worker has been forked, and enters it, to report its end too. If its owner
    /// has ended, these messages are lost, and the worker reads an end of file.
    fn enter(&mut self, child: Child, channel: Channel) {
        let head = Head::Started { pid: child.pid() };
        let pidfd: Vec<_> = child.watch().into_iter().map(|fd| fd.as_fd()).collect();
        if channel.try_send(head, &pidfd).is_err() {
            // The pidfd could not be sent (ETOOMANYREFS): the owner can do without it.
            let _ = channel.try_send(head, &[]);
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
        let _ = channel.try_send(Head::Exited { status }, &[]);
    }

    /// In a job: closes everything of the helper, without a change to the set that the helper goes
    /// on using.
    fn abandon(&mut self) {
        self.requests = None;
        self.spare = None;
        let children = std::mem::take(&mut self.children);
        let watches = children.values().filter_map(|(child, _)| child.watch());
        let sockets = children.values().map(|(_, channel)| channel.socket());
        close_inherited(watches.chain(sockets).map(Arc::as_ref));
        std::mem::forget(children);
        self.set = empty_set();
    }
}

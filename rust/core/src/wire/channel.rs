//! The channel between a job and its owner: frames, each of which arrives whole or not at all.
//!
//! A channel is a socket that keeps packets whole: a job may be killed at any instruction, and a
//! pipe cannot carry descriptors. A body of up to [`INLINE`] bytes is sent in the socket, whose
//! buffer always has room for one, so a job never waits for its owner to read. A larger body is
//! sent as a memory file. The end of file means that the other side is gone. Not here: what the
//! bodies mean.
//!
//! ```text
//! packet  = header body
//! header  = kind u8, memory u8, descriptors u16, unused u32, word u64, size u64
//!           (in native order; kind and word are the head, see `frame`)
//! body    = `size` bytes; if `memory` is 1, they are not in the packet but at the front
//!           of the file that is the packet's first descriptor
//! ```

use super::frame::{Frame, Head, Header, HEADER};
use crate::error::{Error, ErrorKind, Result};
use crate::platform::{
    backend, close_on_exec, no_sigpipe, socket_pair, Descriptor, INLINE_LIMIT, RESET_BEFORE_PACKETS,
};
use crate::wait::{Wait, Woken};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::io::{retry_on_intr, Errno};
use rustix::net::{
    recvmsg, sendmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::time::Instant;

/// The largest body that is sent in the socket, in bytes.
pub const INLINE: usize = INLINE_LIMIT;

/// The largest packet, in bytes: the size of a receive buffer.
pub(crate) const PACKET: usize = HEADER + INLINE;

const RECEIVING: &str = "cannot receive on a job's channel";

/// The most descriptors that one frame can carry (Linux: SCM_MAX_FD).
pub const MAX_DESCRIPTORS: usize = 253;

/// One end of a channel.
#[derive(Debug)]
pub struct Channel {
    socket: Arc<Descriptor>,
}

/// The result of [`Channel::try_receive`].
#[derive(Debug)]
pub(crate) enum Received {
    Frame(Frame),
    NothingYet,
    EndOfFile,
}

impl Channel {
    /// Makes a channel: the owner's end and the job's.
    pub fn pair() -> Result<(Channel, Channel)> {
        let (a, b) = socket_pair().map_err(Error::system("cannot make a channel"))?;
        Ok((Channel::from_socket(a), Channel::from_socket(b)))
    }

    /// Makes a channel from an inherited descriptor.
    pub fn from_socket(socket: Descriptor) -> Channel {
        Channel { socket: Arc::new(socket) }
    }

    pub(crate) fn into_shared(self) -> Arc<Descriptor> {
        self.socket
    }

    /// Returns the same end, for another part of this process.
    pub fn share(&self) -> Channel {
        Channel { socket: Arc::clone(&self.socket) }
    }

    /// Returns its descriptor alone, to become a new program's standard input.
    pub fn into_socket(self) -> Result<OwnedFd> {
        match Arc::try_unwrap(self.socket) {
            Ok(socket) => Ok(socket.into()),
            Err(shared) => {
                let socket = shared.duplicate();
                socket.map(OwnedFd::from).map_err(Error::system("cannot pass on a channel"))
            }
        }
    }

    pub(crate) fn socket(&self) -> &Arc<Descriptor> {
        &self.socket
    }

    /// Returns its descriptor, which becomes readable when the other side is gone.
    pub fn as_descriptor(&self) -> &Descriptor {
        &self.socket
    }

    /// Waits until there is something to receive, or a signal comes.
    pub fn wait_readable(&self) -> Result<()> {
        Wait::on(&self.socket).block(None).map(|_| ())
    }

    /// Sends a frame. `body` must be at most [`INLINE`] bytes. For a larger one see
    /// [`memory_file`](super::memory_file) and [`Channel::send_memory`].
    pub fn send(&self, head: Head, body: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        if body.len() > INLINE {
            return Err(Error::new(ErrorKind::InvalidInput, "a frame's body is too large"));
        }
        let size = body.len() as u64;
        self.send_packet(head, false, size, body, descriptors, no_sigpipe())
    }

    /// Sends a frame whose body is the first `size` bytes of `file`. The file is sealed by this: it
    /// must not be written to any more.
    pub fn send_memory(
        &self,
        head: Head,
        file: BorrowedFd<'_>,
        size: u64,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<()> {
        backend().seal(file);
        let all: Vec<_> = std::iter::once(file).chain(descriptors.iter().copied()).collect();
        self.send_packet(head, true, size, &[], &all, no_sigpipe())
    }

    /// Sends a small frame, and fails if that would have to wait. This is for the fork server,
    /// which must not be held up by a job that floods its channel.
    pub(crate) fn try_send(&self, head: Head, fds: &[BorrowedFd<'_>]) -> Result<()> {
        self.send_packet(head, false, 0, &[], fds, no_sigpipe() | SendFlags::DONTWAIT)
    }

    fn send_packet(
        &self,
        head: Head,
        memory: bool,
        size: u64,
        body: &[u8],
        fds: &[BorrowedFd<'_>],
        flags: SendFlags,
    ) -> Result<()> {
        if fds.len() > MAX_DESCRIPTORS {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "more than 253 descriptors cannot be passed to one job",
            ));
        }
        let header = Header { head, memory, descriptors: fds.len(), size }.to_bytes();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(fds));
        }
        let parts = [IoSlice::new(&header), IoSlice::new(body)];
        self.socket
            .intact()
            .and_then(|socket| retry_on_intr(|| sendmsg(socket, &parts, &mut ancillary, flags)))
            .map(|_| ())
            .map_err(Error::system("cannot send on a job's channel"))
    }

    /// Receives a frame, and waits for it. Returns None at the end of file.
    pub fn receive(&self) -> Result<Option<Frame>> {
        loop {
            self.wait_readable()?;
            match self.receive_packet(&mut self.room()?, RecvFlags::DONTWAIT)? {
                Received::Frame(frame) => return Ok(Some(frame)),
                Received::EndOfFile => return Ok(None),
                Received::NothingYet => {} // a signal ended the wait
            }
        }
    }

    /// Receives a frame that a wait has just found ready. Returns None at the end of file.
    pub fn receive_ready(&self) -> Result<Option<Frame>> {
        match self.receive_packet(&mut self.room()?, RecvFlags::DONTWAIT)? {
            Received::Frame(frame) => Ok(Some(frame)),
            Received::EndOfFile => Ok(None),
            Received::NothingYet => self.receive(),
        }
    }

    /// Receives a frame if one has come. The caller has just waited for it.
    pub(crate) fn receive_now(&self) -> Result<Received> {
        self.receive_packet(&mut self.room()?, RecvFlags::DONTWAIT)
    }

    /// Looks for a short time whether there is something to receive: see [`Wait::spin`].
    pub fn spin(&self) -> bool {
        Wait::on(&self.socket).spin()
    }

    /// Waits until there is something to receive, a signal comes, or `deadline`.
    pub fn wait_until(&self, deadline: Instant) -> Result<Woken> {
        Wait::on(&self.socket).block(Some(deadline))
    }

    /// Receives the last frame, if one has been sent. From now on the other side cannot send.
    pub fn stop_receiving(&self) -> Result<Option<Frame>> {
        self.refuse();
        match self.receive_packet(&mut self.room()?, RecvFlags::DONTWAIT)? {
            Received::Frame(frame) => Ok(Some(frame)),
            Received::EndOfFile | Received::NothingYet => Ok(None),
        }
    }

    /// From now on the other side cannot send. What it has sent can still be received.
    pub(crate) fn refuse(&self) {
        let _ = self.shut_down(Shutdown::Read);
    }

    /// Ends sending: the other side sees the end of file, and can still answer.
    pub(crate) fn stop_sending(&self) {
        let _ = self.shut_down(Shutdown::Write);
    }

    fn shut_down(&self, side: Shutdown) -> rustix::io::Result<()> {
        rustix::net::shutdown(self.socket.intact()?, side)
    }

    /// Returns a buffer for the next packet, and no larger: a new job pays a page fault for each
    /// page of it. If no packet has come yet, the buffer has room for any packet.
    fn room(&self) -> Result<Vec<u8>> {
        let there = rustix::io::ioctl_fionread(&self.socket).map_err(Error::system(RECEIVING))?;
        let size = usize::try_from(there).ok().filter(|there| (1..PACKET).contains(there));
        Ok(vec![0; size.unwrap_or(PACKET)])
    }

    /// Receives a frame if one has come, by way of a buffer of [`PACKET`] bytes.
    pub(crate) fn try_receive(&self, buffer: &mut [u8]) -> Result<Received> {
        self.receive_packet(buffer, RecvFlags::DONTWAIT)
    }

    fn receive_packet(&self, buffer: &mut [u8], flags: RecvFlags) -> Result<Received> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        // No check whether the socket is intact, which costs as much as this call. The caller has
        // just waited for it, or an epoll set has reported it, and a set forgets a closed
        // descriptor.
        let received = retry_on_intr(|| {
            let into = &mut [IoSliceMut::new(buffer)];
            recvmsg(&self.socket, into, &mut ancillary, flags | close_on_exec())
        });
        let length = match received {
            // If a peer ended with packets of ours unread, recvmsg fails with ECONNRESET, once.
            // Where the error comes before the packets that the peer had sent, those follow.
            Err(Errno::CONNRESET) if RESET_BEFORE_PACKETS => {
                return self.receive_packet(buffer, flags)
            }
            Err(Errno::CONNRESET) => return Ok(Received::EndOfFile),
            Err(Errno::AGAIN) => return Ok(Received::NothingYet),
            Err(Errno::NOTSOCK) => return Err(Error::system(RECEIVING)(Errno::BADF)),
            Err(e) => return Err(Error::system(RECEIVING)(e)),
            Ok(message) if message.bytes == 0 => return Ok(Received::EndOfFile),
            Ok(message) => message.bytes,
        };
        let mut descriptors = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                for fd in fds {
                    let received = Descriptor::new(fd);
                    descriptors.push(received.map_err(Error::system(RECEIVING))?);
                }
            }
        }
        Frame::parse(&buffer[..length], descriptors).map(Received::Frame)
    }
}

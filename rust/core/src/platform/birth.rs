//! Pipes and sockets, close-on-exec from the start where the system can do that. Apple's systems
//! cannot: there are two calls, and an exec in another thread between them passes the descriptors
//! on.

use super::Descriptor;
use rustix::fd::OwnedFd;
use std::io;

pub(crate) use system::{close_on_exec, no_sigpipe, RESET_BEFORE_PACKETS};

/// Makes a pipe: (read end, write end).
pub(crate) fn pipe() -> rustix::io::Result<(Descriptor, Descriptor)> {
    as_descriptors(system::pipe()?)
}

/// Makes a pipe and returns its write end only. The reader opens the pipe again later.
pub fn pipe_without_reader() -> io::Result<Descriptor> {
    Ok(pipe()?.1)
}

/// Makes a connected pair of sockets that keep messages whole and in order, for many writers.
pub(crate) fn socket_pair() -> rustix::io::Result<(Descriptor, Descriptor)> {
    as_descriptors(system::socket_pair()?)
}

fn as_descriptors(
    (one, other): (OwnedFd, OwnedFd),
) -> rustix::io::Result<(Descriptor, Descriptor)> {
    Ok((Descriptor::new(one)?, Descriptor::new(other)?))
}

#[cfg(not(target_vendor = "apple"))]
mod system {
    use rustix::fd::OwnedFd;
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
    use rustix::pipe::PipeFlags;

    /// Whether recvmsg reports ECONNRESET, for a peer that ended with packets of ours unread,
    /// before the packets that the peer had sent.
    pub(crate) const RESET_BEFORE_PACKETS: bool = true;

    pub(super) fn pipe() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
    }

    /// SEQPACKET: its reader sees an end of file when the last writer is gone.
    pub(super) fn socket_pair() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
        let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None)
    }

    pub(crate) fn no_sigpipe() -> SendFlags {
        SendFlags::NOSIGNAL
    }

    pub(crate) fn close_on_exec() -> RecvFlags {
        RecvFlags::CMSG_CLOEXEC
    }
}

/// Apple has neither flag of sends and receives. Python and Rust programs ignore SIGPIPE.
#[cfg(target_vendor = "apple")]
mod system {
    use rustix::fd::OwnedFd;
    use rustix::io::{fcntl_setfd, FdFlags};
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

    /// The same as on other systems; here recvmsg returns the packets first.
    pub(crate) const RESET_BEFORE_PACKETS: bool = false;

    fn set_close_on_exec(ends: (OwnedFd, OwnedFd)) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
        fcntl_setfd(&ends.0, FdFlags::CLOEXEC)?;
        fcntl_setfd(&ends.1, FdFlags::CLOEXEC)?;
        Ok(ends)
    }

    pub(super) fn pipe() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
        set_close_on_exec(rustix::pipe::pipe()?)
    }

    /// Apple has only datagrams. Their reader gets ECONNRESET when the last writer is gone.
    pub(super) fn socket_pair() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
        let (kind, none) = (SocketType::DGRAM, SocketFlags::empty());
        set_close_on_exec(rustix::net::socketpair(AddressFamily::UNIX, kind, none, None)?)
    }

    pub(crate) fn no_sigpipe() -> SendFlags {
        SendFlags::empty()
    }

    pub(crate) fn close_on_exec() -> RecvFlags {
        RecvFlags::empty()
    }
}

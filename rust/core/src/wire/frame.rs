//! Frames: the meaning of a channel's bytes.

use crate::error::{Error, ErrorKind, Result};
use crate::platform::Descriptor;
use crate::process::{ExitStatus, Pid};
use crate::slots::Assignment;
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// The size of a header, in bytes.
pub(crate) const HEADER: usize = 24;

/// The kind of a frame and its value. A new kind of frame is a new variant here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// Owner to a new process, before its first launch: what all its jobs have in common (the
    /// introduction).
    Introduction {
        /// Whether the first descriptor is the lifeline that the process must hang on.
        lifeline: bool,
        /// Whether the next descriptors are those by which it joins the fork server of its tree.
        helper: bool,
    },
    /// Owner to job: the launch, with the function to run.
    Launch {
        /// The slot that the job runs on, or none.
        assignment: Assignment,
    },
    /// Job to owner: the job's result.
    Result {
        /// Whether the process stays for another job.
        stays: bool,
    },
    /// Job to owner, at most once: the job has given its slot away while it waits, and will want
    /// one again. A job sends it only to an owner that would otherwise keep its own slot while it
    /// waits for the job.
    Yielded,
    /// Job to owner: the job will end without a result. The body is its last words.
    LastWords,
    /// Fork server to owner: the worker is born, with its pidfd where there is one.
    Started {
        /// The worker's pid.
        pid: Pid,
    },
    /// Fork server to owner: the fork failed.
    Refused {
        /// The system's error number.
        errno: i32,
    },
    /// Owner to owner, by way of [`IdleWorkers`](crate::forkserver::IdleWorkers): this worker is
    /// idle. Its channel is the first descriptor, its pidfd the second, where there is one.
    Idle {
        /// The worker's pid.
        pid: Pid,
    },
    /// Fork server to owner: the worker has ended.
    Exited {
        /// How it ended.
        status: ExitStatus,
    },
}

impl Head {
    /// Converts to a byte that names the kind, and a word with the value.
    fn to_wire(self) -> (u8, u64) {
        match self {
            Head::Launch { assignment } => (1, assignment.to_word()),
            Head::Result { stays } => (2, u64::from(stays)),
            Head::Started { pid } => (3, word_of(pid)),
            Head::Refused { errno } => (4, u64::from(errno as u32)),
            Head::Exited { status } => (5, status.to_word()),
            Head::Introduction { lifeline, helper } => {
                (6, u64::from(lifeline) | u64::from(helper) << 1)
            }
            Head::Yielded => (7, 0),
            Head::LastWords => (8, 0),
            Head::Idle { pid } => (9, word_of(pid)),
        }
    }

    fn from_wire(kind: u8, word: u64) -> Option<Head> {
        Some(match kind {
            1 => Head::Launch { assignment: Assignment::from_word(word) },
            2 => Head::Result { stays: word == 1 },
            3 => Head::Started { pid: pid_of(word)? },
            4 => Head::Refused { errno: word as u32 as i32 },
            5 => Head::Exited { status: ExitStatus::from_word(word) },
            6 => Head::Introduction { lifeline: word & 1 != 0, helper: word & 2 != 0 },
            7 => Head::Yielded,
            8 => Head::LastWords,
            9 => Head::Idle { pid: pid_of(word)? },
            _ => return None,
        })
    }
}

fn word_of(pid: Pid) -> u64 {
    u64::from(pid.as_raw_nonzero().get().unsigned_abs())
}

fn pid_of(word: u64) -> Option<Pid> {
    i32::try_from(word).ok().and_then(Pid::from_raw)
}

/// A frame's body.
#[derive(Debug)]
pub enum Body {
    /// Sent in the socket.
    Inline(Vec<u8>),
    /// Sent in a memory file: the file, and how many bytes of it count.
    Memory(Descriptor, u64),
}

impl Body {
    /// Returns the body's bytes. Reads the memory file if they are in one.
    pub fn into_bytes(self) -> Result<Vec<u8>> {
        match self {
            Body::Inline(bytes) => Ok(bytes),
            Body::Memory(file, size) => {
                let file = File::from(file);
                // The size is checked before memory is allocated: a job may send any number.
                let there =
                    file.metadata().map_err(Error::system("cannot read a memory file"))?.len();
                if there < size {
                    return Err(Error::new(ErrorKind::Protocol, "a memory file is too short"));
                }
                let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
                file.read_exact_at(&mut bytes, 0)
                    .map_err(Error::system("cannot read a memory file"))?;
                Ok(bytes)
            }
        }
    }
}

/// One message of a channel.
#[derive(Debug)]
pub struct Frame {
    /// Its kind.
    pub head: Head,
    /// Its body.
    pub body: Body,
    /// The descriptors that came with it, without the memory file of the body.
    pub descriptors: Vec<Descriptor>,
}

#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) head: Head,
    pub(crate) memory: bool,
    pub(crate) descriptors: usize,
    pub(crate) size: u64,
}

impl Header {
    pub(crate) fn to_bytes(&self) -> [u8; HEADER] {
        let (kind, word) = self.head.to_wire();
        let mut bytes = [0; HEADER];
        bytes[0] = kind;
        bytes[1] = u8::from(self.memory);
        bytes[2..4].copy_from_slice(&(self.descriptors as u16).to_ne_bytes());
        bytes[8..16].copy_from_slice(&word.to_ne_bytes());
        bytes[16..].copy_from_slice(&self.size.to_ne_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; HEADER]) -> Option<Header> {
        let [kind, memory, d0, d1, _, _, _, _, words @ ..] = bytes;
        let (word, size) = words.split_first_chunk()?;
        let (kind, memory, d0, d1) = (*kind, *memory, *d0, *d1);
        Some(Header {
            head: Head::from_wire(kind, u64::from_ne_bytes(*word))?,
            memory: memory == 1,
            descriptors: usize::from(u16::from_ne_bytes([d0, d1])),
            size: u64::from_ne_bytes(size.try_into().ok()?),
        })
    }
}

impl Frame {
    /// Parses a packet and the descriptors that came with it.
    pub(crate) fn parse(packet: &[u8], mut descriptors: Vec<Descriptor>) -> Result<Frame> {
        let strange = || Error::new(ErrorKind::Protocol, "a job's channel carries invalid bytes");
        let (front, inline) = packet.split_first_chunk::<HEADER>().ok_or_else(strange)?;
        let header = Header::from_bytes(front).ok_or_else(strange)?;
        if descriptors.len() < header.descriptors {
            // The kernel dropped the descriptors that did not fit into this process's table
            // (MSG_CTRUNC).
            return Err(Error::system("cannot receive the descriptors of a frame")(Errno::MFILE));
        }
        let body = match header.memory {
            true if !descriptors.is_empty() => Body::Memory(descriptors.remove(0), header.size),
            false if inline.len() as u64 == header.size => Body::Inline(inline.to_vec()),
            _ => return Err(strange()),
        };
        Ok(Frame { head: header.head, body, descriptors })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_head_is_read_as_what_it_was_made_from() {
        let assignment = Assignment::WithoutSlot(crate::slots::BorrowedFrom::Common);
        for head in [
            Head::Introduction { lifeline: true, helper: false },
            Head::Introduction { lifeline: false, helper: true },
            Head::Launch { assignment },
            Head::Result { stays: false },
            Head::Result { stays: true },
            Head::Yielded,
            Head::LastWords,
            Head::Started { pid: crate::process::getpid() },
            Head::Refused { errno: libc::EAGAIN },
            Head::Exited { status: ExitStatus::Signal(9) },
        ] {
            let (kind, word) = head.to_wire();
            assert_eq!(Head::from_wire(kind, word), Some(head));
        }
    }
}

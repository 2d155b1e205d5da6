//! Frames: what a channel's bytes mean.

use crate::error::{Error, ErrorKind, Result};
use crate::sys::Descriptor;
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// The size of a header, in bytes.
pub(crate) const HEADER: usize = 24;

/// What a frame is about, and who sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Owner to job: what to run. The word is the slot to adopt for it, as `Slot::to_word` has
    /// it; 0 if there is none.
    Launch = 1,
    /// Job to owner: what came of it. The word is [`STAYS`] if the process stays for another
    /// job, and otherwise 0.
    Result = 2,
    /// Fork server to owner: the job's pid (i32), with its pidfd where there is one.
    Started = 3,
    /// Fork server to owner: the fork failed, with this error number (i32).
    Refused = 4,
    /// Fork server to owner: how the job ended (two i32).
    Exited = 5,
    /// Owner to a new process, before its first launch: what all its jobs have in common. The
    /// word is [`HANGS`] if the first descriptor is the lifeline that it is to hang on.
    Introduction = 6,
    /// Job to owner, once at most: it has given its slot away while it waits, and will want one
    /// again. Only said to owners that would otherwise keep theirs while they wait for it.
    Yielded = 7,
    /// Job to owner: it will end without a result, and this is what it has to say of that.
    LastWords = 8,
}

/// The word of a [`Kind::Result`] whose process stays for another job.
pub const STAYS: u64 = 1;

/// The word of a [`Kind::Introduction`] that comes with a lifeline.
pub const HANGS: u64 = 1;

/// What stands before a frame's contents.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    /// What the frame is about.
    pub kind: Kind,
    /// What this kind of frame says besides.
    pub word: u64,
}

impl From<Kind> for Head {
    fn from(kind: Kind) -> Head {
        Head { kind, word: 0 }
    }
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        use Kind::{Exited, Introduction, LastWords, Launch, Refused, Result, Started, Yielded};
        [Launch, Result, Started, Refused, Exited, Introduction, Yielded, LastWords]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// A frame's contents, wherever they travelled.
#[derive(Debug)]
pub enum Body {
    /// In the socket.
    Inline(Vec<u8>),
    /// In a memory file: the file and how many bytes of it count.
    Memory(Descriptor, u64),
}

impl Body {
    /// The contents as bytes, read from the memory file if they are there.
    pub fn into_bytes(self) -> Result<Vec<u8>> {
        match self {
            Body::Inline(bytes) => Ok(bytes),
            Body::Memory(file, size) => {
                let file = File::from(file);
                // Looked at before memory is asked for: a job may say anything.
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
    /// What it is about.
    pub kind: Kind,
    /// What this kind of frame says besides.
    pub word: u64,
    /// Its contents.
    pub body: Body,
    /// The descriptors that came with it (not the memory file of the body).
    pub descriptors: Vec<Descriptor>,
}

impl Frame {
    /// The contents as `N` native integers, for the fork server's frames.
    pub(crate) fn integers<const N: usize>(&self) -> Result<[i32; N]> {
        let wrong = || Error::new(ErrorKind::Protocol, "a frame of the fork server is malformed");
        let Body::Inline(bytes) = &self.body else { return Err(wrong()) };
        let mut integers = [0; N];
        if bytes.len() != 4 * N {
            return Err(wrong());
        }
        for (integer, four) in integers.iter_mut().zip(bytes.chunks_exact(4)) {
            *integer = i32::from_ne_bytes(four.try_into().map_err(|_| wrong())?);
        }
        Ok(integers)
    }
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
        let mut bytes = [0; HEADER];
        bytes[0] = self.head.kind as u8;
        bytes[1] = u8::from(self.memory);
        bytes[2..4].copy_from_slice(&(self.descriptors as u16).to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.head.word.to_ne_bytes());
        bytes[16..].copy_from_slice(&self.size.to_ne_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; HEADER]) -> Option<Header> {
        let [kind, memory, d0, d1, _, _, _, _, words @ ..] = bytes;
        let (word, size) = words.split_first_chunk()?;
        let (kind, memory, d0, d1) = (*kind, *memory, *d0, *d1);
        Some(Header {
            head: Head { kind: Kind::from_byte(kind)?, word: u64::from_ne_bytes(*word) },
            memory: memory == 1,
            descriptors: usize::from(u16::from_ne_bytes([d0, d1])),
            size: u64::from_ne_bytes(size.try_into().ok()?),
        })
    }
}

impl Frame {
    /// Makes sense of a packet and the descriptors that came with it.
    pub(crate) fn parse(packet: &[u8], mut descriptors: Vec<Descriptor>) -> Result<Frame> {
        let strange = || Error::new(ErrorKind::Protocol, "a job's channel carries strange bytes");
        let (front, inline) = packet.split_first_chunk::<HEADER>().ok_or_else(strange)?;
        let header = Header::from_bytes(front).ok_or_else(strange)?;
        if descriptors.len() < header.descriptors {
            // The kernel dropped what did not fit into our table (MSG_CTRUNC).
            return Err(Error::system("cannot receive the descriptors of a frame")(Errno::MFILE));
        }
        let body = match header.memory {
            true if !descriptors.is_empty() => Body::Memory(descriptors.remove(0), header.size),
            false if inline.len() as u64 == header.size => Body::Inline(inline.to_vec()),
            _ => return Err(strange()),
        };
        Ok(Frame { kind: header.head.kind, word: header.head.word, body, descriptors })
    }
}

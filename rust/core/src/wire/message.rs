//! A message: a body, inline or in a memory file, and the descriptors that go with it.

use super::{Channel, Head};
use crate::error::{Error, Result};
use crate::platform::Descriptor;
use rustix::fd::BorrowedFd;
use std::sync::Arc;

/// The content of a frame to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Its body.
    pub payload: Payload<'a>,
    /// The descriptors that go with it.
    pub descriptors: &'a [Arc<Descriptor>],
}

/// The body of a message.
#[derive(Debug, Clone, Copy)]
pub enum Payload<'a> {
    /// Bytes that are sent in the socket: at most [`super::INLINE`].
    Inline(&'a [u8]),
    /// A memory file. Its content says which bytes of it count.
    Memory(&'a Descriptor),
}

impl Message<'_> {
    /// Sends it as a frame of this kind.
    pub fn send(&self, channel: &Channel, head: Head) -> Result<()> {
        self.send_with(channel, head, &[])
    }

    /// Does the same, with these descriptors before the others.
    pub(crate) fn send_with(
        &self,
        channel: &Channel,
        head: Head,
        first: &[&Descriptor],
    ) -> Result<()> {
        let held = self.descriptors.iter().map(|fd| intact(fd));
        let first = first.iter().map(|fd| intact(fd));
        let all: Vec<_> = first.chain(held).collect::<Result<_>>()?;
        match self.payload {
            Payload::Inline(bytes) => channel.send(head, bytes, &all),
            Payload::Memory(file) => channel.send_memory(head, intact(file)?, 0, &all),
        }
    }
}

fn intact(descriptor: &Descriptor) -> Result<BorrowedFd<'_>> {
    descriptor.intact().map_err(Error::lost("cannot use a descriptor"))
}

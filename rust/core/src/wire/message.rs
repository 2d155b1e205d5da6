//! A message on its way: a body, small or in a memory file, and the descriptors that go with it.

use super::{Channel, Head};
use crate::error::{Error, Result};
use crate::platform::Descriptor;
use rustix::fd::BorrowedFd;
use std::sync::Arc;

/// What a frame is to carry.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Its body.
    pub payload: Payload<'a>,
    /// What goes with it.
    pub descriptors: &'a [Arc<Descriptor>],
}

/// The body of a message.
#[derive(Debug, Clone, Copy)]
pub enum Payload<'a> {
    /// So few bytes that they travel in the socket: see [`super::INLINE`].
    Inline(&'a [u8]),
    /// A memory file. Which bytes of it count is told by what is in it.
    Memory(&'a Descriptor),
}

impl Message<'_> {
    /// Sends it under this head.
    pub fn send(&self, channel: &Channel, head: Head) -> Result<()> {
        self.send_with(channel, head, None)
    }

    /// The same, with one descriptor before the others.
    pub(crate) fn send_with(
        &self,
        channel: &Channel,
        head: Head,
        first: Option<&Descriptor>,
    ) -> Result<()> {
        let held = self.descriptors.iter().map(|fd| intact(fd));
        let all: Vec<_> = first.map(intact).into_iter().chain(held).collect::<Result<_>>()?;
        match self.payload {
            Payload::Inline(bytes) => channel.send(head, bytes, &all),
            Payload::Memory(file) => channel.send_memory(head, intact(file)?, 0, &all),
        }
    }
}

fn intact(descriptor: &Descriptor) -> Result<BorrowedFd<'_>> {
    descriptor.intact().map_err(Error::lost("cannot use a descriptor"))
}

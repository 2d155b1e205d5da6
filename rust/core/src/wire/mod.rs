//! The wire: the frames between an owner and its workers, and how they are sent.

mod channel;
mod frame;
mod memory;
mod message;
mod progress;

pub use channel::{Channel, INLINE, MAX_DESCRIPTORS};
pub(crate) use channel::{Received, PACKET};
pub use frame::{Body, Frame, Head};
pub use memory::{memory_file, seal, MemoryMap};
pub use message::{Message, Payload};
pub use progress::Progress;

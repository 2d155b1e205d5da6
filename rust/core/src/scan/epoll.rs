//! The set on Linux: the kernel keeps it, and a look costs what is ready.
//!
//! Level-triggered, so that nothing is lost if a ready descriptor is left for the next
//! look. Removal is explicit: a descriptor's registration otherwise lives on in every
//! process that inherited its description by fork.

use super::AT_ONCE;
use crate::sys::Descriptor;
use rustix::buffer::spare_capacity;
use rustix::event::{epoll, Timespec};
use rustix::io::{retry_on_intr, Result};
use std::sync::Arc;

#[derive(Debug)]
pub(crate) struct Set {
    epoll: Arc<Descriptor>,
}

impl Set {
    pub(crate) fn new() -> Result<Set> {
        let epoll = Descriptor::anonymous(epoll::create(epoll::CreateFlags::CLOEXEC)?)?;
        Ok(Set { epoll: Arc::new(epoll) })
    }

    pub(crate) fn add(&mut self, fd: &Descriptor, key: u64) -> Result<()> {
        let data = epoll::EventData::new_u64(key);
        epoll::add(&self.epoll, fd, data, epoll::EventFlags::IN)
    }

    /// Told of once for each thing that comes, though nobody takes it away.
    pub(crate) fn add_edge(&mut self, fd: &Descriptor, key: u64) -> Result<()> {
        let data = epoll::EventData::new_u64(key);
        epoll::add(&self.epoll, fd, data, epoll::EventFlags::IN | epoll::EventFlags::ET)
    }

    pub(crate) fn remove(&mut self, fd: &Descriptor) {
        // By its number, which is another's if this program has closed it: that one is to stay.
        if fd.is_intact() {
            let _ = epoll::delete(&self.epoll, fd);
        }
    }

    pub(crate) fn ready(&mut self) -> Result<Vec<u64>> {
        let mut events = Vec::with_capacity(AT_ONCE);
        let at_once = Timespec::default();
        retry_on_intr(|| epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&at_once)))?;
        Ok(events.iter().map(|event: &epoll::Event| event.data.u64()).collect())
    }

    pub(crate) fn is_intact(&self) -> bool {
        self.epoll.is_intact()
    }

    pub(crate) fn descriptor(&self) -> Arc<Descriptor> {
        Arc::clone(&self.epoll)
    }
}

//! The set of watched descriptors that the Linux kernel keeps: the cost of a look grows with what
//! is ready.
//!
//! The set is level-triggered: a ready descriptor that is left for the next look is reported again.
//! Removal is explicit: otherwise a registration lives on while any process has the description by
//! a fork.

use super::backend::{ReadySet, AT_ONCE};
use super::Descriptor;
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

    fn watch(&self, fd: &Descriptor, key: u64, flags: epoll::EventFlags) -> Result<()> {
        let data = epoll::EventData::new_u64(key);
        epoll::add(&self.epoll, fd, data, epoll::EventFlags::IN | flags)
    }
}

impl ReadySet for Set {
    fn add(&mut self, fd: &Arc<Descriptor>, key: u64) -> Result<()> {
        self.watch(fd, key, epoll::EventFlags::empty())
    }

    fn add_edge(&mut self, fd: &Arc<Descriptor>, key: u64) -> bool {
        self.watch(fd, key, epoll::EventFlags::ET).is_ok()
    }

    fn remove(&mut self, fd: &Arc<Descriptor>, _key: u64) {
        // The kernel finds the descriptor by its number. If this program has closed it, another
        // file may have the number, and that file must stay in the set.
        if fd.is_intact() {
            let _ = epoll::delete(&self.epoll, fd);
        }
    }

    fn mute(&mut self, fd: &Arc<Descriptor>, key: u64, muted: bool) -> bool {
        let flags = if muted { epoll::EventFlags::empty() } else { epoll::EventFlags::IN };
        let data = epoll::EventData::new_u64(key);
        fd.is_intact() && epoll::modify(&self.epoll, fd, data, flags).is_ok()
    }

    fn ready(&mut self) -> Result<Vec<u64>> {
        let mut events = Vec::with_capacity(AT_ONCE);
        let at_once = Timespec::default();
        retry_on_intr(|| epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&at_once)))?;
        Ok(events.iter().map(|event: &epoll::Event| event.data.u64()).collect())
    }

    fn is_intact(&self) -> bool {
        self.epoll.is_intact()
    }

    fn watched(&self) -> Vec<Arc<Descriptor>> {
        vec![Arc::clone(&self.epoll)]
    }

    fn grows_while_waited_for(&self) -> bool {
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn to_remove_what_is_closed_leaves_what_has_its_number_now() {
        let mut set = Set::new().unwrap();
        let (closed, _) = crate::platform::pipe().unwrap();
        let (read, write) = crate::platform::pipe().unwrap();
        let closed = Arc::new(closed);
        set.add(&closed, 1).unwrap();
        let now = Arc::new(crate::platform::put_in_place_of(&closed, &read));
        set.add(&now, 2).unwrap();
        set.remove(&closed, 1);
        rustix::io::write(&write, b"x").unwrap();
        assert_eq!(set.ready().unwrap(), [2]);
    }
}

//! The set of watched descriptors on any Unix. It is kept in this process, and the cost of a look
//! grows with what is watched.

use super::backend::ReadySet;
use super::Descriptor;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::{retry_on_intr, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

/// An empty set needs no system call.
#[derive(Debug, Default)]
pub(crate) struct Set {
    watched: BTreeMap<u64, Arc<Descriptor>>,
}

impl ReadySet for Set {
    fn add(&mut self, fd: &Arc<Descriptor>, key: u64) -> Result<()> {
        self.watched.insert(key, Arc::clone(fd));
        Ok(())
    }

    fn add_edge(&mut self, _fd: &Arc<Descriptor>, _key: u64) -> bool {
        false
    }

    fn remove(&mut self, _fd: &Arc<Descriptor>, key: u64) {
        self.watched.remove(&key);
    }

    fn mute(&mut self, _fd: &Arc<Descriptor>, _key: u64, _muted: bool) -> bool {
        false // a wait that has begun would go on to poll it
    }

    fn ready(&mut self) -> Result<Vec<u64>> {
        let mut fds: Vec<_> =
            self.watched.values().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        retry_on_intr(|| poll(&mut fds, Some(&Timespec::default())))?;
        let ready = self.watched.keys().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        Ok(ready.map(|(key, _)| *key).collect())
    }

    fn is_intact(&self) -> bool {
        self.watched.values().all(|watched| watched.is_intact())
    }

    fn watched(&self) -> Vec<Arc<Descriptor>> {
        self.watched.values().map(Arc::clone).collect()
    }

    fn grows_while_waited_for(&self) -> bool {
        false
    }
}

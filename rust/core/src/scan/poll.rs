//! The set on any Unix: kept here, and every look costs what is watched.

use crate::sys::Descriptor;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::{retry_on_intr, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Debug, Default)]
pub(crate) struct Set {
    watched: BTreeMap<u64, Arc<Descriptor>>,
}

impl Set {
    pub(crate) fn add(&mut self, fd: &Arc<Descriptor>, key: u64) -> Result<()> {
        self.watched.insert(key, Arc::clone(fd));
        Ok(())
    }

    pub(crate) fn remove(&mut self, key: u64) {
        self.watched.remove(&key);
    }

    pub(crate) fn ready(&mut self) -> Result<Vec<u64>> {
        let mut fds: Vec<_> =
            self.watched.values().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        retry_on_intr(|| poll(&mut fds, Some(&Timespec::default())))?;
        let ready = self.watched.keys().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        Ok(ready.map(|(key, _)| *key).collect())
    }

    pub(crate) fn is_intact(&self) -> bool {
        self.watched.values().all(|watched| watched.is_intact())
    }

    pub(crate) fn descriptors(&self) -> Vec<Arc<Descriptor>> {
        self.watched.values().map(Arc::clone).collect()
    }
}

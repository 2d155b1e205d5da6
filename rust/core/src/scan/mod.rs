//! Readiness: which of many descriptors have something for us, and waiting for the first.
//!
//! A `ReadySet` is looked at without blocking, at a cost that grows with what is ready
//! (epoll), or on other Unixes with what is watched (poll). Waiting is one system call on
//! the set and a few more descriptors (the pool, a bell), and does not borrow the set, so
//! that other threads go on using it meanwhile. Not here: what the readiness means.

#[cfg(all(target_os = "linux", not(jobserver_portable)))]
mod epoll;
mod poll;
mod wait;

pub(crate) use wait::Bell;
pub use wait::{Wait, Woken};

use crate::sys::Descriptor;
use std::sync::Arc;
use std::time::Duration;

/// How many ready descriptors one look tells of at most, if the kernel keeps the set; the rest
/// come with the next.
pub(crate) const AT_ONCE: usize = 64;

/// How long a sleep may last while something can only be seen by looking: a death that no
/// descriptor tells of, for one.
pub(crate) const LOOK_AFTER: Duration = Duration::from_millis(20);

/// Descriptors watched for input, each under a key.
#[derive(Debug)]
pub(crate) enum ReadySet {
    #[cfg(all(target_os = "linux", not(jobserver_portable)))]
    Epoll(epoll::Set),
    Poll(poll::Set),
}

/// A set that holds nothing and costs nothing, on any Unix.
impl Default for ReadySet {
    fn default() -> Self {
        ReadySet::Poll(poll::Set::default())
    }
}

impl ReadySet {
    pub(crate) fn new() -> rustix::io::Result<ReadySet> {
        #[cfg(all(target_os = "linux", not(jobserver_portable)))]
        if crate::sys::linux() {
            return Ok(ReadySet::Epoll(epoll::Set::new()?));
        }
        Ok(ReadySet::Poll(poll::Set::default()))
    }

    pub(crate) fn add(&mut self, fd: &Arc<Descriptor>, key: u64) -> rustix::io::Result<()> {
        match self {
            #[cfg(all(target_os = "linux", not(jobserver_portable)))]
            ReadySet::Epoll(set) => set.add(fd, key),
            ReadySet::Poll(set) => set.add(fd, key),
        }
    }

    /// Adds a descriptor that is to be told of whenever more input comes, whether or not the
    /// last was read: false where that cannot be.
    pub(crate) fn add_edge(&mut self, fd: &Arc<Descriptor>, key: u64) -> bool {
        let _ = (fd, key); // only epoll wants them
        match self {
            #[cfg(all(target_os = "linux", not(jobserver_portable)))]
            ReadySet::Epoll(set) => set.add_edge(fd, key).is_ok(),
            ReadySet::Poll(_) => false,
        }
    }

    pub(crate) fn remove(&mut self, fd: &Arc<Descriptor>, key: u64) {
        let _ = fd; // only epoll wants it
        match self {
            #[cfg(all(target_os = "linux", not(jobserver_portable)))]
            ReadySet::Epoll(set) => set.remove(fd),
            ReadySet::Poll(set) => set.remove(key),
        }
    }

    /// The keys of some descriptors that are ready now; empty when none is.
    pub(crate) fn ready(&mut self) -> rustix::io::Result<Vec<u64>> {
        match self {
            #[cfg(all(target_os = "linux", not(jobserver_portable)))]
            ReadySet::Epoll(set) => set.ready(),
            ReadySet::Poll(set) => set.ready(),
        }
    }

    /// Whether it still hears of what it watches, as far as a look at its own descriptors tells.
    pub(crate) fn is_intact(&self) -> bool {
        match self {
            #[cfg(all(target_os = "linux", not(jobserver_portable)))]
            ReadySet::Epoll(set) => set.is_intact(),
            ReadySet::Poll(set) => set.is_intact(),
        }
    }

    /// Descriptors of which one is readable when something in the set is.
    pub(crate) fn watched(&self) -> Vec<Arc<Descriptor>> {
        match self {
            #[cfg(all(target_os = "linux", not(jobserver_portable)))]
            ReadySet::Epoll(set) => vec![set.descriptor()],
            ReadySet::Poll(set) => set.descriptors(),
        }
    }
}

/// What only the kernel's kind of set could get wrong.
#[cfg(all(test, target_os = "linux", not(jobserver_portable)))]
#[allow(clippy::unwrap_used)]
mod epoll_tests {
    use super::*;

    #[test]
    fn to_remove_what_is_closed_leaves_what_has_its_number_now() {
        let mut set = ReadySet::Epoll(epoll::Set::new().unwrap());
        let (closed, _) = crate::sys::pipe().unwrap();
        let (read, write) = crate::sys::pipe().unwrap();
        let closed = Arc::new(closed);
        set.add(&closed, 1).unwrap();
        let now = Arc::new(crate::sys::put_in_place_of(&closed, &read));
        set.add(&now, 2).unwrap();
        set.remove(&closed, 1);
        rustix::io::write(&write, b"x").unwrap();
        assert_eq!(set.ready().unwrap(), [2]);
    }
}

/// The behaviour that both kinds of set share, tested on each that this build has.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sets() -> Vec<ReadySet> {
        vec![
            #[cfg(all(target_os = "linux", not(jobserver_portable)))]
            ReadySet::Epoll(epoll::Set::new().unwrap()),
            ReadySet::Poll(poll::Set::default()),
        ]
    }

    #[test]
    fn only_what_is_ready_is_told_and_until_it_is_removed() {
        for mut set in sets() {
            let (quiet, _keep) = crate::sys::pipe().unwrap();
            let (loud, write) = crate::sys::pipe().unwrap();
            let (quiet, loud) = (Arc::new(quiet), Arc::new(loud));
            set.add(&quiet, 1).unwrap();
            set.add(&loud, 2).unwrap();
            assert!(set.ready().unwrap().is_empty());
            rustix::io::write(&write, b"x").unwrap();
            assert_eq!(set.ready().unwrap(), [2]);
            assert_eq!(set.ready().unwrap(), [2]);
            set.remove(&loud, 2);
            assert!(set.ready().unwrap().is_empty());
        }
    }

    #[test]
    fn the_end_of_a_writer_is_readiness() {
        for mut set in sets() {
            let (read, write) = crate::sys::pipe().unwrap();
            let read = Arc::new(read);
            set.add(&read, 7).unwrap();
            drop(write);
            assert_eq!(set.ready().unwrap(), [7]);
        }
    }
}

//! The idle workers of a tree of jobs: any owner of the tree can take one.
//!
//! An owner that needs its idle workers no more gives them here, for example a job at its end. A
//! worker is given as its owner's end of its channel, with its pid and pidfd, in a packet of a
//! socket pair, both ends of which each worker of the tree has. The fork server goes on reporting
//! how the worker ends, on the same channel.
//!
//! An idle worker that was given does not read an end of file when all owners have ended, because it
//! has the socket with the other end of its channel itself. It watches a lifeline of the process
//! that started the fork server, and leaves when that process ends, or has no use for the fork
//! server any more.

use crate::error::Result;
use crate::platform::Descriptor;
use crate::process::{Child, Lifeline};
use crate::wire::{Channel, Head, Received};
use rustix::fd::AsFd;
use std::sync::Arc;

/// The buffer size for a packet, in bytes.
const SHORT: usize = 64;

/// The workers that no owner has. All of them were prepared in the same way.
#[derive(Debug)]
pub struct IdleWorkers {
    to_give: Channel,
    to_take: Channel,
    /// It hangs up when no worker can be taken any more.
    lifeline: Arc<Descriptor>,
    /// The same, in the process that started the fork server.
    _ours: Option<Lifeline>,
}

impl IdleWorkers {
    /// No workers yet.
    pub fn new() -> Result<IdleWorkers> {
        let (to_give, to_take) = Channel::pair()?;
        let ours = Lifeline::new()?;
        let lifeline = Arc::clone(ours.read_end());
        Ok(IdleWorkers { to_give, to_take, lifeline, _ours: Some(ours) })
    }

    /// Those of the tree that has these [`IdleWorkers::descriptors`].
    pub fn join([to_give, to_take, lifeline]: [Descriptor; 3]) -> IdleWorkers {
        let [to_give, to_take] = [to_give, to_take].map(Channel::from_socket);
        IdleWorkers { to_give, to_take, lifeline: Arc::new(lifeline), _ours: None }
    }

    /// The descriptors by which other processes join.
    pub fn descriptors(&self) -> [&Descriptor; 3] {
        [self.to_give.as_descriptor(), self.to_take.as_descriptor(), &self.lifeline]
    }

    /// Hangs up when no worker can be taken any more.
    pub(crate) fn lifeline(&self) -> &Arc<Descriptor> {
        &self.lifeline
    }

    /// Gives a worker that has no job, and does not hang on its owner's lifeline. Returns false if
    /// there is no room; never waits.
    pub(crate) fn give(&self, channel: &Channel, child: &Child) -> bool {
        let pidfd = child.intact_watch().map(|watch| watch.as_fd());
        let fds: Vec<_> = [channel.as_descriptor().as_fd()].into_iter().chain(pidfd).collect();
        self.to_give.try_send(Head::Idle { pid: child.pid() }, &fds).is_ok()
    }

    /// Makes all of them end.
    pub(crate) fn dismiss(&self) {
        while let Some((channel, _)) = self.take() {
            channel.stop_sending();
        }
    }

    /// Makes all of them end. From now on none can be given.
    pub(crate) fn close(&self) {
        self.to_take.refuse();
        self.dismiss();
    }

    /// Takes a worker; None if there is none. It may have ended.
    pub(crate) fn take(&self) -> Option<(Channel, Child)> {
        if !self.to_take.as_descriptor().is_intact() {
            return None;
        }
        let Ok(Received::Frame(frame)) = self.to_take.try_receive(&mut [0; SHORT]) else {
            return None;
        };
        let mut fds = frame.descriptors.into_iter();
        // At the limit of descriptors some are missing, and the worker reads an end of file.
        match (frame.head, fds.next(), fds.next()) {
            (Head::Idle { pid }, Some(channel), pidfd) => {
                Some((Channel::from_socket(channel), Child::of_others(pid, pidfd)))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::process::getpid;

    /// What is there to be received; never waits.
    fn received(channel: &Channel) -> Received {
        channel.try_receive(&mut [0; SHORT]).unwrap()
    }

    #[test]
    fn a_worker_that_is_given_can_be_taken_once() {
        let idle = IdleWorkers::new().unwrap();
        assert!(idle.take().is_none());
        let (owner_end, job_end) = Channel::pair().unwrap();
        assert!(idle.give(&owner_end, &Child::of_others(getpid(), None)));
        drop(owner_end);
        let (taken, child) = idle.take().unwrap();
        assert_eq!(child.pid(), getpid());
        assert!(idle.take().is_none());
        taken.send(Head::Yielded, b"to it", &[]).unwrap();
        assert!(matches!(received(&job_end), Received::Frame(_)));
    }

    #[test]
    fn after_the_close_no_worker_can_be_given_and_those_that_were_have_ended() {
        let idle = IdleWorkers::new().unwrap();
        let pairs: Vec<_> = (0..3).map(|_| Channel::pair().unwrap()).collect();
        for (owner_end, _) in &pairs[..2] {
            assert!(idle.give(owner_end, &Child::of_others(getpid(), None)));
        }
        idle.close();
        assert!(!idle.give(&pairs[2].0, &Child::of_others(getpid(), None)));
        for (_, job_end) in &pairs[..2] {
            assert!(matches!(received(job_end), Received::EndOfFile));
        }
    }

    #[test]
    fn the_lifeline_hangs_up_with_the_maker_though_another_process_has_joined() {
        let idle = IdleWorkers::new().unwrap();
        let joined = IdleWorkers::join(idle.descriptors().map(|fd| fd.duplicate().unwrap()));
        assert!(!joined.lifeline().is_readable());
        drop(idle);
        assert!(joined.lifeline().is_readable());
    }

    #[test]
    fn a_worker_that_nobody_can_take_any_more_reads_an_end_of_file() {
        let idle = IdleWorkers::new().unwrap();
        let (owner_end, job_end) = Channel::pair().unwrap();
        assert!(idle.give(&owner_end, &Child::of_others(getpid(), None)));
        drop((owner_end, idle));
        assert!(matches!(received(&job_end), Received::EndOfFile));
    }
}

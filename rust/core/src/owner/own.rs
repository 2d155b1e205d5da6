//! A thread that waits for one job and handles its outcome itself. It polls that job's channel, while
//! the thread that leads (see `sleepers`) polls all others: the outcome wakes no second thread, which
//! would want the host's lock at the same moment.
//!
//! Nobody else polls the channel meanwhile. So such a thread runs no code of the host between the
//! two functions here: that code may wait for a thread that needs the outcome.

use super::jobs::{key, Jobs, CHANNEL};
use super::outcome::JobId;
use super::sleepers::{Sleep, Wants};
use crate::platform::Descriptor;
use std::sync::Arc;

/// A job's channel, whose input the table's ready set does not report.
#[derive(Debug)]
pub(super) struct OwnChannel {
    job: JobId,
    channel: Arc<Descriptor>,
}

impl OwnChannel {
    pub(super) fn channel(&self) -> Arc<Descriptor> {
        Arc::clone(&self.channel)
    }
}

impl<J> Jobs<J> {
    /// Takes the channel of the job that this sleep is for out of what others poll. None for a thread
    /// that would be the leader: others depend on it, so it polls all.
    pub(super) fn begin_own(&mut self, sleep: Sleep) -> Option<OwnChannel> {
        let Wants::Own(job) = sleep.wants else { return None };
        if !sleep.alone && !self.sleepers.is_led() {
            return None;
        }
        let channel = Arc::clone(self.process_of(job)?.channel.as_ref()?.socket());
        let muted = self.set.as_mut()?.mute(&channel, key(job.process(), CHANNEL), true);
        muted.then_some(OwnChannel { job, channel })
    }

    /// Receives what has come, for the next scan, and gives the channel back. In this order: input
    /// that is still there would wake the leader.
    pub(super) fn end_own(&mut self, OwnChannel { job, channel }: OwnChannel) {
        let number = job.process();
        let mut received = std::mem::take(&mut self.received);
        self.read_channel(number, &mut received);
        if received.iter().any(|finished| finished.id == job) {
            self.sleepers.handled = Some(job);
        }
        self.received = received;
        let now = self.processes.get(&number).and_then(|process| process.channel.as_ref());
        if now.is_some_and(|now| Arc::ptr_eq(now.socket(), &channel)) {
            let set = self.set.as_mut();
            // If it fails, the program has closed a descriptor: the next scan looks.
            self.lost |= set.is_some_and(|set| !set.mute(&channel, key(number, CHANNEL), false));
        }
    }
}

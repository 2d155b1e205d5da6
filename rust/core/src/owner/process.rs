//! A process of an owner's table: a worker, or a command, from its birth until it is reaped.

use super::outcome::{Finished, JobId, Outcome, Started};
use crate::process::Child;
use crate::slots::{Launched, Slot};
use crate::wire::{Body, Channel};

#[derive(Debug)]
pub(super) struct Process<J> {
    pub(super) child: Child,
    pub(super) channel: Option<Channel>,
    /// How many jobs it has been given.
    pub(super) jobs: u32,
    /// What the owner keeps for the job that it was given last, until that is told of.
    pub(super) job: Option<J>,
    /// Of that job.
    pub(super) slot: Option<Launched>,
    pub(super) state: State,
    /// It is to have no other job: this one was signalled, and the signal may arrive late.
    pub(super) signalled: bool,
    /// What it has said of its end, which is to come.
    pub(super) last_words: Option<Body>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It waits for a launch.
    Idle,
    /// It has a job of which nothing has been told yet.
    Running,
    /// Nothing more will be told of it: it is to end.
    Ending,
}

impl<J> Process<J> {
    /// One that waits for its first launch.
    pub(super) fn born(child: Child, channel: Option<Channel>) -> Process<J> {
        Process {
            child,
            channel,
            jobs: 0,
            job: None,
            slot: None,
            state: State::Idle,
            signalled: false,
            last_words: None,
        }
    }

    /// Whether this program has closed the channel.
    pub(super) fn is_lost(&self) -> bool {
        self.channel.as_ref().is_some_and(|channel| !channel.as_descriptor().is_intact())
    }

    /// Takes up another job, that it has been sent the launch of.
    pub(super) fn take_up(&mut self, number: u64, slot: Option<Slot>, job: J) -> Started {
        self.job = Some(job);
        self.slot = slot.map(|slot| slot.launched(&self.child, true));
        self.jobs += 1;
        self.state = State::Running;
        self.started(number)
    }

    /// The job that it was given last.
    pub(super) fn started(&self, number: u64) -> Started {
        Started { id: JobId::new(number, self.jobs), pid: self.child.pid() }
    }

    /// Its job has finished in this way: says so once, and gives the slot back. The process is to end
    /// then, unless it stays.
    pub(super) fn finish(
        &mut self,
        number: u64,
        outcome: Outcome,
        finished: &mut Vec<Finished<J>>,
    ) {
        if std::mem::replace(&mut self.state, State::Ending) != State::Running {
            return;
        }
        if let Some(slot) = &self.slot {
            slot.settle(false);
        }
        let id = JobId::new(number, self.jobs);
        finished.extend(self.job.take().map(|job| Finished { id, job, outcome }));
    }

    /// After its job: waits for another, if it may.
    pub(super) fn stay(&mut self) -> bool {
        self.slot = None; // its own no more, or it would not stay
        let stays = !self.signalled && self.jobs < u32::MAX;
        match stays {
            true => self.state = State::Idle,
            false => self.dismiss(),
        }
        stays
    }

    /// Has the process end, by the end of what it can receive.
    pub(super) fn dismiss(&mut self) {
        self.state = State::Ending;
        if let Some(channel) = &self.channel {
            channel.stop_sending();
        }
    }

    /// It has sent all that it will. (If it runs a job, its end will be what is told of that.)
    pub(super) fn has_gone_silent(&mut self) {
        if self.state == State::Idle {
            self.state = State::Ending;
        }
    }
}

//! A process of an owner's table: a worker, or a command, from its start until it is reaped.

use super::outcome::{Finished, JobId, Outcome, Started};
use crate::forkserver::ForkedBy;
use crate::platform::Descriptor;
use crate::process::Child;
use crate::slots::{Launched, Slot};
use crate::wire::{Body, Channel};

#[derive(Debug)]
pub(super) struct Process<J> {
    pub(super) child: Child,
    pub(super) channel: Option<Channel>,
    /// The fork server that has forked it, if one has.
    pub(super) forked_by: Option<ForkedBy>,
    /// The number of jobs that it got.
    pub(super) jobs: u32,
    /// The value that the owner keeps for its last job, until the outcome of that job is known.
    pub(super) job: Option<J>,
    /// The slot of that job.
    pub(super) slot: Option<Launched>,
    pub(super) state: ProcessState,
    /// Its exit wakes nobody; the owner looks for it at each scan.
    pub(super) exit_is_left: bool,
    /// It gets no other job: this one was signalled, and the signal may arrive late.
    pub(super) signalled: bool,
    /// The last words of its job, whose end is still to come.
    pub(super) last_words: Option<Body>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProcessState {
    /// It waits for a launch.
    Idle,
    /// It has a job whose outcome is not known yet.
    Running,
    /// It has no job any more, and ends.
    Ending,
}

impl<J> Process<J> {
    /// A process that waits for its first launch.
    pub(super) fn born(child: Child, channel: Option<Channel>) -> Process<J> {
        Process {
            child,
            channel,
            forked_by: None,
            jobs: 0,
            job: None,
            slot: None,
            state: ProcessState::Idle,
            exit_is_left: false,
            signalled: false,
            last_words: None,
        }
    }

    /// Whether it has had another owner.
    pub(super) fn had_owner(&self) -> bool {
        self.forked_by.as_ref().is_some_and(|by| by.had_owner)
    }

    /// Whether this program has closed the channel.
    pub(super) fn is_lost(&self) -> bool {
        self.channel.as_ref().is_some_and(|channel| !channel.as_descriptor().is_intact())
    }

    /// Whether it was forked by a fork server, and has ended, or no process would report how it
    /// ends. The fork server keeps its copy of the channel's end after its child has ended, so a
    /// send would not fail. After the end of the fork server itself, no other one reports exits of
    /// its children.
    pub(super) fn is_of_no_use(&self) -> bool {
        if self.child.is_ours() {
            return false;
        }
        let Some(by) = &self.forked_by else { return self.child.has_ended() };
        let Some(server) = by.server.upgrade() else { return true };
        // One system call in the usual case, before the checks one by one.
        let watched = self.child.watch().into_iter().map(|fd| &**fd).chain(server.watched());
        Descriptor::any_is_readable(watched)
            && (self.child.has_ended() || server.is_gone() && !server.is_lost())
    }

    /// Records another job, whose launch has been sent.
    pub(super) fn take_up(&mut self, number: u64, slot: Option<Slot>, job: J) -> Started {
        self.job = Some(job);
        self.slot = slot.map(|slot| slot.launched(&self.child, true));
        self.jobs += 1;
        self.state = ProcessState::Running;
        self.started(number)
    }

    /// The last job that it got.
    pub(super) fn started(&self, number: u64) -> Started {
        Started { id: JobId::new(number, self.jobs), pid: self.child.pid() }
    }

    /// Records the outcome of its job, once, and gives the slot back. The process ends then, unless
    /// it stays.
    pub(super) fn finish(
        &mut self,
        number: u64,
        outcome: Outcome,
        finished: &mut Vec<Finished<J>>,
    ) {
        if std::mem::replace(&mut self.state, ProcessState::Ending) != ProcessState::Running {
            return;
        }
        if let Some(slot) = &self.slot {
            slot.settle(false);
        }
        let id = JobId::new(number, self.jobs);
        finished.extend(self.job.take().map(|job| Finished { id, job, outcome }));
    }

    /// After its job: makes it idle if it may stay, otherwise dismisses it. Returns whether it
    /// stays.
    pub(super) fn stay(&mut self) -> bool {
        self.slot = None; // the worker has given it back, otherwise it would not stay
        let stays = !self.signalled && self.jobs < u32::MAX;
        match stays {
            true => self.state = ProcessState::Idle,
            false => self.dismiss(),
        }
        stays
    }

    /// Makes the process end: it reads an end of file on its channel.
    pub(super) fn dismiss(&mut self) {
        self.state = ProcessState::Ending;
        if let Some(channel) = &self.channel {
            channel.stop_sending();
        }
    }

    /// Gives the process to all owners of its tree. Returns false if they cannot use it: it was
    /// prepared for this owner; it has run no job yet, and so hangs on the owner's lifeline; or
    /// there is no room.
    pub(super) fn share(&self) -> bool {
        let alike = self.forked_by.as_ref().filter(|by| by.alike && self.jobs > 0);
        let server = alike.and_then(|by| by.server.upgrade());
        let idle = server.as_ref().and_then(|server| server.idle());
        let (Some(idle), Some(channel)) = (idle, &self.channel) else { return false };
        idle.give(channel, &self.child) // if it has ended, its next owner does not launch on it
    }

    /// Its descriptors, which a forked child closes.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = &Descriptor> {
        let shared = self.channel.iter().map(Channel::socket).chain(self.child.watch());
        let last_words = self.last_words.iter().filter_map(|words| match words {
            Body::Memory(file, _) => Some(file),
            Body::Inline(_) => None,
        });
        shared.map(|shared| &**shared).chain(last_words)
    }

    /// It sends no more frames. (If it runs a job, the outcome of that job is the process's end.)
    pub(super) fn has_gone_silent(&mut self) {
        if self.state == ProcessState::Idle {
            self.state = ProcessState::Ending;
        }
    }
}

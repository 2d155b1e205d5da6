//! The table of an owner's processes: it enters new processes, and collects results and exits.
//!
//! One scan looks at all ready descriptors and returns, once for each job, its outcome. A job's
//! slot goes back to its pool when its result is complete or its death is seen. The process itself
//! may run on: until a later scan reaps it; or, idle and without a slot, for another job, if the
//! result of its last job says that it stays. Not here: how a process is started, whether it stays,
//! and what a result means.
//!
//! The table is a plain value. Threads that share one lock it for each call, but not while they
//! sleep: see [`Jobs::begin_wait`].

use super::outcome::{Finished, JobId, Started};
use super::process::{Process, ProcessState};
use super::quiet::Quiet;
use super::sleepers::Sleepers;
use crate::error::{Error, Result};
use crate::forkserver::ForkedBy;
use crate::platform::{backend, close_inherited, is_still_ours, mark_inherited, ReadySet};
use crate::process::{getpid, leave_running, Child, Family, Kept, Pid, Signal};
use crate::slots::{Assignment, Launched, Slot};
use crate::wire::{Channel, Head};
use std::collections::{BTreeSet, HashMap};
use std::process::Command;
use std::sync::Arc;

/// One of a process's two descriptors; the low bit of its key in the ready set.
pub(super) const CHANNEL: u64 = 0;
pub(super) const EXIT: u64 = 1;

pub(super) fn key(process: u64, which: u64) -> u64 {
    process << 1 | which
}

/// The jobs of one owner, which keeps a `J` for each.
#[derive(Debug)]
pub struct Jobs<J = ()> {
    pub(super) set: Option<Box<dyn ReadySet>>,
    pub(super) processes: HashMap<u64, Process<J>>,
    /// The idle processes. The next launch goes to the last of them, which worked last: its memory
    /// is the warmest, and superfluous workers can end.
    pub(super) idle: Vec<u64>,
    /// Children whose exit no descriptor reports.
    pub(super) unwatched: BTreeSet<u64>,
    /// Children whose jobs are over, and whose exits wake nobody: see `leave_exit`.
    pub(super) ending: Vec<u64>,
    pub(super) next: u64,
    /// The process whose children they are; None until there is one.
    pub(super) owner: Option<Pid>,
    pub(super) changes: u64,
    pub(super) quiet: Quiet,
    /// This program has closed descriptors of the table: see `renew`.
    pub(super) lost: bool,
    /// The jobs that reported that they gave their slots away.
    pub(super) yielded: BTreeSet<JobId>,
    /// A process has stayed after a job, so answers may come within microseconds.
    pub(super) quick: bool,
    pub(super) sleepers: Sleepers,
    /// What a thread has received from the channel of its own job, for the next scan.
    pub(super) received: Vec<Finished<J>>,
    /// The buffer for received packets. It is kept, because new memory costs page faults.
    pub(super) buffer: Vec<u8>,
}

impl<J> Default for Jobs<J> {
    fn default() -> Self {
        Jobs {
            set: None,
            processes: HashMap::new(),
            idle: Vec::new(),
            unwatched: BTreeSet::new(),
            ending: Vec::new(),
            next: 0,
            owner: None,
            changes: 0,
            quiet: Quiet::default(),
            lost: false,
            yielded: BTreeSet::new(),
            quick: false,
            sleepers: Sleepers::default(),
            received: Vec::new(),
            buffer: Vec::new(),
        }
    }
}

impl Jobs {
    /// An empty table of an owner that keeps no values. It opens nothing until a process is
    /// started.
    pub fn new() -> Jobs {
        Jobs::default()
    }

    /// Starts a command on `slot`; its outcome will be [`super::Outcome::Ended`].
    pub fn spawn(&mut self, command: &mut Command, slot: Option<Slot>) -> Result<JobId> {
        if let Some(slot) = &slot {
            slot.launch();
        }
        let child = Child::spawn(command)?;
        let slot = slot.map(|slot| slot.launched(&child, false));
        Ok(self.enter_running(child, None, slot, || ())?.id)
    }
}

impl<J> Jobs<J> {
    /// The number of processes that run a job, that are to end, or that have ended and are not
    /// reaped.
    pub fn outstanding(&self) -> usize {
        self.processes.len() - self.idle.len()
    }

    /// The number of processes that wait for a launch.
    pub fn idle(&self) -> usize {
        self.idle.len()
    }

    /// The number of slots that jobs run on, as far as it is known. If this is the number of all
    /// slots, and the caller has a slot, then one of these jobs is about to send its result.
    pub fn on_slots(&self) -> usize {
        let running = |process: &&Process<J>| process.state == ProcessState::Running;
        let slots = self.processes.values().filter(running).filter_map(|it| it.slot.as_ref());
        slots.map(Launched::count).sum()
    }

    /// Whether a job has given its slot away while it waits, or while its process ends. That job,
    /// or a job that it waits for, needs a slot to go on: an owner that waits for it must not keep
    /// the last slot.
    pub fn any_has_yielded(&mut self) -> bool {
        let mut yielded = std::mem::take(&mut self.yielded);
        yielded.retain(|id| self.process_of(*id).is_some());
        self.yielded = yielded;
        !self.yielded.is_empty()
    }

    /// Whether a job runs that was started without a slot. It has none to lend to jobs of its own.
    pub fn any_without_slot(&self) -> bool {
        let without =
            |process: &Process<J>| process.state == ProcessState::Running && process.slot.is_none();
        self.processes.values().any(without)
    }

    /// The number of jobs whose outcomes are not known yet.
    pub fn unfinished(&self) -> usize {
        self.kept().count()
    }

    /// The values kept for the jobs whose outcomes are not known yet.
    pub fn kept(&self) -> impl Iterator<Item = &J> {
        self.processes.values().filter_map(|process| process.job.as_ref())
    }

    /// Takes the values kept for those jobs. Their outcomes will not be returned.
    pub fn take_kept(&mut self) -> Vec<J> {
        self.processes.values_mut().filter_map(|process| process.job.take()).collect()
    }

    /// Enters a job whose process has been started and has its work.
    ///
    /// If the system refuses to watch the process, this kills the process and returns the error.
    pub fn started(
        &mut self,
        channel: Channel,
        child: Child,
        slot: Option<Slot>,
        job: impl FnOnce() -> J,
    ) -> Result<Started> {
        let slot = slot.map(|slot| slot.launched(&child, true));
        self.enter_running(child, Some(channel), slot, job)
    }

    /// Enters a process that waits for its first launch, and the fork server that has forked it, if
    /// one has. Errors as for [`Jobs::started`].
    pub fn hired(
        &mut self,
        channel: Channel,
        child: Child,
        forked_by: Option<ForkedBy>,
    ) -> Result<()> {
        let born = Process::born(child, Some(channel));
        let number = self.enter(Process { forked_by, ..born })?;
        self.idle.push(number);
        Ok(())
    }

    fn enter_running(
        &mut self,
        child: Child,
        channel: Option<Channel>,
        slot: Option<Launched>,
        job: impl FnOnce() -> J,
    ) -> Result<Started> {
        let born = Process::born(child, channel);
        let process =
            Process { jobs: 1, slot, state: ProcessState::Running, job: Some(job()), ..born };
        let started = process.started(self.next);
        self.enter(process)?;
        Ok(started)
    }

    fn enter(&mut self, process: Process<J>) -> Result<u64> {
        let number = self.next;
        if let Err(e) = self.watch(number, &process.child, process.channel.as_ref()) {
            process.child.destroy();
            if let Some(slot) = process.slot {
                slot.settle(true);
            }
            return Err(Error::system("cannot watch a job")(e));
        }
        process.descriptors().for_each(mark_inherited);
        self.next += 1;
        // The descriptors of this process are to be checked too.
        self.quiet.end();
        self.owner.get_or_insert_with(getpid);
        self.processes.insert(number, process);
        let heard = self.set.as_ref().is_some_and(|set| set.grows_while_waited_for());
        if !heard || self.unwatched.contains(&number) {
            self.sleepers.ring_polling(); // they must watch this process too
        }
        Ok(number)
    }

    /// Launches a job on an idle process. None if there is none: hire one. `slot` is taken only if
    /// the job is launched. Without a slot, the job is launched on `without_slot`.
    ///
    /// `send` sends the launch, with this head. Its error is returned, and `slot` then still has
    /// the slot.
    pub fn launch(
        &mut self,
        slot: &mut Option<Slot>,
        without_slot: Assignment,
        job: impl FnOnce() -> J,
        mut send: impl FnMut(&Channel, Head) -> Result<()>,
    ) -> Result<Option<Started>> {
        if let Some(slot) = slot {
            slot.launch();
        }
        let assignment = slot.as_ref().map_or(without_slot, Slot::assignment);
        let head = Head::Launch { assignment };
        self.quiet.end();
        while let Some(number) = self.idle.pop() {
            let Some(process) = self.processes.get_mut(&number) else { continue };
            let is_new = process.jobs == 0 && !process.had_owner();
            if !is_new && process.is_of_no_use() {
                process.dismiss();
                continue;
            }
            let sent = process.channel.as_ref().map_or(Ok(()), |channel| send(channel, head));
            match sent {
                // It has ended and had no job: another process takes its place.
                Err(e) if e.is_hang_up() && !is_new => process.dismiss(),
                Err(e) if !e.is_hang_up() => {
                    process.dismiss();
                    return Err(e);
                }
                // The end of a new process is reported as a death. Otherwise new processes could be
                // hired without end.
                _ => return Ok(Some(process.take_up(number, slot.take(), job()))),
            }
        }
        Ok(None)
    }

    /// Gives the idle processes that other owners can use to all owners of their tree.
    pub fn share_idle(&mut self) {
        for number in std::mem::take(&mut self.idle) {
            if self.processes.get(&number).is_some_and(Process::share) {
                self.close_channel(number);
                self.processes.remove(&number);
            } else {
                self.idle.push(number);
            }
        }
    }

    /// Whether there are no processes.
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    /// Makes the idle processes end.
    pub fn dismiss_idle(&mut self) {
        for number in std::mem::take(&mut self.idle) {
            if let Some(process) = self.processes.get_mut(&number) {
                process.dismiss();
            }
        }
    }

    /// The table's ready set. Its first use also makes the bell of a first wait. So from the first
    /// job on, one thread's jobs need no more descriptors than their own.
    pub(super) fn set(&mut self) -> rustix::io::Result<&mut Box<dyn ReadySet>> {
        match &mut self.set {
            Some(set) => Ok(set),
            none => {
                let set = none.insert(backend().ready_set()?);
                self.sleepers.prepare();
                Ok(set)
            }
        }
    }

    pub(super) fn watch(
        &mut self,
        number: u64,
        child: &Child,
        channel: Option<&Channel>,
    ) -> rustix::io::Result<()> {
        if self.set.as_ref().is_some_and(|set| !set.is_intact()) {
            (self.set, self.lost) = (None, true); // another file has its number now
            self.sleepers.ring_polling();
        }
        let set = self.set()?;
        if let Some(channel) = channel {
            set.add(channel.socket(), key(number, CHANNEL))?;
        }
        match child.watch() {
            // The fork server reports the exits of its children on their channels.
            _ if !child.is_ours() => {}
            Some(exit) => {
                if let Err(e) = set.add(exit, key(number, EXIT)) {
                    if let Some(channel) = channel {
                        set.remove(channel.socket(), key(number, CHANNEL));
                    }
                    return Err(e);
                }
            }
            None => {
                self.unwatched.insert(number);
            }
        }
        Ok(())
    }

    /// The process of a job, unless it is idle, has another job now, or has been reaped.
    pub(super) fn process_of(&self, id: JobId) -> Option<&Process<J>> {
        self.processes.get(&id.process()).filter(|process| {
            process.state != ProcessState::Idle && JobId::new(id.process(), process.jobs) == id
        })
    }

    /// Sends a signal to a job. If the job has ended, does nothing.
    pub fn signal(&mut self, id: JobId, signal: Signal) -> Result<()> {
        self.last_job(id);
        self.process_of(id).map_or(Ok(()), |process| process.child.signal(signal))
    }

    /// Makes this job the last of its process.
    fn last_job(&mut self, id: JobId) {
        if self.process_of(id).is_some() {
            self.processes.entry(id.process()).and_modify(|process| process.signalled = true);
        }
    }

    /// The pid of a job that runs or is not reaped yet.
    pub fn pid(&self, id: JobId) -> Option<Pid> {
        self.process_of(id).map(|process| process.child.pid())
    }

    /// A job that runs or is not reaped yet, and all processes below it, to be signalled. Its
    /// process gets no other job.
    pub fn family(&mut self, id: JobId) -> Option<Family> {
        self.last_job(id);
        let Process { child, channel, .. } = self.process_of(id)?;
        // Otherwise the process, after its job, would wait for this owner, while this owner waits
        // for the end of the family.
        channel.iter().for_each(Channel::stop_sending);
        Some(Family::new(child.pid(), child.intact_watch().cloned()))
    }

    /// In the child of a fork: closes all that it inherited from the parent's table, and forgets the
    /// rest. The parent's jobs are not jobs of this process.
    ///
    /// Each page that this process writes to is copied first, so it neither frees the jobs nor
    /// changes them. Measured with 2,000 other jobs: to free them took a third of all that these
    /// jobs cost a fork.
    pub(super) fn leave_to_parent(&mut self) {
        let all = self.processes.values().flat_map(Process::descriptors);
        close_inherited(all.filter(|one| is_still_ours(one)));
        std::mem::forget(std::mem::take(&mut self.processes));
        self.abandon();
    }

    /// Closes everything, and empties the table.
    pub fn abandon(&mut self) {
        self.processes.clear();
        self.set = None;
        self.idle.clear();
        self.unwatched.clear();
        self.ending.clear();
        self.sleepers.clear();
        // The count goes on, for a caller that looked before this and waits after it.
        self.changes += 1;
    }

    /// Gives up the running processes: they run on to their ends, which are not reported, and
    /// `kept` is kept until then. (In a process that was forked from the owner, this only empties
    /// the table.)
    pub fn let_run_on(&mut self, kept: &Kept) {
        if self.owner != Some(getpid()) {
            return self.abandon();
        }
        for (_, mut process) in self.processes.drain() {
            if let Some(slot) = &process.slot {
                slot.disown();
            }
            // Its channel may be open in another process too, which was forked from this one.
            process.dismiss();
            leave_running(process.child, Some(Kept::clone(kept)));
        }
        self.abandon();
    }

    /// The owner's end of a job's channel, to send its launch on.
    pub fn channel(&self, id: JobId) -> Option<&Channel> {
        self.process_of(id)?.channel.as_ref()
    }
}

impl<J> Drop for Jobs<J> {
    fn drop(&mut self) {
        self.let_run_on(&(Arc::new(()) as Kept));
    }
}

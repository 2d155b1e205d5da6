//! The table of what an owner has running: births entered, results and ends noticed.
//!
//! One scan looks at all that is ready and says, once per job, what came of it. A job's
//! slot goes back to its pool as soon as its result is complete or its death is seen. The
//! process itself may live on: a little, until a later scan reaps it; or, idle and without a
//! slot, for another job, if its last one's result says that it stays. Not here: how a process
//! is born, whether it stays, and what a result means.
//!
//! The table is a plain value. Threads that share one lock it for each call, but not
//! while they sleep: see [`Jobs::begin_wait`].

use super::outcome::{JobId, Started};
use super::process::{Process, State};
use super::quiet::Quiet;
use crate::error::{Error, Result};
use crate::platform::{backend, ReadySet};
use crate::process::{getpid, leave, Child, Family, Kept, Pid, Signal};
use crate::slots::{Assignment, Launched, Slot};
use crate::wait::Bell;
use crate::wire::{Channel, Head};
use std::collections::{BTreeSet, HashMap};
use std::process::Command;
use std::sync::Arc;

/// Which of a process's two descriptors is ready; the low bit of its key in the ready set.
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
    /// Those that wait for a launch. The last to have worked is first in demand: its memory is
    /// the warmest, and those that are too many can leave.
    pub(super) idle: Vec<u64>,
    /// Children whose death no descriptor tells of.
    pub(super) unwatched: BTreeSet<u64>,
    pub(super) next: u64,
    /// The process whose children they are, once there have been any.
    pub(super) owner: Option<Pid>,
    pub(super) changes: u64,
    pub(super) quiet: Option<Quiet>,
    /// This program has closed descriptors of the table's: see `renew`.
    pub(super) lost: bool,
    /// The jobs that have said that they gave their slots away.
    pub(super) yielded: BTreeSet<JobId>,
    /// Some process has stayed after a job: answers may come within microseconds.
    pub(super) quick: bool,
    pub(super) waiting: Vec<Arc<Bell>>,
    pub(super) spare_bells: Vec<Arc<Bell>>,
    /// Where packets are received; kept, since fresh memory costs page faults.
    pub(super) buffer: Vec<u8>,
}

impl<J> Default for Jobs<J> {
    fn default() -> Self {
        Jobs {
            set: None,
            processes: HashMap::new(),
            idle: Vec::new(),
            unwatched: BTreeSet::new(),
            next: 0,
            owner: None,
            changes: 0,
            quiet: None,
            lost: false,
            yielded: BTreeSet::new(),
            quick: false,
            waiting: Vec::new(),
            spare_bells: Vec::new(),
            buffer: Vec::new(),
        }
    }
}

impl Jobs {
    /// An empty table, of an owner that keeps nothing; it costs nothing until something is started.
    pub fn new() -> Jobs {
        Jobs::default()
    }

    /// Starts a command under `slot`; its outcome will be [`super::Outcome::Ended`].
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
    /// How many processes run a job, or have ended or are to end and are not yet reaped.
    pub fn outstanding(&self) -> usize {
        self.processes.len() - self.idle.len()
    }

    /// How many processes wait for a launch.
    pub fn idle(&self) -> usize {
        self.idle.len()
    }

    /// How many jobs run on slots, as far as is known. If those are all the slots that there
    /// are, and the caller has one, then one of these jobs is about to send its result.
    pub fn on_slots(&self) -> usize {
        let on_slot =
            |process: &&Process<J>| process.state == State::Running && process.slot.is_some();
        self.processes.values().filter(on_slot).count()
    }

    /// Whether a job has given its slot away while it waits, or its process does so at its end. It, or
    /// what it waits for, will need one to go on: an owner that waits for it must not keep the last.
    pub fn any_has_yielded(&mut self) -> bool {
        let mut yielded = std::mem::take(&mut self.yielded);
        yielded.retain(|id| self.process_of(*id).is_some());
        self.yielded = yielded;
        !self.yielded.is_empty()
    }

    /// Whether a job runs that was started without a slot. It has none to lend to jobs of its own.
    pub fn any_without_slot(&self) -> bool {
        let without =
            |process: &Process<J>| process.state == State::Running && process.slot.is_none();
        self.processes.values().any(without)
    }

    /// How many jobs have not been told of yet.
    pub fn unfinished(&self) -> usize {
        self.kept().count()
    }

    /// What is kept for the jobs that have not been told of.
    pub fn kept(&self) -> impl Iterator<Item = &J> {
        self.processes.values().filter_map(|process| process.job.as_ref())
    }

    /// Keeps nothing for those jobs any more: they will not be told of.
    pub fn take_kept(&mut self) -> Vec<J> {
        self.processes.values_mut().filter_map(|process| process.job.take()).collect()
    }

    /// Enters a job whose process has been born, and knows what to do.
    ///
    /// If the system refuses to watch it, the process is ended and the error returned.
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

    /// Enters a process that waits for its first launch. Errors as [`Jobs::started`].
    pub fn hired(&mut self, channel: Channel, child: Child) -> Result<()> {
        let number = self.enter(Process::born(child, Some(channel)))?;
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
        let process = Process { jobs: 1, slot, state: State::Running, job: Some(job()), ..born };
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
        self.next += 1;
        self.owner.get_or_insert_with(getpid);
        self.processes.insert(number, process);
        let heard = self.set.as_ref().is_some_and(|set| set.grows_while_waited_for());
        if !heard || self.unwatched.contains(&number) {
            self.ring(); // waiting threads must watch, or look at, this one too
        }
        Ok(number)
    }

    /// Launches a job on a process that is idle. None if there is no such process: hire one. Only
    /// if there is, `slot` is taken. Without a slot, the job is launched on `without_slot`.
    ///
    /// `send` sends the launch, with this head; its error comes back, with the slot.
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
        while let Some(number) = self.idle.pop() {
            let Some(process) = self.processes.get_mut(&number) else { continue };
            // A fork server's end of the channel outlives its child, so that no error would tell.
            if process.jobs > 0 && !process.child.is_ours() && process.child.has_ended() {
                process.dismiss();
                continue;
            }
            let sent = process.channel.as_ref().map_or(Ok(()), |channel| send(channel, head));
            match sent {
                // It has left, or was killed, and had no job: another takes its place.
                Err(e) if e.is_hang_up() && process.jobs > 0 => process.dismiss(),
                Err(e) if !e.is_hang_up() => {
                    process.dismiss();
                    return Err(e);
                }
                // A new process that is gone already is told of as a death, lest there be no
                // end of new ones.
                _ => return Ok(Some(process.take_up(number, slot.take(), job()))),
            }
        }
        Ok(None)
    }

    /// Has the processes that are idle end.
    pub fn dismiss_idle(&mut self) {
        for number in std::mem::take(&mut self.idle) {
            if let Some(process) = self.processes.get_mut(&number) {
                process.dismiss();
            }
        }
    }

    /// The table's ready set, made when it is first needed, and with it the bell of a first wait:
    /// all that one thread's jobs ever need open beside their own is open from the first of them.
    pub(super) fn set(&mut self) -> rustix::io::Result<&mut Box<dyn ReadySet>> {
        match &mut self.set {
            Some(set) => Ok(set),
            none => {
                let set = none.insert(backend().ready_set()?);
                self.spare_bells.extend(Bell::new().ok().map(Arc::new));
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
            (self.set, self.lost) = (None, true); // what has its number is not to hear of this
        }
        let set = self.set()?;
        if let Some(channel) = channel {
            set.add(channel.socket(), key(number, CHANNEL))?;
        }
        match child.watch() {
            // The fork server tells of the deaths of its children on their channels.
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

    /// The process of a job, unless it is idle, or has had another since, or has been reaped.
    fn process_of(&self, id: JobId) -> Option<&Process<J>> {
        self.processes.get(&id.process()).filter(|process| {
            process.state != State::Idle && JobId::new(id.process(), process.jobs) == id
        })
    }

    /// Sends a signal to a job; one that has ended already is no error.
    pub fn signal(&mut self, id: JobId, signal: Signal) -> Result<()> {
        self.last_job(id);
        self.process_of(id).map_or(Ok(()), |process| process.child.signal(signal))
    }

    /// Sees to it that a job's process has no other job.
    fn last_job(&mut self, id: JobId) {
        if self.process_of(id).is_some() {
            self.processes.entry(id.process()).and_modify(|process| process.signalled = true);
        }
    }

    /// The pid of a job that is running or not yet reaped.
    pub fn pid(&self, id: JobId) -> Option<Pid> {
        self.process_of(id).map(|process| process.child.pid())
    }

    /// A job that is running or not yet reaped, and all that it has started: to be signalled,
    /// so that its process will have no other job.
    pub fn family(&mut self, id: JobId) -> Option<Family> {
        self.last_job(id);
        let Process { child, channel, .. } = self.process_of(id)?;
        // Or else, its job done, it would wait for us, and whoever ends the family for its end.
        channel.iter().for_each(Channel::stop_sending);
        Some(Family::new(child.pid(), child.intact_watch().cloned()))
    }

    /// In the child of a fork: closes all that was inherited from the parent's table, and
    /// leaves an empty one. The parent's jobs are not this process's.
    ///
    /// Emptied in place, since a large block that is freed has malloc tidy up all of its
    /// memory, and each page that is written to here is copied first.
    pub fn abandon(&mut self) {
        self.processes.clear(); // not forgotten, as a drop would have it: they are not ours
        self.set = None;
        self.idle.clear();
        self.unwatched.clear();
        self.waiting.clear();
        self.spare_bells.clear();
        // The count goes on, for who has looked before this and will wait after it.
        self.changes += 1;
    }

    /// Gives up what runs: it goes on to its end, which nobody is told of, and what is `kept` for
    /// it stays until then. (In a process that was forked from the owner's, nothing is ours.)
    pub fn let_run_on(&mut self, kept: &Kept) {
        if self.owner != Some(getpid()) {
            return self.abandon();
        }
        for (_, mut process) in self.processes.drain() {
            if let Some(slot) = &process.slot {
                slot.disown();
            }
            // Its channel may be open in another process too, that was forked from this one.
            process.dismiss();
            leave(process.child, Some(Kept::clone(kept)));
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

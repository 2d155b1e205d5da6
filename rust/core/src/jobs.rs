//! The table of what an owner has running: births entered, results and ends noticed.
//!
//! One scan looks at all that is ready and says, once per job, what came of it. A job's
//! slot goes back to its pool as soon as its result is complete or its death is seen; the
//! process itself may live on a little, and is reaped by a later scan. Not here: how a
//! process is born, and what a result means.
//!
//! The table is a plain value. Threads that share one lock it for each call, but not
//! while they sleep: see [`Jobs::begin_wait`].

use crate::channel::{Body, Channel, Frame, Kind, Received, PACKET};
use crate::error::{Error, Result};
use crate::process::{Child, ExitStatus, Family};
use crate::scan::{Bell, ReadySet, Wait, Woken, LOOK_AFTER};
use crate::slots::{Launched, Pool, PoolWait, Slot};
use rustix::process::{Pid, Signal};
use std::collections::{BTreeSet, HashMap};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

/// Names a job of one table; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub u64);

/// What came of a job.
#[derive(Debug)]
pub enum Outcome {
    /// It sent this result.
    Result(Body),
    /// It ended without having sent a result. (For a command, the normal end.)
    Ended(ExitStatus),
    /// It sent something that could not be received.
    Lost(Error),
}

/// A job about to be born: its channel is there, its process is not.
#[derive(Debug)]
pub struct Launch {
    /// The owner's end of the channel.
    pub owner_end: Channel,
    /// The job's end, to be inherited by or sent to the job's process.
    pub job_end: Channel,
}

impl Launch {
    /// Makes the channel of a job.
    pub fn new() -> Result<Launch> {
        let (owner_end, job_end) = Channel::pair()?;
        Ok(Launch { owner_end, job_end })
    }
}

#[derive(Debug)]
struct Job {
    child: Child,
    channel: Option<Channel>,
    slot: Option<Launched>,
    outcome_told: bool,
}

/// Which of a job's two descriptors is ready; the low bit of its key in the ready set.
const CHANNEL: u64 = 0;
const EXIT: u64 = 1;

fn key(id: JobId, which: u64) -> u64 {
    id.0 << 1 | which
}

/// A prepared wait of one thread; give it back with [`Jobs::end_wait`].
#[derive(Debug)]
pub struct Waiting {
    wait: Wait,
    bell: Option<Arc<Bell>>,
    _pool: Option<PoolWait>,
}

impl Waiting {
    /// Sleeps until a job or a slot is ready, another thread has handled something, a signal
    /// comes, or `deadline`.
    pub fn block(&self, deadline: Option<Instant>) -> Result<Woken> {
        self.wait.block(deadline)
    }
}

/// The jobs of one owner.
#[derive(Debug, Default)]
pub struct Jobs {
    set: Option<ReadySet>,
    jobs: HashMap<JobId, Job>,
    /// Children whose death no descriptor tells of.
    unwatched: BTreeSet<JobId>,
    next: u64,
    handled: u64,
    waiting: Vec<Arc<Bell>>,
    idle: Vec<Arc<Bell>>,
    /// Where packets are received; kept, since fresh memory costs page faults.
    buffer: Vec<u8>,
}

impl Jobs {
    /// An empty table; it costs nothing until something is started.
    pub fn new() -> Jobs {
        Jobs::default()
    }

    /// How many processes are running or not yet reaped.
    pub fn outstanding(&self) -> usize {
        self.jobs.len()
    }

    /// Starts a command under `slot`; its outcome will be [`Outcome::Ended`].
    pub fn spawn(&mut self, command: &mut Command, slot: Option<Slot>) -> Result<JobId> {
        if let Some(slot) = &slot {
            slot.launch();
        }
        let child = Child::spawn(command)?;
        let slot = slot.map(Slot::launched);
        if let Some(slot) = &slot {
            slot.born(child.pid(), false);
        }
        self.enter(child, None, slot)
    }

    /// Enters a job whose process has been born.
    ///
    /// If the system refuses to watch it, the process is ended and the error returned.
    pub fn started(&mut self, channel: Channel, child: Child, slot: Option<Slot>) -> Result<JobId> {
        let slot = slot.map(Slot::launched);
        if let Some(slot) = &slot {
            slot.born(child.pid(), true);
        }
        self.enter(child, Some(channel), slot)
    }

    fn enter(
        &mut self,
        child: Child,
        channel: Option<Channel>,
        slot: Option<Launched>,
    ) -> Result<JobId> {
        let id = JobId(self.next);
        if let Err(e) = self.watch(id, &child, channel.as_ref()) {
            let pid = child.pid();
            child.destroy();
            if let Some(slot) = slot {
                slot.settle(Some(pid));
            }
            return Err(Error::system("cannot watch a job")(e));
        }
        self.next += 1;
        self.jobs.insert(id, Job { child, channel, slot, outcome_told: false });
        if matches!(self.set, Some(ReadySet::Poll(_))) || self.unwatched.contains(&id) {
            self.ring(); // those who wait must watch, or look after, this one too
        }
        Ok(id)
    }

    fn watch(
        &mut self,
        id: JobId,
        child: &Child,
        channel: Option<&Channel>,
    ) -> rustix::io::Result<()> {
        let set = made(&mut self.set, &mut self.idle)?;
        if let Some(channel) = channel {
            set.add(channel.socket(), key(id, CHANNEL))?;
        }
        match child.watch() {
            // The fork server tells of the deaths of its children on their channels.
            _ if !child.is_ours() => {}
            Some(exit) => {
                if let Err(e) = set.add(exit, key(id, EXIT)) {
                    if let Some(channel) = channel {
                        set.remove(channel.socket(), key(id, CHANNEL));
                    }
                    return Err(e);
                }
            }
            None => {
                self.unwatched.insert(id);
            }
        }
        Ok(())
    }

    /// Looks, without blocking, at everything that is ready, and says what came of each
    /// job that has something to say.
    pub fn scan(&mut self) -> Result<Vec<(JobId, Outcome)>> {
        let mut news = Vec::new();
        let outstanding = self.jobs.len();
        if self.buffer.is_empty() {
            self.buffer = vec![0; PACKET];
        }
        while let Some(set) = &mut self.set {
            let ready = match set.ready() {
                Err(_) if !news.is_empty() => break, // the next scan will meet it too
                ready => ready.map_err(Error::system("cannot look at the jobs"))?,
            };
            if ready.is_empty() {
                break;
            }
            for key in ready {
                let id = JobId(key >> 1);
                match key & 1 {
                    CHANNEL => self.read_channel(id, &mut news),
                    _ => self.check_exit(id, &mut news),
                }
            }
        }
        for id in self.unwatched.iter().copied().collect::<Vec<_>>() {
            self.check_exit(id, &mut news);
        }
        // Also when a process was only reaped: somebody may wait for the last to be.
        if !news.is_empty() || self.jobs.len() < outstanding {
            self.wake();
        }
        Ok(news)
    }

    /// Takes in all that a job's channel holds.
    fn read_channel(&mut self, id: JobId, news: &mut Vec<(JobId, Outcome)>) {
        loop {
            let Some(job) = self.jobs.get_mut(&id) else { return };
            let Some(channel) = &job.channel else { return };
            let received = channel.try_receive(&mut self.buffer);
            let ours = job.child.is_ours();
            match received {
                Ok(Received::NothingYet) => return,
                Ok(Received::Frame(frame)) => match frame.kind {
                    Kind::Exited if !ours => {
                        let status =
                            frame.integers().map_or(ExitStatus::Unknown, ExitStatus::from_wire);
                        return self.ended(id, status, news);
                    }
                    _ => job.tell(id, Outcome::of(frame), news),
                },
                // With the fork server gone, nobody will ever say how its child ended.
                Ok(Received::EndOfFile) if !ours => {
                    return self.ended(id, ExitStatus::Unknown, news)
                }
                Ok(Received::EndOfFile) => return self.close_channel(id),
                Err(e) => job.tell(id, Outcome::Lost(e), news),
            }
            if ours && self.jobs.get(&id).is_some_and(|job| job.outcome_told) {
                return self.close_channel(id);
            }
        }
    }

    /// Reaps a direct child if it has ended.
    fn check_exit(&mut self, id: JobId, news: &mut Vec<(JobId, Outcome)>) {
        let Some(job) = self.jobs.get(&id) else { return };
        let status = match job.child.try_wait() {
            Ok(None) => return self.look_after(id),
            Ok(Some(status)) => status,
            Err(_) => ExitStatus::Unknown,
        };
        self.read_channel(id, news); // what it had sent before it ended comes first
        self.ended(id, status, news);
    }

    /// Watches no descriptor for a child's end any more, but looks. It may be dead and not
    /// ours to reap yet: a debugger that has attached to it is told first.
    fn look_after(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(&id) else { return };
        if let (Some(set), Some(exit)) = (&mut self.set, job.child.watch()) {
            if self.unwatched.insert(id) {
                set.remove(exit, key(id, EXIT));
                self.ring(); // who waits already must look now and then, from now on
            }
        }
    }

    fn ended(&mut self, id: JobId, status: ExitStatus, news: &mut Vec<(JobId, Outcome)>) {
        self.close_channel(id);
        let Some(mut job) = self.jobs.remove(&id) else { return };
        if let Some(slot) = &job.slot {
            slot.settle(Some(job.child.pid()));
        }
        job.tell(id, Outcome::Ended(status), news);
        let looked_after = self.unwatched.remove(&id) || !job.child.is_ours();
        if let (Some(set), Some(exit), false) = (&mut self.set, job.child.watch(), looked_after) {
            set.remove(exit, key(id, EXIT));
        }
    }

    fn close_channel(&mut self, id: JobId) {
        let Some(channel) = self.jobs.get_mut(&id).and_then(|job| job.channel.take()) else {
            return;
        };
        if let Some(set) = &mut self.set {
            set.remove(channel.socket(), key(id, CHANNEL));
        }
    }

    /// Sends a signal to a job; one that has ended already is no error.
    pub fn signal(&self, id: JobId, signal: Signal) -> Result<()> {
        self.jobs.get(&id).map_or(Ok(()), |job| job.child.signal(signal))
    }

    /// The pid of a job that is running or not yet reaped.
    pub fn pid(&self, id: JobId) -> Option<Pid> {
        self.jobs.get(&id).map(|job| job.child.pid())
    }

    /// A job that is running or not yet reaped, and all that it has started.
    pub fn family(&self, id: JobId) -> Option<Family> {
        self.jobs.get(&id).map(|job| Family::of(job.child.pid(), job.child.watch().cloned()))
    }

    /// Gives up a job that could not be told what to run: its slot goes back, its channel
    /// closes (at which the job ends), and nothing more is told of it.
    pub fn cancel(&mut self, id: JobId) {
        self.close_channel(id);
        if let Some(job) = self.jobs.get_mut(&id) {
            if let Some(slot) = job.slot.take() {
                slot.settle(None);
            }
            job.outcome_told = true;
            if !job.child.is_ours() {
                self.jobs.remove(&id);
            }
        }
    }

    /// How often a scan has changed anything so far: pass it to [`Jobs::begin_wait`].
    pub fn handled(&self) -> u64 {
        self.handled
    }

    /// Prepares a wait, to be slept through without a lock on the table.
    ///
    /// None, and nothing to wait for, if a scan has changed something since `handled`: what
    /// the caller wants may have happened. So: read [`Jobs::handled`], look for
    /// what you want, and only then wait. Where another thread's scan finds what you want,
    /// that thread must call [`Jobs::wake`] once it has put it where you look.
    ///
    /// With a `pool`, the wait ends also when a slot of it may be free.
    pub fn begin_wait(&mut self, handled: u64, pool: Option<&Pool>) -> Result<Option<Waiting>> {
        if handled != self.handled {
            return Ok(None);
        }
        // Made now if it has not been: what another thread starts meanwhile must wake us.
        let set = made(&mut self.set, &mut self.idle);
        let mut descriptors = set.map_err(Error::system("cannot wait for jobs"))?.watched();
        // At the limit of descriptors we do without, and look now and then instead.
        let bell = self.idle.pop().or_else(|| Bell::new().ok().map(Arc::new));
        descriptors.extend(bell.iter().map(|bell| Arc::clone(&bell.read)));
        let must_look = bell.is_none() || !self.unwatched.is_empty();
        let mut look_after = must_look.then_some(LOOK_AFTER);
        let pool = pool.map(Pool::begin_wait);
        if let Some(pool) = &pool {
            descriptors.extend(pool.descriptors.iter().cloned());
            look_after = look_after.or(pool.look_after);
        }
        self.waiting.extend(bell.clone());
        Ok(Some(Waiting { wait: Wait { descriptors, look_after }, bell, _pool: pool }))
    }

    /// Ends a wait.
    pub fn end_wait(&mut self, waiting: Waiting) {
        let Some(bell) = waiting.bell else { return };
        let before = self.waiting.len();
        self.waiting.retain(|other| !Arc::ptr_eq(other, &bell));
        if self.waiting.len() < before {
            self.idle.push(bell); // else it has been rung, and would ring again: let it go
        }
    }

    /// Waits for something to be ready: a job, a free slot of `pool` if given, `deadline`.
    /// For a table that no other thread uses.
    pub fn wait(&mut self, pool: Option<&Pool>, deadline: Option<Instant>) -> Result<Woken> {
        let Some(waiting) = self.begin_wait(self.handled, pool)? else { return Ok(Woken::Ready) };
        let woken = waiting.block(deadline);
        self.end_wait(waiting);
        woken
    }

    /// Wakes every wait that has begun, as if a scan had changed something.
    pub fn wake(&mut self) {
        self.handled += 1;
        self.ring();
    }

    fn ring(&mut self) {
        for bell in self.waiting.drain(..) {
            bell.ring();
        }
    }

    /// In the child of a fork: closes all that was inherited from the parent's table, and
    /// leaves an empty one. The parent's jobs are not this process's.
    ///
    /// Emptied in place, since a large block that is freed has malloc tidy up all of its
    /// memory, and each page that is written to here is copied first.
    pub fn abandon(&mut self) {
        self.jobs.clear(); // not forgotten, as a drop would have it: they are not ours
        self.set = None;
        self.unwatched.clear();
        self.waiting.clear();
        self.idle.clear();
        // The count goes on, for who has looked before this and will wait after it.
        self.handled += 1;
    }

    /// What names the slot of a job to the job itself; 0 if it runs without one.
    pub fn slot_word(&self, id: JobId) -> u64 {
        let slot = self.jobs.get(&id).and_then(|job| job.slot.as_ref());
        slot.map_or(0, Launched::to_word)
    }

    /// The owner's end of a job's channel, to send its launch on.
    pub fn channel(&self, id: JobId) -> Option<&Channel> {
        self.jobs.get(&id)?.channel.as_ref()
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        for (_, job) in self.jobs.drain() {
            if let Some(slot) = &job.slot {
                slot.disown();
            }
            job.child.forget();
        }
    }
}

/// The table's ready set, made when it is first needed, and with it the bell of a first wait:
/// all that one thread's jobs ever need open beside their own is open from the first of them.
fn made<'a>(
    set: &'a mut Option<ReadySet>,
    idle: &mut Vec<Arc<Bell>>,
) -> rustix::io::Result<&'a mut ReadySet> {
    match set {
        Some(set) => Ok(set),
        none => {
            let made = none.insert(ReadySet::new()?);
            idle.extend(Bell::new().ok().map(Arc::new));
            Ok(made)
        }
    }
}

impl Job {
    /// Tells a job's outcome, once, and gives its slot back.
    fn tell(&mut self, id: JobId, outcome: Outcome, news: &mut Vec<(JobId, Outcome)>) {
        if !std::mem::replace(&mut self.outcome_told, true) {
            if let Some(slot) = &self.slot {
                slot.settle(None);
            }
            news.push((id, outcome));
        }
    }
}

impl Outcome {
    fn of(frame: Frame) -> Outcome {
        match frame.kind {
            Kind::Result => Outcome::Result(frame.body),
            _ => Outcome::Lost(Error::new(
                crate::error::ErrorKind::Protocol,
                "a job sent something that is not a result",
            )),
        }
    }
}

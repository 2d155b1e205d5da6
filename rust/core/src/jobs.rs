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

use crate::channel::{Body, Channel, Frame, Head, Kind, Received, PACKET, STAYS};
use crate::error::{Error, ErrorKind, Result};
use crate::process::{leave, Child, ExitStatus, Family, Kept};
use crate::scan::{Bell, ReadySet, Wait, Woken, AT_ONCE, LOOK_AFTER};
use crate::slots::{Launched, Pool, PoolWait, Slot};
use crate::sys::getpid;
use crate::sys::Undisturbed;
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use std::collections::{BTreeSet, HashMap};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Names a job of one table; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub u64);

impl JobId {
    /// The `number`th job of a process, counted from 1.
    fn of(process: u64, number: u32) -> JobId {
        JobId(process << 32 | u64::from(number))
    }

    fn process(self) -> u64 {
        self.0 >> 32
    }
}

/// What came of a job.
#[derive(Debug)]
pub enum Outcome {
    /// It sent this result.
    Result(Body),
    /// It ended without having sent a result, and had said this of its end before. (For a command,
    /// which says nothing, the normal end.)
    Ended(ExitStatus, Option<Body>),
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
struct Process {
    child: Child,
    channel: Option<Channel>,
    /// How many jobs it has been given.
    jobs: u32,
    /// Of the job that it was given last.
    slot: Option<Launched>,
    state: State,
    /// It is to have no other job: this one was signalled, and who knows when that arrives.
    signalled: bool,
    /// What it has said of its end, which is to come.
    last_words: Option<Body>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It waits for a launch.
    Idle,
    /// It has a job of which nothing has been told yet.
    Running,
    /// Nothing more will be told of it: it is to end.
    Ending,
}

/// Which of a process's two descriptors is ready; the low bit of its key in the ready set.
const CHANNEL: u64 = 0;
const EXIT: u64 = 1;

fn key(process: u64, which: u64) -> u64 {
    process << 1 | which
}

/// A prepared wait of one thread; give it back with [`Jobs::end_wait`].
#[derive(Debug)]
pub struct Waiting {
    wait: Wait,
    quick: bool,
    bell: Option<Arc<Bell>>,
    pool: Option<PoolWait>,
    /// It has found that this program has closed something that it would have waited for.
    lost: AtomicBool,
}

impl Waiting {
    /// Where that may pay, looks for a moment whether a sleep is needed: whether something is
    /// ready. Then look for signals, and sleep.
    pub fn spin(&self) -> bool {
        self.quick && self.wait.spin_intact()
    }

    /// Sleeps until a job or a slot is ready, another thread has handled something, a signal
    /// comes, or `deadline`.
    pub fn block(&self, deadline: Option<Instant>) -> Result<Woken> {
        match self.wait.block(deadline) {
            Err(e) if e.kind() == ErrorKind::DescriptorLost => {
                self.lost.store(true, Ordering::Relaxed);
                // If it is the table's, the next scan sees to it.
                let pool = self.pool.as_ref().is_none_or(PoolWait::mend);
                if pool {
                    Ok(Woken::Ready)
                } else {
                    Err(e)
                }
            }
            woken => woken,
        }
    }
}

/// A time in which no news have come. It may be that none can: this program may have closed what
/// they would come by, of which the kernel says nothing. So once in such a time everything is
/// looked at; each time, it would cost each job as much as there are others.
#[derive(Debug)]
struct Quiet {
    since: Instant,
    handled: u64,
    looked: bool,
}

/// After how long.
const LOOK_OVER_AFTER: Duration = Duration::from_secs(1);

/// The jobs of one owner.
#[derive(Debug, Default)]
pub struct Jobs {
    set: Option<ReadySet>,
    processes: HashMap<u64, Process>,
    /// Those that wait for a launch. The last to have worked is first in demand: its memory is
    /// the warmest, and those that are too many can leave.
    idle: Vec<u64>,
    /// Children whose death no descriptor tells of.
    unwatched: BTreeSet<u64>,
    next: u64,
    /// The process whose children they are, once there have been any.
    owner: Option<Pid>,
    handled: u64,
    quiet: Option<Quiet>,
    /// This program has closed descriptors of the table's: see `renew`.
    lost: bool,
    /// The jobs that have said that they gave their slots away.
    yielded: BTreeSet<JobId>,
    /// Some process has stayed after a job: answers may come within microseconds.
    quick: bool,
    waiting: Vec<Arc<Bell>>,
    spare_bells: Vec<Arc<Bell>>,
    /// Where packets are received; kept, since fresh memory costs page faults.
    buffer: Vec<u8>,
}

impl Jobs {
    /// An empty table; it costs nothing until something is started.
    pub fn new() -> Jobs {
        Jobs::default()
    }

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
            |process: &&Process| process.state == State::Running && process.slot.is_some();
        self.processes.values().filter(on_slot).count()
    }

    /// Whether a job has given its slot away while it waits, or its process does so at its end. It, or
    /// what it waits for, will need one to go on: an owner that waits for it must not keep the last.
    pub fn any_has_yielded(&mut self) -> bool {
        let mut yielded = std::mem::take(&mut self.yielded);
        yielded.retain(|id| self.of(*id).is_some());
        self.yielded = yielded;
        !self.yielded.is_empty()
    }

    /// Whether a job runs that was started without a slot. It has none to lend to jobs of its own.
    pub fn any_without_slot(&self) -> bool {
        let without = |process: &Process| process.state == State::Running && process.slot.is_none();
        self.processes.values().any(without)
    }

    /// Starts a command under `slot`; its outcome will be [`Outcome::Ended`].
    pub fn spawn(&mut self, command: &mut Command, slot: Option<Slot>) -> Result<JobId> {
        if let Some(slot) = &slot {
            slot.launch();
        }
        let child = Child::spawn(command)?;
        let slot = slot.map(|slot| slot.launched(&child, false));
        self.enter_running(child, None, slot)
    }

    /// Enters a job whose process has been born, and knows what to do.
    ///
    /// If the system refuses to watch it, the process is ended and the error returned.
    pub fn started(&mut self, channel: Channel, child: Child, slot: Option<Slot>) -> Result<JobId> {
        let slot = slot.map(|slot| slot.launched(&child, true));
        self.enter_running(child, Some(channel), slot)
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
    ) -> Result<JobId> {
        let born = Process::born(child, channel);
        let number = self.enter(Process { jobs: 1, slot, state: State::Running, ..born })?;
        Ok(JobId::of(number, 1))
    }

    fn enter(&mut self, process: Process) -> Result<u64> {
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
        if matches!(self.set, Some(ReadySet::Poll(_))) || self.unwatched.contains(&number) {
            self.ring(); // those who wait must watch, or look after, this one too
        }
        Ok(number)
    }

    /// Launches a job on a process that is idle. None if there is no such process: hire one. Only
    /// if there is, `slot` is taken.
    ///
    /// `send` sends the launch, with this head; its error comes back, with the slot.
    pub fn launch(
        &mut self,
        slot: &mut Option<Slot>,
        mut send: impl FnMut(&Channel, Head) -> Result<()>,
    ) -> Result<Option<JobId>> {
        if let Some(slot) = slot {
            slot.launch();
        }
        let head =
            Head { kind: Kind::Launch, word: slot.as_ref().map_or(0, |slot| slot.to_word()) };
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
                _ => return Ok(Some(process.take_up(number, slot.take()))),
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

    fn watch(
        &mut self,
        number: u64,
        child: &Child,
        channel: Option<&Channel>,
    ) -> rustix::io::Result<()> {
        if self.set.as_ref().is_some_and(|set| !set.is_intact()) {
            (self.set, self.lost) = (None, true); // what has its number is not to hear of this
        }
        let set = made(&mut self.set, &mut self.spare_bells)?;
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

    /// Looks, without blocking, at everything that is ready, and says what came of each
    /// job that has something to say.
    pub fn scan(&mut self) -> Result<Vec<(JobId, Outcome)>> {
        let _undisturbed = Undisturbed::begin();
        let mut news = Vec::new();
        let (there, yielded) = (self.processes.len(), self.yielded.len());
        if self.buffer.is_empty() {
            self.buffer = vec![0; PACKET];
        }
        if self.lost {
            self.renew(&mut news)?;
        }
        while let Some(set) = &mut self.set {
            let ready = match set.ready() {
                Err(_) if !news.is_empty() => break, // the next scan will meet it too
                Err(_) if !set.is_intact() => {
                    self.renew(&mut news)?;
                    continue;
                }
                ready => ready.map_err(Error::system("cannot look at the jobs"))?,
            };
            if ready.is_empty() {
                break;
            }
            let these_are_all = ready.len() != AT_ONCE;
            for key in ready {
                match key & 1 {
                    CHANNEL => self.read_channel(key >> 1, &mut news),
                    _ => self.check_exit(key >> 1, &mut news),
                }
            }
            if these_are_all {
                break;
            }
        }
        for number in self.unwatched.iter().copied().collect::<Vec<_>>() {
            self.check_exit(number, &mut news);
        }
        // Also when a process was only reaped: somebody may wait for the last to be.
        // And when one has yielded: those who wait for it may have to do so too.
        if !news.is_empty() || self.processes.len() < there || self.yielded.len() > yielded {
            self.wake();
        }
        Ok(news)
    }

    /// Takes in all that a process's channel holds.
    fn read_channel(&mut self, number: u64, news: &mut Vec<(JobId, Outcome)>) {
        loop {
            let Some(process) = self.processes.get_mut(&number) else { return };
            let Some(channel) = &process.channel else { return };
            let received = channel.try_receive(&mut self.buffer);
            let ours = process.child.is_ours();
            match received {
                Ok(Received::NothingYet) => return,
                Ok(Received::Frame(frame)) => match frame.kind {
                    Kind::Exited if !ours => {
                        let status =
                            frame.integers().map_or(ExitStatus::Unknown, ExitStatus::from_wire);
                        return self.ended(number, status, news);
                    }
                    Kind::Result if frame.word == STAYS && process.state == State::Running => {
                        process.last_words = None;
                        process.tell(number, Outcome::of(frame), news);
                        if process.stay() {
                            self.idle.push(number);
                            self.quick = true;
                        }
                        return; // who is idle waits for us
                    }
                    Kind::Yielded => {
                        self.yielded.insert(JobId::of(number, process.jobs));
                        continue;
                    }
                    Kind::LastWords => {
                        process.last_words = Some(frame.body);
                        continue;
                    }
                    _ => process.tell(number, Outcome::of(frame), news),
                },
                // With the fork server gone, nobody will ever say how its child ended.
                Ok(Received::EndOfFile) if !ours => {
                    return self.ended(number, ExitStatus::Unknown, news)
                }
                Ok(Received::EndOfFile) => {
                    process.leave();
                    self.idle.retain(|idle| *idle != number);
                    return self.close_channel(number);
                }
                Err(e) if e.kind() == ErrorKind::DescriptorLost => {
                    return self.lose(number, e, news)
                }
                Err(e) => process.tell(number, Outcome::Lost(e), news),
            }
            // (Who is idle has nothing to say, and is to go.) If it means to stay, it has to be told
            // otherwise: of what could not be received, or had been told already, that is unknown.
            process.dismiss();
            self.idle.retain(|idle| *idle != number);
            if ours {
                return self.close_channel(number);
            }
        }
    }

    /// After this program has closed descriptors of the table's: tells of the processes that can
    /// be heard of no more, and watches the others by a new set. (The old one may be another's, or
    /// tell for ever of what is gone.)
    fn renew(&mut self, news: &mut Vec<(JobId, Outcome)>) -> Result<()> {
        (self.set, self.lost) = (None, true);
        self.spare_bells.retain(|bell| bell.is_intact());
        for number in self.processes.keys().copied().collect::<Vec<_>>() {
            if self.processes.get(&number).is_some_and(Process::is_lost) {
                let lost = Error::system("cannot hear of a job any more")(Errno::BADF);
                self.lose(number, lost, news);
            }
            let Some(mut process) = self.processes.remove(&number) else { continue };
            process.child.look_to_watch();
            let watched = self.watch(number, &process.child, process.channel.as_ref());
            self.processes.insert(number, process);
            watched.map_err(Error::system("cannot watch the jobs"))?;
        }
        self.lost = false;
        Ok(())
    }

    /// Gives up a process whose channel is closed, or another file. It is ended, as it would be
    /// with its owner: nobody can hear of it, nor has a Future to do so.
    fn lose(&mut self, number: u64, error: Error, news: &mut Vec<(JobId, Outcome)>) {
        let Some(process) = self.processes.get_mut(&number) else { return };
        process.child.end();
        process.tell(number, Outcome::Lost(error), news);
        process.dismiss();
        let ours = process.child.is_ours();
        // Nobody will say when it has ended: that is for all to see.
        let slot = if ours { None } else { process.slot.take() };
        slot.iter().for_each(Launched::disown);
        self.idle.retain(|idle| *idle != number);
        self.close_channel(number);
        if !ours {
            self.ended(number, ExitStatus::Unknown, news);
        }
    }

    /// Reaps a direct child if it has ended.
    fn check_exit(&mut self, number: u64, news: &mut Vec<(JobId, Outcome)>) {
        let Some(process) = self.processes.get(&number) else { return };
        let status = match process.child.try_wait() {
            Ok(None) => return self.look_after(number),
            Ok(Some(status)) => status,
            Err(_) => ExitStatus::Unknown,
        };
        self.read_channel(number, news); // what it had sent before it ended comes first
        self.ended(number, status, news);
    }

    /// Watches no descriptor for a child's end any more, but looks. It may be dead and not
    /// ours to reap yet: a debugger that has attached to it is told first.
    fn look_after(&mut self, number: u64) {
        let Some(process) = self.processes.get(&number) else { return };
        if let (Some(set), Some(exit)) = (&mut self.set, process.child.watch()) {
            if self.unwatched.insert(number) {
                set.remove(exit, key(number, EXIT));
                self.ring(); // who waits already must look now and then, from now on
            }
        }
    }

    fn ended(&mut self, number: u64, status: ExitStatus, news: &mut Vec<(JobId, Outcome)>) {
        self.close_channel(number);
        let Some(mut process) = self.processes.remove(&number) else { return };
        if let Some(slot) = &process.slot {
            slot.settle(true);
        }
        self.idle.retain(|idle| *idle != number);
        let last_words = process.last_words.take();
        process.tell(number, Outcome::Ended(status, last_words), news);
        let looked_after = self.unwatched.remove(&number) || !process.child.is_ours();
        let watch = process.child.watch();
        if let (Some(set), Some(exit), false) = (&mut self.set, watch, looked_after) {
            set.remove(exit, key(number, EXIT));
        }
    }

    fn close_channel(&mut self, number: u64) {
        let process = self.processes.get_mut(&number);
        let Some(channel) = process.and_then(|process| process.channel.take()) else { return };
        if let Some(set) = &mut self.set {
            set.remove(channel.socket(), key(number, CHANNEL));
        }
    }

    /// The process of a job, unless it is idle, or has had another since, or has been reaped.
    fn of(&self, id: JobId) -> Option<&Process> {
        self.processes.get(&id.process()).filter(|process| {
            process.state != State::Idle && JobId::of(id.process(), process.jobs) == id
        })
    }

    /// Sends a signal to a job; one that has ended already is no error.
    pub fn signal(&mut self, id: JobId, signal: Signal) -> Result<()> {
        self.last_job(id);
        self.of(id).map_or(Ok(()), |process| process.child.signal(signal))
    }

    /// Sees to it that a job's process has no other job.
    fn last_job(&mut self, id: JobId) {
        if self.of(id).is_some() {
            self.processes.entry(id.process()).and_modify(|process| process.signalled = true);
        }
    }

    /// The pid of a job that is running or not yet reaped.
    pub fn pid(&self, id: JobId) -> Option<Pid> {
        self.of(id).map(|process| process.child.pid())
    }

    /// A job that is running or not yet reaped, and all that it has started: to be signalled,
    /// so that its process will have no other job.
    pub fn family(&mut self, id: JobId) -> Option<Family> {
        self.last_job(id);
        let Process { child, channel, .. } = self.of(id)?;
        // Or else, its job done, it would wait for us, and whoever ends the family for its end.
        channel.iter().for_each(Channel::finish);
        Some(Family::of(child.pid(), child.intact_watch().cloned()))
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
        let heard = self.quiet.as_ref().is_none_or(|quiet| quiet.handled != handled);
        let look_over = self.look_over();
        if self.lost {
            return Ok(None);
        }
        // Made now if it has not been: what another thread starts meanwhile must wake us.
        let set = made(&mut self.set, &mut self.spare_bells);
        let mut descriptors = set.map_err(Error::system("cannot wait for jobs"))?.watched();
        // At the limit of descriptors we do without, and look now and then instead.
        let bell = self.spare_bells.pop().or_else(|| Bell::new().ok().map(Arc::new));
        descriptors.extend(bell.iter().map(|bell| Arc::clone(&bell.read)));
        let must_look = bell.is_none() || !self.unwatched.is_empty();
        let look_after = must_look.then_some(LOOK_AFTER);
        let mut look_after = look_after.into_iter().chain(look_over).min();
        let pool = pool.map(Pool::begin_wait);
        let mut pipes = Vec::new();
        if let Some(pool) = &pool {
            pipes.push(Arc::clone(&pool.pipe));
            descriptors.extend(pool.descriptors.iter().cloned());
            look_after = look_after.into_iter().chain(pool.look_after).min();
        }
        self.waiting.extend(bell.clone());
        let wait = Wait::new(descriptors, look_after).or_token(pipes);
        let wait = if heard && look_over.is_some() { wait.briefly() } else { wait };
        let lost = AtomicBool::new(false);
        Ok(Some(Waiting { wait, quick: self.quick, bell, pool, lost }))
    }

    /// In a quiet time, looks once whether news can still come. When to be here again for that.
    fn look_over(&mut self) -> Option<Duration> {
        if self.processes.is_empty() {
            return None;
        }
        let (now, handled) = (Instant::now(), self.handled);
        let quiet = self.quiet.take().filter(|quiet| quiet.handled == handled);
        let quiet =
            self.quiet.insert(quiet.unwrap_or(Quiet { since: now, handled, looked: false }));
        if quiet.looked {
            return None;
        }
        let left = LOOK_OVER_AFTER.saturating_sub(now - quiet.since);
        if left.is_zero() {
            quiet.looked = true;
            let lost = |process: &Process| process.is_lost() || process.child.is_lost();
            self.lost |= self.processes.values().any(lost);
        }
        Some(left).filter(|left| !left.is_zero())
    }

    /// Ends a wait.
    pub fn end_wait(&mut self, waiting: Waiting) {
        self.lost |= waiting.lost.into_inner();
        let Some(bell) = waiting.bell else { return };
        let before = self.waiting.len();
        self.waiting.retain(|other| !Arc::ptr_eq(other, &bell));
        if self.waiting.len() < before {
            self.spare_bells.push(bell); // else it has been rung, and would ring again: let it go
        }
    }

    /// Waits for something to be ready: a job, a free slot of `pool` if given, `deadline`.
    /// For a table that no other thread uses.
    pub fn wait(&mut self, pool: Option<&Pool>, deadline: Option<Instant>) -> Result<Woken> {
        let Some(waiting) = self.begin_wait(self.handled, pool)? else { return Ok(Woken::Ready) };
        let woken = loop {
            match waiting.block(deadline) {
                Ok(Woken::Missed) => {}
                woken => break woken,
            }
        };
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
        self.processes.clear(); // not forgotten, as a drop would have it: they are not ours
        self.set = None;
        self.idle.clear();
        self.unwatched.clear();
        self.waiting.clear();
        self.spare_bells.clear();
        // The count goes on, for who has looked before this and will wait after it.
        self.handled += 1;
    }

    /// Gives up what runs: it goes on to its end, which nobody is told of, and what is `kept` for
    /// it stays until then. (In a process that was forked from the owner's, nothing is ours.)
    pub fn leave(&mut self, kept: &Kept) {
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
        self.of(id)?.channel.as_ref()
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        self.leave(&(Arc::new(()) as Kept));
    }
}

/// The table's ready set, made when it is first needed, and with it the bell of a first wait:
/// all that one thread's jobs ever need open beside their own is open from the first of them.
fn made<'a>(
    set: &'a mut Option<ReadySet>,
    spare_bells: &mut Vec<Arc<Bell>>,
) -> rustix::io::Result<&'a mut ReadySet> {
    match set {
        Some(set) => Ok(set),
        none => {
            let made = none.insert(ReadySet::new()?);
            spare_bells.extend(Bell::new().ok().map(Arc::new));
            Ok(made)
        }
    }
}

impl Process {
    /// One that waits for its first launch.
    fn born(child: Child, channel: Option<Channel>) -> Process {
        Process {
            child,
            channel,
            jobs: 0,
            slot: None,
            state: State::Idle,
            signalled: false,
            last_words: None,
        }
    }

    /// Whether this program has closed the channel.
    fn is_lost(&self) -> bool {
        self.channel.as_ref().is_some_and(|channel| !channel.as_descriptor().is_intact())
    }

    /// Takes up another job, that it has been sent the launch of.
    fn take_up(&mut self, number: u64, slot: Option<Slot>) -> JobId {
        self.slot = slot.map(|slot| slot.launched(&self.child, true));
        self.jobs += 1;
        self.state = State::Running;
        JobId::of(number, self.jobs)
    }

    /// Tells the outcome of its job, once, and gives its slot back. It is to end then, unless
    /// it stays.
    fn tell(&mut self, number: u64, outcome: Outcome, news: &mut Vec<(JobId, Outcome)>) {
        if std::mem::replace(&mut self.state, State::Ending) == State::Running {
            if let Some(slot) = &self.slot {
                slot.settle(false);
            }
            news.push((JobId::of(number, self.jobs), outcome));
        }
    }

    /// After its job: waits for another, if it may.
    fn stay(&mut self) -> bool {
        self.slot = None; // its own no more, or it would not stay
        let stays = !self.signalled && self.jobs < u32::MAX;
        match stays {
            true => self.state = State::Idle,
            false => self.dismiss(),
        }
        stays
    }

    /// Has it end, by the end of what it can receive.
    fn dismiss(&mut self) {
        self.state = State::Ending;
        if let Some(channel) = &self.channel {
            channel.finish();
        }
    }

    /// It has sent all that it will. (If it runs a job, its end will be what is told of that.)
    fn leave(&mut self) {
        if self.state == State::Idle {
            self.state = State::Ending;
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

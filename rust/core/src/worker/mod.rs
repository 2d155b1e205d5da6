//! The worker: a process that runs jobs, each when its owner says so, until it is to end.
//!
//! It is introduced, once; launched, for each job; and it sends what came of each. Between two jobs it
//! holds no slot and nothing of the last one's, and ignores Ctrl-C. It ends once its owner wants no
//! more of it; where a job has left something behind (processes, much memory, whatever the host
//! knows of); or when it has been idle for long, or memory is short. Not here: what a job is.

mod clock;

pub use clock::Clock;

use crate::host::Host;
use crate::owner::has_owner;
use crate::platform::{SignalIgnored, TimeLimit};
use crate::process::{getpid, has_children, Growth, Lifeline, Pid, Signal};
use crate::slots::release_own_slot;
use crate::wait::Woken;
use crate::wire::{Channel, Frame, Head, Message};
use std::time::{Duration, Instant};

/// How long a worker is idle before it ends, and after how long it looks whether memory is short.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const MEMORY_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// By how much the memory of one worker may grow over its jobs, in bytes.
const GROWTH: u64 = 300 << 20;

/// What only the host of a worker can do.
pub trait WorkerHost: Host {
    /// Runs signal handlers, but forgets a Ctrl-C: the worker has nothing that could be interrupted,
    /// and the terminal tells its owner too.
    fn forget_interrupt(&self) -> std::result::Result<(), Self::Error>;

    /// Whether a worker that is idle had better give its memory back.
    fn memory_is_short(&self) -> std::result::Result<bool, Self::Error>;
}

/// What follows when a job's result has been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The process is to end.
    Ends,
    /// It stays for another job.
    Stays,
}

/// This process as a worker.
#[derive(Debug)]
pub struct Worker {
    channel: Channel,
    /// Its process. What a job's function has forked says nothing of the job.
    pid: Pid,
    /// Since its first job.
    growth: Option<Growth>,
}

impl Worker {
    /// A worker at its end of this channel.
    pub fn new(channel: Channel) -> Worker {
        Worker { channel, pid: getpid(), growth: None }
    }

    /// Waits for the introduction, and from then on ends with the owner if that wants it so. None if
    /// the owner is gone, or gave up, or none has come for long.
    pub fn introduction<H: WorkerHost>(
        &self,
        host: &H,
    ) -> std::result::Result<Option<Frame>, H::Error> {
        let Some(mut frame) = self.first_frame(host, |worker| worker.idle(host))? else {
            return Ok(None);
        };
        if frame.head == (Head::Introduction { lifeline: true }) && !frame.descriptors.is_empty() {
            let lifeline = frame.descriptors.remove(0);
            Lifeline::hang_on_to(&lifeline)?;
        }
        Ok(Some(frame))
    }

    /// Waits for the first launch, for as long as there is an owner, who counts on this worker.
    pub fn first_launch<H: WorkerHost>(
        &self,
        host: &H,
    ) -> std::result::Result<Option<Frame>, H::Error> {
        let receive = |worker: &Worker| Ok(host.unlocked(|| worker.channel.receive())?);
        self.first_frame(host, receive)
    }

    fn first_frame<H: WorkerHost>(
        &self,
        host: &H,
        receive: impl FnOnce(&Worker) -> std::result::Result<Option<Frame>, H::Error>,
    ) -> std::result::Result<Option<Frame>, H::Error> {
        // What is there already may be older than a Ctrl-C that has come while this process started.
        let there = self.channel.wait_until(Instant::now())? == Woken::Ready;
        let _ignored = (!there).then(|| ignore_interrupts(host)).transpose()?;
        receive(self)
    }

    /// Waits for another launch, which may well be under way. None if it is time to end.
    pub fn next_launch<H: WorkerHost>(
        &self,
        host: &H,
    ) -> std::result::Result<Option<Frame>, H::Error> {
        let _ignored = ignore_interrupts(host)?;
        if host.unlocked(|| self.channel.spin()) {
            return Ok(self.channel.receive_ready()?);
        }
        self.idle(host)
    }

    /// Waits for what comes next, not for ever. None if it is time to end.
    fn idle<H: WorkerHost>(&self, host: &H) -> std::result::Result<Option<Frame>, H::Error> {
        let leaves = Instant::now() + IDLE_TIMEOUT;
        let mut first = true;
        loop {
            host.run_signal_handlers()?;
            let look = leaves.min(Instant::now() + MEMORY_CHECK_INTERVAL);
            let woken = host.unlocked(|| match std::mem::take(&mut first) {
                true => self.channel.wait_briefly_until(look),
                false => self.channel.wait_until(look),
            });
            match woken? {
                Woken::Ready => return Ok(self.channel.receive_ready()?),
                Woken::TimedOut if Instant::now() >= leaves || host.memory_is_short()? => {
                    return Ok(self.channel.stop_receiving()?)
                }
                _ => {}
            }
        }
    }

    /// After a job: gives its slot back, and sends its result. The worker stays for another job if
    /// the job has left nothing behind, and the host says that the process `is_clean`. A process that is to
    /// end stays under the job's time limit to its end.
    pub fn send_result<E: From<crate::Error>>(
        &mut self,
        result: Message<'_>,
        limit: Option<TimeLimit>,
        is_clean: impl FnOnce() -> std::result::Result<bool, E>,
    ) -> std::result::Result<Next, E> {
        // First the slot: whoever has the result can count on it.
        let released = release_own_slot(has_owner());
        let stays =
            released && is_clean()? && self.has_left_nothing() && limit.is_none_or(TimeLimit::lift);
        match result.send(&self.channel, Head::Result { stays }) {
            Err(e) if !e.is_hang_up() => Err(e.into()),
            Ok(()) if stays => Ok(Next::Stays),
            _ => Ok(Next::Ends), // or nobody is left to hear it
        }
    }

    /// Whether this is the worker's process, and not what a job has forked, and neither children nor much
    /// memory are left of its jobs.
    fn has_left_nothing(&mut self) -> bool {
        getpid() == self.pid
            && !has_children()
            && !self.growth.get_or_insert_with(Growth::since_now).exceeds(GROWTH)
    }

    /// Says why the job will end without a result. No error if that cannot be said: the owner may be
    /// gone, and the exit code says most of it.
    pub fn send_last_words(&self, words: &[u8]) {
        if getpid() == self.pid {
            let _ = self.channel.send(Head::LastWords, words, &[]);
        }
    }
}

/// For as long as a worker waits, also if one has come already. A job that comes later is not to ignore
/// them.
fn ignore_interrupts<H: WorkerHost>(host: &H) -> std::result::Result<SignalIgnored, H::Error> {
    let ignoring = |e| crate::Error::refused("cannot ignore Ctrl-C", e);
    let ignored = SignalIgnored::begin(Signal::INT).map_err(ignoring)?;
    host.forget_interrupt()?;
    Ok(ignored)
}

/// In a job that is told to: tells its owner when it gives its slot away, by this channel.
pub fn telling_by(channel: &Channel) -> crate::slots::OnYield {
    let channel = channel.share();
    Box::new(move || {
        let _ = channel.send(Head::Yielded, &[], &[]); // or it is gone
    })
}

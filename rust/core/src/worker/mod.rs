//! The worker: a process that runs jobs, each at its launch, until it ends.
//!
//! It gets an introduction, then a launch for each job, and sends the result of each. Between two
//! jobs it holds no slot and no objects of the last job, and ignores Ctrl-C; and it does not hang on
//! its owner's lifeline, because the owner may give it to another one, which introduces itself. It
//! ends when its owner dismisses it; when no owner can take it any more; when a job has left
//! something behind (processes, much memory, other things that the host checks); when it has been
//! idle for long; or when it is idle and memory is short. Not here: what a job is.

mod clock;

pub use clock::Clock;

use crate::forkserver::{Helper, JOINED};
use crate::host::Host;
use crate::platform::{Descriptor, SignalIgnored, TimeLimit};
use crate::process::{getpid, hang_on_again, has_children, let_go, Growth, Lifeline, Pid, Signal};
use crate::slots::release_own_slot;
use crate::wait::{Wait, Woken};
use crate::wire::{Channel, Frame, Head, Message, Received};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a worker is idle before it ends, and how often it checks meanwhile whether memory is
/// short.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const MEMORY_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// The largest growth of one worker's memory over its jobs, in bytes.
const GROWTH: u64 = 300 << 20;

/// The operations that a worker needs from its host.
pub trait WorkerHost: Host {
    /// Runs signal handlers, but drops a Ctrl-C: an idle worker does nothing that could be
    /// interrupted, and the terminal sends Ctrl-C to its owner too.
    fn forget_interrupt(&self) -> std::result::Result<(), Self::Error>;

    /// Whether memory is so short that an idle worker should end.
    fn memory_is_short(&self) -> std::result::Result<bool, Self::Error>;
}

/// What the process does after a job's result has been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The process ends.
    Ends,
    /// The process stays for another job.
    Stays,
}

/// This process as a worker.
#[derive(Debug)]
pub struct Worker {
    channel: Channel,
    /// Hangs up when no owner can take this worker any more. None if owners do not share it.
    shared: Option<Arc<Descriptor>>,
    /// Its process. A process that a job's function has forked sends nothing.
    pid: Pid,
    /// The growth of its memory since its first job.
    growth: Option<Growth>,
}

impl Worker {
    /// A worker at its end of this channel. If owners share the idle workers of `helper`, its fork
    /// server, they share this one.
    pub fn new(channel: Channel, helper: Option<&Helper>) -> Worker {
        let shared = helper.and_then(Helper::lifeline);
        Worker { channel, shared, pid: getpid(), growth: None }
    }

    /// Waits for the introduction. If it carries a lifeline, this process ends with its owner from
    /// then on. None if the owner has ended or gave up, or if no introduction came for long. Also
    /// returns the fork server that this process joins, if there is one.
    pub fn introduction<H: WorkerHost>(
        &self,
        host: &H,
    ) -> std::result::Result<Option<(Frame, Option<Helper>)>, H::Error> {
        let frame = self.first_frame(host, |worker| worker.idle(host))?;
        Ok(frame.map(introduced).transpose()?)
    }

    /// Waits for the first launch, without limit while there is an owner, because the owner relies
    /// on this worker.
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
        // A frame that is already there may be older than a Ctrl-C that came while this process
        // started.
        let there = self.channel.wait_until(Instant::now())? == Woken::Ready;
        let _ignored = (!there).then(|| ignore_interrupts(host)).transpose()?;
        receive(self)
    }

    /// Waits for another launch, which may come soon, or for the introduction of another owner.
    /// None if the worker must end.
    pub fn next_frame<H: WorkerHost>(
        &self,
        host: &H,
    ) -> std::result::Result<Option<Frame>, H::Error> {
        let frame = match host.unlocked(|| self.channel.spin()) {
            true => {
                host.forget_interrupt()?;
                self.channel.receive_ready()?
            }
            false => {
                let _ignored = ignore_interrupts(host)?;
                self.idle(host)?
            }
        };
        Ok(match frame {
            Some(frame) if matches!(frame.head, Head::Introduction { .. }) => {
                Some(introduced(frame)?.0)
            }
            Some(frame) => {
                hang_on_again()?;
                Some(frame)
            }
            None => None,
        })
    }

    /// Waits for the next frame, with a limit. None if the worker must end.
    fn idle<H: WorkerHost>(&self, host: &H) -> std::result::Result<Option<Frame>, H::Error> {
        let leaves = Instant::now() + IDLE_TIMEOUT;
        let mut first = true;
        loop {
            host.run_signal_handlers_in(self.pid)?;
            let look = leaves.min(Instant::now() + MEMORY_CHECK_INTERVAL);
            let briefly = std::mem::take(&mut first);
            let woken = host.unlocked(|| self.wait_until(look, briefly))?;
            let must_leave = match woken {
                Woken::Ready => match self.channel.receive_now()? {
                    Received::Frame(frame) => return Ok(Some(frame)),
                    Received::EndOfFile => return Ok(None),
                    Received::NothingYet => self.nobody_can_take_it(),
                },
                Woken::TimedOut => Instant::now() >= leaves || host.memory_is_short()?,
                Woken::Interrupted | Woken::Missed => false,
            };
            if must_leave {
                return Ok(self.channel.stop_receiving()?);
            }
        }
    }

    /// Waits until there may be a frame, or no owner can take this worker any more. `briefly` is for
    /// the first wait after a result was sent: see [`Wait::briefly`].
    fn wait_until(&self, deadline: Instant, briefly: bool) -> crate::Result<Woken> {
        if !briefly && self.shared.as_ref().is_some_and(|lifeline| !lifeline.is_intact()) {
            return Ok(Woken::Ready); // a job has closed it: see `nobody_can_take_it`
        }
        let all = [self.channel.socket()].into_iter().chain(&self.shared).map(Arc::clone);
        let wait = Wait::new(all.collect(), None);
        let wait = if briefly { wait.briefly() } else { wait };
        wait.block(Some(deadline))
    }

    fn nobody_can_take_it(&self) -> bool {
        self.shared.as_ref().is_some_and(|lifeline| !lifeline.is_intact() || lifeline.is_readable())
    }

    /// After a job: gives its slot back, and sends its result. `waits` says that jobs of the job are
    /// under way, for which the process waits before it ends. The worker stays for another job if
    /// the job has left nothing behind, and the host says that the process `is_clean`. A process
    /// that ends stays under the job's time limit until its end.
    pub fn send_result<E: From<crate::Error>>(
        &mut self,
        result: Message<'_>,
        limit: Option<TimeLimit>,
        waits: bool,
        is_clean: impl FnOnce() -> std::result::Result<bool, E>,
    ) -> std::result::Result<Next, E> {
        // The slot goes back first: an owner that has the result can rely on a free slot.
        let released = release_own_slot(waits);
        let stays =
            released && is_clean()? && self.has_left_nothing() && limit.is_none_or(TimeLimit::lift);
        let stays = stays && let_go().is_ok();
        match result.send(&self.channel, Head::Result { stays }) {
            Err(e) if !e.is_hang_up() => Err(e.into()),
            Ok(()) if stays => Ok(Next::Stays),
            _ => Ok(Next::Ends), // also if the owner has ended
        }
    }

    /// Whether this is the worker's process, and not one that a job has forked, and its jobs have
    /// left neither children nor much memory behind.
    fn has_left_nothing(&mut self) -> bool {
        getpid() == self.pid
            && !has_children()
            && !self.growth.get_or_insert_with(Growth::since_now).exceeds(GROWTH)
    }

    /// Sends the job's last words. An error is ignored: the owner may have ended, and the exit code
    /// has the most important part.
    pub fn send_last_words(&self, words: &[u8]) {
        if getpid() == self.pid {
            let _ = self.channel.send(Head::LastWords, words, &[]);
        }
    }
}

/// Hangs on to the lifeline in an introduction, and joins the fork server in it, if there is one.
fn introduced(mut frame: Frame) -> crate::Result<(Frame, Option<Helper>)> {
    let Head::Introduction { lifeline, helper } = frame.head else { return Ok((frame, None)) };
    if lifeline && !frame.descriptors.is_empty() {
        Lifeline::hang_on_to(&frame.descriptors.remove(0))?;
    }
    let there = frame.descriptors.len();
    let joined = helper.then(|| Helper::join(frame.descriptors.drain(..JOINED.min(there))));
    Ok((frame, joined))
}

/// Ignores Ctrl-C while a worker waits, and drops one that has come already. A job that starts
/// later must not ignore it.
fn ignore_interrupts<H: WorkerHost>(host: &H) -> std::result::Result<SignalIgnored, H::Error> {
    let ignoring = |e| crate::Error::refused("cannot ignore Ctrl-C", e);
    let ignored = SignalIgnored::begin(Signal::INT).map_err(ignoring)?;
    host.forget_interrupt()?;
    Ok(ignored)
}

/// In a job whose introduction requires it: reports to its owner, on this channel, that the job
/// gives its slot away.
pub fn telling_by(channel: &Channel) -> crate::slots::OnYield {
    let channel = channel.share();
    Box::new(move || {
        let _ = channel.send(Head::Yielded, &[], &[]); // fails only if the owner has ended
    })
}

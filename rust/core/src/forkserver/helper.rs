//! The fork server of a tree of jobs, as one owner uses it, whether it runs or not; and the workers
//! that it has forked ahead.

use super::{fork_server_gone, Ahead, ForkServer, IdleWorkers};
use crate::error::{Error, ErrorKind, Result};
use crate::host::Host;
use crate::platform::Descriptor;
use crate::process::{getpid, Child, Lifeline, Pid};
use crate::wire::{Channel, Head, Message};
use rustix::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// See the module. No lock is held while other threads of the host, or code of the user, can run.
/// So neither a fork by another thread nor an interruption can leave it locked.
#[derive(Debug, Default)]
pub struct Helper(Mutex<HelperState>);

#[derive(Debug, Default)]
struct HelperState {
    running: Option<Arc<ForkServer>>,
    /// The workers that this process has requested.
    ahead: Ahead,
}

/// A worker that a helper has forked.
#[derive(Debug)]
pub struct ForkedWorker {
    /// Its owner's end.
    pub channel: Channel,
    /// The worker.
    pub child: Child,
    /// The helper, which alone reports how the worker ends.
    pub forked_by: ForkedBy,
}

/// Which helper has forked a worker.
#[derive(Debug, Clone)]
pub struct ForkedBy {
    /// The helper.
    pub server: Weak<ForkServer>,
    /// Whether the worker was prepared as all workers of the helper are. Only then the owners of a
    /// tree share it.
    pub alike: bool,
    /// Whether it has had another owner.
    pub had_owner: bool,
}

impl ForkedBy {
    fn this(helper: &Arc<ForkServer>) -> ForkedBy {
        ForkedBy { server: Arc::downgrade(helper), alike: true, had_owner: false }
    }
}

impl Helper {
    /// A helper that another process of the tree has started, by its [`ForkServer::descriptors`].
    pub fn join(descriptors: impl IntoIterator<Item = Descriptor>) -> Helper {
        let running = ForkServer::join(descriptors).map(Arc::new);
        Helper(Mutex::new(HelperState { running, ahead: Ahead::default() }))
    }

    /// Hangs up when no idle worker of the tree can be taken any more. None if owners do not share
    /// idle workers.
    pub(crate) fn lifeline(&self) -> Option<Arc<Descriptor>> {
        Some(Arc::clone(self.state().running.as_ref()?.idle()?.lifeline()))
    }

    fn state(&self) -> MutexGuard<'_, HelperState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is a helper, and this program has not closed its request socket.
    pub fn is_running(&self) -> bool {
        self.state().running.as_ref().is_some_and(|helper| !helper.is_lost())
    }

    /// The helper that runs now.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::ForkServerGone`]: there is none.
    pub fn current(&self) -> Result<Arc<ForkServer>> {
        let running = self.state().running.clone();
        running.ok_or_else(|| Error::new(ErrorKind::ForkServerGone, "there is no fork server"))
    }

    /// Its pid, in the process that started it.
    pub fn pid(&self) -> Option<Pid> {
        self.state().running.as_ref()?.pid()
    }

    /// The number of workers ahead.
    pub fn ahead(&self) -> usize {
        self.state().ahead.number()
    }

    /// Makes the workers end that no owner has: those ahead, and the idle ones of the tree.
    pub fn dismiss_idle(&self) {
        let mut state = self.state();
        state.ahead.dismiss();
        state
            .running
            .as_ref()
            .and_then(|helper| helper.idle())
            .into_iter()
            .for_each(IdleWorkers::dismiss);
    }

    /// Starts a helper by `start`, with the request socket as its standard input, unless there is
    /// one, and sends it the introduction first. Owners share the idle workers if so `shared`.
    /// Returns whether it started one.
    pub fn start<H: Host>(
        &self,
        host: &H,
        shared: bool,
        introduction: Message<'_>,
        start: impl FnOnce(OwnedFd) -> std::result::Result<Child, H::Error>,
    ) -> std::result::Result<bool, H::Error> {
        if self.is_running() {
            return Ok(false);
        }
        let (ours, theirs) = Channel::pair()?;
        let idle = shared.then(IdleWorkers::new).transpose()?;
        let started = Arc::new(ForkServer::started(ours, start(theirs.into_socket()?)?, idle));
        let head = Head::Introduction { lifeline: false, helper: false };
        let sent = introduction.send(&started.introduction()?, head);
        // If it has ended already, the first request will fail.
        let sent = sent.or_else(|e| if e.is_hang_up() { Ok(()) } else { Err(e) });
        let needed = sent.map(|()| self.put(&started));
        if !matches!(needed, Ok(true)) {
            self.see_out(host, &started)?; // an error, or another thread was quicker
        }
        Ok(needed?)
    }

    /// Stores a started helper, unless there is one by now. Returns whether it did.
    fn put(&self, started: &Arc<ForkServer>) -> bool {
        let mut state = self.state();
        let needed = state.running.as_ref().is_none_or(|helper| helper.is_lost());
        if needed {
            state.ahead.dismiss();
            state.running = Some(Arc::clone(started));
        }
        needed
    }

    /// Ends the workers ahead. If this process started the helper, ends it too and waits for its
    /// end.
    pub fn stop<H: Host>(&self, host: &H) -> std::result::Result<(), H::Error> {
        let helper = {
            let mut state = self.state();
            state.ahead.dismiss();
            state.running.clone()
        };
        helper.map_or(Ok(()), |helper| self.see_out(host, &helper))
    }

    /// Takes an idle worker of the tree, which may have ended. None if there is none.
    pub fn take_idle(&self) -> Option<ForkedWorker> {
        let helper = self.state().running.clone()?;
        let (channel, child) = helper.idle()?.take()?;
        let forked_by = ForkedBy { had_owner: true, ..ForkedBy::this(&helper) };
        Some(ForkedWorker { channel, child, forked_by })
    }

    /// Takes a worker that was forked ahead and has neither failed nor ended. None if there is
    /// none.
    pub fn take_ahead<H: Host>(
        &self,
        host: &H,
    ) -> std::result::Result<Option<ForkedWorker>, H::Error> {
        let helper = self.current()?;
        if helper.is_gone() {
            // The workers may still run, but nothing would report how they end.
            return Err(self.give_up(host, &helper, fork_server_gone()));
        }
        loop {
            let Some(channel) = self.state().ahead.take() else { return Ok(None) };
            match answer(host, &helper, &channel)? {
                Ok(child) if !child.has_ended() => {
                    let forked_by = ForkedBy::this(&helper);
                    return Ok(Some(ForkedWorker { channel, child, forked_by }));
                }
                Err(e) if e.raw_os_error().is_none() => return Err(self.give_up(host, &helper, e)),
                _ => {} // the fork was refused, or the worker was killed since
            }
        }
    }

    /// Requests a worker that hangs on this lifeline, and waits for the answer.
    pub fn fork_one<H: Host>(
        &self,
        host: &H,
        lifeline: Option<&Lifeline>,
    ) -> std::result::Result<ForkedWorker, H::Error> {
        let (helper, me) = (self.current()?, getpid());
        let (owner_end, job_end) = Channel::pair()?;
        // The first try keeps the host's lock, because it is quick: another thread that ran could
        // fork, and its child would have copies of these ends.
        let mut asked = helper.try_request(&job_end, lifeline);
        while let Ok(false) = asked {
            host.run_signal_handlers_in(me)?;
            asked = host.unlocked(|| helper.request(&job_end, lifeline));
        }
        asked.map_err(|e| self.give_up(host, &helper, e))?;
        drop(job_end);
        let child = answer(host, &helper, &owner_end)?;
        let child = child.map_err(|e| self.give_up(host, &helper, e))?;
        Ok(ForkedWorker { channel: owner_end, child, forked_by: ForkedBy::this(&helper) })
    }

    /// Requests workers ahead until there are `number`. Waits for none of them.
    pub fn top_up(&self, number: usize, lifeline: Option<&Lifeline>) -> Result<()> {
        let HelperState { running, ahead } = &mut *self.state();
        match running {
            Some(running) => ahead.top_up(number, running, lifeline),
            None => Ok(()),
        }
    }

    /// After a failed request: gives the helper up if it has ended. Returns the error for the
    /// caller.
    fn give_up<H: Host>(&self, host: &H, helper: &Arc<ForkServer>, error: Error) -> H::Error {
        if error.kind() == ErrorKind::ForkServerGone {
            if helper.is_lost() {
                self.forget(helper); // it still serves other processes, and ends after them
            } else if let Err(raised) = self.see_out(host, helper) {
                return raised;
            }
            if let Some(status) = helper.ended() {
                return Error::fork_server_ended(status.to_string()).into();
            }
        }
        error.into()
    }

    /// Ends this helper if this process started it, and forgets it.
    fn see_out<H: Host>(
        &self,
        host: &H,
        helper: &Arc<ForkServer>,
    ) -> std::result::Result<(), H::Error> {
        if helper.pid().is_some() {
            let me = getpid();
            helper.stop();
            host.run_signal_handlers_in(me)?;
            while !host.unlocked(|| helper.wait_stopped())? {
                host.run_signal_handlers_in(me)?;
            }
        }
        self.forget(helper);
        Ok(())
    }

    /// Forgets this helper, unless another has taken its place meanwhile.
    fn forget(&self, gone: &Arc<ForkServer>) {
        let mut state = self.state();
        if state.running.take_if(|helper| Arc::ptr_eq(helper, gone)).is_some() {
            state.ahead.dismiss();
        }
    }
}

/// Waits for the helper's answer on this channel.
fn answer<H: Host>(
    host: &H,
    helper: &ForkServer,
    channel: &Channel,
) -> std::result::Result<Result<Child>, H::Error> {
    let me = getpid();
    loop {
        host.run_signal_handlers_in(me)?;
        match host.unlocked(|| helper.wait_answer(channel)) {
            Ok(Some(child)) => return Ok(Ok(child)),
            Ok(None) => {}
            Err(e) => return Ok(Err(e)),
        }
    }
}

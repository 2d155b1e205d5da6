//! The fork server of a tree of jobs as one owner uses it: running, or not yet, or not any more; and
//! the workers that it has forked ahead.

use super::{gone, Ahead, ForkServer};
use crate::error::{Error, ErrorKind, Result};
use crate::host::Host;
use crate::platform::Descriptor;
use crate::process::{Child, Lifeline, Pid};
use crate::wire::{Channel, Head, Message};
use rustix::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// See the module. The lock is held neither while the host can run other threads, nor while code of
/// others runs, so that neither a fork by another thread nor an interruption can leave it locked.
#[derive(Debug, Default)]
pub struct Helper(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    running: Option<Arc<ForkServer>>,
    /// Asked for by this process.
    ahead: Ahead,
}

/// A worker that the fork server has forked: the owner's end of its channel, and its process.
type Forked = (Channel, Child);

impl Helper {
    /// One that another process of the tree has started, by its request socket.
    pub fn join(requests: Descriptor) -> Helper {
        let running = Some(Arc::new(ForkServer::join(requests)));
        Helper(Mutex::new(State { running, ahead: Ahead::default() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is one, to which this program has not closed the way.
    pub fn is_running(&self) -> bool {
        self.state().running.as_ref().is_some_and(|helper| !helper.is_lost())
    }

    /// Whether there was one that has gone, though nobody may have noticed yet.
    pub fn is_gone(&self) -> bool {
        self.state().running.as_ref().is_some_and(|helper| helper.is_gone())
    }

    /// The one that runs now.
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

    /// How many workers have been asked for ahead of need.
    pub fn ahead(&self) -> usize {
        self.state().ahead.number()
    }

    /// Has those workers end.
    pub fn dismiss_ahead(&self) {
        self.state().ahead.dismiss();
    }

    /// Has a helper started by `start`, with the request socket as its standard input, unless there is
    /// one: whether it has. This is sent to the helper first.
    pub fn start<H: Host>(
        &self,
        host: &H,
        introduction: Message<'_>,
        start: impl FnOnce(OwnedFd) -> std::result::Result<Child, H::Error>,
    ) -> std::result::Result<bool, H::Error> {
        if self.is_running() {
            return Ok(false);
        }
        let (ours, theirs) = Channel::pair()?;
        let started = Arc::new(ForkServer::started(ours, start(theirs.into_socket()?)?));
        let head = Head::Introduction { lifeline: false };
        let sent = introduction.send(&started.introduction()?, head);
        // If it is gone already, the first request will tell.
        let sent = sent.or_else(|e| if e.is_hang_up() { Ok(()) } else { Err(e) });
        let needed = sent.map(|()| self.put(&started));
        if !matches!(needed, Ok(true)) {
            self.see_out(host, &started)?; // another thread was quicker
        }
        Ok(needed?)
    }

    /// Puts a helper in its place, unless there is one by now: whether it did.
    fn put(&self, started: &Arc<ForkServer>) -> bool {
        let mut state = self.state();
        let needed = state.running.as_ref().is_none_or(|helper| helper.is_lost());
        if needed {
            state.ahead.dismiss();
            state.running = Some(Arc::clone(started));
        }
        needed
    }

    /// Ends the workers that are ahead, and the helper for good if this process started it, for whose
    /// end it waits.
    pub fn stop<H: Host>(&self, host: &H) -> std::result::Result<(), H::Error> {
        let helper = {
            let mut state = self.state();
            state.ahead.dismiss();
            state.running.clone()
        };
        helper.map_or(Ok(()), |helper| self.see_out(host, &helper))
    }

    /// A worker that was forked ahead, and has neither failed nor ended.
    pub fn take_ahead<H: Host>(&self, host: &H) -> std::result::Result<Option<Forked>, H::Error> {
        let helper = self.current()?;
        if helper.is_gone() {
            // They may be there still, but nobody would tell how they end.
            return Err(self.give_up(host, &helper, gone()));
        }
        loop {
            let Some(channel) = self.state().ahead.take() else { return Ok(None) };
            match answer(host, &helper, &channel)? {
                Ok(child) if !child.has_ended() => return Ok(Some((channel, child))),
                Err(e) if e.raw_os_error().is_none() => return Err(self.give_up(host, &helper, e)),
                _ => {} // it was refused then, or killed since
            }
        }
    }

    /// Has a worker forked that hangs on this lifeline, and waits for the answer.
    pub fn fork_one<H: Host>(
        &self,
        host: &H,
        lifeline: Option<&Lifeline>,
    ) -> std::result::Result<Forked, H::Error> {
        let helper = self.current()?;
        let (owner_end, job_end) = Channel::pair()?;
        // The host's lock is kept where that is quick, lest another thread fork, and copy these ends.
        let mut asked = helper.try_request(&job_end, lifeline);
        while let Ok(false) = asked {
            host.run_signal_handlers()?;
            asked = host.unlocked(|| helper.request(&job_end, lifeline));
        }
        asked.map_err(|e| self.give_up(host, &helper, e))?;
        drop(job_end);
        let child = answer(host, &helper, &owner_end)?;
        let child = child.map_err(|e| self.give_up(host, &helper, e))?;
        Ok((owner_end, child))
    }

    /// Has workers forked ahead of need, until there are so many. Waits for none of them.
    pub fn top_up(&self, number: usize, lifeline: Option<&Lifeline>) -> Result<()> {
        let State { running, ahead } = &mut *self.state();
        match running {
            Some(running) => ahead.top_up(number, running, lifeline),
            None => Ok(()),
        }
    }

    /// After a request has failed: gives the helper up if it is gone. What is to be raised.
    fn give_up<H: Host>(&self, host: &H, helper: &Arc<ForkServer>, error: Error) -> H::Error {
        if error.kind() == ErrorKind::ForkServerGone {
            if helper.is_lost() {
                self.forget(helper); // it serves others still, and ends after them
            } else if let Err(raised) = self.see_out(host, helper) {
                return raised;
            }
            if let Some(status) = helper.ended() {
                return Error::fork_server_ended(status.to_string()).into();
            }
        }
        error.into()
    }

    /// Ends this helper, if this process started it, and forgets it.
    fn see_out<H: Host>(
        &self,
        host: &H,
        helper: &Arc<ForkServer>,
    ) -> std::result::Result<(), H::Error> {
        if helper.pid().is_some() {
            helper.stop();
            host.run_signal_handlers()?;
            while !host.unlocked(|| helper.wait_stopped())? {
                host.run_signal_handlers()?;
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
    loop {
        host.run_signal_handlers()?;
        match host.unlocked(|| helper.wait_answer(channel)) {
            Ok(Some(child)) => return Ok(Ok(child)),
            Ok(None) => {}
            Err(e) => return Ok(Err(e)),
        }
    }
}

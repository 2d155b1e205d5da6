//! Hiring: how an owner comes to a worker. A worker that is hired for a job is launched on it in the
//! same call, in which no signal handler runs: an error of one would leave the worker without a job.

use super::shared::Owner;
use super::Started;
use crate::error::Result;
use crate::forkserver::Helper;
use crate::host::Host;
use crate::process::{Child, Lifeline};
use crate::slots::Slot;
use crate::wire::{Channel, Head, Message};
use rustix::fd::OwnedFd;

/// The first job of a worker, or the next one.
pub struct First<'a, J> {
    /// What it runs on; taken if it is launched.
    pub slot: &'a mut Option<Slot>,
    /// What launches it.
    pub message: Message<'a>,
    /// What the owner is to keep for it.
    pub job: &'a dyn Fn() -> J,
}

impl<J> std::fmt::Debug for First<'_, J> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("First").field("slot", &self.slot).finish_non_exhaustive()
    }
}

impl<J> Owner<J> {
    /// Hires a worker that `start` starts as a new program, with its channel as its standard input.
    /// `first` is launched on it, if there is one.
    pub fn hire_program<E: From<crate::Error>>(
        &self,
        introduction: Message<'_>,
        start: impl FnOnce(OwnedFd) -> std::result::Result<Child, E>,
        first: Option<First<'_, J>>,
    ) -> std::result::Result<Option<Started>, E> {
        let _launching = self.begin_launch()?;
        let (owner_end, job_end) = Channel::pair()?;
        introduce(&owner_end, introduction, self.lifeline()?)?;
        let child = start(job_end.into_socket()?)?;
        Ok(self.hired(owner_end, child, first)?)
    }

    /// Hires a worker that a fork server has forked ahead, or forks now. `first` is launched on it, if
    /// there is one. Then the fork server is asked for more, until there are so many `ahead`; no harm
    /// is done where it cannot be.
    pub fn hire_forked<H: Host>(
        &self,
        host: &H,
        helper: &Helper,
        introduction: Message<'_>,
        first: Option<First<'_, J>>,
        ahead: usize,
    ) -> std::result::Result<Option<Started>, H::Error> {
        let _launching = self.begin_launch()?;
        let (channel, child) = self.forked_and_introduced(host, helper, introduction)?;
        let started = self.hired(channel, child, first)?;
        if ahead > 0 {
            let _ = self.lifeline().and_then(|line| helper.top_up(ahead, line.as_ref()));
        }
        Ok(started)
    }

    fn forked_and_introduced<H: Host>(
        &self,
        host: &H,
        helper: &Helper,
        introduction: Message<'_>,
    ) -> std::result::Result<(Channel, Child), H::Error> {
        while let Some((channel, child)) = helper.take_ahead(host)? {
            if introduce(&channel, introduction, None)? {
                return Ok((channel, child));
            } // else it has just ended, having waited for long
        }
        let lifeline = self.lifeline()?;
        let (mut channel, mut child) = helper.fork_one(host, lifeline.as_ref())?;
        if !introduce(&channel, introduction, None)? {
            // So may this one, if we were held up. Not for ever: somebody may be killing them.
            (channel, child) = helper.fork_one(host, lifeline.as_ref())?;
            introduce(&channel, introduction, None)?;
        }
        Ok((channel, child))
    }

    /// Starts the fork server, unless there is one: see [`Helper::start`].
    pub fn start_fork_server<H: Host>(
        &self,
        host: &H,
        helper: &Helper,
        introduction: Message<'_>,
        start: impl FnOnce(OwnedFd) -> std::result::Result<Child, H::Error>,
    ) -> std::result::Result<bool, H::Error> {
        let _launching = self.begin_launch()?;
        helper.start(host, introduction, start)
    }

    /// Enters a worker, and launches its first job, if there is one.
    pub(super) fn hired(
        &self,
        channel: Channel,
        child: Child,
        first: Option<First<'_, J>>,
    ) -> Result<Option<Started>> {
        let mut state = self.state();
        state.jobs.hired(channel, child)?;
        // It goes to the newest of those that are idle, and so to this one.
        first.map_or(Ok(None), |mut first| state.launch(&mut first))
    }

    /// What a new job is to hang on to, if it is to.
    pub(super) fn lifeline(&self) -> Result<Option<Lifeline>> {
        if self.options.orphans_stay {
            return Ok(None);
        }
        let lifeline = Lifeline::of_this_process()?;
        self.state().lifeline = Some(lifeline.clone());
        Ok(Some(lifeline))
    }
}

/// Tells a new worker what all its jobs have in common, and what to hang on if that is new: whether it
/// was there to hear it. (If not, it will be told of when it is given a job.)
fn introduce(
    channel: &Channel,
    introduction: Message<'_>,
    lifeline: Option<Lifeline>,
) -> Result<bool> {
    let head = Head::Introduction { lifeline: lifeline.is_some() };
    let descriptor = lifeline.as_ref().map(Lifeline::as_descriptor);
    match introduction.send_with(channel, head, descriptor) {
        Ok(()) => Ok(true),
        Err(e) if e.is_hang_up() => Ok(false),
        Err(e) => Err(e),
    }
}

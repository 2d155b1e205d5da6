//! Hiring: how an owner gets a worker. A worker that is hired for a job is launched in the same
//! call. No signal handler runs in between: its error would leave the worker without a job.

use super::shared::Owner;
use super::Started;
use crate::error::Result;
use crate::forkserver::{ForkServer, ForkedBy, ForkedWorker, Helper};
use crate::host::Host;
use crate::process::{Child, Lifeline};
use crate::slots::Slot;
use crate::wire::{Channel, Head, Message};
use rustix::fd::OwnedFd;

/// The first job of a worker, or the next one.
pub struct First<'a, J> {
    /// The slot that it runs on; taken when it is launched.
    pub slot: &'a mut Option<Slot>,
    /// The launch.
    pub message: Message<'a>,
    /// Makes the value that the owner keeps for it.
    pub job: &'a dyn Fn() -> J,
}

impl<J> std::fmt::Debug for First<'_, J> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("First").field("slot", &self.slot).finish_non_exhaustive()
    }
}

impl<J> Owner<J> {
    /// Hires a worker that `start` starts as a new program, with its channel as its standard input.
    /// Launches `first` on it, if there is one.
    pub fn hire_program<E: From<crate::Error>>(
        &self,
        introduction: Message<'_>,
        start: impl FnOnce(OwnedFd) -> std::result::Result<Child, E>,
        first: Option<First<'_, J>>,
    ) -> std::result::Result<Option<Started>, E> {
        let _launching = self.begin_launch()?;
        let (owner_end, job_end) = Channel::pair()?;
        introduce(&owner_end, introduction, self.lifeline()?, None)?;
        let child = start(job_end.into_socket()?)?;
        Ok(self.hired(owner_end, child, None, first)?)
    }

    /// Hires an idle worker of the tree, or one that a fork server has forked ahead, or forks now.
    /// `alike` says whether the introduction prepares it as all workers of the fork server are: only
    /// then owners share it. Launches `first` on it, if there is one. Then requests workers ahead
    /// until there are `ahead`; an error of these requests is ignored.
    pub fn hire_forked<H: Host>(
        &self,
        host: &H,
        helper: &Helper,
        (introduction, alike): (Message<'_>, bool),
        first: Option<First<'_, J>>,
        ahead: usize,
    ) -> std::result::Result<Option<Started>, H::Error> {
        let _launching = self.begin_launch()?;
        let idle = if alike { self.idle_and_introduced(helper, introduction)? } else { None };
        let worker = match idle {
            Some(worker) => worker,
            None => self.forked_and_introduced(host, helper, introduction)?,
        };
        let forked_by = Some(ForkedBy { alike, ..worker.forked_by });
        let started = self.hired(worker.channel, worker.child, forked_by, first)?;
        if ahead > 0 {
            let _ = self.lifeline().and_then(|line| helper.top_up(ahead, line.as_ref()));
        }
        Ok(started)
    }

    /// Hires a worker that owners share. If it `is_new`, a helper that serves by a command starts
    /// it, a new program. Otherwise it is an idle one; returns false if there is none.
    pub fn hire_shared<H: Host>(
        &self,
        host: &H,
        helper: &Helper,
        introduction: Message<'_>,
        is_new: bool,
    ) -> std::result::Result<bool, H::Error> {
        let _launching = self.begin_launch()?;
        let worker = match is_new {
            true => Some(self.started_and_introduced(host, helper, introduction)?),
            false => self.idle_and_introduced(helper, introduction)?,
        };
        let Some(worker) = worker else { return Ok(false) };
        self.hired(worker.channel, worker.child, Some(worker.forked_by), None)?;
        Ok(true)
    }

    fn started_and_introduced<H: Host>(
        &self,
        host: &H,
        helper: &Helper,
        introduction: Message<'_>,
    ) -> std::result::Result<ForkedWorker, H::Error> {
        let worker = helper.fork_one(host, None)?;
        let server = worker.forked_by.server.upgrade();
        // If it has ended already, that is reported when it is launched.
        introduce(&worker.channel, introduction, self.lifeline()?, server.as_deref())?;
        Ok(worker)
    }

    fn idle_and_introduced(
        &self,
        helper: &Helper,
        introduction: Message<'_>,
    ) -> Result<Option<ForkedWorker>> {
        while let Some(worker) = helper.take_idle() {
            if introduce(&worker.channel, introduction, self.lifeline()?, None)? {
                return Ok(Some(worker));
            } // otherwise it has just ended, because it was idle for too long
        }
        Ok(None)
    }

    fn forked_and_introduced<H: Host>(
        &self,
        host: &H,
        helper: &Helper,
        introduction: Message<'_>,
    ) -> std::result::Result<ForkedWorker, H::Error> {
        while let Some(worker) = helper.take_ahead(host)? {
            if introduce_forked(&worker, introduction)? {
                return Ok(worker);
            } // otherwise it has just ended, because it was idle for too long
        }
        let lifeline = self.lifeline()?;
        let mut worker = helper.fork_one(host, lifeline.as_ref())?;
        if !introduce_forked(&worker, introduction)? {
            // This worker may have ended too, if this thread was delayed. There is one more try,
            // and no loop, because another program may be killing the workers.
            worker = helper.fork_one(host, lifeline.as_ref())?;
            introduce_forked(&worker, introduction)?;
        }
        Ok(worker)
    }

    /// Starts the fork server, unless there is one: see [`Helper::start`].
    pub fn start_fork_server<H: Host>(
        &self,
        host: &H,
        helper: &Helper,
        shared: bool,
        introduction: Message<'_>,
        start: impl FnOnce(OwnedFd) -> std::result::Result<Child, H::Error>,
    ) -> std::result::Result<bool, H::Error> {
        let _launching = self.begin_launch()?;
        helper.start(host, shared, introduction, start)
    }

    /// Enters a worker, and launches its first job, if there is one.
    pub(super) fn hired(
        &self,
        channel: Channel,
        child: Child,
        forked_by: Option<ForkedBy>,
        first: Option<First<'_, J>>,
    ) -> Result<Option<Started>> {
        let mut state = self.state();
        state.jobs.hired(channel, child, forked_by)?;
        // The launch goes to the newest idle worker, which is this one.
        first.map_or(Ok(None), |mut first| state.launch(&mut first))
    }

    /// The lifeline of a new job; None if orphans stay.
    pub(super) fn lifeline(&self) -> Result<Option<Lifeline>> {
        if self.options.orphans_stay {
            return Ok(None);
        }
        let lifeline = Lifeline::of_this_process()?;
        self.state().lifeline = Some(lifeline.clone());
        Ok(Some(lifeline))
    }
}

/// Introduces this process to a worker that has just been forked, as [`introduce`] does. If owners
/// share the idle workers of its fork server, it joins the fork server.
fn introduce_forked(worker: &ForkedWorker, introduction: Message<'_>) -> Result<bool> {
    let server = worker.forked_by.server.upgrade().filter(|server| server.idle().is_some());
    introduce(&worker.channel, introduction, None, server.as_deref())
}

/// Sends a worker its introduction, its lifeline if it does not have one, and the descriptors of the
/// fork server that it joins. Returns false if the worker has ended. (Its end is reported when it is
/// launched.)
fn introduce(
    channel: &Channel,
    introduction: Message<'_>,
    lifeline: Option<Lifeline>,
    helper: Option<&ForkServer>,
) -> Result<bool> {
    let head = Head::Introduction { lifeline: lifeline.is_some(), helper: helper.is_some() };
    let lifeline = lifeline.as_ref().map(Lifeline::as_descriptor);
    let joined = helper.into_iter().flat_map(ForkServer::descriptors);
    let first: Vec<_> = lifeline.into_iter().chain(joined).collect();
    match introduction.send_with(channel, head, &first) {
        Ok(()) => Ok(true),
        Err(e) if e.is_hang_up() => Ok(false),
        Err(e) => Err(e),
    }
}

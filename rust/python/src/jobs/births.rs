//! How the processes of jobs are born: by a fork of this one, or by a fork server's; and what each
//! is told first. Not here: what they run, and what becomes of them.

use super::Jobs;
use crate::errors::{to_python, ForkServerGone};
use crate::forkserver::ForkServer;
use crate::hooks;
use crate::job;
use crate::pool::Pool;
use crate::setup::Setup;
use crate::wire::{borrowed, Channel, Message};
use jobserver_core as core;
use jobserver_core::platform::{exit_at_once, Descriptor, Forked, SignalsHeld};
use jobserver_core::process::{Lifeline, Signal};
use jobserver_core::wire::{Head, Kind, HANGS};
use jobserver_core::{Child, ErrorKind, Launch};
use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::prelude::*;
use std::os::fd::AsFd;
use std::sync::Arc;

/// On which side of a fork the caller finds itself, with its end of the channel.
pub(super) enum Side {
    Owner(core::Channel, Child),
    /// In the new process, and whether that could be set up.
    Job(Channel, PyResult<()>, NeverOn),
}

impl Jobs {
    /// Forks a process for jobs of this one; the first runs on this slot, if there is one.
    pub(super) fn fork_process(
        &self,
        setup: &Bound<'_, Setup>,
        slot: Option<&core::Slot>,
    ) -> PyResult<Side> {
        let py = setup.py();
        let pool = self.pool(py)?.into_bound(py);
        setup.get().prepare(&pool)?;
        job::flush(py)?; // or what is buffered would be printed twice
        let launch = Launch::new().map_err(to_python)?;
        let (lifeline, tells) = (self.lifeline()?, self.hears());
        // CPython's fork hooks are Python functions, and an exception of a signal handler that
        // ran in one would be dropped, its Ctrl-C lost, and a lock of logging's left locked.
        // (With several threads another one may take the signal, and this still happen, as
        // it may around os.fork.)
        // Looked at before signals are held too, lest a handler run, and start things, with
        // all signals blocked; after that, only what came in between is left.
        // A Ctrl-C that comes still later, while the hooks run, would reach this process alone: the
        // job is not there yet, and would run on. So we begin anew.
        let refused = |e| to_python(core::Error::refused("cannot fork a job", e));
        let (held, forked) = loop {
            py.check_signals()?;
            let held = SignalsHeld::begin();
            py.check_signals()?;
            if let Some(slot) = slot {
                slot.launch();
            }
            match hooks::fork_unless(py, || held.holds(Signal::INT)) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                forked => break (held, forked.map_err(refused)?),
            }
        };
        match forked {
            Forked::Child => {
                let never = NeverOn;
                drop(launch.owner_end);
                let channel = Channel::from(launch.job_end);
                let set_up = self
                    .become_job(lifeline, slot, &pool)
                    .and_then(|()| setup.get().assume(&pool, &channel, tells));
                drop(held);
                Ok(Side::Job(channel, set_up, never))
            }
            Forked::Parent(pid) => Ok(Side::Owner(launch.owner_end, Child::adopt(pid))),
        }
    }

    /// In a forked child: makes it a job, on this slot.
    fn become_job(
        &self,
        lifeline: Option<Lifeline>,
        slot: Option<&core::Slot>,
        pool: &Bound<'_, Pool>,
    ) -> PyResult<()> {
        if let Some(lifeline) = lifeline {
            lifeline.hang_on().map_err(to_python)?;
        }
        self.abandon();
        let adopted = pool.get().pool.adopt_forked(slot).map_err(to_python)?;
        pool.get().set_own(adopted).then_some(()).ok_or_else(owner_gone)
    }

    /// In a forked child: forgets the owner's jobs. The futures are leaked on purpose: to
    /// drop them would write to the memory that the fork shares, and run code.
    fn abandon(&self) {
        let mut state = self.state();
        state.table.abandon();
        state.lifeline = None;
        std::mem::forget(std::mem::take(&mut state.futures));
    }

    /// What a new job is to hang on to, if it is to.
    pub(super) fn lifeline(&self) -> PyResult<Option<Lifeline>> {
        if self.orphans_stay {
            return Ok(None);
        }
        let lifeline = Lifeline::of_this_process().map_err(to_python)?;
        self.state().lifeline = Some(lifeline.clone());
        Ok(Some(lifeline))
    }

    /// Tells a new process what all its jobs have in common, and what to hang on if that is new:
    /// whether it was there to hear it. (If not, it will be told of when it is given a job.)
    pub(super) fn introduce(
        &self,
        channel: &core::Channel,
        introduction: &Message<'_>,
        descriptors: &[Arc<Descriptor>],
        lifeline: Option<Lifeline>,
    ) -> PyResult<bool> {
        let word = if lifeline.is_some() { HANGS } else { 0 };
        let head = Head { kind: Kind::Introduction, word };
        let lifeline = lifeline.iter().map(|lifeline| lifeline.as_descriptor().as_fd());
        let all: Vec<_> = lifeline.chain(borrowed(descriptors).map_err(to_python)?).collect();
        match introduction.send(channel, head, &all) {
            Ok(()) => Ok(true),
            Err(e) if e.is_hang_up() => Ok(false),
            Err(e) => Err(to_python(e)),
        }
    }

    /// A process that was forked ahead, and has neither failed nor ended.
    pub(super) fn ahead(
        py: Python<'_>,
        server: &Bound<'_, ForkServer>,
    ) -> PyResult<Option<(core::Channel, Child)>> {
        let helper = server.get().current()?;
        if helper.is_gone() {
            // They may be there still, but nobody would tell how they end.
            return Err(Jobs::failed(py, server, &helper, core::forkserver::gone()));
        }
        while let Some(channel) = server.get().take_ahead() {
            match Jobs::answer(py, server, &helper, &channel) {
                Ok(child) if !child.has_ended() => return Ok(Some((channel, child))),
                Err(e) if !e.is_instance_of::<PyOSError>(py) => return Err(e),
                _ => {} // it was refused then, or killed since
            }
        }
        Ok(None)
    }

    /// Asks a fork server for a process, and waits for its answer.
    pub(super) fn ask(
        &self,
        py: Python<'_>,
        server: &Bound<'_, ForkServer>,
    ) -> PyResult<(core::Channel, Child)> {
        let helper = server.get().current()?;
        let lifeline = self.lifeline()?;
        let Launch { owner_end, job_end } = Launch::new().map_err(to_python)?;
        // The GIL is kept where that is quick, lest another thread fork, and copy these ends.
        let mut asked = helper.try_request(&job_end, lifeline.as_ref());
        while let Ok(false) = asked {
            py.check_signals()?;
            asked = py.detach(|| helper.request(&job_end, lifeline.as_ref()));
        }
        asked.map_err(|e| Jobs::failed(py, server, &helper, e))?;
        drop(job_end);
        let child = Jobs::answer(py, server, &helper, &owner_end)?;
        Ok((owner_end, child))
    }

    fn answer(
        py: Python<'_>,
        server: &Bound<'_, ForkServer>,
        helper: &Arc<core::forkserver::ForkServer>,
        channel: &core::Channel,
    ) -> PyResult<Child> {
        loop {
            py.check_signals()?;
            match py.detach(|| helper.wait_answer(channel)) {
                Ok(Some(child)) => return Ok(child),
                Ok(None) => {}
                Err(e) => return Err(Jobs::failed(py, server, helper, e)),
            }
        }
    }

    /// After a request has failed: gives the fork server up if it is gone.
    fn failed(
        py: Python<'_>,
        server: &Bound<'_, ForkServer>,
        helper: &Arc<core::forkserver::ForkServer>,
        error: core::Error,
    ) -> PyErr {
        if error.kind() == ErrorKind::ForkServerGone {
            if let Err(raised) = server.get().give_up(py, helper) {
                return raised;
            }
            if let Some(status) = helper.ended() {
                return ForkServerGone::new_err(format!("the fork server {status}"));
            }
        }
        to_python(error)
    }
}

/// Ends a forked process that would go on, by an error of ours, in what its owner was about.
pub(super) struct NeverOn;

impl Drop for NeverOn {
    fn drop(&mut self) {
        exit_at_once(1);
    }
}

fn owner_gone() -> PyErr {
    PyRuntimeError::new_err("the owner of this job died before the job had begun")
}

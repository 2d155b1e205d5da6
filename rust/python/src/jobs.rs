//! Jobs: the owner's table of what it has running.

use crate::channel::{body_to_python, Channel, Message};
use crate::errors::to_python;
use crate::forkserver::{command, ForkServer};
use crate::hooks;
use crate::pool::{duplicate, take, Pool, Slot};
use jobserver_core as core;
use jobserver_core::channel::Kind;
use jobserver_core::forkserver::Answer;
use jobserver_core::sys::{signal_from_raw, Forked};
use jobserver_core::{Child, ExitStatus, JobId, Launch, Outcome, Woken};
use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use std::collections::HashMap;
use std::ffi::OsString;
use std::os::fd::{OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// How a job ended that sent no result.
#[pyclass(frozen, get_all, module = "jobserver._native")]
pub(crate) struct Death {
    exitcode: Option<i32>,
    signal: Option<i32>,
    text: String,
}

impl From<ExitStatus> for Death {
    fn from(status: ExitStatus) -> Death {
        let (exitcode, signal) = match status {
            ExitStatus::Code(code) => (Some(code), None),
            ExitStatus::Signal(signal) => (None, Some(signal)),
            ExitStatus::Unknown => (None, None),
        };
        Death { exitcode, signal, text: status.to_string() }
    }
}

/// Futures get their `_pid`, `_job` and `_outcome` set from here, and are then appended to
/// the deque `finished`: no Python code runs in between, so neither a signal handler nor
/// another thread can come between an event's taking and its telling.
#[pyclass(module = "jobserver._native")]
pub(crate) struct Jobs {
    table: core::Jobs,
    futures: HashMap<JobId, Py<PyAny>>,
    finished: Py<PyAny>,
}

#[pymethods]
impl Jobs {
    #[new]
    fn new(finished: Py<PyAny>) -> Jobs {
        Jobs { table: core::Jobs::new(), futures: HashMap::new(), finished }
    }

    /// Forks a job. Returns None in the owner, and the job's channel in the job.
    #[pyo3(signature = (future, slot))]
    fn fork(
        slf: &Bound<'_, Self>,
        future: Bound<'_, PyAny>,
        slot: Option<&Bound<'_, Slot>>,
    ) -> PyResult<Option<Channel>> {
        let slot = take(slot);
        let launch = Launch::new().map_err(to_python)?;
        let forked = hooks::fork(slf.py())
            .map_err(|e| to_python(core::Error::refused("cannot fork a job", e)))?;
        match forked {
            Forked::Child => {
                slf.borrow_mut().abandon();
                Ok(Some(Channel(launch.job_end)))
            }
            Forked::Parent(pid) => {
                drop(launch.job_end);
                slf.borrow_mut().enter(future, launch.owner_end, Child::adopt(pid), slot)?;
                Ok(None)
            }
        }
    }

    /// Starts a job in a new program, which gets its channel as its standard input.
    fn spawn(
        slf: &Bound<'_, Self>,
        future: Bound<'_, PyAny>,
        slot: Option<&Bound<'_, Slot>>,
        argv: Vec<OsString>,
        message: Message<'_>,
        descriptors: Vec<RawFd>,
    ) -> PyResult<()> {
        let slot = take(slot);
        let descriptors = duplicate_all(&descriptors)?;
        let launch = Launch::new().map_err(to_python)?;
        let mut command = command(argv)?;
        command.stdin(launch.job_end.into_socket().map_err(to_python)?);
        let child = Child::spawn(&mut command).map_err(to_python)?;
        slf.borrow_mut().launch(future, launch.owner_end, child, slot, message, &descriptors)
    }

    /// Has a job forked by a fork server; waits for its answer.
    fn request(
        slf: &Bound<'_, Self>,
        future: Bound<'_, PyAny>,
        slot: Option<&Bound<'_, Slot>>,
        server: &Bound<'_, ForkServer>,
        message: Message<'_>,
        descriptors: Vec<RawFd>,
    ) -> PyResult<()> {
        let descriptors = duplicate_all(&descriptors)?;
        let launch = Launch::new().map_err(to_python)?;
        server.get().0.request(&launch).map_err(to_python)?;
        drop(launch.job_end);
        let channel = launch.owner_end;
        let child = loop {
            match core::forkserver::ForkServer::answer(&channel).map_err(to_python)? {
                Answer::Started(child) => break child,
                Answer::NothingYet => {
                    slf.py().detach(|| channel.wait_readable()).map_err(to_python)?;
                    slf.py().check_signals()?;
                }
            }
        };
        let slot = take(slot); // not before: the caller tries again if the server is gone
        slf.borrow_mut().launch(future, channel, child, slot, message, &descriptors)
    }

    /// One scan. Returns how many outcomes have been told so far, for `wait`.
    fn scan(&mut self, py: Python<'_>) -> PyResult<u64> {
        for (id, outcome) in self.table.scan().map_err(to_python)? {
            let Some(future) = self.futures.remove(&id) else { continue };
            future.setattr(py, intern!(py, "_outcome"), outcome_to_python(py, outcome)?)?;
            self.finished.call_method1(py, intern!(py, "append"), (future,))?;
        }
        Ok(self.table.handled())
    }

    /// Waits until something may be ready: a job, another thread's scan, a free slot of
    /// `pool` if given, the end of `timeout` seconds. Returns at once if more than
    /// `handled` outcomes have been told. Signal handlers run, and may raise.
    #[pyo3(signature = (handled, pool, timeout))]
    fn wait(
        slf: &Bound<'_, Self>,
        handled: u64,
        pool: Option<&Bound<'_, Pool>>,
        timeout: Option<f64>,
    ) -> PyResult<()> {
        let py = slf.py();
        let pool = pool.map(|pool| pool.get().0.clone());
        // A time too long for the clock (infinity included) is no deadline.
        let timeout = timeout.and_then(|t| Duration::try_from_secs_f64(t.max(0.0)).ok());
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let begun = slf.borrow_mut().table.begin_wait(handled);
            let Some(waiting) = begun.map_err(to_python)? else { return Ok(()) };
            let also = pool.as_ref().map(core::Pool::read_end);
            let woken = py.detach(|| waiting.block(also, deadline));
            slf.borrow_mut().table.end_wait(waiting);
            match woken.map_err(to_python)? {
                Woken::Interrupted => py.check_signals()?,
                Woken::Ready | Woken::TimedOut => return Ok(()),
            }
        }
    }

    /// Sends a signal to a job; harmless if it has ended.
    fn signal(&self, job: u64, signal: i32) -> PyResult<()> {
        let known = signal_from_raw(signal)
            .ok_or_else(|| PyValueError::new_err(format!("there is no signal {signal}")))?;
        self.table.signal(JobId(job), known).map_err(to_python)
    }

    #[getter]
    fn outstanding(&self) -> usize {
        self.table.outstanding()
    }
}

impl Jobs {
    fn enter(
        &mut self,
        future: Bound<'_, PyAny>,
        channel: core::Channel,
        child: Child,
        slot: Option<core::Slot>,
    ) -> PyResult<JobId> {
        let py = future.py();
        let pid = child.pid().as_raw_nonzero().get();
        let id = self.table.started(channel, child, slot).map_err(to_python)?;
        future.setattr(intern!(py, "_pid"), pid)?;
        future.setattr(intern!(py, "_job"), id.0)?;
        self.futures.insert(id, future.unbind());
        Ok(id)
    }

    /// Enters a job and tells it what to run.
    fn launch(
        &mut self,
        future: Bound<'_, PyAny>,
        channel: core::Channel,
        child: Child,
        slot: Option<core::Slot>,
        message: Message<'_>,
        descriptors: &[OwnedFd],
    ) -> PyResult<()> {
        let id = self.enter(future, channel, child, slot)?;
        let Some(channel) = self.table.channel(id) else { return Ok(()) };
        match message.send(channel, Kind::Launch, descriptors) {
            // A job that is gone already will be told of as a death.
            Err(e) if !e.is_hang_up() => {
                self.futures.remove(&id);
                self.table.cancel(id);
                Err(to_python(e))
            }
            _ => Ok(()),
        }
    }

    /// In a forked child: forgets the owner's jobs. The futures are leaked on purpose: to
    /// drop them would write to the memory that the fork shares, and run code.
    fn abandon(&mut self) {
        self.table.abandon();
        std::mem::forget(std::mem::take(&mut self.futures));
    }
}

fn duplicate_all(descriptors: &[RawFd]) -> PyResult<Vec<OwnedFd>> {
    descriptors.iter().map(|fd| duplicate(*fd)).collect()
}

fn outcome_to_python(py: Python<'_>, outcome: Outcome) -> PyResult<Py<PyAny>> {
    match outcome {
        Outcome::Result(body) => body_to_python(py, body),
        Outcome::Ended(status) => Ok(Bound::new(py, Death::from(status))?.into_any().unbind()),
        Outcome::Lost(error) => Ok(to_python(error).into_value(py).into_any()),
    }
}

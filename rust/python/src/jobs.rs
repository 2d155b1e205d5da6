//! Jobs: the owner's table of what it has running.

use crate::channel::{body_to_python, Channel, MemoryFile, Message};
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
/// the deque `finished` if they have callbacks, or a memory file to read: no Python code runs in between, so neither a signal handler nor
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

    /// Scans, and waits if need be, until a slot of `pool` can be taken. None when
    /// `timeout` seconds are over; or, if `callbacks`, when some are due.
    #[pyo3(signature = (pool, timeout, callbacks))]
    fn admit(
        slf: &Bound<'_, Self>,
        pool: &Bound<'_, Pool>,
        timeout: Option<f64>,
        callbacks: bool,
    ) -> PyResult<Option<Slot>> {
        let pool = &pool.get().0;
        Jobs::until(slf, timeout, Some(pool), callbacks, || {
            Ok(pool.try_take().map_err(to_python)?.map(|slot| Slot(Some(slot))))
        })
    }

    /// Scans, and waits if need be, until the job of `future` has finished: whether it has.
    /// False when `timeout` seconds are over, or when callbacks are due.
    #[pyo3(signature = (future, timeout))]
    fn wait_for(
        slf: &Bound<'_, Self>,
        future: Bound<'_, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<bool> {
        let finished = Jobs::until(slf, timeout, None, true, || {
            let outcome = future.getattr(intern!(future.py(), "_outcome"))?;
            Ok((!outcome.is_none()).then_some(()))
        })?;
        Ok(finished.is_some())
    }

    /// One scan. Returns how often a scan has changed anything so far, for `wait`.
    fn scan(&mut self, py: Python<'_>) -> PyResult<u64> {
        for (id, outcome) in self.table.scan().map_err(to_python)? {
            let Some(future) = self.futures.remove(&id) else { continue };
            let future = future.into_bound(py);
            let outcome = outcome_to_python(py, outcome)?;
            future.setattr(intern!(py, "_outcome"), &outcome)?;
            let in_memory = outcome.bind(py).is_instance_of::<MemoryFile>();
            if in_memory || !future.getattr(intern!(py, "_callbacks"))?.is_none() {
                self.finished.call_method1(py, intern!(py, "append"), (future,))?;
            }
        }
        Ok(self.table.handled())
    }

    /// Waits until something may be ready: a job, another thread's scan, a free slot of
    /// `pool` if given, the end of `timeout` seconds. Returns at once if
    /// a scan has changed something since `handled`. Signal handlers run, and may raise.
    #[pyo3(signature = (handled, pool, timeout))]
    fn wait(
        slf: &Bound<'_, Self>,
        handled: u64,
        pool: Option<&Bound<'_, Pool>>,
        timeout: Option<f64>,
    ) -> PyResult<()> {
        let pool = pool.map(|pool| pool.get().0.clone());
        Jobs::sleep(slf, handled, pool.as_ref(), deadline(timeout)).map(|_| ())
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
    /// Sleeps until something may be ready, or the deadline: whether it was not the deadline.
    fn sleep(
        slf: &Bound<'_, Self>,
        handled: u64,
        pool: Option<&core::Pool>,
        deadline: Option<Instant>,
    ) -> PyResult<bool> {
        loop {
            let begun = slf.borrow_mut().table.begin_wait(handled);
            let Some(waiting) = begun.map_err(to_python)? else { return Ok(true) };
            let also = pool.map(core::Pool::read_end);
            let woken = slf.py().detach(|| waiting.block(also, deadline));
            slf.borrow_mut().table.end_wait(waiting);
            match woken.map_err(to_python)? {
                Woken::Interrupted => slf.py().check_signals()?,
                Woken::Ready => return Ok(true),
                Woken::TimedOut => return Ok(false),
            }
        }
    }

    /// Scans and sleeps by turns until `look` finds something, the time is up, or, if
    /// `callbacks`, some are due. Stands here and not in Python since every Python function
    /// that runs between two forks writes to memory, and each page written costs a copy.
    fn until<T>(
        slf: &Bound<'_, Self>,
        timeout: Option<f64>,
        pool: Option<&core::Pool>,
        callbacks: bool,
        mut look: impl FnMut() -> PyResult<Option<T>>,
    ) -> PyResult<Option<T>> {
        let deadline = deadline(timeout);
        let mut more_time = true;
        loop {
            let handled = slf.borrow_mut().scan(slf.py())?;
            if callbacks && slf.borrow().finished.bind(slf.py()).len()? > 0 {
                return Ok(None);
            }
            if let Some(found) = look()? {
                return Ok(Some(found));
            }
            if !more_time || timeout.is_some_and(|seconds| seconds <= 0.0) {
                return Ok(None);
            }
            more_time = Jobs::sleep(slf, handled, pool, deadline)?;
        }
    }

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

/// When a timeout is over. One too long for the clock (infinity included) never is.
fn deadline(timeout: Option<f64>) -> Option<Instant> {
    let timeout = timeout.and_then(|t| Duration::try_from_secs_f64(t.max(0.0)).ok());
    timeout.and_then(|timeout| Instant::now().checked_add(timeout))
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

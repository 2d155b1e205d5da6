//! Promise: the state of a Future, to which scans deliver the outcome of its job.
//!
//! It is here and not in Python so that a delivery runs no Python code: no signal handler and no
//! other thread can run between the moment when an event is taken and the delivery. And a
//! submission, which comes between two forks, writes to few pages (see `setup.rs`). Not here: the
//! user's view of the state (`_future.py`).

use crate::channel::MemoryFile;
use crate::death::Death;
use crate::upcalls;
use jobserver_core::process::{getpid, Pid};
use jobserver_core::{ExitStatus, JobId};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyString;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// One Python object, or none yet. It is locked only briefly, and no Python code runs meanwhile.
#[derive(Default)]
struct Cell(Mutex<Option<Py<PyAny>>>);

impl Cell {
    fn lock(&self) -> MutexGuard<'_, Option<Py<PyAny>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.lock().as_ref().map(|object| object.clone_ref(py))
    }

    /// Stores this object, unless there is one. Returns the object that is there then.
    fn get_or_set(&self, py: Python<'_>, object: Py<PyAny>) -> Py<PyAny> {
        let mut place = self.lock();
        let first = place.get_or_insert_with(|| object.clone_ref(py)).clone_ref(py);
        drop(place); // unlocked before `object`, perhaps its last reference, is dropped
        first
    }
}

#[pyclass(frozen, subclass, module = "jobserver._native")]
pub(crate) struct Promise {
    /// The package's owner, which submitted the job.
    owner: Cell,
    time_limit: Option<f64>,
    consume: u32,
    /// The name of the job's function, if it has one.
    name: Option<Py<PyString>>,
    /// The process that submitted it.
    owner_pid: Pid,
    pid: AtomicI32,
    job: AtomicU64,
    /// The time when the job started, if it has a time limit.
    since: OnceLock<Instant>,
    /// The outcome of the job, if it is known: a message, a Death or an exception. After a message
    /// has been loaded, the loaded value replaces it, so that the message's memory is freed.
    outcome: Cell,
    loaded: Cell,
    callbacks: Cell,
    /// What the owner keeps of the job beside its outcome, such as its output; none for most jobs.
    records: Option<Py<PyAny>>,
    /// The deques to which the Future is appended when its job has ended.
    watchers: Mutex<Vec<Py<PyAny>>>,
}

#[pymethods]
impl Promise {
    #[new]
    #[pyo3(signature = (owner, time_limit, consume, name, records = None))]
    fn new(
        owner: Py<PyAny>,
        time_limit: Option<f64>,
        consume: u32,
        name: Option<&Bound<'_, PyAny>>,
        records: Option<Py<PyAny>>,
    ) -> Promise {
        // (The name may be any object, if the function is an object of a user's class.)
        let name = name.and_then(|name| name.cast::<PyString>().ok()).cloned();
        Promise {
            owner: Cell(Mutex::new(Some(owner))),
            time_limit,
            consume,
            name: name.map(Bound::unbind),
            owner_pid: getpid(),
            pid: AtomicI32::new(0),
            job: AtomicU64::new(0),
            since: OnceLock::new(),
            outcome: Cell::default(),
            loaded: Cell::default(),
            callbacks: Cell::default(),
            records,
            watchers: Mutex::default(),
        }
    }

    #[getter]
    fn _owner(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.owner.get(py)
    }

    #[getter]
    fn _consume(&self) -> u32 {
        self.consume
    }

    #[getter]
    fn _name(&self, py: Python<'_>) -> Option<Py<PyString>> {
        self.name.as_ref().map(|name| name.clone_ref(py))
    }

    /// The process that submitted the job.
    #[getter]
    fn _owner_pid(&self) -> i32 {
        self.owner_pid.as_raw_nonzero().get()
    }

    #[getter]
    fn _pid(&self) -> i32 {
        self.pid.load(Ordering::Relaxed)
    }

    #[getter]
    fn _job(&self) -> u64 {
        self.job.load(Ordering::Relaxed)
    }

    #[getter]
    fn _outcome(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.outcome.get(py)
    }

    #[getter]
    fn _records(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.records.as_ref().map(|records| records.clone_ref(py))
    }

    #[getter]
    fn _loaded(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.loaded.get(py)
    }

    /// Stores the loaded outcome. Of two threads at once, the first stores its value, and both
    /// return it.
    fn _keep(&self, py: Python<'_>, loaded: Py<PyAny>) -> Py<PyAny> {
        let kept = self.loaded.get_or_set(py, loaded);
        let died = self.outcome.get(py).is_some_and(|it| it.bind(py).is_instance_of::<Death>());
        if !died {
            let message = self.outcome.lock().replace(kept.clone_ref(py));
            drop(message);
        }
        kept
    }

    /// Stores what the job, which has run in this process, returned or raised, as `_keep` does.
    fn _ran_here(this: &Bound<'_, Self>, loaded: Py<PyAny>) -> PyResult<()> {
        let (py, promise) = (this.py(), this.get());
        promise.pid.store(promise._owner_pid(), Ordering::Relaxed);
        promise.loaded.get_or_set(py, loaded.clone_ref(py));
        Promise::deliver(this, loaded).map(drop)
    }

    /// The callbacks, if there are any.
    #[getter]
    fn _callbacks(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.callbacks.get(py)
    }

    /// The callbacks: `made`, unless another thread has stored some first.
    fn _callbacks_or(&self, py: Python<'_>, made: Py<PyAny>) -> Py<PyAny> {
        self.callbacks.get_or_set(py, made)
    }

    /// Appends the Future to this deque when its job has ended, at once if it has. So a caller that
    /// waits for any of many Futures need not check each.
    fn _watch(this: &Bound<'_, Self>, queue: Bound<'_, PyAny>) -> PyResult<()> {
        let promise = this.get();
        {
            let mut watchers = promise.watchers();
            if !promise.is_done() {
                watchers.push(queue.unbind());
                return Ok(());
            }
        }
        append(&queue, this)
    }

    /// Removes the deque again.
    fn _unwatch(&self, queue: Bound<'_, PyAny>) {
        let mut watchers = self.watchers();
        let place = watchers.iter().position(|each| each.is(&queue));
        let removed = place.map(|place| watchers.swap_remove(place));
        drop(watchers);
        drop(removed);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        for cell in [&self.owner, &self.outcome, &self.loaded, &self.callbacks] {
            visit.call(&*cell.lock())?;
        }
        visit.call(&self.records)?;
        self.watchers().iter().try_for_each(|queue| visit.call(queue))
    }

    fn __clear__(&self) {
        for cell in [&self.owner, &self.outcome, &self.loaded, &self.callbacks] {
            let cleared = cell.lock().take();
            drop(cleared); // not while it is locked: the drop may run code
        }
        let watchers = std::mem::take(&mut *self.watchers());
        drop(watchers);
    }
}

impl Promise {
    /// Records that the job has started.
    pub(crate) fn begun(&self, pid: Pid, job: JobId) {
        self.pid.store(pid.as_raw_nonzero().get(), Ordering::Relaxed);
        self.job.store(job.0, Ordering::Relaxed);
        if self.time_limit.is_some() {
            let _ = self.since.set(Instant::now()); // once only
        }
    }

    /// The job, if it has started.
    pub(crate) fn job(&self) -> JobId {
        JobId(self.job.load(Ordering::Relaxed))
    }

    /// The job's time limit, if the limit is the reason why the job has just ended.
    pub(crate) fn exceeded_limit(&self, status: ExitStatus) -> Option<f64> {
        let ran = self.since.get().map_or(Duration::ZERO, Instant::elapsed);
        self.time_limit.filter(|seconds| {
            let limit = Duration::try_from_secs_f64(*seconds).unwrap_or(Duration::MAX);
            status.is_by_limit(limit, ran)
        })
    }

    pub(crate) fn is_done(&self) -> bool {
        self.outcome.lock().is_some()
    }

    fn watchers(&self) -> MutexGuard<'_, Vec<Py<PyAny>>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores the outcome of the job. Returns whether the package must handle the Future: it has
    /// callbacks, records, or a memory file to read before its Jobserver closes.
    pub(crate) fn deliver(this: &Bound<'_, Self>, outcome: Py<PyAny>) -> PyResult<bool> {
        let (py, promise) = (this.py(), this.get());
        let in_memory = outcome.bind(py).is_instance_of::<MemoryFile>();
        *promise.outcome.lock() = Some(outcome); // delivered only once, so it replaces nothing
        let watchers = std::mem::take(&mut *promise.watchers());
        for queue in watchers {
            append(queue.bind(py), this)?;
        }
        let has_records = promise.records.is_some();
        Ok(in_memory || has_records || promise.callbacks.lock().is_some())
    }
}

/// Appends a Future to a deque.
pub(crate) fn append(queue: &Bound<'_, PyAny>, future: &Bound<'_, Promise>) -> PyResult<()> {
    upcalls::append(queue, future)
}

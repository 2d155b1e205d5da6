//! Owner: the calls of the core's owner, for Python. Each call converts, calls the core, and maps
//! errors.

use crate::admission::{Admission, FirstJob, DUE, NO_WORKER, STARTED, TIMED_OUT};
use crate::channel::{Descriptors, Payload};
use crate::errors::to_python;
use crate::forkserver::ForkServer;
use crate::host::Interpreter;
use crate::job::{self, Work};
use crate::owner_host::OwnersInterpreter;
use crate::pool::Pool;
use crate::program::Program;
use crate::promise::Promise;
use crate::setup::Setup;
use crate::waiting::{for_own, with_turn, PyLook};
use crate::worker::run_forked_worker;
use jobserver_core as core;
use jobserver_core::owner::{Birth, Options, Until};
use jobserver_core::JobId;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

/// Delivers outcomes to Futures (see `promise.rs`). Appends a finished Future to the deque
/// `finished` if it has callbacks, or a memory file to read.
#[pyclass(frozen, module = "jobserver._native")]
pub(crate) struct Owner {
    pub(crate) owner: core::Owner<Py<Promise>>,
    finished: Py<PyAny>,
}

impl Owner {
    pub(crate) fn host<'a, 'py>(&'a self, py: Python<'py>) -> OwnersInterpreter<'a, 'py> {
        OwnersInterpreter { py, finished: &self.finished }
    }
}

#[pymethods]
impl Owner {
    #[new]
    #[pyo3(signature = (finished, pool, orphans_stay, yields))]
    fn new(
        finished: Py<PyAny>,
        pool: Option<&Bound<'_, Pool>>,
        orphans_stay: bool,
        yields: bool,
    ) -> Owner {
        let pool = pool.map(|pool| pool.get().0.clone());
        Owner { owner: core::Owner::new(pool, Options { orphans_stay, yields }), finished }
    }

    /// The pool of its jobs. A caller must not keep it in a variable: a kept traceback would keep
    /// the pool's descriptors open.
    #[getter]
    fn pool(&self) -> PyResult<Pool> {
        self.owner.pool().map(Pool).map_err(to_python)
    }

    /// How many jobs are above this process.
    #[getter]
    fn depth(&self) -> PyResult<u16> {
        self.owner.pool().map(|pool| pool.depth()).map_err(to_python)
    }

    /// Whether its jobs report that they give their slots away.
    #[getter]
    fn hears_of_yields(&self) -> bool {
        self.owner.hears_of_yields()
    }

    /// Fails if this owner starts no more jobs.
    fn check_open(&self) -> PyResult<()> {
        self.owner.check_open().map_err(to_python)
    }

    /// Whether a slot is free. With `may_lend`, a job's own slot counts.
    fn could_admit(&self, admission: &Bound<'_, Admission>, may_lend: bool) -> PyResult<bool> {
        admission.try_borrow_mut()?.could_obtain(&self.owner, may_lend)
    }

    /// Whether this process, or a thread of it, has a slot that it can lend or give away.
    #[getter]
    fn can_lend(&self) -> bool {
        self.owner.pool().is_ok_and(|pool| pool.can_lend())
    }

    /// Reclaims the slots of processes that have ended.
    fn reclaim(&self) {
        let _ = self.owner.pool().map(|pool| pool.reclaim());
    }

    /// Scans and waits until the submission is admitted: `STARTED`, `DUE` or `TIMED_OUT`.
    fn admit(&self, py: Python<'_>, admission: &Bound<'_, Admission>) -> PyResult<u8> {
        admission.try_borrow_mut()?.obtain(&self.owner, &self.host(py))
    }

    /// Takes a slot if one is free; never waits. Otherwise, if this process is a job and
    /// `may_lend`, takes the job's own. Returns whether it has. True for a job that takes no slot.
    fn admit_at_once(&self, admission: &Bound<'_, Admission>, may_lend: bool) -> PyResult<bool> {
        admission.try_borrow_mut()?.obtain_at_once(&self.owner, may_lend)
    }

    /// Takes a slot for the calling thread to run on, if one is free, until `conclude`; never waits.
    /// If it `lends`, lends the process's own first. Returns whether it has one.
    fn admit_thread(&self, admission: &Bound<'_, Admission>, lends: bool) -> PyResult<bool> {
        admission.try_borrow_mut()?.obtain_thread(&self.owner, lends)
    }

    /// Gives the slots of an admitted submission back until `admit_at_once`, but keeps its place in
    /// the queue: other waiters leave them to it for a while.
    fn set_aside(&self, admission: &Bound<'_, Admission>) -> PyResult<()> {
        admission.try_borrow_mut()?.set_aside(&self.owner)
    }

    /// After a failed submission, or for another try: gives the slot back. If it was this process's
    /// own, waits until this process has a slot again; also if this process gave its own away during
    /// the wait, unless that was `interrupted`.
    #[pyo3(signature = (admission, interrupted=false))]
    fn conclude(
        &self,
        py: Python<'_>,
        admission: &Bound<'_, Admission>,
        interrupted: bool,
    ) -> PyResult<()> {
        let mut admission = admission.try_borrow_mut()?;
        admission.conclude(&self.owner, &self.host(py), interrupted)
    }

    /// Forks an admitted job, which calls the `initializer` and does its work at once. Returns only
    /// in the owner.
    fn fork(
        &self,
        future: Bound<'_, Promise>,
        admission: &Bound<'_, Admission>,
        setup: Bound<'_, Setup>,
        work: Bound<'_, Work>,
        initializer: Option<Bound<'_, PyAny>>,
    ) -> PyResult<u8> {
        let py = future.py();
        let mut admission = admission.try_borrow_mut()?;
        let pool = self.owner.pool().map_err(to_python)?;
        setup.get().refresh(py, &pool)?;
        job::flush(py)?; // otherwise buffered output would be printed twice
        let slot = &mut admission.admitted.slot;
        match self.owner.fork_job(&self.host(py), slot, || future.clone().unbind())? {
            Birth::Owner(Some(started)) => self.begun(&future, &mut admission, started),
            Birth::Owner(None) => Ok(NO_WORKER),
            Birth::Worker(born) => job::run_forked(py, born, work, setup, initializer),
        }
    }

    /// Forks a worker that runs the jobs which `loader` loads. Returns only in the owner.
    fn fork_worker(&self, setup: Bound<'_, Setup>, loader: Bound<'_, PyAny>) -> PyResult<()> {
        let py = setup.py();
        let pool = self.owner.pool().map_err(to_python)?;
        setup.get().refresh(py, &pool)?;
        job::flush(py)?;
        match self.owner.fork_worker(&self.host(py))? {
            Birth::Owner(_) => Ok(()),
            Birth::Worker(born) => run_forked_worker(py, born, setup, loader),
        }
    }

    /// Admits a job, and launches it on an idle worker. `NO_WORKER` if there is none: hire one.
    /// With `at_once`, the job is admitted, and this does not wait for a worker.
    #[pyo3(signature = (future, admission, payload, descriptors, at_once = false))]
    fn launch(
        &self,
        future: Bound<'_, Promise>,
        admission: Bound<'_, Admission>,
        payload: Payload<'_>,
        descriptors: Bound<'_, Descriptors>,
        at_once: bool,
    ) -> PyResult<u8> {
        let host = self.host(future.py());
        self.start(Some((future, admission, payload, descriptors)), |first| match first {
            Some(first) if at_once => Ok(self.owner.launch_at_once(first)?),
            Some(first) => Ok(self.owner.launch(&host, first)?),
            None => Ok(None),
        })
    }

    /// Hires a worker in a new program, which has its channel as its standard input, and starts
    /// with SIGINT blocked. If there is a `first` job, admits it, and launches it there.
    #[pyo3(signature = (program, introduction, descriptors, first))]
    fn hire_program(
        &self,
        program: Program<'_>,
        introduction: Payload<'_>,
        descriptors: &Bound<'_, Descriptors>,
        first: Option<FirstJob<'_>>,
    ) -> PyResult<u8> {
        let descriptors = descriptors.get().held();
        let start = |stdin| Ok(program.start(stdin)?);
        let introduction = introduction.with(&descriptors);
        self.start(first, |first| self.owner.hire_program(introduction, start, first))
    }

    /// Hires an idle worker of the tree, or one that a fork server has forked ahead, or forks now. If
    /// there is a `first` job, admits it, and launches it there. `introduce` returns the
    /// introduction, and whether it prepares the worker as all workers of the fork server are; it is
    /// called after the admission. Then requests workers ahead until there are `ahead`.
    #[pyo3(signature = (server, introduce, first, ahead))]
    fn hire_forked(
        &self,
        py: Python<'_>,
        server: &Bound<'_, ForkServer>,
        introduce: &Bound<'_, PyAny>,
        first: Option<FirstJob<'_>>,
        ahead: usize,
    ) -> PyResult<u8> {
        let (host, helper) = (Interpreter(py), &server.get().0);
        self.start(first, |first| {
            let (message, descriptors, alike): (Payload<'_>, Bound<'_, Descriptors>, bool) =
                introduce.call0()?.extract()?;
            let descriptors = descriptors.get().held();
            self.owner.hire_forked(&host, helper, (message.with(&descriptors), alike), first, ahead)
        })
    }

    /// Hires a worker that owners share: with `is_new`, has a helper that serves by a command start
    /// it; otherwise takes an idle one, and returns false if there is none.
    fn hire_shared(
        &self,
        py: Python<'_>,
        server: &Bound<'_, ForkServer>,
        introduction: Payload<'_>,
        descriptors: &Bound<'_, Descriptors>,
        is_new: bool,
    ) -> PyResult<bool> {
        let descriptors = descriptors.get().held();
        let (helper, introduction) = (&server.get().0, introduction.with(&descriptors));
        Ok(self.owner.hire_shared(&Interpreter(py), helper, introduction, is_new)?)
    }

    /// Starts the fork server, a program that serves the socket on its standard input, unless there
    /// is one. Returns whether it started one. The helper starts with SIGINT blocked, and gets this
    /// introduction first. Owners share the idle workers if so `shared`.
    fn start_fork_server(
        &self,
        py: Python<'_>,
        server: &Bound<'_, ForkServer>,
        shared: bool,
        program: Program<'_>,
        introduction: Payload<'_>,
        descriptors: &Bound<'_, Descriptors>,
    ) -> PyResult<bool> {
        let descriptors = descriptors.get().held();
        let start = |stdin| Ok(program.start(stdin)?);
        let (helper, introduction) = (&server.get().0, introduction.with(&descriptors));
        Ok(self.owner.start_fork_server(&Interpreter(py), helper, shared, introduction, start)?)
    }

    /// Scans and waits until the job of `future` has finished: `STARTED` for that, `DUE` or
    /// `TIMED_OUT`. While it waits, a job gives its slot to the pool if it `yields`, or if a job of
    /// its own has given its slot away.
    #[pyo3(signature = (future, timeout, yields))]
    fn wait_for(
        &self,
        future: Bound<'_, Promise>,
        timeout: Option<f64>,
        yields: bool,
    ) -> PyResult<u8> {
        let done = || future.get().is_done();
        let host = self.host(future.py());
        Ok(match self.owner.wait_for(&host, future.get().job(), done, timeout, yields)? {
            Until::Found(()) => STARTED,
            Until::Due => DUE,
            Until::TimedOut => TIMED_OUT,
        })
    }

    /// Waits until a job has finished, or for `timeout` seconds, and then calls `handle`: see
    /// `for_own`. Returns whether the job has finished.
    fn wait_for_own(
        &self,
        future: &Bound<'_, Promise>,
        timeout: Option<f64>,
        handle: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        for_own(&self.owner, &self.host(future.py()), future.get(), timeout, handle)
    }

    /// Wakes the threads that wait, and the event loops: to run callbacks that were left undone, or
    /// because something of theirs has changed.
    fn wake(&self) {
        self.owner.wake();
    }

    /// Takes the slots of a job if they are free, or lends this process's own; never waits, and lets
    /// this process go on. Returns whether it has them. True for a job that takes no slot.
    fn admit_beside(&self, admission: &Bound<'_, Admission>) -> PyResult<bool> {
        admission.try_borrow_mut()?.obtain_beside(&self.owner)
    }

    /// `wait` of a thread that submits for others, by `admit_beside`.
    #[pyo3(signature = (look, admission, timeout))]
    fn wait_beside(
        &self,
        py: Python<'_>,
        look: &PyLook,
        admission: Option<&Bound<'_, Admission>>,
        timeout: Option<f64>,
    ) -> PyResult<()> {
        let host = self.host(py);
        with_turn(admission, |slots| Ok(self.owner.wait_beside(&host, look.0, slots, timeout)?))
    }

    /// Whether this process gives its slots away while it waits: it has several, or a job of its own
    /// has given its slot away.
    #[getter]
    fn must_yield(&self) -> bool {
        self.owner.must_yield()
    }

    /// Whether this process is a job of several slots.
    #[getter]
    fn runs_on_several(&self) -> bool {
        self.owner.pool().is_ok_and(|pool| pool.runs_on_several())
    }

    /// Gives the slots that this process runs on to the pool. Returns whether there were any; then
    /// call `resume`.
    fn give_slots_away(&self) -> bool {
        self.owner.pool().is_ok_and(|pool| pool.give_own_slot_away())
    }

    /// Waits until this process has as many slots again.
    fn resume(&self, py: Python<'_>) -> PyResult<()> {
        let pool = self.owner.pool().map_err(to_python)?;
        Ok(self.owner.resume(&self.host(py), &pool)?)
    }

    /// Scans once. Returns the state that the scan saw, for `wait`.
    fn look(&self, py: Python<'_>) -> PyResult<PyLook> {
        Ok(PyLook(self.owner.scan(&self.host(py))?))
    }

    /// Waits until a job may be ready, another thread has scanned, `timeout` seconds are over, or,
    /// with an `admission`, the submission may be admitted, which keeps its place in the queue.
    /// Returns at once if something has changed since that look. Signal handlers run, and may raise.
    /// A job gives its slot to the pool meanwhile if it `yields`, if it has several, or if a job of
    /// its own has given its slot away.
    #[pyo3(signature = (look, admission, timeout, yields))]
    fn wait(
        &self,
        py: Python<'_>,
        look: &PyLook,
        admission: Option<&Bound<'_, Admission>>,
        timeout: Option<f64>,
        yields: bool,
    ) -> PyResult<()> {
        let host = self.host(py);
        with_turn(admission, |slots| Ok(self.owner.wait(&host, look.0, slots, timeout, yields)?))
    }

    /// Waits until a job may be ready, another thread has scanned, `timeout` seconds are over, or
    /// the submission may be admitted. A job keeps its slot meanwhile.
    #[pyo3(signature = (look, admission, timeout))]
    fn wait_for_slot(
        &self,
        py: Python<'_>,
        look: &PyLook,
        admission: &Bound<'_, Admission>,
        timeout: Option<f64>,
    ) -> PyResult<()> {
        let host = self.host(py);
        let turn = &mut admission.try_borrow_mut()?.turn;
        Ok(self.owner.wait_for_slot(&host, look.0, turn, timeout)?)
    }

    /// From now on no job can be started. Wakes the threads that wait for a slot. Running jobs go
    /// on. Fails, and changes nothing, if this thread itself has begun a launch that is not over.
    fn begin_close(&self) -> PyResult<()> {
        self.owner.begin_close().map_err(to_python)
    }

    /// Whether the close has begun, or is over.
    #[getter]
    fn closing(&self) -> bool {
        self.owner.is_closing()
    }

    /// Whether the owner is closed.
    #[getter]
    fn closed(&self) -> bool {
        self.owner.is_closed()
    }

    /// After `begin_close`: waits until no job runs, and closes everything. Returns true when all
    /// is closed; with `callbacks`, false if some are due first.
    fn close(&self, py: Python<'_>, callbacks: bool) -> PyResult<bool> {
        Ok(self.owner.close(&self.host(py), callbacks)?)
    }

    /// Ends a job and all processes below it: sends SIGTERM, and after `grace` seconds, or at once
    /// if they are 0, kills the processes that are left.
    fn kill(&self, py: Python<'_>, job: u64, grace: f64) -> PyResult<()> {
        Ok(self.owner.kill(&Interpreter(py), JobId(job), grace)?)
    }

    /// Sends a signal to a job. If the job has ended, does nothing.
    fn signal(&self, job: u64, signal: i32) -> PyResult<()> {
        self.owner.signal(JobId(job), signal).map_err(to_python)
    }

    /// At the end of a job: whether this owner has no jobs and no processes any more. Gives its idle
    /// workers to all owners of the tree if they can use them, and makes the others end.
    #[getter]
    fn is_at_rest(&self) -> bool {
        self.owner.is_at_rest()
    }

    /// Makes the idle workers end.
    fn dismiss_idle(&self) {
        self.owner.dismiss_idle();
    }

    /// The number of idle workers.
    #[getter]
    fn idle(&self) -> usize {
        self.owner.idle()
    }

    /// Whether a job has given its slot away.
    #[getter]
    fn any_has_yielded(&self) -> bool {
        self.owner.any_has_yielded()
    }

    /// The number of jobs whose Futures have no outcome yet.
    #[getter]
    fn unfinished(&self) -> usize {
        self.owner.unfinished()
    }

    #[getter]
    fn outstanding(&self) -> usize {
        self.owner.outstanding()
    }

    /// A running job has its Future here, which refers to the package's owner, and that to this.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.finished)?;
        self.owner.visit_kept(|future| visit.call(future))
    }

    fn __clear__(&self) {
        drop(self.owner.take_kept());
    }
}

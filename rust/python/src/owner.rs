//! Owner: the calls of an owner of the core's, for Python. Each converts, calls, and maps errors.

use crate::admission::{Admission, DUE, NO_WORKER, STARTED, TIMED_OUT};
use crate::channel::{Descriptors, Payload};
use crate::errors::to_python;
use crate::forkserver::ForkServer;
use crate::host::{Interpreter, Raised};
use crate::job::{self, Work};
use crate::owner_host::OwnersInterpreter;
use crate::pool::Pool;
use crate::program::Program;
use crate::promise::Promise;
use crate::setup::Setup;
use crate::worker::run_forked_worker;
use jobserver_core as core;
use jobserver_core::owner::{Birth, First, Look, Options, OwnerHost, Started, Until};
use jobserver_core::wire::Message;
use jobserver_core::JobId;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

/// The job that a worker is hired for: its Future, its admission, and what launches it.
type FirstJob<'py> =
    (Bound<'py, Promise>, Bound<'py, Admission>, Payload<'py>, Bound<'py, Descriptors>);

/// What a thread has seen: for `Owner.wait`.
#[pyclass(frozen, name = "Look", module = "jobserver._native")]
pub(crate) struct PyLook(Look);

/// Futures are told from here what came of their jobs (see `promise.rs`), and are then appended
/// to the deque `finished` if they have callbacks, or a memory file to read.
#[pyclass(frozen, module = "jobserver._native")]
pub(crate) struct Owner {
    pub(crate) owner: core::Owner<Py<Promise>>,
    finished: Py<PyAny>,
}

impl Owner {
    pub(crate) fn host<'a, 'py>(&'a self, py: Python<'py>) -> OwnersInterpreter<'a, 'py> {
        OwnersInterpreter { py, finished: &self.finished }
    }

    /// Admits a job, unless that has been done: `STARTED`, `DUE` or `TIMED_OUT`.
    fn obtain(&self, py: Python<'_>, admission: &mut Admission) -> PyResult<u8> {
        if admission.is_over {
            return Ok(STARTED);
        }
        let host = self.host(py);
        if admission.consume {
            match self.owner.admit(&host, admission.timeout, admission.callbacks)? {
                Until::Found(admitted) => admission.admitted = admitted,
                Until::Due => return Ok(DUE),
                Until::TimedOut => return Ok(TIMED_OUT),
            }
        } else {
            self.owner.check_open().map_err(to_python)?;
            self.owner.scan(&host)?;
            if admission.callbacks && host.is_due()? {
                return Ok(DUE);
            }
        }
        admission.is_over = true;
        Ok(STARTED)
    }

    /// Notes that a job has started, and concludes its admission.
    fn begun(
        &self,
        future: &Bound<'_, Promise>,
        admission: &mut Admission,
        started: Started,
    ) -> PyResult<u8> {
        future.get().begun(started.pid, started.id);
        self.owner.conclude(&self.host(future.py()), &mut admission.admitted)?;
        Ok(STARTED)
    }

    /// Admits a job, if there is one, and launches it so: `STARTED`, or what has kept it from that.
    fn start(
        &self,
        job: Option<FirstJob<'_>>,
        launch: impl FnOnce(Option<First<'_, Py<Promise>>>) -> Result<Option<Started>, Raised>,
    ) -> PyResult<u8> {
        let Some((future, admission, payload, descriptors)) = job else {
            launch(None)?;
            return Ok(STARTED);
        };
        let mut admission = admission.try_borrow_mut()?;
        let state = self.obtain(future.py(), &mut admission)?;
        if state != STARTED {
            return Ok(state);
        }
        let descriptors = descriptors.get().held();
        let started = launch(Some(First {
            slot: &mut admission.admitted.slot,
            message: Message { payload: payload.as_core(), descriptors: &descriptors },
            job: &|| future.clone().unbind(),
        }))?;
        match started {
            Some(started) => self.begun(&future, &mut admission, started),
            None => Ok(NO_WORKER),
        }
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

    /// The pool that its jobs run in. Not to be kept in a variable: a traceback that somebody
    /// keeps would keep the pool's descriptors open.
    #[getter]
    fn pool(&self) -> PyResult<Pool> {
        self.owner.pool().map(Pool).map_err(to_python)
    }

    /// Whether its jobs are to tell when they give their slots away.
    #[getter]
    fn hears_of_yields(&self) -> bool {
        self.owner.hears_of_yields()
    }

    /// Fails if nothing is started any more.
    fn check_open(&self) -> PyResult<()> {
        self.owner.check_open().map_err(to_python)
    }

    /// Whether a slot could be taken at this moment; if a job `may_lend`, its own counts.
    fn could_admit(&self, may_lend: bool) -> PyResult<bool> {
        self.owner.could_admit(may_lend).map_err(to_python)
    }

    /// Whether this process is a job with a slot that it could lend or hand over.
    #[getter]
    fn can_lend(&self) -> bool {
        self.owner.pool().is_ok_and(|pool| pool.runs())
    }

    /// Puts back the slots of processes that have been killed.
    fn reclaim(&self) {
        let _ = self.owner.pool().map(|pool| pool.reclaim());
    }

    /// Scans, and waits if need be, until the submission is admitted: `STARTED`, `DUE` or `TIMED_OUT`.
    fn admit(&self, py: Python<'_>, admission: &Bound<'_, Admission>) -> PyResult<u8> {
        self.obtain(py, &mut *admission.try_borrow_mut()?)
    }

    /// Takes a slot if one is free at this moment, or, if a job `may_lend`, its own: whether it has. True
    /// for a job that takes none.
    fn admit_at_once(&self, admission: &Bound<'_, Admission>, may_lend: bool) -> PyResult<bool> {
        let mut admission = admission.try_borrow_mut()?;
        if !admission.is_over && admission.consume {
            match self.owner.admit_at_once(may_lend).map_err(to_python)? {
                Some(admitted) => admission.admitted = admitted,
                None => return Ok(false),
            }
        }
        admission.is_over = true;
        Ok(true)
    }

    /// After a submission that has failed: gives the slot back, and if it was this process's own, waits
    /// until there is one to go on with.
    fn conclude(&self, py: Python<'_>, admission: &Bound<'_, Admission>) -> PyResult<()> {
        let admitted = &mut admission.try_borrow_mut()?.admitted;
        Ok(self.owner.conclude(&self.host(py), admitted)?)
    }

    /// Forks a job that has been admitted, which does its work there and then. Returns in the owner only.
    fn fork(
        &self,
        future: Bound<'_, Promise>,
        admission: &Bound<'_, Admission>,
        setup: Bound<'_, Setup>,
        work: Bound<'_, Work>,
    ) -> PyResult<u8> {
        let py = future.py();
        let mut admission = admission.try_borrow_mut()?;
        let pool = self.owner.pool().map_err(to_python)?;
        setup.get().refresh(py, &pool)?;
        job::flush(py)?; // or what is buffered would be printed twice
        let slot = &mut admission.admitted.slot;
        match self.owner.fork_job(&self.host(py), slot, || future.clone().unbind())? {
            Birth::Owner(Some(started)) => self.begun(&future, &mut admission, started),
            Birth::Owner(None) => Ok(NO_WORKER),
            Birth::Worker(born) => job::run_forked(py, born, work, setup),
        }
    }

    /// Forks a worker that runs the jobs which `loader` loads. Returns in the owner only.
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

    /// Admits a job, and launches it on a worker that is idle. `NO_WORKER` if there is none: hire one.
    fn launch(
        &self,
        future: Bound<'_, Promise>,
        admission: Bound<'_, Admission>,
        payload: Payload<'_>,
        descriptors: Bound<'_, Descriptors>,
    ) -> PyResult<u8> {
        let host = self.host(future.py());
        self.start(Some((future, admission, payload, descriptors)), |first| match first {
            Some(first) => Ok(self.owner.launch(&host, first)?),
            None => Ok(None),
        })
    }

    /// Hires a worker in a new program, which gets its channel as its standard input, and is born with
    /// SIGINT blocked. If there is a `first` job, admits it, and launches it there.
    #[pyo3(signature = (program, introduction, descriptors, first))]
    fn hire_program(
        &self,
        program: Program<'_>,
        introduction: Payload<'_>,
        descriptors: &Bound<'_, Descriptors>,
        first: Option<FirstJob<'_>>,
    ) -> PyResult<u8> {
        let descriptors = descriptors.get().held();
        let introduction = Message { payload: introduction.as_core(), descriptors: &descriptors };
        let start = |stdin| Ok(program.start(stdin)?);
        self.start(first, |first| self.owner.hire_program(introduction, start, first))
    }

    /// Hires a worker that a fork server has forked ahead, or forks now. If there is a `first` job,
    /// admits it, and launches it there. Then has the fork server fork more, so many `ahead`.
    #[pyo3(signature = (server, introduction, descriptors, first, ahead))]
    fn hire_forked(
        &self,
        py: Python<'_>,
        server: &Bound<'_, ForkServer>,
        introduction: Payload<'_>,
        descriptors: &Bound<'_, Descriptors>,
        first: Option<FirstJob<'_>>,
        ahead: usize,
    ) -> PyResult<u8> {
        let descriptors = descriptors.get().held();
        let introduction = Message { payload: introduction.as_core(), descriptors: &descriptors };
        let (host, helper) = (Interpreter(py), &server.get().0);
        self.start(first, |first| self.owner.hire_forked(&host, helper, introduction, first, ahead))
    }

    /// Starts the fork server, a program that serves the socket on its standard input, unless there is
    /// one: whether it has. The helper is born with SIGINT blocked, and first sent this.
    fn start_fork_server(
        &self,
        py: Python<'_>,
        server: &Bound<'_, ForkServer>,
        program: Program<'_>,
        introduction: Payload<'_>,
        descriptors: &Bound<'_, Descriptors>,
    ) -> PyResult<bool> {
        let descriptors = descriptors.get().held();
        let introduction = Message { payload: introduction.as_core(), descriptors: &descriptors };
        let start = |stdin| Ok(program.start(stdin)?);
        let helper = &server.get().0;
        Ok(self.owner.start_fork_server(&Interpreter(py), helper, introduction, start)?)
    }

    /// Scans, and waits if need be, until the job of `future` has finished: `STARTED` for that, `DUE` or
    /// `TIMED_OUT`. While it waits, a job's slot is given to the pool if it `yields`, or must.
    #[pyo3(signature = (future, timeout, yields))]
    fn wait_for(
        &self,
        future: Bound<'_, Promise>,
        timeout: Option<f64>,
        yields: bool,
    ) -> PyResult<u8> {
        let done = || future.get().is_done();
        let host = self.host(future.py());
        Ok(match self.owner.wait_for(&host, done, timeout, yields)? {
            Until::Found(()) => STARTED,
            Until::Due => DUE,
            Until::TimedOut => TIMED_OUT,
        })
    }

    /// One scan. Returns what has been seen then, for `wait`.
    fn look(&self, py: Python<'_>) -> PyResult<PyLook> {
        Ok(PyLook(self.owner.scan(&self.host(py))?))
    }

    /// Waits until something may be ready: a job, another thread's scan, the end of `timeout` seconds; or,
    /// `for_slot`, a free slot. Returns at once if something has changed since that look. Signal handlers
    /// run, and may raise. A job `keeps_slot`, or gives it to the pool meanwhile if it `yields`, or must.
    #[pyo3(signature = (look, for_slot, keeps_slot, timeout, yields))]
    fn wait(
        &self,
        py: Python<'_>,
        look: &PyLook,
        for_slot: bool,
        keeps_slot: bool,
        timeout: Option<f64>,
        yields: bool,
    ) -> PyResult<()> {
        let host = self.host(py);
        Ok(self.owner.wait(&host, look.0, for_slot, keeps_slot, timeout, yields)?)
    }

    /// Lets nothing be started from now on, and tells those who wait for a slot. What runs goes on.
    /// An error, and nothing has changed, if this very thread has a launch under way.
    fn begin_close(&self) -> PyResult<()> {
        self.owner.begin_close().map_err(to_python)
    }

    /// Whether that has begun, or is over.
    #[getter]
    fn closing(&self) -> bool {
        self.owner.is_closing()
    }

    /// Whether everything has been given up.
    #[getter]
    fn closed(&self) -> bool {
        self.owner.is_closed()
    }

    /// After `begin_close`: waits until nothing runs any more, and gives everything up: whether it has.
    /// False if `callbacks`, and some are due.
    fn close(&self, py: Python<'_>, callbacks: bool) -> PyResult<bool> {
        Ok(self.owner.close(&self.host(py), callbacks)?)
    }

    /// Ends a job and everything that it has started: asks by SIGTERM, and after `grace`
    /// seconds, or at once if they are 0, kills what is left.
    fn kill(&self, py: Python<'_>, job: u64, grace: f64) -> PyResult<()> {
        Ok(self.owner.kill(&Interpreter(py), JobId(job), grace)?)
    }

    /// Sends a signal to a job; harmless if it has ended.
    fn signal(&self, job: u64, signal: i32) -> PyResult<()> {
        self.owner.signal(JobId(job), signal).map_err(to_python)
    }

    /// Has those workers end that are idle.
    fn dismiss_idle(&self) {
        self.owner.dismiss_idle();
    }

    /// How many workers are idle.
    #[getter]
    fn idle(&self) -> usize {
        self.owner.idle()
    }

    /// Whether a job has given its slot away, and so this process is to do so while it waits.
    #[getter]
    fn any_has_yielded(&self) -> bool {
        self.owner.any_has_yielded()
    }

    /// How many jobs have Futures that have been told of nothing yet.
    #[getter]
    fn unfinished(&self) -> usize {
        self.owner.unfinished()
    }

    #[getter]
    fn outstanding(&self) -> usize {
        self.owner.outstanding()
    }

    /// Jobs that run have their Futures here, those the package's owner, and that this.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.finished)?;
        self.owner.visit_kept(|future| visit.call(future))
    }

    fn __clear__(&self) {
        drop(self.owner.take_kept());
    }
}

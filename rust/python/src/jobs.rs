//! Jobs: the owner's table of what it has running. Not here: how a process is born (`births`), and
//! how the table is waited for (`waits`).

mod births;
mod waits;

use crate::errors::to_python;
use crate::forkserver::ForkServer;
use crate::job::{self, Sent, Work};
use crate::pool::{take, Pool, Slot};
use crate::program::Program;
use crate::promise::{append, Promise};
use crate::setup::Setup;
use crate::wire::{body_to_python, borrowed, Descriptors, Message};
use crate::worker::run_jobs;
use births::Side;
use jobserver_core as core;
use jobserver_core::platform::{exit_at_once, signal_from_raw, Descriptor};
use jobserver_core::process::{getpid, is_this, reap_left, Kept, Lifeline, Pid};
use jobserver_core::wire::Head;
use jobserver_core::{Child, ExitStatus, JobId, Launch, Outcome, Woken};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};
use waits::deadline;

/// The process that has made a table last.
static LAST_OWNER: AtomicI32 = AtomicI32::new(0);

/// Whether this process may have jobs of its own.
pub(crate) fn has_jobs() -> bool {
    LAST_OWNER.load(Ordering::Relaxed) == getpid().as_raw_nonzero().get()
}

/// The job that a process is born for: its Future, its slot, and what launches it.
type First<'py> =
    (Bound<'py, Promise>, Option<Bound<'py, Slot>>, Message<'py>, Bound<'py, Descriptors>);

/// What came of which Future.
type News = (Py<Promise>, Outcome);

/// How a job ended that sent no result.
#[pyclass(frozen, get_all, module = "jobserver._native")]
pub(crate) struct Death {
    exitcode: Option<i32>,
    signal: Option<i32>,
    text: String,
    /// The limit, in seconds, if the job ended because it ran for longer.
    time_limit: Option<f64>,
    /// What the job had said of its end.
    last_words: Option<String>,
}

impl Death {
    fn new(status: ExitStatus, time_limit: Option<f64>, last_words: Option<String>) -> Death {
        let (exitcode, signal) = match status {
            ExitStatus::Code(code) => (Some(code), None),
            ExitStatus::Signal(signal) | ExitStatus::Overdue(signal) => (None, Some(signal)),
            ExitStatus::Unknown => (None, None),
        };
        Death { exitcode, signal, text: status.to_string(), time_limit, last_words }
    }
}

/// Futures are told from here what came of their jobs (see `promise.rs`), and are then appended
/// to the deque `finished` if they have callbacks, or a memory file to read.
///
/// No Python call is made while `state` is locked, since any may let another thread run,
/// which would then hold the GIL and want the lock.
#[pyclass(frozen, module = "jobserver._native")]
pub(crate) struct Jobs {
    state: Mutex<State>,
    finished: Py<PyAny>,
    /// The pool that its jobs run in; none once closed.
    pool: Mutex<Option<Py<Pool>>>,
    /// How many slots that has.
    slots: usize,
    /// The process whose jobs these are.
    owner: Pid,
    /// Whether jobs go on when this process is killed.
    orphans_stay: bool,
    /// Whether this process keeps its slot while it waits for them, if it is a job.
    holds: bool,
}

#[derive(Default)]
struct State {
    table: core::Jobs,
    futures: HashMap<JobId, Py<Promise>>,
    /// Taken from the table, and not told yet. Kept here, since what runs in between (the
    /// garbage collector's finalizers, for one) may itself wait for one of these.
    untold: VecDeque<News>,
    /// The threads that have a launch under way; see [`Launching`].
    launching: Vec<ThreadId>,
    /// What the jobs hang on, once there have been any.
    lifeline: Option<Lifeline>,
    /// Nothing is started any more.
    closing: bool,
    closed: bool,
}

#[pymethods]
impl Jobs {
    #[new]
    #[pyo3(signature = (finished, pool, orphans_stay, holds))]
    fn new(finished: Py<PyAny>, pool: Option<Py<Pool>>, orphans_stay: bool, holds: bool) -> Jobs {
        let slots = pool.as_ref().map_or(0, |pool| pool.get().pool.slots());
        let (state, pool, owner) = (Mutex::default(), Mutex::new(pool), getpid());
        LAST_OWNER.store(owner.as_raw_nonzero().get(), Ordering::Relaxed);
        Jobs { state, finished, pool, slots, owner, orphans_stay, holds }
    }

    /// The pool that its jobs run in. Not to be kept in a variable: a traceback that somebody
    /// keeps would keep the pool's descriptors open.
    #[getter]
    fn pool(&self, py: Python<'_>) -> PyResult<Py<Pool>> {
        self.known_pool().as_ref().map(|pool| pool.clone_ref(py)).ok_or_else(closed)
    }

    /// Whether its jobs are to tell when they give their slots away, since this process, a job that
    /// holds a slot, would keep that while it waits for them.
    #[getter]
    fn hears(&self) -> bool {
        let pool = self.known_pool();
        self.holds && pool.as_ref().is_some_and(|pool| pool.get().pool.is_job())
    }

    /// Forks a job, which does its work there and then. Returns in the owner only.
    #[pyo3(signature = (future, slot, setup, work))]
    fn fork(
        &self,
        future: Bound<'_, Promise>,
        slot: Option<&Bound<'_, Slot>>,
        setup: Bound<'_, Setup>,
        work: Bound<'_, Work>,
    ) -> PyResult<()> {
        let py = future.py();
        let _launching = self.begin_launch()?;
        let slot = take(slot);
        match self.fork_process(&setup, slot.as_ref())? {
            Side::Owner(channel, child) => self.enter(future, channel, child, slot),
            Side::Job(channel, set_up, _never) => {
                let set_up = set_up.and_then(|()| work.get().apply_environment(py));
                match Bound::new(py, channel) {
                    Ok(channel) => job::run(py, &channel, set_up.map(|()| (work, setup))),
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// Forks a process that runs the jobs which `worker` loads. Returns in the owner only.
    fn hire_fork(&self, setup: Bound<'_, Setup>, worker: Bound<'_, PyAny>) -> PyResult<()> {
        let py = setup.py();
        let _launching = self.begin_launch()?;
        match self.fork_process(&setup, None)? {
            Side::Owner(channel, child) => self.hired(channel, child, None),
            Side::Job(channel, set_up, _never) => {
                let ended = set_up.and_then(|()| Bound::new(py, channel));
                let ended = ended.and_then(|channel| run_jobs(py, &channel, &worker));
                exit_at_once(job::end(py, None, ended.map(|()| Sent::Ends(0))))
            }
        }
    }

    /// Starts a process in a new program, which gets its channel as its standard input, and is born
    /// with SIGINT blocked. If there is a `first` job, launches that on it.
    #[pyo3(signature = (program, introduction, descriptors, first))]
    fn hire_spawn(
        &self,
        program: Program<'_>,
        introduction: Message<'_>,
        descriptors: &Bound<'_, Descriptors>,
        first: Option<First<'_>>,
    ) -> PyResult<()> {
        let _launching = self.begin_launch()?;
        let descriptors = descriptors.get().held();
        let launch = Launch::new().map_err(to_python)?;
        let lifeline = self.lifeline()?;
        self.introduce(&launch.owner_end, &introduction, &descriptors, lifeline)?;
        let child = program.start(launch.job_end.into_socket().map_err(to_python)?)?;
        self.hired(launch.owner_end, child, first)
    }

    /// Takes a process that a fork server has forked ahead, or has one forked. If there is a
    /// `first` job, launches that on it.
    #[pyo3(signature = (server, introduction, descriptors, first))]
    fn hire_request(
        &self,
        py: Python<'_>,
        server: &Bound<'_, ForkServer>,
        introduction: Message<'_>,
        descriptors: &Bound<'_, Descriptors>,
        first: Option<First<'_>>,
    ) -> PyResult<()> {
        let _launching = self.begin_launch()?;
        let descriptors = descriptors.get().held();
        while let Some((channel, child)) = Jobs::ahead(py, server)? {
            if self.introduce(&channel, &introduction, &descriptors, None)? {
                return self.hired(channel, child, first);
            } // else it has just left, having waited for long
        }
        let (mut channel, mut child) = self.ask(py, server)?;
        if !self.introduce(&channel, &introduction, &descriptors, None)? {
            // So may this one, if we were held up. Not for ever: somebody may be killing them.
            (channel, child) = self.ask(py, server)?;
            self.introduce(&channel, &introduction, &descriptors, None)?;
        }
        self.hired(channel, child, first)
    }

    /// Has a fork server fork processes ahead of need, until there are so many. Not to wait for
    /// them: nothing is lost if it cannot.
    fn ask_ahead(&self, server: &Bound<'_, ForkServer>, number: usize) -> PyResult<()> {
        let _launching = self.begin_launch()?;
        let lifeline = self.lifeline()?;
        server.get().top_up(number, lifeline.as_ref()).map_err(to_python)
    }

    /// Launches a job on a process that is idle: whether there was one. Otherwise nothing has
    /// happened; hire one.
    #[pyo3(signature = (future, slot, message, descriptors))]
    fn launch(
        &self,
        future: Bound<'_, Promise>,
        slot: Option<&Bound<'_, Slot>>,
        message: Message<'_>,
        descriptors: &Bound<'_, Descriptors>,
    ) -> PyResult<bool> {
        let _launching = self.begin_launch()?;
        let descriptors = descriptors.get().held();
        taking(slot, |taken| self.launch_on_idle(&future, taken, &message, &descriptors))
    }

    /// Scans, and waits if need be, until a slot of `pool` can be taken. None when
    /// `timeout` seconds are over; or, if `callbacks`, when some are due. There is no pool
    /// once the Jobserver is closed, which is an error.
    ///
    /// A job that would have to wait gets its own slot instead, to lend or, if it `yields`,
    /// to hand over; it must not go on before `resume` says so.
    #[pyo3(signature = (pool, timeout, callbacks, yields))]
    fn admit(
        &self,
        py: Python<'_>,
        pool: Option<&Bound<'_, Pool>>,
        timeout: Option<f64>,
        callbacks: bool,
        yields: bool,
    ) -> PyResult<Option<Slot>> {
        let Some(pool) = pool.map(Bound::get) else { return Err(closed()) };
        self.check_open()?; // before any callbacks
        let may_wait = timeout.is_none_or(|seconds| seconds > 0.0);
        self.until(py, timeout, Some(&pool.pool), callbacks, || {
            self.check_open()?;
            if let Some(slot) = pool.pool.try_take().map_err(to_python)? {
                return Ok(Some(Slot::free(slot)));
            }
            Ok(if may_wait { pool.own_slot(yields) } else { None })
        })
    }

    /// After a job was started on this process's own slot: waits until there is a slot to go
    /// on with, the own one or another.
    fn resume(&self, py: Python<'_>, pool: Option<&Bound<'_, Pool>>) -> PyResult<()> {
        let Some(pool) = pool.map(Bound::get) else { return Ok(()) };
        self.until(py, None, Some(&pool.pool), false, || {
            Ok(pool.own().resume(&pool.pool).map_err(to_python)?.then_some(()))
        })?;
        Ok(())
    }

    /// Scans, and waits if need be, until the job of `future` has finished: whether it has.
    /// False when `timeout` seconds are over, or when callbacks are due. While it waits, a
    /// job's slot, if there is one here, is given to `pool` if it `yields`, or must.
    #[pyo3(signature = (future, timeout, pool, yields))]
    fn wait_for(
        &self,
        future: Bound<'_, Promise>,
        timeout: Option<f64>,
        pool: Option<&Bound<'_, Pool>>,
        yields: bool,
    ) -> PyResult<bool> {
        let py = future.py();
        self.yielding(py, pool, yields, |release| {
            let finished = self.until_releasing(py, timeout, None, true, release, || {
                Ok(future.get().is_done().then_some(()))
            })?;
            Ok(finished.is_some())
        })
    }

    /// One scan. Returns how often a scan has changed anything so far, for `wait`.
    fn scan(&self, py: Python<'_>) -> PyResult<u64> {
        let handled = self.take_news()?;
        let mut told = false;
        while let Some((future, outcome)) = self.next_news() {
            self.tell(future.into_bound(py), outcome)?;
            told = true;
        }
        Ok(if told { self.told(handled) } else { handled })
    }

    /// Waits until something may be ready: a job, another thread's scan, a free slot of
    /// `pool` if given, the end of `timeout` seconds. Returns at once if
    /// a scan has changed something since `handled`. Signal handlers run, and may raise.
    /// While it waits, a job's slot, if there is one here, is given to `yield_to` if it `yields`, or
    /// must.
    #[pyo3(signature = (handled, pool, timeout, yield_to, yields))]
    fn wait(
        &self,
        py: Python<'_>,
        handled: u64,
        pool: Option<&Bound<'_, Pool>>,
        timeout: Option<f64>,
        yield_to: Option<&Bound<'_, Pool>>,
        yields: bool,
    ) -> PyResult<()> {
        let pool = pool.map(|pool| &pool.get().pool);
        self.yielding(py, yield_to, yields, |release| {
            release();
            self.sleep(py, handled, pool, deadline(timeout)).map(|_| ())
        })
    }

    /// Lets nothing be started from now on, and tells those who wait for a slot. What runs goes on.
    /// An error, and nothing has changed, if this very thread has a launch under way.
    fn begin_close(&self) -> PyResult<()> {
        let mut state = self.state();
        state.refuse_within_launch()?;
        if !state.closing {
            state.closing = true;
            state.table.wake();
        }
        Ok(())
    }

    /// Whether that has begun, or is over.
    #[getter]
    fn closing(&self) -> bool {
        self.state().closing
    }

    /// After `begin_close`: gives everything up if nothing runs any more: whether it has.
    /// An error if this very thread has a launch under way.
    fn close(&self) -> PyResult<bool> {
        let mut state = self.state();
        state.refuse_within_launch()?;
        if state.launching.is_empty() && state.table.outstanding() == 0 {
            state.table.dismiss_idle();
        }
        if state.launching.is_empty() && state.table.outstanding() == 0 {
            state.closing = true;
            state.closed = true;
            state.table.wake(); // what was waited for will not come any more
            state.table.abandon();
            state.lifeline = None;
        }
        let closed = state.closed;
        drop(state); // before the pool, which is a Python object
        if closed {
            let pool = self.known_pool().take();
            drop(pool);
            reap_left();
        }
        Ok(closed)
    }

    /// Ends a job and everything that it has started: asks by SIGTERM, and after `grace`
    /// seconds, or at once if they are 0, kills what is left.
    fn kill(&self, py: Python<'_>, job: u64, grace: f64) -> PyResult<()> {
        let Some(mut family) = self.state().table.family(JobId(job)) else { return Ok(()) };
        let pool = { self.known_pool().as_ref().map(|pool| pool.get().pool.clone()) };
        let kin = |owner| pool.as_ref().map_or_else(Vec::new, |pool| pool.jobs_of(owner));
        let forever = Duration::from_secs(1 << 30);
        let (begun, grace) =
            (Instant::now(), Duration::try_from_secs_f64(grace).unwrap_or(forever).min(forever));
        // Half of it for those below, and the other half for those whom they hold up.
        for until in [begun + grace / 2, begun + grace] {
            while Instant::now() < until {
                match py.detach(|| family.ask(&kin, until)).map_err(to_python)? {
                    Woken::Ready => return Ok(()),
                    Woken::TimedOut => break,
                    Woken::Missed => {}
                    Woken::Interrupted => {
                        if let Err(e) = py.check_signals() {
                            family.ask_everybody(); // nobody is to stay stopped
                            return Err(e);
                        }
                    }
                }
            }
            if !grace.is_zero() {
                family.ask_everybody();
            }
        }
        py.detach(|| family.kill(&kin, Duration::from_secs(5))).map_err(to_python)
    }

    /// Sends a signal to a job; harmless if it has ended.
    fn signal(&self, job: u64, signal: i32) -> PyResult<()> {
        let known = signal_from_raw(signal)
            .ok_or_else(|| PyValueError::new_err(format!("there is no signal {signal}")))?;
        self.state().table.signal(JobId(job), known).map_err(to_python)
    }

    /// Has those processes end that wait for jobs.
    fn dismiss_idle(&self) {
        self.state().table.dismiss_idle();
    }

    /// How many processes wait for jobs.
    #[getter]
    fn idle(&self) -> usize {
        self.state().table.idle()
    }

    /// Whether a job has given its slot away, and so this process is to do so while it waits.
    #[getter]
    fn any_has_yielded(&self) -> bool {
        self.state().table.any_has_yielded()
    }

    /// Whether a job runs that was started without a slot.
    #[getter]
    fn any_without_slot(&self) -> bool {
        self.state().table.any_without_slot()
    }

    /// How many jobs have Futures that have been told of nothing yet.
    #[getter]
    fn unfinished(&self) -> usize {
        self.state().futures.len()
    }

    #[getter]
    fn outstanding(&self) -> usize {
        self.state().table.outstanding()
    }

    /// Jobs that run have their Futures here, those the Jobserver, and that this.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.finished)?;
        // Locked by this very thread, it is in use, and so are its Futures, if they are not visited.
        let Ok(state) = self.state.try_lock() else { return Ok(()) };
        let untold = state.untold.iter().map(|(future, _)| future);
        state.futures.values().chain(untold).try_for_each(|future| visit.call(future))
    }

    fn __clear__(&self) {
        let mut state = self.state();
        let (futures, untold) =
            (std::mem::take(&mut state.futures), std::mem::take(&mut state.untold));
        drop(state); // before the Futures, as this may run code
        drop((futures, untold));
    }
}

/// Nobody has the Jobserver any more, nor a Future of it: its jobs go on to their ends.
impl Drop for Jobs {
    fn drop(&mut self) {
        let mut state = self.state();
        let home = self.known_pool().as_ref().map(|pool| pool.get().pool.kept_home());
        let kept: Kept = Arc::new((home, state.lifeline.take()));
        state.table.leave(&kept);
    }
}

impl Jobs {
    fn state(&self) -> MutexGuard<'_, State> {
        // Poisoned only by a bug of ours; what it guards is then no worse than before.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known_pool(&self) -> MutexGuard<'_, Option<Py<Pool>>> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails in a process that was forked from the owner in the midst of a call, by user code that
    /// this has run (a signal handler, a finalizer): what is in the table is not for it to take.
    fn check_process(&self) -> PyResult<()> {
        if is_this(self.owner) {
            return Ok(());
        }
        Err(PyRuntimeError::new_err(format!(
            "this process was forked from process {} while that was in a call of its Jobserver, \
             whose jobs are not this process's: it can make calls of its own",
            self.owner.as_raw_nonzero()
        )))
    }

    /// Scans the table for news. Returns how often a scan has changed anything.
    fn take_news(&self) -> PyResult<u64> {
        self.check_process()?;
        let State { table, futures, untold, .. } = &mut *self.state();
        let news = table.scan().map_err(to_python)?;
        untold.extend(
            news.into_iter().filter_map(|(id, outcome)| Some((futures.remove(&id)?, outcome))),
        );
        Ok(table.handled())
    }

    fn next_news(&self) -> Option<News> {
        self.state().untold.pop_front()
    }

    /// Puts what came of a job where its Future looks for it.
    fn tell(&self, future: Bound<'_, Promise>, outcome: Outcome) -> PyResult<()> {
        let py = future.py();
        let outcome =
            outcome_to_python(&future, outcome).unwrap_or_else(|e| e.into_value(py).into_any());
        if Promise::tell(&future, outcome)? {
            append(self.finished.bind(py), &future)?;
        }
        Ok(())
    }

    /// After the news of a scan have been told: wakes the threads that looked, in vain, after
    /// the scan had taken them from the table and before they were told. (Any Python object
    /// that is made may let another thread run: through the garbage collector, for one.)
    /// Returns what `scan` does, which counts this too if nothing else has happened since.
    fn told(&self, handled: u64) -> u64 {
        let table = &mut self.state().table;
        table.wake();
        if table.handled() == handled + 1 {
            handled + 1
        } else {
            handled
        }
    }

    fn check_open(&self) -> PyResult<()> {
        match self.state().closing {
            true => Err(closed()),
            false => Ok(()),
        }
    }

    /// Keeps the table open until the launch, or its failure, is over.
    fn begin_launch(&self) -> PyResult<Launching<'_>> {
        self.check_process()?;
        let mut state = self.state();
        if state.closing {
            return Err(closed());
        }
        state.launching.push(thread::current().id());
        Ok(Launching(self))
    }

    fn enter(
        &self,
        future: Bound<'_, Promise>,
        channel: core::Channel,
        child: Child,
        slot: Option<core::Slot>,
    ) -> PyResult<()> {
        let pid = child.pid();
        let known = future.clone().unbind();
        let mut state = self.state();
        let id = state.table.started(channel, child, slot).map_err(to_python)?;
        state.futures.insert(id, known);
        future.get().begun(pid, id);
        Ok(())
    }

    /// Enters a process. Its first job, if there is one, is launched in the same call, where no
    /// signal handler runs: what it raised would leave the process without a job.
    fn hired(
        &self,
        channel: core::Channel,
        child: Child,
        first: Option<First<'_>>,
    ) -> PyResult<()> {
        let Some((future, slot, message, descriptors)) = first else {
            return self.state().table.hired(channel, child).map_err(to_python);
        };
        let descriptors = descriptors.get().held();
        taking(slot.as_ref(), |taken| {
            let without_slot = self.word_without_slot();
            let state = &mut *self.state();
            state.table.hired(channel, child).map_err(to_python)?;
            // It goes to the newest of those that idle, and so to this one.
            let launched = state.launch(&future, taken, &message, &descriptors, without_slot);
            launched.map(drop)
        })
    }

    /// What a job is launched with that is to run without a slot.
    fn word_without_slot(&self) -> u64 {
        let pool = self.known_pool();
        pool.as_ref().map_or(0, |pool| pool.get().pool.word_without_slot())
    }

    /// Launches a job on an idle process: whether there was one.
    fn launch_on_idle(
        &self,
        future: &Bound<'_, Promise>,
        slot: &mut Option<core::Slot>,
        message: &Message<'_>,
        descriptors: &[Arc<Descriptor>],
    ) -> PyResult<bool> {
        let py = future.py();
        let looks_until = Instant::now() + HESITATION;
        let mut handled = None;
        loop {
            let without_slot = if slot.is_none() { self.word_without_slot() } else { 0 };
            let mut state = self.state();
            if state.launch(future, slot, message, descriptors, without_slot)? {
                return Ok(true);
            }
            let about_to_stay = slot.is_some() && state.table.on_slots() >= self.slots;
            drop(state);
            let in_time = match handled {
                Some(handled) => self.sleep(py, handled, None, Some(looks_until))?,
                None => true, // not looked yet
            };
            if !about_to_stay || !in_time {
                return Ok(false);
            }
            handled = Some(self.scan(py)?);
        }
    }
}

impl State {
    /// Whoever closes waits for the launches that are under way.
    fn refuse_within_launch(&self) -> PyResult<()> {
        match self.launching.contains(&thread::current().id()) {
            true => Err(PyRuntimeError::new_err(
                "close() was called within a submission of the same thread, as by a signal \
                 handler: it would wait for itself; raise an exception there, and close later",
            )),
            false => Ok(()),
        }
    }

    /// Launches a job on an idle process: whether there was one.
    fn launch(
        &mut self,
        future: &Bound<'_, Promise>,
        slot: &mut Option<core::Slot>,
        message: &Message<'_>,
        descriptors: &[Arc<Descriptor>],
        without_slot: u64,
    ) -> PyResult<bool> {
        let send = |channel: &core::Channel, mut head: Head| {
            if head.word == 0 {
                head.word = without_slot;
            }
            message.send(channel, head, &borrowed(descriptors)?)
        };
        let launched = self.table.launch(slot, send).map_err(to_python)?;
        if let Some(id) = launched {
            if let Some(pid) = self.table.pid(id) {
                future.get().begun(pid, id);
            }
            self.futures.insert(id, future.clone().unbind());
        }
        Ok(launched.is_some())
    }
}

/// Does something with this slot, which is put back if it was not used.
fn taking<T>(
    slot: Option<&Bound<'_, Slot>>,
    launch: impl FnOnce(&mut Option<core::Slot>) -> PyResult<T>,
) -> PyResult<T> {
    let mut taken = take(slot);
    let launched = launch(&mut taken);
    if let (Some(slot), Some(taken)) = (slot, taken) {
        slot.borrow_mut().put_back(taken);
    }
    launched
}

/// A launch under way. Another thread may run meanwhile, and may want to close: in a fork's
/// hooks, in a wait for the fork server, in the garbage collector.
struct Launching<'a>(&'a Jobs);

impl Drop for Launching<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        let me = thread::current().id();
        if let Some(mine) = state.launching.iter().position(|thread| *thread == me) {
            state.launching.swap_remove(mine);
        }
        state.table.wake(); // who wants to close may have waited for this
    }
}

/// How long a launch waits for a process that is about to be idle, before another is born.
const HESITATION: Duration = Duration::from_millis(1);

fn closed() -> PyErr {
    PyRuntimeError::new_err("this Jobserver is closed")
}

fn outcome_to_python(future: &Bound<'_, Promise>, outcome: Outcome) -> PyResult<Py<PyAny>> {
    let py = future.py();
    match outcome {
        Outcome::Result(body) => body_to_python(py, body),
        Outcome::Ended(status, last_words) => {
            let words =
                last_words.map(|words| words.into_bytes().map_err(to_python)).transpose()?;
            let words = words.map(|words| String::from_utf8_lossy(&words).into_owned());
            let death = Death::new(status, future.get().exceeded_limit(status), words);
            Ok(Bound::new(py, death)?.into_any().unbind())
        }
        Outcome::Lost(error) => Ok(to_python(error).into_value(py).into_any()),
    }
}

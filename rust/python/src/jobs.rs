//! Jobs: the owner's table of what it has running.

use crate::channel::{body_to_python, borrowed, Channel, Descriptors, Message};
use crate::errors::to_python;
use crate::forkserver::{command, ForkServer};
use crate::hooks;
use crate::job::{self, Sent, Work};
use crate::pool::{take, Pool, Slot};
use crate::promise::{append, Promise};
use crate::setup::Setup;
use crate::worker::run_jobs;
use jobserver_core as core;
use jobserver_core::channel::{Head, Kind, HANGS};
use jobserver_core::process::{gettid, Lifeline, Pid};
use jobserver_core::sys::{exit_at_once, signal_from_raw, Forked, SignalsHeld};
use jobserver_core::{Child, ErrorKind, ExitStatus, JobId, Launch, Outcome, Waiting, Woken};
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

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
}

impl Death {
    fn new(status: ExitStatus, time_limit: Option<f64>) -> Death {
        let (exitcode, signal) = match status {
            ExitStatus::Code(code) => (Some(code), None),
            ExitStatus::Signal(signal) | ExitStatus::Overdue(signal) => (None, Some(signal)),
            ExitStatus::Unknown => (None, None),
        };
        Death { exitcode, signal, text: status.to_string(), time_limit }
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
    /// Whether jobs go on when this process is killed.
    orphans_stay: bool,
}

#[derive(Default)]
struct State {
    table: core::Jobs,
    futures: HashMap<JobId, Py<Promise>>,
    /// Taken from the table, and not told yet. Kept here, since what runs in between (the
    /// garbage collector's finalizers, for one) may itself wait for one of these.
    untold: VecDeque<News>,
    /// The threads that have a launch under way; see [`Launching`].
    launching: Vec<Pid>,
    /// What the jobs hang on, once there have been any.
    lifeline: Option<Lifeline>,
    closed: bool,
}

#[pymethods]
impl Jobs {
    #[new]
    #[pyo3(signature = (finished, pool, orphans_stay))]
    fn new(finished: Py<PyAny>, pool: Option<Py<Pool>>, orphans_stay: bool) -> Jobs {
        let slots = pool.as_ref().map_or(0, |pool| pool.get().pool.slots());
        Jobs { state: Mutex::default(), finished, pool: Mutex::new(pool), slots, orphans_stay }
    }

    /// The pool that its jobs run in. Not to be kept in a variable: a traceback that somebody
    /// keeps would keep the pool's descriptors open.
    #[getter]
    fn pool(&self, py: Python<'_>) -> PyResult<Py<Pool>> {
        let pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        pool.as_ref().map(|pool| pool.clone_ref(py)).ok_or_else(closed)
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
                job::run(py, &channel, set_up.map(|()| (work, setup)))
            }
        }
    }

    /// Forks a process that runs the jobs which `worker` loads. Returns in the owner only.
    fn hire_fork(&self, setup: Bound<'_, Setup>, worker: Bound<'_, PyAny>) -> PyResult<()> {
        let py = setup.py();
        let _launching = self.begin_launch()?;
        match self.fork_process(&setup, None)? {
            Side::Owner(channel, child) => self.hired(channel, child),
            Side::Job(channel, set_up, _never) => {
                let ended = set_up.and_then(|()| Bound::new(py, channel));
                let ended = ended.and_then(|channel| run_jobs(py, &channel, &worker));
                job::end(py, None, ended.map(|()| Sent::Ends(0)))
            }
        }
    }

    /// Starts a process in a new program, which gets its channel as its standard input.
    fn hire_spawn(
        &self,
        argv: Vec<OsString>,
        introduction: Message<'_>,
        descriptors: &Bound<'_, Descriptors>,
    ) -> PyResult<()> {
        let _launching = self.begin_launch()?;
        let descriptors = descriptors.get().held();
        let launch = Launch::new().map_err(to_python)?;
        let lifeline = self.lifeline()?;
        self.introduce(&launch.owner_end, introduction, &descriptors, lifeline)?;
        let mut command = command(argv)?;
        command.stdin(launch.job_end.into_socket().map_err(to_python)?);
        let child = Child::spawn(&mut command).map_err(to_python)?;
        self.hired(launch.owner_end, child)
    }

    /// Takes a process that a fork server has forked ahead, or has one forked.
    fn hire_request(
        &self,
        py: Python<'_>,
        server: &Bound<'_, ForkServer>,
        introduction: Message<'_>,
        descriptors: &Bound<'_, Descriptors>,
    ) -> PyResult<()> {
        let _launching = self.begin_launch()?;
        let descriptors = descriptors.get().held();
        let (channel, child) = match Jobs::ahead(py, server)? {
            Some(there) => there,
            None => self.ask(py, server)?,
        };
        self.introduce(&channel, introduction, &descriptors, None)?;
        self.hired(channel, child)
    }

    /// Has a fork server fork processes ahead of need, until there are so many. Not to wait for
    /// them: nothing is lost if it cannot.
    fn ask_ahead(&self, server: &Bound<'_, ForkServer>, number: usize) -> PyResult<()> {
        let _launching = self.begin_launch()?;
        let lifeline = self.lifeline()?;
        server.get().top_up(number, lifeline.as_ref()).map_err(to_python)
    }

    /// Launches a job on a process that is idle, or, if `fresh`, on one that has had no job yet:
    /// whether there was one. Otherwise nothing has happened; hire one.
    #[pyo3(signature = (future, slot, message, descriptors, fresh))]
    fn launch(
        &self,
        future: Bound<'_, Promise>,
        slot: Option<&Bound<'_, Slot>>,
        message: Message<'_>,
        descriptors: &Bound<'_, Descriptors>,
        fresh: bool,
    ) -> PyResult<bool> {
        let _launching = self.begin_launch()?;
        let descriptors = descriptors.get().held();
        let mut taken = take(slot);
        let launched = self.launch_on_idle(&future, &mut taken, &message, &descriptors, fresh);
        if let (Some(slot), Some(taken)) = (slot, taken) {
            slot.borrow_mut().put_back(taken);
        }
        launched
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
    /// job's slot is given to `pool`, if there is one here.
    #[pyo3(signature = (future, timeout, pool))]
    fn wait_for(
        &self,
        future: Bound<'_, Promise>,
        timeout: Option<f64>,
        pool: Option<&Bound<'_, Pool>>,
    ) -> PyResult<bool> {
        let py = future.py();
        self.yielding(py, pool, |release| {
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
    /// While it waits, a job's slot is given to `yield_to`, if there is one here.
    #[pyo3(signature = (handled, pool, timeout, yield_to))]
    fn wait(
        &self,
        py: Python<'_>,
        handled: u64,
        pool: Option<&Bound<'_, Pool>>,
        timeout: Option<f64>,
        yield_to: Option<&Bound<'_, Pool>>,
    ) -> PyResult<()> {
        let pool = pool.map(|pool| &pool.get().pool);
        self.yielding(py, yield_to, |release| {
            release();
            self.sleep(py, handled, pool, deadline(timeout)).map(|_| ())
        })
    }

    /// If nothing runs, lets nothing be started from now on: whether that is so.
    /// An error if this very thread has a launch under way.
    fn close(&self) -> PyResult<bool> {
        let mut state = self.state();
        if state.launching.contains(&gettid()) {
            return Err(PyRuntimeError::new_err(
                "close() was called within a submission of the same thread, as by a signal \
                 handler: it would wait for itself; raise an exception there, and close later",
            ));
        }
        if state.launching.is_empty() && state.table.outstanding() == 0 {
            state.table.dismiss_idle();
        }
        if state.launching.is_empty() && state.table.outstanding() == 0 {
            state.closed = true;
            state.table.wake(); // what was waited for will not come any more
            state.table.abandon();
            state.lifeline = None;
        }
        let closed = state.closed;
        drop(state); // before the pool, which is a Python object
        if closed {
            let pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner).take();
            drop(pool);
        }
        Ok(closed)
    }

    /// Ends a job and everything that it has started: asks by SIGTERM, and after `grace`
    /// seconds, or at once if they are 0, kills what is left.
    fn kill(&self, py: Python<'_>, job: u64, grace: f64) -> PyResult<()> {
        let Some(mut family) = self.state().table.family(JobId(job)) else { return Ok(()) };
        let pool = {
            let known = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
            known.as_ref().map(|pool| pool.get().pool.clone())
        };
        let kin = |owner| pool.as_ref().map_or_else(Vec::new, |pool| pool.jobs_of(owner));
        let forever = Duration::from_secs(1 << 30);
        let (begun, grace) =
            (Instant::now(), Duration::try_from_secs_f64(grace).unwrap_or(forever));
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

    #[getter]
    fn outstanding(&self) -> usize {
        self.state().table.outstanding()
    }
}

impl Jobs {
    fn state(&self) -> MutexGuard<'_, State> {
        // Poisoned only by a bug of ours; what it guards is then no worse than before.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Scans the table for news. Returns how often a scan has changed anything.
    fn take_news(&self) -> PyResult<u64> {
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
        match self.state().closed {
            true => Err(closed()),
            false => Ok(()),
        }
    }

    /// Keeps the table open until the launch, or its failure, is over.
    fn begin_launch(&self) -> PyResult<Launching<'_>> {
        let mut state = self.state();
        if state.closed {
            return Err(closed());
        }
        state.launching.push(gettid());
        Ok(Launching(self))
    }

    /// Asks a fork server for a process, and waits for its answer.
    fn ask(
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

    /// A process that was forked ahead, and has neither failed nor ended.
    fn ahead(
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
        }
        to_python(error)
    }

    /// Sleeps until something may be ready, or the deadline: whether it was not the deadline.
    fn sleep(
        &self,
        py: Python<'_>,
        handled: u64,
        pool: Option<&core::Pool>,
        deadline: Option<Instant>,
    ) -> PyResult<bool> {
        loop {
            // Not only when a wait was interrupted: a signal that comes together with what is
            // waited for, as Ctrl-C does that also ends a job, interrupts nothing.
            py.check_signals()?;
            let begun = self.state().table.begin_wait(handled, pool);
            let Some(waiting) = begun.map_err(to_python)? else { return Ok(true) };
            let woken = Jobs::sleep_through(py, &waiting, deadline);
            self.state().table.end_wait(waiting);
            match woken? {
                Woken::Interrupted | Woken::Missed => {}
                Woken::Ready => return Ok(true),
                Woken::TimedOut => return Ok(false),
            }
        }
    }

    fn sleep_through(
        py: Python<'_>,
        waiting: &Waiting,
        deadline: Option<Instant>,
    ) -> PyResult<Woken> {
        if py.detach(|| waiting.spin()) {
            return Ok(Woken::Ready);
        }
        loop {
            py.check_signals()?;
            match py.detach(|| waiting.block(deadline)).map_err(to_python)? {
                Woken::Missed => {}
                woken => return Ok(woken),
            }
        }
    }

    /// Scans and sleeps by turns until `look` finds something, the time is up, or, if
    /// `callbacks`, some are due. Stands here and not in Python since every Python function
    /// that runs between two forks writes to memory, and each page written costs a copy.
    fn until<T>(
        &self,
        py: Python<'_>,
        timeout: Option<f64>,
        pool: Option<&core::Pool>,
        callbacks: bool,
        look: impl FnMut() -> PyResult<Option<T>>,
    ) -> PyResult<Option<T>> {
        self.until_releasing(py, timeout, pool, callbacks, &mut || (), look)
    }

    /// The same, with something to be done before each sleep.
    fn until_releasing<T>(
        &self,
        py: Python<'_>,
        timeout: Option<f64>,
        pool: Option<&core::Pool>,
        callbacks: bool,
        release: &mut dyn FnMut(),
        mut look: impl FnMut() -> PyResult<Option<T>>,
    ) -> PyResult<Option<T>> {
        let deadline = deadline(timeout);
        let mut more_time = true;
        loop {
            let handled = self.scan(py)?;
            if callbacks && self.finished.bind(py).len()? > 0 {
                return Ok(None);
            }
            if let Some(found) = look()? {
                return Ok(Some(found));
            }
            if !more_time || timeout.is_some_and(|seconds| seconds <= 0.0) {
                return Ok(None);
            }
            release();
            // What wakes us may do so for ever, without being what we wait for.
            more_time = self.sleep(py, handled, pool, deadline)?
                && deadline.is_none_or(|deadline| Instant::now() < deadline);
        }
    }

    /// Waits, where a job's own slot is given to `pool` for as long as it sleeps, and one is
    /// there again afterwards. An exception goes on without: Ctrl-C must work at once.
    fn yielding<T>(
        &self,
        py: Python<'_>,
        pool: Option<&Bound<'_, Pool>>,
        wait: impl FnOnce(&mut dyn FnMut()) -> PyResult<T>,
    ) -> PyResult<T> {
        let mut yielded = false;
        let waited = wait(&mut || {
            if let Some(slot) = pool.and_then(|pool| pool.get().own().hand_over()) {
                yielded = true;
                drop(slot);
            }
        })?;
        if yielded {
            self.resume(py, pool)?;
        }
        Ok(waited)
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

    fn hired(&self, channel: core::Channel, child: Child) -> PyResult<()> {
        self.state().table.hired(channel, child).map_err(to_python)
    }

    /// Launches a job on an idle process: whether there was one.
    fn launch_on_idle(
        &self,
        future: &Bound<'_, Promise>,
        slot: &mut Option<core::Slot>,
        message: &Message<'_>,
        descriptors: &[Arc<OwnedFd>],
        fresh: bool,
    ) -> PyResult<bool> {
        let py = future.py();
        let known = future.clone().unbind();
        let looks_until = Instant::now() + HESITATION;
        let mut handled = None;
        loop {
            let mut state = self.state();
            let send = |channel: &core::Channel, head: Head| {
                message.send(channel, head, &borrowed(descriptors))
            };
            if let Some(id) = state.table.launch(slot, fresh, send).map_err(to_python)? {
                if let Some(pid) = state.table.pid(id) {
                    future.get().begun(pid, id);
                }
                state.futures.insert(id, known);
                return Ok(true);
            }
            let about_to_stay = !fresh && slot.is_some() && state.table.on_slots() >= self.slots;
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

    /// Tells a new process what all its jobs have in common, and what to hang on if that is new.
    fn introduce(
        &self,
        channel: &core::Channel,
        introduction: Message<'_>,
        descriptors: &[Arc<OwnedFd>],
        lifeline: Option<Lifeline>,
    ) -> PyResult<()> {
        let word = if lifeline.is_some() { HANGS } else { 0 };
        let head = Head { kind: Kind::Introduction, word };
        let lifeline = lifeline.iter().map(Lifeline::as_descriptor);
        let all: Vec<_> = lifeline.chain(descriptors.iter().map(|fd| fd.as_fd())).collect();
        match introduction.send(channel, head, &all) {
            // A process that is gone already will be told of when it is given a job.
            Err(e) if !e.is_hang_up() => Err(to_python(e)),
            _ => Ok(()),
        }
    }

    /// Forks a process for jobs of this one; the first runs on this slot, if there is one.
    fn fork_process(&self, setup: &Bound<'_, Setup>, slot: Option<&core::Slot>) -> PyResult<Side> {
        let py = setup.py();
        let pool = self.pool(py)?.into_bound(py);
        setup.get().prepare(&pool)?;
        job::flush(py)?; // or what is buffered would be printed twice
        let launch = Launch::new().map_err(to_python)?;
        let lifeline = self.lifeline()?;
        // CPython's fork hooks are Python functions, and an exception of a signal handler that
        // ran in one would be dropped, its Ctrl-C lost, and a lock of logging's left locked.
        // (With several threads another one may take the signal, and this still happen, as
        // it may around os.fork.)
        // Looked at before signals are held too, lest a handler run, and start things, with
        // all signals blocked; after that, only what came in between is left.
        py.check_signals()?;
        let held = SignalsHeld::begin();
        py.check_signals()?;
        if let Some(slot) = slot {
            slot.launch();
        }
        let forked =
            hooks::fork(py).map_err(|e| to_python(core::Error::refused("cannot fork a job", e)))?;
        match forked {
            Forked::Child => {
                let never = NeverOn;
                drop(launch.owner_end);
                let channel = Channel::from(launch.job_end);
                let set_up = self
                    .become_job(lifeline, slot, &pool)
                    .and_then(|()| setup.get().assume(&pool, &channel));
                drop(held);
                Ok(Side::Job(channel, set_up, never))
            }
            Forked::Parent(pid) => Ok(Side::Owner(launch.owner_end, Child::adopt(pid))),
        }
    }

    /// What a new job is to hang on to, if it is to.
    fn lifeline(&self) -> PyResult<Option<Lifeline>> {
        if self.orphans_stay {
            return Ok(None);
        }
        let lifeline = Lifeline::of_this_process().map_err(to_python)?;
        self.state().lifeline = Some(lifeline.clone());
        Ok(Some(lifeline))
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
        let adopted = slot.map(|slot| slot.adopt().ok_or_else(owner_gone)).transpose()?;
        pool.get().set_own(adopted);
        Ok(())
    }

    /// In a forked child: forgets the owner's jobs. The futures are leaked on purpose: to
    /// drop them would write to the memory that the fork shares, and run code.
    fn abandon(&self) {
        let mut state = self.state();
        state.table.abandon();
        state.lifeline = None;
        std::mem::forget(std::mem::take(&mut state.futures));
    }
}

/// A launch under way. Another thread may run meanwhile, and may want to close: in a fork's
/// hooks, in a wait for the fork server, in the garbage collector.
struct Launching<'a>(&'a Jobs);

impl Drop for Launching<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        let me = gettid();
        if let Some(mine) = state.launching.iter().position(|thread| *thread == me) {
            state.launching.swap_remove(mine);
        }
        state.table.wake(); // who wants to close may have waited for this
    }
}

/// How long a launch waits for a process that is about to be idle, before another is born.
const HESITATION: Duration = Duration::from_millis(1);

/// On which side of a fork the caller finds itself, with its end of the channel.
enum Side {
    Owner(core::Channel, Child),
    /// In the new process, and whether that could be set up.
    Job(Channel, PyResult<()>, NeverOn),
}

/// Ends a forked process that would go on, by an error of ours, in what its owner was about.
struct NeverOn;

impl Drop for NeverOn {
    fn drop(&mut self) {
        exit_at_once(1);
    }
}

fn owner_gone() -> PyErr {
    PyRuntimeError::new_err("the owner of this job died before the job had begun")
}

fn closed() -> PyErr {
    PyRuntimeError::new_err("this Jobserver is closed")
}

/// When a timeout is over. One too long for the clock (infinity included) never is.
fn deadline(timeout: Option<f64>) -> Option<Instant> {
    let timeout = timeout.and_then(|t| Duration::try_from_secs_f64(t.max(0.0)).ok());
    timeout.and_then(|timeout| Instant::now().checked_add(timeout))
}

fn outcome_to_python(future: &Bound<'_, Promise>, outcome: Outcome) -> PyResult<Py<PyAny>> {
    let py = future.py();
    match outcome {
        Outcome::Result(body) => body_to_python(py, body),
        Outcome::Ended(status) => {
            let death = Death::new(status, future.get().exceeded_limit(status));
            Ok(Bound::new(py, death)?.into_any().unbind())
        }
        Outcome::Lost(error) => Ok(to_python(error).into_value(py).into_any()),
    }
}

//! One job in its process, from the setup to the end of the process or to its next job.
//!
//! The common steps are here and not in Python, because Python code that runs only in new processes
//! runs slowly in each of them: the interpreter finds nothing in its caches, and the kernel copies
//! each page that it writes to. The rare steps are in Python: see `_job.py`.

use crate::channel::{Channel, Payload};
use crate::errors::to_python;
use crate::host::Raised;
use crate::map::calls::Progress;
use crate::setup::Setup;
use crate::upcalls;
use jobserver_core as core;
use jobserver_core::owner::{Born, NeverOn};
use jobserver_core::platform::{self, TimeLimit};
use jobserver_core::slots::release_own_slot;
use jobserver_core::wire::{self, Message};
use jobserver_core::worker::{Next, Worker};
use pyo3::exceptions::{
    PyAttributeError, PyKeyboardInterrupt, PyOSError, PyRecursionError, PyValueError,
};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyCFunction, PyDict, PyTuple};
use std::sync::Mutex;
use std::time::Duration;

/// One submission's work: the function that a job runs, and the settings around it.
///
/// The fields are in the order in which a job uses them. The environment is first, because the
/// import of the function's module may read it. Then come the time limit, `preexec_fn` and the
/// function.
#[pyclass(frozen, get_all, module = "jobserver._native")]
pub(crate) struct Work {
    env: Option<Py<PyAny>>,
    time_limit: Option<f64>,
    preexec_fn: Option<Py<PyAny>>,
    function: Py<PyAny>,
    args: Py<PyTuple>,
    kwargs: Option<Py<PyDict>>,
    /// For calls of a map: its descriptor goes with the launch.
    progress: Option<Py<Progress>>,
}

#[pymethods]
impl Work {
    #[new]
    #[pyo3(signature = (env, time_limit, preexec_fn, function, args, kwargs, progress = None))]
    fn new(
        env: Option<Py<PyAny>>,
        time_limit: Option<f64>,
        preexec_fn: Option<Py<PyAny>>,
        function: Py<PyAny>,
        args: Py<PyTuple>,
        kwargs: Option<Py<PyDict>>,
        progress: Option<Py<Progress>>,
    ) -> Work {
        Work { env, time_limit, preexec_fn, function, args, kwargs, progress }
    }
}

impl Work {
    /// Applies the submission's `env`.
    pub(crate) fn apply_environment(&self, py: Python<'_>) -> PyResult<()> {
        let Some(changes) = &self.env else { return Ok(()) };
        upcalls::apply_environment(py, changes)
    }

    fn call<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let kwargs = self.kwargs.as_ref().map(|kwargs| kwargs.bind(py));
        match &self.preexec_fn {
            None => self.function.bind(py).call(self.args.bind(py), kwargs),
            Some(preexec_fn) => {
                upcalls::call_prepared(py, preexec_fn, (&self.function, &self.args, kwargs))
            }
        }
    }
}

/// Starts the time limit of this process, if there is one, in seconds.
pub(crate) fn limit_time(seconds: Option<f64>) -> PyResult<Option<TimeLimit>> {
    let refused = |e| to_python(core::Error::refused("cannot limit a job's time", e));
    match seconds.map(Duration::try_from_secs_f64) {
        Some(Ok(limit)) => platform::end_after(limit).map(Some).map_err(refused),
        _ => Ok(None), // also if the limit is too long for the clock
    }
}

/// In a new process that was forked for a job: sets it up, and runs the job to its end.
pub(crate) fn run_forked(
    py: Python<'_>,
    born: Box<Born>,
    work: Bound<'_, Work>,
    setup: Bound<'_, Setup>,
    initializer: Option<Bound<'_, PyAny>>,
) -> ! {
    let (channel, set_up, _never_on) = set_up(py, born, &setup);
    let ready = set_up.and_then(|()| work.get().apply_environment(py)).and_then(|()| {
        initializer.map(|initializer| initializer.call0()).transpose()?;
        Ok((work, setup))
    });
    run(py, channel, ready)
}

/// In a forked process: makes it a job's process. Returns its channel, whether the setup succeeded,
/// and the guard that ends the process when it is dropped.
pub(crate) fn set_up(
    py: Python<'_>,
    born: Box<Born>,
    setup: &Bound<'_, Setup>,
) -> (Channel, PyResult<()>, NeverOn) {
    let Born { channel, pool, tells, failed, held, never_on } = *born;
    let channel = Channel::from(channel);
    let set_up = match failed {
        Some(error) => Err(to_python(error)),
        None => setup.get().assume(py, &pool, &channel, tells),
    };
    drop(held);
    (channel, set_up, never_on)
}

/// Runs a job, or reports that its setup failed: does its work, sends the result, and ends the
/// process.
pub(crate) fn run(
    py: Python<'_>,
    channel: Channel,
    ready: PyResult<(Bound<'_, Work>, Bound<'_, Setup>)>,
) -> ! {
    let setup = ready.as_ref().ok().map(|(_, setup)| setup.clone());
    let work = ready.map(|(work, _)| work.unbind());
    let (mut worker, known) = (channel.worker(None), setup.clone().map(Bound::unbind));
    live(py, &channel, setup.as_ref(), move |py| {
        let work = work.map(|work| work.into_bound(py));
        let after = send(py, &mut worker, work, || Ok(false));
        end(py, known.as_ref().map(|setup| setup.bind(py)), after)
    })
}

/// Runs `body`, which returns the exit code, within the functions that a tool has replaced to see
/// processes begin and end. (For example, coverage.py replaces multiprocessing's `_bootstrap`, or
/// `os._exit`.)
pub(crate) fn live(
    py: Python<'_>,
    channel: &Channel,
    setup: Option<&Bound<'_, Setup>>,
    body: impl FnOnce(Python<'_>) -> i32 + Send + 'static,
) -> ! {
    let Some(setup) = setup else { platform::exit_at_once(body(py)) };
    let lived = match setup.get().bootstrap_is_replaced() {
        true => live_bootstrapped(py, channel, body),
        false => Ok(body(py)),
    };
    let code = lived.unwrap_or_else(|error| {
        upcalls::report(py, error);
        1
    });
    if let Err(error) = setup.get().call_replaced_exit(py, code) {
        upcalls::report(py, error);
    }
    platform::exit_at_once(code)
}

fn live_bootstrapped(
    py: Python<'_>,
    channel: &Channel,
    body: impl FnOnce(Python<'_>) -> i32 + Send + 'static,
) -> PyResult<i32> {
    let body = Mutex::new(Some(body));
    let call = move |args: &Bound<'_, PyTuple>, _: Option<&Bound<'_, PyDict>>| {
        let body = body.lock().ok().and_then(|mut body| body.take());
        body.map(|body| body(args.py())) // None if it was called before
    };
    let body = PyCFunction::new_closure(py, None, None, call)?;
    upcalls::live_bootstrapped(py, channel.fileno(), body.into_any())
}

/// What the process does after a job.
pub(crate) enum After {
    /// The process ends, with this exit code.
    Ends(i32),
    /// The process stays for another job.
    Stays,
}

/// Ends a process after its last job. Returns its exit code.
pub(crate) fn end(py: Python<'_>, setup: Option<&Bound<'_, Setup>>, after: PyResult<After>) -> i32 {
    let wound_down = wind_down(py, setup);
    let code = match after {
        Ok(After::Ends(code)) => code,
        Ok(After::Stays) => 0,
        Err(_) => 1,
    };
    for error in [after.err(), wound_down.err()].into_iter().flatten() {
        upcalls::report(py, error);
    }
    code
}

/// Does the work and sends its result. The process may stay if it `is_clean` then.
pub(crate) fn send(
    py: Python<'_>,
    worker: &mut Worker,
    ready: PyResult<Bound<'_, Work>>,
    is_clean: impl FnOnce() -> PyResult<bool>,
) -> PyResult<After> {
    let limited = ready.and_then(|work| Ok((limit_time(work.get().time_limit)?, work)));
    let (limit, called) = match limited {
        Ok((limit, work)) => (limit, work.get().call(py)),
        Err(error) => (None, Err(error)),
    };
    // Most functions return None, so None needs no pickling on either side.
    let dumped = called.and_then(|value| match value.is_none() {
        true => Ok(None),
        false => upcalls::dump_value(&value).map(Some),
    });
    let interrupted =
        dumped.as_ref().is_err_and(|error| error.is_instance_of::<PyKeyboardInterrupt>(py));
    let outcome = match dumped {
        Ok(outcome) => outcome,
        Err(error) => Some(dump_failure(py, error)?),
    };
    // Printed output is flushed first: an owner that has the result can rely on it.
    flush(py)?;
    let payload = match &outcome {
        None => None,
        Some(outcome) => match outcome.extract::<Payload<'_>>() {
            Ok(payload) => Some(payload),
            Err(_) => {
                let (code, last_words): (i32, Vec<u8>) = outcome.extract()?;
                worker.send_last_words(&last_words);
                return Ok(After::Ends(code));
            }
        },
    };
    let nothing = Message { payload: wire::Payload::Inline(&[]), descriptors: &[] };
    let message = payload.as_ref().map_or(nothing, Payload::as_message);
    let is_clean = || Ok::<bool, Raised>(!interrupted && is_clean()?);
    Ok(match worker.send_result(message, limit, waits_for_jobs(py), is_clean)? {
        Next::Ends => After::Ends(0),
        Next::Stays => After::Stays,
    })
}

/// The message with the exception that the job's function raised. For SystemExit, the exit code and
/// the last words instead. A job that was forked deep in calls of its owner may be so close to the
/// recursion limit that the limit is raised for this.
fn dump_failure(py: Python<'_>, error: PyErr) -> PyResult<Bound<'_, PyAny>> {
    let error = error.into_value(py).into_any();
    match upcalls::dump_failure(py, error.clone_ref(py)) {
        Err(e) if e.is_instance_of::<PyRecursionError>(py) => {
            let sys = py.import("sys")?;
            let limit = sys.call_method0("getrecursionlimit")?;
            sys.call_method1("setrecursionlimit", (limit.add(ROOM)?,))?;
            let dumped = upcalls::dump_failure(py, error);
            sys.call_method1("setrecursionlimit", (limit,))?;
            dumped
        }
        dumped => dumped,
    }
}

/// By how much the recursion limit is raised then.
const ROOM: usize = 500;

/// Whether jobs of this process are under way, for which it waits at its end, and which may need a
/// slot until then.
fn waits_for_jobs(py: Python<'_>) -> bool {
    core::owner::has_owner()
        && (core::process::has_left() || upcalls::are_under_way(py).unwrap_or(true))
}

/// Ends what the job began, and flushes its output. If the job began nothing, this looks no
/// further.
fn wind_down(py: Python<'_>, setup: Option<&Bound<'_, Setup>>) -> PyResult<()> {
    release_own_slot(waits_for_jobs(py)); // for a job that could send nothing
    match setup {
        Some(setup) if setup.get().nothing_to_end(py)? => Ok(()),
        _ => upcalls::wind_down(py),
    }
}

/// Flushes stdout and stderr. Either stream can be None, closed, without `flush`, or lead to a pipe
/// without reader or a full disk. A job's result is not lost for that.
#[pyfunction]
pub(crate) fn flush(py: Python<'_>) -> PyResult<()> {
    static SYS: PyOnceLock<Py<PyDict>> = PyOnceLock::new(); // even an import of `sys` is slow
    let names = SYS.get_or_try_init(py, || PyResult::Ok(py.import("sys")?.dict().unbind()))?;
    for name in [intern!(py, "stdout"), intern!(py, "stderr")] {
        let Some(stream) = names.bind(py).get_item(name)?.filter(|stream| !stream.is_none()) else {
            continue;
        };
        match upcalls::flush(&stream) {
            Err(e)
                if !e.is_instance_of::<PyAttributeError>(py)
                    && !e.is_instance_of::<PyValueError>(py)
                    && !e.is_instance_of::<PyOSError>(py) =>
            {
                return Err(e)
            }
            _ => {}
        }
    }
    Ok(())
}

//! One job in its process, from when that has been set up to its end or to what follows
//!
//! The common way is here and not in Python, since code that runs only in new processes runs
//! cold in each of them: the interpreter finds nothing in its caches, and each page that it
//! writes to then is copied first. What is not common is Python's: see `_job.py`.

use crate::errors::to_python;
use crate::pool::Pool;
use crate::setup::Setup;
use crate::wire::{Channel, Message};
use jobserver_core as core;
use jobserver_core::platform::{self, TimeLimit};
use jobserver_core::process::getpid;
use jobserver_core::wire::{Head, Kind, STAYS};
use pyo3::exceptions::{
    PyAttributeError, PyKeyboardInterrupt, PyOSError, PyRecursionError, PyValueError,
};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyCFunction, PyDict, PyTuple};
use std::sync::Mutex;
use std::time::Duration;

/// One submission's work: what a job is to run, and around it.
///
/// In the order in which a job uses it: the environment first, so that what the function's
/// module reads when it is imported is already right; then the time limit, `preexec_fn` and
/// the function.
#[pyclass(frozen, get_all, module = "jobserver._native")]
pub(crate) struct Work {
    env: Option<Py<PyAny>>,
    time_limit: Option<f64>,
    preexec_fn: Option<Py<PyAny>>,
    function: Py<PyAny>,
    args: Py<PyTuple>,
    kwargs: Option<Py<PyDict>>,
}

#[pymethods]
impl Work {
    #[new]
    #[pyo3(signature = (env, time_limit, preexec_fn, function, args, kwargs))]
    fn new(
        env: Option<Py<PyAny>>,
        time_limit: Option<f64>,
        preexec_fn: Option<Py<PyAny>>,
        function: Py<PyAny>,
        args: Py<PyTuple>,
        kwargs: Option<Py<PyDict>>,
    ) -> Work {
        Work { env, time_limit, preexec_fn, function, args, kwargs }
    }
}

impl Work {
    /// Applies the submission's `env`.
    pub(crate) fn apply_environment(&self, py: Python<'_>) -> PyResult<()> {
        let Some(changes) = &self.env else { return Ok(()) };
        helper(py, "apply_environment")?.call1((changes,)).map(drop)
    }

    /// Limits this process's time from now on, if the submission did.
    fn limit_time(&self) -> PyResult<Option<TimeLimit>> {
        let refused = |e| to_python(core::Error::refused("cannot limit a job's time", e));
        match self.time_limit.map(Duration::try_from_secs_f64) {
            Some(Ok(limit)) => sys::end_after(limit).map(Some).map_err(refused),
            _ => Ok(None), // or one too long for the clock
        }
    }

    fn call<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let kwargs = self.kwargs.as_ref().map(|kwargs| kwargs.bind(py));
        match &self.preexec_fn {
            None => self.function.bind(py).call(self.args.bind(py), kwargs),
            Some(preexec_fn) => {
                helper(py, "call_prepared")?.call1((preexec_fn, &self.function, &self.args, kwargs))
            }
        }
    }
}

/// Runs a job that has been set up so, or that could not be: does its work, sends the result,
/// and ends the process.
pub(crate) fn run(
    py: Python<'_>,
    channel: &Bound<'_, Channel>,
    ready: PyResult<(Bound<'_, Work>, Bound<'_, Setup>)>,
) -> ! {
    let setup = ready.as_ref().ok().map(|(_, setup)| setup.clone());
    let work = ready.map(|(work, _)| work.unbind());
    let (sender, known) = (channel.clone().unbind(), setup.clone().map(Bound::unbind));
    live(py, channel, setup.as_ref(), move |py| {
        let sent = send(py, sender.get(), work.map(|work| work.into_bound(py)), |_| Ok(false));
        end(py, known.as_ref().map(|setup| setup.bind(py)), sent)
    })
}

/// A process's whole life, as far as others may want to see it begin and end; `body` returns its
/// exit code. (coverage.py, for one, replaces multiprocessing's `_bootstrap`, or `os._exit`.)
pub(crate) fn live(
    py: Python<'_>,
    channel: &Bound<'_, Channel>,
    setup: Option<&Bound<'_, Setup>>,
    body: impl FnOnce(Python<'_>) -> i32 + Send + 'static,
) -> ! {
    let Some(setup) = setup else { sys::exit_at_once(body(py)) };
    let lived = match setup.get().bootstrap_is_replaced() {
        true => live_bootstrapped(py, channel, body),
        false => Ok(body(py)),
    };
    let code = lived.unwrap_or_else(|error| {
        report(py, error);
        1
    });
    if let Err(error) = setup.get().call_replaced_exit(py, code) {
        report(py, error);
    }
    sys::exit_at_once(code)
}

fn live_bootstrapped(
    py: Python<'_>,
    channel: &Bound<'_, Channel>,
    body: impl FnOnce(Python<'_>) -> i32 + Send + 'static,
) -> PyResult<i32> {
    let body = Mutex::new(Some(body));
    let call = move |args: &Bound<'_, PyTuple>, _: Option<&Bound<'_, PyDict>>| {
        let body = body.lock().ok().and_then(|mut body| body.take());
        body.map(|body| body(args.py())) // None: it has been called before
    };
    let body = PyCFunction::new_closure(py, None, None, call)?;
    helper(py, "live_bootstrapped")?.call1((channel.get().fileno(), body))?.extract()
}

/// What came of a job's sending its result.
pub(crate) enum Sent {
    /// The process is to end, with this exit code.
    Ends(i32),
    /// It stays for another job.
    Stays,
}

/// What a process does after its last job. Its exit code.
pub(crate) fn end(py: Python<'_>, setup: Option<&Bound<'_, Setup>>, sent: PyResult<Sent>) -> i32 {
    let wound_down = wind_down(py, setup);
    let code = match sent {
        Ok(Sent::Ends(code)) => code,
        Ok(Sent::Stays) => 0,
        Err(_) => 1,
    };
    for error in [sent.err(), wound_down.err()].into_iter().flatten() {
        report(py, error);
    }
    code
}

/// Tells of an error that nobody else is told of.
fn report(py: Python<'_>, error: PyErr) {
    let _ = helper(py, "report").and_then(|report| report.call1((error.into_value(py),)));
}

/// Does the work and sends what came of it; the process stays if `stays` says so then.
pub(crate) fn send(
    py: Python<'_>,
    channel: &Channel,
    ready: PyResult<Bound<'_, Work>>,
    stays: impl FnOnce(Python<'_>) -> PyResult<bool>,
) -> PyResult<Sent> {
    let me = getpid();
    let limited = ready.and_then(|work| Ok((work.get().limit_time()?, work)));
    let (limit, called) = match limited {
        Ok((limit, work)) => (limit, work.get().call(py)),
        Err(error) => (None, Err(error)),
    };
    // Most functions return None, so that needs no pickling on either side.
    let dumped = called.and_then(|value| match value.is_none() {
        true => Ok(None),
        false => helper(py, "dump_value")?.call1((value,)).map(Some),
    });
    let interrupted =
        dumped.as_ref().is_err_and(|error| error.is_instance_of::<PyKeyboardInterrupt>(py));
    let outcome = match dumped {
        Ok(outcome) => outcome,
        Err(error) => Some(dump_failure(py, error)?),
    };
    // First what was printed, and the slot: who has the result can count on them.
    flush(py)?;
    let outcome = match &outcome {
        None => None,
        Some(outcome) => match outcome.extract::<Message<'_>>() {
            Ok(message) => Some(message),
            Err(_) => {
                let (code, last_words): (i32, Vec<u8>) = outcome.extract()?;
                // The owner may be gone, and the exit code says most of it. And what the job's
                // function has forked says nothing of the job.
                if getpid() == me {
                    let _ = channel.channel.send(Kind::LastWords, &last_words, &[]);
                }
                return Ok(Sent::Ends(code));
            }
        },
    };
    let released = Pool::release_own();
    // A process that is to end is limited to its end.
    let stays = released && !interrupted && stays(py)? && limit.is_none_or(TimeLimit::lift);
    let head = match stays {
        true => Head { kind: Kind::Result, word: STAYS },
        false => Kind::Result.into(),
    };
    let sent = match &outcome {
        None => channel.channel.send(head, &[], &[]),
        Some(message) => message.send(&channel.channel, head, &[]),
    };
    match sent {
        Err(e) if !e.is_hang_up() => Err(to_python(e)),
        Ok(()) if stays => Ok(Sent::Stays),
        _ => Ok(Sent::Ends(0)), // or nobody is left to hear it
    }
}

/// A message that says what the job's function raised; or the exit code, and what to say of it, if
/// that was to end the process. A job that was forked deep in calls of its owner's may have no room to make one.
fn dump_failure(py: Python<'_>, error: PyErr) -> PyResult<Bound<'_, PyAny>> {
    let error = error.into_value(py);
    match helper(py, "dump_failure")?.call1((error.clone_ref(py),)) {
        Err(e) if e.is_instance_of::<PyRecursionError>(py) => {
            let sys = py.import("sys")?;
            let limit = sys.call_method0("getrecursionlimit")?;
            sys.call_method1("setrecursionlimit", (limit.add(ROOM)?,))?;
            let dumped = helper(py, "dump_failure")?.call1((error,));
            sys.call_method1("setrecursionlimit", (limit,))?;
            dumped
        }
        dumped => dumped,
    }
}

/// How many more calls there are to be room for then.
const ROOM: usize = 500;

/// Ends what the job began, and flushes what that printed. What it has not begun is not even
/// looked for.
fn wind_down(py: Python<'_>, setup: Option<&Bound<'_, Setup>>) -> PyResult<()> {
    Pool::release_own(); // where nothing could be sent
    match setup {
        Some(setup) if setup.get().nothing_to_end(py)? => Ok(()),
        _ => helper(py, "wind_down")?.call0().map(drop),
    }
}

/// Flushes what has been printed. Either stream can be None, closed, without flush, or lead to
/// where nobody reads, or to a full disk; a job's result is not lost for that.
#[pyfunction]
pub(crate) fn flush(py: Python<'_>) -> PyResult<()> {
    static SYS: PyOnceLock<Py<PyDict>> = PyOnceLock::new(); // an import is dear, even of this
    let names = SYS.get_or_try_init(py, || PyResult::Ok(py.import("sys")?.dict().unbind()))?;
    for name in [intern!(py, "stdout"), intern!(py, "stderr")] {
        let Some(stream) = names.bind(py).get_item(name)?.filter(|stream| !stream.is_none()) else {
            continue;
        };
        match stream.call_method0(intern!(py, "flush")) {
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

pub(crate) fn helper<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import("jobserver._job")?.getattr(name)
}

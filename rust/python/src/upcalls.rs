//! Calls up into the Python package: all functions that the binding looks up there by name.
//!
//! They are for rare steps of a job, or for steps that need Python's own modules. The common steps
//! call no Python function of this package.

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};

/// The module of functions for jobs.
const JOB: &str = "jobserver._job";

/// The module of a process's own jobs.
const OWN_JOBS: &str = "jobserver._own_jobs";

/// The module of functions for arguments.
const ARGUMENTS: &str = "jobserver._arguments";

fn function<'py>(py: Python<'py>, module: &str, name: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import(module)?.getattr(name)
}

/// Whether Python runs signal handlers in this thread. Only Python itself knows: in a program that
/// has Python embedded, `threading.main_thread` may be another thread. No handler runs in this call,
/// as it runs no Python code.
pub(crate) fn handles_signals(py: Python<'_>) -> bool {
    const SIGTERM: i32 = 15;
    // It refuses None in any case. If it is not the thread, it says that first, by ValueError.
    let refused = function(py, "_signal", "signal").and_then(|f| f.call1((SIGTERM, py.None())));
    !refused.is_err_and(|error| error.is_instance_of::<PyValueError>(py))
}

/// Applies a submission's `env`.
pub(crate) fn apply_environment(py: Python<'_>, changes: &Py<PyAny>) -> PyResult<()> {
    function(py, JOB, "apply_environment")?.call1((changes,)).map(drop)
}

/// Calls a job's function within the context manager that its `preexec_fn` returned.
pub(crate) fn call_prepared<'py>(
    py: Python<'py>,
    preexec_fn: &Py<PyAny>,
    function_and_arguments: (&Py<PyAny>, &Py<PyTuple>, Option<&Bound<'py, PyDict>>),
) -> PyResult<Bound<'py, PyAny>> {
    let (called, args, kwargs) = function_and_arguments;
    function(py, JOB, "call_prepared")?.call1((preexec_fn, called, args, kwargs))
}

/// The message with the value that a job's function returned.
pub(crate) fn dump_value<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    static DUMP: PyOnceLock<Py<PyAny>> = PyOnceLock::new(); // each job needs it
    let py = value.py();
    let dump = DUMP.get_or_try_init(py, || function(py, JOB, "dump_value").map(Bound::unbind))?;
    dump.bind(py).call1((value,))
}

/// The message with the exception that a job's function raised. For SystemExit, the exit code and
/// the last words instead.
pub(crate) fn dump_failure<'py>(py: Python<'py>, error: Py<PyAny>) -> PyResult<Bound<'py, PyAny>> {
    function(py, JOB, "dump_failure")?.call1((error,))
}

/// Runs a process's jobs within the function that a tool has put in the place of multiprocessing's
/// `_bootstrap`. Returns the exit code.
pub(crate) fn live_bootstrapped(
    py: Python<'_>,
    sentinel: i32,
    body: Bound<'_, PyAny>,
) -> PyResult<i32> {
    function(py, JOB, "live_bootstrapped")?.call1((sentinel, body))?.extract()
}

/// Drops the functions and finalizers that the job's owner, and not the job, runs at its end.
pub(crate) fn disinherit(py: Python<'_>) -> PyResult<()> {
    function(py, JOB, "disinherit")?.call0().map(drop)
}

/// Ends what the job began.
pub(crate) fn wind_down(py: Python<'_>) -> PyResult<()> {
    function(py, JOB, "wind_down")?.call0().map(drop)
}

/// Whether a job of this process may still need a slot.
pub(crate) fn are_under_way(py: Python<'_>) -> PyResult<bool> {
    function(py, OWN_JOBS, "are_under_way")?.call0()?.extract()
}

/// After a job: whether the owners of this process have no jobs and no processes any more.
pub(crate) fn are_at_rest(py: Python<'_>) -> PyResult<bool> {
    function(py, OWN_JOBS, "are_at_rest")?.call0()?.extract()
}

/// In a worker: gives the loader another owner's introduction.
pub(crate) fn introduce(
    loader: &Bound<'_, PyAny>,
    introduction: Bound<'_, PyTuple>,
) -> PyResult<()> {
    loader.call_method1(intern!(loader.py(), "introduce"), introduction).map(drop)
}

/// Reports an error that cannot be sent to the owner.
pub(crate) fn report(py: Python<'_>, error: PyErr) {
    let told = function(py, JOB, "report").and_then(|report| report.call1((error.into_value(py),)));
    let _ = told; // an error of the report cannot be reported
}

/// Whether memory is so short that an idle worker should end.
pub(crate) fn memory_is_short(py: Python<'_>) -> PyResult<bool> {
    function(py, JOB, "memory_is_short")?.call0()?.extract()
}

/// In a worker: the job of this launch, on this assignment: its work and its setup.
pub(crate) fn load<'py>(
    loader: &Bound<'py, PyAny>,
    launch: Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    loader.call_method1(intern!(loader.py(), "load"), launch)
}

/// In a worker, after a job: undoes its environment. Returns whether another job may follow.
pub(crate) fn unload(loader: &Bound<'_, PyAny>) -> PyResult<bool> {
    loader.call_method0(intern!(loader.py(), "unload"))?.is_truthy()
}

/// One call's positional arguments as a tuple, or its keyword arguments as a dictionary.
pub(crate) fn converted_arguments<'py>(
    arguments: Bound<'py, PyAny>,
    converter: &str,
) -> PyResult<Bound<'py, PyAny>> {
    function(arguments.py(), ARGUMENTS, converter)?.call1((arguments,))
}

/// An object that stands for the arguments of a call of `map` whose reading raised this. Fails if
/// the error does not belong to the reading.
pub(crate) fn unreadable(py: Python<'_>, error: PyErr) -> PyResult<Bound<'_, PyAny>> {
    function(py, ARGUMENTS, "unreadable")?.call1((error.into_value(py),))
}

/// Appends to a deque.
pub(crate) fn append(queue: &Bound<'_, PyAny>, item: &Bound<'_, PyAny>) -> PyResult<()> {
    queue.call_method1(intern!(queue.py(), "append"), (item,)).map(drop)
}

/// Makes an iterator of `map` serve the results of its next chunk. Returns whether there are any.
pub(crate) fn more(results: &Bound<'_, PyAny>) -> PyResult<bool> {
    results.call_method0(intern!(results.py(), "_more"))?.is_truthy()
}

/// The type of functions that are written in Python.
pub(crate) fn function_type(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static TYPE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    TYPE.import(py, "types", "FunctionType")
}

/// Flushes a Python stream.
pub(crate) fn flush(stream: &Bound<'_, PyAny>) -> PyResult<()> {
    stream.call_method0(intern!(stream.py(), "flush")).map(drop)
}

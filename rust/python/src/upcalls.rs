//! Calls up into the Python package: all that the binding looks up there by name.
//!
//! They are for what is rare in a job's life, or knows Python's own modules; the common way calls no
//! Python function of ours.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

/// What the module `_job` offers.
const JOB: &str = "jobserver._job";

/// What the module `_arguments` offers.
const ARGUMENTS: &str = "jobserver._arguments";

fn function<'py>(py: Python<'py>, module: &str, name: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import(module)?.getattr(name)
}

/// Applies a submission's `env`.
pub(crate) fn apply_environment(py: Python<'_>, changes: &Py<PyAny>) -> PyResult<()> {
    function(py, JOB, "apply_environment")?.call1((changes,)).map(drop)
}

/// Calls a job's function within what its `preexec_fn` returned.
pub(crate) fn call_prepared<'py>(
    py: Python<'py>,
    preexec_fn: &Py<PyAny>,
    function_and_arguments: (&Py<PyAny>, &Py<PyTuple>, Option<&Bound<'py, PyDict>>),
) -> PyResult<Bound<'py, PyAny>> {
    let (called, args, kwargs) = function_and_arguments;
    function(py, JOB, "call_prepared")?.call1((preexec_fn, called, args, kwargs))
}

/// A message that says what a job's function returned.
pub(crate) fn dump_value<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    function(value.py(), JOB, "dump_value")?.call1((value,))
}

/// A message that says what a job's function raised; or the exit code, and what to say of it, if that
/// was to end the process.
pub(crate) fn dump_failure<'py>(py: Python<'py>, error: Py<PyAny>) -> PyResult<Bound<'py, PyAny>> {
    function(py, JOB, "dump_failure")?.call1((error,))
}

/// Runs a process's jobs within what somebody has put in the place of multiprocessing's `_bootstrap`:
/// the exit code.
pub(crate) fn live_bootstrapped(
    py: Python<'_>,
    sentinel: i32,
    body: Bound<'_, PyAny>,
) -> PyResult<i32> {
    function(py, JOB, "live_bootstrapped")?.call1((sentinel, body))?.extract()
}

/// Drops what a job's owner, and not the job, has to see to at its end.
pub(crate) fn disinherit(py: Python<'_>) -> PyResult<()> {
    function(py, JOB, "disinherit")?.call0().map(drop)
}

/// Ends what the job began.
pub(crate) fn wind_down(py: Python<'_>) -> PyResult<()> {
    function(py, JOB, "wind_down")?.call0().map(drop)
}

/// Tells of an error that nobody else is told of.
pub(crate) fn report(py: Python<'_>, error: PyErr) {
    let told = function(py, JOB, "report").and_then(|report| report.call1((error.into_value(py),)));
    let _ = told; // there is nobody left to tell
}

/// Whether a process that idles had better give its memory back.
pub(crate) fn memory_is_short(py: Python<'_>) -> PyResult<bool> {
    function(py, JOB, "memory_is_short")?.call0()?.extract()
}

/// In a worker: a job of this launch, on this assignment: its work and its setup.
pub(crate) fn load<'py>(
    loader: &Bound<'py, PyAny>,
    launch: Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    loader.call_method1(intern!(loader.py(), "load"), launch)
}

/// In a worker, after a job: undoes what was done for it. Whether another may follow it here.
pub(crate) fn unload(loader: &Bound<'_, PyAny>) -> PyResult<bool> {
    loader.call_method0(intern!(loader.py(), "unload"))?.is_truthy()
}

/// One call's positional arguments, made a tuple; or keyword arguments, made a dictionary.
pub(crate) fn converted_arguments<'py>(
    arguments: Bound<'py, PyAny>,
    converter: &str,
) -> PyResult<Bound<'py, PyAny>> {
    function(arguments.py(), ARGUMENTS, converter)?.call1((arguments,))
}

/// What stands for the arguments of a call of `map` whose reading has raised this; unless it is nothing
/// of theirs.
pub(crate) fn unreadable(py: Python<'_>, error: PyErr) -> PyResult<Bound<'_, PyAny>> {
    function(py, ARGUMENTS, "unreadable")?.call1((error.into_value(py),))
}

/// Appends to a deque.
pub(crate) fn append(queue: &Bound<'_, PyAny>, item: &Bound<'_, PyAny>) -> PyResult<()> {
    queue.call_method1(intern!(queue.py(), "append"), (item,)).map(drop)
}

/// The next chunk's results are to be served by an iterator of `map`: whether there are any.
pub(crate) fn more(results: &Bound<'_, PyAny>) -> PyResult<bool> {
    results.call_method0(intern!(results.py(), "_more"))?.is_truthy()
}

/// Flushes a stream of Python's.
pub(crate) fn flush(stream: &Bound<'_, PyAny>) -> PyResult<()> {
    stream.call_method0(intern!(stream.py(), "flush")).map(drop)
}

//! `jobserver._native`: the Python binding of `jobserver-core`.
//!
//! It converts, releases the GIL around every wait, runs Python's signal handlers when a wait is
//! interrupted, and maps errors. It has no logic: the core defines slots, processes and scans, and
//! the Python package defines Futures.
//!
//! The GIL is this module's lock. Tables are used only while it is held and are never borrowed
//! across a wait, so a fork by another thread cannot copy a table that is half changed. References
//! to Python objects are dropped only while it is held too: see .cargo/config.toml.

mod admission;
mod channel;
mod death;
mod errors;
mod forkserver;
mod hooks;
mod host;
mod job;
mod map;
mod outcome;
mod owner;
mod owner_host;
mod plain;
mod pool;
mod program;
mod promise;
mod readiness;
mod setup;
mod starting;
mod tracker;
mod upcalls;
mod waiting;
mod worker;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

/// The number of CPUs that this process may use, by its affinity and its cgroup's quota.
#[pyfunction]
fn usable_cpus() -> usize {
    jobserver_core::usable_cpus()
}

/// The limit that an error number of the system means here, and how to raise it.
#[pyfunction]
fn advice(errno: i32) -> Option<&'static str> {
    jobserver_core::advice(errno)
}

/// Ends a process that has had no job. (Tools that replace `os._exit` do not see this: see
/// `Hooks`.)
#[pyfunction]
fn exit_at_once() {
    jobserver_core::platform::exit_at_once(0)
}

/// In a new interpreter: makes descriptor 0 the null device, and also 1 and 2 if they are closed.
#[pyfunction]
fn fill_standard() -> PyResult<()> {
    jobserver_core::platform::fill_standard(true).map_err(errors::to_python)
}

/// Whether descriptor 0 is the null device.
#[pyfunction]
fn reads_nothing() -> bool {
    jobserver_core::platform::reads_nothing()
}

/// Runs the `jobserver` command with these words, the first of which is the program's name. Returns
/// its exit code.
#[pyfunction]
fn command(py: Python<'_>, words: Vec<std::ffi::OsString>) -> i32 {
    py.detach(|| jobserver_cli::main(words))
}

/// In a forked child: records that this is another process, and closes the lifeline of its parent's
/// jobs.
#[pyfunction]
fn forget_lifeline() {
    jobserver_core::process::begin_child();
    jobserver_core::process::Lifeline::forget_parents();
}

/// Waits for the jobs of Jobservers that were dropped while the jobs ran.
#[pyfunction]
fn wait_for_left(py: Python<'_>) -> PyResult<()> {
    py.check_signals()?;
    while !py.detach(jobserver_core::process::wait_for_left).map_err(errors::to_python)? {
        py.check_signals()?;
    }
    Ok(())
}

/// What a new program has of this process, as numbers, to be compared; but for the environment.
#[pyfunction]
fn surroundings() -> Vec<u64> {
    jobserver_core::process::surroundings()
}

/// The same as `os.getpid`, usually without a system call.
#[pyfunction]
fn getpid() -> i32 {
    jobserver_core::process::getpid().as_raw_nonzero().get()
}

/// At the end of a process: removes the homes that it has made. No signal handler runs meanwhile.
#[pyfunction]
fn remove_homes() {
    jobserver_core::slots::remove_homes();
}

/// Removes the homes that killed processes of this user have left behind.
#[pyfunction]
fn sweep_homes() {
    jobserver_core::slots::sweep_homes();
}

/// Reports an error that cannot be raised, and its place, by `sys.unraisablehook`.
#[pyfunction]
fn tell_unraisable(error: Bound<'_, PyAny>, place: Bound<'_, PyAny>) {
    let py = place.py();
    PyErr::from_value(error).write_unraisable(py, Some(&place));
}

/// Calls a function with a lock held, as a `with` statement does, but within one call of C: so no
/// signal handler runs between an acquisition and what releases the lock.
#[pyfunction]
#[pyo3(signature = (lock, function, *args))]
fn locked<'py>(
    lock: &Bound<'py, PyAny>,
    function: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = lock.py();
    lock.call_method0(intern!(py, "acquire"))?;
    let result = function.call1(args);
    lock.call_method0(intern!(py, "release"))?;
    result
}

/// In a process that others will be forked from, with one thread: see `hooks::rehearse_fork`.
#[pyfunction]
fn rehearse_fork(py: Python<'_>) {
    hooks::rehearse_fork(py);
}

#[pymodule(gil_used = true)]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(usable_cpus, module)?)?;
    module.add_function(wrap_pyfunction!(advice, module)?)?;
    module.add_function(wrap_pyfunction!(exit_at_once, module)?)?;
    module.add_function(wrap_pyfunction!(fill_standard, module)?)?;
    module.add_function(wrap_pyfunction!(reads_nothing, module)?)?;
    module.add_function(wrap_pyfunction!(command, module)?)?;
    module.add_function(wrap_pyfunction!(job::flush, module)?)?;
    module.add_function(wrap_pyfunction!(map::rows::take_rows, module)?)?;
    module.add_function(wrap_pyfunction!(plain::is_plain, module)?)?;
    module.add_function(wrap_pyfunction!(worker::receive_introduction, module)?)?;
    module.add_function(wrap_pyfunction!(worker::run_jobs, module)?)?;
    module.add_function(wrap_pyfunction!(worker::unblock_interrupts, module)?)?;
    module.add_function(wrap_pyfunction!(worker::rehearse_job, module)?)?;
    module.add_function(wrap_pyfunction!(rehearse_fork, module)?)?;
    module.add_function(wrap_pyfunction!(locked, module)?)?;
    module.add_function(wrap_pyfunction!(getpid, module)?)?;
    module.add_function(wrap_pyfunction!(surroundings, module)?)?;
    module.add_function(wrap_pyfunction!(forget_lifeline, module)?)?;
    module.add_function(wrap_pyfunction!(wait_for_left, module)?)?;
    module.add_function(wrap_pyfunction!(remove_homes, module)?)?;
    module.add_function(wrap_pyfunction!(sweep_homes, module)?)?;
    module.add_function(wrap_pyfunction!(tell_unraisable, module)?)?;
    module.add_function(wrap_pyfunction!(pool::join_pool, module)?)?;
    module.add_function(wrap_pyfunction!(pool::current_job, module)?)?;
    module.add_function(wrap_pyfunction!(pool::own_pool, module)?)?;
    module.add_class::<pool::Pool>()?;
    module.add_class::<admission::Admission>()?;
    module.add_class::<setup::Setup>()?;
    module.add_class::<channel::Channel>()?;
    module.add_class::<channel::MemoryFile>()?;
    module.add_class::<channel::MemoryMap>()?;
    module.add_class::<channel::Descriptors>()?;
    module.add_class::<owner::Owner>()?;
    module.add_class::<waiting::PyLook>()?;
    module.add_class::<readiness::Readiness>()?;
    module.add_class::<death::Death>()?;
    module.add_class::<job::Work>()?;
    module.add_class::<promise::Promise>()?;
    module.add_class::<map::calls::Progress>()?;
    module.add_class::<map::results::Results>()?;
    module.add_class::<tracker::TrackerPipe>()?;
    module.add_class::<forkserver::ForkServer>()?;
    module.add_class::<forkserver::Server>()?;
    module.add("ForkServerGone", module.py().get_type::<errors::ForkServerGone>())?;
    module.add("Elsewhere", module.py().get_type::<errors::Elsewhere>())?;
    module.add("DUE", admission::DUE)?;
    module.add("TIMED_OUT", admission::TIMED_OUT)?;
    module.add("NO_WORKER", admission::NO_WORKER)?;
    let naming = jobserver_core::make::variables::NAMING;
    module.add("NAMING", pyo3::types::PyTuple::new(module.py(), naming)?)?;
    module.add("VERSION", env!("CARGO_PKG_VERSION"))?;
    module.add("INLINE", jobserver_core::wire::INLINE)?;
    module.add("MAX_SLOTS", jobserver_core::slots::MAX_SLOTS)?;
    Ok(())
}

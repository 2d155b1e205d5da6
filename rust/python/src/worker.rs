//! The Python part of a process that runs jobs, each at its launch. Not here: when it ends
//! (`worker` of the core), the steps of one job (`job.rs`), and how a job is loaded
//! (`_start/loading.py`).

use crate::channel::{frame_to_python, Channel, MessageParts, Payload};
use crate::errors::to_python;
use crate::forkserver::ForkServer;
use crate::host::Interpreter;
use crate::job::{self, After, Work};
use crate::setup::Setup;
use crate::upcalls;
use jobserver_core as core;
use jobserver_core::owner::Born;
use jobserver_core::platform::{exit_at_once, unblock};
use jobserver_core::process::Signal;
use jobserver_core::slots::Assignment;
use jobserver_core::wire::{Frame, Head};
use jobserver_core::worker::Worker;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

/// Waits for the introduction on a channel. If it carries a lifeline, this process ends with its
/// owner from then on. None if the owner has ended or gave up, or if no introduction came for long.
/// Also returns the fork server whose idle workers owners share, this process among them.
#[pyfunction]
pub(crate) fn receive_introduction(
    py: Python<'_>,
    channel: &Bound<'_, Channel>,
) -> PyResult<Option<(MessageParts, Option<ForkServer>)>> {
    let introduction = channel.get().worker(None).introduction(&Interpreter(py))?;
    let Some((frame, helper)) = introduction else { return Ok(None) };
    Ok(Some((frame_to_python(py, frame)?, helper.map(ForkServer))))
}

/// In a new process: runs the jobs that `loader` (of `_start/loading.py`) loads, and ends the
/// process. Returns only if there are none, or if an error came before the first. Owners share this
/// process if they share the idle workers of `helper`, its fork server.
#[pyfunction]
pub(crate) fn run_jobs(
    py: Python<'_>,
    channel: &Bound<'_, Channel>,
    loader: &Bound<'_, PyAny>,
    helper: Option<&Bound<'_, ForkServer>>,
) -> PyResult<()> {
    run_each(py, channel.get(), helper.map(|helper| helper.get()), loader)
}

/// In a forked worker: sets it up, and then does the same.
pub(crate) fn run_forked_worker(
    py: Python<'_>,
    born: Box<Born>,
    setup: Bound<'_, Setup>,
    loader: Bound<'_, PyAny>,
) -> ! {
    let (channel, set_up, _never_on) = job::set_up(py, born, &setup);
    let ended = set_up.and_then(|()| run_each(py, &channel, None, &loader));
    exit_at_once(job::end(py, None, ended.map(|()| After::Ends(0))))
}

fn run_each(
    py: Python<'_>,
    channel: &Channel,
    helper: Option<&ForkServer>,
    loader: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let worker = channel.worker(helper.map(|helper| &helper.0));
    let Some(frame) = worker.first_launch(&Interpreter(py))? else { return Ok(()) };
    match load(py, loader, frame) {
        Err(error) => job::run(py, channel.share(), Err(error)),
        Ok((work, setup)) => {
            let run = run_all(work, setup.clone(), worker, loader.clone());
            job::live(py, channel, Some(&setup), run)
        }
    }
}

/// Runs this job and, while the process may stay, the following jobs. Returns the process's exit
/// code.
fn run_all(
    work: Bound<'_, Work>,
    setup: Bound<'_, Setup>,
    mut worker: Worker,
    loader: Bound<'_, PyAny>,
) -> impl FnOnce(Python<'_>) -> i32 + Send + 'static {
    let (first, setup, loader) = (work.unbind(), setup.unbind(), loader.unbind());
    move |py| {
        let (setup, loader) = (setup.bind(py), loader.bind(py));
        let mut ready = Some(Ok(first.into_bound(py)));
        let mut after = Ok(After::Stays);
        while let (Ok(After::Stays), Some(work)) = (&after, ready.take()) {
            after = send(&mut worker, setup, loader, work);
            if let Ok(After::Stays) = after {
                match next_launch(&worker, loader) {
                    Ok(frame) => {
                        let loaded = frame.map(|frame| load(py, loader, frame));
                        ready = loaded.map(|loaded| loaded.map(|(work, _)| work));
                    }
                    Err(error) => after = Err(error),
                }
            }
        }
        job::end(py, Some(setup), after)
    }
}

/// Waits for another launch. Another owner may introduce itself first. None if the process must
/// end.
fn next_launch(worker: &Worker, loader: &Bound<'_, PyAny>) -> PyResult<Option<Frame>> {
    let py = loader.py();
    match worker.next_frame(&Interpreter(py))? {
        Some(frame) if matches!(frame.head, Head::Introduction { .. }) => {
            upcalls::introduce(loader, frame_to_python(py, frame)?.into_pyobject(py)?)?;
            Ok(worker.first_launch(&Interpreter(py))?)
        }
        frame => Ok(frame),
    }
}

/// Does a job's work and sends its result. The process may stay for another job if Python's state
/// is as clean as before.
fn send(
    worker: &mut Worker,
    setup: &Bound<'_, Setup>,
    loader: &Bound<'_, PyAny>,
    work: PyResult<Bound<'_, Work>>,
) -> PyResult<After> {
    let (py, loaded) = (setup.py(), work.is_ok());
    job::send(py, worker, work, || {
        let at_rest = setup.get().own_jobs_are_at_rest(py)?;
        Ok(upcalls::unload(loader)? && loaded && at_rest && setup.get().nothing_begun(py))
    })
}

/// In a process that started with SIGINT blocked: unblocks it. (`signal.pthread_sigmask` would make
/// enumeration objects of the signals that were blocked, which is slow in a new process.)
#[pyfunction]
pub(crate) fn unblock_interrupts(py: Python<'_>) -> PyResult<()> {
    unblock(Signal::INT);
    py.check_signals()
}

/// In a process that others will be forked from: does all steps of a first job with this launch, up
/// to its end.
#[pyfunction]
pub(crate) fn rehearse_job(
    py: Python<'_>,
    loader: &Bound<'_, PyAny>,
    launch: Payload<'_>,
) -> PyResult<()> {
    let (owner_end, job_end) = core::Channel::pair().map_err(to_python)?;
    let head = Head::Launch { assignment: Assignment::none() };
    launch.as_message().send(&owner_end, head).map_err(to_python)?;
    let mut worker = Worker::new(job_end, None);
    let Some(frame) = worker.first_launch(&Interpreter(py))? else { return Ok(()) };
    let (work, setup) = load(py, loader, frame)?;
    job::send(py, &mut worker, Ok(work), || Ok(false))?;
    setup.get().nothing_to_end(py).map(drop)
}

type Loaded<'py> = (Bound<'py, Work>, Bound<'py, Setup>);

fn load<'py>(py: Python<'py>, loader: &Bound<'py, PyAny>, frame: Frame) -> PyResult<Loaded<'py>> {
    let Head::Launch { assignment } = frame.head else {
        return Err(PyRuntimeError::new_err("the owner sent a frame that is no launch"));
    };
    let (message, descriptors) = frame_to_python(py, frame)?;
    let launch = (message, descriptors, assignment.to_word()).into_pyobject(py)?;
    upcalls::load(loader, launch)?.extract()
}

//! A process that runs jobs, each when its owner says so, until it has had enough of them.
//!
//! Between two jobs it holds no slot and nothing of the last one's, and ignores Ctrl-C. It ends
//! once it has had as many jobs as it may; where a job has left something behind (threads,
//! processes, much memory); or when it has waited for long, or memory is short. Not here: a
//! job's own life (`job.rs`), and how one is loaded (`_start/launch.py`).

use crate::errors::to_python;
use crate::job::{self, helper, Sent, Work};
use crate::setup::Setup;
use crate::wire::{frame_to_python, Channel, Message};
use jobserver_core as core;
use jobserver_core::platform::{unblock, SignalIgnored};
use jobserver_core::process::{getpid, has_children, Growth, Pid, Signal};
use jobserver_core::wire::{Frame, Head, Kind};
use jobserver_core::Woken;
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::intern;
use pyo3::prelude::*;
use std::time::{Duration, Instant};

/// How long to wait for another job, and after how long to look whether memory is short.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_secs(5);

/// By how much the memory of one process may grow over its jobs, in bytes.
const GROWTH: u64 = 300 << 20;

/// In a new process: runs the jobs that `worker` (of `_start/launch.py`) loads, and ends. Returns
/// only if there are none, or with what has failed before.
#[pyfunction]
pub(crate) fn run_jobs(
    py: Python<'_>,
    channel: &Bound<'_, Channel>,
    worker: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let Some(frame) = first_frame(py, &channel.get().channel, false)? else { return Ok(()) };
    match load(py, worker, frame) {
        Err(error) => job::run(py, channel, Err(error)),
        Ok((work, setup)) => {
            let run = run_all(work, setup.clone(), channel.clone(), worker.clone());
            job::live(py, channel, Some(&setup), run)
        }
    }
}

/// Runs this job and, while the process may stay, those that follow. The process's exit code.
fn run_all(
    work: Bound<'_, Work>,
    setup: Bound<'_, Setup>,
    channel: Bound<'_, Channel>,
    worker: Bound<'_, PyAny>,
) -> impl FnOnce(Python<'_>) -> i32 + Send + 'static {
    // Which has adopted the first job's slot. (What somebody has put in the place of `_bootstrap` may
    // fork.)
    let me = getpid();
    let (first, setup) = (work.unbind(), setup.unbind());
    let (channel, worker) = (channel.unbind(), worker.unbind());
    move |py| {
        let (setup, channel, worker) = (setup.bind(py), channel.get(), worker.bind(py));
        let mut growth = None;
        let mut ready = Some(Ok(first.into_bound(py)));
        let mut sent = Ok(Sent::Stays);
        while let (Ok(Sent::Stays), Some(work)) = (&sent, ready.take()) {
            sent = send(channel, setup, worker, &mut growth, work, me);
            if let Ok(Sent::Stays) = sent {
                match next_launch(py, &channel.channel) {
                    Ok(frame) => {
                        let loaded = frame.map(|frame| load(py, worker, frame));
                        ready = loaded.map(|loaded| loaded.map(|(work, _)| work));
                    }
                    Err(error) => sent = Err(error),
                }
            }
        }
        job::end(py, Some(setup), sent)
    }
}

/// Does a job's work and sends what came of it. The process stays for another if it is as clean as
/// before.
fn send(
    channel: &Channel,
    setup: &Bound<'_, Setup>,
    worker: &Bound<'_, PyAny>,
    growth: &mut Option<Growth>,
    work: PyResult<Bound<'_, Work>>,
    me: Pid,
) -> PyResult<Sent> {
    let loaded = work.is_ok();
    job::send(setup.py(), channel, work, |py| {
        let may_stay = worker.call_method0(intern!(py, "unload"))?.is_truthy()? && loaded;
        // (A job's function may fork, and return in both processes.)
        Ok(may_stay
            && getpid() == me
            && setup.get().nothing_begun(py)?
            && !has_children()
            && !growth.get_or_insert_with(Growth::since_now).exceeds(GROWTH))
    })
}

/// In a process that was born with SIGINT blocked: lets it through. (Python's own way makes an
/// enumeration of what was blocked before, which is dear where everything runs for the first time.)
#[pyfunction]
pub(crate) fn unblock_interrupts(py: Python<'_>) -> PyResult<()> {
    unblock(Signal::INT);
    py.check_signals()
}

/// In a process that others will be forked from: does all that one does with its first job, up to
/// its end, with this launch.
#[pyfunction]
pub(crate) fn rehearse_job(
    py: Python<'_>,
    worker: &Bound<'_, PyAny>,
    launch: Message<'_>,
) -> PyResult<()> {
    let (owner_end, job_end) = core::Channel::pair().map_err(to_python)?;
    launch.send(&owner_end, Head { kind: Kind::Launch, word: 0 }, &[]).map_err(to_python)?;
    let channel = Channel::from(job_end);
    let Some(frame) = first_frame(py, &channel.channel, false)? else { return Ok(()) };
    let (work, setup) = load(py, worker, frame)?;
    job::send(py, &channel, Ok(work), |_| Ok(false))?;
    setup.get().nothing_to_end(py).map(drop)
}

type Loaded<'py> = (Bound<'py, Work>, Bound<'py, Setup>);

fn load<'py>(py: Python<'py>, worker: &Bound<'py, PyAny>, frame: Frame) -> PyResult<Loaded<'py>> {
    let slot = frame.word;
    let (message, descriptors) = frame_to_python(py, frame)?;
    worker.call_method1(intern!(py, "load"), (message, descriptors, slot))?.extract()
}

/// In a new process: waits for what it is sent first. None if its owner gave up, or is gone; or if
/// it `may_leave`, and it is time to. (It may not once its owner counts on it.)
pub(crate) fn first_frame(
    py: Python<'_>,
    channel: &core::Channel,
    may_leave: bool,
) -> PyResult<Option<Frame>> {
    // What is there already may be older than a Ctrl-C that has come while this process started.
    let there = channel.wait_until(Instant::now()).map_err(to_python)? == Woken::Ready;
    let _ignored = (!there).then(|| ignore_ctrl_c(py)).transpose()?;
    match may_leave {
        true => idle(py, channel),
        false => py.detach(|| channel.receive()).map_err(to_python),
    }
}

/// For as long as a process waits, also if one has come already: its owner is told by the terminal
/// too, and it has nothing that could be interrupted. A job that comes later is not to be.
fn ignore_ctrl_c(py: Python<'_>) -> PyResult<SignalIgnored> {
    let ignored = SignalIgnored::begin(Signal::INT)?;
    match py.check_signals() {
        Err(e) if !e.is_instance_of::<PyKeyboardInterrupt>(py) => Err(e),
        _ => Ok(ignored),
    }
}

/// Waits for another launch, which may well be under way. None if it is time to end.
fn next_launch(py: Python<'_>, channel: &core::Channel) -> PyResult<Option<Frame>> {
    let _ignored = ignore_ctrl_c(py)?;
    if py.detach(|| channel.spin()) {
        return channel.receive_ready().map_err(to_python);
    }
    idle(py, channel)
}

/// Waits for what comes next, not for ever. None if it is time to end.
fn idle(py: Python<'_>, channel: &core::Channel) -> PyResult<Option<Frame>> {
    let leaves = Instant::now() + PATIENCE;
    let mut first = true;
    loop {
        py.check_signals()?;
        let look = leaves.min(Instant::now() + LOOK);
        let woken = py.detach(|| match std::mem::take(&mut first) {
            true => channel.wait_briefly_until(look),
            false => channel.wait_until(look),
        });
        match woken.map_err(to_python)? {
            Woken::Ready => return channel.receive_ready().map_err(to_python),
            Woken::TimedOut if Instant::now() >= leaves || memory_is_short(py)? => {
                return channel.leave().map_err(to_python)
            }
            _ => {}
        }
    }
}

fn memory_is_short(py: Python<'_>) -> PyResult<bool> {
    helper(py, "memory_is_short")?.call0()?.extract()
}

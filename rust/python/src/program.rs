//! A new program for jobs, and the ways to start it: see `_start/program.py`.

use crate::errors::to_python;
use jobserver_core::platform::SignalsHeld;
use jobserver_core::process::{Pid, Signal};
use jobserver_core::Child;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;

const NO_PID: &str = "the function in the place of multiprocessing.util.spawnv_passfds returned \
    no pid: has it started a process?";

#[derive(FromPyObject)]
pub(crate) enum Program<'py> {
    /// The program and its arguments.
    Command(Vec<OsString>),
    /// A function that takes the descriptor of the program's standard input, starts the program,
    /// and returns its pid.
    StartedBy(Bound<'py, PyAny>),
}

impl Program<'_> {
    /// Starts it with this as its standard input, and with SIGINT blocked.
    pub(crate) fn start(self, stdin: OwnedFd) -> PyResult<Child> {
        let _held = SignalsHeld::this(Signal::INT);
        match self {
            Program::Command(argv) => {
                Child::spawn_on(stdin, &mut command(argv)?).map_err(to_python)
            }
            Program::StartedBy(start) => {
                let pid = Pid::from_raw(start.call1((stdin.as_raw_fd(),))?.extract()?);
                pid.map(Child::adopt).ok_or_else(|| PyValueError::new_err(NO_PID))
            }
        }
    }
}

/// The command of a program and its arguments.
pub(crate) fn command(argv: Vec<OsString>) -> PyResult<Command> {
    let mut argv = argv.into_iter();
    let program = argv.next().ok_or_else(|| PyValueError::new_err("no command"))?;
    let mut command = Command::new(program);
    command.args(argv);
    Ok(command)
}

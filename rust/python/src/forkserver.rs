//! ForkServer (the client's end) and Server (the helper's).

use crate::channel::Channel;
use crate::errors::to_python;
use crate::hooks;
use crate::pool::duplicate;
use jobserver_core::forkserver as core;
use jobserver_core::process;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::ffi::OsString;
use std::os::fd::{AsRawFd, RawFd};
use std::process::Command;

/// A program and its arguments as a command; it must not be empty.
pub(crate) fn command(argv: Vec<OsString>) -> PyResult<Command> {
    let mut argv = argv.into_iter();
    let program = argv.next().ok_or_else(|| PyValueError::new_err("an empty command"))?;
    let mut command = Command::new(program);
    command.args(argv);
    Ok(command)
}

#[pyclass(frozen, module = "jobserver._native")]
pub(crate) struct ForkServer(pub(crate) core::ForkServer);

#[pymethods]
impl ForkServer {
    /// Starts a helper: a program that serves the socket on its standard input.
    #[staticmethod]
    fn start(argv: Vec<OsString>) -> PyResult<ForkServer> {
        core::ForkServer::start(&mut command(argv)?).map(ForkServer).map_err(to_python)
    }

    /// Joins a helper by its request socket, which stays the caller's to close.
    #[staticmethod]
    fn join(fd: RawFd) -> PyResult<ForkServer> {
        Ok(ForkServer(core::ForkServer::join(duplicate(fd)?)))
    }

    fn fileno(&self) -> RawFd {
        self.0.as_descriptor().as_raw_fd()
    }

    #[getter]
    fn pid(&self) -> Option<i32> {
        self.0.pid().map(|pid| pid.as_raw_nonzero().get())
    }

    /// Ends the helper, if this process started it, and waits for its end.
    fn stop(&self, py: Python<'_>) -> PyResult<()> {
        if self.0.pid().is_none() {
            return Ok(());
        }
        self.0.stop();
        while !py.detach(|| self.0.wait_stopped()).map_err(to_python)? {
            py.check_signals()?;
        }
        Ok(())
    }
}

#[pyclass(module = "jobserver._native")]
pub(crate) struct Server(core::Server);

#[pymethods]
impl Server {
    #[new]
    fn new(fd: RawFd) -> PyResult<Server> {
        core::Server::new(duplicate(fd)?).map(Server).map_err(to_python)
    }

    /// In the helper: serves until nobody is left to serve, then returns None. Returns in
    /// each forked job with its channel. The GIL stays held: the helper has one thread.
    fn serve(&mut self, py: Python<'_>) -> PyResult<Option<Channel>> {
        let helper = Some(process::getpid());
        let channel = self.0.serve(|| hooks::fork(py)).map_err(to_python)?;
        Ok(channel.map(|channel| Channel { channel, helper }))
    }
}

//! ForkServer (the client's end) and Server (the helper's).

use crate::channel::{number, Channel};
use crate::errors::to_python;
use crate::hooks;
use crate::host::Interpreter;
use crate::pool::duplicate;
use crate::program;
use jobserver_core::forkserver as core;
use pyo3::prelude::*;
use std::ffi::OsString;
use std::os::fd::RawFd;

/// The helper of a tree of jobs, whether it runs or not.
#[pyclass(frozen, module = "jobserver._native")]
pub(crate) struct ForkServer(pub(crate) core::Helper);

#[pymethods]
impl ForkServer {
    /// Joins the helper that another process has started, by its `filenos`, which the caller
    /// closes; None: there is no helper yet.
    #[new]
    #[pyo3(signature = (filenos = None))]
    fn new(filenos: Option<Vec<RawFd>>) -> PyResult<ForkServer> {
        let Some(filenos) = filenos else { return Ok(ForkServer(core::Helper::default())) };
        let descriptors = filenos.into_iter().map(duplicate).collect::<PyResult<Vec<_>>>()?;
        Ok(ForkServer(core::Helper::join(descriptors)))
    }

    /// Whether there is a helper, and this program has not closed its request socket.
    #[getter]
    fn running(&self) -> bool {
        self.0.is_running()
    }

    /// The number of workers ahead.
    #[getter]
    fn ahead(&self) -> usize {
        self.0.ahead()
    }

    /// Makes the workers end that no owner has: those ahead, and the idle ones of the tree.
    fn dismiss_idle(&self) {
        self.0.dismiss_idle();
    }

    /// The descriptors that another process needs to join: the request socket and, if owners share
    /// idle workers, three more.
    fn filenos(&self) -> PyResult<Vec<RawFd>> {
        let helper = self.0.current().map_err(to_python)?;
        helper.descriptors().into_iter().map(number).collect()
    }

    #[getter]
    fn pid(&self) -> Option<i32> {
        self.0.pid().map(|pid| pid.as_raw_nonzero().get())
    }

    /// Ends the workers ahead. If this process started the helper, ends it too and waits for its
    /// end.
    fn stop(&self, py: Python<'_>) -> PyResult<()> {
        Ok(self.0.stop(&Interpreter(py))?)
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

    /// In the helper: serves until there are no clients and no children, then returns None. Returns
    /// in each forked worker with its channel. The GIL stays held: the helper has one thread.
    fn serve(&mut self, py: Python<'_>) -> PyResult<Option<Channel>> {
        let channel = self.0.serve(|_| hooks::fork(py)).map_err(to_python)?;
        Ok(channel.map(Channel::from))
    }

    /// In the helper of start method spawn: serves by starting this command for each request, with
    /// its channel as its standard input, until there are no clients and no children.
    fn serve_by(&mut self, command: Vec<OsString>) -> PyResult<()> {
        self.0.serve_by(&mut program::command(command)?).map_err(to_python)
    }
}

//! ForkServer (the client's end) and Server (the helper's).

use crate::channel::{number, Channel};
use crate::errors::to_python;
use crate::hooks;
use crate::host::Interpreter;
use crate::pool::duplicate;
use jobserver_core::forkserver as core;
use pyo3::prelude::*;
use std::os::fd::RawFd;

/// The helper of a tree of jobs: running, or not yet, or not any more.
#[pyclass(frozen, module = "jobserver._native")]
pub(crate) struct ForkServer(pub(crate) core::Helper);

#[pymethods]
impl ForkServer {
    /// Without a helper yet; or joins one by its request socket, which stays the caller's
    /// to close.
    #[new]
    #[pyo3(signature = (fd = None))]
    fn new(fd: Option<RawFd>) -> PyResult<ForkServer> {
        let joined = fd.map(duplicate).transpose()?.map(core::Helper::join);
        Ok(ForkServer(joined.unwrap_or_default()))
    }

    /// Whether there is one, to which this program has not closed the way.
    #[getter]
    fn running(&self) -> bool {
        self.0.is_running()
    }

    /// Whether there was a helper and it has gone, though nobody may have noticed yet.
    #[getter]
    fn gone(&self) -> bool {
        self.0.is_gone()
    }

    /// How many workers have been asked for ahead of need.
    #[getter]
    fn ahead(&self) -> usize {
        self.0.ahead()
    }

    /// Has those workers end.
    fn dismiss_ahead(&self) {
        self.0.dismiss_ahead();
    }

    fn fileno(&self) -> PyResult<RawFd> {
        number(self.0.current().map_err(to_python)?.as_descriptor())
    }

    #[getter]
    fn pid(&self) -> Option<i32> {
        self.0.pid().map(|pid| pid.as_raw_nonzero().get())
    }

    /// Ends the workers that are ahead, and the helper for good if this process started it, for
    /// whose end it waits.
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

    /// In the helper: serves until nobody is left to serve, then returns None. Returns in
    /// each forked worker with its channel. The GIL stays held: the helper has one thread.
    fn serve(&mut self, py: Python<'_>) -> PyResult<Option<Channel>> {
        let channel = self.0.serve(|| hooks::fork(py)).map_err(to_python)?;
        Ok(channel.map(Channel::from))
    }
}

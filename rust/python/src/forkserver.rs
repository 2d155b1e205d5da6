//! ForkServer (the client's end) and Server (the helper's).

use crate::errors::{to_python, ForkServerGone};
use crate::hooks;
use crate::pool::duplicate;
use crate::program::Program;
use crate::wire::{borrowed, number, Channel, Descriptors, Message};
use jobserver_core::forkserver as core;
use jobserver_core::process::Lifeline;
use jobserver_core::wire::Kind;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The helper of a tree of jobs: running, or not yet, or not any more.
///
/// The lock is held neither while the GIL is let go of, nor while Python can be called, so
/// that neither a fork by another thread nor Ctrl-C can leave it locked.
#[pyclass(frozen, module = "jobserver._native")]
pub(crate) struct ForkServer(Mutex<Helper>);

#[derive(Default)]
struct Helper {
    running: Option<Arc<core::ForkServer>>,
    /// Asked for by this process.
    ahead: core::Ahead,
    /// Nothing is started any more.
    stopped: bool,
}

#[pymethods]
impl ForkServer {
    /// Without a helper yet; or joins one by its request socket, which stays the caller's
    /// to close.
    #[new]
    #[pyo3(signature = (fd = None))]
    fn new(fd: Option<RawFd>) -> PyResult<ForkServer> {
        let joined = fd.map(duplicate).transpose()?.map(core::ForkServer::join);
        let running = joined.map(Arc::new);
        Ok(ForkServer(Mutex::new(Helper { running, ..Helper::default() })))
    }

    /// Whether there is one, to which this program has not closed the way.
    #[getter]
    fn running(&self) -> bool {
        self.helper().running.as_ref().is_some_and(|helper| !helper.is_lost())
    }

    /// Starts a helper, a program that serves the socket on its standard input, unless
    /// there is one: whether it has. The helper is born with SIGINT blocked, and first sent this
    /// message.
    fn start(
        &self,
        py: Python<'_>,
        program: Program<'_>,
        message: Message<'_>,
        descriptors: &Bound<'_, Descriptors>,
    ) -> PyResult<bool> {
        let descriptors = descriptors.get().held();
        if !self.helper().needs_another()? {
            return Ok(false);
        }
        let (ours, theirs) = jobserver_core::Channel::pair().map_err(to_python)?;
        let child = program.start(theirs.into_socket().map_err(to_python)?)?;
        let started = Arc::new(core::ForkServer::started(ours, child));
        let sent = message.send(
            &started.introduction().map_err(to_python)?,
            Kind::Introduction,
            &borrowed(&descriptors).map_err(to_python)?,
        );
        // If it is gone already, the first request will tell.
        let sent = sent.or_else(|e| if e.is_hang_up() { Ok(()) } else { Err(to_python(e)) });
        let needed = sent.and_then(|()| {
            let mut helper = self.helper();
            let needed = helper.needs_another()?;
            if needed {
                helper.ahead.dismiss();
                helper.running = Some(started.clone());
            }
            Ok(needed)
        });
        if !matches!(needed, Ok(true)) {
            self.see_out(py, &started)?; // another thread was quicker, or has closed
        }
        needed
    }

    /// Whether there was a helper and it has gone, though nobody may have noticed yet.
    #[getter]
    fn gone(&self) -> bool {
        self.helper().running.as_ref().is_some_and(|helper| helper.is_gone())
    }

    /// How many processes have been asked for ahead of need.
    #[getter]
    fn ahead(&self) -> usize {
        self.helper().ahead.number()
    }

    /// Has those processes end.
    fn dismiss_ahead(&self) {
        self.helper().ahead.dismiss();
    }

    fn fileno(&self) -> PyResult<RawFd> {
        number(self.current()?.as_descriptor())
    }

    #[getter]
    fn pid(&self) -> Option<i32> {
        self.helper().running.as_ref()?.pid().map(|pid| pid.as_raw_nonzero().get())
    }

    /// Ends the processes that are ahead, and the helper for good if this process started it, for
    /// whose end it waits.
    fn stop(&self, py: Python<'_>) -> PyResult<()> {
        let helper = {
            let mut helper = self.helper();
            helper.stopped = true;
            helper.ahead.dismiss();
            helper.running.clone()
        };
        helper.map_or(Ok(()), |helper| self.see_out(py, &helper))
    }
}

impl Helper {
    fn needs_another(&self) -> PyResult<bool> {
        match self.stopped {
            true => Err(PyRuntimeError::new_err("this Jobserver is closed")),
            false => Ok(self.running.as_ref().is_none_or(|helper| helper.is_lost())),
        }
    }
}

impl ForkServer {
    fn helper(&self) -> MutexGuard<'_, Helper> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The helper that runs now.
    pub(crate) fn current(&self) -> PyResult<Arc<core::ForkServer>> {
        let running = self.helper().running.clone();
        running.ok_or_else(|| ForkServerGone::new_err("there is no fork server"))
    }

    /// Gives up a helper that has gone, or to which this program has closed the way. That one
    /// serves others still, and ends after them.
    pub(crate) fn give_up(&self, py: Python<'_>, gone: &Arc<core::ForkServer>) -> PyResult<()> {
        match gone.is_lost() {
            true => self.forget(gone),
            false => self.see_out(py, gone)?,
        }
        Ok(())
    }

    /// Ends this helper and forgets it.
    fn see_out(&self, py: Python<'_>, gone: &Arc<core::ForkServer>) -> PyResult<()> {
        if gone.pid().is_some() {
            gone.stop();
            py.check_signals()?;
            while !py.detach(|| gone.wait_stopped()).map_err(to_python)? {
                py.check_signals()?;
            }
        }
        self.forget(gone);
        Ok(())
    }

    /// Forgets this helper, unless another has taken its place meanwhile.
    fn forget(&self, gone: &Arc<core::ForkServer>) {
        let mut helper = self.helper();
        if helper.running.take_if(|helper| Arc::ptr_eq(helper, gone)).is_some() {
            helper.ahead.dismiss();
        }
    }

    /// A process that is ahead, if there is one.
    pub(crate) fn take_ahead(&self) -> Option<jobserver_core::Channel> {
        self.helper().ahead.take()
    }

    /// Asks for processes ahead of need, until there are so many.
    pub(crate) fn top_up(
        &self,
        number: usize,
        lifeline: Option<&Lifeline>,
    ) -> jobserver_core::Result<()> {
        let helper = &mut *self.helper();
        match &helper.running {
            Some(running) if !helper.stopped => helper.ahead.top_up(number, running, lifeline),
            _ => Ok(()),
        }
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
        let channel = self.0.serve(|| hooks::fork(py)).map_err(to_python)?;
        Ok(channel.map(Channel::from))
    }
}

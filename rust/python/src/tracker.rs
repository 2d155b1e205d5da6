//! The writing end of the pipe of the resource tracker that a tree of jobs shares, as an object:
//! no signal handler that raises can leave it open. What it is for stands in `_tracker.py`.

use crate::errors::to_python;
use crate::pool::duplicate;
use jobserver_core as core;
use jobserver_core::platform::{self, Descriptor};
use jobserver_core::process::{getpid, Pid};
use pyo3::prelude::*;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

#[pyclass(frozen, module = "jobserver._native")]
pub(crate) struct TrackerPipe {
    end: Mutex<Option<Descriptor>>,
    #[pyo3(get)]
    inode: u64,
    maker: Option<Pid>,
}

#[pymethods]
impl TrackerPipe {
    /// A duplicate of this writing end, or else that of a pipe that nobody reads; made by this
    /// process, or received from its owner.
    #[new]
    #[pyo3(signature = (of, made))]
    fn new(of: Option<RawFd>, made: bool) -> PyResult<TrackerPipe> {
        let end = match of {
            Some(fd) => duplicate(fd)?,
            None => platform::pipe_without_reader()
                .map_err(|e| to_python(core::Error::refused("cannot start a job", e)))?,
        };
        let (inode, maker) = (end.inode().unwrap_or(0), made.then(getpid));
        Ok(TrackerPipe { end: Mutex::new(Some(end)), inode, maker })
    }

    /// The descriptor; -1 once closed.
    #[getter]
    fn end(&self) -> RawFd {
        self.held().as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Whether the descriptor is still that: a job may have closed it.
    fn is_open(&self) -> bool {
        self.held().as_ref().is_some_and(Descriptor::is_intact)
    }

    /// Whether this very process has made it, and none that it was forked from.
    fn is_own(&self) -> bool {
        self.maker == Some(getpid())
    }

    /// Leaves the descriptor to whoever knows it.
    fn detach(&self) {
        let _left = self.held().take().map(|end| OwnedFd::from(end).into_raw_fd());
    }

    fn close(&self) {
        let end = self.held().take();
        drop(end);
    }
}

impl TrackerPipe {
    fn held(&self) -> MutexGuard<'_, Option<Descriptor>> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

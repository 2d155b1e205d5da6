//! The writing end of the resource tracker's pipe, which a tree of jobs shares, as an object: a
//! signal handler that raises cannot leave it open. `_tracker.py` describes its use.

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
    /// A duplicate of the writing end `of`, or the writing end of a new pipe without a reader.
    /// `made` says whether this process made it, or received it from its owner.
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

    /// The descriptor; -1 after it was closed.
    #[getter]
    fn end(&self) -> RawFd {
        self.held().as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Whether the descriptor is still this pipe: a job may have closed it.
    fn is_open(&self) -> bool {
        self.held().as_ref().is_some_and(Descriptor::is_intact)
    }

    /// Whether this process itself made it, and not a process that it was forked from.
    fn is_own(&self) -> bool {
        self.maker == Some(getpid())
    }

    /// Leaves the descriptor open, for other code that has its number.
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

//! The writing end of the pipe of the resource tracker that a tree of jobs shares, as an object:
//! no signal handler that raises can leave it open. What it is for stands in `_tracker.py`.

use crate::errors::to_python;
use crate::pool::duplicate;
use jobserver_core as core;
use jobserver_core::process::{getpid, Pid};
use pyo3::prelude::*;
use std::fs::File;
use std::os::fd::{AsRawFd, IntoRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[pyclass(frozen, module = "jobserver._native")]
pub(crate) struct TrackerPipe {
    end: Mutex<Option<File>>,
    /// Which pipe it is: a job may close the descriptor, and its number be another file's.
    device: u64,
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
            None => core::sys::pipe_without_reader()
                .map_err(|e| to_python(core::Error::refused("cannot start a job", e)))?,
        };
        let end = File::from(end);
        let told = end.metadata()?;
        let maker = made.then(getpid);
        Ok(TrackerPipe { device: told.dev(), inode: told.ino(), end: Mutex::new(Some(end)), maker })
    }

    /// The descriptor; -1 once closed.
    #[getter]
    fn end(&self) -> RawFd {
        self.held().as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Whether the descriptor is still that.
    fn is_open(&self) -> bool {
        self.held().as_ref().is_some_and(|end| self.is_this(end))
    }

    /// Whether this very process has made it, and none that it was forked from.
    fn is_own(&self) -> bool {
        self.maker == Some(getpid())
    }

    fn is_same_as(&self, other: &TrackerPipe) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// Leaves the descriptor to whoever knows it.
    fn detach(&self) {
        let _left = self.held().take().map(File::into_raw_fd);
    }

    fn close(&self) {
        let end = self.held().take();
        if let Some(end) = end.filter(|end| !self.is_this(end)) {
            let _not_ours = end.into_raw_fd();
        }
    }
}

impl TrackerPipe {
    fn held(&self) -> MutexGuard<'_, Option<File>> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_this(&self, end: &File) -> bool {
        end.metadata().is_ok_and(|told| (told.dev(), told.ino()) == (self.device, self.inode))
    }
}

impl Drop for TrackerPipe {
    fn drop(&mut self) {
        self.close();
    }
}

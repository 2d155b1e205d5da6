//! Pool: a pool of the core's, for Python.

use crate::errors::to_python;
use jobserver_core as core;
use jobserver_core::make::{InForce, Joined};
use jobserver_core::platform::{self, Descriptor};
use jobserver_core::slots::{Assignment, Ends, Style};
use pyo3::prelude::*;
use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::path::PathBuf;

#[pyclass(frozen, module = "jobserver._native")]
pub(crate) struct Pool(pub(crate) core::Pool);

pub(crate) fn duplicate(fd: RawFd) -> PyResult<Descriptor> {
    platform::duplicate(fd)
        .map_err(|e| to_python(core::Error::refused("cannot pass on a descriptor", e)))
}

#[pymethods]
impl Pool {
    /// A new one, named in the "fifo" or "pipe" style; or, with None, as the make on PATH takes it.
    #[new]
    #[pyo3(signature = (slots, style=None))]
    fn new(slots: usize, style: Option<&str>) -> PyResult<Pool> {
        let pool = core::Pool::new(slots).map_err(to_python)?;
        pool.set_style(match style {
            Some("fifo") => Style::Fifo,
            Some(_) => Style::Pipe,
            None => Style::for_make(),
        });
        Ok(Pool(pool))
    }

    /// The pool that another process has made, by its home.
    #[staticmethod]
    fn open(home: PathBuf) -> PyResult<Pool> {
        core::Pool::open(&home).map(Pool).map_err(to_python)
    }

    /// How MAKEFLAGS names it.
    #[getter]
    fn auth(&self) -> OsString {
        self.0.auth().to_os_string()
    }

    /// The folder by which other processes can open it.
    #[getter]
    fn home(&self) -> &OsStr {
        self.0.home().as_os_str()
    }

    /// In a job: the descriptors that programs below must inherit to share the pool, if any.
    #[getter]
    fn pass_fds(&self) -> Option<Ends> {
        self.0.inherited_ends()
    }

    /// In a job: takes over the slot that it was launched on, if any, by the word that came with its
    /// launch. False if it is no longer for us, when nothing may run.
    fn adopt(&self, word: u64) -> PyResult<bool> {
        self.0.adopt(Assignment::from_word(word)).map_err(to_python)
    }

    #[getter]
    fn slots(&self) -> usize {
        self.0.slots()
    }

    /// How many slots are free, for everybody.
    fn free(&self) -> PyResult<usize> {
        self.0.free().map_err(to_python)
    }

    /// Puts back the slots of processes that have been killed: whether there were any.
    fn reclaim(&self) -> bool {
        self.0.reclaim()
    }
}

/// In a job: the pool that it was started in.
#[pyfunction]
pub(crate) fn own_pool() -> Option<Pool> {
    core::slots::current_pool().map(Pool)
}

/// Joins the pool in force by these values of the variables that can name one. The pool, or why it cannot
/// be joined; and whether the program has only the one slot that it was started on.
#[pyfunction]
pub(crate) fn join_pool(values: Vec<OsString>) -> (Option<Pool>, Option<String>, bool) {
    match Joined::by(InForce::by(values)) {
        Joined::Nothing => (None, None, false),
        Joined::Pool(pool) => (Some(Pool(pool)), None, false),
        Joined::Refused(why) => (None, Some(why), false),
        Joined::OutOfReach(why) => (None, Some(why), true),
        Joined::OneJob => (None, None, true),
    }
}

//! Pool: a pool of the core, for Python.

use crate::errors::to_python;
use jobserver_core as core;
use jobserver_core::make::variables::CHANGED;
use jobserver_core::make::{InForce, Joined};
use jobserver_core::platform::{self, Descriptor};
use jobserver_core::slots::{Assignment, Ends, Style};
use pyo3::prelude::*;
use pyo3::types::PyMapping;
use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::path::PathBuf;

#[pyclass(frozen, module = "jobserver._native")]
pub(crate) struct Pool(pub(crate) core::Pool);

pub(crate) fn duplicate(fd: RawFd) -> PyResult<Descriptor> {
    platform::duplicate(fd)
        .map_err(|e| to_python(core::Error::refused("cannot pass on a descriptor", e)))
}

/// Variables, and their values.
type Changes = Vec<(&'static str, OsString)>;

#[pymethods]
impl Pool {
    /// In a job without a slot: sets how many jobs are above it.
    fn set_depth(&self, depth: u16) {
        self.0.set_depth(depth);
    }

    /// A new pool, named in the "fifo" or "pipe" style; with None, in a style that the make on PATH
    /// accepts.
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

    /// The pool of another process, by its home.
    #[staticmethod]
    fn open(home: PathBuf) -> PyResult<Pool> {
        core::Pool::open(&home).map(Pool).map_err(to_python)
    }

    /// In a job of several slots: a pool of as many, for the programs below it. Returns also the
    /// variables that name it to them, by their values in `environ`, and the descriptors that they
    /// must inherit, if any.
    #[staticmethod]
    fn below_job(
        slots: usize,
        environ: &Bound<'_, PyMapping>,
    ) -> PyResult<(Pool, Changes, Option<Ends>)> {
        let (pool, ends) = core::Pool::below_job(slots).map_err(to_python)?;
        let mut existing = [const { None::<OsString> }; CHANGED.len()];
        for (name, value) in CHANGED.iter().zip(&mut existing) {
            if environ.contains(name)? {
                *value = Some(environ.get_item(name)?.extract()?);
            }
        }
        let named = pool.variables(existing.each_ref().map(Option::as_deref), ends);
        let changes = CHANGED.into_iter().zip(named);
        let changes = changes.filter_map(|(name, value)| Some((name, value?))).collect();
        Ok((Pool(pool), changes, ends))
    }

    /// The name of the pool in MAKEFLAGS.
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

    /// In a job: adopts the slot that it was launched on, if any, by the word in its launch. False
    /// if the slot was reclaimed meanwhile; then the job must not run.
    fn adopt(&self, word: u64) -> PyResult<bool> {
        self.0.adopt(Assignment::from_word(word)).map_err(to_python)
    }

    #[getter]
    fn slots(&self) -> usize {
        self.0.slots()
    }

    /// The number of free slots of the pool.
    fn free(&self) -> PyResult<usize> {
        self.0.free().map_err(to_python)
    }

    /// Reclaims the slots of processes that have ended. Returns whether there were any.
    fn reclaim(&self) -> bool {
        self.0.reclaim()
    }
}

/// In a job: the number of slots of its pool, the number of its own slot, and how many jobs are
/// above it.
#[pyfunction]
pub(crate) fn current_job() -> Option<(usize, Option<usize>, u16)> {
    let pool = core::slots::pool_of_this_job()?;
    Some((pool.slots(), pool.own_slot_number(), pool.depth()))
}

/// In a job: its pool.
#[pyfunction]
pub(crate) fn own_pool() -> Option<Pool> {
    core::slots::current_pool().map(Pool)
}

/// Joins the pool in force, by these values of the variables that can name one. Returns the pool,
/// or the reason why it cannot be joined; and whether the program has only its implicit slot.
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

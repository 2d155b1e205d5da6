//! Pool and Slot.

use crate::errors::to_python;
use jobserver_core as core;
use jobserver_core::slots::makeflags::{export, Auth};
use jobserver_core::slots::OwnSlot;
use jobserver_core::slots::{InForce, NotJoined};
use jobserver_core::sys;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::ffi::{OsStr, OsString};
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A pool, and the slot of it that this process itself runs on, if it is a job.
///
/// The lock is held neither while the GIL is let go of, nor while Python can be called.
#[pyclass(frozen, module = "jobserver._native")]
pub(crate) struct Pool {
    pub(crate) pool: core::Pool,
    own: Mutex<OwnSlot>,
}

impl From<core::Pool> for Pool {
    fn from(pool: core::Pool) -> Pool {
        Pool { pool, own: Mutex::default() }
    }
}

impl Pool {
    pub(crate) fn own(&self) -> MutexGuard<'_, OwnSlot> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In a new job: this is the slot that it runs on, or it runs without one.
    pub(crate) fn set_own(&self, slot: Option<core::Slot>) {
        *self.own() = slot.map(OwnSlot::new).unwrap_or_default();
    }
}

pub(crate) fn duplicate(fd: RawFd) -> PyResult<OwnedFd> {
    sys::duplicate(fd)
        .map_err(|e| to_python(core::Error::refused("cannot pass on a descriptor", e)))
}

#[pymethods]
impl Pool {
    #[new]
    fn new(slots: usize) -> PyResult<Pool> {
        core::Pool::new(slots).map(Pool::from).map_err(to_python)
    }

    /// The pool that another process has made, by its home.
    #[staticmethod]
    fn open(home: PathBuf) -> PyResult<Pool> {
        core::Pool::open(&home).map(Pool::from).map_err(to_python)
    }

    /// Joins the pool that MAKEFLAGS names in this way, of so many slots as far as it says.
    #[staticmethod]
    #[pyo3(signature = (auth, jobs))]
    fn join(auth: OsString, jobs: Option<usize>) -> PyResult<Pool> {
        let auth = Auth::parse(&auth).ok_or_else(|| PyValueError::new_err("no pool's name"))?;
        core::Pool::join_in_force(&auth, jobs).map(Pool::from).map_err(to_python)
    }

    /// How MAKEFLAGS names it.
    #[getter]
    fn auth(&self) -> OsString {
        self.pool.auth().to_os_string()
    }

    /// Removes its home, if this process made it: for the end of a process.
    fn remove_home(&self) {
        self.pool.remove_home();
    }

    /// The folder by which other processes can open it.
    #[getter]
    fn home(&self) -> &OsStr {
        self.pool.home().as_os_str()
    }

    /// Has MAKEFLAGS name descriptors in jobs, not the fifo.
    fn set_pipe_style(&self) {
        self.pool.set_pipe_style();
    }

    /// The descriptors for MAKEFLAGS to name, if it is to name any; opened for that.
    fn inheritable(&self) -> PyResult<Option<(RawFd, RawFd)>> {
        self.pool.inheritable().map_err(to_python)
    }

    /// MAKEFLAGS for a job, by what it is so far, naming these descriptors if there are any.
    #[pyo3(signature = (existing, fds))]
    fn makeflags(&self, existing: OsString, fds: Option<(RawFd, RawFd)>) -> OsString {
        let by_fds = fds.map(|(read, write)| Auth::Pipe { read, write });
        export(Some(&existing), by_fds.as_ref().unwrap_or(self.pool.auth()), self.pool.slots())
    }

    /// In a job: takes over the slot that it was launched on, by the word that came with its
    /// launch (0: none). False if it is no longer for us, when nothing may run.
    fn adopt(&self, word: u64) -> bool {
        let slot = self.pool.adopt(word);
        let adopted = word == 0 || slot.is_some();
        self.set_own(slot);
        adopted
    }

    /// Whether this process is a job with a slot that it could lend or hand over.
    #[getter]
    fn runs(&self) -> bool {
        self.own().runs()
    }

    /// Its own slot for a job of its own: on loan or, if it `yields`, for good. It must not
    /// go on before `Jobs.resume` says so.
    pub(crate) fn own_slot(&self, yields: bool) -> Option<Slot> {
        let slot = if yields { self.own().hand_over() } else { self.own().lend() };
        slot.map(Slot::own)
    }

    /// Gives the slot back that this process runs on, if any.
    fn release_own(&self) {
        self.own().release();
    }

    /// Puts back the slots of processes that have been killed: whether there were any.
    fn reclaim(&self) -> bool {
        self.pool.reclaim()
    }

    #[getter]
    fn slots(&self) -> usize {
        self.pool.slots()
    }

    fn free(&self) -> PyResult<usize> {
        self.pool.free().map_err(to_python)
    }

    fn try_take(&self) -> PyResult<Option<Slot>> {
        Ok(self.pool.try_take().map_err(to_python)?.map(Slot::free))
    }
}

/// The pool in force by these values of the variables that can name one: its name, how many
/// slots it has if that is said, and why it cannot be joined if that is clear.
#[pyfunction]
pub(crate) fn pool_in_force(
    values: Vec<OsString>,
) -> (Option<OsString>, Option<usize>, Option<String>) {
    match InForce::by(values) {
        InForce::Nothing => (None, None, None),
        InForce::Closed(why) => (None, None, Some(why.to_string())),
        InForce::Pool(auth, jobs) => {
            let name = auth.to_os_string();
            (Some(name), jobs, Some(NotJoined::Stale(auth).to_string()))
        }
    }
}

/// A slot on its way from the pool to a job; launching empties it, dropping gives it back.
#[pyclass(module = "jobserver._native")]
pub(crate) struct Slot {
    slot: Option<core::Slot>,
    /// It was this process's own: see `Jobs.resume`.
    #[pyo3(get)]
    own: bool,
}

impl Slot {
    pub(crate) fn free(slot: core::Slot) -> Slot {
        Slot { slot: Some(slot), own: false }
    }

    pub(crate) fn own(slot: core::Slot) -> Slot {
        Slot { slot: Some(slot), own: true }
    }
}

#[pymethods]
impl Slot {
    /// Gives it back now, unless a job has it.
    fn release(&mut self) {
        self.slot = None;
    }
}

pub(crate) fn take(slot: Option<&Bound<'_, Slot>>) -> Option<core::Slot> {
    slot.and_then(|slot| slot.borrow_mut().slot.take())
}

//! Pool and Slot.

use crate::errors::to_python;
use jobserver_core as core;
use jobserver_core::sys;
use pyo3::prelude::*;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

#[pyclass(frozen, module = "jobserver._native")]
pub(crate) struct Pool(pub(crate) core::Pool);

pub(crate) fn duplicate(fd: RawFd) -> PyResult<OwnedFd> {
    sys::duplicate(fd)
        .map_err(|e| to_python(core::Error::refused("cannot pass on a descriptor", e)))
}

#[pymethods]
impl Pool {
    #[new]
    fn new(slots: usize) -> PyResult<Pool> {
        core::Pool::new(slots).map(Pool).map_err(to_python)
    }

    /// The pool whose pipe's ends are these descriptors, which stay the caller's.
    #[staticmethod]
    fn join(read: RawFd, write: RawFd, slots: usize) -> PyResult<Pool> {
        core::Pool::join(duplicate(read)?, duplicate(write)?, slots).map(Pool).map_err(to_python)
    }

    #[getter]
    fn slots(&self) -> usize {
        self.0.slots()
    }

    fn free(&self) -> PyResult<usize> {
        self.0.free().map_err(to_python)
    }

    fn descriptors(&self) -> (RawFd, RawFd) {
        (self.0.read_end().as_raw_fd(), self.0.write_end().as_raw_fd())
    }

    fn try_take(&self) -> PyResult<Option<Slot>> {
        Ok(self.0.try_take().map_err(to_python)?.map(|slot| Slot(Some(slot))))
    }
}

/// A slot on its way from the pool to a job; launching empties it, dropping gives it back.
#[pyclass(module = "jobserver._native")]
pub(crate) struct Slot(pub(crate) Option<core::Slot>);

#[pymethods]
impl Slot {
    /// Gives it back now, unless a job has it.
    fn release(&mut self) {
        self.0 = None;
    }
}

pub(crate) fn take(slot: Option<&Bound<'_, Slot>>) -> Option<core::Slot> {
    slot.and_then(|slot| slot.borrow_mut().0.take())
}

//! Readiness: the descriptor by which an event loop waits for an owner.

use crate::admission::Admission;
use crate::errors::to_python;
use crate::owner::Owner;
use crate::waiting::PyLook;
use jobserver_core as core;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use std::os::fd::AsRawFd;

/// A descriptor that is readable whenever a call has something to do. Call `rise` before the last
/// reference goes.
#[pyclass(module = "jobserver._native")]
pub(crate) struct Readiness {
    owner: Py<Owner>,
    readiness: core::owner::Readiness,
    /// The submission that waits for slots during this rest.
    admission: Option<Py<Admission>>,
}

#[pymethods]
impl Readiness {
    /// NotImplementedError if the system has no such descriptor.
    #[new]
    fn new(owner: Bound<'_, Owner>) -> PyResult<Readiness> {
        let readiness = owner.get().owner.readiness().map_err(to_python)?;
        Ok(Readiness { owner: owner.unbind(), readiness, admission: None })
    }

    fn fileno(&self) -> i32 {
        self.readiness.descriptor().as_raw_fd()
    }

    /// From now on the descriptor is readable if something has changed since that look, if callbacks
    /// are due, if the submission of `admission` may be admitted, and after so many `seconds`.
    #[pyo3(signature = (look, admission, seconds))]
    fn rest(
        &mut self,
        py: Python<'_>,
        look: &PyLook,
        admission: Option<Bound<'_, Admission>>,
        seconds: Option<f64>,
    ) -> PyResult<()> {
        self.rise(py)?;
        let owner = self.owner.bind(py).get();
        let place = match &admission {
            Some(admission) => {
                let known = admission.try_borrow()?;
                (known.consume > 0).then_some((known.consume, known.turn))
            }
            None => None,
        };
        self.admission = admission.map(Bound::unbind);
        let slots = place.as_ref().map(|(needs, turn)| (*needs, turn));
        Ok(owner.owner.rest(&owner.host(py), &mut self.readiness, look.0, slots, seconds)?)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.owner)?;
        visit.call(&self.admission)
    }

    /// Ends the rest: the submission keeps its place in the queue for another way to wait.
    fn rise(&mut self, py: Python<'_>) -> PyResult<()> {
        let turn = self.owner.bind(py).get().owner.rise(&mut self.readiness);
        if let Some(admission) = self.admission.take() {
            admission.bind(py).try_borrow_mut()?.turn = turn;
        }
        Ok(())
    }
}

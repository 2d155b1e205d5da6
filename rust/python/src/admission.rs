//! Admission: a submission on its way to a slot, and what a call for it has come to.

use jobserver_core::owner::Admitted;
use pyo3::prelude::*;

/// The job is started; or, of other calls, what was asked for has come to pass. False in Python.
pub(crate) const STARTED: u8 = 0;
/// Some callbacks are due: issue them, and call again.
pub(crate) const DUE: u8 = 1;
/// The time is up.
pub(crate) const TIMED_OUT: u8 = 2;
/// The job is admitted, and no worker is idle: hire one.
pub(crate) const NO_WORKER: u8 = 3;

/// Made for one submission. The slot that it has come to is given back by `Owner.conclude`, unless a job
/// has it.
#[pyclass(module = "jobserver._native")]
pub(crate) struct Admission {
    pub(crate) consume: bool,
    pub(crate) callbacks: bool,
    /// How many seconds are left.
    #[pyo3(set)]
    pub(crate) timeout: Option<f64>,
    pub(crate) is_over: bool,
    pub(crate) admitted: Admitted,
}

#[pymethods]
impl Admission {
    /// For a job that takes a slot if it is to `consume` one. `callbacks` says whether the wait is to end
    /// when some are due.
    #[new]
    #[pyo3(signature = (consume, callbacks, timeout))]
    fn new(consume: bool, callbacks: bool, timeout: Option<f64>) -> Admission {
        let admitted = Admitted::default();
        Admission { consume, callbacks, timeout, is_over: false, admitted }
    }
}

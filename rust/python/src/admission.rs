//! Admission: a submission that gets a slot, and the results of the calls for it.

use jobserver_core::owner::Admitted;
use jobserver_core::slots::PausedTurn;
use pyo3::prelude::*;

/// The job has started; for other calls, the event has happened. False in Python.
pub(crate) const STARTED: u8 = 0;
/// Some callbacks are due: run them, and call again.
pub(crate) const DUE: u8 = 1;
/// The time is over.
pub(crate) const TIMED_OUT: u8 = 2;
/// The job is admitted, and no worker is idle: hire one.
pub(crate) const NO_WORKER: u8 = 3;

/// The admission of one submission. `Owner.conclude` gives its slot back, unless a job has it.
#[pyclass(module = "jobserver._native")]
pub(crate) struct Admission {
    pub(crate) consume: bool,
    pub(crate) callbacks: bool,
    /// The seconds that are left.
    #[pyo3(set)]
    pub(crate) timeout: Option<f64>,
    pub(crate) is_over: bool,
    pub(crate) admitted: Admitted,
    /// Its place among the waiters of the pool.
    pub(crate) turn: PausedTurn,
}

#[pymethods]
impl Admission {
    /// For a job that takes a slot if `consume`. `callbacks` says whether the wait ends when
    /// callbacks are due.
    #[new]
    #[pyo3(signature = (consume, callbacks, timeout))]
    fn new(consume: bool, callbacks: bool, timeout: Option<f64>) -> Admission {
        let admitted = Admitted::default();
        Admission {
            consume,
            callbacks,
            timeout,
            is_over: false,
            admitted,
            turn: PausedTurn::default(),
        }
    }
}

//! The start of a job by an owner: its admission, and its launch on a worker.

use crate::admission::{Admission, FirstJob, NO_WORKER, STARTED};
use crate::host::Raised;
use crate::owner::Owner;
use crate::promise::Promise;
use jobserver_core::owner::{First, Started};
use pyo3::prelude::*;

impl Owner {
    /// Records that a job has started, and concludes its admission.
    pub(crate) fn begun(
        &self,
        future: &Bound<'_, Promise>,
        admission: &mut Admission,
        started: Started,
    ) -> PyResult<u8> {
        future.get().begun(started.pid, started.id);
        self.owner.conclude(&self.host(future.py()), &mut admission.admitted)?;
        Ok(STARTED)
    }

    /// Admits a job, if there is one, and launches it by `launch`: `STARTED`, or the reason why it
    /// did not start.
    pub(crate) fn start(
        &self,
        job: Option<FirstJob<'_>>,
        launch: impl FnOnce(Option<First<'_, Py<Promise>>>) -> Result<Option<Started>, Raised>,
    ) -> PyResult<u8> {
        let Some((future, admission, payload, descriptors)) = job else {
            launch(None)?;
            return Ok(STARTED);
        };
        let mut admission = admission.try_borrow_mut()?;
        let state = admission.obtain(&self.owner, &self.host(future.py()))?;
        if state != STARTED {
            return Ok(state);
        }
        let descriptors = descriptors.get().held();
        let started = launch(Some(First {
            slot: &mut admission.admitted.slot,
            message: payload.with(&descriptors),
            job: &|| future.clone().unbind(),
        }))?;
        match started {
            Some(started) => self.begun(&future, &mut admission, started),
            None => Ok(NO_WORKER),
        }
    }
}

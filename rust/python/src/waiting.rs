//! What a thread passes from one wait to the next: the state that it has seen, and its place in the
//! queue of waiters. And the wait of a thread that handles the outcome itself.

use crate::admission::Admission;
use crate::owner_host::OwnersInterpreter;
use crate::promise::Promise;
use jobserver_core::owner::Look;
use jobserver_core::slots::PausedTurn;
use pyo3::prelude::*;

/// The state that a thread has seen, for `Owner.wait`.
#[pyclass(frozen, name = "Look", module = "jobserver._native")]
pub(crate) struct PyLook(pub(crate) Look);

/// Calls `wait` with the slots that an admission needs, and its place in the queue, which the wait may
/// change. The admission is not borrowed meanwhile: a signal handler may use it.
pub(crate) fn with_turn(
    admission: Option<&Bound<'_, Admission>>,
    wait: impl FnOnce(Option<(usize, &mut PausedTurn)>) -> PyResult<()>,
) -> PyResult<()> {
    let known = admission.map(|it| it.try_borrow()).transpose()?;
    let (needs, mut turn) = known.map_or_else(Default::default, |it| (it.consume, it.turn));
    let waited = wait((needs > 0).then_some((needs, &mut turn)));
    if let Some(admission) = admission {
        admission.try_borrow_mut()?.turn = turn;
    }
    waited
}

/// Waits for a job, and then calls `handle`. The thread in `wait_beside` hears of the job only if
/// `handle` returns False, or if anything raises, perhaps after the outcome was received: no signal
/// handler runs between the steps here. Returns whether the job has finished.
pub(crate) fn for_own(
    owner: &jobserver_core::Owner<Py<Promise>>,
    host: &OwnersInterpreter<'_, '_>,
    promise: &Promise,
    timeout: Option<f64>,
    handle: &Bound<'_, PyAny>,
) -> PyResult<bool> {
    let waited = owner.wait_for_own(host, promise.job(), || promise.is_done(), timeout);
    let handled = match waited {
        Ok(true) => handle.call0().and_then(|handled| handled.is_truthy()),
        Ok(false) => return Ok(false),
        Err(e) => Err(e.into()),
    };
    if !matches!(handled, Ok(true)) {
        owner.wake();
    }
    handled.map(|_| true)
}

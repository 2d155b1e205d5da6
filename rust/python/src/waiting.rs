//! What a thread passes from one wait to the next: the state that it has seen, and its place in the
//! queue of waiters.

use crate::admission::Admission;
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

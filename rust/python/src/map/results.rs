//! Results: the iterator over the results of `map`'s calls. Not here: how the results of a chunk
//! are made (`_map/results.py`).

use crate::upcalls;
use pyo3::exceptions::{PyRuntimeError, PyStopIteration};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::pyclass::PyClassGuardMut;
use pyo3::types::{PyDict, PyList, PyTuple};
use std::collections::VecDeque;

/// An iterator over results that are there. When they have all been taken, it calls `_more` of its
/// subclass, which calls `_serve` with more results, or returns False at the end.
///
/// The class is not frozen. A frozen class would need a Mutex, which costs one atomic step more for
/// each result than a borrow.
#[pyclass(subclass, module = "jobserver._native")]
#[derive(Default)]
pub(crate) struct Results {
    values: std::vec::IntoIter<Py<PyAny>>,
    taken: usize,
    /// The exceptions to raise instead of values, with the indexes of their calls, in order.
    errors: VecDeque<(usize, Py<PyAny>)>,
    /// The chunk whose results these are.
    of: Option<Py<PyAny>>,
}

#[pymethods]
impl Results {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Results {
        Results::default()
    }

    /// From now on the iterator returns these results `of` a chunk. This is one step, in which no
    /// signal handler runs. Earlier results are dropped.
    #[pyo3(signature = (of, values, errors))]
    fn _serve(
        this: &Bound<'_, Self>,
        of: Option<Py<PyAny>>,
        values: &Bound<'_, PyList>,
        errors: Vec<(usize, Py<PyAny>)>,
    ) -> PyResult<()> {
        let values: Vec<_> = values.iter().map(Bound::unbind).collect();
        let ready = Results { values: values.into_iter(), taken: 0, errors: errors.into(), of };
        let before = std::mem::replace(&mut *Results::borrowed(this)?, ready);
        drop(before); // not while it is borrowed: the drop may run code
        Ok(())
    }

    /// The chunk whose results it returns, or returned last.
    #[getter]
    fn _served(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.of.as_ref().map(|of| of.clone_ref(py))
    }

    /// The number of results that are there.
    #[getter]
    fn _ready(&self) -> usize {
        self.values.len()
    }

    fn __iter__(this: Bound<'_, Self>) -> Bound<'_, Self> {
        this
    }

    fn __next__(this: &Bound<'_, Self>) -> PyResult<Option<Py<PyAny>>> {
        loop {
            if let Some(next) = Results::borrowed(this)?.take() {
                let raised = |error: Py<PyAny>| PyErr::from_value(error.into_bound(this.py()));
                return next.map(Some).map_err(|error| not_the_end(this.py(), raised(error)));
            }
            let more = upcalls::more(this);
            if !more.map_err(|error| not_the_end(this.py(), error))? {
                return Ok(None);
            }
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.values.as_slice().iter().try_for_each(|value| visit.call(value))?;
        self.errors.iter().try_for_each(|(_, error)| visit.call(error))?;
        visit.call(&self.of)
    }

    fn __clear__(&mut self) {
        *self = Results::default();
    }
}

/// The error that `next` raises. StopIteration becomes the cause of another error, because the
/// caller would take it for the end.
fn not_the_end(py: Python<'_>, error: PyErr) -> PyErr {
    if !error.is_instance_of::<PyStopIteration>(py) {
        return error;
    }
    let told = PyRuntimeError::new_err(
        "a call of map, or a function around it, raised StopIteration, which would end the \
         results: it is the cause of this error",
    );
    told.set_cause(py, Some(error));
    told
}

impl Results {
    fn borrowed<'a>(this: &'a Bound<'_, Self>) -> PyResult<PyClassGuardMut<'a, Self>> {
        Ok(PyClassGuardMut::try_from(this)?)
    }

    /// The next result, or the exception that its call raised.
    fn take(&mut self) -> Option<Result<Py<PyAny>, Py<PyAny>>> {
        let value = self.values.next()?;
        let place = self.taken;
        self.taken += 1;
        match self.errors.front() {
            // The value is None then, and may be dropped here.
            Some((raised, _)) if *raised == place => {
                self.errors.pop_front().map(|(_, error)| Err(error))
            }
            _ => Some(Ok(value)),
        }
    }
}

//! The loop over a chunk's calls in the job. It costs time for each call, so it must be fast. It
//! makes each call, and records it (Progress).

use crate::channel::Descriptors;
use crate::errors::to_python;
use crate::job::limit_time;
use crate::upcalls;
use jobserver_core as core;
use jobserver_core::platform::{end_after, TimeLimit};
use jobserver_core::worker::Clock;
use pyo3::exceptions::{PyException, PyRuntimeError, PySystemExit};
use pyo3::prelude::*;
use pyo3::type_object::PyTypeInfo;
use pyo3::types::{PyDict, PyIterator, PyList, PyTuple};
use std::time::{Duration, Instant};

/// The call that each running chunk is in.
#[pyclass(frozen, subclass, module = "jobserver._native")]
pub(crate) struct Progress(pub(crate) core::wire::Progress);

/// The values that calls returned, None for calls that raised; the exceptions, with the indexes of
/// their calls; the seconds that all calls took together.
type Made<'py> = (Bound<'py, PyList>, Vec<(usize, Py<PyAny>)>, f64);

#[pymethods]
impl Progress {
    #[new]
    fn new(places: usize) -> PyResult<Progress> {
        core::wire::Progress::new(places).map(Progress).map_err(to_python)
    }

    /// In a job: the owner's Progress, by the first descriptor that came with the launch.
    #[staticmethod]
    fn open(came: &Bound<'_, Descriptors>) -> PyResult<Progress> {
        core::wire::Progress::open(came.get().at(0)?).map(Progress).map_err(to_python)
    }

    /// Tells it from all others that exist.
    #[getter]
    fn inode(&self) -> Option<u64> {
        self.0.file().inode()
    }

    /// Whether it can still be sent to jobs: no code has closed its descriptor.
    #[getter]
    fn is_intact(&self) -> bool {
        self.0.file().is_intact()
    }

    /// Clears a place, before a job with this place is started.
    fn clear(&self, place: usize) -> PyResult<()> {
        self.0.clear(place).map_err(to_python)
    }

    /// The call that a job is in, or died in; None if it is in no call.
    fn running(&self, place: usize) -> PyResult<Option<u64>> {
        self.0.running(place).map_err(to_python)
    }

    /// Makes `count` calls, one after the other. Ends early when they have taken more than `limit`
    /// seconds, and after a call that raised an exception that is not an Exception (above all
    /// KeyboardInterrupt). SystemExit ends the process, and so does a call that takes more than
    /// `time_limit` seconds.
    #[pyo3(signature = (place, function, argses, kwargses, count, limit, time_limit))]
    #[allow(clippy::too_many_arguments)] // as Python calls it
    fn run<'py>(
        &self,
        place: usize,
        function: &Bound<'py, PyAny>,
        argses: &Bound<'py, PyAny>,
        kwargses: Option<&Bound<'py, PyAny>>,
        count: usize,
        limit: f64,
        time_limit: Option<f64>,
    ) -> PyResult<Made<'py>> {
        let py = function.py();
        let (mut values, mut raised) = (Vec::with_capacity(count), Vec::new());
        let mut kwargses = kwargses.map(|kwargses| kwargses.try_iter()).transpose()?;
        let begun = Instant::now();
        let mut clock = Clock::default();
        let mut argses = argses.try_iter()?;
        for call in 0..count {
            self.0.begin(place, call as u64).map_err(to_python)?;
            let is_to_be_read = clock.is_to_be_read();
            // Between calls of a function that is written in C, nothing else runs signal handlers.
            let heard = if is_to_be_read { py.check_signals() } else { Ok(()) };
            let limited = heard.and_then(|()| limit_time(time_limit));
            let made = limited.and_then(|limited| {
                let made = make(function, &mut argses, kwargses.as_mut());
                limited.into_iter().for_each(lift);
                made
            });
            match made {
                Ok(value) => values.push(value),
                Err(e) if e.is_instance_of::<PySystemExit>(py) => return Err(e),
                Err(e) => {
                    let ends = !e.is_instance_of::<PyException>(py);
                    values.push(py.None().into_bound(py));
                    raised.push((call, e.into_value(py).into_any()));
                    if ends {
                        break;
                    }
                }
            }
            if is_to_be_read && clock.read(begun) > limit {
                break;
            }
        }
        let seconds = begun.elapsed().as_secs_f64();
        self.0.end(place).map_err(to_python)?;
        Ok((PyList::new(py, values)?, raised, seconds))
    }
}

/// After a call: removes its limit. If the call has taken too long, this process ends, so that the
/// call that is recorded is this one. (The old limit may have been removed just after its time, so a
/// new one ends the process.)
fn lift(limit: TimeLimit) {
    if limit.lift() {
        return;
    }
    loop {
        let _stays_in_force = end_after(Duration::ZERO);
        std::thread::park_timeout(Duration::from_secs(2));
    }
}

/// Makes one call.
fn make<'py>(
    function: &Bound<'py, PyAny>,
    argses: &mut Bound<'py, PyIterator>,
    kwargses: Option<&mut Bound<'py, PyIterator>>,
) -> PyResult<Bound<'py, PyAny>> {
    let args: Bound<'py, PyTuple> = row(argses.next(), "positional")?;
    match kwargses {
        None => function.call1(args),
        Some(kwargses) => function.call(args, Some(&row::<PyDict>(kwargses.next(), "keywords")?)),
    }
}

/// One call's arguments; if they have another type, this function of the package converts them.
fn row<'py, T: PyTypeInfo>(
    next: Option<PyResult<Bound<'py, PyAny>>>,
    converter: &str,
) -> PyResult<Bound<'py, T>> {
    let next = next.unwrap_or_else(|| {
        Err(PyRuntimeError::new_err("the list of arguments became shorter while map read it"))
    })?;
    // Rows that are made of columns have exactly this type, which is quicker to check.
    match next.cast_into_exact::<T>().or_else(|other| other.into_inner().cast_into::<T>()) {
        Ok(row) => Ok(row),
        Err(other) => {
            let other = other.into_inner();
            Ok(upcalls::converted_arguments(other, converter)?.cast_into::<T>()?)
        }
    }
}

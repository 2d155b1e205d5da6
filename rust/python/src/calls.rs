//! What `map` does for each call, and so must cost little: in the job, to make it and say so
//! (Progress); in the owner, to hand out its result (Ready). What is done for each chunk of
//! calls is Python's: `_map.py`.

use crate::errors::to_python;
use crate::wire::{number, Descriptors};
use jobserver_core as core;
use pyo3::exceptions::{PyException, PyRuntimeError, PyStopIteration, PySystemExit};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pyclass::PyClassGuardMut;
use pyo3::type_object::PyTypeInfo;
use pyo3::types::{PyDict, PyIterator, PyList, PyTuple};
use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::time::Instant;

/// Which of its calls each chunk in flight is at.
#[pyclass(frozen, subclass, module = "jobserver._native")]
pub(crate) struct Progress(core::wire::Progress);

/// What calls have returned, None where they have raised; what they have raised, and which
/// they were; how many seconds they took together.
type Made<'py> = (Bound<'py, PyList>, Vec<(usize, Py<PyAny>)>, f64);

#[pymethods]
impl Progress {
    #[new]
    fn new(places: usize) -> PyResult<Progress> {
        core::wire::Progress::new(places).map(Progress).map_err(to_python)
    }

    /// In a job: the owner's, by the descriptor at this place among those that have come.
    #[staticmethod]
    fn open(came: &Bound<'_, Descriptors>, place: usize) -> PyResult<Progress> {
        core::wire::Progress::open(came.get().at(place)?).map(Progress).map_err(to_python)
    }

    fn fileno(&self) -> PyResult<RawFd> {
        number(self.0.as_descriptor())
    }

    /// Before a job is started that is to have this place.
    fn clear(&self, place: usize) -> PyResult<()> {
        self.0.clear(place).map_err(to_python)
    }

    /// The call that a job is in, or died in; None if it is in none.
    fn running(&self, place: usize) -> PyResult<Option<u64>> {
        self.0.running(place).map_err(to_python)
    }

    /// Makes so many calls, one after the other. Ends early when they have taken more than `limit`
    /// seconds, and after one that has raised what is no Exception (KeyboardInterrupt, above
    /// all); SystemExit is to end the process.
    #[pyo3(signature = (place, function, argses, kwargses, count, limit))]
    fn run<'py>(
        &self,
        place: usize,
        function: &Bound<'py, PyAny>,
        argses: &Bound<'py, PyAny>,
        kwargses: Option<&Bound<'py, PyAny>>,
        count: usize,
        limit: f64,
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
            // Between calls of a function that is written in C, nobody else would.
            let heard = if is_to_be_read { py.check_signals() } else { Ok(()) };
            match heard.and_then(|()| make(function, &mut argses, kwargses.as_mut())) {
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

/// Spares short calls the reading of the clock, which would take as long as they do: it is read
/// about as often as it takes a hundredth of the time (50 ns, in a virtual machine).
#[derive(Default)]
struct Clock {
    skip: u32,
    skipped: u32,
    seen: f64,
}

/// How often the clock is read, in seconds, and between how many calls at most: the next may be
/// slow.
const READ_EACH: f64 = 5e-6;
const MOST_SKIPPED: u32 = 15;

impl Clock {
    fn is_to_be_read(&mut self) -> bool {
        let skips = self.skipped < self.skip;
        self.skipped += u32::from(skips);
        !skips
    }

    /// The seconds since then.
    fn read(&mut self, begun: Instant) -> f64 {
        let seconds = begun.elapsed().as_secs_f64();
        let calls = f64::from(self.skipped + 1);
        let fitting = READ_EACH * calls / (seconds - self.seen).max(1e-9);
        // It at most doubles, since a few calls may be quicker than most.
        self.skip = (fitting as u32).min(2 * self.skip + 1).min(MOST_SKIPPED);
        self.skipped = 0;
        self.seen = seconds;
        seconds
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

/// One call's arguments, as they are or made so by this function of the package's.
fn row<'py, T: PyTypeInfo>(
    next: Option<PyResult<Bound<'py, PyAny>>>,
    converter: &str,
) -> PyResult<Bound<'py, T>> {
    let next = next.unwrap_or_else(|| {
        Err(PyRuntimeError::new_err("the list of arguments became shorter while map read it"))
    })?;
    // What columns give is just that, which is quicker to see.
    match next.cast_into_exact::<T>().or_else(|other| other.into_inner().cast_into::<T>()) {
        Ok(row) => Ok(row),
        Err(other) => {
            let other = other.into_inner();
            let arguments = other.py().import("jobserver._arguments")?;
            Ok(arguments.call_method1(converter, (other,))?.cast_into::<T>()?)
        }
    }
}

/// An iterator over results that are there. When they have all been taken, its subclass's
/// `_more` is to `_serve` others; the end is when it returns False.
///
/// Not frozen, though it would take a Mutex then: a borrow is cheaper by one atomic step for each
/// result.
#[pyclass(subclass, module = "jobserver._native")]
#[derive(Default)]
pub(crate) struct Ready {
    values: std::vec::IntoIter<Py<PyAny>>,
    taken: usize,
    /// What is to be raised instead of which value, in order.
    errors: VecDeque<(usize, Py<PyAny>)>,
    /// What they are the results of.
    of: Option<Py<PyAny>>,
}

#[pymethods]
impl Ready {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Ready {
        Ready::default()
    }

    /// Hands these out from now on, the results `of` something, in one step that no signal
    /// handler comes into. What was there before is dropped.
    #[pyo3(signature = (of, values, errors))]
    fn _serve(
        this: &Bound<'_, Self>,
        of: Option<Py<PyAny>>,
        values: &Bound<'_, PyList>,
        errors: Vec<(usize, Py<PyAny>)>,
    ) -> PyResult<()> {
        let values: Vec<_> = values.iter().map(Bound::unbind).collect();
        let ready = Ready { values: values.into_iter(), taken: 0, errors: errors.into(), of };
        let before = std::mem::replace(&mut *Ready::borrowed(this)?, ready);
        drop(before); // not while it is borrowed: this may run code
        Ok(())
    }

    /// What it hands out, or has handed out, the results of.
    #[getter]
    fn _served(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.of.as_ref().map(|of| of.clone_ref(py))
    }

    fn __iter__(this: Bound<'_, Self>) -> Bound<'_, Self> {
        this
    }

    fn __next__(this: &Bound<'_, Self>) -> PyResult<Option<Py<PyAny>>> {
        loop {
            if let Some(next) = Ready::borrowed(this)?.take() {
                let raised = |error: Py<PyAny>| PyErr::from_value(error.into_bound(this.py()));
                return next.map(Some).map_err(|error| not_the_end(this.py(), raised(error)));
            }
            let more = this.call_method0(intern!(this.py(), "_more"));
            if !more.map_err(|error| not_the_end(this.py(), error))?.is_truthy()? {
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
        *self = Ready::default();
    }
}

/// What `next` is to raise for an error that whoever iterates would take for the end.
fn not_the_end(py: Python<'_>, error: PyErr) -> PyErr {
    if !error.is_instance_of::<PyStopIteration>(py) {
        return error;
    }
    let told = PyRuntimeError::new_err(
        "a call of map, or what belongs to it, raised StopIteration: as that would end the \
         results, it is the cause of this error",
    );
    told.set_cause(py, Some(error));
    told
}

impl Ready {
    fn borrowed<'a>(this: &'a Bound<'_, Self>) -> PyResult<PyClassGuardMut<'a, Self>> {
        Ok(PyClassGuardMut::try_from(this)?)
    }

    /// The next result, or what its call has raised.
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

//! The outcome of a job in Python: a message, a Death, or an exception.

use crate::channel::body_to_python;
use crate::death::Death;
use crate::errors::to_python;
use crate::promise::Promise;
use jobserver_core::Outcome;
use pyo3::prelude::*;

pub(crate) fn outcome_to_python(
    future: &Bound<'_, Promise>,
    outcome: Outcome,
) -> PyResult<Py<PyAny>> {
    let py = future.py();
    match outcome {
        Outcome::Result(body) => body_to_python(py, body),
        Outcome::Ended(status, last_words) => {
            let words =
                last_words.map(|words| words.into_bytes().map_err(to_python)).transpose()?;
            let words = words.map(|words| String::from_utf8_lossy(&words).into_owned());
            let death = Death::new(status, future.get().exceeded_limit(status), words);
            Ok(Bound::new(py, death)?.into_any().unbind())
        }
        Outcome::Lost(error) => Ok(to_python(error).into_value(py).into_any()),
    }
}

//! Death: the end of a job that sent no result.

use jobserver_core::ExitStatus;
use pyo3::prelude::*;

/// The facts of a death. `_death.py` makes the exception.
#[pyclass(frozen, get_all, module = "jobserver._native")]
pub(crate) struct Death {
    exitcode: Option<i32>,
    signal: Option<i32>,
    text: String,
    /// The time limit in seconds, if the job was killed because it ran for longer.
    time_limit: Option<f64>,
    /// The job's last words.
    last_words: Option<String>,
}

impl Death {
    pub(crate) fn new(
        status: ExitStatus,
        time_limit: Option<f64>,
        last_words: Option<String>,
    ) -> Death {
        let (exitcode, signal) = match status {
            ExitStatus::Code(code) => (Some(code), None),
            ExitStatus::Signal(signal) | ExitStatus::Overdue(signal) => (None, Some(signal)),
            ExitStatus::Unknown => (None, None),
        };
        Death { exitcode, signal, text: status.to_string(), time_limit, last_words }
    }
}

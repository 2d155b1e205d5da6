//! Converts errors of the core to Python exceptions, all in this file.

use jobserver_core::{Error, ErrorKind};
use pyo3::exceptions::{PyNotImplementedError, PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;

pyo3::create_exception!(
    jobserver._native,
    ForkServerGone,
    PyRuntimeError,
    "The fork server was killed, or has ended; starting a new one is the remedy."
);

pyo3::create_exception!(
    jobserver._native,
    Elsewhere,
    PyRuntimeError,
    "The pool belongs to another pid or time namespace than this process."
);

/// For `map_err`. If the system refused, an OSError with its number, from which Python chooses the
/// subclass. If it is the caller's fault, a ValueError.
pub(crate) fn to_python(error: Error) -> PyErr {
    let message = error.to_string();
    match (error.kind(), error.raw_os_error()) {
        (ErrorKind::InvalidInput, _) => PyValueError::new_err(message),
        (ErrorKind::Unsupported, _) => PyNotImplementedError::new_err(message),
        (ErrorKind::Elsewhere, _) => Elsewhere::new_err(message),
        (ErrorKind::ForkServerGone, _) => ForkServerGone::new_err(message),
        (_, Some(errno)) => PyOSError::new_err((errno, message)),
        _ => PyRuntimeError::new_err(message),
    }
}

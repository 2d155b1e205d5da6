//! Plain objects: small ones that every pickler pickles alike, so the quickest serves them. Not here:
//! the pickling (`_wire/pickling.py`).

use crate::map::calls::Progress;
use crate::upcalls;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyCFunction, PyFloat, PyInt, PyList, PyString, PyTuple};

/// So many characters or bytes have the weight of one value.
const LENGTH: usize = 64;

/// Whether an object is of a type that needs none of multiprocessing's reducers, or a tuple or list
/// of such objects, and no heavier than so many short values. (A list that contains itself is
/// heavier than any weight.)
#[pyfunction]
pub(crate) fn is_plain(object: &Bound<'_, PyAny>, mut weight: usize) -> PyResult<bool> {
    takes(object, &mut weight)
}

/// Takes the weight of an object from what is left. False if that is too little, or the object is
/// not plain.
fn takes(object: &Bound<'_, PyAny>, left: &mut usize) -> PyResult<bool> {
    let mut own = 1;
    if object.is_exact_instance_of::<PyString>() || object.is_exact_instance_of::<PyBytes>() {
        own += object.len()? / LENGTH;
    } else if let Ok(tuple) = object.cast_exact::<PyTuple>() {
        return Ok(tuple.len() <= *left && each_takes(tuple.iter(), left)?);
    } else if let Ok(list) = object.cast_exact::<PyList>() {
        return Ok(list.len() <= *left && each_takes(list.iter(), left)?);
    } else if !is_plain_by_itself(object)? {
        return Ok(false);
    }
    let enough = own <= *left;
    *left = left.saturating_sub(own);
    Ok(enough)
}

fn each_takes<'py>(
    objects: impl Iterator<Item = Bound<'py, PyAny>>,
    left: &mut usize,
) -> PyResult<bool> {
    *left = left.saturating_sub(1); // the container's own
    for each in objects {
        if !takes(&each, left)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_plain_by_itself(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    Ok(object.is_exact_instance_of::<PyInt>()
        || object.is_exact_instance_of::<PyFloat>()
        || object.is_none()
        || object.is_exact_instance_of::<PyBool>()
        || object.is_exact_instance_of::<PyCFunction>()
        || object.is_instance_of::<Progress>()
        || object.get_type().is(upcalls::function_type(object.py())?))
}

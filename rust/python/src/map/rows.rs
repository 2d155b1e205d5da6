//! The arguments of `map`'s calls, as they are read for a chunk. A *row* has the arguments of one
//! call. Rows that are tuples of one length are kept as *columns*, a list for each argument.
//!
//! So few objects are kept that the garbage collector visits, one pickle holds a chunk, and an
//! iterator that uses one tuple for all rows (`zip`) can do so. Not here: what a chunk is
//! (`_map/chunk.py`), and the exceptions that an input raises (`_map/input.py`).

use crate::upcalls;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyIterator, PyList, PyString, PyTuple};

/// Takes rows from `source` until there are `size`, or `source` ends. Appends them to `columns`.
/// Appends them to `rows` instead from the first row on that is empty, has another length than
/// those before, or is not iterable; the call of such a row reports it. If `source` raises, the
/// rows taken before stay there.
#[pyfunction]
pub(crate) fn take_rows(
    source: &Bound<'_, PyIterator>,
    size: usize,
    columns: &Bound<'_, PyList>,
    rows: &Bound<'_, PyList>,
) -> PyResult<()> {
    let mut taken = Taken::new(columns, rows)?;
    let mut source = source.clone();
    while taken.count < size {
        let Some(row) = source.next() else { break };
        taken.push(&row?)?;
        taken.count += 1;
    }
    Ok(())
}

struct Taken<'a, 'py> {
    count: usize,
    /// The lists of `columns`; empty before the first row, and if rows are kept as rows.
    lists: Vec<Bound<'py, PyList>>,
    columns: &'a Bound<'py, PyList>,
    rows: &'a Bound<'py, PyList>,
}

impl<'a, 'py> Taken<'a, 'py> {
    fn new(columns: &'a Bound<'py, PyList>, rows: &'a Bound<'py, PyList>) -> PyResult<Self> {
        let lists: Vec<Bound<'py, PyList>> =
            columns.iter().map(|column| column.cast_into()).collect::<Result<_, _>>()?;
        let count = lists.first().map_or(rows.len(), PyListMethods::len);
        Ok(Taken { count, lists, columns, rows })
    }

    fn push(&mut self, row: &Bound<'py, PyAny>) -> PyResult<()> {
        if let Ok(row) = row.cast_exact::<PyTuple>() {
            return self.push_tuple(row);
        }
        match read(row) {
            Ok(Some(row)) => self.push_tuple(&row),
            Ok(None) => self.push_row(row),
            Err(error) => self.push_row(&unreadable(row.py(), error)?),
        }
    }

    fn push_tuple(&mut self, row: &Bound<'py, PyTuple>) -> PyResult<()> {
        match row.len() {
            0 => self.push_row(row),
            width if width == self.lists.len() => self.append(row),
            _ if self.count == 0 => self.begin(row),
            _ => self.push_row(row),
        }
    }

    fn push_row(&mut self, row: &Bound<'py, PyAny>) -> PyResult<()> {
        self.make_rows()?;
        self.rows.append(row)
    }

    fn append(&self, row: &Bound<'py, PyTuple>) -> PyResult<()> {
        for (place, list) in self.lists.iter().enumerate() {
            list.append(row.get_borrowed_item(place)?)?;
        }
        Ok(())
    }

    fn begin(&mut self, row: &Bound<'py, PyTuple>) -> PyResult<()> {
        for argument in row.iter_borrowed() {
            let list = PyList::new(row.py(), [argument])?;
            self.columns.append(&list)?;
            self.lists.push(list);
        }
        Ok(())
    }

    /// Converts the columns to rows.
    fn make_rows(&mut self) -> PyResult<()> {
        for place in 0..self.lists.first().map_or(0, PyListMethods::len) {
            let row = self.lists.iter().map(|list| list.get_item(place));
            let row = row.collect::<PyResult<Vec<_>>>()?;
            self.rows.append(PyTuple::new(self.rows.py(), row)?)?;
        }
        self.columns.del_slice(0, self.columns.len())?;
        self.lists.clear();
        Ok(())
    }
}

/// The arguments of a row that is no tuple. They are read when the row is taken, because an
/// iterator can be read only once, usually cannot be sent, and may be changed later. None if the
/// row is not iterable, or is a string.
fn read<'py>(row: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyTuple>>> {
    if row.is_instance_of::<PyString>() || row.is_instance_of::<PyBytes>() {
        return Ok(None); // as in `_arguments.positional`
    }
    let Ok(arguments) = row.try_iter() else { return Ok(None) };
    let arguments = arguments.collect::<PyResult<Vec<_>>>()?;
    PyTuple::new(row.py(), arguments).map(Some)
}

/// An object that stands for a row whose reading raised this; its call raises it. Fails if the
/// error does not belong to the row.
fn unreadable(py: Python<'_>, error: PyErr) -> PyResult<Bound<'_, PyAny>> {
    upcalls::unreadable(py, error)
}

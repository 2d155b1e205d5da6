//! The arguments of `map`'s calls on their way into chunks: *rows*, one for each call, which are
//! kept by *columns*, a list for each argument, wherever they are tuples of one length.
//!
//! So nothing is kept that the garbage collector looks at, one pickle holds a chunk, and an
//! iterator that uses its tuple again and again (`zip`) can do so. Not here: what a chunk is,
//! and what becomes of what an input raises (`_input.py`).

use crate::upcalls;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyIterator, PyList, PyString, PyTuple};

/// Takes rows from `source` until there are `size`, if it has so many. They are appended to
/// `columns`; or to `rows`, once one is empty, has another length than those before, or is of no
/// use, of which its call will tell. Whatever is raised, what has been taken is there.
#[pyfunction]
pub(crate) fn take_rows(
    source: &Bound<'_, PyIterator>,
    size: usize,
    columns: &Bound<'_, PyList>,
    rows: &Bound<'_, PyList>,
) -> PyResult<()> {
    let mut taken = Taken::of(columns, rows)?;
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
    /// Of `columns`; none before the first row, or if they are kept as rows.
    lists: Vec<Bound<'py, PyList>>,
    columns: &'a Bound<'py, PyList>,
    rows: &'a Bound<'py, PyList>,
}

impl<'a, 'py> Taken<'a, 'py> {
    fn of(columns: &'a Bound<'py, PyList>, rows: &'a Bound<'py, PyList>) -> PyResult<Self> {
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

    /// Keeps by rows what has been kept by columns.
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

/// What a row that is no tuple has in it. It is read when it is taken, since an iterator can be
/// read once only, mostly cannot be sent, and may be changed later. None if it is of no use.
fn read<'py>(row: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyTuple>>> {
    if row.is_instance_of::<PyString>() || row.is_instance_of::<PyBytes>() {
        return Ok(None); // as `_arguments.positional` has it
    }
    let Ok(arguments) = row.try_iter() else { return Ok(None) };
    let arguments = arguments.collect::<PyResult<Vec<_>>>()?;
    PyTuple::new(row.py(), arguments).map(Some)
}

/// What stands for a row that has raised this, for its call to raise; unless it is nothing of the
/// row's.
fn unreadable(py: Python<'_>, error: PyErr) -> PyResult<Bound<'_, PyAny>> {
    upcalls::unreadable(py, error)
}

//! Channel (the job's end), MemoryFile and MemoryMap.

use crate::errors::to_python;
use crate::map::calls::Progress;
use crate::pool::duplicate;
use jobserver_core as core;
use jobserver_core::forkserver::Helper;
use jobserver_core::platform::Descriptor;
use jobserver_core::wire::{self, memory_file, seal, Frame};
use jobserver_core::worker::Worker;
use jobserver_core::Body;
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A file without a name, for a body too large for the socket; closed when it is dropped.
#[pyclass(frozen, module = "jobserver._native")]
pub(crate) struct MemoryFile {
    file: Descriptor,
}

#[pymethods]
impl MemoryFile {
    #[new]
    fn new() -> PyResult<MemoryFile> {
        Ok(MemoryFile { file: memory_file().map_err(to_python)? })
    }

    /// One that another process has made, by a descriptor, which is duplicated.
    #[staticmethod]
    fn received(fd: RawFd) -> PyResult<MemoryFile> {
        Ok(MemoryFile { file: duplicate(fd)? })
    }

    fn fileno(&self) -> PyResult<RawFd> {
        number(&self.file)
    }

    /// Makes it constant, where the system can.
    fn seal(&self) -> PyResult<()> {
        seal(intact(&self.file).map_err(to_python)?);
        Ok(())
    }

    /// Its contents, mapped. None if it must be read instead.
    fn map(&self) -> PyResult<Option<MemoryMap>> {
        let file = intact(&self.file).map_err(to_python)?;
        Ok(wire::MemoryMap::of_sealed(file).map(|map| MemoryMap { map }))
    }
}

/// The number of a descriptor, which Python must use at once.
pub(crate) fn number(descriptor: &Descriptor) -> PyResult<RawFd> {
    intact(descriptor).map(|fd| fd.as_raw_fd()).map_err(to_python)
}

fn intact(descriptor: &Descriptor) -> core::Result<BorrowedFd<'_>> {
    descriptor.intact().map_err(core::Error::lost("cannot use a descriptor"))
}

/// The contents of a memory file: memory of this process, which is unmapped when this is dropped.
///
/// In the stable ABI of CPython 3.8 a class cannot offer a buffer. So this has the address of the
/// memory, and code that makes a buffer of it keeps this object.
#[pyclass(frozen, module = "jobserver._native")]
pub(crate) struct MemoryMap {
    map: wire::MemoryMap,
}

#[pymethods]
impl MemoryMap {
    fn __len__(&self) -> usize {
        self.map.size()
    }

    #[getter]
    fn address(&self) -> usize {
        self.map.address()
    }

    /// A copy of a part, while nothing else writes to it. It has fewer bytes if the map has no
    /// more.
    fn read<'py>(
        &self,
        py: Python<'py>,
        size: usize,
        offset: usize,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let rest = self.map.as_slice().get(offset..).unwrap_or_default();
        let part = rest.get(..size).unwrap_or(rest);
        PyBytes::new_with(py, part.len(), |bytes| {
            bytes.copy_from_slice(part);
            Ok(())
        })
    }
}

/// The body of a frame: bytes, or a memory file. The contents of the file say which of its bytes
/// count (see `_wire/segments.py`), so this does not need its size.
#[derive(FromPyObject)]
pub(crate) enum Payload<'py> {
    Inline(Bound<'py, PyBytes>),
    Memory(Bound<'py, MemoryFile>),
}

impl Payload<'_> {
    pub(crate) fn as_core(&self) -> wire::Payload<'_> {
        match self {
            Payload::Inline(bytes) => wire::Payload::Inline(bytes.as_bytes()),
            Payload::Memory(memory) => wire::Payload::Memory(&memory.get().file),
        }
    }

    /// A message with this payload and no descriptors.
    pub(crate) fn as_message(&self) -> wire::Message<'_> {
        self.with(&[])
    }

    /// A message with this payload and these descriptors.
    pub(crate) fn with<'a>(&'a self, descriptors: &'a [Arc<Descriptor>]) -> wire::Message<'a> {
        wire::Message { payload: self.as_core(), descriptors }
    }
}

/// Descriptors to send to a new process. They are duplicates, because the originals may be closed,
/// and their numbers used again, before there is a slot. Or descriptors that this process has
/// received, which it owns until they are cleared.
#[pyclass(frozen, module = "jobserver._native")]
pub(crate) struct Descriptors(Mutex<Vec<Arc<Descriptor>>>);

#[pymethods]
impl Descriptors {
    /// None yet; or first that of a map's progress.
    #[new]
    #[pyo3(signature = (progress = None))]
    fn new(progress: Option<&Bound<'_, Progress>>) -> Descriptors {
        let first = progress.map(|progress| Arc::clone(progress.get().0.file()));
        Descriptors(Mutex::new(first.into_iter().collect()))
    }

    /// Adds a duplicate of this descriptor. Returns its place among those that the process will
    /// receive.
    fn add(&self, fd: RawFd) -> PyResult<usize> {
        let duplicate = Arc::new(duplicate(fd)?);
        let mut held = self.list();
        held.push(duplicate);
        Ok(held.len() - 1)
    }

    /// A new duplicate of the descriptor at this place, which the caller closes.
    fn duplicate(&self, place: usize) -> PyResult<RawFd> {
        let using = core::Error::lost("cannot use a descriptor");
        let duplicate = self.at(place)?.duplicate().map_err(using).map_err(to_python)?;
        Ok(OwnedFd::from(duplicate).into_raw_fd())
    }

    fn __len__(&self) -> usize {
        self.list().len()
    }

    /// Closes them, except those that a launch is still sending.
    fn clear(&self) {
        self.list().clear();
    }
}

impl Descriptors {
    /// The descriptor at this place.
    pub(crate) fn at(&self, place: usize) -> PyResult<Arc<Descriptor>> {
        let known = self.list().get(place).map(Arc::clone);
        known.ok_or_else(|| PyIndexError::new_err("no such descriptor has come"))
    }

    fn list(&self) -> MutexGuard<'_, Vec<Arc<Descriptor>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn held(&self) -> Vec<Arc<Descriptor>> {
        self.list().clone()
    }
}

pub(crate) fn body_to_python(py: Python<'_>, body: Body) -> PyResult<Py<PyAny>> {
    Ok(match body {
        Body::Inline(bytes) => PyBytes::new(py, &bytes).into_any().unbind(),
        Body::Memory(file, _) => match wire::MemoryMap::of_sealed(&file) {
            Some(map) => Bound::new(py, MemoryMap { map })?.into_any().unbind(),
            None => Bound::new(py, MemoryFile { file })?.into_any().unbind(),
        },
    })
}

/// A frame in Python: its contents, and the descriptors that came with it.
pub(crate) type MessageParts = (Py<PyAny>, Descriptors);

pub(crate) fn frame_to_python(py: Python<'_>, frame: Frame) -> PyResult<MessageParts> {
    let came = frame.descriptors.into_iter().map(Arc::new).collect();
    Ok((body_to_python(py, frame.body)?, Descriptors(Mutex::new(came))))
}

/// The job's end of its channel.
#[pyclass(frozen, module = "jobserver._native")]
pub(crate) struct Channel {
    pub(crate) channel: core::Channel,
}

impl From<core::Channel> for Channel {
    fn from(channel: core::Channel) -> Channel {
        Channel { channel }
    }
}

impl Channel {
    /// This process as the worker at this end, of this fork server.
    pub(crate) fn worker(&self, helper: Option<&Helper>) -> Worker {
        Worker::new(self.channel.share(), helper)
    }

    /// The same end.
    pub(crate) fn share(&self) -> Channel {
        Channel { channel: self.channel.share() }
    }
}

#[pymethods]
impl Channel {
    /// The channel on a duplicate of this inherited descriptor. The caller closes the descriptor.
    #[new]
    fn new(fd: RawFd) -> PyResult<Channel> {
        Ok(core::Channel::from_socket(duplicate(fd)?).into())
    }

    pub(crate) fn fileno(&self) -> RawFd {
        self.channel.as_descriptor().as_raw_fd()
    }
}

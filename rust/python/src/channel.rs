//! Channel (the job's end), MemoryFile and MemoryMap.

use crate::errors::to_python;
use crate::pool::duplicate;
use jobserver_core as core;
use jobserver_core::channel::{memory_file, Kind};
use jobserver_core::process::{Lifeline, Pid};
use jobserver_core::Body;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A nameless file for a body too large for the socket; closed when it is dropped.
#[pyclass(frozen, module = "jobserver._native")]
pub(crate) struct MemoryFile {
    file: OwnedFd,
}

#[pymethods]
impl MemoryFile {
    #[new]
    fn new() -> PyResult<MemoryFile> {
        Ok(MemoryFile { file: memory_file().map_err(to_python)? })
    }

    fn fileno(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// What was in a memory file: memory of this process, which goes when this is dropped.
///
/// The stable ABI of CPython 3.8 knows no way for a class to offer a buffer; so this says where
/// the memory is, and who makes a buffer of that keeps this.
#[pyclass(frozen, module = "jobserver._native")]
pub(crate) struct MemoryMap {
    map: core::channel::MemoryMap,
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

    /// A copy of a part, where nobody writes to it meanwhile; fewer bytes if it has no more.
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

/// What travels in a frame: bytes, or a memory file. Which bytes of the file count is told
/// by what is in it (see `_pickling.py`), so its size is not needed here.
#[derive(FromPyObject)]
pub(crate) enum Message<'py> {
    Inline(Bound<'py, PyBytes>),
    Memory(Bound<'py, MemoryFile>),
}

impl Message<'_> {
    pub(crate) fn send(
        &self,
        channel: &core::Channel,
        kind: Kind,
        fds: &[Arc<OwnedFd>],
    ) -> core::Result<()> {
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(|fd| fd.as_fd()).collect();
        match self {
            Message::Inline(bytes) => channel.send(kind, bytes.as_bytes(), &fds),
            Message::Memory(memory) => {
                channel.send_memory(kind, memory.get().file.as_fd(), 0, &fds)
            }
        }
    }
}

/// Descriptors to pass to a new process: duplicates of our own, since what they were made
/// from may be closed, and its number used again, before a slot comes.
#[pyclass(frozen, module = "jobserver._native")]
pub(crate) struct Descriptors(Mutex<Vec<Arc<OwnedFd>>>);

#[pymethods]
impl Descriptors {
    #[new]
    fn new() -> Descriptors {
        Descriptors(Mutex::default())
    }

    /// Adds a duplicate of this one. Returns its place in what the process will receive.
    fn add(&self, fd: RawFd) -> PyResult<usize> {
        let duplicate = Arc::new(duplicate(fd)?);
        let mut held = self.list();
        held.push(duplicate);
        Ok(held.len() - 1)
    }

    /// Closes them, but for those that a launch under way still passes on.
    fn clear(&self) {
        self.list().clear();
    }
}

impl Descriptors {
    fn list(&self) -> MutexGuard<'_, Vec<Arc<OwnedFd>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn held(&self) -> Vec<Arc<OwnedFd>> {
        self.list().clone()
    }
}

pub(crate) fn body_to_python(py: Python<'_>, body: Body) -> PyResult<Py<PyAny>> {
    Ok(match body {
        Body::Inline(bytes) => PyBytes::new(py, &bytes).into_any().unbind(),
        Body::Memory(file, _) => match core::channel::MemoryMap::of(&file) {
            Some(map) => Bound::new(py, MemoryMap { map })?.into_any().unbind(),
            None => Bound::new(py, MemoryFile { file })?.into_any().unbind(),
        },
    })
}

/// What to run, the descriptors passed, the slot to adopt.
type ToldToRun = (Py<PyAny>, Vec<RawFd>, u64);

/// The job's end of its channel.
#[pyclass(frozen, module = "jobserver._native")]
pub(crate) struct Channel {
    pub(crate) channel: core::Channel,
    /// The fork server that made this process, if one did.
    pub(crate) helper: Option<Pid>,
}

impl From<core::Channel> for Channel {
    fn from(channel: core::Channel) -> Channel {
        Channel { channel, helper: None }
    }
}

#[pymethods]
impl Channel {
    /// The channel on this inherited descriptor, which stays the caller's to close.
    #[new]
    fn new(fd: RawFd) -> PyResult<Channel> {
        Ok(core::Channel::from_socket(duplicate(fd)?).into())
    }

    pub(crate) fn fileno(&self) -> RawFd {
        self.channel.as_descriptor().as_raw_fd()
    }

    /// Waits for the launch. None if the owner is gone, or gave up.
    fn receive_launch(&self, py: Python<'_>) -> PyResult<Option<ToldToRun>> {
        let mut slot = 0;
        loop {
            let frame = py.detach(|| match self.helper {
                Some(helper) => self.channel.receive_from_owner(helper),
                None => self.channel.receive(),
            });
            let Some(frame) = frame.map_err(to_python)? else { return Ok(None) };
            if frame.kind == Kind::Slot {
                if let Some(lifeline) = frame.descriptors.first() {
                    Lifeline::hang_on_to(lifeline.as_fd()).map_err(to_python)?;
                }
                let word = frame.body.into_bytes().map_err(to_python)?.try_into();
                slot = word.map_or(0, u64::from_ne_bytes);
                continue;
            }
            let body = body_to_python(py, frame.body)?;
            let fds = frame.descriptors.into_iter().map(IntoRawFd::into_raw_fd).collect();
            return Ok(Some((body, fds, slot)));
        }
    }
}

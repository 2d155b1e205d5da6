//! Memory files: where a body too large for the socket travels.
//!
//! A memfd where the kernel has one; otherwise a temporary file, unlinked at once. Either
//! goes away with its last descriptor, whoever is killed when.
//!
//! A memfd is sealed when it is sent: nobody can change or shorten it any more. So who receives
//! it maps it instead of copying it, and needs no descriptor from then on. What is not sealed
//! (a temporary file cannot be, and a job may send anything) is for its receiver to copy.

use crate::error::{Error, Result};
use crate::platform::private::Private;
use crate::platform::{backend, Descriptor};
use rustix::fd::AsFd;
use rustix::fs::{Mode, OFlags};
use std::path::PathBuf;

/// A new, empty file that has no name and vanishes when its last descriptor is closed.
pub fn memory_file() -> Result<Descriptor> {
    if let Some(made) = backend().memory_file() {
        return made.map_err(Error::system("cannot make a memory file"));
    }
    unlinked_file().map_err(Error::system("cannot make a temporary file"))
}

fn unlinked_file() -> rustix::io::Result<Descriptor> {
    let shm = PathBuf::from("/dev/shm");
    let folder = if shm.is_dir() { shm } else { std::env::temp_dir() };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let pid = crate::platform::getpid();
    for attempt in 0u32.. {
        let path = folder.join(format!("jobserver-{}-{attempt}", pid.as_raw_nonzero()));
        match rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR) {
            Err(rustix::io::Errno::EXIST) => continue,
            Err(e) => return Err(e),
            Ok(file) => {
                let _ = rustix::fs::unlink(&path);
                return Descriptor::new(file);
            }
        }
    }
    Err(rustix::io::Errno::EXIST)
}

/// What is in a memory file, mapped: writable memory of this process's own, of which a page is
/// copied when it is written to. The file's memory goes when the last mapping of it does.
#[derive(Debug)]
pub struct MemoryMap {
    mapping: Private,
}

impl MemoryMap {
    /// All of this memory file; it needs no descriptor any more. None if the file is to be
    /// copied instead: it is empty, or it could still change, or there is no room to map it.
    pub fn of_sealed(file: impl AsFd) -> Option<MemoryMap> {
        Private::of_sealed(file.as_fd()).map(|mapping| MemoryMap { mapping })
    }

    /// How many bytes there are.
    pub fn size(&self) -> usize {
        self.mapping.as_slice().len()
    }

    /// Where they begin: at the beginning of a page.
    pub fn address(&self) -> usize {
        self.mapping.as_slice().as_ptr().addr()
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        self.mapping.as_slice()
    }

    /// The bytes, to be written to.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        self.mapping.as_mut_slice()
    }
}

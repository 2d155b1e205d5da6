//! Memory files: they carry bodies that are too large for the socket.
//!
//! A memory file is a memfd where the kernel has one; otherwise a temporary file that is unlinked
//! at once. Both are freed with their last descriptor, whichever process is killed.
//!
//! A memfd is sealed when it is sent: no process can change or shorten it any more. So its receiver
//! maps it instead of copying it, and needs no descriptor from then on. The receiver copies a file
//! that is not sealed: a temporary file cannot be sealed, and a job may send any file.

use crate::error::{Error, Result};
use crate::platform::private::Private;
use crate::platform::{backend, Descriptor};
use rustix::fd::AsFd;
use rustix::fs::{Mode, OFlags};
use std::path::PathBuf;

/// Makes an empty file that has no name and is freed when its last descriptor is closed.
pub fn memory_file() -> Result<Descriptor> {
    if let Some(made) = backend().memory_file() {
        return made.map_err(Error::system("cannot make a memory file"));
    }
    unlinked_file().map_err(Error::system("cannot make a temporary file"))
}

/// Seals a memory file: from now on no process can change it. A temporary file cannot be sealed.
pub fn seal(file: impl AsFd) {
    backend().seal(file.as_fd());
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

/// The content of a memory file, mapped: writable memory of this process's own. A page is copied at
/// the first write to it. The file's memory is freed with the last mapping of it.
#[derive(Debug)]
pub struct MemoryMap {
    mapping: Private,
}

impl MemoryMap {
    /// Maps a whole memory file, which needs no descriptor any more. Returns None if the file must
    /// be copied instead: it is empty, or could still change, or there is no room to map it.
    pub fn of_sealed(file: impl AsFd) -> Option<MemoryMap> {
        Private::of_sealed(file.as_fd()).map(|mapping| MemoryMap { mapping })
    }

    /// Returns the number of bytes.
    pub fn size(&self) -> usize {
        self.mapping.as_slice().len()
    }

    /// Returns the address of the first byte: the beginning of a page.
    pub fn address(&self) -> usize {
        self.mapping.as_slice().as_ptr().addr()
    }

    /// Returns the bytes.
    pub fn as_slice(&self) -> &[u8] {
        self.mapping.as_slice()
    }

    /// Returns the bytes, to be written to.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        self.mapping.as_mut_slice()
    }
}

//! Memory files: where a body too large for the socket travels.
//!
//! A memfd where the kernel has one; otherwise a temporary file, unlinked at once. Either
//! goes away with its last descriptor, whoever is killed when.

use crate::error::{Error, Result};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use std::path::PathBuf;

/// A new, empty file that has no name and vanishes when its last descriptor is closed.
pub fn memory_file() -> Result<OwnedFd> {
    #[cfg(all(target_os = "linux", not(jobserver_portable)))]
    if crate::sys::linux() {
        match rustix::fs::memfd_create("jobserver", rustix::fs::MemfdFlags::CLOEXEC) {
            Err(rustix::io::Errno::NOSYS) => {}
            made => return made.map_err(Error::system("cannot make a memory file")),
        }
    }
    unlinked_file().map_err(Error::system("cannot make a temporary file"))
}

fn unlinked_file() -> rustix::io::Result<OwnedFd> {
    let shm = PathBuf::from("/dev/shm");
    let folder = if shm.is_dir() { shm } else { std::env::temp_dir() };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let pid = rustix::process::getpid();
    for attempt in 0u32.. {
        let path = folder.join(format!("jobserver-{}-{attempt}", pid.as_raw_nonzero()));
        match rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR) {
            Err(rustix::io::Errno::EXIST) => continue,
            Err(e) => return Err(e),
            Ok(file) => {
                let _ = rustix::fs::unlink(&path);
                return Ok(file);
            }
        }
    }
    Err(rustix::io::Errno::EXIST)
}

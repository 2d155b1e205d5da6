//! Small differences between Linux and other Unixes, which do not depend on the backend.

use super::Descriptor;
use rustix::fd::OwnedFd;
use std::ffi::CString;
use std::io;
use std::path::Path;

pub(crate) use linux_or_not::{
    become_subreaper, enlarge_pipe, open_anew, rename_new, set_thread_name, INLINE_LIMIT,
};

/// Makes a file `size` bytes long, with all its blocks allocated.
pub(crate) fn occupy(file: &Descriptor, size: usize) -> rustix::io::Result<()> {
    if linux_or_not::allocate(file, size)? {
        return Ok(());
    }
    let mut written = 0;
    while written < size {
        let zeroes = vec![0; size - written];
        written += rustix::io::pwrite(file, &zeroes, written as u64)?;
    }
    Ok(())
}

/// Makes a named pipe that only this user may open.
pub(crate) fn make_fifo(path: &Path) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: reads a string that ends with NUL and lives through the call.
    match unsafe { libc::mkfifo(path.as_ptr(), 0o600) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets a variable of this process's environment by an assignment, `NAME=value`. The C library
/// keeps the string.
///
/// # Safety
///
/// No other thread may use the environment meanwhile.
pub unsafe fn put_environment(assignment: CString) -> io::Result<()> {
    // SAFETY: the string is leaked, and so stays; the caller ensures the rest.
    match unsafe { libc::putenv(assignment.into_raw()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(target_os = "linux")]
mod linux_or_not {
    use super::*;
    use rustix::fd::AsRawFd;
    use rustix::fs::{open, FallocateFlags, Mode, OFlags, RenameFlags, CWD};
    use rustix::io::Errno;

    /// The buffer of a socket has some 200 KiB on Linux.
    pub(crate) const INLINE_LIMIT: usize = 64 * 1024;

    /// Allocates the blocks of a file. Returns false if the system has no call for that.
    pub(super) fn allocate(file: &Descriptor, size: usize) -> rustix::io::Result<bool> {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size as u64) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
            done => done.map(|()| true),
        }
    }

    /// Renames a file. No file may have the new name yet.
    pub(crate) fn rename_new(old: &Path, new: &Path) -> rustix::io::Result<()> {
        match rustix::fs::renameat_with(CWD, old, CWD, new, RenameFlags::NOREPLACE) {
            Err(Errno::NOSYS | Errno::INVAL) => rustix::fs::rename(old, new),
            renamed => renamed,
        }
    }

    /// Makes a pipe hold at least `bytes` bytes: a user with many pipes gets small ones.
    pub(crate) fn enlarge_pipe(pipe: &Descriptor, bytes: usize) -> rustix::io::Result<()> {
        if rustix::pipe::fcntl_getpipe_size(pipe)? < bytes {
            rustix::pipe::fcntl_setpipe_size(pipe, bytes)?;
        }
        Ok(())
    }

    /// Opens the read end of a pipe as an open description of its own, through /proc. None where
    /// that is missing.
    pub(crate) fn open_anew(read: &Descriptor) -> Option<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        open(format!("/proc/self/fd/{}", read.as_raw_fd()), flags, Mode::empty()).ok()
    }

    /// Sets the name under which the system shows this thread.
    pub(crate) fn set_thread_name(name: &std::ffi::CStr) -> io::Result<()> {
        Ok(rustix::thread::set_name(name)?)
    }

    /// Makes the orphans of this process's descendants its own children from now on.
    pub(crate) fn become_subreaper() -> rustix::io::Result<()> {
        rustix::process::set_child_subreaper(Some(crate::platform::getpid()))
    }
}

#[cfg(not(target_os = "linux"))]
mod linux_or_not {
    use super::*;

    /// Other systems guarantee as little as 2 KiB for packets.
    pub(crate) const INLINE_LIMIT: usize = 1024;

    pub(super) fn allocate(_file: &Descriptor, _size: usize) -> rustix::io::Result<bool> {
        Ok(false)
    }

    /// Renames a file. An empty folder of the new name is replaced.
    pub(crate) fn rename_new(old: &Path, new: &Path) -> rustix::io::Result<()> {
        rustix::fs::rename(old, new)
    }

    /// Does nothing: a pipe's size cannot be asked for.
    pub(crate) fn enlarge_pipe(_pipe: &Descriptor, _bytes: usize) -> rustix::io::Result<()> {
        Ok(())
    }

    /// Returns None: a pipe cannot be opened anew.
    pub(crate) fn open_anew(_read: &Descriptor) -> Option<OwnedFd> {
        None
    }

    /// Does nothing: a thread has no name here.
    pub(crate) fn set_thread_name(_name: &std::ffi::CStr) -> io::Result<()> {
        Ok(())
    }

    /// Does nothing: orphans become children of the system's init process.
    pub(crate) fn become_subreaper() -> rustix::io::Result<()> {
        Ok(())
    }
}

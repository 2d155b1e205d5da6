//! Small differences between Linux and other Unixes, which hold whichever backend is in use.

use super::Descriptor;
use rustix::fd::OwnedFd;
use std::ffi::CString;
use std::io;
use std::path::Path;

pub(crate) use linux_or_not::{
    become_subreaper, enlarge_pipe, open_anew, rename_new, set_thread_name, INLINE_LIMIT,
};

/// Makes a file so large, with all its blocks.
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

/// Sets a variable of this process's environment by an assignment, `NAME=value`, which the C
/// library has from then on.
///
/// # Safety
///
/// No other thread may use the environment meanwhile.
pub unsafe fn put_environment(assignment: CString) -> io::Result<()> {
    // SAFETY: the string is leaked, so that it stays; the caller sees to the rest.
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

    /// Linux gives a socket a buffer of some 200 KiB.
    pub(crate) const INLINE_LIMIT: usize = 64 * 1024;

    /// Whether the blocks of a file could be had by a call of the system's own.
    pub(super) fn allocate(file: &Descriptor, size: usize) -> rustix::io::Result<bool> {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size as u64) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
            done => done.map(|()| true),
        }
    }

    /// Gives a file another name, which nothing must have yet.
    pub(crate) fn rename_new(old: &Path, new: &Path) -> rustix::io::Result<()> {
        match rustix::fs::renameat_with(CWD, old, CWD, new, RenameFlags::NOREPLACE) {
            Err(Errno::NOSYS | Errno::INVAL) => rustix::fs::rename(old, new),
            renamed => renamed,
        }
    }

    /// Sees to it that a pipe holds so many bytes: a user with many pipes gets small ones.
    pub(crate) fn enlarge_pipe(pipe: &Descriptor, bytes: usize) -> rustix::io::Result<()> {
        if rustix::pipe::fcntl_getpipe_size(pipe)? < bytes {
            rustix::pipe::fcntl_setpipe_size(pipe, bytes)?;
        }
        Ok(())
    }

    /// The read end of a pipe as an open description of its own, by /proc. None if there is none.
    pub(crate) fn open_anew(read: &Descriptor) -> Option<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        open(format!("/proc/self/fd/{}", read.as_raw_fd()), flags, Mode::empty()).ok()
    }

    /// What the system is to show this thread as.
    pub(crate) fn set_thread_name(name: &std::ffi::CStr) -> io::Result<()> {
        Ok(rustix::thread::set_name(name)?)
    }

    /// From now on, what this process's descendants leave behind becomes its own child.
    pub(crate) fn become_subreaper() -> rustix::io::Result<()> {
        rustix::process::set_child_subreaper(Some(crate::platform::getpid()))
    }
}

#[cfg(not(target_os = "linux"))]
mod linux_or_not {
    use super::*;

    /// Other systems give packets as little as 2 KiB.
    pub(crate) const INLINE_LIMIT: usize = 1024;

    pub(super) fn allocate(_file: &Descriptor, _size: usize) -> rustix::io::Result<bool> {
        Ok(false)
    }

    /// Gives a file another name. An empty folder of this name is replaced.
    pub(crate) fn rename_new(old: &Path, new: &Path) -> rustix::io::Result<()> {
        rustix::fs::rename(old, new)
    }

    /// A pipe's size cannot be asked for.
    pub(crate) fn enlarge_pipe(_pipe: &Descriptor, _bytes: usize) -> rustix::io::Result<()> {
        Ok(())
    }

    /// A pipe cannot be opened anew.
    pub(crate) fn open_anew(_read: &Descriptor) -> Option<OwnedFd> {
        None
    }

    /// A thread has no name to show.
    pub(crate) fn set_thread_name(_name: &std::ffi::CStr) -> io::Result<()> {
        Ok(())
    }

    /// Orphans are the system's.
    pub(crate) fn become_subreaper() -> rustix::io::Result<()> {
        Ok(())
    }
}

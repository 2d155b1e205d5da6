//! Which processes are resource trackers of Python's multiprocessing.
//!
//! One such process serves a whole tree of jobs, and removes shared memory when the last of the
//! tree has ended. It is a child of whichever job needed it first, and must not end with that one.

use rustix::fs::{open, Mode, OFlags};
use rustix::process::Pid;
use std::ffi::CStr;
use std::io::Write;

/// What every version of CPython has one run: the beginning of an argument.
const PROGRAM: &[u8] = b"\0from multiprocessing.resource_tracker import main";

/// Whether a process is one. Allocates nothing, for signal handlers.
pub(crate) fn is_resource_tracker(pid: Pid) -> bool {
    let (mut path, mut command) = ([0; 32], [0; 4096]);
    let written = write!(path.as_mut_slice(), "/proc/{}/cmdline", pid.as_raw_nonzero());
    let (Ok(()), Ok(path)) = (written, CStr::from_bytes_until_nul(&path)) else { return false };
    let file = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let read = file.and_then(|file| rustix::io::read(file, &mut command));
    let command = command.get(..read.unwrap_or(0)).unwrap_or_default();
    command.windows(PROGRAM.len()).any(|part| part == PROGRAM)
}

//! Which processes are resource trackers of Python's multiprocessing.
//!
//! One resource tracker serves a whole tree of jobs, and removes shared memory when the last of the
//! tree has ended. It is a child of the job that needed it first, and must not end with that job.

use rustix::fs::{open, Mode, OFlags};
use rustix::process::Pid;
use std::ffi::CStr;
use std::io::Write;

/// The beginning of an argument of the tracker's command line, in every version of CPython.
const PROGRAM: &[u8] = b"\0from multiprocessing.resource_tracker import main";

/// Returns whether a process is a resource tracker. Allocates nothing, because signal handlers call
/// it.
pub(crate) fn is_resource_tracker(pid: Pid) -> bool {
    let (mut path, mut command) = ([0; 32], [0; 4096]);
    let written = write!(path.as_mut_slice(), "/proc/{}/cmdline", pid.as_raw_nonzero());
    let (Ok(()), Ok(path)) = (written, CStr::from_bytes_until_nul(&path)) else { return false };
    let file = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let read = file.and_then(|file| rustix::io::read(file, &mut command));
    let command = command.get(..read.unwrap_or(0)).unwrap_or_default();
    command.windows(PROGRAM.len()).any(|part| part == PROGRAM)
}

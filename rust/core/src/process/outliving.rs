//! Processes that serve others than the job below which they are, and so outlive it: `Future.kill` and
//! time limits spare them. They are the warden of make's slots and multiprocessing's resource tracker.

use crate::platform::{is_resource_tracker, proc};
use rustix::process::Pid;
use std::ffi::CStr;

/// What the system shows a warden as. What a warden is for comes after the job's end, and it is below
/// a job that is above the make that it watches for.
pub(crate) const WARDEN: &CStr = c"slot-warden";

/// Whether a process below a job outlives that.
pub(crate) fn outlives_jobs(pid: Pid) -> bool {
    proc::is_called(pid, WARDEN) || is_resource_tracker(pid)
}

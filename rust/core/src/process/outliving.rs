//! Processes below a job that serve other processes too, and so outlive the job: `Future.kill` and
//! time limits spare them. They are the warden of make's slots and multiprocessing's resource
//! tracker.

use crate::platform::{is_resource_tracker, proc};
use rustix::process::Pid;
use std::ffi::CStr;

/// The name under which the system shows a warden. The warden's work comes after the job's end, and
/// the warden is below a job that is above the make that it works for.
pub(crate) const WARDEN: &CStr = c"slot-warden";

/// Returns whether a process below a job outlives the job.
pub(crate) fn outlives_jobs(pid: Pid) -> bool {
    proc::is_called(pid, WARDEN) || is_resource_tracker(pid)
}

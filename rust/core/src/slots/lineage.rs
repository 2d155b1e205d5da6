//! The slot that this program was started on: that of the nearest process above it that runs on
//! one.
//!
//! A job that starts a program mostly waits for it, and so does `jobserver exec`. Meanwhile the
//! program may use the job's slot, as a recipe of make may use the slot that make runs it on (the
//! *implicit* slot). So a program below borrows it (`slots::ledger`); of all programs below, one at
//! a time does. The ledger and the system say which process runs on which slot. A variable would go
//! stale: a process runs one job after the other, and a job that yields has another slot after a
//! wait.
//!
//! A recipe of a make that is below such a process has a slot that make knows about; the ledger
//! does not. So there each program of ours has an implicit slot of its own.

use super::entry::Tenure;
use super::ledger::{Ledger, Lender};
use crate::platform::getpid;
use crate::platform::proc::parent;
use crate::process::ProcessId;
use rustix::process::Pid;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// This process and those above it, the nearest first.
#[derive(Debug)]
pub(crate) struct Lineage(Vec<ProcessId>);

impl Lineage {
    /// Finds the lineage of this process. It changes only by deaths.
    pub(crate) fn of_this_process() -> Lineage {
        let mut lineage = vec![ProcessId::current()];
        let mut next = rustix::process::getppid();
        while let Some(above) = next {
            lineage.push(ProcessId::of_live(above));
            next = parent(above).and_then(Pid::from_raw);
        }
        Lineage(lineage)
    }

    /// Returns the nearest process that runs on a slot, and the slot if it can be borrowed now. Of
    /// this process, the slots `of_threads` are left out.
    pub(crate) fn nearest(
        &self,
        ledger: &Ledger,
        of_threads: &[Tenure],
    ) -> Option<(ProcessId, Option<Lender>)> {
        Lineage::nearest_of(&self.0, ledger, of_threads)
    }

    /// Does the same from `process` on, which must be in the lineage.
    pub(crate) fn nearest_from(
        &self,
        process: ProcessId,
        ledger: &Ledger,
        of_threads: &[Tenure],
    ) -> Option<Lender> {
        let place = self.0.iter().position(|above| above.may_be(process))?;
        Lineage::nearest_of(&self.0[place..], ledger, of_threads)?.1
    }

    fn nearest_of(
        processes: &[ProcessId],
        ledger: &Ledger,
        of_threads: &[Tenure],
    ) -> Option<(ProcessId, Option<Lender>)> {
        let me = getpid();
        processes.iter().find_map(|process| {
            let left_out = if process.pid == me { of_threads } else { &[] };
            match ledger.run_by(*process, left_out) {
                (false, _) => None,
                (true, open) => Some((*process, open)),
            }
        })
    }
}

/// Returns whether this program is in a recipe of a make that is below `above`; or, if `above` is
/// None, below what has `level` makes above it.
pub(crate) fn in_recipe_below(above: Option<ProcessId>, level: u64) -> bool {
    let above = above.and_then(|above| started_with(above.pid, MAKELEVEL));
    makes_above() > above.map_or(level, |value| number(&value))
}

/// Returns how many makes are above this program.
pub(crate) fn makes_above() -> u64 {
    std::env::var_os(MAKELEVEL).map_or(0, |value| number(&value))
}

fn number(value: &OsStr) -> u64 {
    value.to_str().and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

/// The variable in which make counts how many makes are above a program.
pub const MAKELEVEL: &str = "MAKELEVEL";

/// Returns the value that a variable had when a process started or last called exec.
fn started_with(pid: Pid, name: &str) -> Option<OsString> {
    let environment = std::fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).ok()?;
    let value = |variable: &[u8]| {
        let value = variable.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        Some(OsStr::from_bytes(value).to_owned())
    };
    environment.split(|byte| *byte == 0).find_map(value)
}

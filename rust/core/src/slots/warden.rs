//! The warden: it gives make its tokens back when a whole program that had joined make's pool is
//! gone.
//!
//! In a pool of ours the next process that wants a slot puts the slots of the dead back. Make knows
//! no ledger: when a recipe and all its jobs are killed at once, no process that knows the ledger
//! is left. So the program that joins make's pool leaves a process behind. That process, the
//! warden, sleeps until no other process has the ledger open, puts back the tokens that the ledger
//! says are held, and ends.
//!
//! The warden is a fork. Its memory stays shared with the program, except for pages that the
//! program writes to. So it is made once, early, and never in a pool of ours.

use crate::error::{Error, Result};
use crate::platform::{detach, Descriptor};
use crate::process::WARDEN;
use crate::slots::home::Home;
use crate::slots::ledger::{Bells, Ledger};
use crate::slots::pipe::TokenPipe;
use crate::slots::watch::Watch;
use crate::wait::Wait;
use rustix::fd::AsRawFd;
use rustix::fs::{flock, FlockOperation};
use rustix::io::retry_on_intr;

/// Forks a warden for a pool that is make's. The ledger's file must exist, and this process must
/// hold a lock on it, but must not have mapped it yet: the warden would inherit the mapping, and
/// with it that lock.
pub(crate) fn post(home: &Home, pipe: &TokenPipe) -> Result<()> {
    let doing = "cannot start the warden of make's slots";
    let file = home.open_ledger_unlocked().map_err(Error::system(doing))?;
    let keep = [file.as_raw_fd(), pipe.read_end().as_raw_fd(), pipe.write_end().as_raw_fd()];
    let bells = home.bells();
    detach(WARDEN, &keep, || {
        let _ = keep_watch(file, bells, pipe); // no process is left to report an error to
    })
    .map_err(Error::system(doing))
}

fn keep_watch(file: Descriptor, bells: Bells, pipe: &TokenPipe) -> Result<()> {
    let doing = "cannot watch the processes of a pool";
    let lock = |how| retry_on_intr(|| flock(&file, how)).map_err(Error::system(doing));
    // All other processes hold a shared lock, and a process that dies loses it.
    lock(FlockOperation::LockExclusive)?;
    let same = file.duplicate().map_err(Error::system(doing))?;
    let ledger = Ledger::open(same, bells)?;
    let mut watch = Watch::without_bells().map_err(Error::system(doing))?;
    loop {
        watch.reclaim(&ledger, pipe);
        if ledger.in_use().next().is_none() {
            return Ok(());
        }
        // There are programs that do not use this crate, which were started on a slot and live on;
        // or there is a job that has not opened the ledger yet, and could not open it under an
        // exclusive lock.
        lock(FlockOperation::LockShared)?;
        let (descriptors, look_after) = watch.watched();
        Wait::new(descriptors, look_after).block(None)?;
        lock(FlockOperation::LockExclusive)?;
    }
}

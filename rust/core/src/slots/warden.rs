//! The warden: gives make's tokens back when a whole program that had joined its pool is gone.
//!
//! In a pool of ours a slot of the dead is put back by whoever wants one next. Make knows no
//! ledger: when a recipe and all its jobs are killed at once, nobody is left who does. So the
//! program that joins a pool of others leaves a process behind that sleeps until nobody has
//! the ledger open any more, puts back what it says is held, and ends.
//!
//! It is a fork, whose memory stays shared with the program but for what that writes to; so
//! it is made once, early, and never in a pool of ours.

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

/// Leaves a warden behind for a pool that is not ours. The ledger's file must be there, and
/// locked by us, but not be mapped yet: the mapping, inherited, would hold that lock.
pub(crate) fn post(home: &Home, pipe: &TokenPipe) -> Result<()> {
    let doing = "cannot leave somebody to look after make's slots";
    let file = home.open_ledger_unlocked().map_err(Error::system(doing))?;
    let keep = [file.as_raw_fd(), pipe.read_end().as_raw_fd(), pipe.write_end().as_raw_fd()];
    let bells = home.bells();
    detach(WARDEN, &keep, || {
        let _ = keep_watch(file, bells, pipe); // nobody is left to be told
    })
    .map_err(Error::system(doing))
}

fn keep_watch(file: Descriptor, bells: Bells, pipe: &TokenPipe) -> Result<()> {
    let doing = "cannot watch the processes of a pool";
    let lock = |how| retry_on_intr(|| flock(&file, how)).map_err(Error::system(doing));
    // Everybody else shares it, and the dead let go of it.
    lock(FlockOperation::LockExclusive)?;
    let same = file.duplicate().map_err(Error::system(doing))?;
    let ledger = Ledger::open(same, bells)?;
    let mut watch = Watch::without_bells().map_err(Error::system(doing))?;
    loop {
        watch.reclaim(&ledger, pipe);
        if ledger.in_use().next().is_none() {
            return Ok(());
        }
        // There are programs of others, which were started on a slot and live on; or a job
        // that has not opened the ledger yet, and could not, were we to keep it to ourselves.
        lock(FlockOperation::LockShared)?;
        let (descriptors, look_after) = watch.watched();
        Wait::new(descriptors, look_after).block(None)?;
        lock(FlockOperation::LockExclusive)?;
    }
}

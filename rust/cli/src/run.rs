//! `jobserver run`: a new pool for a command and all programs below it.

use crate::child;
use jobserver_core::slots::{Style, MAKELEVEL};
use jobserver_core::{usable_cpus, Pool, Result};
use std::ffi::OsString;

pub(crate) fn run(jobs: Option<usize>, style: Style, words: &[OsString]) -> Result<i32> {
    child::survive_signals(); // a signal that ends this process would leave the pool's home
    let (pool, ends) = Pool::for_command(jobs.unwrap_or_else(usable_cpus), style)?;
    let mut command = child::command(words);
    pool.name_to(&mut command, ends);
    // A program below this, but not below another make, is in no recipe.
    command.env_remove(MAKELEVEL);
    let end = child::run(command, None)?;
    report(&pool)?;
    drop(pool); // removes its home, before a signal may end this process
    Ok(child::end_like(end))
}

/// Reports if slots are missing, or if there are too many.
fn report(pool: &Pool) -> Result<()> {
    pool.reclaim();
    let (slots, free) = (pool.slots(), pool.free()?);
    let held = pool.held().into_iter().filter(|held| !held.loan);
    let running: Vec<_> = held.map(|held| held.pid.to_string()).collect();
    if !running.is_empty() {
        say!("still running on slots of the pool: {}", running.join(", "));
    }
    let there = free + running.len();
    if there < slots {
        let lost = slots - there;
        say!("{lost} of {slots} slots were taken and not given back");
    }
    if there > slots {
        let added = there - slots;
        say!("{added} slots were given back that had not been taken");
    }
    Ok(())
}

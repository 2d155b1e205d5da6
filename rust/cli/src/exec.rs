//! `jobserver exec`: one slot of the pool in force, for one command. Programs below the command
//! have that slot as their implicit slot: they find the command in the ledger (see `slots::lineage`
//! of the core).

use crate::child;
use jobserver_core::{Jobs, Pool, Result, Slot};
use std::ffi::OsString;

pub(crate) fn exec(words: &[OsString]) -> Result<i32> {
    let command = child::command(words);
    let pool = match crate::pool_in_force() {
        Ok(Some(pool)) => Some(pool),
        without => {
            let why = without.err().unwrap_or_else(|| "there is no pool in force".to_owned());
            say!("{why}; running the command without a slot");
            None
        }
    };
    let slot = pool.as_ref().map(wait_for_a_slot).transpose()?;
    let end = child::run(command, slot)?;
    drop(pool);
    Ok(child::end_like(end))
}

fn wait_for_a_slot(pool: &Pool) -> Result<Slot> {
    let mut none = Jobs::new();
    loop {
        if let Some(slot) = pool.try_take()? {
            return Ok(slot);
        }
        none.wait(Some(pool), None)?;
    }
}

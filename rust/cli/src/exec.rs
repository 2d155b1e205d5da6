//! `jobserver exec`: one slot of the pool in force, for one command.

use crate::child;
use jobserver_core::slots::makeflags::Auth;
use jobserver_core::{Jobs, Pool, Result, Slot};
use std::ffi::OsString;
use std::process::Command;

pub(crate) fn exec(words: &[OsString]) -> Result<i32> {
    let mut command = child::command(words);
    let pool = match crate::pool_in_force() {
        Ok(Some((pool, named))) => {
            name_as_a_job(&mut command, &pool, &named)?;
            Some(pool)
        }
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

/// Programs below the command have its slot as their own. So a name by which all below
/// `jobserver run` have one in common, which may be this very slot, is not for them.
fn name_as_a_job(command: &mut Command, pool: &Pool, named: &Auth) -> Result<()> {
    if pool.auth() != named {
        let fds = pool.inheritable()?.map(|(read, write)| Auth::Pipe { read, write });
        child::name_pool(command, fds.as_ref().unwrap_or(pool.auth()), pool.slots());
    }
    Ok(())
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

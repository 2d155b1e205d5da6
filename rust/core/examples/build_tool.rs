//! A build tool that shares slots. Started by make, by a job or by `jobserver run`, it uses their
//! pool; otherwise it makes one of its own.
//!
//! It "builds" the targets named on the command line by sleeping; a real tool differs only in that.
//! Try it in a recipe, `+build_tool a b c`, under `make -j2`.

use jobserver_core::make::Joined;
use jobserver_core::owner::Finished;
use jobserver_core::{usable_cpus, ExitStatus, Jobs, Outcome, Pool, Result};
use std::process::{Command, ExitCode};

/// Returns the pool to take slots from. In a program that make started, one slot is available from
/// the start: the one that make has given to the recipe.
fn pool() -> Result<Pool> {
    match Joined::by_environment() {
        Joined::Pool(pool) => Ok(pool),
        Joined::Nothing => Pool::new(usable_cpus()),
        Joined::Refused(why) => {
            eprintln!("build_tool: {why}; using slots of my own");
            Pool::new(usable_cpus())
        }
        Joined::OutOfReach(why) => {
            eprintln!("build_tool: {why}; using the one slot that I was started on");
            Pool::new(1)
        }
        Joined::OneJob => Pool::new(1),
    }
}

fn build(targets: &[String]) -> Result<bool> {
    let (pool, mut jobs) = (pool()?, Jobs::new());
    let mut waiting = targets.iter().rev().collect::<Vec<_>>();
    let mut well = true;
    loop {
        // A job that is reported here has given its slot back already.
        for Finished { outcome, .. } in jobs.scan()? {
            well &= matches!(outcome, Outcome::Ended(ExitStatus::Code(0), _));
        }
        if waiting.is_empty() && jobs.outstanding() == 0 {
            return Ok(well);
        }
        if !waiting.is_empty() {
            if let Some(slot) = pool.try_take()? {
                let target = waiting.pop().map_or("", String::as_str);
                println!("building {target}");
                jobs.spawn(Command::new("sleep").arg("0.1"), Some(slot))?;
                continue;
            }
        }
        // One sleep until the first event: a free slot, the end of a job, or the death of another
        // holder of a slot.
        jobs.wait((!waiting.is_empty()).then_some(&pool), None)?;
    }
}

fn main() -> ExitCode {
    let targets: Vec<String> = std::env::args().skip(1).collect();
    match build(&targets) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("build_tool: {e}");
            ExitCode::from(2)
        }
    }
}

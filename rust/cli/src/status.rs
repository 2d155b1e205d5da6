//! `jobserver status`: the slots of a pool, and who holds them.

use jobserver_core::slots::{homes, InForce};
use jobserver_core::{Pool, Result};

pub(crate) fn status() -> Result<i32> {
    let pools: Vec<Pool> = match InForce::of_environment() {
        InForce::Pool(auth, jobs) => vec![Pool::take_part(&auth, jobs)?],
        // One that has just gone is none.
        _ => homes().iter().filter_map(|home| Pool::open(home).ok()).collect(),
    };
    if pools.is_empty() {
        println!("no pool");
    }
    for pool in &pools {
        show(pool)?;
    }
    Ok(0)
}

fn show(pool: &Pool) -> Result<()> {
    pool.reclaim();
    let (slots, free) = (pool.slots(), pool.free()?);
    println!("{}: {free} of {slots} slots free", pool.auth().to_os_string().to_string_lossy());
    let held = pool.held();
    if !held.is_empty() {
        println!("{:>9} {:>9}  {:<8}command", "pid", "seconds", "");
    }
    for held in held {
        let what = match (held.lent, held.loan) {
            (true, _) => "lent",
            (false, true) => "borrowed",
            (false, false) => "",
        };
        println!("{:>9} {:>9}  {what:<8}{}", held.pid.to_string(), held.seconds, words(held.pid));
    }
    Ok(())
}

/// What a process was started as, as far as the system tells.
fn words(pid: jobserver_core::process::Pid) -> String {
    let words =
        std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    let words: Vec<_> = words.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    words.join(" ").trim_end().chars().take(100).collect()
}

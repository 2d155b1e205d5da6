//! `jobserver status`: the slots of a pool, and their holders.

use jobserver_core::platform::within_limit;
use jobserver_core::slots::homes;
use jobserver_core::{ErrorKind, Pool, Result};
use std::io::Write;

pub(crate) fn status() -> Result<i32> {
    let in_force = crate::pool_in_force().unwrap_or_else(|why| {
        say!("{why}; showing all pools of this user");
        None
    });
    let mut text = String::new();
    match in_force {
        Some(pool) => text.push_str(&describe(&pool)?),
        None => {
            for home in homes() {
                match Pool::open(&home) {
                    Ok(pool) => text.push_str(&describe(&pool)?),
                    Err(e) if e.kind() == ErrorKind::Elsewhere => {
                        text.push_str(&format!("{}: {e}\n", home.display()));
                    }
                    Err(_) => {} // the pool has just ended
                }
            }
        }
    }
    if text.is_empty() {
        text.push_str("no pool\n");
    }
    // An error is ignored: the reader may have closed the pipe.
    let _ = within_limit(|| std::io::stdout().write_all(text.as_bytes()));
    Ok(0)
}

fn describe(pool: &Pool) -> Result<String> {
    pool.reclaim();
    let (slots, free) = (pool.slots(), pool.free()?);
    let name = pool.auth().to_os_string();
    let mut text = format!("{}: {free} of {slots} slots free\n", name.to_string_lossy());
    let held = pool.held();
    if !held.is_empty() {
        text.push_str(&line("pid", "seconds", "", "command"));
    }
    for held in held {
        let what = match (held.lent, held.loan) {
            (true, _) => "lent",
            (false, true) => "borrowed",
            (false, false) => "",
        };
        text.push_str(&line(held.pid, held.seconds, what, &words(held.pid)));
    }
    Ok(text)
}

fn line(pid: impl ToString, seconds: impl ToString, what: &str, command: &str) -> String {
    format!("{:>9} {:>9}  {what:<9}{command}\n", pid.to_string(), seconds.to_string())
}

/// The command line of a process, if the system reports it.
fn words(pid: jobserver_core::process::Pid) -> String {
    let words =
        std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    let words: Vec<_> = words.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    words.join(" ").trim_end().chars().take(100).collect()
}

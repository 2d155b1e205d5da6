//! The command that is run: signals on their way to it, and its end on its way out.

use jobserver_core::slots::makeflags::{export, Auth};
use jobserver_core::{ExitStatus, Jobs, Outcome, Result, Slot, Woken};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use std::ffi::OsString;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// Those that a terminal sends to the command as well, and those that only we get.
const SIGNALS: [(i32, bool); 4] =
    [(SIGINT, false), (SIGQUIT, false), (SIGTERM, true), (SIGHUP, true)];

/// The program and its arguments.
pub(crate) fn command(words: &[OsString]) -> Command {
    // clap has seen to it that there is at least one.
    let mut command = Command::new(words.first().cloned().unwrap_or_default());
    command.args(words.iter().skip(1));
    command
}

/// Has the command's environment name a pool.
pub(crate) fn name_pool(command: &mut Command, auth: &Auth, slots: usize) {
    for name in ["MAKEFLAGS", "CARGO_MAKEFLAGS"] {
        let existing = std::env::var_os(name);
        // cargo's own comes before make's, wherever there is one.
        if name == "MAKEFLAGS" || existing.is_some() {
            command.env(name, export(existing.as_deref(), auth, slots));
        }
    }
}

/// Runs a command to its end, on `slot` if there is one, while signals leave us alive to give
/// it back. What the exit code should be; the second is the signal that killed it, if one did.
pub(crate) fn run(mut command: Command, slot: Option<Slot>) -> Result<(i32, Option<i32>)> {
    let come: Vec<_> = SIGNALS.iter().map(|_| Arc::new(AtomicBool::new(false))).collect();
    for ((signal, _), came) in SIGNALS.iter().zip(&come) {
        // As nohup or a shell's background job has it; the command will ignore it too.
        if jobserver_core::sys::is_ignored(*signal) {
            continue;
        }
        // It fails only for signals that nobody may handle.
        let _ = signal_hook::flag::register(*signal, Arc::clone(came));
    }
    let mut jobs = Jobs::new();
    let job = match jobs.spawn(&mut command, slot) {
        Ok(job) => job,
        Err(e) => {
            let name = command.get_program().to_string_lossy();
            say!("{name}: {e}");
            let missing = e.raw_os_error() == Some(NOT_THERE);
            return Ok((if missing { 127 } else { 126 }, None));
        }
    };
    loop {
        if let Some((_, outcome)) = jobs.scan()?.pop() {
            return Ok(match outcome {
                Outcome::Ended(ExitStatus::Code(code)) => (code, None),
                Outcome::Ended(ExitStatus::Signal(signal) | ExitStatus::Overdue(signal)) => {
                    (128 + signal, Some(signal))
                }
                _ => (crate::FAILED, None),
            });
        }
        if jobs.wait(None, None)? == Woken::Interrupted {
            for ((signal, pass_on), came) in SIGNALS.iter().zip(&come) {
                if came.swap(false, Ordering::Relaxed) && *pass_on {
                    if let Some(signal) = jobserver_core::sys::signal_from_raw(*signal) {
                        jobs.signal(job, signal)?;
                    }
                }
            }
        }
    }
}

/// Linux's and everybody's ENOENT.
const NOT_THERE: i32 = 2;

/// Ends as the command did: killed by the same signal, if it was.
pub(crate) fn end_like((code, signal): (i32, Option<i32>)) -> i32 {
    if let Some(signal) = signal {
        let _ = signal_hook::low_level::emulate_default_handler(signal);
    }
    code
}

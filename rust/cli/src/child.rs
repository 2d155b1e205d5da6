//! Runs the user's command: passes signals on to it, and returns its exit code.

use jobserver_core::platform::{is_ignored, pass_on, pass_on_to, see_children_end, SignalsHeld};
use jobserver_core::{advice, ExitStatus, JobId, Jobs, Outcome, Result, Slot};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use std::ffi::OsString;
use std::process::Command;

/// The signals that are passed on to the command. Signals with true are those that a terminal sends
/// to the command too: they are passed on only if a process sent them. (A terminal may send SIGHUP
/// to this process alone.)
const SIGNALS: [(i32, bool); 4] =
    [(SIGINT, true), (SIGQUIT, true), (SIGTERM, false), (SIGHUP, false)];

/// The program and its arguments.
pub(crate) fn command(words: &[OsString]) -> Command {
    // clap requires at least one word.
    let mut command = Command::new(words.first().cloned().unwrap_or_default());
    command.args(words.iter().skip(1));
    command
}

/// Runs a command to its end, on `slot` if there is one. Signals do not end this process meanwhile,
/// so it can give the slot back. Returns the exit code, and the signal that killed the command, if
/// one did.
pub(crate) fn run(mut command: Command, slot: Option<Slot>) -> Result<(i32, Option<i32>)> {
    survive_signals();
    see_children_end(&mut command);
    let mut jobs = Jobs::new();
    let job = match jobs.spawn(&mut command, slot) {
        Ok(job) => job,
        Err(e) => {
            let name = command.get_program().to_string_lossy();
            say!("{name}: {e}");
            let code = match e.raw_os_error() {
                Some(NOT_THERE) => 127,
                // A limit of the system, which is not the command's fault.
                Some(errno) if advice(errno).is_some() => crate::FAILED,
                _ => 126,
            };
            return Ok((code, None));
        }
    };
    follow(jobs, job)
}

/// From now on, signals that would end this process are kept for the command, and passed on to it.
pub(crate) fn survive_signals() {
    for (signal, from_processes_only) in SIGNALS {
        // A signal that is ignored, as under nohup or in a shell's background job, is ignored by
        // the command too.
        if !is_ignored(signal) {
            let _ = pass_on(signal, from_processes_only); // fails for signals without handlers
        }
    }
}

/// Passes signals on to the command until its end.
fn follow(mut jobs: Jobs, job: JobId) -> Result<(i32, Option<i32>)> {
    pass_on_to(jobs.pid(job));
    loop {
        // A process that the scan has reaped must get no signal: another may have its pid.
        let held = SignalsHeld::begin();
        if let Some(finished) = jobs.scan()?.pop() {
            pass_on_to(None);
            return Ok(match finished.outcome {
                Outcome::Ended(ExitStatus::Code(code), _) => (code, None),
                Outcome::Ended(ExitStatus::Signal(signal) | ExitStatus::Overdue(signal), _) => {
                    (128 + signal, Some(signal))
                }
                _ => (crate::FAILED, None),
            });
        }
        drop(held);
        jobs.wait(None, None)?;
    }
}

/// ENOENT, which has this number on all systems.
const NOT_THERE: i32 = 2;

/// Ends as the command did: if a signal killed it, by the same signal.
pub(crate) fn end_like((code, signal): (i32, Option<i32>)) -> i32 {
    if let Some(signal) = signal {
        let _ = signal_hook::low_level::emulate_default_handler(signal);
    }
    code
}

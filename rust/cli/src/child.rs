//! The command that is run: signals on their way to it, and its end on its way out.

use jobserver_core::platform::{is_ignored, pass_on, pass_on_to, see_children_end, SignalsHeld};
use jobserver_core::{advice, ExitStatus, JobId, Jobs, Outcome, Result, Slot};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use std::ffi::OsString;
use std::process::Command;

/// What is passed on to the command; those that a terminal sends to the command as well (true)
/// only if somebody has sent them to us. (SIGHUP a terminal may send to us alone.)
const SIGNALS: [(i32, bool); 4] =
    [(SIGINT, true), (SIGQUIT, true), (SIGTERM, false), (SIGHUP, false)];

/// The program and its arguments.
pub(crate) fn command(words: &[OsString]) -> Command {
    // clap has seen to it that there is at least one.
    let mut command = Command::new(words.first().cloned().unwrap_or_default());
    command.args(words.iter().skip(1));
    command
}

/// Runs a command to its end, on `slot` if there is one, while signals leave us alive to give
/// it back. What the exit code should be; the second is the signal that killed it, if one did.
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
                // A limit, which is not for the command to keep.
                Some(errno) if advice(errno).is_some() => crate::FAILED,
                _ => 126,
            };
            return Ok((code, None));
        }
    };
    follow(jobs, job)
}

/// From now on, what signals would end us by is kept for the command, and passed on to it.
pub(crate) fn survive_signals() {
    for (signal, from_processes_only) in SIGNALS {
        // Ignored, as nohup or a shell's background job has it: the command will ignore it too.
        if !is_ignored(signal) {
            let _ = pass_on(signal, from_processes_only); // fails for what nobody may handle
        }
    }
}

/// Passes signals on to the command until its end.
fn follow(mut jobs: Jobs, job: JobId) -> Result<(i32, Option<i32>)> {
    pass_on_to(jobs.pid(job));
    loop {
        // What the scan has reaped must get no signal any more: its pid may be another's.
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

/// Linux's and everybody's ENOENT.
const NOT_THERE: i32 = 2;

/// Ends as the command did: killed by the same signal, if it was.
pub(crate) fn end_like((code, signal): (i32, Option<i32>)) -> i32 {
    if let Some(signal) = signal {
        let _ = signal_hook::low_level::emulate_default_handler(signal);
    }
    code
}

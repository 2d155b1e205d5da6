//! Runs shell commands, several at a time, and reports how each of them ended.
//!
//! It shows the whole crate in one file: a pool of slots, a table of jobs, and one loop. The loop
//! scans, starts a command when it has a slot, and otherwise waits for the first event. For a tool
//! to use every day, with retries and remote machines, see GNU Parallel.

use jobserver_core::owner::Finished;
use jobserver_core::slots::MAX_SLOTS;
use jobserver_core::{usable_cpus, ExitStatus, JobId, Jobs, Outcome, Pool, Result, Slot};
use std::collections::HashMap;
use std::io::{self, IsTerminal, Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

const HELP: &str = "\
Runs shell commands, several at a time, and tells how each of them ended.

Usage: run_commands [-j SLOTS] [COMMAND]...

Without a COMMAND, every line of standard input is one; empty lines and lines
that begin with # are left out.

  -j, --slots SLOTS   how many may run at once [default: the CPUs that this
                      process may use]
  -h, --help          show this text

Exit code: 0 if every command exited with 0, 1 if one did not, 2 after a mistake
on the command line.

Example: run_commands -j 2 'make -C one' 'make -C two' 'make -C three'";

/// The request of the command line.
struct Plan {
    slots: usize,
    commands: Vec<String>,
}

fn main() -> ExitCode {
    let plan = match plan(std::env::args().skip(1)) {
        Ok(Some(plan)) => plan,
        Ok(None) => {
            say(HELP);
            return ExitCode::SUCCESS;
        }
        Err(complaint) => return give_up(&format!("{complaint}\nTry run_commands --help.")),
    };
    match run(&plan) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(1),
        Err(error) => give_up(&error.to_string()),
    }
}

fn give_up(complaint: &str) -> ExitCode {
    eprintln!("run_commands: {complaint}");
    ExitCode::from(2)
}

/// Writes one line to standard output. A reader that closes the pipe is no failure.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Reads the command line. Returns None if it asks for help.
fn plan(mut words: impl Iterator<Item = String>) -> std::result::Result<Option<Plan>, String> {
    let (mut slots, mut commands) = (usable_cpus(), Vec::new());
    while let Some(word) = words.next() {
        match word.as_str() {
            "-h" | "--help" => return Ok(None),
            "-j" | "--slots" => slots = number(words.next().as_deref().unwrap_or(""))?,
            "--" => commands.extend(words.by_ref()),
            option if option.starts_with('-') => return Err(format!("no such option: {option}")),
            _ => commands.push(word),
        }
    }
    if commands.is_empty() {
        commands = read_commands()?;
    }
    Ok(Some(Plan { slots, commands }))
}

fn number(text: &str) -> std::result::Result<usize, String> {
    let number = text.parse().ok().filter(|slots| (1..=MAX_SLOTS).contains(slots));
    number.ok_or_else(|| format!("-j needs a number from 1 to {MAX_SLOTS}, not {text:?}"))
}

fn read_commands() -> std::result::Result<Vec<String>, String> {
    if io::stdin().is_terminal() {
        return Err("no commands: give them as arguments, or one a line on standard input".into());
    }
    let mut text = String::new();
    io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| format!("cannot read commands from standard input: {error}"))?;
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    Ok(lines.map(str::to_owned).collect())
}

/// A running command.
struct Running<'a> {
    number: usize,
    line: &'a str,
    since: Instant,
}

/// Runs all commands, and returns how many did not exit with 0.
fn run(plan: &Plan) -> Result<usize> {
    let pool = Pool::new(plan.slots)?;
    let (mut jobs, mut running) = (Jobs::new(), HashMap::new());
    let mut waiting = (1..).zip(&plan.commands).peekable();
    let (begun, mut failures) = (Instant::now(), 0);
    loop {
        for Finished { id, outcome, .. } in jobs.scan()? {
            let well = running.remove(&id).is_some_and(|command| tell(&command, &outcome));
            failures += usize::from(!well);
        }
        if waiting.peek().is_none() {
            if running.is_empty() {
                break;
            }
        } else if let Some(slot) = pool.try_take()? {
            let Some((number, line)) = waiting.next() else { continue };
            let command = Running { number, line, since: Instant::now() };
            match start(&mut jobs, slot, line) {
                Ok(id) => drop(running.insert(id, command)),
                Err(error) => {
                    failures += 1;
                    report("FAIL", &command, &format!("  ({error})"));
                }
            }
            continue;
        }
        jobs.wait(None, None)?;
    }
    let (all, seconds) = (plan.commands.len(), begun.elapsed().as_secs_f64());
    say(&format!("{} of {all} commands succeeded in {seconds:.2} s", all - failures));
    Ok(failures)
}

fn start(jobs: &mut Jobs, slot: Slot, line: &str) -> Result<JobId> {
    // Commands do not share this program's standard input: each would miss what another one read.
    jobs.spawn(Command::new("sh").args(["-c", line]).stdin(Stdio::null()), Some(slot))
}

/// Reports how a command ended, and returns whether it succeeded.
fn tell(command: &Running<'_>, outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Ended(ExitStatus::Code(0), _) => {
            report("ok", command, "");
            return true;
        }
        Outcome::Ended(status, _) => report("FAIL", command, &format!("  ({status})")),
        other => report("FAIL", command, &format!("  ({other:?})")), // commands send no results
    }
    false
}

fn report(mark: &str, command: &Running<'_>, why: &str) {
    let Running { number, line, since } = command;
    say(&format!("{mark:<4} {number:>4} {:>8.2} s  {line}{why}", since.elapsed().as_secs_f64()));
}

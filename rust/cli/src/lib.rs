//! The `jobserver` command: a pool of slots for any program (`run`), one slot for one command
//! (`exec`), and the holders of slots (`status`).
//!
//! It is for shells, makefiles and programs in any language. `jobserver-core` defines pools and how
//! they are joined. This crate reads the command line, and passes on signals and exit codes.

/// Writes a message to the user. An error in writing is ignored, because the command matters more.
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write;
        let _ = jobserver_core::platform::within_limit(|| {
            writeln!(std::io::stderr(), "jobserver: {}", format_args!($($words)*))
        });
    }};
}

mod child;
mod exec;
mod run;
mod status;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use jobserver_core::make::Joined;
use jobserver_core::slots::Style;
use jobserver_core::Pool;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The command's name.
const NAME: &str = "jobserver";

/// The exit code of a failure of this program, and not of the command; env and nohup use the same.
const FAILED: i32 = 125;

/// Share a pool of slots among make, cargo, ninja, Python programs and others, so that
/// together they never run more jobs than it has slots.
#[derive(Parser)]
#[command(name = "jobserver", version)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Run a command with a new pool, which it and all programs below it find in MAKEFLAGS
    ///
    /// One of the slots is the command's: make uses it for one of its recipes, `jobserver exec`
    /// and Python's Jobserver() take it as any other. So together they run N jobs.
    Run {
        /// How many slots [default: the CPUs that this process may use]
        #[arg(short, long, value_name = "N")]
        jobs: Option<usize>,
        /// How MAKEFLAGS names the pool [default: what the make on PATH understands]
        ///
        /// "pipe" is for make before 4.4; "fifo" is for newer make, for cargo and for ninja.
        #[arg(long, value_enum)]
        style: Option<StyleArgument>,
        /// The command and its arguments, after `--`
        #[arg(required = true, last = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// Wait for a slot of the pool in force, run a command on it, and give it back
    Exec {
        /// The command and its arguments, after `--`
        #[arg(required = true, last = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// Show the slots of the pool in force, or of all pools of this user, and who holds them
    Status,
    /// Print a script by which a shell completes the words of this command
    ///
    /// For bash: eval "$(jobserver completion bash)"
    Completion {
        /// Which shell
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Write the manual pages into a folder
    #[command(hide = true)]
    Man { folder: PathBuf },
}

#[derive(Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Clone, Copy, ValueEnum)]
enum StyleArgument {
    Fifo,
    Pipe,
}

fn style(asked: Option<StyleArgument>) -> Style {
    match asked {
        Some(StyleArgument::Fifo) => Style::Fifo,
        Some(StyleArgument::Pipe) => Style::Pipe,
        None => Style::for_make(),
    }
}

/// Runs the `jobserver` command with these arguments, the first of which is the program's name.
/// Returns the exit code: that of the user's command; 125 for a failure of this program; 126 if the
/// user's command cannot be run; 127 if it is not there; 2 for wrong arguments.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> i32 {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(told) => {
            let _ = told.print();
            if told.kind() == clap::error::ErrorKind::UnknownArgument {
                say!("the command to run comes after `--`: jobserver exec -- gzip large.txt");
            }
            return told.exit_code();
        }
    };
    let done = match arguments.action {
        Action::Run { jobs, style: asked, command } => run::run(jobs, style(asked), &command),
        Action::Exec { command } => exec::exec(&command),
        Action::Status => status::status(),
        Action::Completion { shell } => complete(shell),
        Action::Man { folder } => write_manual(&folder),
    };
    done.unwrap_or_else(|e| {
        say!("{e}");
        FAILED
    })
}

fn complete(shell: Shell) -> jobserver_core::Result<i32> {
    use clap_complete::{generate, shells};
    let (mut command, mut text) = (Arguments::command(), Vec::new());
    match shell {
        Shell::Bash => generate(shells::Bash, &mut command, NAME, &mut text),
        Shell::Zsh => generate(shells::Zsh, &mut command, NAME, &mut text),
        Shell::Fish => generate(shells::Fish, &mut command, NAME, &mut text),
    }
    match io::stdout().write_all(&text).and_then(|()| io::stdout().flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(jobserver_core::Error::refused("cannot print", e))
        }
        _ => Ok(0),
    }
}

fn write_manual(folder: &Path) -> jobserver_core::Result<i32> {
    let command = Arguments::command().disable_help_subcommand(true);
    clap_mangen::generate_to(command, folder)
        .map_err(|e| jobserver_core::Error::refused("cannot write the manual", e))?;
    Ok(0)
}

/// The pool in force, None if there is none; or the reason why it cannot be joined.
fn pool_in_force() -> Result<Option<Pool>, String> {
    match Joined::by_environment() {
        Joined::Nothing | Joined::OneJob => Ok(None),
        Joined::Pool(pool) => Ok(Some(pool)),
        Joined::Refused(why) | Joined::OutOfReach(why) => Err(why),
    }
}

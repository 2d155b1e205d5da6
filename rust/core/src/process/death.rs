//! Deaths: how a process ended, whether its time limit was the reason, and the words for that.

use crate::platform::{alarm_signal, time_limit_signal};
use rustix::process::WaitIdStatus;
use std::fmt;
use std::time::Duration;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
    /// It passed its time limit (see [`crate::platform::end_after`]) and did not end by the signal
    /// of that limit, and this signal killed it.
    Overdue(i32),
    /// It ended, but how is not known: another part of the program reaped it, or its fork server
    /// died before it.
    Unknown,
}

impl ExitStatus {
    pub(crate) fn from_wait(status: &WaitIdStatus) -> ExitStatus {
        if let Some(code) = status.exit_status() {
            ExitStatus::Code(code)
        } else if let Some(signal) = status.terminating_signal() {
            ExitStatus::Signal(signal)
        } else {
            ExitStatus::Unknown
        }
    }

    /// Returns whether a process ended so because of its time limit. `ran` is for how long it has
    /// run by now.
    pub fn is_by_limit(self, limit: Duration, ran: Duration) -> bool {
        match self {
            ExitStatus::Overdue(_) => true,
            ExitStatus::Signal(signal) if signal == time_limit_signal() => true,
            // A process that has become another program leaves no other trace. If the signal came
            // before the limit, it was an alarm of the program's own.
            ExitStatus::Signal(signal) if signal == alarm_signal() => ran >= limit,
            _ => false,
        }
    }

    /// Converts to a word for a channel: the kind and its value.
    pub(crate) fn to_word(self) -> u64 {
        let (kind, value) = match self {
            ExitStatus::Code(code) => (0, code),
            ExitStatus::Signal(signal) => (1, signal),
            ExitStatus::Unknown => (2, 0),
            ExitStatus::Overdue(signal) => (3, signal),
        };
        kind << 32 | u64::from(value as u32)
    }

    /// Converts back from [`ExitStatus::to_word`].
    pub(crate) fn from_word(word: u64) -> ExitStatus {
        let value = word as u32 as i32;
        match word >> 32 {
            0 => ExitStatus::Code(value),
            1 => ExitStatus::Signal(value),
            3 => ExitStatus::Overdue(value),
            _ => ExitStatus::Unknown,
        }
    }
}

/// Completes the sentence "job 4242 ...".
impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            ExitStatus::Code(code) => write!(f, "exited with code {code}"),
            ExitStatus::Signal(signal) | ExitStatus::Overdue(signal) => match signal_name(signal) {
                Some(name) => write!(f, "was killed by {name}"),
                None => write!(f, "was killed by signal {signal}"),
            },
            ExitStatus::Unknown => {
                write!(f, "ended, but how is unknown: other code reaped it, this program ignores SIGCHLD, or the helper that started it was killed")
            }
        }
    }
}

fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        libc::SIGABRT => "SIGABRT",
        libc::SIGALRM => "SIGALRM",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGHUP => "SIGHUP",
        libc::SIGILL => "SIGILL",
        libc::SIGINT => "SIGINT",
        libc::SIGKILL => "SIGKILL",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGPROF => "SIGPROF",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGSYS => "SIGSYS",
        libc::SIGTERM => "SIGTERM",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGUSR1 => "SIGUSR1",
        libc::SIGUSR2 => "SIGUSR2",
        libc::SIGVTALRM => "SIGVTALRM",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGXFSZ => "SIGXFSZ",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_reads_as_the_rest_of_a_sentence() {
        assert_eq!(ExitStatus::Signal(9).to_string(), "was killed by SIGKILL");
        assert_eq!(ExitStatus::Signal(40).to_string(), "was killed by signal 40");
        assert_eq!(ExitStatus::Code(3).to_string(), "exited with code 3");
    }

    #[test]
    fn an_end_survives_the_wire() {
        let signals = [ExitStatus::Signal(11), ExitStatus::Overdue(9)];
        for status in signals.into_iter().chain([ExitStatus::Code(-7), ExitStatus::Unknown]) {
            assert_eq!(ExitStatus::from_word(status.to_word()), status);
        }
    }
}

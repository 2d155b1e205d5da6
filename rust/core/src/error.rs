//! The one error type: what was being done, what the system said, and what to do about it.
//!
//! Not for deaths of jobs: those are outcomes, not errors.

use rustix::process::Pid;
use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

/// What this crate's functions return.
pub type Result<T> = std::result::Result<T, Error>;

/// Which kind of failure an [`Error`] is, for callers that act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller passed something that cannot be; nothing was started.
    InvalidInput,
    /// The system refused; [`Error::raw_os_error`] says how.
    System,
    /// This program has closed a descriptor of this crate's, or has put another file in its place.
    DescriptorLost,
    /// The fork server has gone away; starting a new one is the remedy.
    ForkServerGone,
    /// This process is in another pid or time namespace than what it was to use, and so cannot
    /// tell which of the processes that are named there live.
    Elsewhere,
    /// The bytes on a channel do not follow the format: a bug, or a stranger's writing.
    Protocol,
    /// The owner is closed, or is closing: nothing is started any more.
    Closed,
    /// The caller is where it cannot be served: in a process that was forked in the midst of a call, or
    /// within a launch that it would wait for.
    WrongPlace,
}

/// A failure, with what was being done and the system's own error as its source.
#[derive(Debug, thiserror::Error)]
#[error("{doing}{}{}{}", .place.as_ref().map(|p| format!(" in {}", p.display())).unwrap_or_default(),
        .source.as_ref().map(|e| format!(": {}", words(e))).unwrap_or_default(),
        self.advice().map(|a| format!("; {a}")).unwrap_or_default())]
pub struct Error {
    kind: ErrorKind,
    doing: Cow<'static, str>,
    /// In which folder, if that matters.
    place: Option<PathBuf>,
    source: Option<io::Error>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, doing: &'static str) -> Self {
        Error { kind, doing: doing.into(), place: None, source: None }
    }

    fn saying(kind: ErrorKind, words: String) -> Error {
        Error { kind, doing: words.into(), place: None, source: None }
    }

    /// The system refused while `doing` this in a folder that the user has chosen.
    pub(crate) fn at(doing: &'static str, place: &Path, source: io::Error) -> Error {
        Error { place: Some(place.to_owned()), ..Error::refused(doing, source) }
    }

    /// The owner starts nothing any more.
    pub(crate) fn closed() -> Error {
        Error::new(ErrorKind::Closed, "this Jobserver is closed")
    }

    /// The owner cannot be closed by a thread that it would wait for.
    pub(crate) fn closed_within_launch() -> Error {
        Error::new(
            ErrorKind::WrongPlace,
            "close() was called within a submission of the same thread, as by a signal handler: it \
             would wait for itself; raise an exception there, and close later",
        )
    }

    /// This process was forked from the owner's in the midst of a call.
    pub(crate) fn forked_within_call(owner: Pid) -> Error {
        Error::saying(
            ErrorKind::WrongPlace,
            format!(
                "this process was forked from process {} while that was in a call of its Jobserver, \
                 whose jobs are not this process's: it can make calls of its own",
                owner.as_raw_nonzero()
            ),
        )
    }

    /// In a new job: its owner died.
    pub(crate) fn owner_gone() -> Error {
        let gone = "the owner of this job died before the job had begun";
        Error::new(ErrorKind::WrongPlace, gone)
    }

    /// The caller passed a number that is no signal's.
    pub(crate) fn no_signal(number: i32) -> Error {
        Error::saying(ErrorKind::InvalidInput, format!("there is no signal {number}"))
    }

    /// A job's channel brought a frame that a job does not send.
    pub(crate) fn not_a_result() -> Error {
        Error::new(ErrorKind::Protocol, "a job sent something that is not a result")
    }

    /// The fork server has ended, in this way.
    pub(crate) fn fork_server_ended(how: impl std::fmt::Display) -> Error {
        Error::saying(ErrorKind::ForkServerGone, format!("the fork server {how}"))
    }

    /// For `map_err`: the system refused while `doing`.
    pub(crate) fn system<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Error {
        move |source| {
            let mut error = Error::refused(doing, source.into());
            // The number is of our making, and was good.
            if error.raw_os_error() == Some(libc::EBADF) {
                error.kind = ErrorKind::DescriptorLost;
            }
            error
        }
    }

    /// For `map_err`: a descriptor of this crate's is not what it was.
    pub fn lost<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Error {
        Error::system(doing)
    }

    /// The system refused a call that was made outside this crate, or with a descriptor from
    /// there, while `doing`.
    pub fn refused(doing: &'static str, source: io::Error) -> Error {
        Error { kind: ErrorKind::System, doing: doing.into(), place: None, source: Some(source) }
    }

    /// Which kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The system's error number, when the system refused.
    pub fn raw_os_error(&self) -> Option<i32> {
        self.source.as_ref()?.raw_os_error()
    }

    /// Whether it says that the other side of a channel is gone.
    pub fn is_hang_up(&self) -> bool {
        matches!(self.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN))
    }

    fn advice(&self) -> Option<&'static str> {
        if self.kind == ErrorKind::DescriptorLost {
            return Some(
                "this program has closed descriptors of jobserver's, or opened other files in \
                 their place: let it close only what it has opened itself",
            );
        }
        advice(self.raw_os_error()?)
    }
}

/// The system's words without Rust's "(os error 24)": who wants the number asks for it, and
/// Python says it by itself.
fn words(error: &io::Error) -> String {
    let mut words = error.to_string();
    words.truncate(words.find(" (os error").unwrap_or(words.len()));
    words
}

/// Which limit an error number of the system means for this crate, and how to raise it.
pub fn advice(errno: i32) -> Option<&'static str> {
    Some(match errno {
            libc::EMFILE | libc::ETOOMANYREFS => {
                "this process has as many descriptors open as it may: raise `ulimit -n` (RLIMIT_NOFILE), or keep fewer jobs outstanding"
            }
            libc::ENFILE => {
                "the whole system has as many files open as it may: raise the sysctl fs.file-max"
            }
            libc::EAGAIN => {
                "the number of processes is limited: raise `ulimit -u` (RLIMIT_NPROC), the cgroup's pids.max or the sysctl kernel.pid_max"
            }
            libc::ENOMEM => {
                "memory is short: raise the memory limit (the cgroup's memory.max, `ulimit -v`) or allow overcommit (sysctl vm.overcommit_memory)"
            }
            libc::ENOSPC => {
                "the file system for memory files is full: free space in /dev/shm or $TMPDIR, or make it larger"
            }
            libc::EDQUOT => {
                "the disk quota for memory files is used up: free space in /dev/shm or $TMPDIR, or raise the quota"
            }
            libc::EFBIG => {
                "a file of this process may not be so large: raise `ulimit -f` (RLIMIT_FSIZE)"
            }
            _ => return None,
        })
}

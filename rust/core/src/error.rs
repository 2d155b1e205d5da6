//! The error type: what was being done, what the system said, and what to do about it.
//!
//! Deaths of jobs are outcomes and not errors.

use rustix::process::Pid;
use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

/// The result type of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// The kind of failure of an [`Error`], for callers that act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller passed an invalid value; nothing was started.
    InvalidInput,
    /// The system refused; [`Error::raw_os_error`] gives its error number.
    System,
    /// Code in this program has closed a descriptor of this crate's, or has put another file in its
    /// place. The fault is that code's.
    DescriptorLost,
    /// The fork server has ended; a new one can be started.
    ForkServerGone,
    /// This process is in another pid or time namespace than the pool, and so cannot tell which of
    /// the pool's holders live.
    Elsewhere,
    /// The bytes on a channel do not follow the format: a bug, or another program has written them.
    /// Also a ledger that is damaged or of another version.
    Protocol,
    /// The owner is closed or closing: it starts nothing any more.
    Closed,
    /// This system has no means for it.
    Unsupported,
    /// The call is not possible here: the process was forked in the middle of a call, or the thread
    /// is within a launch that the call would wait for, or the owner of this new job has died.
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
    /// The folder, if it matters.
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

    /// The owner is closed.
    pub(crate) fn closed() -> Error {
        Error::new(ErrorKind::Closed, "this Jobserver is closed")
    }

    /// The owner cannot be closed by a thread that the close would wait for.
    pub(crate) fn closed_within_launch() -> Error {
        Error::new(
            ErrorKind::WrongPlace,
            "close() was called within a submission of the same thread, as by a signal handler: it \
             would wait for itself; raise an exception there, and close later",
        )
    }

    /// This process was forked from the owner's in the middle of a call.
    pub(crate) fn forked_within_call(owner: Pid) -> Error {
        Error::saying(
            ErrorKind::WrongPlace,
            format!(
                "this process was forked from process {} while that was in a call of its Jobserver, \
                 whose jobs are not this process's; this process can make calls of its own",
                owner.as_raw_nonzero()
            ),
        )
    }

    /// In a new job: its owner died.
    pub(crate) fn owner_gone() -> Error {
        let gone = "the owner of this job died before the job had begun";
        Error::new(ErrorKind::WrongPlace, gone)
    }

    /// The caller passed a number that is no signal.
    pub(crate) fn no_signal(number: i32) -> Error {
        Error::saying(ErrorKind::InvalidInput, format!("there is no signal {number}"))
    }

    /// A job's channel carried a frame that a job does not send.
    pub(crate) fn not_a_result() -> Error {
        Error::new(ErrorKind::Protocol, "a job sent a frame that is not a result")
    }

    /// The fork server has ended; `how` says in which way.
    pub(crate) fn fork_server_ended(how: impl std::fmt::Display) -> Error {
        Error::saying(ErrorKind::ForkServerGone, format!("the fork server {how}"))
    }

    /// For `map_err`: the system refused while `doing`.
    pub(crate) fn system<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Error {
        move |source| {
            let mut error = Error::refused(doing, source.into());
            // The number came from this crate, and was valid.
            if error.raw_os_error() == Some(libc::EBADF) {
                error.kind = ErrorKind::DescriptorLost;
            }
            error
        }
    }

    /// For `map_err`: a descriptor of this crate's no longer refers to its file.
    pub fn lost<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Error {
        Error::system(doing)
    }

    /// The system refused a call that was made outside this crate, or with a descriptor from
    /// there, while `doing`.
    pub fn refused(doing: &'static str, source: io::Error) -> Error {
        Error { kind: ErrorKind::System, doing: doing.into(), place: None, source: Some(source) }
    }

    /// Returns the kind of failure.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns the system's error number, if the system refused.
    pub fn raw_os_error(&self) -> Option<i32> {
        self.source.as_ref()?.raw_os_error()
    }

    /// Returns whether it means that the other side of a channel is gone.
    pub fn is_hang_up(&self) -> bool {
        matches!(self.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN))
    }

    fn advice(&self) -> Option<&'static str> {
        if self.kind == ErrorKind::DescriptorLost {
            return Some(
                "this program has closed descriptors of jobserver's, or opened other files in \
                 their place: a program may close only descriptors that it has opened itself",
            );
        }
        advice(self.raw_os_error()?)
    }
}

/// Returns the system's words without Rust's "(os error 24)". A caller that wants the number asks
/// for it, and Python shows it by itself.
fn words(error: &io::Error) -> String {
    let mut words = error.to_string();
    words.truncate(words.find(" (os error").unwrap_or(words.len()));
    words
}

/// Returns which limit an error number of the system means for this crate, and how to raise it;
/// None for other numbers.
pub fn advice(errno: i32) -> Option<&'static str> {
    Some(match errno {
            libc::EMFILE | libc::ETOOMANYREFS => {
                "this process has reached its limit of open descriptors: raise `ulimit -n` (RLIMIT_NOFILE), or keep fewer jobs outstanding"
            }
            libc::ENFILE => {
                "the whole system has reached its limit of open files: raise the sysctl fs.file-max"
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
                "a file of this process would exceed its size limit: raise `ulimit -f` (RLIMIT_FSIZE)"
            }
            _ => return None,
        })
}

//! The name of a pool's pipe for programs: the value of make's option `--jobserver-auth`.

use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The name of a pool's pipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// A named pipe. A program opens it to read and to write.
    Fifo(PathBuf),
    /// The two ends of a pipe that the job inherits. They may be closed, or be other files by now:
    /// make leaves them open only for recipes that it knows to run make.
    Pipe {
        /// The read end; not negative.
        read: RawFd,
        /// The write end; not negative.
        write: RawFd,
    },
}

/// The two ends of a pool's pipe, as MAKEFLAGS names them: (read, write).
pub type Ends = (RawFd, RawFd);

/// The meaning of a value of the option.
pub(crate) enum AuthValue {
    Pool(Auth),
    /// Its descriptors are negative: make says that the pool is not for this program.
    Disabled,
    /// The form is not known here.
    Unknown,
}

impl AuthValue {
    pub(crate) fn read(value: &[u8]) -> AuthValue {
        if let Some(path) = value.strip_prefix(b"fifo:") {
            return AuthValue::Pool(Auth::Fifo(OsStr::from_bytes(path).into()));
        }
        match descriptors(value) {
            Some((read, write)) if read >= 0 && write >= 0 => {
                AuthValue::Pool(Auth::Pipe { read, write })
            }
            Some(_) => AuthValue::Disabled,
            None => AuthValue::Unknown,
        }
    }
}

fn descriptors(value: &[u8]) -> Option<(RawFd, RawFd)> {
    let (read, write) = std::str::from_utf8(value).ok()?.split_once(',')?;
    Some((read.parse().ok()?, write.parse().ok()?))
}

impl Auth {
    /// Converts to the value of a jobserver option.
    pub fn to_os_string(&self) -> OsString {
        match self {
            Auth::Fifo(path) => {
                let mut name = OsString::from("fifo:");
                name.push(path);
                name
            }
            Auth::Pipe { read, write } => format!("{read},{write}").into(),
        }
    }

    /// Converts from the value of a jobserver option. Returns None if the value names no pool that
    /// can be joined.
    pub fn parse(value: &OsStr) -> Option<Auth> {
        match AuthValue::read(value.as_bytes()) {
            AuthValue::Pool(auth) => Some(auth),
            AuthValue::Disabled | AuthValue::Unknown => None,
        }
    }
}

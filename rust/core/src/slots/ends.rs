//! The two ends of a pool's pipe, where MAKEFLAGS names a pool by descriptors.

use super::auth::{Auth, Ends};
use super::pool::Pool;
use super::style::Style;
use crate::error::{Error, Result};
use crate::platform::{is_free_or, open_for_others, open_in_place};
use rustix::fs::OFlags;
use std::ffi::CString;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStringExt;

/// Where new processes are to have the ends that MAKEFLAGS names: each opens them for itself, so that
/// what a program does to one touches nobody else.
#[derive(Debug, Clone)]
pub enum Place {
    /// The ends of a pool of others.
    Theirs(Ends),
    /// Numbers that were free, or this pool's already; and the fifo, by a path that a new process need
    /// not make first.
    Ours(Ends, CString),
}

impl Place {
    /// Their numbers.
    pub fn ends(&self) -> Ends {
        match self {
            Place::Theirs(ends) | Place::Ours(ends, _) => *ends,
        }
    }
}

/// The highest numbers for which the kernel's table of a process need not grow, and which the user's
/// files have last.
const PLACES: std::ops::Range<RawFd> = 32..64;

const OPENING: &str = "cannot open the pool to programs below";

/// As make has it: its clients, gcc among them, rely on a read that does not wait. To read and write,
/// or the opening would wait.
const READ_END: OFlags = OFlags::RDWR.union(OFlags::NONBLOCK);

const WRITE_END: OFlags = OFlags::RDWR;

impl Pool {
    /// The two ends that MAKEFLAGS is to name, if any; those of a pool of ours are opened for that,
    /// and left open for every program below.
    pub fn open_ends(&self) -> Result<Option<Ends>> {
        match (self.auth(), self.style()) {
            (Auth::Pipe { read, write }, _) => Ok(Some((*read, *write))),
            (_, Style::Fifo) => Ok(None),
            (_, Style::Pipe | Style::Both) => {
                let fifo = self.bank.home.fifo();
                let open = |how| open_for_others(&fifo, how).map_err(Error::system(OPENING));
                Ok(Some((open(READ_END)?, open(WRITE_END)?)))
            }
        }
    }

    /// Where new processes are to have those ends, as far as it can be known beforehand.
    pub fn place_for_ends(&self) -> Option<Place> {
        if let Auth::Pipe { read, write } = self.auth() {
            return Some(Place::Theirs((*read, *write)));
        }
        if self.style() == Style::Fifo {
            return None;
        }
        let fifo = self.bank.pipe.shared_read_end();
        let mut free = PLACES.rev().filter(|number| is_free_or(*number, &fifo));
        let path = CString::new(self.bank.home.fifo().into_os_string().into_vec()).ok()?;
        Some(Place::Ours((free.next()?, free.next()?), path))
    }

    /// In a new process, before it has threads: opens the ends there. None if there is something else
    /// by now.
    pub fn open_ends_at(&self, place: &Place) -> Option<Ends> {
        let (read, write) = place.ends();
        let opened = match place {
            Place::Theirs(_) => true,
            Place::Ours(_, fifo) => {
                let open = |end, how| open_in_place(end, fifo, how).is_ok_and(|opened| opened);
                // Not one without the other.
                is_free_or(write, &self.bank.pipe.shared_read_end())
                    && open(read, READ_END)
                    && open(write, WRITE_END)
            }
        };
        opened.then_some((read, write))
    }
}

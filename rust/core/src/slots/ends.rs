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

/// The numbers of the ends that MAKEFLAGS names, for new processes. Each process opens the ends for
/// itself: a program that changes its own ends does not change those of other programs.
#[derive(Debug, Clone)]
pub enum Place {
    /// The ends of make's pool.
    Theirs(Ends),
    /// Numbers that were free, or were this pool's already; and the path of the fifo, made
    /// beforehand so that a new process need not make it.
    Ours(Ends, CString),
}

impl Place {
    /// Returns the numbers of the ends.
    pub fn ends(&self) -> Ends {
        match self {
            Place::Theirs(ends) | Place::Ours(ends, _) => *ends,
        }
    }
}

/// The highest numbers for which the kernel need not grow a process's descriptor table. The user's
/// files get these numbers last.
const PLACES: std::ops::Range<RawFd> = 32..64;

const OPENING: &str = "cannot open the pool to programs below";

/// As in make: its clients, gcc among them, rely on a read that does not wait. It is opened to read
/// and write, or the opening would wait.
const READ_END: OFlags = OFlags::RDWR.union(OFlags::NONBLOCK);

const WRITE_END: OFlags = OFlags::RDWR;

impl Pool {
    /// Returns the two ends that MAKEFLAGS must name, if any. The ends of a pool of ours are opened
    /// for this, and stay open for every program below.
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

    /// Returns where new processes must have those ends, as far as this can be known beforehand.
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

    /// In a new process, before it has threads: opens the ends at that place. Returns None if
    /// another file has one of the numbers by now.
    pub fn open_ends_at(&self, place: &Place) -> Option<Ends> {
        let (read, write) = place.ends();
        let opened = match place {
            Place::Theirs(_) => true,
            Place::Ours(_, fifo) => {
                let open = |end, how| open_in_place(end, fifo, how).is_ok_and(|opened| opened);
                // Both ends are opened, or none.
                is_free_or(write, &self.bank.pipe.shared_read_end())
                    && open(read, READ_END)
                    && open(write, WRITE_END)
            }
        };
        opened.then_some((read, write))
    }
}

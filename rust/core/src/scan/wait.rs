//! Waiting: one system call on everything that could end the wait.
//!
//! A [`Wait`] holds what it waits for, so that the waiting thread needs no lock while it
//! sleeps. Another thread that handles what we wait for (and so makes the set silent
//! again) rings our bell. A signal ends the wait early: its handlers are the caller's.

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// Something may be ready: scan.
    Ready,
    /// The time is up.
    TimedOut,
    /// A signal was delivered to this thread: run its handlers, then wait again.
    Interrupted,
}

/// For how long to look before a sleep, where an answer is expected soon. Measured: at 20 us most
/// answers of idle processes come too late, at 50 us none does, and more gains nothing.
const A_MOMENT: Duration = Duration::from_micros(50);

/// One wait, prepared; it borrows nothing.
#[derive(Debug)]
pub struct Wait {
    pub(crate) descriptors: Vec<Arc<OwnedFd>>,
    /// The longest time to sleep before something must be looked at all the same.
    pub(crate) look_after: Option<Duration>,
}

impl Wait {
    /// A wait for one descriptor to become readable.
    pub(crate) fn on(descriptor: &Arc<OwnedFd>) -> Wait {
        Wait { descriptors: vec![Arc::clone(descriptor)], look_after: None }
    }

    /// Looks, for a moment, whether something is ready, and leaves the CPU to whoever else wants
    /// it meanwhile. Where an answer is a few microseconds away, to sleep and to be woken takes
    /// longer than the answer: on a virtual machine, 40 us for each of two processes.
    ///
    /// Signals are the caller's to look for, before a sleep.
    pub fn spin(&self) -> bool {
        let mut fds: Vec<_> = self.poll_fds().collect();
        let until = Instant::now() + A_MOMENT;
        loop {
            match poll(&mut fds, Some(&Timespec::default())) {
                Ok(0) if Instant::now() < until => std::thread::yield_now(),
                Ok(ready) => return ready > 0,
                Err(_) => return false, // the sleep will meet it too
            }
        }
    }

    fn poll_fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.descriptors.iter().map(|fd| PollFd::new(fd, PollFlags::IN))
    }

    /// Sleeps until something is ready, a signal comes, or `deadline`.
    pub fn block(&self, deadline: Option<Instant>) -> Result<Woken> {
        let mut fds: Vec<_> = self.poll_fds().collect();
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let look = self.look_after.filter(|look| left.is_none_or(|left| *look < left));
        let timeout = look.or(left).and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) if look.is_none() => Ok(Woken::TimedOut),
            Ok(_) => Ok(Woken::Ready),
            Err(Errno::INTR) => Ok(Woken::Interrupted),
            Err(e) => Err(Error::system("cannot wait for jobs")(e)),
        }
    }
}

/// What a thread rings to wake another from its [`Wait`]: a pipe, one byte a ring.
#[derive(Debug)]
pub(crate) struct Bell {
    pub(crate) read: Arc<OwnedFd>,
    write: OwnedFd,
}

impl Bell {
    pub(crate) fn new() -> Result<Bell> {
        let (read, write) = crate::sys::pipe().map_err(Error::system("cannot wait for jobs"))?;
        Ok(Bell { read: Arc::new(read), write })
    }

    pub(crate) fn ring(&self) {
        // Rung at most once a wait, so the pipe is never full; we hold its read end.
        let _ = rustix::io::retry_on_intr(|| rustix::io::write(&self.write, b"!"));
    }
}

//! Waiting: one system call on everything that could end the wait.
//!
//! A [`Wait`] holds what it waits for, so that the waiting thread needs no lock while it
//! sleeps. Another thread that handles what we wait for (and so makes the set silent
//! again) rings our bell. A signal ends the wait early: its handlers are the caller's.

use crate::error::{Error, Result};
use crate::platform::Descriptor;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fd::AsFd;
use rustix::io::{ioctl_fionread, Errno};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a sleep may last while something can only be seen by looking: a death that no
/// descriptor tells of, for one.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// Something may be ready: scan.
    Ready,
    /// The time is up.
    TimedOut,
    /// A signal was delivered to this thread: run its handlers, then wait again.
    Interrupted,
    /// A slot was free, but another process has taken it: look for signals, then wait again.
    Missed,
}

/// For how long to look before a sleep, where an answer is expected soon. Measured: at 20 us most
/// answers of idle processes come too late, at 50 us none does, and more gains nothing.
const SPIN_TIME: Duration = Duration::from_micros(50);

const WAITING: &str = "cannot wait for jobs";

/// One wait, prepared; it borrows nothing.
#[derive(Debug)]
pub struct Wait {
    descriptors: Vec<Arc<Descriptor>>,
    /// The read ends of token pipes, whose bytes may be gone by the time that we wake.
    pipes: Vec<Arc<Descriptor>>,
    /// When something must be looked at in any case.
    look_at: Option<Instant>,
    /// Whether this process has just heard by what it waits for, or spoken: see [`Wait::briefly`].
    trusted: bool,
}

impl Wait {
    /// A wait for one of these to become readable, or for a look after so long a time.
    pub(crate) fn new(descriptors: Vec<Arc<Descriptor>>, look_after: Option<Duration>) -> Wait {
        let look_at = look_after.map(|after| Instant::now() + after);
        Wait { descriptors, pipes: Vec::new(), look_at, trusted: false }
    }

    /// A wait for one descriptor to become readable.
    pub(crate) fn on(descriptor: &Arc<Descriptor>) -> Wait {
        Wait::new(vec![Arc::clone(descriptor)], None)
    }

    /// The same wait, and for a token in one of these pipes.
    pub(crate) fn or_token(self, pipes: Vec<Arc<Descriptor>>) -> Wait {
        Wait { pipes, ..self }
    }

    /// The same wait, which takes its descriptors for intact, to spare the calls that ask. For one
    /// that has an end soon, after which the next asks, by a caller who has just used them.
    pub(crate) fn briefly(self) -> Wait {
        Wait { trusted: true, ..self }
    }

    /// Looks, for a moment, whether something is ready, and leaves the CPU to whoever else wants
    /// it meanwhile. Where an answer is a few microseconds away, to sleep and to be woken takes
    /// longer than the answer: on a virtual machine, 40 us for each of two processes.
    ///
    /// Signals are the caller's to look for, before a sleep.
    pub fn spin(&self) -> bool {
        self.spin_until_ready().is_some()
    }

    /// The same; false too if what is ready is a descriptor that this program has closed, of which
    /// the sleep tells.
    pub(crate) fn spin_intact(&self) -> bool {
        let ready =
            |fd: &Descriptor, polled: &PollFd<'_>| polled.revents().is_empty() || fd.is_intact();
        let fds = self.spin_until_ready();
        fds.is_some_and(|fds| self.all().zip(&fds).all(|(fd, polled)| ready(fd, polled)))
    }

    fn spin_until_ready(&self) -> Option<Vec<PollFd<'_>>> {
        let mut fds: Vec<_> = self.poll_fds().collect();
        let until = Instant::now() + SPIN_TIME;
        loop {
            match poll(&mut fds, Some(&Timespec::default())) {
                Ok(0) if Instant::now() < until => std::thread::yield_now(),
                Ok(0) => return None,
                Ok(_) => return Some(fds),
                Err(_) => return None, // the sleep will meet it too
            }
        }
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Descriptor>> {
        self.descriptors.iter().chain(&self.pipes)
    }

    fn poll_fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.all().map(|fd| PollFd::new(fd, PollFlags::IN))
    }

    /// Sleeps until something is ready, a signal comes, or `deadline`.
    ///
    /// # Errors
    ///
    /// The system refuses; or one of the descriptors is closed, or another file's, which would be
    /// ready for ever, or never.
    pub fn block(&self, deadline: Option<Instant>) -> Result<Woken> {
        if !self.trusted && !self.all().all(|fd| fd.is_intact()) {
            return Err(Error::system(WAITING)(Errno::BADF));
        }
        let mut fds: Vec<_> = self.poll_fds().collect();
        let until = self.look_at.into_iter().chain(deadline).min();
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) if until == deadline => Ok(Woken::TimedOut),
            Ok(0) => Ok(Woken::Ready),
            Ok(_) if self.is_missed(&fds) => Ok(Woken::Missed),
            Ok(_) => Ok(Woken::Ready),
            Err(Errno::INTR) => Ok(Woken::Interrupted),
            Err(e) => Err(Error::system(WAITING)(e)),
        }
    }

    /// Whether all that woke us were tokens, which are gone. Where many wait for few slots that is
    /// mostly so, and this is quicker found out than by a scan.
    fn is_missed(&self, polled: &[PollFd<'_>]) -> bool {
        let (descriptors, pipes) = polled.split_at(self.descriptors.len());
        descriptors.iter().all(|polled| polled.revents().is_empty())
            && self.pipes.iter().all(|pipe| pipe.is_intact())
            && pipes.iter().all(|pipe| ioctl_fionread(pipe.as_fd()).is_ok_and(|bytes| bytes == 0))
    }
}

/// What a thread rings to wake another from its [`Wait`]: a pipe, one byte a ring.
#[derive(Debug)]
pub(crate) struct Bell {
    pub(crate) read: Arc<Descriptor>,
    write: Descriptor,
}

impl Bell {
    pub(crate) fn new() -> Result<Bell> {
        let (read, write) = crate::platform::pipe().map_err(Error::system(WAITING))?;
        Ok(Bell { read: Arc::new(read), write })
    }

    pub(crate) fn ring(&self) {
        // Rung at most once a wait, so the pipe is never full; we hold its read end. If somebody has
        // closed this end, all that wait for it are awake.
        if let Ok(write) = self.write.intact() {
            let _ = rustix::io::retry_on_intr(|| rustix::io::write(write, b"!"));
        }
    }

    pub(crate) fn is_intact(&self) -> bool {
        self.read.is_intact() && self.write.is_intact()
    }
}

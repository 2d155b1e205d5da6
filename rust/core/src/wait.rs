//! Waiting: one system call on everything that can end the wait.
//!
//! A [`Wait`] holds references to the descriptors that it waits for, so the waiting thread needs no
//! lock while it sleeps. If another thread handles a ready descriptor, the set becomes silent
//! again, so that thread rings the bell of the waiting one. A signal ends the wait early; the
//! caller runs its handlers.

use crate::error::{Error, Result};
use crate::platform::Descriptor;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fd::AsFd;
use rustix::io::{ioctl_fionread, retry_on_intr, Errno};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest sleep while some change shows on no descriptor and must be found by a look: a death
/// without a pidfd, for example.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// A descriptor may be ready: the caller must scan.
    Ready,
    /// The deadline has passed.
    TimedOut,
    /// A signal was delivered to this thread: the caller must run its handlers, then wait again.
    Interrupted,
    /// A slot was free, but another process has taken it: the caller must check for signals, then
    /// wait again.
    Missed,
}

/// How long to look before a sleep, where an answer is expected soon. Measured: at 20 us most
/// answers of idle workers come too late, at 50 us none does, and more gains nothing.
const SPIN_TIME: Duration = Duration::from_micros(50);

const WAITING: &str = "cannot wait for jobs";

/// One prepared wait. It shares the ownership of its descriptors.
#[derive(Debug)]
pub struct Wait {
    descriptors: Vec<Arc<Descriptor>>,
    /// The read ends of token pipes, whose bytes may be gone when the thread wakes.
    pipes: Vec<Arc<Descriptor>>,
    /// The time at which the wait must end for a look.
    look_at: Option<Instant>,
    /// Whether the descriptors count as intact without a check: see [`Wait::briefly`].
    trusted: bool,
}

impl Wait {
    /// Makes a wait for one of these to become readable, or for a look after this time.
    pub(crate) fn new(descriptors: Vec<Arc<Descriptor>>, look_after: Option<Duration>) -> Wait {
        let look_at = look_after.map(|after| Instant::now() + after);
        Wait { descriptors, pipes: Vec::new(), look_at, trusted: false }
    }

    /// Makes a wait for one descriptor to become readable.
    pub(crate) fn on(descriptor: &Arc<Descriptor>) -> Wait {
        Wait::new(vec![Arc::clone(descriptor)], None)
    }

    /// Makes the same wait, and for a token in one of these pipes.
    pub(crate) fn or_token(self, pipes: Vec<Arc<Descriptor>>) -> Wait {
        Wait { pipes, ..self }
    }

    /// Makes the same wait without the check that its descriptors are intact, to save the system
    /// calls. The wait must have an early end, after which the next one checks, and the caller must
    /// have just used the descriptors.
    pub(crate) fn briefly(self) -> Wait {
        Wait { trusted: true, ..self }
    }

    /// Looks for a short time whether a descriptor is ready, and yields the CPU to other threads
    /// meanwhile. If an answer is a few microseconds away, to sleep and to be woken takes longer
    /// than the answer: on a virtual machine, 40 us for each of two processes.
    ///
    /// The caller must check for signals before it sleeps.
    pub fn spin(&self) -> bool {
        self.spin_until_ready().is_some()
    }

    /// Does the same, but returns false if a ready descriptor is one that this program has closed:
    /// the sleep reports that as an error.
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
                Err(_) => return None, // the sleep will fail too
            }
        }
    }

    /// For an event loop, which sleeps instead of [`Wait::block`]: the descriptors to wait for, and the
    /// time after which to look.
    pub(crate) fn parts(&self) -> (Vec<Arc<Descriptor>>, Option<Duration>) {
        let after = self.look_at.map(|at| at.saturating_duration_since(Instant::now()));
        (self.all().cloned().collect(), after)
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Descriptor>> {
        self.descriptors.iter().chain(&self.pipes)
    }

    fn poll_fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.all().map(|fd| PollFd::new(fd, PollFlags::IN))
    }

    /// Sleeps until a descriptor is ready, a signal comes, or `deadline`.
    ///
    /// # Errors
    ///
    /// The system refuses; or one of the descriptors is closed, or another file has its number.
    /// Such a descriptor would be ready for ever, or never.
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

    /// Returns whether only tokens woke this thread, and they are gone. Where many processes wait
    /// for few slots, that is the usual case, and this check is faster than a scan.
    fn is_missed(&self, polled: &[PollFd<'_>]) -> bool {
        let (descriptors, pipes) = polled.split_at(self.descriptors.len());
        descriptors.iter().all(|polled| polled.revents().is_empty())
            && self.pipes.iter().all(|pipe| pipe.is_intact())
            && pipes.iter().all(|pipe| ioctl_fionread(pipe.as_fd()).is_ok_and(|bytes| bytes == 0))
    }
}

/// A pipe by which a thread wakes another from its [`Wait`]: one byte a ring.
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
        // It is rung at most once a wait, so the pipe is never full; this value has its read end.
        // If other code has closed this end, all threads that wait for it are awake.
        if let Ok(write) = self.write.intact() {
            let _ = retry_on_intr(|| rustix::io::write(write, b"!"));
        }
    }

    /// Takes the byte of its ring. Returns false if there is none, or it cannot be taken.
    pub(crate) fn silence(&self) -> bool {
        let take = |read| retry_on_intr(|| rustix::io::read(read, &mut [0; 2]));
        self.read.intact().is_ok_and(|read| self.read.is_readable() && take(read) == Ok(1))
    }

    pub(crate) fn is_intact(&self) -> bool {
        self.read.is_intact() && self.write.is_intact()
    }
}

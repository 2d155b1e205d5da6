//! Readiness: one descriptor that is readable whenever a call of the owner has something to do, for
//! an event loop of the host.
//!
//! It *rests* as a thread sleeps: it is one of the sleepers of the table, and with a turn for a slot
//! it is in the pool's queue. But the loop does the sleep, by its own poll. So whatever wakes a
//! sleeping thread makes the descriptor readable, and nothing has to be polled from time to time.

use super::shared::Owner;
use super::sleepers::{Sleep, Wants};
use super::wait::{Look, Waiting};
use super::OwnerHost;
use crate::error::{Error, ErrorKind, Result};
use crate::platform::{backend, Readiness as Set};
use crate::process::is_this;
use crate::slots::{PausedTurn, Turn, Want};
use crate::wait::Bell;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;
use std::sync::Arc;
use std::time::Duration;

const WAITING: &str = "cannot give an event loop a descriptor to wait for";
const UNSUPPORTED: &str =
    "an event loop cannot wait for jobs here: the system has no descriptor that \
    stands for several; use `submit`, `result` and so on, in a thread";

/// The descriptor, and what it rests on. Readable until its first [`Owner::rest`].
#[derive(Debug)]
pub struct Readiness {
    set: Box<dyn Set>,
    /// It rings while there is something to do already.
    due: Arc<Bell>,
    is_due: bool,
    /// None: it does not rest.
    waiting: Option<Waiting>,
    turn: Option<Turn>,
}

impl Readiness {
    /// The descriptor. It must not be read or written.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.set.descriptor().as_fd()
    }

    fn ring(&mut self) -> Result<()> {
        if !self.is_due {
            self.due.ring();
            self.is_due = true;
        }
        let bell = Arc::clone(&self.due.read);
        self.set.rest_on(vec![bell], None).map_err(Error::system(WAITING))
    }

    fn silence(&mut self) {
        if std::mem::take(&mut self.is_due) {
            self.due.silence();
        }
    }
}

impl<J> Owner<J> {
    /// Makes a readiness of this owner. End its rest by [`Owner::rise`] before it is dropped.
    ///
    /// # Errors
    ///
    /// The system has no such descriptor ([`ErrorKind::Unsupported`]), or no more descriptors for this
    /// process.
    pub fn readiness(&self) -> Result<Readiness> {
        let unsupported = || Error::new(ErrorKind::Unsupported, UNSUPPORTED);
        let set = backend().readiness().ok_or_else(unsupported)?;
        let (set, due) = (set.map_err(Error::system(WAITING))?, Arc::new(Bell::new()?));
        let mut made = Readiness { set, due, is_due: false, waiting: None, turn: None };
        made.ring()?;
        Ok(made)
    }

    /// Rests: from now on the descriptor is readable if something has changed since `look`, if the
    /// host has something to do, `after` so many seconds, or, with `slots`, if so many slots may be
    /// free by that place in the queue. A job gives its slot to the pool if it `yields` and has jobs, if a job of its own has
    /// given its slot away, or for the slots of a job of several: nothing shows whether this one
    /// waits for that.
    pub fn rest<H: OwnerHost<J>>(
        &self,
        host: &H,
        readiness: &mut Readiness,
        look: Look,
        slots: Option<(usize, &PausedTurn)>,
        after: Option<f64>,
    ) -> std::result::Result<(), H::Error> {
        self.check_process()?;
        if !readiness.set.descriptor().is_intact() {
            return Err(Error::system(WAITING)(Errno::BADF).into());
        }
        self.rise(readiness);
        let is_due = host.is_due()?;
        if let Ok(pool) = self.pool() {
            let several = slots.is_some_and(|(needs, _)| needs > 1);
            let yields = self.options.yields && self.unfinished() > 0;
            if several || yields || self.any_has_yielded() {
                pool.give_own_slot_away();
            }
            let turn = |(needs, place)| pool.turn(Want::Start).needing(needs).after(place);
            readiness.turn = slots.map(turn).map(Turn::about_to_wait);
        }
        // It keeps a part of several slots while it rests: the part would make it readable again and
        // again. All of them go back, and the call that follows takes them.
        let gathers = readiness.turn.as_mut().filter(|turn| turn.is_for_several());
        let is_due = gathers.map_or(Ok(None), Turn::try_take)?.is_some() || is_due;
        let after = after.and_then(|after| Duration::try_from_secs_f64(after.max(0.0)).ok());
        Ok(self.begin_rest(readiness, look, is_due, after)?)
    }

    fn begin_rest(
        &self,
        readiness: &mut Readiness,
        look: Look,
        is_due: bool,
        after: Option<Duration>,
    ) -> Result<()> {
        let sleep = Sleep { wants: Wants::All, alone: true, callbacks: false };
        let mut state = self.state();
        let turn = readiness.turn.as_mut();
        if turn.is_some() {
            state.jobs.sleepers.begin_turn_alone();
        }
        readiness.waiting = state.jobs.begin_sleep(look, turn, sleep)?;
        drop(state);
        match &readiness.waiting {
            Some(waiting) if !is_due => {
                let (descriptors, look_after) = waiting.parts();
                let after = look_after.into_iter().chain(after).min();
                let rests = readiness.set.rest_on(descriptors, after);
                rests.map_err(Error::system(WAITING))
            }
            _ => readiness.ring(),
        }
    }

    /// Ends a rest. Returns the place of its turn in the queue. Until the next rest the descriptor may
    /// be readable or not.
    pub fn rise(&self, readiness: &mut Readiness) -> PausedTurn {
        let (waiting, turn) = (readiness.waiting.take(), readiness.turn.take());
        if !is_this(self.pid) {
            return PausedTurn::default(); // the bells and the descriptor are the parent's
        }
        let mut state = self.state();
        if turn.is_some() {
            state.jobs.sleepers.end_turn_alone();
        }
        if let Some(waiting) = waiting {
            state.jobs.end_wait(waiting);
            state.abandon_if_closed(); // the rest has opened descriptors
        }
        drop(state);
        readiness.silence();
        turn.map(Turn::pause).unwrap_or_default()
    }
}

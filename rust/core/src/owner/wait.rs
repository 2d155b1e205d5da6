//! Waits for the processes of an owner's table, or for a slot. A wait begins with a lock on the
//! table, and sleeps without it.

use super::jobs::Jobs;
use super::outcome::JobId;
use super::own::OwnChannel;
use super::process::Process;
use super::sleepers::{Role, Sleep, Wants};
use crate::error::{Error, ErrorKind, Result};
use crate::platform::Descriptor;
use crate::slots::{Pool, PoolWait, Turn};
use crate::wait::{Bell, Wait, Woken, POLL_INTERVAL};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The state of a table that a caller has seen: see [`Jobs::begin_wait`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look(pub(super) u64);

impl Look {
    /// The state after one more change.
    pub(super) fn next(self) -> Look {
        Look(self.0 + 1)
    }
}

/// A prepared wait of one thread; end it with [`Jobs::end_wait`].
#[derive(Debug)]
pub struct Waiting {
    wait: Wait,
    quick: bool,
    bell: Option<Arc<Bell>>,
    role: Role,
    own: Option<OwnChannel>,
    pool: Option<PoolWait>,
    /// It has found that this program has closed a descriptor that it waits for.
    lost: AtomicBool,
}

impl Waiting {
    /// See [`Wait::parts`].
    pub(super) fn parts(&self) -> (Vec<Arc<Descriptor>>, Option<Duration>) {
        self.wait.parts()
    }

    /// Whether it polls the channel of its own job, and not the table's descriptors.
    pub(super) fn is_for_own(&self) -> bool {
        self.own.is_some()
    }

    /// If answers may come soon, spins for a short time. Returns whether something is ready; if
    /// not, check for signals, and sleep.
    pub fn spin(&self) -> bool {
        self.quick && self.wait.spin_intact()
    }

    /// Sleeps until a job or a slot is ready, another thread has collected something, a signal
    /// comes, or `deadline`.
    pub fn block(&self, deadline: Option<Instant>) -> Result<Woken> {
        match self.wait.block(deadline) {
            Err(e) if e.kind() == ErrorKind::DescriptorLost => {
                self.lost.store(true, Ordering::Relaxed);
                // If it is a descriptor of the table, the next scan replaces it.
                let pool = self.pool.as_ref().is_none_or(PoolWait::mend);
                if pool {
                    Ok(Woken::Ready)
                } else {
                    Err(e)
                }
            }
            woken => woken,
        }
    }
}

impl<J> Jobs<J> {
    /// The state that the caller sees now: pass it to [`Jobs::begin_wait`].
    pub fn look(&self) -> Look {
        Look(self.changes)
    }

    /// Prepares a wait, which sleeps without a lock on the table.
    ///
    /// None if a scan has changed something since that `look`, because the event that the caller
    /// waits for may have happened. So call [`Jobs::look`], then check for the event, and only then
    /// wait. If another thread's scan finds the event, that thread must call [`Jobs::wake`] after
    /// it has put it where the caller checks. (Such a count is known as an eventcount.)
    ///
    /// With a `turn`, the wait also ends when this thread may be able to take a slot by it.
    pub fn begin_wait(&mut self, look: Look, turn: Option<&mut Turn>) -> Result<Option<Waiting>> {
        let sleep = Sleep { wants: Wants::Change, alone: true, callbacks: false };
        self.begin_sleep(look, turn, sleep)
    }

    /// Does the same for a thread that may leave it to another one to poll the descriptors of the
    /// table. Before such a thread runs code of the host after the wait, it must call
    /// [`Jobs::hand_over`].
    pub(super) fn begin_sleep(
        &mut self,
        look: Look,
        turn: Option<&mut Turn>,
        sleep: Sleep,
    ) -> Result<Option<Waiting>> {
        let Look(changes) = look;
        if changes != self.changes {
            return Ok(None);
        }
        let now = Instant::now();
        // In this order: a check that is overdue must not stand for the one after a new change.
        self.look_over(now);
        let heard = self.quiet.has_ended(changes, now);
        if self.lost || !self.received.is_empty() {
            return Ok(None);
        }
        let mut look_after = self.quiet.left(now).filter(|_| !self.processes.is_empty());
        let trusted = heard && look_after.is_some();
        let mut descriptors = Vec::new();
        let own = self.begin_own(sleep);
        if let Some(own) = &own {
            descriptors.push(own.channel());
        } else if self.sleepers.must_poll(sleep) {
            descriptors = self.descriptors()?;
        }
        // At the limit of descriptors there is no bell, and the wait polls instead.
        let bell = self.sleepers.bell();
        let role = self.sleepers.role(sleep, bell.is_some());
        if role.polls() && descriptors.is_empty() {
            descriptors = self.descriptors()?;
        }
        if role.polls() && (bell.is_none() || !self.unwatched.is_empty()) {
            look_after = look_after.into_iter().chain([POLL_INTERVAL]).min();
        }
        if self.processes.len() == self.ending.len() + self.idle.len() {
            descriptors.extend(self.exits_left()); // no other event can come
        }
        descriptors.extend(bell.iter().map(|bell| Arc::clone(&bell.read)));
        let pool = turn.map(Turn::begin_wait);
        let mut pipes = Vec::new();
        if let Some(pool) = &pool {
            pipes.extend(pool.pipe.clone());
            descriptors.extend(pool.descriptors.iter().cloned());
            look_after = look_after.into_iter().chain(pool.look_after).min();
        }
        if let Some(bell) = &bell {
            self.sleepers.enter(Arc::clone(bell), sleep, role);
        }
        let wait = Wait::new(descriptors, look_after).or_token(pipes);
        let wait = if trusted { wait.briefly() } else { wait };
        let quick = self.quick && (role.polls() || own.is_some());
        Ok(Some(Waiting { wait, quick, bell, role, own, pool, lost: AtomicBool::new(false) }))
    }

    /// The descriptors of the table. The set is made now if there is none: a process that another
    /// thread starts meanwhile must wake the thread that polls.
    fn descriptors(&mut self) -> Result<Vec<Arc<Descriptor>>> {
        Ok(self.set().map_err(Error::system("cannot wait for jobs"))?.watched())
    }

    /// If it is time, checks whether all descriptors are still intact, and watches the exits that
    /// were left to later scans: a zombie that waits for the next event must not wait for long.
    fn look_over(&mut self, now: Instant) {
        if self.quiet.is_due(now) {
            let lost = |process: &Process<J>| process.is_lost() || process.child.is_lost();
            self.lost |= self.processes.values().any(lost);
            self.watch_exits_left();
        }
    }

    /// The descriptors that report the exits which were left to later scans.
    fn exits_left(&self) -> impl Iterator<Item = Arc<Descriptor>> + '_ {
        let children = self.ending.iter().filter_map(|number| self.processes.get(number));
        children.filter_map(|process| process.child.watch().cloned())
    }

    /// Whether a thread waits.
    pub(super) fn is_waited_for(&self) -> bool {
        !self.sleepers.is_empty()
    }

    /// Ends a wait.
    pub fn end_wait(&mut self, waiting: Waiting) {
        self.lost |= waiting.lost.into_inner();
        if let Some(bell) = waiting.bell {
            self.sleepers.leave(bell, waiting.role);
        }
        if let Some(own) = waiting.own {
            self.end_own(own);
        }
    }

    /// Before code of the host runs in a thread that has ended a wait: has another thread poll the
    /// descriptors of the table, if none does.
    pub(super) fn hand_over(&mut self) {
        self.sleepers.hand_over();
    }

    /// Waits until a job is ready, a slot of `pool` is free if that is given, or `deadline`. For a
    /// table that no other thread uses.
    pub fn wait(&mut self, pool: Option<&Pool>, deadline: Option<Instant>) -> Result<Woken> {
        let mut turn = pool.map(Pool::compete);
        let Some(waiting) = self.begin_wait(self.look(), turn.as_mut())? else {
            return Ok(Woken::Ready);
        };
        let woken = loop {
            match waiting.block(deadline) {
                Ok(Woken::Missed) => {}
                woken => break woken,
            }
        };
        self.end_wait(waiting);
        woken
    }

    /// Wakes every wait that has begun, as if a scan had changed something.
    pub fn wake(&mut self) {
        self.changes += 1;
        self.sleepers.ring_all();
    }

    /// After a change: wakes the threads that wait for one of these jobs, or for any change.
    pub(super) fn wake_for(&mut self, jobs: &[JobId]) {
        self.changes += 1;
        self.sleepers.ring_for(jobs);
    }
}

//! The turn of one thread for a slot, or for the several slots of one job: its row in the pool's
//! queue, while it waits, and what it has gathered.
//!
//! Not here: the order of the waiters, and who tells whom (`slots::ledger`); what a listener
//! watches (`slots::watch`).

use super::bank::Bank;
use super::bell::PoolBell;
use super::entry::Tenure;
use super::ledger::{Row, Standing, Ticket, Waiter, Want};
use super::wait::{Deaths, PoolWait};
use super::Slot;
use crate::error::{Error, Result};
use crate::platform::liveness::look;
use crate::platform::{getpid, identity::Life, Descriptor};
use crate::process::{is_this, ProcessId};
use rustix::process::Pid;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// For how long a slot may lie free because the waiter that goes first does not take it. Then that
/// waiter is passed over: it may be stopped, or run another program by now. On a busy machine it
/// may take tens of milliseconds until a process runs that has been woken.
const GRACE: Duration = Duration::from_millis(50);

/// How long to sleep before a look for a slot that could be borrowed a moment ago.
const LOOK_AGAIN_FOR_LENDER: Duration = Duration::from_millis(1);

pub(super) const COUNTING: &str = "cannot count the free slots";

/// One thread's way to a slot. The thread enters the pool's queue when it first waits, and leaves
/// it when this is dropped.
#[derive(Debug)]
pub struct Turn {
    pub(super) bank: Arc<Bank>,
    /// None: the thread is in no queue. It competes for each slot, as make does.
    want: Option<Want>,
    /// How many slots the job takes.
    pub(super) needs: usize,
    /// Whether a thread is about to wait, and so may hold a part of what it needs.
    pub(super) waits: bool,
    row: Option<(Pid, Row)>,
    kept: PausedTurn,
    /// The wait may also end by the slot that this process runs on, once that is not lent.
    uses_own: bool,
    /// The fifo of the row. None until the thread first waits behind others.
    bell: Option<Arc<Descriptor>>,
}

/// What is kept of a turn while its thread does something else between two waits.
#[derive(Debug, Clone, Copy, Default)]
pub struct PausedTurn {
    /// Its place among equals, for this process. A fork of it is another waiter.
    ticket: Option<(Pid, Ticket)>,
}

impl Turn {
    pub(super) fn new(bank: &Arc<Bank>, want: Option<Want>) -> Turn {
        let (bank, kept) = (Arc::clone(bank), PausedTurn::default());
        Turn { bank, want, needs: 1, waits: false, row: None, kept, uses_own: true, bell: None }
    }

    /// For a job that takes so many slots.
    pub(crate) fn needing(mut self, slots: usize) -> Turn {
        self.needs = slots;
        self
    }

    /// For a thread that will wait if it cannot take what it needs at once.
    pub(crate) fn about_to_wait(mut self) -> Turn {
        self.waits = true;
        self
    }

    /// For a process that keeps the slot that it runs on while it waits for another.
    pub(crate) fn beside_own(mut self) -> Turn {
        self.uses_own = false;
        self
    }

    /// Takes a slot if one is free at this moment and no waiter goes first; never waits. A slot
    /// whose holder has been killed is free. The slot that this program was started on comes first:
    /// the rest of the pool cannot use it.
    pub fn try_take(&mut self) -> Result<Option<Slot>> {
        match self.take()? {
            None if self.bank.reclaim() => self.take(),
            taken => Ok(taken),
        }
    }

    fn take(&mut self) -> Result<Option<Slot>> {
        if self.needs > 1 {
            return self.gather();
        }
        let (bank, me) = (Arc::clone(&self.bank), ProcessId::current());
        let taken = match self.borrow(me)? {
            None if self.must_let_others_go_first()? => None,
            None => bank.ledger.take(&bank.pipe, me)?,
            borrowed => borrowed,
        };
        Ok(taken.map(|tenure| Slot::ours(&bank, tenure)))
    }

    pub(super) fn borrow(&self, me: ProcessId) -> Result<Option<Tenure>> {
        let (lender, ledger) = (self.bank.lender(me.pid), &self.bank.ledger);
        Ok(lender.map(|lender| ledger.lend(lender, me, true)).transpose()?.flatten())
    }

    /// Returns whether a slot is free that another waiter is to take.
    pub(super) fn must_let_others_go_first(&mut self) -> Result<bool> {
        let (bank, row) = (&self.bank, self.row());
        let want = self.want.filter(|_| bank.ledger.has_waiter_beside(row));
        let Some(want) = want else { return Ok(false) };
        let mut hesitant = bank.hesitant();
        let free = bank.pipe.free().map_err(Error::system(COUNTING))?;
        if free == 0 && !self.has_part() {
            *hesitant = None;
            return Ok(false);
        }
        while let Some(first) = bank.ledger.goes_first(row, bank.depth(), want, self.ticket()) {
            if free == 0 {
                *hesitant = None; // nothing that it could take lies free
                return Ok(true);
            }
            match hesitant.filter(|(known, _)| known.is_same(&first)) {
                None => *hesitant = Some((first, Instant::now())),
                Some((_, since)) if since.elapsed() < GRACE => {}
                Some(_) => {
                    *hesitant = None;
                    bank.pass_over(first);
                    continue;
                }
            }
            return Ok(true);
        }
        *hesitant = None;
        Ok(false)
    }

    /// Returns whether this thread could take a slot at this moment.
    pub(crate) fn could_take(&mut self) -> Result<bool> {
        if self.needs > 1 {
            let all = self.within_reach()? >= self.needs;
            return Ok(all && !self.must_let_others_go_first()?);
        }
        if self.bank.lender(getpid()).is_some() {
            return Ok(true);
        }
        let free = self.bank.pipe.free().map_err(Error::system(COUNTING))? > 0;
        Ok(free && !self.must_let_others_go_first()?)
    }

    /// Returns whether this thread can only take a slot that is free to all. (A job may also go on
    /// with a slot that comes back from a job of its own, and kin may borrow.)
    pub(crate) fn is_for_free_slots(&self) -> bool {
        !self.bank.is_job() && !self.bank.may_borrow()
    }

    /// Returns whether the slot that this process runs on ends its wait.
    pub(crate) fn uses_own(&self) -> bool {
        self.uses_own
    }

    pub(crate) fn is_for_several(&self) -> bool {
        self.needs > 1
    }

    /// Returns whether a waiter that is deeper, or that resumes at this depth, goes before a new
    /// job of this process.
    pub(crate) fn is_for_a_deeper_one(&self) -> bool {
        let ledger = &self.bank.ledger;
        let row = self.row();
        ledger.has_waiter_beside(row)
            && ledger.goes_first(None, self.bank.depth(), Want::Resume, None).is_some()
    }

    /// Goes on with a turn of this thread.
    pub(crate) fn after(mut self, pause: &PausedTurn) -> Turn {
        self.kept = *pause;
        self
    }

    /// Leaves the queue while this thread does something else.
    pub fn pause(self) -> PausedTurn {
        self.kept
    }

    fn ticket(&self) -> Option<Ticket> {
        self.kept.ticket.filter(|(pid, _)| is_this(*pid)).map(|(_, ticket)| ticket)
    }

    pub(super) fn row(&self) -> Option<Row> {
        self.row.filter(|(pid, _)| is_this(*pid)).map(|(_, row)| row)
    }

    /// Begins a wait until this thread may be able to take a slot.
    pub(crate) fn begin_wait(&mut self) -> PoolWait {
        let row = self.entered();
        let behind = row.and_then(|row| self.behind(row));
        let wait = match behind {
            Some((bell, deaths)) => {
                let longest = self.for_lender().or_else(|| self.bank.hesitant().map(|_| GRACE));
                PoolWait::behind(&self.bank, bell, deaths, longest)
            }
            None => {
                // A slot that another waiter is to take would end each wait at once.
                // (So would one that is not enough, if this thread may not gather.)
                let left = self.must_let_others_go_first().unwrap_or(false)
                    || row.is_none() && self.needs > 1;
                let wait = PoolWait::listen(&self.bank, left, left.then_some(GRACE));
                // In this order: the wait hears of a slot that comes back after this look.
                wait.at_most(self.for_lender())
            }
        };
        // In this order: a waiter that comes in after this look tells this one. One that has passed
        // this one over gathers too: this one must come in again, and tell it.
        match row.filter(|_| self.has_part()) {
            Some(row) if !self.bank.ledger.is_in_queue(row) => wait.at_most(Some(Duration::ZERO)),
            Some(row) if self.must_let_others_go_first().unwrap_or(true) => {
                self.bank.give_part_back(row);
                wait.at_most(Some(Duration::ZERO))
            }
            _ => wait,
        }
    }

    /// Returns a short time if there is a slot to borrow, or the own one has come back: no bell
    /// rings for that, because it has happened already.
    fn for_lender(&self) -> Option<Duration> {
        let there = self.bank.lender(getpid()).is_some() || self.uses_own && self.bank.has_own();
        there.then_some(LOOK_AGAIN_FOR_LENDER)
    }

    /// Enters the queue, if this thread is not in it.
    pub(super) fn entered(&mut self) -> Option<Row> {
        let (me, bank) = (getpid(), Arc::clone(&self.bank));
        if self.row().is_none() && bank.ledger.check_namespace(me).is_ok() {
            self.bell = None;
            let enter =
                |want| bank.ledger.enter(ProcessId::current(), bank.depth(), want, self.ticket());
            let row = self.want.and_then(enter);
            self.kept.ticket = row.map(|row| (me, row.ticket)).or(self.kept.ticket);
            self.row = row.map(|row| (me, row));
        }
        self.row()
    }

    /// If this waiter does not listen, returns what it sleeps on: the fifo of its row, and deaths of
    /// processes before it.
    fn behind(&mut self, row: Row) -> Option<(Arc<Descriptor>, Deaths)> {
        let bank = Arc::clone(&self.bank);
        loop {
            if let Some(bell) = &self.bell {
                PoolBell::drain(bell.intact().ok()?);
            }
            let standing = bank.ledger.stand(row, ProcessId::current());
            let Standing::Behind(watched) = standing else { return None };
            // A slot that this process could borrow is no other waiter's to take.
            if bank.may_borrow() {
                return None;
            }
            let Some(bell) = &self.bell else {
                self.bell = Some(Arc::new(bank.ledger.bells().rows.open(row.index).ok()?));
                continue;
            };
            let bell = Arc::clone(bell);
            if let Some(deaths) = self.deaths(&watched) {
                return Some((bell, deaths));
            }
        }
    }

    /// The descriptors that report the deaths of these waiters' processes; for a process that has
    /// none, None. Returns None if one of the waiters is dead, which is removed then, or has left.
    fn deaths(&self, watched: &[Waiter]) -> Option<Deaths> {
        let mut deaths = Vec::new();
        for waiter in watched.iter().filter(|waiter| !is_this(waiter.process.pid)) {
            match look(waiter.process) {
                Life::Alive(death) => deaths.push(death),
                Life::Dead => {
                    self.bank.ledger.remove(*waiter);
                    return None;
                }
            }
        }
        let are_there = watched.iter().all(|waiter| self.bank.ledger.is_still_there(*waiter));
        are_there.then_some(deaths)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(row) = self.row() {
            if self.needs > 1 {
                self.bank.give_part_back(row);
            }
            self.bank.ledger.leave(row, ProcessId::current());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::slots::Pool;
    use crate::wait::Wait;

    /// The same pool, as a process with so many jobs above it has it.
    fn at_depth(pool: &Pool, depth: u16) -> Pool {
        let pool = Pool::open(pool.home()).unwrap();
        pool.bank.set_depth(depth);
        pool
    }

    /// A turn that has entered the queue.
    fn waits(pool: &Pool, want: Want) -> Turn {
        let mut turn = pool.turn(want);
        drop(turn.begin_wait());
        turn
    }

    fn sleep(turn: &mut Turn) {
        let wait = turn.begin_wait();
        let descriptors = wait.descriptors.iter().chain(&wait.pipe).cloned().collect();
        Wait::new(descriptors, wait.look_after).block(None).unwrap();
    }

    /// Checks that the turns get the only slot of their pool in this order.
    fn take_in_order(pool: &Pool, held: Slot, turns: Vec<Turn>) {
        let mut turns: Vec<_> = turns.into_iter().map(Some).collect();
        drop(held);
        for next in 0..turns.len() {
            assert!(pool.turn(Want::Start).try_take().unwrap().is_none());
            for later in turns.iter_mut().skip(next + 1).flatten() {
                assert!(later.try_take().unwrap().is_none());
            }
            let slot = turns[next].as_mut().unwrap().try_take().unwrap();
            turns[next] = None;
            drop(slot.unwrap());
        }
    }

    #[test]
    fn the_deepest_waiter_goes_first() {
        let pool = Pool::new(1).unwrap();
        let held = pool.try_take().unwrap().unwrap();
        let [shallow, middle, deep] = [1, 2, 3].map(|depth| at_depth(&pool, depth));
        let turns = [&shallow, &deep, &middle].map(|pool| waits(pool, Want::Start));
        let [shallow, deep, middle] = turns;
        take_in_order(&pool, held, vec![deep, middle, shallow]);
    }

    #[test]
    fn a_waiter_that_resumes_goes_before_one_that_starts_and_then_the_older_goes_first() {
        let pool = Pool::new(1).unwrap();
        let held = pool.try_take().unwrap().unwrap();
        let wants = [Want::Start, Want::Start, Want::Resume, Want::Resume];
        let [first, second, third, fourth] = wants.map(|want| waits(&pool, want));
        take_in_order(&pool, held, vec![third, fourth, first, second]);
    }

    #[test]
    fn a_waiter_that_takes_no_slot_is_passed_over_and_comes_in_again() {
        let pool = Pool::new(1).unwrap();
        let held = pool.try_take().unwrap().unwrap();
        let mut first = waits(&pool, Want::Resume);
        let mut second = waits(&pool, Want::Start);
        drop(held);
        let slot = loop {
            match second.try_take().unwrap() {
                None => sleep(&mut second),
                Some(slot) => break slot,
            }
        };
        assert!(first.begin_wait().listens);
        take_in_order(&pool, slot, vec![first, second]);
    }

    #[test]
    fn a_waiter_that_very_many_takings_have_passed_over_goes_first() {
        let pool = Pool::new(1).unwrap();
        let mut held = pool.try_take().unwrap();
        let mut shallow = waits(&pool, Want::Start);
        for takings in 0..crate::slots::ledger::PATIENCE {
            drop(held.take());
            held = pool.try_take().unwrap(); // as a client that knows no queue
            if takings == crate::slots::ledger::PATIENCE / 2 {
                let paused = shallow.pause(); // which loses no patience
                shallow = pool.turn(Want::Start).after(&paused);
                drop(shallow.begin_wait());
            }
        }
        let mut deep = waits(&at_depth(&pool, 9), Want::Resume);
        drop(held);
        assert!(deep.try_take().unwrap().is_none());
        assert!(shallow.try_take().unwrap().is_some());
    }

    #[test]
    fn a_waiter_that_very_many_takings_have_passed_over_goes_first_outside_the_queue_too() {
        let pool = Pool::new(1).unwrap();
        let mut held = pool.try_take().unwrap();
        let ours = waits(&pool, Want::Start);
        for _ in 0..crate::slots::ledger::PATIENCE {
            drop(held.take());
            held = pool.try_take().unwrap(); // as a client that knows no queue
        }
        let paused = ours.pause();
        let _deep = waits(&at_depth(&pool, 9), Want::Resume);
        drop(held);
        assert!(pool.turn(Want::Start).after(&paused).try_take().unwrap().is_some());
    }

    #[test]
    fn nobody_is_passed_over_while_no_slot_is_free() {
        let pool = Pool::new(1).unwrap();
        let first = waits(&pool, Want::Start);
        let other = Pool::open(pool.home()).unwrap();
        let mut second = other.turn(Want::Start).needing(2);
        drop(second.begin_wait());
        let row = second.row().unwrap();
        let part = other.bank.ledger.take(&other.bank.pipe, ProcessId::current()).unwrap();
        other.bank.parts().of(row).extend(part);
        let before = other.bank.ledger.goes_first(Some(row), 0, Want::Start, None).unwrap();
        let long_ago = Instant::now().checked_sub(2 * GRACE).unwrap();
        *other.bank.hesitant() = Some((before, long_ago));
        assert!(second.try_take().unwrap().is_none());
        assert!(pool.bank.ledger.is_in_queue(first.row().unwrap()));
        assert_eq!(pool.free().unwrap(), 1); // the part went back
    }

    #[test]
    fn more_waiters_than_the_queue_has_room_for_get_slots_too() {
        let pool = Pool::new(1).unwrap();
        let held = pool.try_take().unwrap().unwrap();
        let mut turns: Vec<Turn> =
            (0..crate::slots::ledger::ROWS).map(|_| waits(&pool, Want::Start)).collect();
        let mut last = waits(&pool, Want::Start);
        assert!(last.row().is_none());
        drop(held);
        assert!(last.try_take().unwrap().is_none());
        turns.clear();
        assert!(last.try_take().unwrap().is_some());
    }
}

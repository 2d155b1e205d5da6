//! A slot, or the several slots of one job, for the process that took them and for the owner of the
//! job that runs on them.

use super::assignment::{Assignment, BorrowedFrom};
use super::bank::Bank;
use super::entry::Tenure;
use crate::error::Result;
use crate::platform::getpid;
use crate::process::{is_this, Child, ProcessId};
use rustix::process::Pid;
use std::fmt;
use std::sync::Arc;

/// The right to run one job: a slot, or for a job of several slots all of them. Dropping it gives
/// the slot back.
///
/// Only the process that took a slot gives it back: a copy in a forked process does nothing.
pub struct Slot {
    bank: Arc<Bank>,
    tenure: Tenure,
    /// The entries of the other slots of a job of several. Programs below the job borrow the first.
    further: Vec<Tenure>,
    /// The process that gives the slot back at its drop. None if another process does that.
    taker: Option<Pid>,
}

impl Slot {
    /// Wraps a slot that this process has taken.
    pub(super) fn ours(bank: &Arc<Bank>, tenure: Tenure) -> Slot {
        Slot::with(bank, tenure, Vec::new(), Some(getpid()))
    }

    fn with(bank: &Arc<Bank>, tenure: Tenure, further: Vec<Tenure>, taker: Option<Pid>) -> Slot {
        Slot { bank: Arc::clone(bank), tenure, further, taker }
    }

    /// Wraps slots that this process has taken for one job.
    pub(super) fn of_several(bank: &Arc<Bank>, mut tenures: Vec<Tenure>) -> Slot {
        let further = tenures.split_off(1);
        bank.ledger.join_slots(tenures[0], &further);
        Slot::with(bank, tenures[0], further, Some(getpid()))
    }

    /// Wraps a slot that another process gives back, joined to so many `further` ones. Returns None
    /// if these are not there: that process has died.
    pub(super) fn of_others(bank: &Arc<Bank>, tenure: Tenure, further: u16) -> Option<Slot> {
        let joined = if further > 0 { bank.ledger.joined_to(tenure) } else { Vec::new() };
        let all = joined.len() == usize::from(further);
        all.then(|| Slot::with(bank, tenure, joined, None))
    }

    /// Returns how many slots it is.
    pub fn count(&self) -> usize {
        1 + self.further.len()
    }

    /// Lends the slot that this process runs on to a job of this process, and returns the loan.
    /// This process must not run until the slot has come back. Returns None if the slot is lent
    /// already, or is several.
    pub fn lend(&self) -> Option<Slot> {
        if self.count() > 1 {
            return None;
        }
        // In another pid namespace than the ledger's, this process has no slot to lend.
        let (ledger, me) = (&self.bank.ledger, ProcessId::current());
        let loan = ledger.lend(ledger.open_of_mine(self.tenure, me)?, me, false).ok()??;
        Some(Slot::ours(&self.bank, loan))
    }

    /// Opens the slot to borrowers: this process runs on it from now on, so programs below may
    /// borrow it.
    pub(crate) fn run_on(&self) {
        self.bank.ledger.set_depth(self.tenure, self.bank.depth());
        self.bank.ledger.open_to_borrowers(self.tenure);
    }

    /// Closes the slot to borrowers before it is handed over. Returns false if it is lent.
    pub(crate) fn close(&self) -> bool {
        self.bank.ledger.close(self.tenure)
    }

    /// Returns whether this process took the slot.
    pub(crate) fn is_ours(&self) -> bool {
        // The ledger knows whether this process still holds it.
        self.taker.is_some_and(is_this)
    }

    /// Returns whether the slot is lent and has not come back.
    pub fn is_lent(&self) -> bool {
        self.bank.ledger.is_lent(self.tenure)
    }

    /// In the job that runs on the slot: returns its number, which no other slot in use has. None if
    /// it is lent.
    pub(crate) fn number(&self) -> Option<usize> {
        let runs = self.is_ours() && !self.is_lent();
        runs.then(|| self.bank.ledger.number(self.tenure)).flatten()
    }

    /// Leaves the slot to its borrower, which gives it back at its end. Returns false if the loan
    /// has just ended.
    pub(crate) fn pass_on(&mut self) -> bool {
        let passed_on = self.bank.ledger.pass_on(self.tenure);
        if passed_on {
            self.give_further_back();
            self.taker = None; // when this is dropped, another process may have the entry
        }
        passed_on
    }

    /// Returns the name of the slot for the job that is launched on it.
    pub fn assignment(&self) -> Assignment {
        Assignment::Slot { first: self.tenure, further: self.further.len() as u16 }
    }

    /// Records that a job that will adopt the slot is about to be born.
    pub fn launch(&self) {
        let depth = self.bank.depth().saturating_add(1);
        for tenure in self.tenures() {
            self.bank.ledger.launch(tenure, depth);
        }
    }

    pub(super) fn tenures(&self) -> impl Iterator<Item = Tenure> + '_ {
        [self.tenure].into_iter().chain(self.further.iter().copied())
    }

    /// In a forked job: adopts the slot that its owner launched it on. Returns None if the owner
    /// has died or has taken the slot back: then the job must not run.
    pub fn adopt(&self) -> Result<Option<Slot>> {
        let ledger = &self.bank.ledger;
        let adopted = ledger.adopt(self.tenure)?;
        let mut ours = Slot::ours(&self.bank, self.tenure);
        if adopted {
            for further in &self.further {
                if !ledger.adopt_further(*further)? {
                    return Ok(None); // `ours` goes back
                }
                ours.further.push(*further);
            }
            self.bank.set_depth(ledger.depth(self.tenure));
            // While the lender's entry is lent, it has no other holder. Later, the holder may hand
            // the entry on and run on another one. So the lender is known by its holder and not by
            // its entry.
            let from = ledger.borrowed_from(self.tenure).map(|lender| ledger.holder_of(lender));
            self.bank.set_borrowed_from(match from {
                None => BorrowedFrom::Nobody,
                Some(None) => BorrowedFrom::Common,
                Some(Some(holder)) => BorrowedFrom::Process(holder),
            });
        }
        if !adopted {
            ours.taker = None;
        }
        Ok(adopted.then_some(ours))
    }

    /// Records that the job is born: from now on the slot is the job's, or comes back at the job's
    /// end. If the job `adopts` the slot, it does so itself when it begins. Otherwise the job does
    /// not know about slots, and holds this one until its end.
    pub(crate) fn launched(mut self, job: &Child, adopts: bool) -> Launched {
        self.launch();
        self.taker = None;
        let job = job.id();
        for tenure in self.tenures() {
            self.bank.ledger.born(tenure, job, adopts);
        }
        let further = std::mem::take(&mut self.further);
        Launched { bank: Arc::clone(&self.bank), tenure: self.tenure, further, job }
    }
}

impl Slot {
    /// Gives the slot back, as its drop does. Returns false if this process cannot do so any more:
    /// then it must end for the slot to be free.
    pub(crate) fn give_back(mut self) -> bool {
        let back = self.let_go();
        self.taker = None;
        back
    }

    fn let_go(&mut self) -> bool {
        if !self.is_ours() {
            return true;
        }
        let further = self.give_further_back();
        self.bank.ledger.give_back(self.tenure, &self.bank.pipe) && further
    }

    fn give_further_back(&mut self) -> bool {
        let (ledger, pipe) = (&self.bank.ledger, &self.bank.pipe);
        let mut all = true;
        for further in self.further.drain(..) {
            all &= ledger.give_back(further, pipe);
        }
        all
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.let_go();
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenures: Vec<_> = self.tenures().collect();
        f.debug_struct("Slot").field("tenures", &tenures).field("taker", &self.taker).finish()
    }
}

/// The slot of a running job, for its owner.
#[derive(Debug)]
pub(crate) struct Launched {
    bank: Arc<Bank>,
    tenure: Tenure,
    further: Vec<Tenure>,
    job: ProcessId,
}

impl Launched {
    /// Puts the slot back if the job has not adopted it by the time that it should have; or if the
    /// job has adopted it, and its process has `ended`.
    pub(crate) fn settle(&self, ended: bool) {
        let ended = ended.then_some(self.job);
        for tenure in self.tenures() {
            self.bank.ledger.settle(tenure, ended, &self.bank.pipe);
        }
    }

    /// Returns how many slots it is.
    pub(crate) fn count(&self) -> usize {
        1 + self.further.len()
    }

    fn tenures(&self) -> impl Iterator<Item = Tenure> + '_ {
        [self.tenure].into_iter().chain(self.further.iter().copied())
    }

    /// Lets every process reclaim the slot when the job dies: the owner will not notice that death.
    pub(crate) fn disown(&self) {
        self.tenures().for_each(|tenure| self.bank.ledger.disown(tenure));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::slots::Pool;

    #[test]
    fn a_launch_that_is_over_does_not_change_the_depth_of_the_next_taking() {
        let pool = Pool::new(1).unwrap();
        let launching = pool.try_take().unwrap().unwrap();
        launching.launch();
        drop(launching.adopt().unwrap()); // the job ends before its owner goes on
        let deep = Pool::open(pool.home()).unwrap();
        deep.bank.set_depth(7);
        let next = deep.try_take().unwrap().unwrap();
        next.launch();
        launching.launch();
        assert_eq!(deep.bank.ledger.depth(next.tenure), 8);
    }

    #[test]
    fn slots_that_are_in_use_have_numbers_of_their_own() {
        let pool = Pool::new(3).unwrap();
        let mut slots: Vec<_> = (0..3).map(|_| pool.try_take().unwrap().unwrap()).collect();
        let number = |slot: &super::Slot| slot.number().unwrap();
        assert_eq!(slots.iter().map(number).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(slots.iter().map(number).collect::<Vec<_>>(), [0, 1, 2]);
        drop(slots.remove(1));
        slots.push(pool.try_take().unwrap().unwrap());
        assert_eq!(slots.iter().map(number).collect::<Vec<_>>(), [0, 2, 1]);
    }

    #[test]
    fn a_borrowed_slot_has_the_lenders_number_and_the_lender_has_none_meanwhile() {
        let pool = Pool::new(2).unwrap();
        let [first, lender] = [(); 2].map(|()| pool.try_take().unwrap().unwrap());
        lender.run_on();
        assert_eq!((first.number(), lender.number()), (Some(0), Some(1)));
        let loan = lender.lend().unwrap();
        assert_eq!((loan.number(), lender.number()), (Some(1), None));
        drop(loan);
        assert_eq!(lender.number(), Some(1));
    }
}

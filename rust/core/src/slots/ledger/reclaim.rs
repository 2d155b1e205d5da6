//! Taking a slot back from a holder that is dead.

use super::layout::*;
use super::*;
use crate::platform::liveness;
use crate::slots::entry::{Borrower, By, Holder};
use crate::slots::pipe::TokenPipe;

/// What came of an attempt to take back the slot of a dead holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reclaimed {
    /// It is back.
    Done,
    /// It is lent to somebody who lives, and comes back at their end.
    Lent,
    /// Another process is about to give it back. Whoever relies on that must watch that one
    /// too, since it may be killed: look again.
    ByAnother,
    /// It stays with the dead, for others to see: this program has closed its way to the pipe.
    OutOfReach,
}

impl Ledger {
    /// Takes back a slot, loans of it included, if its holder is dead.
    pub(super) fn reclaim(&self, index: u32, pipe: &TokenPipe) -> Reclaimed {
        self.reclaim_chain(index, pipe, LONGEST)
    }

    /// The same in a chain of so many loans at most.
    pub(super) fn reclaim_chain(&self, index: u32, pipe: &TokenPipe, left: usize) -> Reclaimed {
        let holder = self.holder(index);
        match holder.by {
            By::Pool => Reclaimed::Lent,
            By::Process(named) if liveness::is_alive(named) => Reclaimed::ByAnother,
            By::Process(_) => self.take_over(index, holder, pipe, left),
            By::Nobody => Reclaimed::Done,
        }
    }

    /// The same, where the holder is known to be dead.
    pub(crate) fn reclaim_from(&self, dead: Tenant, pipe: &TokenPipe) -> Reclaimed {
        let Tenant { tenure, process, .. } = dead;
        let holder = self.holder(tenure.index);
        if holder.named() != Some(process) || holder.generation != tenure.generation {
            return Reclaimed::ByAnother;
        }
        self.take_over(tenure.index, holder, pipe, LONGEST)
    }

    /// Takes a slot back on which we launched a job: if the job never took it over, or if it
    /// did, is dead (`ended` then), and had not given it back.
    pub(crate) fn settle(&self, tenure: Tenure, ended: Option<ProcessId>, pipe: &TokenPipe) {
        let holder = self.holder(tenure.index);
        // (Or the job has adopted it, and launches one of its own on it.)
        let still_ours = || {
            let me = ProcessId::current();
            holder.is(me) || self.field(tenure.index, OWNER).load(IN_ORDER) == me.to_word()
        };
        let never_adopted = holder.launching && still_ours();
        let died = ended.is_some_and(|job| holder.is(job));
        let to_come_back = holder.generation == tenure.generation && (never_adopted || died);
        let left = match to_come_back {
            true => self.take_over(tenure.index, holder, pipe, LONGEST) != Reclaimed::Done,
            // Whoever is giving it back for the job, which has ended, is no job of ours.
            false => ended.is_some() && holder.by != By::Nobody,
        };
        if left {
            self.disown(tenure);
        }
    }

    /// Takes over from a holder that is known to be dead, and gives back.
    pub(super) fn take_over(
        &self,
        index: u32,
        dead: Holder,
        pipe: &TokenPipe,
        left: usize,
    ) -> Reclaimed {
        // Read only now, when the holder can change it no more. (A program below the holder may
        // still borrow the slot: then that program gives it back.)
        if let Borrower::Lent { loan, passed_on } = self.borrower(index) {
            if (loan.index as usize) >= self.entries || left == 0 {
                return Reclaimed::Lent; // it is damaged
            }
            let holder = self.holder(loan.index);
            let there = holder.generation == loan.generation;
            if there && holder.named().is_some_and(liveness::is_alive) {
                return Reclaimed::Lent;
            }
            let reclaimed = self.reclaim_chain(loan.index, pipe, left - 1);
            if passed_on || matches!(reclaimed, Reclaimed::Lent | Reclaimed::OutOfReach) {
                return reclaimed; // with the loan, or as it is lent on to somebody who lives
            }
            if self.borrower(index).loan().is_some() {
                return Reclaimed::ByAnother;
            }
        }
        // Ours, it would be found by nobody for as long as we live.
        if pipe.end_to_write().is_none() {
            return Reclaimed::OutOfReach;
        }
        self.ring();
        if !self.change_holder(index, dead, Holder::process(ProcessId::current(), dead.generation))
        {
            return Reclaimed::ByAnother;
        }
        self.give_back(Tenure { index, generation: dead.generation }, pipe);
        Reclaimed::Done
    }

    /// Lets everybody, and not only this process, look after the entries of jobs whose
    /// owner will hear of their ends no more.
    pub(crate) fn disown(&self, tenure: Tenure) {
        if self.holder(tenure.index).generation == tenure.generation {
            self.field(tenure.index, OWNER).store(0, IN_ORDER);
            self.ring();
        }
    }
}

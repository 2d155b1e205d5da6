//! Taking a slot back from a dead holder.

use super::layout::*;
use super::*;
use crate::platform::liveness;
use crate::slots::entry::{Borrower, HeldBy, Holder};
use crate::slots::pipe::TokenPipe;

/// The result of an attempt to take back the slot of a dead holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reclaimed {
    /// The slot is back.
    Done,
    /// The slot is lent to a live process, and comes back at the end of that process.
    Lent,
    /// Another process is about to give it back. That process may be killed too, so a waiter must
    /// look again and watch it.
    ByAnother,
    /// The slot stays with the dead holder, for other processes to reclaim: this program has closed
    /// its way to the pipe.
    OutOfReach,
}

impl Ledger {
    /// Takes back a slot, with loans of it, if its holder is dead.
    pub(super) fn reclaim(&self, index: u32, pipe: &TokenPipe) -> Reclaimed {
        self.reclaim_chain(index, pipe, LONGEST)
    }

    /// Does the same in a chain of `left` loans at most.
    pub(super) fn reclaim_chain(&self, index: u32, pipe: &TokenPipe, left: usize) -> Reclaimed {
        let holder = self.holder(index);
        match holder.by {
            HeldBy::Pool => Reclaimed::Lent,
            HeldBy::Process(named) if liveness::is_alive(named) => Reclaimed::ByAnother,
            HeldBy::Process(_) => self.take_over(index, holder, pipe, left),
            HeldBy::Nobody => Reclaimed::Done,
        }
    }

    /// Does the same for a holder that is known to be dead.
    pub(crate) fn reclaim_from(&self, dead: Tenant, pipe: &TokenPipe) -> Reclaimed {
        let Tenant { tenure, process, .. } = dead;
        let holder = self.holder(tenure.index);
        if holder.named() != Some(process) || holder.generation != tenure.generation {
            return Reclaimed::ByAnother;
        }
        self.take_over(tenure.index, holder, pipe, LONGEST)
    }

    /// Takes back a slot on which this process launched a job: if the job never adopted it; or if
    /// it did, has `ended`, and had not given the slot back.
    pub(crate) fn settle(&self, tenure: Tenure, ended: Option<ProcessId>, pipe: &TokenPipe) {
        // A job gives its slot back in its own process, which has a hint of its own. Without this,
        // each job would get another entry, and each look at those in use would go through all.
        self.hint.fetch_min(tenure.index as usize, Ordering::Relaxed);
        let holder = self.holder(tenure.index);
        // The job may have adopted the slot, and be launching a job of its own on it.
        let still_ours = || {
            let me = ProcessId::current();
            holder.is(me) || self.field(tenure.index, OWNER).load(IN_ORDER) == me.to_word()
        };
        let never_adopted = holder.launching && still_ours();
        let died = ended.is_some_and(|job| holder.is(job));
        let to_come_back = holder.generation == tenure.generation && (never_adopted || died);
        let left = match to_come_back {
            true => self.take_over(tenure.index, holder, pipe, LONGEST) != Reclaimed::Done,
            // The process that gives it back for the job, which has ended, is no job of ours.
            false => ended.is_some() && holder.by != HeldBy::Nobody,
        };
        if left {
            self.disown(tenure);
        }
    }

    /// Takes over from a holder that is known to be dead, and gives the slot back.
    pub(super) fn take_over(
        &self,
        index: u32,
        dead: Holder,
        pipe: &TokenPipe,
        left: usize,
    ) -> Reclaimed {
        // This is read only now, when the holder cannot change it any more. (A program below the
        // holder may still borrow the slot: then that program gives it back.)
        if let Borrower::Lent { loan, passed_on } = self.borrower(index) {
            if (loan.index as usize) >= self.entries || left == 0 {
                return Reclaimed::Lent; // the ledger is damaged
            }
            let holder = self.holder(loan.index);
            let there = holder.generation == loan.generation;
            if there && holder.named().is_some_and(liveness::is_alive) {
                return Reclaimed::Lent;
            }
            let reclaimed = self.reclaim_chain(loan.index, pipe, left - 1);
            if passed_on || matches!(reclaimed, Reclaimed::Lent | Reclaimed::OutOfReach) {
                return reclaimed; // the slot is back with the loan, or is lent on to a live process
            }
            if self.borrower(index).loan().is_some() {
                return Reclaimed::ByAnother;
            }
        }
        // If this process held it, no other process would reclaim it while this process lives.
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

    /// Lets every process, and not only this one, reclaim the entry of a job whose owner will not
    /// notice the job's end.
    pub(crate) fn disown(&self, tenure: Tenure) {
        if self.holder(tenure.index).generation == tenure.generation {
            self.field(tenure.index, OWNER).store(0, IN_ORDER);
            self.ring();
        }
    }
}

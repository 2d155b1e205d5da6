//! Lending: which entry is open to whom, and loans from their beginning to their end.

use super::layout::*;
use super::*;
use crate::slots::entry::{Borrower, By, Holder};

/// A slot that can be borrowed, and what its entry says of that.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lender(Tenure, Borrower);

impl Ledger {
    /// Has a slot of ours lent to whoever is below and asks for it, from now on: we run on it.
    pub(crate) fn open_to_borrowers(&self, tenure: Tenure) {
        self.open_below(tenure, ProcessId::current_if_known(getpid(), None));
    }

    /// The same for a slot of ours that is about to be this process's.
    pub(super) fn open_below(&self, tenure: Tenure, holder: ProcessId) {
        let open = Borrower::open(tenure.generation, By::Process(holder));
        if self.change_borrower(tenure.index, Borrower::Closed, open) {
            self.ring_open();
        }
    }

    /// An entry for a job that is to run on the slot of `lender`: this process's own, or that of
    /// one that this program is below, and which waits for it. None if it is lent already, or
    /// cannot be borrowed, or if there is no room for more entries.
    /// Whoever is `below` the lender's holder, and does not lend it itself, may borrow it again.
    pub(crate) fn lend(
        &self,
        lender: Lender,
        me: ProcessId,
        below: bool,
    ) -> Result<Option<Tenure>> {
        let Lender(lender, open) = lender;
        if self.borrower(lender.index) != open {
            return Ok(None);
        }
        self.check_namespace(me.pid)?;
        let Some(loan) = self.claim(me) else { return Ok(None) };
        let from = lender.to_word() | if below { FROM_ABOVE } else { 0 };
        self.field(loan.index, LENDER).store(from, IN_ORDER);
        if self.change_borrower(lender.index, open, Borrower::Lent { loan, passed_on: false }) {
            return Ok(Some(loan));
        } // else somebody was quicker, or its holder has given it back
        self.field(loan.index, LENDER).store(0, IN_ORDER);
        self.set_free(loan);
        Ok(None)
    }

    /// The slots that a process runs on, or, if it is another, is just starting a program on:
    /// whether there is any, and one that can be borrowed.
    pub(crate) fn run_by(&self, process: ProcessId) -> (bool, Option<Lender>) {
        let is_this = process.pid == getpid();
        let mut any = false;
        for entry in self.in_use().filter(|entry| entry.process.may_be(process)) {
            let index = entry.tenure.index;
            let open = Borrower::open(entry.tenure.generation, By::Process(process));
            match self.borrower(index) {
                borrower if borrower == open => return (true, Some(Lender(entry.tenure, open))),
                Borrower::Lent { passed_on: false, .. } => any = true,
                _ => any |= !is_this && self.is_launching(index),
            }
        }
        (any, None)
    }

    /// A slot of this holder's, if it is there to be borrowed.
    pub(super) fn open_of(&self, tenure: Tenure, holder: By) -> Option<Lender> {
        let open = Borrower::open(tenure.generation, holder);
        (self.borrower(tenure.index) == open).then_some(Lender(tenure, open))
    }

    /// A slot of this process's, if it can be lent.
    pub(crate) fn open_of_mine(&self, tenure: Tenure, me: ProcessId) -> Option<Lender> {
        self.open_of(tenure, By::Process(me))
    }

    /// The slot that is lent to whoever comes first, if there is one and it can be borrowed.
    pub(crate) fn open_common(&self) -> Option<Lender> {
        self.open_of(self.common()?, By::Pool)
    }

    /// The slot of a process above that this one, or one that this is a loan of, was borrowed from by
    /// a program below. (What a job has lent itself, that job runs on when it has come back.)
    pub(crate) fn borrowed_from(&self, loan: Tenure) -> Option<Tenure> {
        let lender = |loan: Tenure| self.field(loan.index, LENDER).load(IN_ORDER);
        let mut next = lender(loan);
        for _ in 0..LONGEST {
            let found = self.tenure(next)?;
            if next & FROM_ABOVE != 0 {
                return Some(found);
            }
            next = lender(found);
        }
        None
    }

    /// Whether a slot of ours is lent, and has not come back.
    pub(crate) fn is_lent(&self, tenure: Tenure) -> bool {
        self.borrower(tenure.index).loan().is_some()
    }

    /// Before a slot of ours becomes a job's: sees to it that nobody borrows it meanwhile. False if
    /// it is lent.
    pub(crate) fn close(&self, tenure: Tenure) -> bool {
        match self.borrower(tenure.index) {
            Borrower::Closed => true,
            open @ Borrower::Open { .. } => {
                self.change_borrower(tenure.index, open, Borrower::Closed)
            }
            Borrower::Lent { .. } => false,
        }
    }

    /// If a slot of ours is lent, leaves it to its borrower for good: whether that is so.
    pub(crate) fn pass_on(&self, tenure: Tenure) -> bool {
        match self.borrower(tenure.index) {
            // Only its holder does this, and only the borrower ends it: it fails if it has just done
            // so.
            lent @ Borrower::Lent { loan, passed_on } => {
                let passed = Borrower::Lent { loan, passed_on: true };
                if !passed_on {
                    self.ring(); // whoever waits has to watch the borrower now
                }
                passed_on || self.change_borrower(tenure.index, lent, passed)
            }
            _ => false,
        }
    }

    /// Ends a loan: whether its lender wanted the slot no more, so that we hold it now.
    pub(super) fn return_loan(&self, lender: Tenure, loan: Tenure) -> bool {
        let [ours, passed_on] = [false, true].map(|passed_on| Borrower::Lent { loan, passed_on });
        // While it is lent, it has no other holder.
        let open = Borrower::open(lender.generation, self.holder(lender.index).by);
        if self.change_borrower(lender.index, ours, open) {
            self.ring_open();
            return false;
        }
        if self.borrower(lender.index) != passed_on {
            return false;
        }
        // Who was to hear of its holder's end has heard of it by now, or never will: we are watched
        // by all.
        self.field(lender.index, OWNER).store(0, IN_ORDER);
        self.ring();
        // Nobody else touches an entry that was passed on to us.
        let me = Holder::process(ProcessId::current(), lender.generation);
        self.field(lender.index, HOLDER).store(me.to_word(), IN_ORDER);
        self.field(lender.index, BORROWER).store(Borrower::Closed.to_word(), IN_ORDER);
        true
    }
}

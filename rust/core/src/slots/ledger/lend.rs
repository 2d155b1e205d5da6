//! Lending: which entry is open to which borrowers, and loans from their beginning to their end.

use super::layout::*;
use super::*;
use crate::slots::entry::{Borrower, HeldBy, Holder};

/// A slot that can be borrowed, and the borrower word of its entry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lender(Tenure, Borrower);

impl Ledger {
    /// Opens a slot of this process to the programs below it: this process runs on it from now on.
    pub(crate) fn open_to_borrowers(&self, tenure: Tenure) {
        self.open_below(tenure, ProcessId::current_if_known(getpid(), None));
    }

    /// Does the same for a slot of this process that `holder` is about to hold.
    pub(super) fn open_below(&self, tenure: Tenure, holder: ProcessId) {
        let open = Borrower::open(tenure.generation, HeldBy::Process(holder));
        if self.change_borrower(tenure.index, Borrower::Closed, open) {
            self.ring_open();
        }
    }

    /// Claims an entry, the loan, for a job that runs on the slot of `lender`. The lender is this
    /// process itself, or a process that this program is below and that waits for it. Returns None
    /// if the slot is lent already or cannot be borrowed, or if there is no free entry. `below`
    /// says that this process is below the lender's holder and does not lend its own slot: then
    /// jobs of it may borrow the slot again.
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
        } // else another process was quicker, or the holder has given it back
        self.field(loan.index, LENDER).store(0, IN_ORDER);
        self.set_free(loan);
        Ok(None)
    }

    /// Looks at the slots that a process runs on, or, for another process, on which that is
    /// launching a program. Returns whether there is any, and one that can be borrowed. Some slots
    /// are left out.
    pub(crate) fn run_by(&self, process: ProcessId, left_out: &[Tenure]) -> (bool, Option<Lender>) {
        let is_this = process.pid == getpid();
        let mut any = false;
        let of_process = |it: &Tenant| it.process.may_be(process) && !left_out.contains(&it.tenure);
        for entry in self.in_use().filter(of_process) {
            let index = entry.tenure.index;
            let open = Borrower::open(entry.tenure.generation, HeldBy::Process(process));
            match self.borrower(index) {
                borrower if borrower == open => return (true, Some(Lender(entry.tenure, open))),
                Borrower::Lent { passed_on: false, .. } => any = true,
                _ => any |= !is_this && self.is_launching(index),
            }
        }
        (any, None)
    }

    /// Returns a slot of this holder, if it can be borrowed now.
    pub(super) fn open_of(&self, tenure: Tenure, holder: HeldBy) -> Option<Lender> {
        let open = Borrower::open(tenure.generation, holder);
        (self.borrower(tenure.index) == open).then_some(Lender(tenure, open))
    }

    /// Returns a slot of this process, if it can be lent now.
    pub(crate) fn open_of_mine(&self, tenure: Tenure, me: ProcessId) -> Option<Lender> {
        self.open_of(tenure, HeldBy::Process(me))
    }

    /// Returns the slot that all have in common, if there is one and it can be borrowed now.
    pub(crate) fn open_common(&self) -> Option<Lender> {
        self.open_of(self.common()?, HeldBy::Pool)
    }

    /// Returns the slot of a process above from which a program below borrowed this loan, or a loan
    /// that this one is lent from. (A slot that a job has lent to its own job is not meant: the
    /// lender runs on it when it has come back.)
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

    /// Returns whether a slot of this process is lent and has not come back.
    pub(crate) fn is_lent(&self, tenure: Tenure) -> bool {
        self.borrower(tenure.index).loan().is_some()
    }

    /// Closes a slot of this process to borrowers before it becomes a job's. Returns false if it is
    /// lent.
    pub(crate) fn close(&self, tenure: Tenure) -> bool {
        match self.borrower(tenure.index) {
            Borrower::Closed => true,
            open @ Borrower::Open { .. } => {
                self.change_borrower(tenure.index, open, Borrower::Closed)
            }
            Borrower::Lent { .. } => false,
        }
    }

    /// If a slot of this process is lent, leaves it to its borrower for good. Returns whether that
    /// is so.
    pub(crate) fn pass_on(&self, tenure: Tenure) -> bool {
        match self.borrower(tenure.index) {
            // Only the holder does this, and only the borrower ends the loan. The change fails if
            // the borrower has just ended it.
            lent @ Borrower::Lent { loan, passed_on } => {
                let passed = Borrower::Lent { loan, passed_on: true };
                if !passed_on {
                    self.ring(); // waiters have to watch the borrower now
                }
                passed_on || self.change_borrower(tenure.index, lent, passed)
            }
            _ => false,
        }
    }

    /// Ends a loan. Returns whether the lender had passed the slot on: then this process holds it
    /// now.
    pub(super) fn return_loan(&self, lender: Tenure, loan: Tenure) -> bool {
        let [ours, passed_on] = [false, true].map(|passed_on| Borrower::Lent { loan, passed_on });
        // While it is lent, it has no other holder.
        let open = Borrower::open(lender.generation, self.holder(lender.index).by);
        // If it has come back already, the process that ended the loan, and has been killed, may not
        // have told.
        if self.change_borrower(lender.index, ours, open) || self.borrower(lender.index) == open {
            self.ring_open();
            if let Some(holder) = self.holder(lender.index).named() {
                self.tell_process(holder); // it may wait behind others
            }
            return false;
        }
        if self.borrower(lender.index) != passed_on {
            return false;
        }
        // The owner of the lender has noticed the lender's end by now, or never will. So every
        // process watches this one.
        self.field(lender.index, OWNER).store(0, IN_ORDER);
        self.ring();
        // No other process changes an entry that was passed on to this one.
        let me = Holder::process(ProcessId::current(), lender.generation);
        self.field(lender.index, HOLDER).store(me.to_word(), IN_ORDER);
        self.field(lender.index, BORROWER).store(Borrower::Closed.to_word(), IN_ORDER);
        true
    }
}

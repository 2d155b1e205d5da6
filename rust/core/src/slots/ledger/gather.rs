//! Jobs of several slots: a waiter gathers them one by one, and only the first waiter of the queue
//! does.
//!
//! Two waiters that hold some of the slots that they need, and wait for the rest, could wait for
//! each other for ever. So a waiter that is not the first gives back what it has gathered. It takes
//! nothing before its row says that it gathers, and then looks which waiter goes first; and a waiter
//! that comes into the queue looks for such rows afterwards, and tells those behind it. So one of the
//! two sees the other. `model/gather.pml` checks this with kills at every step.
//!
//! Each gathered slot is an entry like any other. So what a killed waiter has gathered comes back.

use super::layout::*;
use super::queue::{Row, FLAGS};
use super::*;

impl Ledger {
    /// Says that the waiter of this row may hold slots before it has all that it needs.
    pub(crate) fn begin_gathering(&self, row: Row) {
        if change(self.row(row.index, GATHERED), 0, 1, |_| false) {
            self.memory.word(GATHERERS).fetch_add(1, IN_ORDER);
        }
    }

    /// Says that it holds none, or all.
    pub(crate) fn end_gathering(&self, row: Row) {
        if change(self.row(row.index, GATHERED), 1, 0, |_| false) {
            self.memory.word(GATHERERS).fetch_sub(1, IN_ORDER);
        }
    }

    /// Returns whether the waiter of this row has not been passed over.
    pub(crate) fn is_in_queue(&self, row: Row) -> bool {
        self.row(row.index, RANK).load(IN_ORDER) >> FLAGS == row.order.0
    }

    /// After a waiter has come in: tells those behind it that gather.
    pub(super) fn tell_gatherers(&self, row: Row) {
        if self.memory.word(GATHERERS).load(IN_ORDER) == 0 {
            return;
        }
        let gathers = |waiter: &Waiter| self.row(waiter.index, GATHERED).load(IN_ORDER) != 0;
        let behind = self.waiters_in_queue().filter(|waiter| waiter.order() > row.order);
        let mut any_listens = false;
        for waiter in behind.filter(gathers) {
            any_listens |= waiter.listens();
            self.tell(waiter);
        }
        if any_listens {
            self.ring(); // it does not hear the bell of its row
        }
    }

    /// Records that the slots of the `further` entries belong to the job of the first one, so that
    /// the job finds them.
    pub(crate) fn join_slots(&self, first: Tenure, further: &[Tenure]) {
        for part in further {
            self.field(part.index, LENDER).store(first.to_part_word(), IN_ORDER);
        }
    }

    /// Returns the further entries of a job that is launched on `first`.
    pub(crate) fn joined_to(&self, first: Tenure) -> Vec<Tenure> {
        let word = first.to_part_word();
        let parts = self.in_use().map(|entry| entry.tenure);
        parts.filter(|part| self.field(part.index, LENDER).load(IN_ORDER) == word).collect()
    }

    /// Returns whether an entry of this process is a loan.
    pub(crate) fn is_loan(&self, tenure: Tenure) -> bool {
        self.tenure(self.field(tenure.index, LENDER).load(IN_ORDER)).is_some()
    }
}

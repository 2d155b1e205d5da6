//! Giving a slot back, by its holder.

use super::layout::*;
use super::*;
use crate::slots::pipe::TokenPipe;
use rustix::fd::AsFd;

/// The slot stays with its holder, until that ends and another process puts the slot back: this
/// program has closed its way to the pipe.
pub(super) struct OutOfReach;

impl Ledger {
    /// Gives back a slot that this process holds. If it is lent, its borrower gives it back at its
    /// end. Returns false if this process cannot give it back: then it must end for the slot to be
    /// free.
    pub(crate) fn give_back(&self, tenure: Tenure, pipe: &TokenPipe) -> bool {
        let mut next = Some(tenure);
        for _ in 0..LONGEST {
            let Some(ours) = next else { break };
            match self.give_back_one(ours, pipe) {
                Ok(lender) => next = lender,
                Err(OutOfReach) => return false,
            }
        }
        true
    }

    /// Gives one entry back. Returns the lender's entry, if this process must now give that back.
    pub(super) fn give_back_one(
        &self,
        tenure: Tenure,
        pipe: &TokenPipe,
    ) -> std::result::Result<Option<Tenure>, OutOfReach> {
        let (holder, me) = (self.holder(tenure.index), getpid());
        let ours = holder.generation == tenure.generation
            && holder.is(ProcessId::current_if_known(me, None));
        if !ours || self.check_namespace(me).is_err() {
            return Ok(None); // another process holds it
        }
        if self.close_or_pass_on(tenure) {
            return Ok(None);
        }
        let token = self.field(tenure.index, TOKEN);
        if !matches!(token.load(IN_ORDER), NONE | IMPLICIT) {
            self.put_back(tenure, pipe)?;
        }
        let lender = self.field(tenure.index, LENDER);
        let lent = self.tenure(lender.load(IN_ORDER));
        let passed_on = lent.filter(|lent| self.return_loan(*lent, tenure));
        // In this order: an entry without a token has nothing more to send.
        token.store(NONE, IN_ORDER);
        self.field(tenure.index, SENDING).store(0, IN_ORDER);
        lender.store(0, IN_ORDER);
        self.set_free(tenure);
        if let (Some(lent), None) = (lent, passed_on) {
            self.reclaim(lent.index, pipe); // the holder may have died meanwhile
        }
        Ok(passed_on)
    }

    /// Closes a slot to borrowers before it is given back. If it is lent, leaves it to its borrower
    /// for good, and returns true.
    pub(super) fn close_or_pass_on(&self, tenure: Tenure) -> bool {
        // The loop tries again if the slot has been borrowed, or has come back, in between.
        loop {
            if self.close(tenure) {
                return false;
            }
            if self.pass_on(tenure) {
                return true;
            }
        }
    }

    /// Puts the byte back, unless that has been done. Where the pipe allows it, the byte and its
    /// record change in one step.
    pub(super) fn put_back(
        &self,
        tenure: Tenure,
        pipe: &TokenPipe,
    ) -> std::result::Result<(), OutOfReach> {
        let byte = self.field(tenure.index, TOKEN).load(IN_ORDER).to_ne_bytes()[0];
        let sending = self.field(tenure.index, SENDING);
        let unsent = (TABLE * WORD) as u64 + u64::from(byte);
        if sending.load(IN_ORDER) == unsent + 1 {
            return Ok(());
        }
        let end = pipe.end_to_write().ok_or(OutOfReach)?;
        sending.store(unsent, IN_ORDER);
        if pipe.send_from(&self.memory, self.offset(tenure.index, SENDING), end.as_fd()) {
            return Ok(());
        }
        // In two steps. A kill in between loses the slot. That is better than one slot too many,
        // which would oversubscribe the machine.
        sending.store(unsent + 1, IN_ORDER);
        if TokenPipe::put_back(byte, end.as_fd()) {
            return Ok(());
        }
        sending.store(unsent, IN_ORDER);
        Err(OutOfReach)
    }
}

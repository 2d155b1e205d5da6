//! How a thread gathers the slots of a job of several, by its turn.
//!
//! Not here: which waiters may hold a part, and how they tell each other (`slots::ledger`).

use super::turn::{Turn, COUNTING};
use super::Slot;
use crate::error::{Error, Result};
use crate::platform::getpid;
use crate::process::ProcessId;
use std::sync::Arc;

impl Turn {
    /// Takes the slots of a job of several: all, or as many as there are for a thread that waits and
    /// goes first. Without a row in the queue, a thread keeps none: see `slots::ledger::gather`.
    pub(super) fn gather(&mut self) -> Result<Option<Slot>> {
        let (bank, me) = (Arc::clone(&self.bank), ProcessId::current());
        bank.ledger.check_namespace(me.pid)?;
        if !self.waits && self.row().is_none() && self.within_reach()? < self.needs {
            return Ok(None);
        }
        let Some(row) = self.entered() else { return Ok(None) };
        bank.ledger.begin_gathering(row);
        if self.must_let_others_go_first()? {
            bank.give_part_back(row);
            return Ok(None);
        }
        let mut parts = bank.parts();
        let part = parts.of(row);
        while part.len() < self.needs {
            let has_loan = part.first().is_some_and(|first| bank.ledger.is_loan(*first));
            if let Some(loan) = if has_loan { None } else { self.borrow(me)? } {
                part.insert(0, loan);
            } else if let Some(taken) = bank.ledger.take(&bank.pipe, me)? {
                part.push(taken);
            } else {
                if part.is_empty() {
                    bank.ledger.end_gathering(row);
                }
                return Ok(None);
            }
        }
        bank.ledger.end_gathering(row);
        Ok(Some(Slot::of_several(&bank, std::mem::take(part))))
    }

    pub(super) fn has_part(&self) -> bool {
        self.needs > 1 && self.row().is_some_and(|row| !self.bank.parts().of(row).is_empty())
    }

    /// Returns how many slots this thread has gathered or could take now, if no waiter goes first.
    pub(super) fn within_reach(&self) -> Result<usize> {
        let free = self.bank.pipe.free().map_err(Error::system(COUNTING))?;
        let part = self.row().map_or(0, |row| self.bank.parts().of(row).len());
        Ok(free + part + usize::from(self.bank.lender(getpid()).is_some()))
    }

    /// For a thread that has this many slots and does something before it uses them: gives them back,
    /// but stays in the queue, so that other waiters leave them to it for a while.
    pub(crate) fn set_aside(mut self, slot: Option<Slot>) -> Turn {
        self.entered();
        drop(slot);
        self
    }
}

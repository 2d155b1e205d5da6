//! A slot as the process has it that took it, or as the owner of the job has it that runs on it.

use super::assignment::{Assignment, BorrowedFrom};
use super::bank::Bank;
use super::entry::Tenure;
use crate::error::Result;
use crate::platform::getpid;
use crate::process::{is_this, Child, ProcessId};
use rustix::process::Pid;
use std::fmt;
use std::sync::Arc;

/// The right to run one job; dropping it gives it back.
///
/// Only the process that took a slot gives it back: a copy that a fork made is inert.
pub struct Slot {
    bank: Arc<Bank>,
    tenure: Tenure,
    /// The process that gives it back; none if that is for somebody else.
    taker: Option<Pid>,
}

impl Slot {
    /// A slot that this process has taken.
    pub(super) fn ours(bank: &Arc<Bank>, tenure: Tenure) -> Slot {
        Slot { bank: Arc::clone(bank), tenure, taker: Some(getpid()) }
    }

    /// A slot that another process gives back.
    pub(super) fn of_others(bank: &Arc<Bank>, tenure: Tenure) -> Slot {
        Slot { bank: Arc::clone(bank), tenure, taker: None }
    }

    /// Lends the slot that this process runs on: a slot for a job of this process, which
    /// itself must not run until the slot has come back. None if it is lent already.
    pub fn lend(&self) -> Option<Slot> {
        // (In another namespace than the ledger's there is nothing that it could be lent to.)
        let (ledger, me) = (&self.bank.ledger, ProcessId::current());
        let loan = ledger.lend(ledger.open_of_mine(self.tenure, me)?, me, false).ok()??;
        Some(Slot::ours(&self.bank, loan))
    }

    /// This process runs on it from now on: programs below may borrow it.
    pub(crate) fn run_on(&self) {
        self.bank.ledger.open_to_borrowers(self.tenure);
    }

    /// Before it is handed over: sees to it that nobody borrows it. False if it is lent.
    pub(crate) fn close(&self) -> bool {
        self.bank.ledger.close(self.tenure)
    }

    /// Whether it is this process that holds it.
    pub(crate) fn is_ours(&self) -> bool {
        // (Whether it is in fact ours to give back, the ledger knows.)
        self.taker.is_some_and(is_this)
    }

    /// Whether it is lent, and has not come back.
    pub fn is_lent(&self) -> bool {
        self.bank.ledger.is_lent(self.tenure)
    }

    /// Leaves it for good to the job that has borrowed it. False if it has just come back.
    pub(crate) fn pass_on(&mut self) -> bool {
        let passed_on = self.bank.ledger.pass_on(self.tenure);
        if passed_on {
            self.taker = None; // by the time of our drop, the entry may be another's
        }
        passed_on
    }

    /// What names the slot to the job that is launched on it.
    pub fn assignment(&self) -> Assignment {
        Assignment::Slot(self.tenure)
    }

    /// Says that a job is about to be born that will adopt the slot.
    pub fn launch(&self) {
        self.bank.ledger.launch(self.tenure);
    }

    /// In a forked job: takes over the slot that its owner launched it on. None if the owner
    /// has died or given up: then nothing may run.
    pub fn adopt(&self) -> Result<Option<Slot>> {
        let ledger = &self.bank.ledger;
        let adopted = ledger.adopt(self.tenure)?;
        if adopted {
            // (While it is lent, nobody else holds it. But afterwards it may be handed on, and that
            // process run on another: so it is known by its holder, and not by itself.)
            let from = ledger.borrowed_from(self.tenure).map(|lender| ledger.holder_of(lender));
            self.bank.set_borrowed_from(match from {
                None => BorrowedFrom::Nobody,
                Some(None) => BorrowedFrom::Common,
                Some(Some(holder)) => BorrowedFrom::Process(holder),
            });
        }
        Ok(adopted.then(|| Slot::ours(&self.bank, self.tenure)))
    }

    /// The job is born: from now on the slot is its own, or comes back at its end. It `adopts` the
    /// slot itself when it begins; or it knows nothing of slots, and holds this one until its end.
    pub(crate) fn launched(mut self, job: &Child, adopts: bool) -> Launched {
        self.launch();
        self.taker = None;
        let job = job.id();
        self.bank.ledger.born(self.tenure, job, adopts);
        Launched { bank: Arc::clone(&self.bank), tenure: self.tenure, job }
    }
}

impl Slot {
    /// Gives it back, as its drop does. False if this process cannot any more, and must end for
    /// the slot to be free.
    pub(crate) fn give_back(mut self) -> bool {
        let back = self.let_go();
        self.taker = None;
        back
    }

    fn let_go(&self) -> bool {
        !self.is_ours() || self.bank.ledger.give_back(self.tenure, &self.bank.pipe)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.let_go();
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("tenure", &self.tenure).field("taker", &self.taker).finish()
    }
}

/// The slot of a job that is running, as its owner knows it.
#[derive(Debug)]
pub(crate) struct Launched {
    bank: Arc<Bank>,
    tenure: Tenure,
    job: ProcessId,
}

impl Launched {
    /// Puts the slot back if the job never took it over, though it should have by now; or if
    /// it had, and its process has `ended`.
    pub(crate) fn settle(&self, ended: bool) {
        let ended = ended.then_some(self.job);
        self.bank.ledger.settle(self.tenure, ended, &self.bank.pipe);
    }

    /// Its owner will hear no more of it: its death is for everybody to see.
    pub(crate) fn disown(&self) {
        self.bank.ledger.disown(self.tenure);
    }
}

//! Adoption: how a new job becomes the holder of the slot that its owner launched it on, or runs on
//! none.

use super::assignment::{Assignment, BorrowedFrom};
use super::own_slot::OwnSlot;
use super::{Pool, Slot};
use crate::error::Result;
use crate::process::getpid;
use rustix::process::{getppid, Pid};
use std::sync::atomic::Ordering;

/// What a new job runs on.
#[derive(Debug)]
pub enum Adopted {
    /// Its slot.
    Slot(Slot),
    /// No slot, as its owner meant it to be.
    Nothing,
    /// The owner has died or has taken the slot back: then the job must not run.
    Gone,
}

impl Pool {
    /// In a job: adopts the slot that its owner launched it on, if there is one. Returns false if
    /// the owner has died or has taken the slot back: then the job must not run.
    pub fn adopt(&self, assignment: Assignment) -> Result<bool> {
        let adopted = self.adopt_slot(assignment)?;
        Ok(self.run_on(adopted))
    }

    /// Does the same for a job that keeps its slot itself, instead of the pool.
    pub fn adopt_slot(&self, assignment: Assignment) -> Result<Adopted> {
        self.begin_job();
        match assignment {
            Assignment::Slot { first, further } => {
                match Slot::of_others(&self.bank, first, further) {
                    Some(slot) => adopted(&slot),
                    None => Ok(Adopted::Gone),
                }
            }
            Assignment::WithoutSlot(from) => {
                self.bank.set_borrowed_from(from);
                Ok(Adopted::Nothing)
            }
        }
    }

    /// In a new job that was forked: adopts this slot of its owner's, or runs without a slot.
    pub fn adopt_forked(&self, slot: Option<&Slot>) -> Result<bool> {
        let Some(slot) = slot else {
            self.set_depth(self.depth().saturating_add(1));
            return self.adopt(self.without_slot_below(getppid()));
        };
        self.begin_job();
        Ok(self.run_on(adopted(slot)?))
    }

    fn run_on(&self, adopted: Adopted) -> bool {
        self.own.set(match adopted {
            Adopted::Slot(slot) => OwnSlot::new(slot),
            Adopted::Nothing => OwnSlot::default(),
            Adopted::Gone => return false,
        });
        true
    }

    /// In a job: from now on this process runs on a slot of its own or on none, and not on the slot
    /// of a process above it.
    fn begin_job(&self) {
        self.bank.job.store(getpid().as_raw_nonzero().get(), Ordering::Relaxed);
    }

    /// Returns how many jobs are above this process: a new job's owner has one less.
    pub fn depth(&self) -> u16 {
        self.bank.depth()
    }

    /// Sets it, in a job without a slot. (A job on a slot knows it from that.)
    pub fn set_depth(&self, depth: u16) {
        self.bank.set_depth(depth);
    }

    /// Returns whether this process is a job of this pool.
    pub fn is_job(&self) -> bool {
        self.bank.is_job()
    }

    /// Returns the assignment of a job of this process that runs without a slot. Jobs of that job
    /// can borrow the slots that jobs of this process could.
    pub fn without_slot(&self) -> Assignment {
        self.without_slot_below(Some(getpid()))
    }

    fn without_slot_below(&self, process: Option<Pid>) -> Assignment {
        let job = Pid::from_raw(self.bank.job.load(Ordering::Relaxed));
        Assignment::WithoutSlot(match job.is_some() && job == process {
            true => self.bank.borrowed_from(),
            false => BorrowedFrom::NearestAbove,
        })
    }
}

fn adopted(slot: &Slot) -> Result<Adopted> {
    Ok(slot.adopt()?.map_or(Adopted::Gone, Adopted::Slot))
}

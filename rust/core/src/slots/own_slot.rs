//! The slot that this process itself runs on, if it is a job: lending it, and yielding it.
//!
//! A job that waits needs no slot. A job that must wait for a slot for a job of its own lets that
//! job run on its own slot, and goes on when it has a slot again. So nested work ends however few
//! slots there are. There are two ways: a job *lends* its slot, and the slot comes back to it; or
//! it *yields* its slot to the pool, and is one of the waiters. Not here: when a job waits (the
//! caller decides).

use super::thread_slots::ThreadSlots;
use super::Slot;
use crate::error::Result;
use crate::platform::getpid;
use rustix::process::Pid;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The slot that this process runs on, or none. In a forked child it is the parent's slot, and does
/// nothing.
#[derive(Debug, Default)]
pub struct OwnSlot {
    slot: Option<Slot>,
    /// How many slots the job takes, also while it has given them away.
    takes: usize,
}

impl OwnSlot {
    /// In a job: the job runs on this slot from now on.
    pub fn new(slot: Slot) -> OwnSlot {
        slot.run_on();
        let takes = slot.count();
        OwnSlot { slot: Some(slot), takes }
    }

    /// Returns how many slots the job takes: at least 1, because a job without one goes on with one.
    pub(crate) fn takes(&self) -> usize {
        self.takes.max(1)
    }

    /// Returns whether this process has a slot to run on now.
    pub fn runs(&self) -> bool {
        self.slot.as_ref().is_some_and(|slot| slot.is_ours() && !slot.is_lent())
    }

    /// Returns the number of the slot that this process runs on now: see [`Slot::number`].
    pub(crate) fn number(&self) -> Option<usize> {
        self.slot.as_ref().and_then(Slot::number)
    }

    /// Lends the slot to a job of this process. Returns None if there is nothing to lend, or if the
    /// job has several.
    pub fn lend(&mut self) -> Option<Slot> {
        self.slot.as_ref().filter(|slot| slot.is_ours())?.lend()
    }

    /// Hands the slot over for good. Returns None if there is none, if it is lent, or if the job
    /// has several.
    pub fn hand_over(&mut self) -> Option<Slot> {
        if self.takes() > 1 {
            return None;
        }
        self.closed()
    }

    fn closed(&mut self) -> Option<Slot> {
        self.slot.take_if(|slot| slot.is_ours() && slot.close())
    }

    /// Gives the slot away for a wait: to the pool, or if it is lent, to its borrower for good.
    /// Returns whether there was one. `before` is called before any other process can have the
    /// slot.
    pub fn give_away(&mut self, before: impl FnOnce()) -> bool {
        let mut before = Some(before);
        let mut tell = || before.take().into_iter().for_each(|before| before());
        while self.slot.as_ref().is_some_and(Slot::is_ours) {
            if let Some(slot) = self.closed() {
                tell();
                drop(slot);
                return true;
            }
            // The slot is lent, or has just come back. If it has come back, the loop tries again.
            tell();
            if self.slot.as_mut().is_some_and(Slot::pass_on) {
                self.slot = None;
                return true;
            }
        }
        false
    }

    /// Gets a slot to go on with: the own one if it is not lent, or a free one from `take`. Returns
    /// whether there is one now; never waits.
    pub fn resume(&mut self, take: impl FnOnce() -> Result<Option<Slot>>) -> Result<bool> {
        if self.runs() {
            return Ok(true);
        }
        let Some(free) = take()? else { return Ok(self.runs()) };
        while self.slot.as_ref().is_some_and(Slot::is_ours) {
            if self.runs() {
                return Ok(true); // it has just come back, and the free one goes back
            }
            // This fails if the slot has come back, or has come back and been lent again.
            if self.slot.as_mut().is_some_and(Slot::pass_on) {
                break;
            }
        }
        free.run_on();
        self.slot = Some(free);
        Ok(true)
    }

    /// Gives the slot back, or leaves it to its borrower. Returns false if this process cannot do
    /// either: then it must end for the slot to be free.
    pub fn release(&mut self) -> bool {
        self.slot.take().is_none_or(Slot::give_back)
    }
}

/// Tells a job's owner that the job has given its slot away, if the owner asked for that.
pub type OnYield = Box<dyn Fn() + Send + Sync>;

/// The slot that this process runs on as a job of one pool, and how the process tells its owner
/// that it gives that slot away. An owner that holds a slot of its own while it waits asks for
/// that: see ARCHITECTURE.md, "Lending and yielding".
///
/// No lock is held while a process is forked or while other code runs.
#[derive(Default)]
pub(crate) struct Own {
    slot: Mutex<OwnSlot>,
    /// The process that it belongs to, and how that process tells its owner.
    on_yield: Mutex<Option<(Pid, OnYield)>>,
    told: AtomicBool,
    pub(super) threads: ThreadSlots,
}

impl Own {
    pub(crate) fn slot(&self) -> MutexGuard<'_, OwnSlot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In a new job: sets the slot that it runs on.
    pub(crate) fn set(&self, slot: OwnSlot) {
        self.told.store(false, Ordering::Relaxed);
        *self.slot() = slot;
    }

    /// In a new job, or in one with another owner than before: sets how it tells its owner, if the
    /// owner asked for that.
    pub(crate) fn set_on_yield(&self, on_yield: Option<OnYield>) {
        let me = getpid();
        let on_yield = on_yield.map(|on_yield| (me, on_yield));
        let mut place = self.on_yield.lock().unwrap_or_else(PoisonError::into_inner);
        let replaced = std::mem::replace(&mut *place, on_yield);
        drop(place);
        if replaced.as_ref().is_some_and(|(process, _)| *process != me) {
            std::mem::forget(replaced); // it belongs to the job that forked this one
        }
    }

    /// Tells the owner, at most once a job.
    pub(crate) fn tell_owner(&self) {
        let on_yield = self.on_yield.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, on_yield)) = on_yield.as_ref() {
            if !self.told.swap(true, Ordering::Relaxed) {
                on_yield();
            }
        }
    }

    /// Tells the owner if this process has no slot.
    pub(crate) fn tell_if_without_slot(&self) {
        let without = self.slot().slot.is_none();
        if without {
            self.tell_owner();
        }
    }

    /// Hands the slot over to a job of this process, if there is a slot here, and tells the owner.
    pub(crate) fn hand_over(&self) -> Option<Slot> {
        let slot = self.slot().hand_over()?;
        self.tell_owner();
        Some(slot)
    }

    /// Gives the slot away for a wait, and tells the owner. Returns whether there was one.
    pub(crate) fn give_away(&self) -> bool {
        self.slot().give_away(|| self.tell_owner())
    }
}

impl std::fmt::Debug for Own {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.slot.fmt(f)
    }
}

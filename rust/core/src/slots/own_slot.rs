//! The slot that this process itself runs on, if it is a job: lending it, and yielding it.
//!
//! A job that waits needs no slot. One that must wait for a slot for a job of its own lets
//! that job run on its own slot, and goes on when it has one again: so nested work ends
//! however few slots there are. Two ways: *lending*, where the slot comes back to the lender;
//! and *yielding*, where it goes to whoever is next, the waiting job being one of many.
//! Not here: when a job waits (that is for the caller of this).

use super::Slot;
use crate::error::Result;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The slot that this process runs on, or none. In a forked child it is that of its parent,
/// and of no use here.
#[derive(Debug, Default)]
pub struct OwnSlot {
    slot: Option<Slot>,
}

impl OwnSlot {
    /// In a job: it runs on this slot.
    pub fn new(slot: Slot) -> OwnSlot {
        slot.run_on();
        OwnSlot { slot: Some(slot) }
    }

    /// Whether this process has a slot to run on now.
    pub fn runs(&self) -> bool {
        self.slot.as_ref().is_some_and(|slot| slot.is_ours() && !slot.is_lent())
    }

    /// Lends it to a job of this process. None if there is nothing to lend.
    pub fn lend(&mut self) -> Option<Slot> {
        self.slot.as_ref().filter(|slot| slot.is_ours())?.lend()
    }

    /// Hands it over for good. None if there is none, or it is lent.
    pub fn hand_over(&mut self) -> Option<Slot> {
        self.slot.take_if(|slot| slot.is_ours() && slot.close())
    }

    /// Gives it away for a wait: to the pool, or if it is lent, to whoever has borrowed it, for good.
    /// Whether there was one. `before` is called before anybody else can have it.
    pub fn give_away(&mut self, before: impl FnOnce()) -> bool {
        let mut before = Some(before);
        let mut tell = || before.take().into_iter().for_each(|before| before());
        while self.slot.as_ref().is_some_and(Slot::is_ours) {
            if let Some(slot) = self.hand_over() {
                tell();
                drop(slot);
                return true;
            }
            // Lent: or it has just come back, and so once more.
            tell();
            if self.slot.as_mut().is_some_and(Slot::pass_on) {
                self.slot = None;
                return true;
            }
        }
        false
    }

    /// Sees to a slot to go on with: the own one if it is here, or a free one that can be taken.
    /// Whether there is one now; never waits.
    pub fn resume(&mut self, take: impl FnOnce() -> Result<Option<Slot>>) -> Result<bool> {
        if self.runs() {
            return Ok(true);
        }
        let Some(free) = take()? else { return Ok(self.runs()) };
        while self.slot.as_ref().is_some_and(Slot::is_ours) {
            if self.runs() {
                return Ok(true); // it has just come back, and the free one is too many
            }
            // Or it has come back, and been lent once more, in between.
            if self.slot.as_mut().is_some_and(Slot::pass_on) {
                break;
            }
        }
        free.run_on();
        self.slot = Some(free);
        Ok(true)
    }

    /// Gives it back, or leaves it to who has borrowed it. False if this process cannot do
    /// either, and must end for the slot to be free.
    pub fn release(&mut self) -> bool {
        self.slot.take().is_none_or(Slot::give_back)
    }
}

/// Tells a job's owner, if that wants to hear of it, that the job has given its slot away.
pub type OnYield = Box<dyn Fn() + Send + Sync>;

/// The slot that this process runs on as a job of one pool, and how its owner hears that it gives that
/// slot away. An owner that holds a slot of its own while it waits wants to: see ARCHITECTURE.md,
/// "Lending and yielding".
///
/// No lock is held while a process is forked or code of others runs.
#[derive(Default)]
pub(crate) struct Own {
    slot: Mutex<OwnSlot>,
    on_yield: Mutex<Option<OnYield>>,
    told: AtomicBool,
}

impl Own {
    pub(crate) fn slot(&self) -> MutexGuard<'_, OwnSlot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In a new job: it runs on this.
    pub(crate) fn set(&self, slot: OwnSlot) {
        self.told.store(false, Ordering::Relaxed);
        *self.slot() = slot;
    }

    /// In a new job: how its owner hears of it, if that wants to.
    pub(crate) fn set_on_yield(&self, on_yield: Option<OnYield>) {
        let mut place = self.on_yield.lock().unwrap_or_else(PoisonError::into_inner);
        let replaced = std::mem::replace(&mut *place, on_yield);
        drop(place);
        std::mem::forget(replaced); // that of a job which has forked this one
    }

    /// Tells the owner, once.
    pub(crate) fn tell(&self) {
        let on_yield = self.on_yield.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(on_yield) = on_yield.as_ref() {
            if !self.told.swap(true, Ordering::Relaxed) {
                on_yield();
            }
        }
    }

    /// Hands the slot over to a job of this process, if there is one here, and tells the owner.
    pub(crate) fn hand_over(&self) -> Option<Slot> {
        let slot = self.slot().hand_over()?;
        self.tell();
        Some(slot)
    }

    /// Gives the slot away for a wait, and tells the owner: whether there was one.
    pub(crate) fn give_away(&self) -> bool {
        self.slot().give_away(|| self.tell())
    }
}

impl std::fmt::Debug for Own {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.slot.fmt(f)
    }
}

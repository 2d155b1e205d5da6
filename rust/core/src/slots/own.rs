//! The slot that this process itself runs on, if it is a job: lending it, and yielding it.
//!
//! A job that waits needs no slot. One that must wait for a slot for a job of its own lets
//! that job run on its own slot, and goes on when it has one again: so nested work ends
//! however few slots there are. Two ways: *lending*, where the slot comes back to the lender;
//! and *yielding*, where it goes to whoever is next, the waiting job being one of many.
//! Not here: when a job waits (that is for the caller of this).

use crate::error::Result;
use crate::slots::{Pool, Slot};

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

    /// Sees to a slot to go on with: the own one if it is here, or a free one of `pool`.
    /// Whether there is one now; never waits.
    pub fn resume(&mut self, pool: &Pool) -> Result<bool> {
        if self.runs() {
            return Ok(true);
        }
        let Some(free) = pool.try_take()? else { return Ok(self.runs()) };
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

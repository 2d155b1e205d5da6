//! The slots that threads of this process run on, beside the one that the process itself runs on
//! (`own_slot`). Not here: what is done with them (`thread_slot`).

use super::Slot;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The slots, by the numbers of the threads. No lock is held while a process is forked or while
/// other code runs. In a forked child they are the parent's, and are never used.
#[derive(Debug, Default)]
pub(crate) struct ThreadSlots(Mutex<Numbered>);

#[derive(Debug, Default)]
struct Numbered {
    last: u64,
    slots: Vec<(u64, Slot)>,
}

impl ThreadSlots {
    fn locked(&self) -> MutexGuard<'_, Numbered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, slot: Slot) -> u64 {
        let mut numbered = self.locked();
        numbered.last += 1;
        let number = numbered.last;
        numbered.slots.push((number, slot));
        number
    }

    pub(super) fn remove(&self, wanted: impl Fn(u64, &Slot) -> bool) -> Option<Slot> {
        let mut numbered = self.locked();
        let place = numbered.slots.iter().position(|(number, slot)| wanted(*number, slot))?;
        Some(numbered.slots.swap_remove(place).1)
    }

    pub(super) fn any(&self, wanted: impl Fn(u64, &Slot) -> bool) -> bool {
        self.locked().slots.iter().any(|(number, slot)| wanted(*number, slot))
    }
}

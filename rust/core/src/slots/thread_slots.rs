//! The slots that threads of this process run on, beside the one that the process itself runs on.
//!
//! A thread that waits for a job, of its own or of another thread, must not keep its slot from that
//! job. Nothing tells which thread waits for which job. So a submission of this process that would
//! have to wait gets the slot of any thread here, and that thread goes on without one. Not here: the
//! slot of the process (`own_slot`).

use super::{Pool, Slot};
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

    fn add(&self, slot: Slot) -> u64 {
        let mut numbered = self.locked();
        numbered.last += 1;
        let number = numbered.last;
        numbered.slots.push((number, slot));
        number
    }

    fn remove(&self, wanted: impl Fn(u64, &Slot) -> bool) -> Option<Slot> {
        let mut numbered = self.locked();
        let place = numbered.slots.iter().position(|(number, slot)| wanted(*number, slot))?;
        Some(numbered.slots.swap_remove(place).1)
    }

    fn is_empty(&self) -> bool {
        !self.locked().slots.iter().any(|(_, slot)| slot.is_ours())
    }
}

/// The slot that one thread runs on. Dropping it gives the slot back, unless a submission of this
/// process has got it.
#[derive(Debug)]
pub struct ThreadSlot {
    pool: Pool,
    number: u64,
}

impl Drop for ThreadSlot {
    fn drop(&mut self) {
        // (The lock is not held while the slot goes back.)
        let slot = self.pool.own.threads.remove(|number, _| number == self.number);
        drop(slot);
    }
}

impl Pool {
    /// Records that a thread of this process runs on this slot.
    pub(crate) fn run_thread_on(&self, slot: Slot) -> ThreadSlot {
        ThreadSlot { pool: self.clone(), number: self.own.threads.add(slot) }
    }

    /// Whether threads of this process have slots.
    pub(crate) fn has_thread_slots(&self) -> bool {
        !self.own.threads.is_empty()
    }

    /// Takes the slot of a thread of this process.
    pub(crate) fn take_thread_slot(&self) -> Option<Slot> {
        self.own.threads.remove(|_, slot| slot.is_ours())
    }

    /// Gives the slots of all threads of this process to the pool: several slots must come together,
    /// in the queue.
    pub(crate) fn give_thread_slots_away(&self) {
        while let Some(slot) = self.take_thread_slot() {
            drop(slot);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::slots::Pool;

    #[test]
    fn the_slot_of_a_thread_comes_back_at_its_end() {
        let pool = Pool::new(1).unwrap();
        let thread = pool.run_thread_on(pool.try_take().unwrap().unwrap());
        assert_eq!((pool.free().unwrap(), pool.has_thread_slots()), (0, true));
        drop(thread);
        assert_eq!((pool.free().unwrap(), pool.has_thread_slots()), (1, false));
    }

    #[test]
    fn a_submission_gets_the_slot_of_a_thread_once() {
        let pool = Pool::new(1).unwrap();
        let thread = pool.run_thread_on(pool.try_take().unwrap().unwrap());
        let slot = pool.take_thread_slot().unwrap();
        assert!(pool.take_thread_slot().is_none());
        drop(thread);
        assert_eq!(pool.free().unwrap(), 0);
        drop(slot);
        assert_eq!(pool.free().unwrap(), 1);
    }

    #[test]
    fn a_submission_of_several_slots_has_those_of_threads_given_to_the_pool() {
        let pool = Pool::new(2).unwrap();
        let threads = [(); 2].map(|()| pool.run_thread_on(pool.try_take().unwrap().unwrap()));
        pool.give_thread_slots_away();
        assert_eq!(pool.free().unwrap(), 2);
        drop(threads);
        assert_eq!(pool.free().unwrap(), 2);
    }
}

//! The slot of a thread, and who else may have it.
//!
//! A thread that waits for a job, of its own or of another thread, must not keep its slot from that
//! job. Nothing tells which thread waits for which job. So a submission of this process that would
//! have to wait gets the slot of any thread here, and that thread goes on without one. A thread may
//! also wait for a program below. So such a program may borrow the slot of any thread, as it may
//! borrow a job's own. Not here: the slot of the process (`own_slot`).

use super::{Pool, Slot};

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
        slot.map(|slot| self.pool.leave_thread(slot));
    }
}

impl ThreadSlot {
    /// Whether the thread still has it: no submission has got it.
    pub fn is_there(&self) -> bool {
        self.pool.own.threads.any(|number, _| number == self.number)
    }
}

impl Pool {
    /// Records that a thread of this process runs on this slot.
    pub(crate) fn run_thread_on(&self, slot: Slot) -> ThreadSlot {
        // In this order: other threads of this process must not borrow it.
        self.bank.of_threads().extend(slot.tenures());
        slot.run_on();
        ThreadSlot { pool: self.clone(), number: self.own.threads.add(slot) }
    }

    /// Returns the slot of a thread, which does not run on it any more.
    fn leave_thread(&self, slot: Slot) -> Slot {
        self.bank.of_threads().retain(|known| slot.tenures().all(|tenure| tenure != *known));
        slot
    }

    /// Whether threads of this process have slots that a submission could get.
    pub(crate) fn has_thread_slots(&self) -> bool {
        self.own.threads.any(|_, slot| slot.is_ours() && !slot.is_lent())
    }

    /// Takes the slot of a thread of this process. If a program below has borrowed it, it comes back.
    pub(crate) fn take_thread_slot(&self) -> Option<Slot> {
        let slot = self.own.threads.remove(|_, slot| slot.is_ours() && slot.close())?;
        Some(self.leave_thread(slot))
    }

    /// Gives the slots of all threads of this process to the pool: several slots must come together,
    /// in the queue.
    pub(crate) fn give_thread_slots_away(&self) {
        // (What is lent stays with its borrower, and goes to the pool afterwards.)
        while let Some(slot) = self.own.threads.remove(|_, slot| slot.is_ours()) {
            drop(self.leave_thread(slot));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::ThreadSlot;
    use crate::process::ProcessId;
    use crate::slots::{Pool, Tenure};

    /// A pool with one slot, on which a thread runs.
    fn with_thread() -> (Pool, ThreadSlot) {
        let pool = Pool::new(1).unwrap();
        let thread = pool.run_thread_on(pool.try_take().unwrap().unwrap());
        (pool, thread)
    }

    /// A loan of that slot to a program below.
    fn borrowed(pool: &Pool) -> Tenure {
        let (ledger, me) = (&pool.bank.ledger, ProcessId::current());
        let lender = ledger.run_by(me, &[]).1.unwrap();
        ledger.lend(lender, me, true).unwrap().unwrap()
    }

    #[test]
    fn the_slot_of_a_thread_comes_back_at_its_end() {
        let (pool, thread) = with_thread();
        assert_eq!((pool.free().unwrap(), pool.has_thread_slots()), (0, true));
        drop(thread);
        assert_eq!((pool.free().unwrap(), pool.has_thread_slots()), (1, false));
    }

    #[test]
    fn a_submission_gets_the_slot_of_a_thread_once() {
        let (pool, thread) = with_thread();
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

    #[test]
    fn a_program_below_may_borrow_the_slot_of_a_thread_and_this_process_may_not() {
        let (pool, thread) = with_thread();
        let (bank, me) = (&pool.bank, ProcessId::current());
        let here = bank.lineage().nearest(&bank.ledger, &bank.of_threads());
        assert!(here.is_none_or(|(above, _)| above != me));
        let loan = borrowed(&pool);
        assert_eq!((pool.has_thread_slots(), thread.is_there()), (false, true));
        assert!(pool.take_thread_slot().is_none());
        assert!(bank.ledger.give_back(loan, &bank.pipe));
        drop(pool.take_thread_slot().unwrap());
        assert_eq!((pool.free().unwrap(), thread.is_there()), (1, false));
    }

    #[test]
    fn a_slot_that_is_lent_at_the_end_of_its_thread_comes_back_at_the_end_of_the_loan() {
        let (pool, thread) = with_thread();
        let bank = &pool.bank;
        let loan = borrowed(&pool);
        drop(thread);
        assert_eq!((pool.free().unwrap(), bank.of_threads().len()), (0, 0));
        bank.ledger.give_back(loan, &bank.pipe);
        assert_eq!(pool.free().unwrap(), 1);
    }
}

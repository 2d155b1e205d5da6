//! Who waits for a slot wakes, at whichever step the process is killed that has it.
//!
//! A test counts as waiting, with all that a waiter listens to, before a process of its stage
//! becomes the holder of the slot. When that process is dead, one of these must be ready.

use super::cast::{borrower, is_ready, lender};
use super::stage::{alone, at_each_step, Fate, Stage};
use crate::slots::PoolWait;

/// Ends a wait, which something must have ended by now, and takes the slot.
fn wakes(stage: &Stage, wait: PoolWait) {
    assert!(is_ready(&wait) || wait.look_after.is_some(), "who waits sleeps for ever");
    drop(wait);
    let taken = stage.pool.try_take().unwrap();
    // The slot is lost where a byte is put back in two steps, and the kill fell between them.
    assert!(taken.is_some() || stage.lost() == 1, "it has woken in vain");
}

#[test]
fn who_waits_wakes_when_who_takes_a_slot_is_killed() {
    alone(|| {
        at_each_step(|step| {
            let stage = Stage::new(1);
            let wait = stage.pool.compete().begin_wait();
            let takes = stage.start(Fate::KilledAt(step), |role| {
                role.meet_fate(|| role.run());
            });
            takes.rest();
            wakes(&stage, wait);
            stage.check();
            takes.is_through()
        });
    });
}

#[test]
fn who_waits_wakes_when_who_adopts_a_slot_is_killed() {
    alone(|| {
        at_each_step(|step| {
            let stage = Stage::new(1);
            let owns = stage.start(Fate::Lives, |role| {
                let slot = role.take();
                role.pause();
                stage.ledger.launch(slot, 1);
                stage.tell_tenure(0, slot);
                role.pause();
            });
            owns.rest();
            let wait = stage.pool.compete().begin_wait();
            owns.go_on();
            let job = stage.start(Fate::KilledAt(step), |role| {
                let slot = stage.told_tenure(0).unwrap();
                role.meet_fate(|| assert!(stage.ledger.adopt(slot).unwrap()));
            });
            job.rest();
            if stage.ledger.holder_of(stage.told_tenure(0).unwrap()).unwrap().pid == owns.pid {
                owns.kill(); // the job has not adopted it
            }
            wakes(&stage, wait);
            stage.check();
            job.is_through()
        });
    });
}

#[test]
fn who_waits_wakes_when_who_was_left_a_slot_is_killed() {
    alone(|| {
        at_each_step(|step| {
            let stage = Stage::new(1);
            let lends = lender(&stage, Fate::KilledAt(step));
            let wait = stage.pool.compete().begin_wait();
            // It does not run on it yet, of which a bell would tell.
            let borrows = stage.start(Fate::Lives, |role| {
                role.borrow(lends.pid).unwrap();
                role.pause();
            });
            borrows.rest();
            lends.go_on();
            borrows.kill();
            wakes(&stage, wait);
            stage.check();
            lends.is_through()
        });
    });
}

/// The lender is dead, and its borrower gives the slot back: it is free when that is done, though
/// nobody has died since the wait began.
#[test]
fn who_waits_wakes_when_a_slot_comes_back_to_the_dead() {
    alone(|| {
        at_each_step(|step| {
            let stage = Stage::new(1);
            let lends = lender(&stage, Fate::Lives);
            let borrows = borrower(&stage, lends.pid, Fate::KilledAt(step));
            lends.kill();
            let wait = stage.pool.compete().begin_wait();
            borrows.go_on();
            wakes(&stage, wait);
            stage.check();
            borrows.is_through()
        });
    });
}

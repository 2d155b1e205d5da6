//! Lending: a job that waits lets a job of its own run on its slot, and has it back, or leaves it.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::slots::{job, Event};
use common::{child, death, drain, ended, hang, outcomes, pipe, start, Alone};
use jobserver_core::slots::{Adopted, Assignment, OwnSlot};
use jobserver_core::{ExitStatus, Jobs, Pool, Slot};
use rustix::process::Signal;

const ENDED_WELL: ExitStatus = ExitStatus::Code(0);

/// A process that runs on a slot of a new pool: this one.
fn runs_on_one_of(slots: usize) -> (Pool, OwnSlot) {
    let pool = Pool::new(slots).unwrap();
    let own = OwnSlot::new(pool.try_take().unwrap().unwrap());
    (pool, own)
}

/// Launches a forked job on a slot, and runs `body` in it when it has adopted that.
fn launch(jobs: &mut Jobs, pool: &Pool, slot: Slot, body: impl FnOnce(Slot) -> i32) {
    slot.launch();
    let word = slot.assignment();
    start(jobs, Some(slot), |_channel| match pool.adopt_slot(word).unwrap() {
        Adopted::Slot(slot) => body(slot),
        _ => 9,
    });
}

#[test]
fn a_lent_slot_comes_back_when_the_job_has_ended() {
    let _alone = Alone::new();
    let (pool, mut own) = runs_on_one_of(1);
    let mut jobs = Jobs::new();
    for _ in 0..3 {
        launch(&mut jobs, &pool, own.lend().unwrap(), |_slot| 0);
        drop(outcomes(&mut jobs, 1));
        assert!(own.runs());
    }
    drain(&mut jobs);
    assert!(own.release());
    assert_eq!(pool.free().unwrap(), 1);
}

#[test]
fn a_slot_is_lent_to_one_at_a_time_and_its_lender_does_not_run_meanwhile() {
    let _alone = Alone::new();
    let (_pool, mut own) = runs_on_one_of(2);
    let loan = own.lend().unwrap();
    assert!(!own.runs() && own.lend().is_none() && own.hand_over().is_none());
    drop(loan);
    assert!(own.runs() && own.lend().is_some());
}

#[test]
fn what_is_borrowed_is_lent_on_and_comes_back_in_turn() {
    let _alone = Alone::new();
    let pool = Pool::new(1).unwrap();
    let above = job(&pool, |pool, slot| {
        let mut own = OwnSlot::new(slot);
        let mut jobs = Jobs::new();
        launch(&mut jobs, pool, own.lend().unwrap(), |slot| {
            let mut own = OwnSlot::new(slot);
            let mut jobs = Jobs::new();
            launch(&mut jobs, pool, own.lend().unwrap(), |_slot| 0);
            let well = death(outcomes(&mut jobs, 1).values().next().unwrap()) == ENDED_WELL;
            i32::from(!(well && own.runs()))
        });
        let well = death(outcomes(&mut jobs, 1).values().next().unwrap()) == ENDED_WELL;
        i32::from(!(well && own.runs()))
    });
    assert_eq!(above, ENDED_WELL);
    assert_eq!(pool.free().unwrap(), 1);
}

#[test]
fn a_lent_slot_comes_back_when_the_job_is_killed() {
    let _alone = Alone::new();
    let (pool, mut own) = runs_on_one_of(1);
    let (mut jobs, adopted) = (Jobs::new(), Event::new());
    let loan = own.lend().unwrap();
    loan.launch();
    let word = loan.assignment();
    let id = start(&mut jobs, Some(loan), |_channel| {
        let _slot = pool.adopt_slot(word).unwrap();
        adopted.set();
        hang()
    });
    adopted.wait();
    assert!(!own.runs());
    jobs.signal(id, Signal::KILL).unwrap();
    assert_eq!(death(&outcomes(&mut jobs, 1)[&id]), ExitStatus::Signal(9));
    assert!(own.runs());
    drain(&mut jobs);
}

#[test]
fn a_lender_that_goes_on_with_a_free_slot_leaves_its_own_to_the_borrower() {
    let _alone = Alone::new();
    let (pool, mut own) = runs_on_one_of(2);
    let loan = own.lend().unwrap();
    assert!(own.resume(|| pool.try_take()).unwrap() && own.runs());
    assert_eq!(pool.free().unwrap(), 0);
    drop(loan);
    assert_eq!(pool.free().unwrap(), 1);
    assert!(own.release());
    assert_eq!(pool.free().unwrap(), 2);
}

#[test]
fn a_lender_whose_slot_is_back_takes_no_other() {
    let _alone = Alone::new();
    let (pool, mut own) = runs_on_one_of(2);
    drop(own.lend().unwrap());
    assert!(own.resume(|| pool.try_take()).unwrap());
    assert_eq!(pool.free().unwrap(), 1);
}

#[test]
fn a_lender_goes_on_with_nothing_while_all_slots_are_taken() {
    let _alone = Alone::new();
    let (pool, mut own) = runs_on_one_of(1);
    let loan = own.lend().unwrap();
    assert!(!own.resume(|| pool.try_take()).unwrap());
    drop(loan);
    assert!(own.resume(|| pool.try_take()).unwrap());
}

#[test]
fn a_lender_that_gives_its_slot_away_leaves_it_to_the_borrower() {
    let _alone = Alone::new();
    let (pool, mut own) = runs_on_one_of(1);
    let loan = own.lend().unwrap();
    let mut told = 0;
    assert!(own.give_away(|| told += 1));
    assert!(!own.runs() && !own.give_away(|| told += 1));
    assert_eq!((told, pool.free().unwrap()), (1, 0));
    drop(loan);
    assert_eq!(pool.free().unwrap(), 1);
}

#[test]
fn who_gives_a_slot_away_tells_of_it_before_anybody_can_have_it() {
    let _alone = Alone::new();
    let (pool, mut own) = runs_on_one_of(1);
    assert!(own.give_away(|| assert_eq!(pool.free().unwrap(), 0)));
    assert_eq!(pool.free().unwrap(), 1);
}

#[test]
fn the_slot_of_a_lender_that_ends_is_free_when_its_job_has_ended() {
    let _alone = Alone::new();
    let pool = Pool::new(1).unwrap();
    let ((lent, say), adopted, end) = (pipe(), Event::new(), Event::new());
    let lends = child(|| {
        let mut own = OwnSlot::new(pool.try_take().unwrap().unwrap());
        let loan = own.lend().unwrap();
        loan.launch();
        rustix::io::write(&say, &loan.assignment().to_word().to_ne_bytes()).unwrap();
        adopted.wait();
        std::mem::forget(loan); // it is the job's
        i32::from(!own.release())
    });
    let mut word = [0; 8];
    rustix::io::read(&lent, &mut word).unwrap();
    let borrows = child(|| {
        let slot = pool.adopt_slot(Assignment::from_word(u64::from_ne_bytes(word))).unwrap();
        adopted.set();
        end.wait();
        drop(slot);
        0
    });
    assert_eq!(ended(lends), ENDED_WELL);
    assert!(pool.try_take().unwrap().is_none());
    end.set();
    assert_eq!(ended(borrows), ENDED_WELL);
    assert_eq!(pool.free().unwrap(), 1);
}

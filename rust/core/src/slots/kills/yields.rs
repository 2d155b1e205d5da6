//! A job that lends its slot to a job of its own, goes on with another, and gives that away; and the
//! slot of a process above, found by the lineage.

use super::cast::passer_by;
use super::stage::{alone, at_each_two_steps, Actor, Fate, Rest, Stage, Then};
use crate::slots::{Adopted, Assignment, OwnSlot};

const LOAN: usize = 0;

/// A job that has lent its slot to a job of its own and waits. When it goes on, it goes on with
/// whatever slot there is, and gives that away.
fn waiter(stage: &Stage, fate: Fate) -> Actor<'_> {
    let waiter = stage.start(fate, |role| {
        let mut own = OwnSlot::new(stage.pool.try_take().unwrap().unwrap());
        let loan = own.lend().unwrap();
        loan.launch();
        stage.tell(LOAN, loan.assignment().to_word());
        role.pause();
        role.meet_fate(|| {
            if own.resume(|| stage.pool.try_take()).unwrap() {
                own.give_away(|| ());
            }
        });
        role.pause();
    });
    assert_eq!(waiter.rest(), Rest::Stopped);
    waiter
}

/// The job that it is lent to: when it goes on, it gives the slot back.
fn its_job(stage: &Stage, fate: Fate) -> Actor<'_> {
    let job = stage.start(fate, |role| {
        let Adopted::Slot(slot) =
            stage.pool.adopt_slot(Assignment::from_word(stage.told(LOAN))).unwrap()
        else {
            panic!()
        };
        role.pause();
        role.meet_fate(|| drop(slot));
        role.pause();
    });
    assert_eq!(job.rest(), Rest::Stopped);
    job
}

/// The first is killed at each step, and then the second, of the two in this order or the other.
fn one_after_the_other(slots: usize, job_first: bool) {
    at_each_two_steps(|first, second| {
        let stage = Stage::new(slots);
        let [of_waiter, of_job] = match job_first {
            true => [second, first],
            false => [first, second],
        };
        let waits = waiter(&stage, Fate::KilledAt(of_waiter));
        let job = its_job(&stage, Fate::KilledAt(of_job));
        let [one, other] = if job_first { [&job, &waits] } else { [&waits, &job] };
        one.go_on();
        other.go_on();
        waits.kill();
        job.kill();
        stage.check();
        (one.is_through(), other.is_through())
    });
}

#[test]
fn a_job_that_goes_on_with_another_slot_is_killed_and_then_its_job() {
    alone(|| one_after_the_other(2, false));
}

#[test]
fn a_job_is_killed_while_its_owner_waits_and_then_the_owner() {
    alone(|| one_after_the_other(1, true));
}

/// The job that waits is stopped at each step of going on; its job is killed at each step of giving
/// back meanwhile.
fn the_waiter_is_late(then: Then) {
    at_each_two_steps(|first, second| {
        let stage = Stage::new(2);
        let waits = waiter(&stage, Fate::StoppedAt(first));
        let job = its_job(&stage, Fate::KilledAt(second));
        waits.go_on();
        let late = !waits.is_through();
        job.go_on();
        if late {
            waits.then(then);
        }
        waits.kill();
        job.kill();
        stage.check();
        (!late, job.is_through())
    });
}

#[test]
fn a_job_is_killed_while_its_owner_goes_on_with_another_slot() {
    alone(|| the_waiter_is_late(Then::GoesOn));
}

#[test]
fn a_job_is_killed_and_then_its_owner_which_goes_on_with_another_slot() {
    alone(|| the_waiter_is_late(Then::IsKilled));
}

/// A job gives its slot away and is stopped at each step; a program below it meanwhile borrows that,
/// and is killed at each step. Then the job goes on, and takes another slot.
#[test]
fn a_program_is_killed_while_the_job_above_yields() {
    alone(|| {
        at_each_two_steps(|first, second| {
            let stage = Stage::new(1);
            let yields = stage.start(Fate::StoppedAt(first), |role| {
                let mut own = OwnSlot::new(stage.pool.try_take().unwrap().unwrap());
                role.meet_fate(|| own.give_away(|| ()));
                role.pause();
                while !own.resume(|| stage.pool.try_take()).unwrap() {
                    role.pause();
                }
                own.release();
                role.pause();
            });
            yields.rest();
            let late = !yields.is_through();
            let below = passer_by(&stage, yields.pid, Fate::KilledAt(second));
            below.rest();
            if late {
                yields.go_on();
            }
            below.kill();
            yields.go_on();
            stage.check();
            (!late, below.is_through())
        });
    });
}

/// Two programs one after the other below a process that runs on the only slot: what the first has
/// borrowed when it is killed, the second borrows.
#[test]
fn programs_that_borrow_from_above_are_killed_at_each_step() {
    alone(|| {
        at_each_two_steps(|first, second| {
            let stage = Stage::new(1);
            let own = stage.pool.try_take().unwrap().unwrap();
            own.run_on();
            let below = [first, second].map(|step| {
                let below = stage.start(Fate::KilledAt(step), |role| {
                    role.meet_fate(|| drop(stage.pool.try_take().unwrap().unwrap()));
                });
                below.rest();
                below.is_through()
            });
            stage.pool.reclaim();
            assert!(!own.is_lent());
            drop(own);
            stage.check();
            below.into()
        });
    });
}

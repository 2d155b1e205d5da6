//! A job of several slots: they are gathered, launched, adopted and given back together, and a waiter
//! that is not the first holds no part of them.

use super::cast::wakes;
use super::stage::{alone, at_each_step, at_each_two_steps, Actor, Fate, Rest, Stage};
use crate::process::ProcessId;
use crate::slots::ledger::Want;
use crate::slots::turn::Turn;
use crate::slots::watch::LOOK_AGAIN_AFTER;
use crate::slots::{Adopted, Assignment, Pool, PoolWait, Slot};
use std::time::Instant;

/// What the processes tell each other.
const SLOTS: usize = 0;
const JOB: usize = 1;

/// The turn of a waiter for two slots that has entered the queue.
fn waits_for_two(pool: &Pool) -> Turn {
    let mut turn = pool.turn(Want::Start).needing(2);
    drop(turn.begin_wait());
    turn
}

/// Begins a wait in which the waiter does not look again by itself soon.
fn sleeps(turn: &mut Turn) -> PoolWait {
    let looked = Instant::now();
    while looked.elapsed() <= LOOK_AGAIN_AFTER {}
    turn.begin_wait()
}

/// Takes two slots, and launches a job on them.
fn launch_on_two(stage: &Stage) -> Slot {
    let slots = stage.pool.turn(Want::Start).needing(2).try_take().unwrap().unwrap();
    slots.launch();
    stage.tell(SLOTS, slots.assignment().to_word());
    slots
}

/// A job: when it goes on, it adopts the slots that it was launched on, and gives them back.
fn job(stage: &Stage, fate: Fate) -> Actor<'_> {
    let job = stage.start(fate, |role| {
        role.pause();
        role.meet_fate(|| {
            let launched = Assignment::from_word(stage.told(SLOTS));
            if let Adopted::Slot(slots) = stage.pool.adopt_slot(launched).unwrap() {
                assert_eq!(slots.count(), 2);
            }
        });
        role.pause();
    });
    assert_eq!(job.rest(), Rest::Stopped);
    stage.tell_name(JOB, &job);
    job
}

#[test]
fn a_waiter_is_killed_while_it_gathers() {
    alone(|| {
        for slots in [1, 2] {
            at_each_step(|step| {
                let stage = Stage::new(slots);
                let killed = stage.start(Fate::KilledAt(step), |role| {
                    let mut turn = waits_for_two(&stage.pool);
                    role.meet_fate(|| drop(turn.try_take().unwrap()));
                    role.pause();
                });
                killed.rest();
                killed.kill();
                stage.check();
                killed.is_through()
            });
        }
    });
}

#[test]
fn the_owner_of_a_job_of_two_slots_is_killed_and_then_the_job() {
    alone(|| {
        at_each_two_steps(|first, second| {
            let stage = Stage::new(2);
            let owns = stage.start(Fate::KilledAt(first), |role| {
                role.meet_fate(|| std::mem::forget(launch_on_two(&stage)));
            });
            owns.rest();
            let job = job(&stage, Fate::KilledAt(second));
            job.go_on();
            job.kill();
            stage.check();
            (owns.is_through(), job.is_through())
        });
    });
}

#[test]
fn a_job_of_two_slots_is_killed_and_then_its_owner() {
    alone(|| {
        at_each_two_steps(|first, second| {
            let stage = Stage::new(2);
            let owns = stage.start(Fate::KilledAt(second), |role| {
                let slots = launch_on_two(&stage);
                role.pause();
                let job = ProcessId::from_word(stage.told(JOB)).unwrap();
                role.meet_fate(|| {
                    for tenure in slots.tenures() {
                        stage.ledger.born(tenure, job, true);
                    }
                    for tenure in slots.tenures() {
                        stage.ledger.settle(tenure, Some(job), &stage.pipe);
                    }
                });
                role.pause();
            });
            assert_eq!(owns.rest(), Rest::Stopped);
            let job = job(&stage, Fate::KilledAt(first));
            job.go_on();
            job.kill();
            owns.go_on();
            if owns.is_through() {
                assert_eq!(stage.free(), 2, "only the owner hears of the job's end");
            }
            owns.kill();
            stage.check();
            (job.is_through(), owns.is_through())
        });
    });
}

/// A deeper waiter for two slots, which enters the queue with this fate, and waits.
fn comes_first(stage: &Stage, fate: Fate) -> Actor<'_> {
    let first = stage.start(fate, |role| {
        stage.pool.set_depth(1);
        let _turn = role.meet_fate(|| waits_for_two(&stage.pool));
        role.pause();
    });
    first.rest();
    first
}

/// More looks than a waiter needs until nothing more wakes it. (Without pidfds it looks for ever, from
/// time to time.)
const LOOKS: usize = 3;

/// Looks and sleeps until nothing wakes this waiter.
fn look_until_asleep(turn: &mut Turn) -> Option<Slot> {
    for _ in 0..LOOKS {
        if let Some(slots) = turn.try_take().unwrap() {
            return Some(slots);
        }
        let wait = sleeps(turn);
        if !wakes(&wait) {
            return None;
        }
    }
    None
}

#[test]
fn a_waiter_with_a_part_is_told_of_one_that_comes_first_or_gets_the_rest_if_that_is_killed() {
    alone(|| {
        at_each_step(|step| {
            let stage = Stage::new(2);
            let held = stage.pool.try_take().unwrap().unwrap();
            let mut turn = waits_for_two(&stage.pool);
            assert!(look_until_asleep(&mut turn).is_none());
            assert_eq!(stage.free(), 0);
            let wait = sleeps(&mut turn);
            let first = comes_first(&stage, Fate::KilledAt(step));
            if first.is_through() {
                assert!(wakes(&wait));
                drop(wait);
                assert!(turn.try_take().unwrap().is_none());
                assert_eq!(stage.free(), 1);
            } else {
                drop((wait, held));
                assert_eq!(look_until_asleep(&mut turn).unwrap().count(), 2);
            }
            drop(turn);
            let through = first.is_through();
            first.kill();
            through
        });
    });
}

#[test]
fn a_waiter_that_is_late_with_its_part_gives_it_to_one_that_came_first() {
    alone(|| {
        at_each_step(|step| {
            let stage = Stage::new(2);
            let held = stage.pool.try_take().unwrap().unwrap();
            let late = stage.start(Fate::StoppedAt(step), |role| {
                let mut turn = waits_for_two(&stage.pool);
                let wait = role.meet_fate(|| {
                    assert!(turn.try_take().unwrap().is_none());
                    sleeps(&mut turn)
                });
                if wakes(&wait) {
                    drop(wait);
                    assert!(turn.try_take().unwrap().is_none());
                }
                role.pause();
            });
            assert_eq!(late.rest(), Rest::Stopped);
            let was_late = !late.is_through();
            stage.pool.set_depth(1);
            let mut first = waits_for_two(&stage.pool);
            late.go_on();
            drop(held);
            let both = look_until_asleep(&mut first);
            assert_eq!(both.unwrap().count(), 2);
            drop(first);
            late.kill();
            stage.check();
            !was_late
        });
    });
}

#[test]
fn a_waiter_that_was_passed_over_and_the_one_that_gathers_meanwhile_do_not_keep_a_part_each() {
    alone(|| {
        at_each_step(|step| {
            let stage = Stage::new(2);
            let held = [(); 2].map(|()| stage.pool.try_take().unwrap().unwrap());
            let [one, other] = held;
            let first = stage.start(Fate::StoppedAt(step), |role| {
                let mut turn = waits_for_two(&stage.pool);
                role.pause();
                let wait = role.meet_fate(|| {
                    assert!(turn.try_take().unwrap().is_none());
                    sleeps(&mut turn)
                });
                let woken = wakes(&wait);
                drop(wait);
                let mut slots = if woken { look_until_asleep(&mut turn) } else { None };
                role.pause();
                slots = slots.or_else(|| look_until_asleep(&mut turn));
                stage.tell(SLOTS, slots.map_or(0, |slots| slots.count() as u64));
                role.pause();
            });
            assert_eq!(first.rest(), Rest::Stopped);
            let mut second = waits_for_two(&stage.pool);
            drop(one);
            first.go_on();
            if first.is_through() {
                return true; // it sleeps, and wakes when it is passed over and a slot is taken
            }
            if let Some(waiter) = stage.ledger.goes_first(None, 0, Want::Start, None) {
                stage.ledger.pass_over(waiter);
            }
            let took = second.try_take().unwrap();
            drop(other);
            let took = took.or_else(|| second.try_take().unwrap());
            let wait = sleeps(&mut second);
            first.go_on();
            let woken = wakes(&wait);
            drop(wait);
            let both = took.or_else(|| if woken { second.try_take().unwrap() } else { None });
            drop(both); // otherwise it sleeps on, with its part if it has one
            first.go_on();
            assert_eq!(stage.told(SLOTS), 2);
            drop(second);
            first.kill();
            stage.check();
            false
        });
    });
}

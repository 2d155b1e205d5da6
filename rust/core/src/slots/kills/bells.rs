//! A waiter hears of each change that it waits for, whatever comes between the change and its bell,
//! and between the waiter's last look and its sleep.
//!
//! A process that is to be killed at a step is stopped there first, because a kill at once falls on
//! changes only, and never between a change and its bell.

use super::cast::{enter, is_ready, reclaimer, wakes};
use super::stage::{alone, at_each_step, Actor, Fate, Rest, Role, Stage};
use crate::platform::shared::IN_ORDER;
use crate::process::ProcessId;
use crate::slots::ledger::Want;
use crate::slots::turn::Turn;
use rustix::process::getpid;

/// Where a process tells that it sleeps though there is a slot for it; and where the test tells it
/// that it need not stop any more.
const SLEEPS: usize = 1;
const LATE: usize = 2;

/// A process with so many rows in the queue, the first at this depth.
fn waits(stage: &Stage, depth: u16, rows: u16) -> Actor<'_> {
    let waits = stage.start(Fate::Lives, |role: &Role| {
        for row in 0..rows {
            let row = enter(stage, depth - row);
            let _ = stage.ledger.stand(row, ProcessId::current());
        }
        role.pause();
    });
    assert_eq!(waits.rest(), Rest::Stopped);
    waits
}

/// In a process: begins a wait, and then tells whether it sleeps for ever though `is_there` says that
/// a slot is. It stops at the step of its fate, or after all steps.
fn begin_to_wait(role: &Role, stage: &Stage, turn: &mut Turn, is_there: impl Fn() -> bool) {
    let wait = role.meet_fate(|| turn.begin_wait());
    if stage.told(LATE) == 0 {
        role.pause();
    }
    let sleeps = !is_ready(&wait) && wait.look_after.is_none();
    stage.tell(SLEEPS, 1 + u64::from(sleeps && is_there()));
    role.pause();
}

/// Lets a process that is beginning to wait go on, after what it waits for has happened. Returns
/// whether it had no more steps before that.
fn go_on_late(stage: &Stage, begins: &Actor<'_>, happen: impl FnOnce()) -> bool {
    let through = begins.is_through();
    stage.tell(LATE, 1);
    happen();
    begins.go_on();
    assert_eq!(stage.told(SLEEPS), 1, "it sleeps for ever");
    through
}

#[test]
fn a_waiter_hears_of_a_slot_that_can_be_borrowed_while_its_wait_begins() {
    alone(|| {
        at_each_step(|step| {
            let stage = Stage::with_common(1);
            let has = stage.start(Fate::Lives, |role| {
                let slot = stage.pool.try_take().unwrap().unwrap();
                role.pause();
                drop(slot);
                role.pause();
            });
            has.rest();
            let begins = stage.start(Fate::StoppedAt(step), |role| {
                let mut turn = stage.pool.turn(Want::Start);
                assert!(turn.try_take().unwrap().is_none());
                begin_to_wait(role, &stage, &mut turn, || stage.ledger.open_common().is_some());
            });
            begins.rest();
            go_on_late(&stage, &begins, || {
                has.go_on();
            })
        });
    });
}

#[test]
fn a_lender_hears_that_its_slot_has_come_back_while_its_wait_begins() {
    alone(|| {
        at_each_step(|step| {
            let stage = Stage::new(1);
            let lends = stage.start(Fate::StoppedAt(step), |role| {
                role.run();
                stage.pool.bank.job.store(getpid().as_raw_nonzero().get(), IN_ORDER);
                role.pause();
                let mut turn = stage.pool.turn(Want::Resume);
                let is_back = || stage.ledger.run_by(ProcessId::current(), &[]).1.is_some();
                begin_to_wait(role, &stage, &mut turn, is_back);
            });
            lends.rest();
            let from = lends.pid;
            let borrows = stage.start(Fate::Lives, |role| {
                role.borrow(from).unwrap();
                role.pause();
            });
            borrows.rest();
            borrows.kill();
            lends.go_on();
            go_on_late(&stage, &lends, || {
                reclaimer(&stage, Fate::Lives).rest();
            })
        });
    });
}

#[test]
fn a_lender_behind_others_hears_of_its_slot_although_the_process_that_reclaims_it_is_killed() {
    alone(|| {
        at_each_step(|step| {
            let stage = Stage::new(1);
            let own = stage.ledger.take(&stage.pipe, ProcessId::current()).unwrap().unwrap();
            stage.ledger.open_to_borrowers(own);
            let lender = getpid();
            let borrows = stage.start(Fate::Lives, |role| {
                role.borrow(lender).unwrap();
                role.pause();
            });
            borrows.rest();
            let _before = [waits(&stage, 9, 1), waits(&stage, 8, 1)];
            let mut turn = stage.pool.turn(Want::Resume);
            borrows.kill();
            let wait = turn.begin_wait();
            assert!(!wait.listens && !is_ready(&wait));
            let reclaims = reclaimer(&stage, Fate::StoppedAt(step));
            reclaims.rest();
            let through = reclaims.is_through();
            reclaims.kill();
            reclaimer(&stage, Fate::Lives).rest();
            assert!(stage.ledger.run_by(ProcessId::current(), &[]).1.is_some());
            assert!(is_ready(&wait));
            drop((wait, turn));
            stage.ledger.give_back(own, &stage.pipe);
            through
        });
    });
}

#[test]
fn a_waiter_comes_to_listen_although_one_that_leaves_is_killed_before_it_tells() {
    alone(|| {
        at_each_step(|step| {
            let stage = Stage::new(1);
            let _first = waits(&stage, 9, 1);
            let leaves = stage.start(Fate::StoppedAt(step), |role: &Role| {
                let row = enter(&stage, 8);
                let _ = stage.ledger.stand(row, ProcessId::current());
                role.pause();
                role.meet_fate(|| stage.ledger.leave(row, ProcessId::current()));
                role.pause();
            });
            leaves.rest();
            let mut turn = stage.pool.turn(Want::Start);
            let mut wait = turn.begin_wait();
            leaves.go_on();
            let through = leaves.is_through();
            leaves.kill();
            while !wait.listens {
                assert!(wakes(&wait));
                drop(wait);
                wait = turn.begin_wait();
            }
            through
        });
    });
}

#[test]
fn a_third_process_comes_to_listen_once_the_first_is_killed_and_the_second_waits_twice() {
    alone(|| {
        at_each_step(|step| {
            let stage = Stage::new(1);
            let first = waits(&stage, 9, 1);
            let _second = waits(&stage, 8, 2);
            let mut turn = stage.pool.turn(Want::Start);
            let wait = turn.begin_wait();
            assert!(!wait.listens && !is_ready(&wait));
            first.kill();
            // A waiter that finds the dead one, and may be killed before it tells.
            let looks = stage.start(Fate::StoppedAt(step), |role: &Role| {
                role.meet_fate(|| {
                    let _ = stage.ledger.goes_first(None, 7, Want::Start, None);
                });
            });
            looks.rest();
            let through = looks.is_through();
            looks.kill();
            assert!(wakes(&wait));
            drop(wait);
            assert!(turn.begin_wait().listens);
            through
        });
    });
}

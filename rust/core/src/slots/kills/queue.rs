//! The waiter behind others wakes, at whichever step of entering or leaving the queue the process
//! before it is killed.
//!
//! In each test two processes wait first and listen, and the test itself is the third waiter.

use super::cast::{enter, is_ready, wakes};
use super::stage::{alone, at_each_step, at_each_two_steps, Actor, Fate, Rest, Role, Stage};
use crate::process::ProcessId;
use crate::slots::ledger::{Standing, Want};
use crate::slots::turn::Turn;
use crate::slots::PoolWait;
use crate::wait::Wait;

/// A process of this depth that waits, and that leaves the queue with this fate.
fn waits(stage: &Stage, depth: u16, fate: Fate) -> Actor<'_> {
    let waits = stage.start(fate, |role: &Role| {
        let row = enter(stage, depth);
        assert!(matches!(stage.ledger.stand(row, ProcessId::current()), Standing::Listening));
        role.pause();
        role.meet_fate(|| stage.ledger.leave(row, ProcessId::current()));
        role.pause();
    });
    assert_eq!(waits.rest(), Rest::Stopped);
    waits
}

/// A process that enters the queue with this fate, between those two and the test.
fn comes_between(stage: &Stage, fate: Fate) -> Actor<'_> {
    let enters = stage.start(fate, |role: &Role| {
        role.meet_fate(|| enter(stage, 1));
        role.pause();
    });
    enters.rest();
    enters
}

fn sleeps_behind(turn: &mut Turn) -> PoolWait {
    let wait = turn.begin_wait();
    assert!(!wait.listens);
    assert!(!is_ready(&wait));
    wait
}

/// Sleeps and looks as long as something wakes the test. (Without pidfds a waiter looks from time to
/// time.) Returns whether it listens then.
fn comes_to_listen(turn: &mut Turn, mut wait: PoolWait) -> bool {
    while !wait.listens && wakes(&wait) {
        drop(wait);
        wait = turn.begin_wait();
    }
    wait.listens
}

#[test]
fn a_waiter_listens_once_one_before_it_leaves_or_is_killed_while_it_leaves() {
    alone(|| {
        at_each_step(|step| {
            let stage = Stage::new(1);
            let _first = waits(&stage, 3, Fate::Lives);
            let second = waits(&stage, 2, Fate::KilledAt(step));
            let mut turn = stage.pool.turn(Want::Start);
            let wait = sleeps_behind(&mut turn);
            second.go_on();
            assert!(comes_to_listen(&mut turn, wait));
            second.is_through()
        });
    });
}

#[test]
fn a_waiter_listens_once_one_that_comes_between_is_killed_and_another_leaves() {
    alone(|| {
        at_each_two_steps(|enters, leaves| {
            let stage = Stage::new(1);
            let _first = waits(&stage, 3, Fate::Lives);
            let second = waits(&stage, 2, Fate::KilledAt(leaves));
            let mut turn = stage.pool.turn(Want::Start);
            let wait = sleeps_behind(&mut turn);
            let between = comes_between(&stage, Fate::StoppedAt(enters));
            second.go_on();
            between.kill();
            assert!(comes_to_listen(&mut turn, wait));
            (between.is_through(), second.is_through())
        });
    });
}

#[test]
fn a_waiter_listens_once_one_leaves_and_one_that_was_coming_between_is_killed() {
    alone(|| {
        at_each_two_steps(|enters, leaves| {
            let stage = Stage::new(1);
            let _first = waits(&stage, 3, Fate::Lives);
            let second = waits(&stage, 2, Fate::StoppedAt(leaves));
            let mut turn = stage.pool.turn(Want::Start);
            let mut wait = sleeps_behind(&mut turn);
            second.go_on();
            let between = comes_between(&stage, Fate::KilledAt(enters));
            if is_ready(&wait) {
                drop(wait);
                wait = turn.begin_wait();
            }
            second.kill();
            between.kill();
            assert!(comes_to_listen(&mut turn, wait));
            (between.is_through(), second.is_through())
        });
    });
}

#[test]
fn a_waiter_listens_once_the_first_leaves_although_the_second_is_stopped() {
    alone(|| {
        at_each_step(|step| {
            let stage = Stage::new(1);
            let first = waits(&stage, 3, Fate::KilledAt(step));
            let _second = waits(&stage, 2, Fate::Lives);
            let mut turn = stage.pool.turn(Want::Start);
            let wait = sleeps_behind(&mut turn);
            first.go_on();
            if first.is_through() {
                assert!(comes_to_listen(&mut turn, wait));
            }
            first.is_through()
        });
    });
}

#[test]
fn waiters_that_are_stopped_are_passed_over() {
    alone(|| {
        let stage = Stage::new(1);
        let _stopped = [3, 2].map(|depth| waits(&stage, depth, Fate::Lives));
        let mut turn = stage.pool.turn(Want::Start);
        let slot = loop {
            if let Some(slot) = turn.try_take().unwrap() {
                break slot;
            }
            let wait = turn.begin_wait();
            let descriptors = wait.descriptors.iter().chain(&wait.pipe).cloned().collect();
            Wait::new(descriptors, wait.look_after).block(None).unwrap();
        };
        drop((turn, slot));
        assert!(!stage.ledger.has_waiter_beside(None));
        stage.check();
    });
}

#[test]
fn the_rows_of_killed_waiters_are_used_again() {
    alone(|| {
        at_each_step(|step| {
            let stage = Stage::new(1);
            let killed = comes_between(&stage, Fate::KilledAt(step));
            killed.kill();
            let mut turn = stage.pool.turn(Want::Start);
            assert!(turn.begin_wait().listens);
            drop(turn.try_take().unwrap().unwrap());
            stage.check();
            killed.is_through()
        });
    });
}

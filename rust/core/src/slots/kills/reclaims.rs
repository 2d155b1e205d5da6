//! Taking, giving back, and reclaiming by one or two who find the dead.

use super::cast::{borrower, lender, passer_by, reclaimer};
use super::stage::{alone, at_each_step, at_each_two_steps, Fate, Rest, Role, Stage, Then};

/// Kills who reclaims at each of its steps, after each of the wrecks that `wreck` leaves. That says
/// whether its process was through before its kill.
fn killed_after(slots: usize, wreck: impl Fn(&Stage, Fate) -> bool) {
    at_each_two_steps(|first, second| {
        let stage = Stage::new(slots);
        let through = wreck(&stage, Fate::KilledAt(first));
        let reclaims = reclaimer(&stage, Fate::KilledAt(second));
        reclaims.rest();
        let reclaimed = reclaims.is_through();
        stage.check();
        (through, reclaimed)
    });
}

/// Stops who reclaims at each of its steps. Another meanwhile reclaims, and is killed at each of its
/// steps. Then the first goes on, or is killed.
fn two_after(wreck: impl Fn(&Stage), then: Then) {
    at_each_two_steps(|first, second| {
        let stage = Stage::new(1);
        wreck(&stage);
        let late = reclaimer(&stage, Fate::StoppedAt(first));
        let is_late = late.rest() == Rest::Stopped;
        let quick = reclaimer(&stage, Fate::KilledAt(second));
        quick.rest();
        if is_late {
            late.then(then);
        }
        stage.check();
        (!is_late, quick.is_through())
    });
}

/// Leaves what `part` has and does when it is killed at the step of `fate`.
fn killed_in(stage: &Stage, fate: Fate, part: impl FnOnce(&Role)) -> bool {
    let killed = stage.start(fate, part);
    killed.rest();
    killed.is_through()
}

/// A lender that gives its slot back and is dead, and its borrower, killed while it gives that back.
fn passed_on(stage: &Stage, fate: Fate) -> bool {
    let lends = lender(stage, Fate::Lives);
    let borrows = borrower(stage, lends.pid, fate);
    lends.go_on();
    lends.kill();
    borrows.go_on();
    borrows.kill();
    borrows.is_through()
}

/// A lender that is dead, and its borrower, killed while it gives the slot back.
fn lent(stage: &Stage, fate: Fate) -> bool {
    let lends = lender(stage, Fate::Lives);
    let borrows = borrower(stage, lends.pid, fate);
    lends.kill();
    borrows.go_on();
    borrows.kill();
    borrows.is_through()
}

#[test]
fn who_takes_and_who_reclaims_are_killed_at_each_step() {
    alone(|| {
        killed_after(1, |stage, fate| {
            killed_in(stage, fate, |role| {
                role.meet_fate(|| role.take());
            })
        });
    });
}

#[test]
fn who_gives_back_and_who_reclaims_are_killed_at_each_step() {
    alone(|| {
        killed_after(2, |stage, fate| {
            killed_in(stage, fate, |role| {
                let tenure = role.run();
                role.meet_fate(|| role.give_back(tenure));
            })
        });
    });
}

/// Where a byte is put back by write(2), its record is made before it: a kill between the two loses
/// the slot, since one slot too many would be worse. There is no such step where `splice` does both.
#[test]
fn only_a_kill_within_a_write_in_two_steps_loses_a_slot() {
    alone(|| {
        let mut lost = 0;
        at_each_step(|step| {
            let stage = Stage::new(1);
            let through = killed_in(&stage, Fate::KilledAt(step), |role| {
                let tenure = role.take();
                role.meet_fate(|| role.give_back(tenure));
            });
            stage.check();
            lost += stage.lost();
            through
        });
        assert_eq!(lost, usize::from(!crate::platform::is_linux()));
    });
}

#[test]
fn who_has_an_implicit_slot_and_who_reclaims_are_killed_at_each_step() {
    alone(|| {
        killed_after(1, |stage, fate| {
            killed_in(stage, fate, |role| {
                role.meet_fate(|| {
                    let implicit = stage.ledger.claim_implicit().unwrap().unwrap();
                    role.give_back(implicit);
                });
            })
        });
    });
}

#[test]
fn who_borrows_of_an_implicit_slot_and_its_holder_are_killed_at_each_step() {
    alone(|| {
        at_each_two_steps(|first, second| {
            let stage = Stage::new(1);
            let lends = stage.start(Fate::KilledAt(second), |role| {
                let implicit = stage.ledger.claim_implicit().unwrap().unwrap();
                role.pause();
                role.meet_fate(|| role.give_back(implicit));
            });
            assert_eq!(lends.rest(), Rest::Stopped);
            let borrows = passer_by(&stage, lends.pid, Fate::KilledAt(first));
            borrows.rest();
            lends.go_on();
            borrows.kill();
            stage.check();
            (borrows.is_through(), lends.is_through())
        });
    });
}

#[test]
fn who_has_the_slot_in_common_and_who_reclaims_are_killed_at_each_step() {
    alone(|| {
        at_each_two_steps(|first, second| {
            let stage = Stage::with_common(2);
            let killed = stage.start(Fate::KilledAt(first), |role| {
                role.meet_fate(|| drop(stage.pool.try_take().unwrap().unwrap()));
            });
            killed.rest();
            let reclaims = reclaimer(&stage, Fate::KilledAt(second));
            reclaims.rest();
            stage.check();
            (killed.is_through(), reclaims.is_through())
        });
    });
}

#[test]
fn who_reclaims_after_a_lender_and_its_borrower_is_killed_at_each_step() {
    alone(|| killed_after(1, lent));
}

#[test]
fn who_reclaims_a_slot_that_was_passed_on_is_killed_at_each_step() {
    alone(|| killed_after(1, passed_on));
}

/// Leaves a holder that is dead.
fn dead_holder(stage: &Stage) {
    killed_in(stage, Fate::Lives, |role| {
        role.run();
    });
}

/// Leaves a lender and its borrower that are dead.
fn dead_loan(stage: &Stage) {
    lent(stage, Fate::KilledAt(0));
}

/// Leaves a dead borrower with a slot that was passed on to it.
fn dead_heir(stage: &Stage) {
    passed_on(stage, Fate::KilledAt(0));
}

#[test]
fn two_reclaim_the_slot_of_a_dead_holder() {
    alone(|| two_after(dead_holder, Then::GoesOn));
}

#[test]
fn two_reclaim_the_slot_of_a_dead_holder_and_are_killed() {
    alone(|| two_after(dead_holder, Then::IsKilled));
}

#[test]
fn two_reclaim_after_a_lender_and_its_borrower() {
    alone(|| two_after(dead_loan, Then::GoesOn));
}

#[test]
fn two_reclaim_after_a_lender_and_its_borrower_and_are_killed() {
    alone(|| two_after(dead_loan, Then::IsKilled));
}

#[test]
fn two_reclaim_a_slot_that_was_passed_on() {
    alone(|| two_after(dead_heir, Then::GoesOn));
}

#[test]
fn two_reclaim_a_slot_that_was_passed_on_and_are_killed() {
    alone(|| two_after(dead_heir, Then::IsKilled));
}

/// The lender is dead, after it has left its slot to the borrower or before, and the borrower lives.
/// Who reclaims is stopped at each step; the borrower meanwhile gives the slot back, and is killed at
/// each step.
fn the_borrower_ends_meanwhile(passed_on: bool) {
    at_each_two_steps(|first, second| {
        let stage = Stage::new(1);
        let lends = lender(&stage, Fate::Lives);
        let borrows = borrower(&stage, lends.pid, Fate::KilledAt(second));
        if passed_on {
            lends.go_on();
        }
        lends.kill();
        let late = reclaimer(&stage, Fate::StoppedAt(first));
        let is_late = late.rest() == Rest::Stopped;
        borrows.go_on();
        if is_late {
            assert_eq!(late.go_on(), Rest::Ended);
        }
        let through = (!is_late, borrows.is_through());
        borrows.kill();
        stage.check();
        through
    });
}

#[test]
fn the_borrower_is_killed_while_who_reclaims_is_between_two_steps() {
    alone(|| the_borrower_ends_meanwhile(false));
}

#[test]
fn who_was_left_a_slot_is_killed_while_who_reclaims_is_between_two_steps() {
    alone(|| the_borrower_ends_meanwhile(true));
}

/// Both are stopped at each of their steps, who reclaims first; then both go on, who reclaims first.
#[test]
fn who_was_left_a_slot_and_who_reclaims_are_both_between_two_steps() {
    alone(|| {
        at_each_two_steps(|first, second| {
            let stage = Stage::new(1);
            let lends = lender(&stage, Fate::Lives);
            let borrows = borrower(&stage, lends.pid, Fate::StoppedAt(second));
            lends.go_on();
            lends.kill();
            let reclaims = reclaimer(&stage, Fate::StoppedAt(first));
            let is_late = reclaims.rest() == Rest::Stopped;
            borrows.go_on();
            let through = (!is_late, borrows.is_through());
            if is_late {
                assert_eq!(reclaims.go_on(), Rest::Ended);
            }
            borrows.go_on();
            stage.check();
            through
        });
    });
}

/// The lender is dead and its slot open. Who reclaims is stopped at each step; a program below the
/// dead borrows the slot meanwhile, and keeps it until who reclaims is through.
#[test]
fn a_slot_that_is_borrowed_of_the_dead_is_not_free() {
    alone(|| {
        at_each_step(|step| {
            let stage = Stage::new(1);
            let lends = lender(&stage, Fate::Lives);
            lends.kill();
            let late = reclaimer(&stage, Fate::StoppedAt(step));
            let is_late = late.rest() == Rest::Stopped;
            let borrows = stage.start(Fate::Lives, |role| {
                let loan = role.borrow(lends.pid);
                if loan.is_some() {
                    role.meet_fate(|| ());
                }
                role.pause();
                if let Some(loan) = loan {
                    role.give_back(loan);
                }
            });
            borrows.rest();
            if is_late {
                late.go_on();
            }
            assert_eq!(stage.free() + usize::from(borrows.is_through()), 1);
            borrows.go_on();
            stage.check();
            !is_late
        });
    });
}

//! A lender, and the borrower of its slot: killed one after the other, in both orders, and while the
//! other is between any two steps.

use super::cast::{borrower, lender, passer_by};
use super::stage::{alone, at_each_step, at_each_two_steps, Actor, Fate, Stage, Then};

#[test]
fn the_borrower_is_killed_at_each_step_and_then_the_lender() {
    alone(|| {
        at_each_two_steps(|first, second| {
            let stage = Stage::new(1);
            let lends = lender(&stage, Fate::KilledAt(second));
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
fn the_lender_is_killed_at_each_step_and_then_the_borrower() {
    alone(|| {
        at_each_two_steps(|first, second| {
            let stage = Stage::new(1);
            let lends = lender(&stage, Fate::KilledAt(first));
            let borrows = borrower(&stage, lends.pid, Fate::KilledAt(second));
            lends.go_on();
            stage.pool.reclaim();
            assert_eq!(stage.free(), 0, "the slot is free, and a borrower runs on it");
            borrows.go_on();
            lends.kill();
            stage.check();
            (lends.is_through(), borrows.is_through())
        });
    });
}

/// The borrower is stopped at each step; the lender meanwhile gives its slot back, and is killed at
/// each step; then the borrower goes on, or is killed too.
fn the_borrower_is_late(and: Then) {
    at_each_two_steps(|first, second| {
        let stage = Stage::new(1);
        let lends = lender(&stage, Fate::KilledAt(second));
        let borrows = passer_by(&stage, lends.pid, Fate::StoppedAt(first));
        borrows.rest();
        let late = !borrows.is_through();
        lends.go_on();
        let through = (!late, lends.is_through());
        if late {
            borrows.then(and);
        }
        stage.check();
        through
    });
}

#[test]
fn the_lender_is_killed_while_a_late_borrower_is_between_two_steps() {
    alone(|| the_borrower_is_late(Then::GoesOn));
}

#[test]
fn the_lender_is_killed_and_reclaimed_while_a_late_borrower_is_between_two_steps() {
    alone(|| the_borrower_is_late(Then::GoesOnLater));
}

#[test]
fn the_lender_is_killed_and_then_the_borrower_between_two_steps() {
    alone(|| the_borrower_is_late(Then::IsKilled));
}

/// The lender is stopped at each step of giving back; a borrower meanwhile borrows, gives back, and is
/// killed at each step; then the lender goes on, or is killed too.
fn the_lender_is_late(and: Then) {
    at_each_two_steps(|first, second| {
        let stage = Stage::new(1);
        let lends = lender(&stage, Fate::StoppedAt(first));
        lends.go_on();
        let late = !lends.is_through();
        let borrows = passer_by(&stage, lends.pid, Fate::KilledAt(second));
        borrows.rest();
        let through = (!late, borrows.is_through());
        if late {
            lends.then(and);
        }
        borrows.kill();
        stage.check();
        through
    });
}

#[test]
fn the_borrower_is_killed_while_a_late_lender_is_between_two_steps() {
    alone(|| the_lender_is_late(Then::GoesOn));
}

#[test]
fn the_borrower_is_killed_and_reclaimed_while_a_late_lender_is_between_two_steps() {
    alone(|| the_lender_is_late(Then::GoesOnLater));
}

#[test]
fn the_borrower_is_killed_and_then_the_lender_between_two_steps() {
    alone(|| the_lender_is_late(Then::IsKilled));
}

/// Both are stopped at each of their steps, the lender first; then both go on, the lender first.
#[test]
fn a_lender_and_a_borrower_are_both_between_two_steps() {
    alone(|| {
        at_each_two_steps(|first, second| {
            let stage = Stage::new(1);
            let lends = lender(&stage, Fate::StoppedAt(first));
            lends.go_on();
            let borrows = passer_by(&stage, lends.pid, Fate::StoppedAt(second));
            borrows.rest();
            let through = (lends.is_through(), borrows.is_through());
            if !through.0 {
                lends.go_on();
            }
            if !through.1 {
                borrows.go_on();
            }
            assert_eq!(stage.free(), 1);
            stage.check();
            through
        });
    });
}

/// Who reads the pipe and knows no ledger, as make does, reclaims nothing: so it is the borrower that
/// puts the byte of its dead lender back.
#[test]
fn a_slot_that_comes_back_to_a_dead_lender_is_in_the_pipe_at_once() {
    alone(|| {
        let stage = Stage::new(1);
        let lends = lender(&stage, Fate::Lives);
        let borrows = borrower(&stage, lends.pid, Fate::Lives);
        lends.kill();
        borrows.go_on();
        assert_eq!(stage.free(), 1);
        stage.check();
    });
}

/// A borrower that has its slot and keeps it while its lender gives back is the only one to run.
#[test]
fn a_borrower_that_was_quicker_than_its_lender_alone_has_the_slot() {
    alone(|| {
        at_each_step(|step| {
            let stage = Stage::new(1);
            let lends = lender(&stage, Fate::StoppedAt(step));
            lends.go_on();
            let late = !lends.is_through();
            let borrows = stage.start(Fate::Lives, |role| {
                if role.borrow(lends.pid).is_some() {
                    role.meet_fate(|| ());
                }
                role.pause();
            });
            borrows.rest();
            if late {
                lends.go_on();
            }
            assert_eq!(stage.free() + usize::from(borrows.is_through()), 1);
            borrows.kill();
            stage.check();
            !late
        });
    });
}

/// Who borrows what is borrowed: the three end one after the other in `order`, the first by a kill at
/// each step of giving back, the second likewise, the third as it is.
fn three_in_a_row(order: [usize; 3]) {
    at_each_two_steps(|first, second| {
        let stage = Stage::new(1);
        let fate = |number| match order.iter().position(|other| *other == number) {
            Some(0) => Fate::KilledAt(first),
            Some(1) => Fate::KilledAt(second),
            _ => Fate::Lives,
        };
        let top = lender(&stage, fate(0));
        let middle = borrower(&stage, top.pid, fate(1));
        let bottom = borrower(&stage, middle.pid, fate(2));
        let all = [top, middle, bottom];
        let ends = order.map(|number| &all[number]);
        for end in &ends[..2] {
            end.go_on();
            stage.pool.reclaim();
        }
        let through = (ends[0].is_through(), ends[1].is_through());
        assert_eq!(stage.free(), usize::from(order[2] != 2 && stage.pool.held().is_empty()));
        ends[2].go_on();
        all.iter().for_each(Actor::kill);
        stage.check();
        through
    });
}

#[test]
fn a_row_of_loans_is_killed_from_above() {
    alone(|| three_in_a_row([0, 1, 2]));
}

#[test]
fn a_row_of_loans_is_killed_from_below() {
    alone(|| three_in_a_row([2, 1, 0]));
}

#[test]
fn a_row_of_loans_is_killed_from_the_middle() {
    alone(|| three_in_a_row([1, 0, 2]));
}

//! Who is late: a process is stopped at each step, and meanwhile the very entry that it looks at has
//! been given back and is the next holder's. When it goes on, it leaves that one alone.

use super::cast::{borrower, lender, passer_by, reclaimer};
use super::stage::{alone, at_each_step, Actor, Fate, Rest, Stage};
use crate::process::ProcessId;

/// Once the slot is free, the next has it, and lends it; then who is late goes on. Whether anybody is
/// late still.
fn the_next_is_left_alone(stage: &Stage, late: &Actor<'_>) -> bool {
    let is_late = !late.is_through();
    stage.pool.reclaim();
    if stage.free() == 1 {
        let next = lender(stage, Fate::Lives);
        let lent = borrower(stage, next.pid, Fate::Lives);
        if is_late {
            late.go_on();
        }
        let holders: Vec<_> = stage.pool.held().iter().map(|held| held.pid).collect();
        assert!([next.pid, lent.pid].iter().all(|pid| holders.contains(pid)), "{holders:?}");
        stage.pool.reclaim();
        assert_eq!(stage.free(), 0, "the slot is free, and somebody runs on it");
        next.go_on();
        assert_eq!(stage.free(), 0, "the slot is free, and its borrower runs on it");
        lent.go_on();
    } else if is_late {
        late.go_on(); // what it was about to free is its own by now
    }
    late.kill();
    stage.check();
    is_late
}

fn who_reclaims_is_late(wreck: impl Fn(&Stage)) {
    as_long_as_late(|step| {
        let stage = Stage::new(1);
        wreck(&stage);
        let late = reclaimer(&stage, Fate::StoppedAt(step));
        late.rest();
        the_next_is_left_alone(&stage, &late)
    });
}

fn as_long_as_late(is_late: impl Fn(usize) -> bool) {
    at_each_step(|step| !is_late(step));
}

#[test]
fn who_reclaims_late_from_a_dead_holder_leaves_the_next_alone() {
    alone(|| who_reclaims_is_late(|stage| drop(lender(stage, Fate::Lives))));
}

#[test]
fn who_reclaims_late_from_a_lender_and_its_borrower_leaves_the_next_alone() {
    alone(|| {
        who_reclaims_is_late(|stage| {
            let lends = lender(stage, Fate::Lives);
            drop(borrower(stage, lends.pid, Fate::Lives));
        });
    });
}

#[test]
fn who_reclaims_late_what_was_passed_on_leaves_the_next_alone() {
    alone(|| {
        who_reclaims_is_late(|stage| {
            let lends = lender(stage, Fate::Lives);
            let borrows = borrower(stage, lends.pid, Fate::Lives);
            lends.go_on();
            drop((lends, borrows));
        });
    });
}

#[test]
fn an_owner_that_settles_late_leaves_the_next_alone() {
    alone(|| {
        as_long_as_late(|step| {
            let stage = Stage::new(1);
            let owns = stage.start(Fate::StoppedAt(step), |role| {
                let slot = role.take();
                stage.ledger.launch(slot, 1);
                stage.tell_tenure(0, slot);
                role.pause();
                let job = ProcessId::from_word(stage.told(1)).unwrap();
                role.meet_fate(|| {
                    stage.ledger.born(slot, job, true);
                    stage.ledger.settle(slot, Some(job), &stage.pipe);
                });
                role.pause();
            });
            owns.rest();
            let job = stage.start(Fate::Lives, |role| {
                assert!(stage.ledger.adopt(stage.told_tenure(0).unwrap()).unwrap());
                role.pause();
            });
            assert_eq!(job.rest(), Rest::Stopped);
            stage.tell_name(1, &job);
            job.kill();
            owns.go_on();
            the_next_is_left_alone(&stage, &owns)
        });
    });
}

#[test]
fn an_owner_that_names_its_job_late_leaves_the_next_alone() {
    alone(|| {
        as_long_as_late(|step| {
            let stage = Stage::new(1);
            let owns = stage.start(Fate::StoppedAt(step), |role| {
                let slot = role.take();
                stage.ledger.launch(slot, 1);
                stage.tell_tenure(0, slot);
                role.pause();
                let job = ProcessId::from_word(stage.told(1)).unwrap();
                role.meet_fate(|| stage.ledger.born(slot, job, true));
                role.pause();
            });
            owns.rest();
            let job = stage.start(Fate::Lives, |role| {
                role.pause();
                let slot = stage.told_tenure(0).unwrap();
                assert!(stage.ledger.adopt(slot).unwrap());
                role.give_back(slot);
            });
            assert_eq!(job.rest(), Rest::Stopped);
            stage.tell_name(1, &job);
            owns.go_on();
            assert_eq!(job.go_on(), Rest::Ended);
            the_next_is_left_alone(&stage, &owns)
        });
    });
}

#[test]
fn a_job_that_adopts_late_leaves_the_next_alone() {
    alone(|| {
        as_long_as_late(|step| {
            let stage = Stage::new(1);
            let owns = stage.start(Fate::Lives, |role| {
                let slot = role.take();
                stage.ledger.launch(slot, 1);
                stage.tell_tenure(0, slot);
                role.pause();
            });
            owns.rest();
            let job = stage.start(Fate::StoppedAt(step), |role| {
                role.meet_fate(|| {
                    let slot = stage.told_tenure(0).unwrap();
                    if stage.ledger.adopt(slot).unwrap() {
                        role.give_back(slot);
                    }
                });
                role.pause();
            });
            job.rest();
            owns.kill();
            the_next_is_left_alone(&stage, &job)
        });
    });
}

#[test]
fn a_borrower_that_comes_late_leaves_the_next_alone() {
    alone(|| {
        as_long_as_late(|step| {
            let stage = Stage::new(1);
            let lends = lender(&stage, Fate::Lives);
            let borrows = passer_by(&stage, lends.pid, Fate::StoppedAt(step));
            borrows.rest();
            lends.go_on();
            the_next_is_left_alone(&stage, &borrows)
        });
    });
}

/// The next holder is the same process, in another taking of the same entry.
#[test]
fn a_borrower_that_comes_late_leaves_the_same_lender_alone() {
    alone(|| {
        at_each_step(|step| {
            let stage = Stage::new(1);
            let lends = stage.start(Fate::Lives, |role| {
                for _ in 0..2 {
                    if stage.free() == 1 {
                        let own = role.run();
                        role.pause();
                        role.give_back(own);
                    }
                }
                role.pause();
            });
            lends.rest();
            let borrows = passer_by(&stage, lends.pid, Fate::StoppedAt(step));
            borrows.rest();
            let late = !borrows.is_through();
            lends.go_on();
            if late {
                borrows.go_on();
            }
            lends.go_on();
            borrows.kill();
            stage.check();
            !late
        });
    });
}

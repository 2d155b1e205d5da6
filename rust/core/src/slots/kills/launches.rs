//! A slot on its way to a job: launched, adopted, named, settled, handed over.

use super::cast::{borrower, passer_by, reclaimer};
use super::stage::{alone, at_each_step, at_each_two_steps, Actor, Fate, Rest, Role, Stage, Then};
use crate::process::ProcessId;
use crate::slots::entry::Tenure;

/// What the processes tell each other.
const SLOT: usize = 0;
const JOB: usize = 1;
const ADOPTED: usize = 2;

/// A job: when it goes on, it adopts the slot that was launched, runs on it, and gives it back.
fn job(stage: &Stage, fate: Fate) -> Actor<'_> {
    let job = stage.start(fate, |role| {
        role.pause();
        role.meet_fate(|| {
            let Some(slot) = stage.told_tenure(SLOT) else { return };
            if stage.ledger.adopt(slot).unwrap() {
                stage.tell(ADOPTED, 1);
                role.give_back(slot);
            }
        });
        role.pause();
    });
    assert_eq!(job.rest(), Rest::Stopped);
    stage.tell_name(JOB, &job);
    job
}

/// An owner: takes a slot and launches a job on it, and waits; when it goes on, it does the `rest`.
fn owner(stage: &Stage, fate: Fate, rest: impl Fn(&Role, Tenure, ProcessId)) -> Actor<'_> {
    let owner = stage.start(fate, |role| {
        let slot = role.take();
        stage.tell_tenure(SLOT, slot);
        stage.ledger.launch(slot, 1);
        role.pause();
        rest(role, slot, ProcessId::from_word(stage.told(JOB)).unwrap());
        role.pause();
    });
    assert_eq!(owner.rest(), Rest::Stopped);
    owner
}

/// An owner that is killed while it takes a slot and launches a job on it.
fn killed_owner(stage: &Stage, fate: Fate) -> Actor<'_> {
    let owner = stage.start(fate, |role| {
        role.meet_fate(|| {
            let slot = role.take();
            stage.tell_tenure(SLOT, slot);
            stage.ledger.launch(slot, 1);
        });
    });
    owner.rest();
    owner
}

#[test]
fn the_owner_is_killed_at_each_step_and_then_its_job() {
    alone(|| {
        at_each_two_steps(|first, second| {
            let stage = Stage::new(1);
            let owns = killed_owner(&stage, Fate::KilledAt(first));
            let job = job(&stage, Fate::KilledAt(second));
            job.go_on();
            job.kill();
            stage.check();
            (owns.is_through(), job.is_through())
        });
    });
}

#[test]
fn the_owner_is_killed_at_each_step_and_its_job_finds_the_slot_gone() {
    alone(|| {
        at_each_step(|step| {
            let stage = Stage::new(1);
            let owns = killed_owner(&stage, Fate::KilledAt(step));
            stage.pool.reclaim();
            let job = job(&stage, Fate::Lives);
            job.go_on();
            assert_eq!(stage.told(ADOPTED), 0, "a job runs on a slot that is free");
            stage.check();
            owns.is_through()
        });
    });
}

#[test]
fn the_job_is_killed_at_each_step_and_then_its_owner() {
    alone(|| {
        at_each_two_steps(|first, second| {
            let stage = Stage::new(1);
            let owns = owner(&stage, Fate::KilledAt(second), |role, slot, job| {
                role.meet_fate(|| {
                    stage.ledger.born(slot, job, true);
                    stage.ledger.settle(slot, Some(job), &stage.pipe);
                });
            });
            let job = job(&stage, Fate::KilledAt(first));
            job.go_on();
            job.kill();
            owns.go_on();
            if owns.is_through() {
                assert_eq!(stage.free(), 1, "who hears of the end alone is to see to the slot");
            }
            stage.check();
            (job.is_through(), owns.is_through())
        });
    });
}

/// The owner is stopped at each step of naming its job. The job meanwhile adopts the slot and gives it
/// back, and is killed at each step. Then the owner goes on, and hears of the end; or is killed.
fn the_owner_is_late(then: Then) {
    at_each_two_steps(|first, second| {
        let stage = Stage::new(1);
        let owns = owner(&stage, Fate::StoppedAt(first), |role, slot, job| {
            role.meet_fate(|| stage.ledger.born(slot, job, true));
            role.pause();
            stage.ledger.settle(slot, Some(job), &stage.pipe);
        });
        let job = job(&stage, Fate::KilledAt(second));
        owns.go_on();
        let late = !owns.is_through();
        job.go_on();
        job.kill();
        if late {
            owns.then(then);
        }
        if owns.is_through() {
            owns.go_on();
        }
        stage.check();
        (!late, job.is_through())
    });
}

#[test]
fn the_job_is_killed_while_its_owner_is_between_two_steps() {
    alone(|| the_owner_is_late(Then::GoesOn));
}

#[test]
fn the_job_is_killed_and_reclaimed_while_its_owner_is_between_two_steps() {
    alone(|| the_owner_is_late(Then::GoesOnLater));
}

#[test]
fn the_job_is_killed_and_then_its_owner_between_two_steps() {
    alone(|| the_owner_is_late(Then::IsKilled));
}

/// The job is stopped at each step; its owner meanwhile names it, and is killed at each step.
#[test]
fn the_owner_is_killed_while_its_job_is_between_two_steps() {
    alone(|| {
        at_each_two_steps(|first, second| {
            let stage = Stage::new(1);
            let owns = owner(&stage, Fate::KilledAt(second), |role, slot, job| {
                role.meet_fate(|| stage.ledger.born(slot, job, true));
            });
            let job = job(&stage, Fate::StoppedAt(first));
            job.go_on();
            let late = !job.is_through();
            owns.go_on();
            let through = (!late, owns.is_through());
            owns.kill();
            stage.pool.reclaim();
            if late {
                job.go_on();
            }
            stage.check();
            through
        });
    });
}

/// The job is dead. Its owner is stopped at each step of settling; another process meanwhile
/// reclaims, and is killed at each step.
#[test]
fn who_reclaims_is_killed_while_the_owner_settles() {
    alone(|| {
        at_each_two_steps(|first, second| {
            let stage = Stage::new(1);
            let owns = owner(&stage, Fate::StoppedAt(first), |role, slot, job| {
                stage.ledger.born(slot, job, true);
                role.meet_fate(|| stage.ledger.settle(slot, Some(job), &stage.pipe));
            });
            job(&stage, Fate::Lives).kill();
            owns.go_on();
            let late = !owns.is_through();
            let reclaims = reclaimer(&stage, Fate::KilledAt(second));
            reclaims.rest();
            if late {
                owns.go_on();
            }
            stage.check();
            (!late, reclaims.is_through())
        });
    });
}

/// A job is dead, and lent its slot to a program that lives on: so its owner leaves the slot to all who
/// reclaim, and so to itself. That program is killed at each step of giving back.
#[test]
fn an_owner_has_the_slot_back_that_its_dead_job_had_lent() {
    alone(|| {
        at_each_step(|step| {
            let stage = Stage::new(1);
            let owns = owner(&stage, Fate::Lives, |role, slot, job| {
                stage.ledger.born(slot, job, true);
                role.pause();
                stage.ledger.settle(slot, Some(job), &stage.pipe);
                role.pause();
                stage.pool.reclaim();
            });
            let job = stage.start(Fate::Lives, |role| {
                role.pause();
                assert!(stage.ledger.adopt(stage.told_tenure(SLOT).unwrap()).unwrap());
                role.pause();
            });
            job.rest();
            stage.tell_name(JOB, &job);
            owns.go_on();
            job.go_on();
            let borrows = borrower(&stage, job.pid, Fate::KilledAt(step));
            job.kill();
            owns.go_on();
            borrows.go_on();
            borrows.kill();
            owns.go_on();
            assert_eq!(stage.free(), 1);
            stage.check();
            borrows.is_through()
        });
    });
}

/// A command knows nothing of slots. Its owner is stopped, or killed, at each step of making it the
/// holder; a program below it meanwhile borrows the slot, and is killed at each step.
fn below_a_command(fate: fn(usize) -> Fate) {
    at_each_two_steps(|first, second| {
        let stage = Stage::new(1);
        let owns = owner(&stage, fate(first), |role, slot, command| {
            role.meet_fate(|| stage.ledger.born(slot, command, false));
            role.pause();
            stage.ledger.settle(slot, Some(command), &stage.pipe);
        });
        let command = stage.start(Fate::Lives, |role| role.pause());
        command.rest();
        stage.tell_name(JOB, &command);
        owns.go_on();
        let through = owns.is_through();
        let below = passer_by(&stage, command.pid, Fate::KilledAt(second));
        below.rest();
        let both = (through, below.is_through());
        if !through {
            owns.go_on();
        }
        command.kill();
        below.kill();
        owns.go_on();
        stage.check();
        both
    });
}

#[test]
fn a_program_below_a_command_is_killed_while_the_owner_is_between_two_steps() {
    alone(|| below_a_command(Fate::StoppedAt));
}

#[test]
fn the_owner_of_a_command_is_killed_and_then_a_program_below_that() {
    alone(|| below_a_command(Fate::KilledAt));
}

/// A job hands its slot over to a job of its own, and is killed at each step; then that one is.
#[test]
fn who_hands_a_slot_over_is_killed_at_each_step_and_then_who_is_to_have_it() {
    alone(|| {
        at_each_two_steps(|first, second| {
            let stage = Stage::new(1);
            let hands = stage.start(Fate::KilledAt(first), |role| {
                let own = role.run();
                stage.tell_tenure(SLOT, own);
                role.meet_fate(|| {
                    assert!(stage.ledger.close(own));
                    stage.ledger.launch(own, 1);
                });
                role.pause();
            });
            hands.rest();
            let job = job(&stage, Fate::KilledAt(second));
            job.go_on();
            let through = (hands.is_through(), job.is_through());
            hands.kill();
            job.kill();
            stage.check();
            through
        });
    });
}

/// A job that hands its slot over is stopped at each step; a program below it meanwhile borrows the
/// slot if it can. Either that program has it, or the job that it is handed over to.
#[test]
fn a_slot_is_not_both_handed_over_and_borrowed() {
    alone(|| {
        at_each_step(|step| {
            let stage = Stage::new(1);
            let hands = stage.start(Fate::StoppedAt(step), |role| {
                let own = role.run();
                role.meet_fate(|| {
                    if stage.ledger.close(own) {
                        stage.ledger.launch(own, 1);
                        stage.tell_tenure(SLOT, own);
                    }
                });
                role.pause();
            });
            hands.rest();
            let late = !hands.is_through();
            let below = borrower_if_open(&stage, &hands);
            if late {
                hands.go_on();
            }
            let job = job(&stage, Fate::Lives);
            job.go_on();
            assert!(below.is_none() || stage.told(ADOPTED) == 0, "two run on one slot");
            [Some(&hands), below.as_ref(), Some(&job)].into_iter().flatten().for_each(Actor::kill);
            stage.check();
            !late
        });
    });
}

/// The same, where the program is stopped at each step of borrowing, and the slot is handed over
/// meanwhile: it does not borrow of the new holder, which is not above it.
#[test]
fn who_comes_late_does_not_borrow_a_slot_that_was_handed_over() {
    alone(|| {
        at_each_step(|step| {
            let stage = Stage::new(1);
            let hands = stage.start(Fate::Lives, |role| {
                let own = role.run();
                role.pause();
                if stage.ledger.close(own) {
                    stage.ledger.launch(own, 1);
                    stage.tell_tenure(SLOT, own);
                }
                role.pause();
            });
            hands.rest();
            let below = stage.start(Fate::StoppedAt(step), |role| {
                role.meet_fate(|| role.borrow(hands.pid));
                role.pause();
            });
            below.rest();
            let late = !below.is_through();
            hands.go_on();
            let job = stage.start(Fate::Lives, |role| {
                let slot = stage.told_tenure(SLOT);
                if slot.is_some_and(|slot| stage.ledger.adopt(slot).unwrap()) {
                    stage.tell(ADOPTED, 1);
                }
                role.pause();
            });
            job.rest();
            if late {
                below.go_on();
            }
            let slot = stage.told_tenure(SLOT).filter(|_| stage.told(ADOPTED) == 1);
            assert!(!slot.is_some_and(|slot| stage.ledger.is_lent(slot)), "two run on one slot");
            [&hands, &below, &job].into_iter().for_each(Actor::kill);
            stage.check();
            !late
        });
    });
}

/// A process that has borrowed the slot, if it is open.
fn borrower_if_open<'a>(stage: &'a Stage, lends: &Actor<'_>) -> Option<Actor<'a>> {
    let open = stage.ledger.run_by(ProcessId::of_live(lends.pid), &[]).1;
    open.map(|_| borrower(stage, lends.pid, Fate::Lives))
}

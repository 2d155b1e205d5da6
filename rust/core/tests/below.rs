//! Programs below a job: they borrow its slot, one at a time, and no slot is lost or taken twice.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{child, death, drain, ended, outcomes, pipe, soon, start, Alone};
use jobserver_core::process::Pid;
use jobserver_core::{ExitStatus, Jobs, Pool, Slot, Woken};
use rustix::fd::OwnedFd;
use rustix::process::{kill_process, Signal};

const ENDED_WELL: ExitStatus = ExitStatus::Code(0);

/// Tells another process that an event has happened.
struct Event(OwnedFd, OwnedFd);

impl Event {
    fn new() -> Event {
        let (read, write) = pipe();
        Event(read, write)
    }

    fn set(&self) {
        rustix::io::write(&self.1, b"!").unwrap();
    }

    fn wait(&self) {
        rustix::io::read(&self.0, &mut [0; 1]).unwrap();
    }
}

/// Runs a job on a slot of `pool`, which the job opens for itself. Returns how it ends.
fn job(pool: &Pool, body: impl FnOnce(&Pool) -> i32) -> ExitStatus {
    let mut jobs = Jobs::new();
    let slot = pool.try_take().unwrap().unwrap();
    slot.launch();
    let (assignment, home) = (slot.assignment(), pool.home().to_owned());
    let job = start(&mut jobs, Some(slot), |_channel| {
        let pool = Pool::open(&home).unwrap();
        match pool.adopt(assignment).unwrap() {
            true => body(&pool),
            false => 9,
        }
    });
    let how = death(&outcomes(&mut jobs, 1)[&job]);
    drain(&mut jobs);
    how
}

/// Forks a program that opens the pool.
fn program(home: &std::path::Path, body: impl FnOnce(Pool) -> i32) -> Pid {
    let home = home.to_owned();
    child(move || body(Pool::open(&home).unwrap()))
}

/// Waits for a slot of the pool.
fn take(pool: &Pool) -> Slot {
    loop {
        if let Some(slot) = pool.try_take().unwrap() {
            return slot;
        }
        assert_ne!(Jobs::new().wait(Some(pool), Some(soon())).unwrap(), Woken::TimedOut);
    }
}

#[test]
fn a_program_below_a_job_has_the_slot_of_that_on_a_full_pool() {
    let _alone = Alone::new();
    let pool = Pool::new(1).unwrap();
    let above = job(&pool, |pool| {
        let below = program(pool.home(), |pool| {
            let slot = take(&pool);
            i32::from(pool.try_take().unwrap().is_some() || slot.is_lent())
        });
        i32::from(ended(below) != ENDED_WELL)
    });
    assert_eq!(above, ENDED_WELL);
    pool.reclaim();
    assert_eq!(pool.free().unwrap(), 1);
}

#[test]
fn programs_below_a_job_have_its_slot_one_after_the_other() {
    let _alone = Alone::new();
    let pool = Pool::new(1).unwrap();
    let running = pipe();
    rustix::io::ioctl_fionbio(&running.0, true).unwrap();
    let above = job(&pool, |pool| {
        let below: Vec<_> = (0..8)
            .map(|_| {
                program(pool.home(), |pool| {
                    for _ in 0..50 {
                        let slot = take(&pool);
                        rustix::io::write(&running.1, b"!").unwrap();
                        std::thread::yield_now();
                        // No other program may be between its write and its read.
                        let others = rustix::io::ioctl_fionread(&running.0).unwrap() != 1;
                        rustix::io::read(&running.0, &mut [0; 1]).unwrap();
                        drop(slot);
                        if others {
                            return 1;
                        }
                    }
                    0
                })
            })
            .collect();
        i32::from(below.into_iter().any(|each| ended(each) != ENDED_WELL))
    });
    assert_eq!(above, ENDED_WELL);
    pool.reclaim();
    assert_eq!(pool.free().unwrap(), 1);
}

#[test]
fn a_program_that_outlasts_the_job_above_it_gives_the_slot_back_at_its_end() {
    let _alone = Alone::new();
    let (pool, taken, end) = (Pool::new(1).unwrap(), Event::new(), Event::new());
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let above = job(&pool, |pool| {
        program(pool.home(), |pool| {
            let slot = take(&pool);
            taken.set();
            end.wait();
            drop(slot);
            0
        });
        taken.wait();
        i32::from(!pool.release())
    });
    assert_eq!(above, ENDED_WELL);
    assert!(pool.try_take().unwrap().is_none());
    end.set();
    drop(take(&pool));
    let below = rustix::process::waitpid(None, rustix::process::WaitOptions::empty()).unwrap();
    assert!(below.is_some());
    rustix::process::set_child_subreaper(None).unwrap();
}

#[test]
fn a_program_that_is_killed_with_the_slot_of_the_job_above_leaves_it_to_the_next() {
    let _alone = Alone::new();
    let (pool, taken) = (Pool::new(1).unwrap(), Event::new());
    let above = job(&pool, |pool| {
        let below = program(pool.home(), |pool| {
            let _slot = take(&pool);
            taken.set();
            common::hang()
        });
        taken.wait();
        let waits = program(pool.home(), |pool| {
            drop(take(&pool));
            0
        });
        kill_process(below, Signal::KILL).unwrap();
        ended(below);
        i32::from(ended(waits) != ENDED_WELL)
    });
    assert_eq!(above, ENDED_WELL);
    pool.reclaim();
    assert_eq!(pool.free().unwrap(), 1);
}

#[test]
fn a_slot_that_is_handed_over_is_not_lent_meanwhile() {
    let _alone = Alone::new();
    let pool = Pool::new(1).unwrap();
    let above = job(&pool, |pool| {
        let handed = pool.own_slot(true).unwrap();
        let home = pool.home();
        let below = program(home, |pool| i32::from(pool.try_take().unwrap().is_some()));
        let none = ended(below) == ENDED_WELL;
        drop(handed);
        // While it is lent, it is not handed over either.
        assert!(pool.resume().unwrap());
        let (taken, end) = (Event::new(), Event::new());
        let below = program(home, |pool| {
            let _slot = take(&pool);
            taken.set();
            end.wait();
            0
        });
        taken.wait();
        let kept = pool.own_slot(true).is_none() && !pool.runs();
        end.set();
        let well = ended(below) == ENDED_WELL;
        i32::from(!(none && kept && well && pool.own_slot(true).is_some()))
    });
    assert_eq!(above, ENDED_WELL);
    pool.reclaim();
    assert_eq!(pool.free().unwrap(), 1);
}

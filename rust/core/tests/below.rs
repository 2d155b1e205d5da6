//! Programs below a job: they borrow its slot, one at a time, and none is lost or taken twice.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::slots::{job, program, take, Event};
use common::{ended, pipe, Alone};
use jobserver_core::slots::OwnSlot;
use jobserver_core::{ExitStatus, Pool};
use rustix::process::{kill_process, Signal};

const ENDED_WELL: ExitStatus = ExitStatus::Code(0);

#[test]
fn a_program_below_a_job_has_the_slot_of_that_on_a_full_pool() {
    let _alone = Alone::new();
    let pool = Pool::new(1).unwrap();
    let above = job(&pool, |pool, _slot| {
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
    let above = job(&pool, |pool, _slot| {
        let below: Vec<_> = (0..8)
            .map(|_| {
                program(pool.home(), |pool| {
                    for _ in 0..50 {
                        let slot = take(&pool);
                        rustix::io::write(&running.1, b"!").unwrap();
                        std::thread::yield_now();
                        // Nobody else may be between its writing and its reading.
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
    let above = job(&pool, |pool, slot| {
        program(pool.home(), |pool| {
            let slot = take(&pool);
            taken.set();
            end.wait();
            drop(slot);
            0
        });
        taken.wait();
        drop(slot);
        0
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
    let above = job(&pool, |pool, _slot| {
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
    let above = job(&pool, |pool, slot| {
        let mut own = OwnSlot::new(slot);
        let handed = own.hand_over().unwrap();
        let home = pool.home();
        let below = program(home, |pool| i32::from(pool.try_take().unwrap().is_some()));
        let none = ended(below) == ENDED_WELL;
        drop(handed);
        // And while it is lent, it is not handed over.
        let mut own = OwnSlot::new(take(pool));
        let (taken, end) = (Event::new(), Event::new());
        let below = program(home, |pool| {
            let _slot = take(&pool);
            taken.set();
            end.wait();
            0
        });
        taken.wait();
        let kept = own.hand_over().is_none() && !own.runs();
        end.set();
        let well = ended(below) == ENDED_WELL;
        i32::from(!(none && kept && well && own.hand_over().is_some()))
    });
    assert_eq!(above, ENDED_WELL);
    pool.reclaim();
    assert_eq!(pool.free().unwrap(), 1);
}

//! The slot that a program was started on: it comes before all others, and one program has it at a
//! time; but in a recipe of make each program has one of its own.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::slots::{job, program, take, Event};
use common::{another_process, ended, hang, has_role, Alone};
use jobserver_core::make::InForce;
use jobserver_core::owner::Options;
use jobserver_core::slots::{PausedTurn, Style};
use jobserver_core::{ExitStatus, Owner, Pool};
use rustix::process::{kill_process, Signal};
use std::io::{Read, Write};
use std::process::{Child, Stdio};

const ENDED_WELL: ExitStatus = ExitStatus::Code(0);

/// A pool for a command, of so many slots.
fn pool_for_command(slots: usize) -> Pool {
    Pool::for_command(slots, Style::Fifo).unwrap().0
}

/// How many bytes are in the pipe, whatever else is free.
fn bytes(pool: &Pool) -> u64 {
    rustix::io::ioctl_fionread(pool.read_end()).unwrap()
}

#[test]
fn below_a_job_the_slot_of_that_is_used_before_a_free_one() {
    let _alone = Alone::new();
    let pool = Pool::new(2).unwrap();
    let above = job(&pool, |pool, _slot| {
        let below = program(pool.home(), |pool| {
            let first = take(&pool);
            let untouched = pool.free().unwrap() == 1;
            let second = take(&pool);
            let all = pool.free().unwrap() == 0 && pool.try_take().unwrap().is_none();
            drop((first, second));
            i32::from(!(untouched && all))
        });
        i32::from(ended(below) != ENDED_WELL)
    });
    assert_eq!(above, ENDED_WELL);
    assert_eq!(pool.free().unwrap(), 2);
}

#[test]
fn below_a_command_the_slot_without_a_byte_is_used_first() {
    let _alone = Alone::new();
    let pool = pool_for_command(2);
    assert_eq!((pool.free().unwrap(), bytes(&pool)), (2, 1));
    let below = program(pool.home(), |pool| {
        let first = take(&pool);
        let untouched = bytes(&pool) == 1;
        let second = take(&pool);
        let all = bytes(&pool) == 0 && pool.try_take().unwrap().is_none();
        drop((first, second));
        i32::from(!(untouched && all))
    });
    assert_eq!(ended(below), ENDED_WELL);
    assert_eq!((pool.free().unwrap(), bytes(&pool)), (2, 1));
}

#[test]
fn one_program_at_a_time_has_the_slot_without_a_byte() {
    let _alone = Alone::new();
    let (pool, taken, end) = (pool_for_command(2), Event::new(), Event::new());
    let first = program(pool.home(), |pool| {
        let _slot = take(&pool);
        taken.set();
        end.wait();
        0
    });
    taken.wait();
    assert_eq!(bytes(&pool), 1);
    let second = program(pool.home(), |pool| {
        let _slot = take(&pool);
        i32::from(bytes(&pool) != 0 || pool.try_take().unwrap().is_some())
    });
    assert_eq!(ended(second), ENDED_WELL);
    end.set();
    assert_eq!(ended(first), ENDED_WELL);
    assert_eq!((pool.free().unwrap(), bytes(&pool)), (2, 1));
}

#[test]
fn who_is_killed_with_the_slot_without_a_byte_leaves_it_to_the_next() {
    let _alone = Alone::new();
    let (pool, taken) = (pool_for_command(1), Event::new());
    let first = program(pool.home(), |pool| {
        let _slot = take(&pool);
        taken.set();
        hang()
    });
    taken.wait();
    assert!(pool.try_take().unwrap().is_none());
    kill_process(first, Signal::KILL).unwrap();
    ended(first);
    drop(pool.try_take().unwrap().unwrap());
    assert_eq!((pool.free().unwrap(), bytes(&pool)), (1, 0));
}

/// The other process of the next tests: joins the pool in force, takes a slot, says so by a byte, and
/// how many bytes the pool has, and gives it back when told to.
#[test]
fn joiner() {
    if !has_role("joiner") {
        return;
    }
    let InForce::Pool(auth, jobs) = InForce::of_environment() else { panic!("no pool") };
    let pool = Pool::join_in_force(&auth, jobs).unwrap();
    let slot = pool.try_take().unwrap().unwrap();
    std::io::stderr().write_all(&[bytes(&pool) as u8]).unwrap();
    std::io::stdin().read_exact(&mut [0]).unwrap();
    drop(slot);
}

/// The same, with both slots of the pool: says by a byte whether it finds that it could take another.
#[test]
fn joiner_with_all() {
    if !has_role("joiner_with_all") {
        return;
    }
    let InForce::Pool(auth, jobs) = InForce::of_environment() else { panic!("no pool") };
    let pool = Pool::join_in_force(&auth, jobs).unwrap();
    let slots = [(); 2].map(|()| pool.try_take().unwrap().unwrap());
    let owner = Owner::<()>::new(Some(pool), Options { orphans_stay: false, yields: false });
    let could = owner.could_admit(&mut PausedTurn::default(), 1, false).unwrap();
    std::io::stderr().write_all(&[u8::from(could)]).unwrap();
    std::io::stdin().read_exact(&mut [0]).unwrap();
    drop(slots);
}

/// Starts a joiner below so many makes, and waits until it has a slot: what it said then.
fn start_below(makes: &str, pool: &Pool, role: &str) -> (Child, u8) {
    let mut joiner = another_process(role)
        .env("MAKEFLAGS", pool.makeflags(None, None))
        .env_remove("CARGO_MAKEFLAGS")
        .env("MAKELEVEL", makes)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0];
    joiner.stderr.as_mut().unwrap().read_exact(&mut said).unwrap();
    (joiner, said[0])
}

fn end(mut joiner: Child) {
    joiner.stdin.take().unwrap().write_all(b"!").unwrap();
    assert!(joiner.wait().unwrap().success());
}

#[test]
fn in_a_recipe_each_program_has_a_slot_of_its_own() {
    let _alone = Alone::new();
    let pool = pool_for_command(2);
    let programs = [(); 3].map(|()| start_below("1", &pool, "joiner"));
    for (joiner, bytes) in programs {
        assert_eq!(bytes, 1);
        end(joiner);
    }
    assert_eq!((pool.free().unwrap(), bytes(&pool)), (2, 1));
}

#[test]
fn outside_of_recipes_programs_share_the_slots_of_the_pool() {
    let _alone = Alone::new();
    let pool = pool_for_command(2);
    let programs = [(); 2].map(|()| start_below("0", &pool, "joiner"));
    assert_eq!(programs.each_ref().map(|(_, bytes)| *bytes), [1, 0]);
    assert!(pool.try_take().unwrap().is_none());
    programs.into_iter().for_each(|(joiner, _)| end(joiner));
    assert_eq!((pool.free().unwrap(), bytes(&pool)), (2, 1));
}

#[test]
fn in_a_recipe_no_slot_is_free_while_only_the_slot_of_the_command_is() {
    let _alone = Alone::new();
    let pool = pool_for_command(2);
    let (joiner, could) = start_below("1", &pool, "joiner_with_all");
    assert_eq!(could, 0);
    end(joiner);
}

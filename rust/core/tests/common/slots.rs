//! What the tests of slots share: jobs on a slot, programs below them, and events.

use super::{child, death, drain, outcomes, pipe, soon, start};
use jobserver_core::process::Pid;
use jobserver_core::slots::Adopted;
use jobserver_core::{ExitStatus, Jobs, Pool, Slot, Woken};
use rustix::fd::OwnedFd;

/// Says in another process that something has come to pass.
pub struct Event(OwnedFd, OwnedFd);

impl Event {
    pub fn new() -> Event {
        let (read, write) = pipe();
        Event(read, write)
    }

    pub fn set(&self) {
        rustix::io::write(&self.1, b"!").unwrap();
    }

    pub fn wait(&self) {
        rustix::io::read(&self.0, &mut [0; 1]).unwrap();
    }
}

/// Runs a job on a slot of `pool`, which it opens for itself: how it ends.
pub fn job(pool: &Pool, body: impl FnOnce(&Pool, Slot) -> i32) -> ExitStatus {
    let mut jobs = Jobs::new();
    let slot = pool.try_take().unwrap().unwrap();
    slot.launch();
    let (word, home) = (slot.assignment(), pool.home().to_owned());
    let job = start(&mut jobs, Some(slot), |_channel| {
        let pool = Pool::open(&home).unwrap();
        let Adopted::Slot(slot) = pool.adopt_slot(word).unwrap() else { return 9 };
        body(&pool, slot)
    });
    let how = death(&outcomes(&mut jobs, 1)[&job]);
    drain(&mut jobs);
    how
}

/// Forks a program that opens the pool.
pub fn program(home: &std::path::Path, body: impl FnOnce(Pool) -> i32) -> Pid {
    let home = home.to_owned();
    child(move || body(Pool::open(&home).unwrap()))
}

/// Waits for a slot of the pool.
pub fn take(pool: &Pool) -> Slot {
    loop {
        if let Some(slot) = pool.try_take().unwrap() {
            return slot;
        }
        assert_ne!(Jobs::new().wait(Some(pool), Some(soon())).unwrap(), Woken::TimedOut);
    }
}

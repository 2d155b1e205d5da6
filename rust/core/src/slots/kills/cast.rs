//! Processes that several tests put on the stage, and what they do and look at there.

use super::stage::{Actor, Fate, Rest, Stage};
use crate::process::ProcessId;
use crate::slots::ledger::{Row, Want};
use crate::slots::PoolWait;
use crate::wait::POLL_INTERVAL;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::process::Pid;

/// A process that runs on a slot and waits; when it goes on, it gives that back.
pub(super) fn lender(stage: &Stage, fate: Fate) -> Actor<'_> {
    let lender = stage.start(fate, |role| {
        let own = role.run();
        role.pause();
        role.meet_fate(|| role.give_back(own));
        role.pause();
    });
    assert_eq!(lender.rest(), Rest::Stopped);
    lender
}

/// A process that borrows that slot, runs on it, and gives it back.
pub(super) fn passer_by(stage: &Stage, from: Pid, fate: Fate) -> Actor<'_> {
    stage.start(fate, move |role| {
        role.meet_fate(|| role.borrow_for_a_while(from));
        role.pause();
    })
}

/// A process that has borrowed that slot and waits; when it goes on, it gives it back.
pub(super) fn borrower(stage: &Stage, from: Pid, fate: Fate) -> Actor<'_> {
    let borrower = stage.start(fate, move |role| {
        let loan = role.borrow(from).unwrap();
        stage.ledger.open_to_borrowers(loan);
        role.pause();
        role.meet_fate(|| role.give_back(loan));
        role.pause();
    });
    assert_eq!(borrower.rest(), Rest::Stopped);
    borrower
}

/// A process that reclaims what there is to be reclaimed.
pub(super) fn reclaimer(stage: &Stage, fate: Fate) -> Actor<'_> {
    stage.start(fate, |role| {
        role.meet_fate(|| stage.pool.reclaim());
    })
}

/// In a process: enters the queue.
pub(super) fn enter(stage: &Stage, depth: u16) -> Row {
    stage.ledger.enter(ProcessId::current(), depth, Want::Start, None).unwrap()
}

/// Whether something has ended a wait by now.
pub(super) fn is_ready(wait: &PoolWait) -> bool {
    let all = wait.descriptors.iter().chain(&wait.pipe);
    let mut all: Vec<_> = all.map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    poll(&mut all, Some(&Timespec::default())).unwrap() > 0
}

/// The same, or whether it looks soon, because no descriptor reports a death.
pub(super) fn wakes(wait: &PoolWait) -> bool {
    is_ready(wait) || wait.look_after.is_some_and(|after| after <= POLL_INTERVAL)
}

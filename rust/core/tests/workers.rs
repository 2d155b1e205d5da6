//! Workers that run several jobs: which worker gets a launch, and which job each outcome belongs
//! to.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::*;
use jobserver_core::platform::Forked;
use jobserver_core::slots::Assignment;
use jobserver_core::wire::Head;
use jobserver_core::{
    Channel, Child, ErrorKind, ExitStatus, JobId, Jobs, Outcome, Pool, Slot, Woken,
};
use rustix::process::{getpid, Pid, Signal};
use std::time::{Duration, Instant};

/// Hires a worker that does what each launch says, and stays after "echo".
fn hire(jobs: &mut Jobs, pool: &Pool) -> Pid {
    let (owner_end, job_end) = Channel::pair().unwrap();
    match fork().unwrap() {
        Forked::Child => {
            drop(owner_end);
            jobs.abandon();
            finish(|| serve(&job_end, pool))
        }
        Forked::Parent(pid) => {
            drop(job_end);
            jobs.hired(owner_end, Child::adopt(pid), None).unwrap();
            pid
        }
    }
}

fn serve(channel: &Channel, pool: &Pool) -> i32 {
    while let Some(launch) = channel.receive().unwrap() {
        let Head::Launch { assignment } = launch.head else { panic!("no launch: {launch:?}") };
        assert!(pool.adopt(assignment).unwrap());
        assert_eq!(pool.runs(), matches!(assignment, Assignment::Slot { .. }));
        let verb = launch.body.into_bytes().unwrap();
        let me = getpid().as_raw_nonzero().get().to_ne_bytes();
        match verb.as_slice() {
            b"echo" => {
                assert!(pool.release());
                channel.send(Head::Result { stays: true }, &me, &[]).unwrap();
            }
            b"last" => {
                assert!(pool.release());
                channel.send(RESULT, &me, &[]).unwrap();
                return 0;
            }
            b"exit" => return 7,
            _ => hang(),
        }
    }
    0
}

fn launch(jobs: &mut Jobs, slot: Option<Slot>, verb: &str) -> Option<JobId> {
    let mut slot = slot;
    let send = |channel: &Channel, head| channel.send(head, verb.as_bytes(), &[]);
    let launched = jobs.launch(&mut slot, Assignment::none(), || (), send).unwrap();
    launched.map(|started| started.id)
}

/// Returns which worker ran the only job.
fn runner(jobs: &mut Jobs, id: JobId) -> Pid {
    let bytes = result(outcomes(jobs, 1).remove(&id).unwrap());
    Pid::from_raw(i32::from_ne_bytes(bytes.try_into().unwrap())).unwrap()
}

fn dismiss(jobs: &mut Jobs) {
    jobs.dismiss_idle();
    drain(jobs);
}

#[test]
fn a_process_that_stays_runs_job_after_job_each_under_a_slot_of_its_own() {
    let _alone = Alone::new();
    let (mut jobs, pool) = (Jobs::new(), Pool::new(1).unwrap());
    assert_eq!(launch(&mut jobs, None, "echo"), None, "nobody is there");
    let pid = hire(&mut jobs, &pool);
    let mut told = Vec::new();
    for _ in 0..20 {
        let id = launch(&mut jobs, pool.try_take().unwrap(), "echo").unwrap();
        assert_eq!((jobs.idle(), jobs.outstanding(), jobs.pid(id)), (0, 1, Some(pid)));
        assert_eq!(runner(&mut jobs, id), pid);
        assert_eq!((jobs.idle(), jobs.outstanding(), jobs.pid(id)), (1, 0, None));
        assert_eq!(pool.free().unwrap(), 1);
        assert!(!told.contains(&id));
        told.push(id);
    }
    dismiss(&mut jobs);
}

/// Otherwise each job would get another of the ledger's 2,000 entries, and each look at those in use
/// would go through all.
#[test]
fn jobs_one_after_the_other_use_the_same_entry() {
    let _alone = Alone::new();
    let (mut jobs, pool) = (Jobs::new(), Pool::new(1).unwrap());
    hire(&mut jobs, &pool);
    let entry = |slot: &Slot| {
        let taken = format!("{:?}", slot.assignment());
        taken.split("generation").next().unwrap().to_owned()
    };
    let mut entries = Vec::new();
    for _ in 0..20 {
        let slot = pool.try_take().unwrap().unwrap();
        entries.push(entry(&slot));
        let id = launch(&mut jobs, Some(slot), "echo").unwrap();
        runner(&mut jobs, id);
    }
    entries.dedup();
    assert_eq!(entries.len(), 1, "{entries:?}");
    dismiss(&mut jobs);
}

#[test]
fn a_slot_stays_with_the_caller_where_nobody_is_idle() {
    let _alone = Alone::new();
    let (mut jobs, pool) = (Jobs::new(), Pool::new(1).unwrap());
    let mut slot = pool.try_take().unwrap();
    assert_eq!(
        jobs.launch(&mut slot, Assignment::none(), || (), |_, _| panic!("nobody to send to"))
            .unwrap(),
        None
    );
    assert!(slot.is_some());
    drop(slot);
    assert_eq!(pool.free().unwrap(), 1);
}

#[test]
fn a_launch_that_cannot_be_sent_costs_the_process_and_not_the_slot() {
    let _alone = Alone::new();
    let (mut jobs, pool) = (Jobs::new(), Pool::new(1).unwrap());
    hire(&mut jobs, &pool);
    let mut slot = pool.try_take().unwrap();
    let too_large = vec![0; jobserver_core::wire::INLINE + 1];
    let error = jobs
        .launch(
            &mut slot,
            Assignment::none(),
            || (),
            |channel, head| channel.send(head, &too_large, &[]),
        )
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    drop(slot.unwrap());
    assert_eq!((pool.free().unwrap(), jobs.idle()), (1, 0));
    drain(&mut jobs);
}

#[test]
fn the_death_of_an_idle_process_is_nobodys_and_another_takes_its_place() {
    let _alone = Alone::new();
    let (mut jobs, pool) = (Jobs::new(), Pool::new(1).unwrap());
    let pids = [hire(&mut jobs, &pool), hire(&mut jobs, &pool)];
    let id = launch(&mut jobs, None, "echo").unwrap();
    assert_eq!(runner(&mut jobs, id), pids[1]);
    // This is the worker that would be next: the last that has worked.
    rustix::process::kill_process(pids[1], Signal::KILL).unwrap();
    assert_eq!(ended_but_not_reaped(pids[1]), ());
    let id = launch(&mut jobs, pool.try_take().unwrap(), "echo").unwrap();
    assert_eq!(runner(&mut jobs, id), pids[0]);
    assert_eq!(pool.free().unwrap(), 1);
    dismiss(&mut jobs);
}

/// Returns once a child is a zombie.
fn ended_but_not_reaped(pid: Pid) {
    use rustix::process::{waitid, WaitId, WaitIdOptions};
    let how = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    rustix::io::retry_on_intr(|| waitid(WaitId::Pid(pid), how)).unwrap();
}

#[test]
fn a_death_is_told_once_and_of_the_job_that_ran() {
    let _alone = Alone::new();
    let (mut jobs, pool) = (Jobs::new(), Pool::new(1).unwrap());
    hire(&mut jobs, &pool);
    let first = launch(&mut jobs, pool.try_take().unwrap(), "echo").unwrap();
    runner(&mut jobs, first);
    let second = launch(&mut jobs, pool.try_take().unwrap(), "exit").unwrap();
    let outcome = outcomes(&mut jobs, 1).remove(&second).unwrap();
    assert_eq!(death(&outcome), ExitStatus::Code(7));
    assert_eq!(pool.free().unwrap(), 1);
    drain(&mut jobs);
}

#[test]
fn a_new_process_that_is_gone_before_its_first_job_is_that_jobs_death() {
    let _alone = Alone::new();
    let (mut jobs, pool) = (Jobs::new(), Pool::new(1).unwrap());
    let pid = hire(&mut jobs, &pool);
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    ended_but_not_reaped(pid);
    let id = launch(&mut jobs, pool.try_take().unwrap(), "echo").unwrap();
    let outcome = outcomes(&mut jobs, 1).remove(&id).unwrap();
    assert_eq!(death(&outcome), ExitStatus::Signal(libc::SIGKILL));
    assert_eq!(pool.free().unwrap(), 1);
    drain(&mut jobs);
}

#[test]
fn a_process_whose_job_was_signalled_has_no_other_job() {
    let _alone = Alone::new();
    let (mut jobs, pool) = (Jobs::new(), Pool::new(1).unwrap());
    hire(&mut jobs, &pool);
    let id = launch(&mut jobs, None, "echo").unwrap();
    jobs.signal(id, Signal::CONT).unwrap(); // harmless, but it may arrive at any time
    runner(&mut jobs, id);
    assert_eq!(launch(&mut jobs, None, "echo"), None);
    drain(&mut jobs);
}

#[test]
fn a_signal_to_a_job_that_is_done_does_not_reach_the_next_on_its_process() {
    let _alone = Alone::new();
    let (mut jobs, pool) = (Jobs::new(), Pool::new(1).unwrap());
    hire(&mut jobs, &pool);
    let first = launch(&mut jobs, None, "echo").unwrap();
    runner(&mut jobs, first);
    jobs.signal(first, Signal::KILL).unwrap();
    assert!(jobs.family(first).is_none());
    let second = launch(&mut jobs, None, "echo").unwrap();
    jobs.signal(first, Signal::KILL).unwrap();
    runner(&mut jobs, second);
    dismiss(&mut jobs);
}

#[test]
fn who_leaves_takes_what_was_sent_and_refuses_what_comes_after() {
    let (owner, worker) = Channel::pair().unwrap();
    owner.send(LAUNCH, b"in time", &[]).unwrap();
    let frame = worker.stop_receiving().unwrap().unwrap();
    assert_eq!(frame.body.into_bytes().unwrap(), b"in time");
    assert!(owner.send(LAUNCH, b"too late", &[]).unwrap_err().is_hang_up());
    assert!(worker.stop_receiving().unwrap().is_none());
}

#[test]
fn who_waits_to_leave_hears_at_once_that_the_owner_is_gone() {
    let (owner, worker) = Channel::pair().unwrap();
    drop(owner);
    let for_ever = Instant::now() + Duration::from_secs(3600);
    assert_eq!(worker.wait_until(for_ever).unwrap(), Woken::Ready);
    assert!(worker.receive().unwrap().is_none());
}

#[test]
fn dismissed_processes_end_and_those_at_work_go_on() {
    let _alone = Alone::new();
    let (mut jobs, pool) = (Jobs::new(), Pool::new(1).unwrap());
    hire(&mut jobs, &pool);
    let at_work = launch(&mut jobs, None, "hang").unwrap();
    hire(&mut jobs, &pool);
    jobs.dismiss_idle();
    assert_eq!(jobs.idle(), 0);
    jobs.signal(at_work, Signal::KILL).unwrap();
    let outcome = outcomes(&mut jobs, 1).remove(&at_work).unwrap();
    assert!(matches!(outcome, Outcome::Ended(ExitStatus::Signal(libc::SIGKILL), _)));
    drain(&mut jobs);
}

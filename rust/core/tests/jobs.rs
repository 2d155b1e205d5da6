//! The owner's table: every end is reported once and exactly, and no wait misses one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::*;
use jobserver_core::owner::Look;
use jobserver_core::process::{has_children, wait_for_left, Kept};
use jobserver_core::wire::{memory_file, Head, INLINE};
use jobserver_core::{Channel, ErrorKind, ExitStatus, JobId, Jobs, Outcome, Pool, Woken};
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::{
    getpid, kill_process, setrlimit, waitid, Resource, Rlimit, Signal, WaitId, WaitIdOptions,
};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

fn send(channel: &Channel, body: &[u8]) {
    channel.send(RESULT, body, &[]).unwrap();
}

fn shell(line: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", line]);
    command
}

/// Makes a pipe by which a test lets jobs go on: each waits for its end of file.
fn gate() -> (File, File) {
    let (read, write) = pipe();
    (File::from(read), File::from(write))
}

/// In a job: waits until the test drops `open`.
fn pass(mut gate: &File, open: &mut Option<File>) {
    *open = None;
    gate.read_to_end(&mut Vec::new()).unwrap();
}

// Outcomes of jobs.

#[test]
fn a_result_is_told_once_and_then_the_process_is_reaped() {
    let _alone = Alone::new();
    let mut jobs = Jobs::new();
    for size in [0, 1, INLINE] {
        let id = start(&mut jobs, None, |channel| {
            send(&channel, &pattern(size));
            3
        });
        assert_eq!(jobs.outstanding(), 1);
        assert_eq!(result(outcomes(&mut jobs, 1).remove(&id).unwrap()), pattern(size));
        drain(&mut jobs);
    }
}

#[test]
fn a_result_in_a_memory_file_outlives_its_job() {
    let _alone = Alone::new();
    let mut jobs = Jobs::new();
    let body = pattern(3 * INLINE);
    let id = start(&mut jobs, None, |channel| {
        let mut file = File::from(memory_file().unwrap());
        file.write_all(&body).unwrap();
        channel.send_memory(RESULT, file.as_fd(), body.len() as u64, &[]).unwrap();
        0
    });
    let told = outcomes(&mut jobs, 1).remove(&id).unwrap();
    drain(&mut jobs);
    assert_eq!(result(told), body);
}

#[test]
fn every_exit_code_is_told_exactly() {
    let _alone = Alone::new();
    let mut jobs = Jobs::new();
    let codes: HashMap<JobId, i32> =
        (0..=255).map(|code| (start(&mut jobs, None, move |_| code), code)).collect();
    for (id, outcome) in outcomes(&mut jobs, codes.len()) {
        assert_eq!(death(&outcome), ExitStatus::Code(codes[&id]));
    }
    drain(&mut jobs);
}

#[test]
fn every_deadly_signal_is_told_exactly() {
    let _alone = Alone::new();
    let mut jobs = Jobs::new();
    let deadly = [
        libc::SIGKILL,
        libc::SIGSEGV,
        libc::SIGTERM,
        libc::SIGINT,
        libc::SIGABRT,
        libc::SIGBUS,
        libc::SIGHUP,
        libc::SIGXCPU,
    ];
    for number in deadly {
        let id = jobs.spawn(&mut shell(&format!("kill -{number} $$")), None).unwrap();
        let told = outcomes(&mut jobs, 1);
        assert_eq!(death(&told[&id]), ExitStatus::Signal(number));
    }
    drain(&mut jobs);
}

#[test]
#[cfg(target_os = "linux")]
fn a_real_time_signal_is_a_signal_and_no_other_number_is() {
    let _alone = Alone::new();
    for number in [i32::MIN, -1, 0, libc::SIGRTMAX() + 1, i32::MAX] {
        assert!(jobserver_core::platform::signal_from_raw(number).is_none());
    }
    let mut jobs = Jobs::new();
    let id = start(&mut jobs, None, |_| hang());
    jobs.signal(id, jobserver_core::platform::signal_from_raw(libc::SIGRTMAX()).unwrap()).unwrap();
    let told = outcomes(&mut jobs, 1);
    assert_eq!(death(&told[&id]), ExitStatus::Signal(libc::SIGRTMAX()));
}

#[test]
#[cfg(target_os = "linux")]
fn who_does_not_heed_a_time_limit_is_told_from_who_is_killed_before_it() {
    use jobserver_core::platform::{end_after, SignalsHeld};
    use std::time::Duration;
    let _alone = Alone::new();
    let heedless = |limit| {
        end_after(limit).unwrap();
        let _held = SignalsHeld::begin();
        hang()
    };
    let mut jobs = Jobs::new();
    let late = start(&mut jobs, None, |_| heedless(Duration::from_millis(1)));
    let killed = start(&mut jobs, None, |_| heedless(Duration::from_secs(1000)));
    jobs.signal(killed, Signal::KILL).unwrap();
    let told = outcomes(&mut jobs, 2);
    assert_eq!(death(&told[&late]), ExitStatus::Overdue(libc::SIGKILL));
    assert_eq!(death(&told[&killed]), ExitStatus::Signal(libc::SIGKILL));
}

#[test]
fn what_a_job_has_said_of_its_end_comes_with_its_death() {
    let _alone = Alone::new();
    let mut jobs = Jobs::new();
    let said = start(&mut jobs, None, |channel| {
        channel.send(Head::LastWords, b"no licence", &[]).unwrap();
        3
    });
    let silent = start(&mut jobs, None, |_| 4);
    let mut told = outcomes(&mut jobs, 2);
    match told.remove(&said).unwrap() {
        Outcome::Ended(ExitStatus::Code(3), Some(words)) => {
            assert_eq!(words.into_bytes().unwrap(), b"no licence");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(told[&silent], Outcome::Ended(ExitStatus::Code(4), None)));
    drain(&mut jobs);
}

#[test]
fn a_job_that_closes_its_channel_has_not_ended() {
    let _alone = Alone::new();
    let mut jobs = Jobs::new();
    let (gate, open) = gate();
    let mut open = Some(open);
    let (mut closed, tell) = self::gate();
    let id = start(&mut jobs, None, |channel| {
        drop(channel);
        (&tell).write_all(b".").unwrap();
        pass(&gate, &mut open);
        9
    });
    closed.read_exact(&mut [0]).unwrap();
    assert!(jobs.scan().unwrap().is_empty());
    assert_eq!(jobs.outstanding(), 1);
    drop(open);
    assert_eq!(death(&outcomes(&mut jobs, 1)[&id]), ExitStatus::Code(9));
}

#[test]
fn what_a_job_sent_before_it_was_killed_is_its_result() {
    let _alone = Alone::new();
    let mut jobs = Jobs::new();
    for _ in 0..10 {
        let (gate, open) = gate();
        let mut open = Some(open);
        let all: Vec<JobId> = (0..30)
            .map(|_| {
                start(&mut jobs, None, |channel| {
                    pass(&gate, &mut open);
                    send(&channel, b"done");
                    kill_process(getpid(), Signal::KILL).unwrap();
                    hang()
                })
            })
            .collect();
        drop(open);
        // There is no pause, so some jobs send and die in the middle of a scan.
        let (mut told, deadline) = (HashMap::new(), soon());
        while told.len() < all.len() {
            assert!(Instant::now() < deadline);
            told.extend(jobs.scan().unwrap().into_iter().map(|it| (it.id, it.outcome)));
        }
        for (_, outcome) in told {
            assert_eq!(result(outcome), b"done");
        }
        drain(&mut jobs);
    }
}

#[test]
fn a_frame_that_is_no_result_is_a_loss_that_says_so() {
    let _alone = Alone::new();
    let (pid, status) = (getpid(), ExitStatus::Code(0));
    let refused = Head::Refused { errno: 1 };
    for head in [LAUNCH, Head::Started { pid }, refused, Head::Exited { status }] {
        let mut jobs = Jobs::new();
        let id = start(&mut jobs, None, |channel| {
            channel.send(head, &[0; 8], &[]).unwrap();
            0
        });
        let told = outcomes(&mut jobs, 1);
        assert!(
            matches!(&told[&id], Outcome::Lost(e) if e.kind() == ErrorKind::Protocol),
            "{head:?}: {told:?}"
        );
        drain(&mut jobs);
    }
}

#[test]
fn a_second_result_is_not_told() {
    let _alone = Alone::new();
    let mut jobs = Jobs::new();
    let id = start(&mut jobs, None, |channel| {
        send(&channel, b"first");
        let _ = channel.send(RESULT, b"second", &[]);
        0
    });
    assert_eq!(result(outcomes(&mut jobs, 1).remove(&id).unwrap()), b"first");
    drain(&mut jobs);
}

#[test]
fn more_jobs_than_one_look_can_tell_of_are_all_told_of() {
    let _alone = Alone::new();
    let mut jobs = Jobs::new();
    let (gate, open) = gate();
    let mut open = Some(open);
    let ids: HashMap<JobId, usize> = (0..150usize)
        .map(|n| {
            let job = |channel: Channel| {
                pass(&gate, &mut open);
                send(&channel, &n.to_ne_bytes());
                0
            };
            (start(&mut jobs, None, job), n)
        })
        .collect();
    drop(open);
    let told = outcomes(&mut jobs, ids.len());
    assert_eq!(told.len(), ids.len());
    for (id, outcome) in told {
        assert_eq!(result(outcome), ids[&id].to_ne_bytes());
    }
    drain(&mut jobs);
}

#[test]
fn a_command_ends_with_its_exit_code_or_signal() {
    let _alone = Alone::new();
    let mut jobs = Jobs::new();
    let lines = [
        ("true", ExitStatus::Code(0)),
        ("exit 7", ExitStatus::Code(7)),
        ("kill -KILL $$", ExitStatus::Signal(libc::SIGKILL)),
        ("kill -TERM $$", ExitStatus::Signal(libc::SIGTERM)),
    ];
    let ids = lines.map(|(line, _)| jobs.spawn(&mut shell(line), None).unwrap());
    let told = outcomes(&mut jobs, lines.len());
    for (id, (line, status)) in ids.iter().zip(lines) {
        assert_eq!(death(&told[id]), status, "{line}");
    }
    drain(&mut jobs);
}

#[test]
fn a_command_that_cannot_start_is_an_error_and_its_slot_is_back() {
    let _alone = Alone::new();
    let pool = Pool::new(1).unwrap();
    let mut jobs = Jobs::new();
    let slot = pool.try_take().unwrap();
    let error = jobs.spawn(&mut Command::new("/no/such/program"), slot).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    assert_eq!((pool.free().unwrap(), jobs.outstanding()), (1, 0));
}

#[test]
fn a_child_that_somebody_else_reaped_has_ended_unknown() {
    let _alone = Alone::new();
    let mut jobs = Jobs::new();
    let id = start(&mut jobs, None, |_| 5);
    assert_eq!(ended(jobs.pid(id).unwrap()), ExitStatus::Code(5));
    assert_eq!(death(&outcomes(&mut jobs, 1)[&id]), ExitStatus::Unknown);
    assert_eq!(jobs.outstanding(), 0);
}

/// Forks a process with this pid, where the system allows that. Returns None if it did not succeed.
#[cfg(target_os = "linux")]
fn child_with_pid(
    pid: rustix::process::Pid,
    mut body: impl FnMut() -> i32,
) -> Option<rustix::process::Pid> {
    let before = (pid.as_raw_nonzero().get() - 1).to_string();
    for _ in 0..100 {
        std::fs::write("/proc/sys/kernel/ns_last_pid", &before).ok()?;
        let born = child(&mut body);
        if born == pid {
            return Some(born);
        }
        kill_process(born, Signal::KILL).unwrap(); // another process was forked in between
        ended(born);
    }
    None
}

#[test]
#[cfg(target_os = "linux")]
fn a_child_that_got_the_pid_of_another_is_not_taken_for_it() {
    let _alone = Alone::new();
    if portable() {
        return; // without pidfds the two cannot be told apart
    }
    // In a process of its own, which an alarm ends if the scan does not return.
    let owner = child(|| {
        let mut jobs = Jobs::new();
        let first = start(&mut jobs, None, |_| 5);
        let pid = jobs.pid(first).unwrap();
        ended(pid);
        let Some(second) = child_with_pid(pid, || hang()) else { return 0 };
        assert_eq!(death(&outcomes(&mut jobs, 1)[&first]), ExitStatus::Unknown);
        kill_process(second, Signal::KILL).unwrap();
        assert_eq!(ended(second), ExitStatus::Signal(libc::SIGKILL));
        0
    });
    assert_eq!(ended(owner), ExitStatus::Code(0));
}

#[test]
fn children_of_a_process_that_ignores_their_ends_have_ended_unknown() {
    let _alone = Alone::new();
    let ignorer = child(|| {
        ignore_ends_of_children();
        let mut jobs = Jobs::new();
        let silent = start(&mut jobs, None, |_| 5);
        let sender = start(&mut jobs, None, |channel| {
            send(&channel, b"sent");
            0
        });
        let mut told = outcomes(&mut jobs, 2);
        assert_eq!(death(&told[&silent]), ExitStatus::Unknown);
        assert_eq!(result(told.remove(&sender).unwrap()), b"sent");
        drain(&mut jobs);
        0
    });
    assert_eq!(ended(ignorer), ExitStatus::Code(0));
}

#[test]
#[cfg(target_os = "linux")]
fn a_dead_job_that_a_debugger_has_not_let_go_does_not_stall_the_scan() {
    let _alone = Alone::new();
    // In a process of its own, which an alarm ends if the scan does not return.
    let owner = child(|| {
        let mut jobs = Jobs::new();
        let id = start(&mut jobs, None, |_| hang());
        let job = jobs.pid(id).unwrap();
        let (mut attached, tell) = gate();
        let debugger = child(|| {
            (&tell).write_all(&[u8::from(trace(job))]).unwrap();
            hang()
        });
        let mut yes = [0];
        attached.read_exact(&mut yes).unwrap();
        jobs.signal(id, Signal::KILL).unwrap();
        if yes == [1] {
            wait_for_zombie(job);
            assert!(jobs.scan().unwrap().is_empty());
        }
        kill_process(debugger, Signal::KILL).unwrap();
        ended(debugger);
        assert_eq!(death(&outcomes(&mut jobs, 1)[&id]), ExitStatus::Signal(libc::SIGKILL));
        0
    });
    assert_eq!(ended(owner), ExitStatus::Code(0));
}

#[cfg(target_os = "linux")]
fn wait_for_zombie(pid: rustix::process::Pid) {
    let (stat, deadline) = (format!("/proc/{}/stat", pid.as_raw_nonzero()), soon());
    while !std::fs::read_to_string(&stat).unwrap().contains(") Z ") {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
}

// Slots.

#[test]
fn a_slot_is_back_with_the_result_though_the_process_lives_on() {
    let _alone = Alone::new();
    let pool = Pool::new(1).unwrap();
    let mut jobs = Jobs::new();
    let (gate, open) = gate();
    let mut open = Some(open);
    start(&mut jobs, pool.try_take().unwrap(), |channel| {
        send(&channel, b"");
        pass(&gate, &mut open);
        0
    });
    assert_eq!(pool.free().unwrap(), 0);
    outcomes(&mut jobs, 1);
    assert_eq!((pool.free().unwrap(), jobs.outstanding()), (1, 1));
    drop(open);
    drain(&mut jobs);
    assert_eq!(pool.free().unwrap(), 1);
}

#[test]
fn a_slot_is_back_with_every_kind_of_death() {
    let _alone = Alone::new();
    let pool = Pool::new(4).unwrap();
    let mut jobs = Jobs::new();
    let take = || pool.try_take().unwrap();
    let slots = [take(), take(), take(), take()];
    let [first, second, third, fourth] = slots;
    start(&mut jobs, first, |_| 0);
    start(&mut jobs, second, |_| kill_process(getpid(), Signal::KILL).map_or(1, |()| hang()));
    let reaped = start(&mut jobs, third, |_| 0);
    jobs.spawn(&mut Command::new("false"), fourth).unwrap();
    ended(jobs.pid(reaped).unwrap());
    outcomes(&mut jobs, 4);
    assert_eq!(pool.free().unwrap(), 4);
}

// Waiting.

#[test]
fn a_wait_ends_at_its_deadline() {
    let _alone = Alone::new();
    let mut jobs = Jobs::new();
    assert_eq!(jobs.wait(None, Some(Instant::now())).unwrap(), Woken::TimedOut);
    let id = start(&mut jobs, None, |_| hang());
    assert_eq!(jobs.wait(None, Some(Instant::now())).unwrap(), Woken::TimedOut);
    jobs.signal(id, Signal::KILL).unwrap();
    outcomes(&mut jobs, 1);
}

#[test]
fn a_wait_with_a_pool_ends_when_a_slot_is_free() {
    let _alone = Alone::new();
    let pool = Pool::new(1).unwrap();
    let mut jobs = Jobs::new();
    assert_eq!(jobs.wait(Some(&pool), None).unwrap(), Woken::Ready);
    let slot = pool.try_take().unwrap();
    assert_eq!(jobs.wait(Some(&pool), Some(Instant::now())).unwrap(), Woken::TimedOut);
    std::thread::scope(|scope| {
        scope.spawn(move || drop(slot));
        assert_eq!(jobs.wait(Some(&pool), Some(soon())).unwrap(), Woken::Ready);
    });
}

#[test]
fn a_wait_ends_when_a_job_does() {
    let _alone = Alone::new();
    let pool = Pool::new(1).unwrap();
    let _slot = pool.try_take().unwrap();
    let mut jobs = Jobs::new();
    for _ in 0..50 {
        jobs.spawn(&mut Command::new("true"), None).unwrap();
        while jobs.scan().unwrap().is_empty() {
            assert_eq!(jobs.wait(Some(&pool), Some(soon())).unwrap(), Woken::Ready);
        }
    }
}

#[test]
fn a_signal_interrupts_a_wait() {
    let _alone = Alone::new();
    let (mut jobs, done) = (Jobs::new(), AtomicBool::new(false));
    let waiter = Interruptible::this_thread();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                waiter.interrupt();
                std::thread::yield_now();
            }
        });
        let woken = jobs.wait(None, Some(soon()));
        done.store(true, Ordering::SeqCst);
        assert_eq!(woken.unwrap(), Woken::Interrupted);
    });
}

#[test]
fn signals_cost_no_outcome_and_no_slot() {
    let _alone = Alone::new();
    let (pool, mut jobs, done) = (Pool::new(2).unwrap(), Jobs::new(), AtomicBool::new(false));
    let waiter = Interruptible::this_thread();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                waiter.interrupt();
                std::thread::yield_now();
            }
        });
        for n in 0..100u8 {
            let slot = pool.try_take().unwrap();
            assert!(slot.is_some());
            let id = start(&mut jobs, slot, |channel| {
                send(&channel, &[n]);
                0
            });
            let told = outcomes(&mut jobs, 1).remove(&id);
            assert_eq!(result(told.unwrap()), [n]);
        }
        drain(&mut jobs);
        done.store(true, Ordering::SeqCst);
    });
    assert_eq!(pool.free().unwrap(), 2);
}

#[test]
fn nothing_is_waited_for_when_an_outcome_has_been_told_meanwhile() {
    let _alone = Alone::new();
    let mut jobs = Jobs::new();
    let look = jobs.look();
    jobs.spawn(&mut Command::new("true"), None).unwrap();
    outcomes(&mut jobs, 1);
    assert_ne!(jobs.look(), look);
    assert!(jobs.begin_wait(look, None).unwrap().is_none());
    let waiting = jobs.begin_wait(jobs.look(), None).unwrap().unwrap();
    assert_eq!(waiting.block(Some(Instant::now())).unwrap(), Woken::TimedOut);
    jobs.end_wait(waiting);
}

#[test]
fn a_wait_ends_when_another_thread_takes_the_news() {
    let _alone = Alone::new();
    let mut jobs = Jobs::new();
    jobs.spawn(&mut Command::new("true"), None).unwrap();
    let waiting = jobs.begin_wait(jobs.look(), None).unwrap().unwrap();
    outcomes(&mut jobs, 1);
    // The set is silent by now, so only the bell can end this wait.
    assert_eq!(waiting.block(Some(soon())).unwrap(), Woken::Ready);
    jobs.end_wait(waiting);
}

#[test]
fn a_bell_rung_for_one_wait_does_not_end_the_next() {
    let _alone = Alone::new();
    let mut jobs = Jobs::new();
    jobs.spawn(&mut Command::new("true"), None).unwrap();
    let rung = jobs.begin_wait(jobs.look(), None).unwrap().unwrap();
    outcomes(&mut jobs, 1);
    jobs.end_wait(rung);
    assert_eq!(jobs.wait(None, Some(Instant::now())).unwrap(), Woken::TimedOut);
}

#[test]
fn a_wait_begun_before_the_first_job_was_started_ends_with_it() {
    let _alone = Alone::new();
    let mut jobs = Jobs::new();
    let waiting = jobs.begin_wait(jobs.look(), None).unwrap().unwrap();
    jobs.spawn(&mut Command::new("true"), None).unwrap();
    let woken = waiting.block(Some(soon())).unwrap();
    jobs.end_wait(waiting);
    outcomes(&mut jobs, 1);
    assert_eq!(woken, Woken::Ready);
}

#[test]
fn a_wait_for_the_last_process_ends_when_another_thread_reaps_it() {
    let _alone = Alone::new();
    let mut jobs = Jobs::new();
    let (gate, open) = gate();
    let mut open = Some(open);
    start(&mut jobs, None, |channel| {
        send(&channel, b"");
        pass(&gate, &mut open);
        0
    });
    outcomes(&mut jobs, 1);
    // One thread waits until no job is outstanding; another scans, and reaps.
    let waiting = jobs.begin_wait(jobs.look(), None).unwrap().unwrap();
    drop(open);
    drain(&mut jobs);
    let woken = waiting.block(Some(soon())).unwrap();
    jobs.end_wait(waiting);
    assert_eq!(woken, Woken::Ready);
}

/// The state that the threads share: the table, and the outcomes that one thread has seen and
/// another waits for.
#[derive(Default)]
struct Shared {
    jobs: Jobs,
    told: HashMap<JobId, Outcome>,
}

impl Shared {
    fn scan(&mut self) -> Look {
        let finished = self.jobs.scan().unwrap();
        self.told.extend(finished.into_iter().map(|it| (it.id, it.outcome)));
        self.jobs.look()
    }
}

fn wait_until_rung(shared: &Mutex<Shared>, look: Look, pool: Option<&Pool>) {
    let begun =
        shared.lock().unwrap().jobs.begin_wait(look, pool.map(Pool::compete).as_mut()).unwrap();
    let Some(waiting) = begun else { return };
    let woken = waiting.block(Some(soon())).unwrap();
    shared.lock().unwrap().jobs.end_wait(waiting);
    assert_ne!(woken, Woken::TimedOut, "a wake-up was lost");
}

/// Starts a job as soon as there is a slot for it.
fn submit(shared: &Mutex<Shared>, pool: &Pool, number: u32) -> JobId {
    loop {
        let handled = {
            let mut shared = shared.lock().unwrap();
            let handled = shared.scan();
            if let Some(slot) = pool.try_take().unwrap() {
                return start(&mut shared.jobs, Some(slot), |channel| {
                    send(&channel, &number.to_ne_bytes());
                    0
                });
            }
            handled
        };
        wait_until_rung(shared, handled, Some(pool));
    }
}

fn result_of(shared: &Mutex<Shared>, id: JobId) -> Vec<u8> {
    loop {
        let handled = {
            let mut shared = shared.lock().unwrap();
            let handled = shared.scan();
            if let Some(outcome) = shared.told.remove(&id) {
                return result(outcome);
            }
            handled
        };
        wait_until_rung(shared, handled, None);
    }
}

#[test]
fn threads_that_share_a_table_all_get_their_results() {
    let _alone = Alone::new();
    let (pool, shared) = (Pool::new(2).unwrap(), Mutex::new(Shared::default()));
    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            let (pool, shared) = (&pool, &shared);
            scope.spawn(move || {
                for n in 0..25 {
                    let number = thread << 8 | n;
                    let id = submit(shared, pool, number);
                    assert_eq!(result_of(shared, id), number.to_ne_bytes());
                }
            });
        }
    });
    drain(&mut shared.lock().unwrap().jobs);
    assert_eq!(pool.free().unwrap(), 2);
}

// Signalling, giving up, forking.

#[test]
fn a_signal_to_a_job_that_has_ended_is_harmless() {
    let _alone = Alone::new();
    let mut jobs = Jobs::new();
    let id = start(&mut jobs, None, |_| 0);
    assert!(jobs.pid(id).is_some());
    outcomes(&mut jobs, 1);
    assert_eq!(jobs.pid(id), None);
    jobs.signal(id, Signal::KILL).unwrap();
}

#[test]
fn an_abandoned_table_leaves_nothing_in_the_child_and_all_in_the_parent() {
    let _alone = Alone::new();
    let pool = Pool::new(3).unwrap();
    let [(go, mut may_go), (end, mut may_end)] =
        [gate(), gate()].map(|(gate, open)| (gate, Some(open)));
    let before = descriptors();
    let mut jobs = Jobs::new();
    let ids = [1u8, 2, 3].map(|n| {
        let job = |channel: Channel| {
            may_end = None;
            pass(&go, &mut may_go);
            send(&channel, &[n]);
            pass(&end, &mut may_end);
            0
        };
        (start(&mut jobs, pool.try_take().unwrap(), job), [n])
    });
    let forked = child(|| {
        jobs.abandon();
        assert_eq!((descriptors(), jobs.outstanding()), (before, 0));
        assert_eq!(pool.free().unwrap(), 0, "the slots are the parent's");
        let own = jobs.spawn(&mut shell("exit 4"), None).unwrap();
        assert_eq!(death(&outcomes(&mut jobs, 1)[&own]), ExitStatus::Code(4));
        0
    });
    assert_eq!(ended(forked), ExitStatus::Code(0));
    drop(may_go);
    // Only their channels report them: the jobs do not end yet.
    let mut told = outcomes(&mut jobs, 3);
    for (id, body) in ids {
        assert_eq!(result(told.remove(&id).unwrap()), body);
    }
    drop(may_end);
    drain(&mut jobs);
    assert_eq!(pool.free().unwrap(), 3);
}

/// Two jobs, of which the first has sent its result. Its process ends once the first gate is open,
/// and the other job once the second is.
fn one_done_one_running(jobs: &mut Jobs) -> (JobId, [File; 2]) {
    let [(done, may_end), (running, may_finish)] = [gate(), gate()];
    let mut inherited = [Some(may_end), Some(may_finish)];
    let id = start(jobs, None, |channel| {
        inherited[1] = None;
        send(&channel, b"done");
        pass(&done, &mut inherited[0]);
        0
    });
    start(jobs, None, |channel| {
        inherited[0] = None;
        pass(&running, &mut inherited[1]);
        send(&channel, b"done");
        0
    });
    assert!(outcomes(jobs, 1).contains_key(&id));
    (id, inherited.map(Option::unwrap))
}

#[test]
fn the_exit_of_a_job_that_has_sent_its_result_does_not_wake_an_owner_that_waits_for_another() {
    let _alone = Alone::new();
    let begun = Instant::now();
    let mut jobs = Jobs::new();
    let (done, [may_end, may_finish]) = one_done_one_running(&mut jobs);
    let pid = jobs.pid(done).unwrap();
    drop(may_end);
    waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
    let woken = jobs.wait(None, Some(Instant::now())).unwrap();
    // (On a machine that is so slow, the owner has looked at all exits.)
    assert!(woken == Woken::TimedOut || begun.elapsed() > Duration::from_millis(900));
    jobs.scan().unwrap();
    assert_eq!(jobs.outstanding(), 1, "each scan reaps what has ended");
    drop(may_finish);
    outcomes(&mut jobs, 1);
    drain(&mut jobs);
}

#[test]
fn an_owner_that_waits_for_exits_only_is_woken_by_them() {
    let _alone = Alone::new();
    let mut jobs = Jobs::new();
    // Otherwise each of these exits would be found a second late, by the look at all exits.
    let deadline = Instant::now() + Duration::from_secs(15);
    for _ in 0..30 {
        let (gate, may_end) = gate();
        let mut inherited = Some(may_end);
        start(&mut jobs, None, |channel| {
            send(&channel, b"done");
            pass(&gate, &mut inherited);
            0
        });
        outcomes(&mut jobs, 1);
        drop(inherited);
        drain(&mut jobs);
    }
    assert!(Instant::now() < deadline);
}

#[test]
fn such_a_process_is_reaped_also_while_nothing_else_happens() {
    let _alone = Alone::new();
    let mut jobs = Jobs::new();
    let (_, [may_end, may_finish]) = one_done_one_running(&mut jobs);
    // It is still there when the owner looks at all exits: from then on its exit wakes the owner.
    assert_eq!(jobs.wait(None, Some(soon())).unwrap(), Woken::Ready);
    jobs.scan().unwrap();
    assert_eq!(jobs.outstanding(), 2);
    let deadline = soon();
    assert_eq!(jobs.wait(None, Some(Instant::now())).unwrap(), Woken::TimedOut);
    drop(may_end);
    while jobs.outstanding() == 2 {
        assert_eq!(jobs.wait(None, Some(deadline)).unwrap(), Woken::Ready);
        jobs.scan().unwrap();
    }
    drop(may_finish);
    outcomes(&mut jobs, 1);
    drain(&mut jobs);
}

#[test]
fn a_fork_that_abandons_late_or_never_does_not_disturb_its_parent() {
    let _alone = Alone::new();
    let mut jobs = Jobs::new();
    let id = start(&mut jobs, None, |channel| {
        let _ = channel.receive();
        send(&channel, b"sent");
        0
    });
    // The fork holds copies of the channel, the pidfd and the set for as long as it lives.
    let forked = child(|| hang());
    jobs.channel(id).unwrap().send(LAUNCH, b"", &[]).unwrap();
    assert_eq!(result(outcomes(&mut jobs, 1).remove(&id).unwrap()), b"sent");
    drain(&mut jobs);
    let next = jobs.spawn(&mut Command::new("true"), None).unwrap();
    assert_eq!(death(&outcomes(&mut jobs, 1)[&next]), ExitStatus::Code(0));
    assert_eq!(jobs.wait(None, Some(Instant::now())).unwrap(), Woken::TimedOut);
    kill_process(forked, Signal::KILL).unwrap();
    ended(forked);
}

// Descriptors run out.

/// Leaves this process room for `spare` more descriptors.
fn only(spare: usize) -> Vec<OwnedFd> {
    let limit = Rlimit { current: Some(200), maximum: Some(200) };
    setrlimit(Resource::Nofile, limit).unwrap();
    let (first, second) = pipe();
    let mut fill: Vec<OwnedFd> = std::iter::from_fn(|| first.try_clone().ok()).collect();
    fill.extend([first, second]);
    fill.truncate(fill.len() - spare);
    fill
}

#[test]
fn at_the_limit_of_descriptors_a_launch_fails_and_nothing_else_does() {
    let _alone = Alone::new();
    let owner = child(|| {
        let pool = Pool::new(100).unwrap();
        let mut jobs = Jobs::new();
        jobs.spawn(&mut Command::new("true"), pool.try_take().unwrap()).unwrap();
        outcomes(&mut jobs, 1);
        let fill = only(20);
        let mut started = 0;
        let error = loop {
            let slot = pool.try_take().unwrap();
            match Channel::pair() {
                Err(error) => break error,
                Ok(launch) => drop(launch),
            }
            start(&mut jobs, slot, |channel| {
                send(&channel, b"sent");
                0
            });
            started += 1;
        };
        assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
        assert!(error.to_string().contains("ulimit -n"), "{error}");
        for (_, outcome) in outcomes(&mut jobs, started) {
            assert_eq!(result(outcome), b"sent");
        }
        drain(&mut jobs);
        assert!(started > 0);
        assert_eq!(pool.free().unwrap(), 100);
        drop(fill);
        0
    });
    assert_eq!(ended(owner), ExitStatus::Code(0));
}

#[test]
fn at_the_limit_of_descriptors_what_runs_can_still_be_waited_for() {
    let _alone = Alone::new();
    let owner = child(|| {
        let mut jobs = Jobs::new();
        jobs.spawn(&mut Command::new("true"), None).unwrap();
        let fill = only(0);
        outcomes(&mut jobs, 1);
        let waiting = jobs.begin_wait(jobs.look(), None).unwrap().unwrap();
        jobs.end_wait(waiting);
        drop(fill);
        0
    });
    assert_eq!(ended(owner), ExitStatus::Code(0));
}

#[test]
fn an_end_is_noticed_though_no_descriptor_is_left_to_watch_it_by() {
    let _alone = Alone::new();
    let owner = child(|| {
        let mut jobs = Jobs::new();
        jobs.spawn(&mut Command::new("true"), None).unwrap();
        outcomes(&mut jobs, 1);
        jobs.wait(None, Some(Instant::now())).unwrap();
        let fill = only(0);
        let pid = child(|| 6);
        let launch = || Channel::pair().map(drop).unwrap_err().raw_os_error();
        assert_eq!(launch(), Some(libc::EMFILE));
        drop(fill);
        let (owner_end, job_end) = Channel::pair().unwrap();
        drop(job_end);
        let fill = only(0);
        let watched = jobserver_core::Child::adopt(pid);
        let id = jobs.started(owner_end, watched, None, || ()).unwrap().id;
        assert_eq!(death(&outcomes(&mut jobs, 1)[&id]), ExitStatus::Code(6));
        drop(fill);
        0
    });
    assert_eq!(ended(owner), ExitStatus::Code(0));
}

// An owner that is dropped while its jobs run.

#[test]
fn jobs_that_are_left_go_on_to_their_ends_with_what_is_kept_for_them() {
    let _alone = Alone::new();
    let (gate, open) = gate();
    let mut jobs = Jobs::new();
    jobs.spawn(Command::new("cat").stdin(gate), None).unwrap();
    jobs.spawn(&mut Command::new("true"), None).unwrap();
    let kept: Kept = Arc::new(());
    jobs.let_run_on(&kept);
    drop(jobs);
    assert!(Arc::strong_count(&kept) > 1);
    assert!(has_children());
    drop(open);
    while !wait_for_left().unwrap() {}
    assert_eq!(Arc::strong_count(&kept), 1);
}

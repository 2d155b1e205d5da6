//! The warden: when a program that has joined a pool of others is killed with all that is below it,
//! the tokens that they held come back to the pipe.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{child, ended, finish, fork, hang, pipe, soon, Alone};
use jobserver_core::platform::Forked;
use jobserver_core::process::Pid;
use jobserver_core::slots::Adopted;
use jobserver_core::slots::Auth;
use jobserver_core::{Pool, Slot};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::process::{kill_process_group, setpgid, Signal};
use std::time::Instant;

/// A program in a process group of its own, that says by the pipe when it has come so far; and which
/// then waits for its kill.
fn program(ready: &OwnedFd, body: impl FnOnce()) -> Pid {
    child(|| {
        setpgid(None, None).unwrap();
        body();
        rustix::io::write(ready, b"!").unwrap();
        hang()
    })
}

/// Waits until there is something to read, or the last writer is gone.
fn wait_for(read: &OwnedFd, deadline: Instant) {
    let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).unwrap();
    let mut fds = [PollFd::new(read, PollFlags::IN)];
    assert_eq!(poll(&mut fds, Some(&left)).unwrap(), 1, "nothing comes");
}

fn wait_for_ready((read, write): (OwnedFd, OwnedFd)) {
    wait_for(&read, soon());
    drop(write);
    assert_eq!(rustix::io::read(&read, &mut [0]).unwrap(), 1);
}

/// All tokens that are in the pipe when the last process that could put one back is gone, in order.
fn tokens_in_the_end(read: &OwnedFd) -> Vec<u8> {
    let (mut tokens, deadline) = (Vec::new(), soon());
    loop {
        wait_for(read, deadline);
        let mut some = [0; 16];
        match rustix::io::read(read, &mut some).unwrap() {
            0 => break,
            count => tokens.extend_from_slice(&some[..count]),
        }
    }
    tokens.sort_unstable();
    tokens
}

/// Kills a program with all that is below it, once it is ready. Returns the tokens that are in the
/// end in the pipe of the pool that it has joined.
fn tokens_after_the_kill(
    program: Pid,
    ready: (OwnedFd, OwnedFd),
    (read, write): (OwnedFd, OwnedFd),
) -> Vec<u8> {
    wait_for_ready(ready);
    kill_process_group(program, Signal::KILL).unwrap();
    ended(program);
    drop(write);
    tokens_in_the_end(&read)
}

fn take_all(pool: &Pool) -> Vec<Slot> {
    std::iter::from_fn(|| pool.try_take().unwrap()).collect()
}

#[test]
fn the_tokens_of_a_program_that_is_killed_come_back() {
    let _alone = Alone::new();
    let ((read, write), ready) = (pipe(), pipe());
    rustix::io::write(&write, b"abc").unwrap();
    let program = program(&ready.1, || {
        let ends = [&read, &write].map(|end| end.try_clone().unwrap());
        let [read, write] = ends;
        let pool = Pool::join(read, write, 3).unwrap();
        let taken = [(); 2].map(|()| pool.try_take().unwrap().unwrap());
        std::mem::forget((pool, taken));
    });
    assert_eq!(tokens_after_the_kill(program, ready, (read, write)), b"abc");
}

#[test]
fn the_tokens_of_a_program_and_its_jobs_that_are_killed_at_once_come_back() {
    let _alone = Alone::new();
    let ((read, write), ready) = (pipe(), pipe());
    rustix::io::write(&write, b"abc").unwrap();
    let auth = Auth::Pipe { read: read.as_raw_fd(), write: write.as_raw_fd() };
    let program = program(&ready.1, || {
        let pool = Pool::join_in_force(&auth, Some(4)).unwrap();
        let taken = take_all(&pool);
        assert_eq!(taken.len(), 4);
        let (adopted, say) = pipe();
        for slot in &taken[..2] {
            slot.launch();
            let Forked::Child = fork().unwrap() else { continue };
            finish(|| {
                let Adopted::Slot(_slot) = pool.adopt_slot(slot.assignment()).unwrap() else {
                    return 1;
                };
                rustix::io::write(&say, b"!").unwrap();
                hang()
            });
        }
        for _ in 0..2 {
            assert_eq!(rustix::io::read(&adopted, &mut [0]).unwrap(), 1);
        }
        std::mem::forget((pool, taken));
    });
    assert_eq!(tokens_after_the_kill(program, ready, (read, write)), b"abc");
}

#[test]
fn the_slot_that_the_program_was_started_on_is_no_token() {
    let _alone = Alone::new();
    let ((read, write), ready) = (pipe(), pipe());
    let auth = Auth::Pipe { read: read.as_raw_fd(), write: write.as_raw_fd() };
    let program = program(&ready.1, || {
        let pool = Pool::join_in_force(&auth, Some(1)).unwrap();
        let slot = pool.try_take().unwrap().unwrap();
        std::mem::forget((pool, slot));
    });
    assert_eq!(tokens_after_the_kill(program, ready, (read, write)), b"");
}

#[test]
fn the_warden_of_a_program_that_ends_by_itself_ends_too() {
    let _alone = Alone::new();
    let (read, write) = pipe();
    rustix::io::write(&write, b"ab").unwrap();
    let auth = Auth::Pipe { read: read.as_raw_fd(), write: write.as_raw_fd() };
    let program = child(|| {
        let pool = Pool::join_in_force(&auth, Some(3)).unwrap();
        drop(take_all(&pool));
        0
    });
    assert_eq!(ended(program), jobserver_core::ExitStatus::Code(0));
    drop(write);
    assert_eq!(tokens_in_the_end(&read), b"ab");
}

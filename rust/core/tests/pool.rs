//! The pool: a token is never lost and never duplicated, whichever process takes, drops and forks.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{another_process, child, ended, has_role, pipe, Alone};
use jobserver_core::slots::MAX_SLOTS;
use jobserver_core::{platform, ErrorKind, ExitStatus, Pool, Slot};
use proptest::prelude::*;
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
#[cfg(target_os = "linux")]
use rustix::fs::{fcntl_getfl, OFlags};
use std::io::{Read, Write};
use std::process::Stdio;

const ENDED_WELL: ExitStatus = ExitStatus::Code(0);

/// Makes a pool whose tokens differ, and returns the read end of its pipe too, still blocking.
fn pool_of_distinct_tokens(slots: u8) -> (Pool, OwnedFd) {
    let (read, write) = pipe();
    rustix::io::write(&write, &(0..slots).collect::<Vec<u8>>()).unwrap();
    let keep = read.try_clone().unwrap();
    (Pool::join(read, write, usize::from(slots)).unwrap(), keep)
}

/// Reads all tokens in the pipe, in ascending order.
fn tokens(read: &OwnedFd) -> Vec<u8> {
    let mut tokens = [0; 256];
    let count = rustix::io::read(read, &mut tokens).unwrap();
    let mut tokens = tokens[..count].to_vec();
    tokens.sort_unstable();
    tokens
}

#[test]
fn a_pool_has_as_many_slots_as_asked_for() {
    let _alone = Alone::new();
    let pool = Pool::new(3).unwrap();
    let held: Vec<Slot> = std::iter::from_fn(|| pool.try_take().unwrap()).collect();
    assert_eq!((held.len(), pool.slots(), pool.free().unwrap()), (3, 3, 0));
    drop(held);
    assert_eq!(pool.free().unwrap(), 3);
}

#[test]
fn a_pool_of_no_slots_or_too_many_is_refused() {
    let _alone = Alone::new();
    for slots in [0, MAX_SLOTS + 1, usize::MAX] {
        let error = Pool::new(slots).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(&MAX_SLOTS.to_string()), "{error}");
    }
}

#[test]
fn the_largest_pool_never_blocks_its_users() {
    let _alone = Alone::new();
    let pool = Pool::new(MAX_SLOTS).unwrap();
    assert_eq!(pool.free().unwrap(), MAX_SLOTS);
    // Taking one slot at a time moves the contents through the pipe's pages. At no page boundary
    // may the pipe seem full to the giver.
    for _ in 0..2 * MAX_SLOTS {
        drop(pool.try_take().unwrap().unwrap());
    }
    let all: Vec<Slot> = std::iter::from_fn(|| pool.try_take().unwrap()).collect();
    assert_eq!(all.len(), MAX_SLOTS);
    drop(all);
    assert_eq!(pool.free().unwrap(), MAX_SLOTS);
}

#[test]
fn a_slot_keeps_its_token() {
    let _alone = Alone::new();
    let (pool, keep) = pool_of_distinct_tokens(5);
    let mut held: Vec<Slot> = std::iter::from_fn(|| pool.try_take().unwrap()).collect();
    held.reverse();
    drop(held);
    assert_eq!(tokens(&keep), [0, 1, 2, 3, 4]);
}

#[test]
fn a_slot_copied_by_a_fork_is_inert() {
    let _alone = Alone::new();
    let (pool, keep) = pool_of_distinct_tokens(1);
    let mut slot = pool.try_take().unwrap();
    assert!(slot.is_some());
    let copied = child(|| {
        slot = None;
        i32::from(pool.free().unwrap() != 0)
    });
    assert_eq!(ended(copied), ENDED_WELL);
    assert_eq!(pool.free().unwrap(), 0);
    drop(slot);
    assert_eq!(tokens(&keep), [0]);
}

#[derive(Debug, Clone)]
enum Step {
    Take,
    Drop(prop::sample::Index),
    /// A forked process drops its copies of all held slots, takes up to `take` slots of its own,
    /// and drops those.
    Fork {
        take: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Take),
        3 => any::<prop::sample::Index>().prop_map(Step::Drop),
        1 => (0..5usize).prop_map(|take| Step::Fork { take }),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn tokens_are_neither_lost_nor_duplicated(slots in 1..8u8, steps in steps()) {
        let _alone = Alone::new();
        let (pool, keep) = pool_of_distinct_tokens(slots);
        let mut held = Vec::new();
        for step in steps {
            match step {
                Step::Take => {
                    let free = pool.free().unwrap();
                    let slot = pool.try_take().unwrap();
                    prop_assert_eq!(slot.is_some(), free > 0);
                    held.extend(slot);
                }
                Step::Drop(which) if !held.is_empty() => drop(held.swap_remove(which.index(held.len()))),
                Step::Drop(_) => {}
                Step::Fork { take } => {
                    let expected = take.min(pool.free().unwrap());
                    let mut copies = std::mem::take(&mut held);
                    let forked = child(|| {
                        copies.clear();
                        let own: Vec<Slot> =
                            (0..take).map_while(|_| pool.try_take().unwrap()).collect();
                        i32::from(own.len() != expected)
                    });
                    held = copies;
                    prop_assert_eq!(ended(forked), ENDED_WELL);
                }
            }
            prop_assert_eq!(pool.free().unwrap() + held.len(), usize::from(slots));
        }
        drop(held);
        prop_assert_eq!(tokens(&keep), (0..slots).collect::<Vec<_>>());
    }
}

#[test]
fn processes_that_contend_for_slots_leave_every_token() {
    let _alone = Alone::new();
    let (pool, keep) = pool_of_distinct_tokens(3);
    let contend = || {
        let mut taken = 0;
        while taken < 2000 {
            let held = [pool.try_take().unwrap(), pool.try_take().unwrap()];
            taken += held.iter().flatten().count();
        }
        0
    };
    let children: Vec<_> = (0..6).map(|_| child(contend)).collect();
    for pid in children {
        assert_eq!(ended(pid), ENDED_WELL);
    }
    assert_eq!(tokens(&keep), [0, 1, 2]);
}

#[test]
fn threads_that_contend_for_slots_leave_every_token() {
    let _alone = Alone::new();
    let (pool, keep) = pool_of_distinct_tokens(3);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut taken = 0;
                while taken < 2000 {
                    taken += usize::from(pool.try_take().unwrap().is_some());
                }
            });
        }
    });
    assert_eq!(tokens(&keep), [0, 1, 2]);
}

/// The other process of the next test: joins, takes a slot, reports that, and gives the slot back
/// on request.
#[test]
fn joiner() {
    if !has_role("joiner") {
        return;
    }
    let fd = |name: &str| {
        let number = std::env::var(name).unwrap().parse().unwrap();
        platform::duplicate(number).unwrap()
    };
    let pool = Pool::join(fd("POOL_READ").into(), fd("POOL_WRITE").into(), 2).unwrap();
    let slot = pool.try_take().unwrap();
    assert!(slot.is_some());
    std::io::stderr().write_all(b"t").unwrap();
    std::io::stdin().read_exact(&mut [0]).unwrap();
    drop(slot);
}

#[test]
fn another_program_joins_by_the_two_descriptors() {
    let _alone = Alone::new();
    let pool = Pool::new(2).unwrap();
    let (read, write) = (inheritable(pool.read_end()), inheritable(pool.write_end()));
    let mut other = another_process("joiner")
        .env("POOL_READ", read.as_raw_fd().to_string())
        .env("POOL_WRITE", write.as_raw_fd().to_string())
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0];
    other.stderr.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_eq!((&said, pool.free().unwrap()), (b"t", 1));
    other.stdin.take().unwrap().write_all(b"!").unwrap();
    assert!(other.wait_with_output().unwrap().status.success());
    assert_eq!(pool.free().unwrap(), 2);
}

fn inheritable(fd: impl AsFd) -> OwnedFd {
    let fd = fd.as_fd().try_clone_to_owned().unwrap();
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty()).unwrap();
    fd
}

#[test]
#[cfg(target_os = "linux")]
fn joining_leaves_the_shared_read_end_blocking() {
    let _alone = Alone::new();
    let (pool, keep) = pool_of_distinct_tokens(1);
    assert!(fcntl_getfl(pool.read_end()).unwrap().contains(OFlags::NONBLOCK));
    assert!(!fcntl_getfl(&keep).unwrap().contains(OFlags::NONBLOCK));
    assert!(!fcntl_getfl(pool.write_end()).unwrap().contains(OFlags::NONBLOCK));
}

#[test]
fn an_empty_pool_is_not_readable_and_a_free_slot_makes_it_so() {
    use rustix::event::{poll, PollFd, PollFlags, Timespec};
    let _alone = Alone::new();
    let pool = Pool::new(1).unwrap();
    let readable = || {
        let mut fds = [PollFd::from_borrowed_fd(pool.read_end(), PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
    };
    assert!(readable());
    let slot = pool.try_take().unwrap();
    assert!(!readable());
    drop(slot);
    assert!(readable());
}

#[test]
fn a_pool_whose_ends_are_exchanged_is_refused() {
    let _alone = Alone::new();
    let (read, write) = pipe();
    rustix::io::write(&write, b"+").unwrap();
    let joined = Pool::join(write, read, 1);
    assert_eq!(joined.unwrap_err().kind(), ErrorKind::InvalidInput);
}

/// The other process of the next test. The kernel makes pipes smaller for a user that has too many.
#[test]
#[cfg(target_os = "linux")]
fn user_of_many_pipes() {
    if !has_role("user_of_many_pipes") {
        return;
    }
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let mut pipes = Vec::new();
    loop {
        let Ok(pipe) = rustix::pipe::pipe() else { return };
        if rustix::pipe::fcntl_getpipe_size(&pipe.0).unwrap() < 16 * 4096 {
            break;
        }
        pipes.push(pipe);
    }
    let pid = child(|| match Pool::new(MAX_SLOTS) {
        Err(error) => i32::from(error.kind() != ErrorKind::System),
        Ok(pool) => i32::from(pool.free().unwrap() != MAX_SLOTS),
    });
    assert_eq!(ended(pid), ENDED_WELL);
}

#[test]
#[cfg(target_os = "linux")]
fn a_pool_too_large_for_a_small_pipe_is_refused_and_does_not_block() {
    use std::os::unix::process::CommandExt;
    let _alone = Alone::new();
    let mut command = another_process("user_of_many_pipes");
    if rustix::process::geteuid().is_root() {
        command.uid(65534); // the limit does not apply to root
    }
    assert!(command.status().unwrap().success());
}

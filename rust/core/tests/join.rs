//! Joining: what the environment says of a pool, and the pool that it names, or an error.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{child, ended, pipe, Alone};
use jobserver_core::make::{InForce, NotJoined};
use jobserver_core::slots::Auth;
use jobserver_core::slots::Style;
use jobserver_core::{ErrorKind, ExitStatus, Pool, Slot};
use rustix::fd::{AsRawFd, OwnedFd, RawFd};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A folder of a test, which its drop removes.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let folder = std::env::temp_dir().join(format!("join-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        Folder(folder)
    }

    /// A fifo with so many tokens, as long as what is returned is open.
    fn fifo(&self, tokens: usize) -> (PathBuf, std::fs::File) {
        let path = self.0.join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let both = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        rustix::io::write(&both, &vec![b'+'; tokens]).unwrap();
        (path, both)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn fifo(path: &str) -> Auth {
    Auth::Fifo(path.into())
}

fn ends(read: RawFd, write: RawFd) -> Auth {
    Auth::Pipe { read, write }
}

fn of_pipe(read: &OwnedFd, write: &OwnedFd) -> Auth {
    ends(read.as_raw_fd(), write.as_raw_fd())
}

fn take_all(pool: &Pool) -> Vec<Slot> {
    std::iter::from_fn(|| pool.try_take().unwrap()).collect()
}

#[test]
fn every_value_of_makeflags_says_which_pool_is_in_force() {
    let unknown = |name: &str| InForce::Closed(NotJoined::Unknown(OsString::from(name)));
    for (value, expected) in [
        ("", InForce::Nothing),
        ("k", InForce::Nothing),
        (" -j4", InForce::Nothing),
        (" -j", InForce::Nothing),
        (" -j1", InForce::OneJob),
        (" -j4 --jobserver-auth=fifo:/a/b", InForce::Pool(fifo("/a/b"), Some(4))),
        (" --jobserver-auth=fifo:/a/b", InForce::Pool(fifo("/a/b"), None)),
        (" -j3 --jobserver-auth=5,6", InForce::Pool(ends(5, 6), Some(3))),
        (" -j --jobserver-fds=5,6", InForce::Pool(ends(5, 6), None)),
        (" -j1 --jobserver-auth=5,6", InForce::Pool(ends(5, 6), Some(1))),
        (" -j3 --jobserver-auth=-2,-2", InForce::Closed(NotJoined::Disabled)),
        (" -j3 --jobserver-auth=sem:x", unknown("sem:x")),
        (" -- A=--jobserver-auth=5,6", InForce::Nothing),
    ] {
        assert_eq!(InForce::by([value]), expected, "{value:?}");
    }
}

#[test]
fn the_first_variable_that_says_something_of_a_pool_counts() {
    let (one, other) = (" --jobserver-auth=5,6", " --jobserver-auth=7,8");
    for (values, expected) in [
        (vec![], InForce::Nothing),
        (vec!["k", ""], InForce::Nothing),
        (vec![one, other], InForce::Pool(ends(5, 6), None)),
        (vec!["k", other], InForce::Pool(ends(7, 8), None)),
        (vec![" -j1", other], InForce::OneJob),
        (vec![" --jobserver-auth=-2,-2", other], InForce::Closed(NotJoined::Disabled)),
    ] {
        assert_eq!(InForce::by(&values), expected, "{values:?}");
    }
}

#[test]
fn a_pool_that_is_not_joined_is_told_of_by_its_name() {
    for (why, said) in [
        (NotJoined::Disabled, "put `+` before"),
        (NotJoined::Unknown("sem:x".into()), "sem:x"),
        (NotJoined::Stale(fifo("/a/b")), "/a/b"),
        (NotJoined::Stale(ends(5, 6)), "5 and 6"),
    ] {
        assert!(why.to_string().contains(said), "{why}");
    }
}

/// Of a pool of others with two bytes in the pipe: beside them there is the slot that this program
/// was started on, which has no byte, and for which none is ever written.
fn has_three_slots(auth: &Auth, end: &impl std::os::fd::AsFd) {
    let pool = Pool::join_in_force(auth, Some(3)).unwrap();
    assert_eq!((pool.slots(), pool.auth(), pool.free().unwrap()), (3, auth, 3));
    for _ in 0..2 {
        let first = pool.try_take().unwrap();
        assert_eq!(rustix::io::ioctl_fionread(end).unwrap(), 2);
        let rest = take_all(&pool);
        assert_eq!((rest.len(), rustix::io::ioctl_fionread(end).unwrap()), (2, 0));
        drop((first, rest));
        assert_eq!(rustix::io::ioctl_fionread(end).unwrap(), 2);
    }
}

#[test]
fn a_pool_of_others_is_joined_by_its_fifo() {
    let _alone = Alone::new();
    let folder = Folder::new();
    let (path, both) = folder.fifo(2);
    has_three_slots(&Auth::Fifo(path), &both);
}

#[test]
fn a_pool_of_others_is_joined_by_its_two_descriptors() {
    let _alone = Alone::new();
    let (read, write) = pipe();
    rustix::io::write(&write, b"ab").unwrap();
    has_three_slots(&of_pipe(&read, &write), &read);
}

#[test]
fn a_pool_of_ours_is_joined_with_its_ledger_by_its_fifo() {
    let _alone = Alone::new();
    let pool = Pool::new(2).unwrap();
    let home = pool.home().to_owned();
    let joins = child(|| {
        let joined = Pool::join_in_force(pool.auth(), Some(77)).unwrap();
        let slot = joined.try_take().unwrap();
        let here = slot.is_some() && pool.held().len() == 1;
        i32::from(!(here && joined.home() == home && joined.slots() == 2))
    });
    assert_eq!(ended(joins), ExitStatus::Code(0));
    assert_eq!(pool.free().unwrap(), 2);
}

#[test]
fn a_pool_of_ours_is_joined_with_its_ledger_by_its_ends() {
    let _alone = Alone::new();
    // In a process of its own, since the ends stay open.
    let joins = child(|| {
        let (pool, ends) = Pool::for_command(2, Style::Pipe).unwrap();
        let (read, write) = ends.unwrap();
        let joined = Pool::join_in_force(&Auth::Pipe { read, write }, None).unwrap();
        i32::from(joined.home() != pool.home() || joined.slots() != 2)
    });
    assert_eq!(ended(joins), ExitStatus::Code(0));
}

#[test]
fn a_home_is_removed_by_its_maker_though_that_has_opened_it_once_more() {
    let _alone = Alone::new();
    let pool = Pool::new(1).unwrap();
    let home = pool.home().to_owned();
    drop(Pool::open(&home).unwrap());
    assert!(home.exists());
    drop(pool);
    assert!(!home.exists());
}

fn refused(auth: &Auth, kind: ErrorKind) {
    let error = Pool::join_in_force(auth, Some(2)).unwrap_err();
    assert_eq!(error.kind(), kind, "{auth:?}: {error}");
}

#[test]
fn a_name_that_is_stale_is_an_error() {
    let _alone = Alone::new();
    let folder = Folder::new();
    refused(&Auth::Fifo(folder.0.join("nothing")), ErrorKind::System);
    let file = folder.0.join("file");
    std::fs::write(&file, b"++").unwrap();
    refused(&Auth::Fifo(file.clone()), ErrorKind::System);
    let (read, write) = pipe();
    let gone = of_pipe(&read, &write);
    let open = std::fs::File::open(&file).unwrap();
    refused(&ends(open.as_raw_fd(), write.as_raw_fd()), ErrorKind::InvalidInput);
    refused(&ends(write.as_raw_fd(), read.as_raw_fd()), ErrorKind::InvalidInput);
    drop((read, write));
    refused(&gone, ErrorKind::System);
}

#[test]
fn a_pool_of_ours_that_is_gone_is_not_taken_for_one_of_others() {
    let _alone = Alone::new();
    let pool = Pool::new(1).unwrap();
    let auth = pool.auth().clone();
    drop(pool);
    refused(&auth, ErrorKind::Elsewhere);
    // Nor is one whose ledger alone is missing: what is there is a fifo in a home.
    let folder = Folder::new();
    let home = folder.0.join("jobserver-pool-1-0-0-0");
    std::fs::create_dir(&home).unwrap();
    let made = std::process::Command::new("mkfifo").arg(home.join("fifo")).status().unwrap();
    assert!(made.success() && Path::new(&home).exists());
    refused(&Auth::Fifo(home.join("fifo")), ErrorKind::Elsewhere);
}

//! A pool's home: the folder with the files by which processes find it.
//!
//! ```text
//! jobserver-pool-PID-N/    private to the user
//!     fifo             the token pipe, which MAKEFLAGS names; not in one made for make's pool
//!     auth             instead: how MAKEFLAGS names make's pool
//!     ledger           who holds which slot
//!     bell             a fifo: rung when a slot has a new holder
//!     implicit         a link to the home of the one slot of the pool that has no byte in the fifo
//!     pool             in the home of an implicit slot: a link to its pool's home
//!     run              in that of the command of `jobserver run`: the same file as its pool's fifo
//! ```
//!
//! It lies in memory (/dev/shm) where there is such a place, and goes with the pool. If its
//! maker is killed, the next pool of the same user removes it: every process that has the
//! pool holds a lock on its ledger, and where there is none left, nobody will miss it.

use crate::sys;
use rustix::fd::OwnedFd;
use rustix::fs::{flock, open, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{getpid, getuid, Pid};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

const PREFIX: &str = "jobserver-pool-";

/// The folder of a pool, removed by the process that made it.
#[derive(Debug)]
pub(crate) struct Home {
    path: PathBuf,
    maker: Option<Pid>,
}

impl Home {
    /// Makes one, empty but for the bell.
    pub(crate) fn create() -> std::io::Result<Home> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let place = place();
        sweep(&place);
        loop {
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = place.join(format!("{PREFIX}{}-{number}", getpid().as_raw_nonzero()));
            match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                made => {
                    made?;
                    made_here().push((getpid(), path.clone()));
                    let home = Home { path, maker: Some(getpid()) };
                    sys::make_fifo(&home.bell())?;
                    return Ok(home);
                }
            }
        }
    }

    /// One that another process has made.
    pub(crate) fn of(path: &Path) -> Home {
        Home { path: path.to_owned(), maker: None }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn fifo(&self) -> PathBuf {
        self.path.join("fifo")
    }

    pub(crate) fn auth(&self) -> PathBuf {
        self.path.join("auth")
    }

    pub(crate) fn pool(&self) -> PathBuf {
        self.path.join("pool")
    }

    pub(crate) fn is_of_an_implicit_slot(&self) -> bool {
        self.pool().is_symlink()
    }

    pub(crate) fn implicit(&self) -> PathBuf {
        self.path.join("implicit")
    }

    pub(crate) fn run(&self) -> PathBuf {
        self.path.join("run")
    }

    pub(crate) fn bell(&self) -> PathBuf {
        self.path.join("bell")
    }

    /// Whether this process has made it.
    pub(crate) fn is_ours(&self) -> bool {
        self.maker == Some(getpid())
    }

    /// Removes it, if this process has made it.
    pub(crate) fn remove(&self) {
        if self.is_ours() {
            remove(&self.path);
            made_here().retain(|(_, path)| *path != self.path);
        }
    }

    /// A new file for the ledger, with the lock that keeps the home.
    pub(crate) fn create_ledger(&self) -> rustix::io::Result<OwnedFd> {
        self.locked_ledger(OFlags::CREATE | OFlags::EXCL)
    }

    /// The ledger's file, with the lock that keeps the home.
    pub(crate) fn open_ledger(&self) -> rustix::io::Result<OwnedFd> {
        self.locked_ledger(OFlags::empty())
    }

    fn locked_ledger(&self, how: OFlags) -> rustix::io::Result<OwnedFd> {
        let file = open_ledger(&self.path, how)?;
        flock(&file, FlockOperation::LockShared)?;
        Ok(file)
    }

    /// The ledger's file, for who waits until nobody locks it any more.
    pub(crate) fn open_ledger_unlocked(&self) -> rustix::io::Result<OwnedFd> {
        open_ledger(&self.path, OFlags::empty())
    }
}

/// The homes that this process has made, by its pid, as a fork copies this too.
static MADE_HERE: Mutex<Vec<(Pid, PathBuf)>> = Mutex::new(Vec::new());

fn made_here() -> MutexGuard<'static, Vec<(Pid, PathBuf)>> {
    MADE_HERE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes all homes that this process has made: no more programs can open the pools, while those
/// that have go on. For a process that is about to end without dropping everything.
pub fn remove_homes() {
    let me = getpid();
    made_here().drain(..).filter(|(maker, _)| *maker == me).for_each(|(_, path)| remove(&path));
}

fn open_ledger(home: &Path, how: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | how;
    open(home.join("ledger"), flags, Mode::RUSR | Mode::WUSR)
}

impl Drop for Home {
    fn drop(&mut self) {
        self.remove();
    }
}

/// The homes of all pools of this user that are in use; those of implicit slots, which are
/// found from there or are slots of the pool already, are none.
pub fn homes() -> Vec<PathBuf> {
    let mut homes: Vec<PathBuf> = std::fs::read_dir(place())
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX)))
        .map(|entry| entry.path())
        .filter(|home| !Home::of(home).is_of_an_implicit_slot() && is_in_use(home))
        .collect();
    homes.sort();
    homes
}

fn place() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let usable = rustix::fs::access(&memory, rustix::fs::Access::WRITE_OK).is_ok();
    if usable && memory.is_dir() {
        return memory;
    }
    std::env::temp_dir()
}

/// Only what we put there: no folder of another's making is emptied by accident.
fn remove(path: &Path) {
    for file in ["fifo", "auth", "bell", "ledger", "implicit", "pool", "run"] {
        let _ = std::fs::remove_file(path.join(file));
    }
    let _ = std::fs::remove_dir(path);
}

/// Removes the homes that their makers, killed, have left and that nobody uses any more.
fn sweep(place: &Path) {
    for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let maker = name.to_str().and_then(|name| {
            name.strip_prefix(PREFIX)?.split_once('-')?.0.parse().ok().and_then(Pid::from_raw)
        });
        let ours = entry.metadata().is_ok_and(|file| file.uid() == getuid().as_raw());
        if maker.is_some_and(|pid| ours && is_gone(pid)) && !is_in_use(&path) {
            remove(&path);
        }
    }
}

fn is_gone(pid: Pid) -> bool {
    rustix::process::test_kill_process(pid) == Err(Errno::SRCH)
}

fn is_in_use(home: &Path) -> bool {
    match open_ledger(home, OFlags::empty()) {
        Ok(ledger) => flock(&ledger, FlockOperation::NonBlockingLockExclusive).is_err(),
        // Whatever else keeps us from looking (no descriptor left, say): it may be in use.
        Err(e) => e != Errno::NOENT,
    }
}

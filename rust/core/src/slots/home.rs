//! A pool's home: the folder with the files by which processes find the pool.
//!
//! ```text
//! jobserver-pool-PID-N-MARK-NAMESPACE/    private to the user
//!     fifo             the token pipe, which MAKEFLAGS names; not in one made for make's pool
//!     auth             instead: how MAKEFLAGS names make's pool
//!     ledger           which process holds which slot
//!     bell             a fifo: rung when a slot has a new holder
//!     open             a fifo: rung when a slot that was lent can be borrowed again
//!     row-N            a fifo: wakes the waiter of that row of the queue
//! ```
//!
//! The home is in memory (/dev/shm) where that exists, and is removed with the pool. Every process
//! that has the pool holds a shared lock on its ledger. If the maker is killed, the home stays
//! until another pool of the same user is made: that removes each home whose ledger has no lock.
//!
//! A home is made under another name, and renamed when it is complete and locked. So a process that
//! sees it, in any pid namespace, sees by the lock that it is in use. If the maker is killed before
//! the rename, a process in the maker's own namespace removes the home, because only that process
//! can tell that the maker is dead. No name is ever used again: a process that is late in removing
//! a home, by its name, must not remove another home.

use super::bell::{PoolBell, RowBells, ROW};
use super::ledger::Bells;
use crate::error::{Error, Result};
use crate::platform::identity::ProcessId;
use crate::platform::liveness::is_alive;
use crate::platform::namespace::Namespace;
use crate::platform::{self, getpid, Descriptor};
use rustix::fd::AsFd;
use rustix::fs::{flock, fstat, stat, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{getuid, Pid};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

const BELLS: [&str; 2] = ["bell", "open"];
const PREFIX: &str = "jobserver-pool-";
/// The prefix of a home that is not complete yet: NAMESPACE-PID-MARK-N follow.
const NEW: &str = ".jobserver-new-";

/// The folder of a pool, removed by the process that made it.
#[derive(Debug)]
pub(crate) struct Home {
    path: PathBuf,
    maker: Option<Pid>,
}

impl Home {
    /// Makes a home, with the files that `fill` puts into it, and opens its ledger, which is still
    /// empty.
    pub(crate) fn create(
        doing: &'static str,
        fill: impl Fn(&Home) -> std::io::Result<()>,
    ) -> Result<(Home, Descriptor)> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let place = place();
        sweep(&place);
        let me = ProcessId::current();
        loop {
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let new = format!("{NEW}{}-{}-{}-{number}", Namespace::current().0, me.pid, me.mark);
            let new = Home { path: place.join(new), maker: Some(me.pid) };
            let ledger = match new.make().and_then(|()| fill(&new)) {
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(Error::at(doing, &place, e)),
                Ok(()) => new.create_ledger().map_err(Error::system(doing))?,
            };
            let unique = format!("{:x}-{:x}", me.mark, Namespace::current().0);
            let complete = place.join(format!("{PREFIX}{}-{number}-{unique}", me.pid));
            match platform::rename_new(&new.path, &complete) {
                Err(Errno::EXIST | Errno::NOTEMPTY) => continue, // without marks, names can repeat
                renamed => renamed.map_err(Error::system(doing))?,
            }
            std::mem::forget(new); // the home no longer has this name
            made_here().push((me.pid, complete.clone()));
            return Ok((Home { path: complete, maker: Some(me.pid) }, ledger));
        }
    }

    fn make(&self) -> std::io::Result<()> {
        std::fs::DirBuilder::new().mode(0o700).create(&self.path)?;
        BELLS.iter().try_for_each(|name| platform::make_fifo(&self.path.join(name)))
    }

    /// Returns the home at this path, which another process has made.
    pub(crate) fn at(path: &Path) -> Home {
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

    pub(crate) fn bells(&self) -> Bells {
        let [change, open] = BELLS.map(|name| PoolBell::at(self.path.join(name)));
        Bells { change, open, rows: RowBells::in_home(self.path.clone()) }
    }

    /// Returns whether this process has made the home.
    pub(crate) fn is_ours(&self) -> bool {
        self.is_made_by(getpid())
    }

    /// Returns whether the process of this pid has made the home.
    pub(crate) fn is_made_by(&self, pid: Pid) -> bool {
        self.maker == Some(pid)
    }

    /// Removes the home, if this process has made it.
    pub(crate) fn remove(&self) {
        if !self.is_ours() {
            return; // this process may have made the home, and opened it once more
        }
        let mut made = made_here();
        let before = made.len();
        made.retain(|(_, path)| *path != self.path);
        let is_there = made.len() < before;
        drop(made);
        if is_there {
            remove(&self.path);
        }
    }

    /// Makes the ledger's file, with the lock that keeps the home.
    fn create_ledger(&self) -> rustix::io::Result<Descriptor> {
        let file = open_ledger(&self.path, OFlags::CREATE | OFlags::EXCL)?;
        flock(&file, FlockOperation::LockShared)?;
        Ok(file)
    }

    /// Opens the ledger's file, with the lock that keeps the home.
    pub(crate) fn open_ledger(&self) -> rustix::io::Result<Descriptor> {
        let file = open_ledger(&self.path, OFlags::empty())?;
        flock(&file, FlockOperation::LockShared)?;
        if fstat(&file)?.st_nlink == 0 {
            return Err(Errno::NOENT); // another process removed it after the open
        }
        Ok(file)
    }

    /// Opens the ledger's file without a lock, for the warden, which waits until no process locks
    /// it.
    pub(crate) fn open_ledger_unlocked(&self) -> rustix::io::Result<Descriptor> {
        open_ledger(&self.path, OFlags::empty())
    }

    /// Returns whether this descriptor is the home's fifo.
    pub(crate) fn has_fifo(&self, fifo: impl AsFd) -> bool {
        matches!((stat(self.fifo()), fstat(fifo)), (Ok(named), Ok(open))
            if (named.st_dev, named.st_ino) == (open.st_dev, open.st_ino))
    }
}

/// Returns whether a path, by its name, is that of a file in a home.
pub(crate) fn is_in_a_home(path: &Path) -> bool {
    let home = path.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    home.is_some_and(|name| name.starts_with(PREFIX))
}

/// The homes that this process has made, each with the maker's pid: a fork copies this list too.
static MADE_HERE: Mutex<Vec<(Pid, PathBuf)>> = Mutex::new(Vec::new());

fn made_here() -> MutexGuard<'static, Vec<(Pid, PathBuf)>> {
    MADE_HERE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes all homes that this process has made. No further program can open those pools; programs
/// that have opened them go on. For a process that is about to end without dropping its values.
pub fn remove_homes() {
    let me = getpid();
    made_here().drain(..).filter(|(maker, _)| *maker == me).for_each(|(_, path)| remove(&path));
}

/// Removes the homes that killed processes of this user have left behind.
pub fn sweep_homes() {
    sweep(&place());
}

fn open_ledger(home: &Path, how: OFlags) -> rustix::io::Result<Descriptor> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | how;
    Descriptor::open(&home.join("ledger"), flags, Mode::RUSR | Mode::WUSR)
}

impl Drop for Home {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Returns the homes of all pools of this user that are in use.
pub fn homes() -> Vec<PathBuf> {
    let homes = homes_in(&place(), PREFIX).map(|(_, home)| home);
    let mut homes: Vec<PathBuf> = homes.filter(|home| unused(home).is_none()).collect();
    homes.sort();
    homes
}

/// Returns this user's folders in a place whose names begin with `prefix`, each with the rest of
/// its name.
fn homes_in(place: &Path, prefix: &'static str) -> impl Iterator<Item = (String, PathBuf)> {
    std::fs::read_dir(place).into_iter().flatten().flatten().filter_map(move |entry| {
        let name = entry.file_name().to_str()?.strip_prefix(prefix)?.to_owned();
        let ours = entry.metadata().is_ok_and(|file| file.uid() == getuid().as_raw());
        ours.then(|| (name, entry.path()))
    })
}

fn place() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let usable = rustix::fs::access(&memory, rustix::fs::Access::WRITE_OK).is_ok();
    if usable && memory.is_dir() {
        return memory;
    }
    // An absolute path, because this process and those below it may change their working directory.
    let place = std::env::temp_dir();
    std::path::absolute(&place).unwrap_or(place)
}

/// Removes only the files that this crate puts there: a folder that another program made is not
/// emptied by accident. The ledger is removed last, because its lock says whether the rest is in
/// use.
fn remove(path: &Path) {
    let [change, open] = BELLS;
    let is_row = |name: &str| name.strip_prefix(ROW).is_some_and(|row| row.parse::<u32>().is_ok());
    for file in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if file.file_name().to_str().is_some_and(is_row) {
            let _ = std::fs::remove_file(file.path());
        }
    }
    for file in ["fifo", "auth", change, open, "ledger"] {
        let _ = std::fs::remove_file(path.join(file));
    }
    let _ = std::fs::remove_dir(path);
}

/// Removes the homes whose makers have been killed and that no process uses any more.
fn sweep(place: &Path) {
    for (_, home) in homes_in(place, PREFIX) {
        if let Some(_locked) = unused(&home) {
            remove(&home);
        }
    }
    for (maker, home) in homes_in(place, NEW) {
        if is_gone(&maker) {
            remove(&home);
        }
    }
}

/// Returns whether the maker of a new home is known to be dead, by what follows `NEW` in its name.
fn is_gone(maker: &str) -> bool {
    let numbers: Vec<u64> = maker.split('-').filter_map(|number| number.parse().ok()).collect();
    let &[namespace, pid, mark, _] = numbers.as_slice() else { return false };
    let maker = u32::try_from(pid).ok().and_then(|pid| ProcessId::from_bits(pid, mark as u32));
    namespace == Namespace::current().0 && maker.is_some_and(|maker| !is_alive(maker))
}

/// Locks a home that no process uses, and so no process can join it meanwhile. Returns None if the
/// home may be in use.
fn unused(home: &Path) -> Option<Option<Descriptor>> {
    match open_ledger(home, OFlags::empty()) {
        Ok(ledger) => {
            flock(&ledger, FlockOperation::NonBlockingLockExclusive).ok().map(|()| Some(ledger))
        }
        // The home's removal was interrupted. After any other error (no descriptor left, for
        // example) the home may be in use.
        Err(Errno::NOENT) => Some(None),
        Err(_) => None,
    }
}

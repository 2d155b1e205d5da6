//! The pool: N slots that any process of the user can reach, none of which is ever lost.

use crate::error::{Error, ErrorKind, Result};
use crate::process::Named;
use crate::slots::bell::PoolBell;
use crate::slots::home::Home;
use crate::slots::ledger::{Held, Ledger, Tenure};
use crate::slots::makeflags::Auth;
use crate::slots::pipe::TokenPipe;
use crate::slots::warden;
use crate::slots::watch::Watch;
use rustix::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use rustix::fs::{Mode, OFlags};
use rustix::process::{getpid, Pid};
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::sys::shared::IN_ORDER;
use crate::sys::within_limit;

/// The most slots a pool may have: every token must fit into the pipe at once, and this
/// many fit into a pipe of the default size everywhere.
pub const MAX_SLOTS: usize = 16 * 1024;

/// A pool of slots, shared by every process that has opened it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pool {
    part: Arc<Part>,
    /// The slot that whoever started this program has left to it: see `slots::join`.
    implicit: Option<Arc<Part>>,
}

/// One token pipe with its ledger.
#[derive(Debug)]
pub(crate) struct Part {
    pipe: TokenPipe,
    ledger: Ledger,
    /// Of the process whose pid stands beside it; a forked child makes its own.
    watch: Mutex<Option<(Pid, Watch)>>,
    slots: usize,
    auth: Auth,
    /// Whether its one slot is the implicit slot of a program.
    implicit: bool,
    home: Home,
}

/// On the word that names a slot: it is the implicit one.
const IMPLICIT: u64 = 1 << 61;

const MAKING: &str = "cannot make a pool of slots";
const JOINING: &str = "cannot join a pool";

impl Pool {
    /// A new pool with `slots` free slots, 1 to [`MAX_SLOTS`].
    pub fn new(slots: usize) -> Result<Pool> {
        Ok(Pool { part: Part::new(slots, 0, false)?, implicit: None })
    }

    /// A new pool of `slots` slots for a command that is no job, and how the command's
    /// MAKEFLAGS is to name it. Make and its like run one job below it without a token: so one
    /// of the slots has no byte, but is the implicit slot of all that joins by this name. A job
    /// names the pool as ever: what is below has the job's slot as its own.
    pub fn for_command(slots: usize, by_descriptors: bool) -> Result<(Pool, Auth)> {
        let part = Part::new(slots, 1, false)?;
        let fifo = part.home.fifo();
        let pool = Pool::with_implicit(part)?;
        let name = Home::of(pool.home()).run();
        std::fs::hard_link(fifo, &name).map_err(Error::system(MAKING))?;
        if !by_descriptors {
            return Ok((pool, Auth::Fifo(name)));
        }
        pool.set_pipe_style();
        let (read, write) = opened_for_others(&name)?;
        Ok((pool, Auth::Pipe { read, write }))
    }

    /// The pool with a slot beside those that have a byte in its pipe.
    fn with_implicit(part: Arc<Part>) -> Result<Pool> {
        use std::os::unix::fs::symlink;
        let implicit = Part::new(1, 0, true)?;
        symlink(part.home.path(), implicit.home.pool()).map_err(Error::system(JOINING))?;
        // Below a job of ours it is no slot more: it is the job's, and known as that.
        if part.home.is_ours() {
            symlink(implicit.home.path(), part.home.implicit()).map_err(Error::system(JOINING))?;
        }
        Ok(Pool { part, implicit: Some(implicit) })
    }

    /// The pool with each of its slots, for who only looks: what runs below a job must not take
    /// the implicit slot.
    pub fn whole(self) -> Pool {
        let beside = || {
            let home = std::fs::read_link(self.part.home.implicit()).ok()?;
            Part::open(Home::of(&home), true).ok()
        };
        let implicit = self.implicit.clone().or_else(beside);
        Pool { part: self.part, implicit }
    }

    /// Opens a pool that another process has made or joined, by its [`Pool::home`].
    pub fn open(home: &Path) -> Result<Pool> {
        let home = Home::of(home);
        let Ok(pool) = std::fs::read_link(home.pool()) else {
            return Ok(Pool { part: Part::open(home, false)?, implicit: None });
        };
        let part = Part::open(Home::of(&pool), false)?;
        Ok(Pool { part, implicit: Some(Part::open(home, true)?) })
    }

    /// Joins a pool of `slots` slots, such as make's, by the two ends of its pipe, without an
    /// implicit slot. Processes that this one forks share what it knows of who holds which
    /// slot; others do not.
    pub fn join(read: OwnedFd, write: OwnedFd, slots: usize) -> Result<Pool> {
        let auth = Auth::Pipe { read: read.as_raw_fd(), write: write.as_raw_fd() };
        let pipe = TokenPipe::of_ends(read, write, slots)?;
        Ok(Pool { part: Part::of_others(pipe, auth, slots)?, implicit: None })
    }

    /// Joins the pool that MAKEFLAGS names in this way, as a program that was started on one
    /// of its slots: that one is the *implicit* slot, which has no byte in the pipe. `slots`
    /// is used where the pool itself does not say how many it has.
    pub(crate) fn join_named(auth: &Auth, slots: usize) -> Result<Pool> {
        let part = match home_of(auth) {
            // Below `jobserver run`: its slot is in common, or each program would add one.
            Some(home) if is_in_common(&home) => return Pool::open(&home),
            Some(home) => {
                let pool = std::fs::read_link(Home::of(&home).pool()).unwrap_or(home);
                Part::open(Home::of(&pool), false)?
            }
            None => Part::of_others(TokenPipe::named(auth, slots)?, auth.clone(), slots)?,
        };
        Pool::with_implicit(part)
    }

    fn parts(&self) -> impl Iterator<Item = &Arc<Part>> {
        // The implicit slot first: it is nobody else's.
        self.implicit.iter().chain([&self.part])
    }

    /// Takes a slot if one is free at this moment; never waits. A slot whose holder has been
    /// killed is free.
    pub fn try_take(&self) -> Result<Option<Slot>> {
        match self.take()? {
            None if self.reclaim() => self.take(),
            taken => Ok(taken),
        }
    }

    fn take(&self) -> Result<Option<Slot>> {
        for part in self.parts() {
            let taken = part.ledger.take(&part.pipe);
            if let Some(tenure) = taken.map_err(Error::system("cannot take a slot"))? {
                return Ok(Some(Slot::ours(part, tenure)));
            }
        }
        Ok(None)
    }

    /// Puts back the slots of holders that have been killed: whether there were any.
    pub fn reclaim(&self) -> bool {
        self.parts().filter(|part| part.reclaim()).count() > 0
    }

    /// In a job: takes over the slot that its owner launched it on, named by
    /// [`Slot::to_word`]. None if the owner has died or given up: then nothing may run.
    pub fn adopt(&self, word: u64) -> Option<Slot> {
        let tenure = Tenure::from_word(word)?;
        // What names a slot comes from our owner, in the same pool: its index is within it.
        let part = match &self.implicit {
            Some(implicit) if word & IMPLICIT != 0 => implicit,
            _ => &self.part,
        };
        Slot { part: Arc::clone(part), tenure, taker: None }.adopt()
    }

    /// How many slots the pool has, free or not.
    pub fn slots(&self) -> usize {
        self.part.slots
    }

    /// How many slots are free at this moment (FIONREAD: nobody starves while we count).
    pub fn free(&self) -> Result<usize> {
        let free = self.parts().map(|part| part.pipe.free()).sum::<rustix::io::Result<usize>>();
        free.map_err(Error::system("cannot count the free slots"))
    }

    /// Who holds slots now, as far as they are processes that use this crate.
    pub fn held(&self) -> Vec<Held> {
        self.parts().flat_map(|part| part.ledger.held()).collect()
    }

    /// The processes that hold slots as jobs of this owner.
    pub fn jobs_of(&self, owner: Pid) -> Vec<Named> {
        self.parts().flat_map(|part| part.ledger.jobs_of(owner)).collect()
    }

    /// The folder by which other processes can [`Pool::open`] it.
    pub fn home(&self) -> &Path {
        self.implicit.as_ref().unwrap_or(&self.part).home.path()
    }

    /// Has MAKEFLAGS name the pipe of this pool, which must be ours, by descriptors that jobs
    /// inherit, for programs that know no fifo (make before 4.4).
    pub fn set_pipe_style(&self) {
        self.part.ledger.style().store(1, IN_ORDER);
    }

    /// The two ends for MAKEFLAGS to name, if it is to name descriptors: (read, write). For a
    /// pool of ours they are opened for that, and left open for every program below.
    pub fn inheritable(&self) -> Result<Option<(RawFd, RawFd)>> {
        if let Auth::Pipe { read, write } = self.part.auth {
            return Ok(Some((read, write)));
        }
        if self.part.ledger.style().load(IN_ORDER) == 0 {
            return Ok(None);
        }
        opened_for_others(&self.part.home.fifo()).map(Some)
    }

    /// How MAKEFLAGS names it to those who know a fifo.
    pub fn auth(&self) -> &Auth {
        &self.part.auth
    }

    /// The read end, which polls as readable while a slot is free.
    pub fn read_end(&self) -> BorrowedFd<'_> {
        self.part.pipe.read_end()
    }

    /// The write end.
    pub fn write_end(&self) -> BorrowedFd<'_> {
        self.part.pipe.write_end()
    }

    /// Prepares to sleep until a slot may be free.
    pub(crate) fn begin_wait(&self) -> PoolWait {
        let mut wait = PoolWait::default();
        self.parts().for_each(|part| wait.add(part));
        wait
    }
}

impl Part {
    /// What names a slot of ours to a process that has opened the same pool.
    fn word(&self, tenure: Tenure) -> u64 {
        tenure.to_word() | if self.implicit { IMPLICIT } else { 0 }
    }

    /// A new one, where as many of the slots as are `beside` have no byte in the pipe.
    fn new(slots: usize, beside: usize, implicit: bool) -> Result<Arc<Part>> {
        if !(1..=MAX_SLOTS).contains(&slots) {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "the number of slots must be between 1 and 16384",
            ));
        }
        let home = Home::create().map_err(Error::system(MAKING))?;
        let auth = Auth::Fifo(home.fifo());
        crate::sys::make_fifo(&home.fifo()).map_err(Error::system(MAKING))?;
        let pipe = TokenPipe::open(&home.fifo(), slots).map_err(Error::system(MAKING))?;
        pipe.fill(slots - beside).map_err(Error::system("cannot fill a pool of slots"))?;
        let file = home.create_ledger().map_err(Error::system(MAKING))?;
        Part::with_new_ledger(pipe, auth, slots, home, file, implicit)
    }

    fn open(home: Home, implicit: bool) -> Result<Arc<Part>> {
        let file = home.open_ledger().map_err(Error::system(JOINING))?;
        let ledger = Ledger::open(file, PoolBell::at(home.bell()))?;
        let slots = ledger.slots();
        let named = std::fs::read(home.auth()).ok();
        let named = named.and_then(|named| Auth::parse(OsStr::from_bytes(&named)));
        let auth = named.unwrap_or_else(|| Auth::Fifo(home.fifo()));
        let pipe = TokenPipe::named(&auth, slots)?;
        Ok(Part::of(pipe, auth, ledger, slots, home, implicit))
    }

    /// A pool that is not ours, with a ledger for what our own processes hold of it.
    fn of_others(pipe: TokenPipe, auth: Auth, slots: usize) -> Result<Arc<Part>> {
        let home = Home::create().map_err(Error::system(JOINING))?;
        within_limit(|| std::fs::write(home.auth(), auth.to_os_string().as_bytes()))
            .map_err(Error::system(JOINING))?;
        let file = home.create_ledger().map_err(Error::system(JOINING))?;
        // Where the system has no process left for it, we do without: it is for kills only.
        let _ = warden::post(&home, &pipe);
        Part::with_new_ledger(pipe, auth, slots, home, file, false)
    }

    fn with_new_ledger(
        pipe: TokenPipe,
        auth: Auth,
        slots: usize,
        home: Home,
        file: OwnedFd,
        implicit: bool,
    ) -> Result<Arc<Part>> {
        let ledger = Ledger::create(file, PoolBell::at(home.bell()), slots)
            .map_err(Error::system(MAKING))?;
        let part = Part::of(pipe, auth, ledger, slots, home, implicit);
        // All that a pool ever opens here is open from the start, and not when it first runs
        // out of slots, which may be when descriptors have become scarce.
        drop(part.watch());
        Ok(part)
    }

    fn of(
        pipe: TokenPipe,
        auth: Auth,
        ledger: Ledger,
        slots: usize,
        home: Home,
        implicit: bool,
    ) -> Arc<Part> {
        Arc::new(Part { pipe, ledger, watch: Mutex::default(), slots, auth, implicit, home })
    }

    fn reclaim(&self) -> bool {
        let mut watch = self.watch();
        let Some((_, watch)) = &mut *watch else { return false };
        watch.reclaim(&self.ledger, &self.pipe)
    }

    /// The watch of this process; None if the system has no descriptor left for one.
    fn watch(&self) -> MutexGuard<'_, Option<(Pid, Watch)>> {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        let me = getpid();
        if watch.as_ref().is_none_or(|(pid, _)| *pid != me) {
            *watch = Watch::new(self.ledger.bell().descriptor()).ok().map(|watch| (me, watch));
        }
        watch
    }
}

/// The two ends of a pool's pipe for programs below, by this name: (read, write).
fn opened_for_others(fifo: &Path) -> Result<(RawFd, RawFd)> {
    // Blocking, as make wants it. To read and write, or the opening would wait.
    let end = || {
        rustix::fs::open(fifo, OFlags::RDWR, Mode::empty())
            .map(IntoRawFd::into_raw_fd)
            .map_err(Error::system("cannot open the pool to programs below"))
    };
    Ok((end()?, end()?))
}

/// Whether this is the home of an implicit slot that is ours too. Not in a recipe (as MAKELEVEL
/// tells) of a make that has it: then make has left us one of its slots.
pub(crate) fn is_in_common(home: &Path) -> bool {
    let of_make = std::env::var_os("MAKELEVEL").is_some_and(|level| level != "0");
    Home::of(home).is_of_an_implicit_slot() && !of_make
}

/// The home of the pool that is named in this way, if it is one of ours.
pub(crate) fn home_of(auth: &Auth) -> Option<PathBuf> {
    let fifo = match auth {
        Auth::Fifo(fifo) => fifo.clone(),
        // Only Linux tells what an open fifo's name is.
        Auth::Pipe { read, .. } => std::fs::read_link(format!("/proc/self/fd/{read}")).ok()?,
    };
    let home = fifo.parent()?;
    home.join("ledger").exists().then(|| home.to_owned())
}

/// A sleep of one thread until a slot may be free; over when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct PoolWait {
    /// And whether the watch of each counts us.
    parts: Vec<(Arc<Part>, bool)>,
    pub(crate) pipes: Vec<Arc<OwnedFd>>,
    pub(crate) descriptors: Vec<Arc<OwnedFd>>,
    pub(crate) look_after: Option<Duration>,
}

impl PoolWait {
    fn add(&mut self, part: &Arc<Part>) {
        let mut watch = part.watch(); // so that the bell is heard from now on
        part.ledger.waiters().fetch_add(1, IN_ORDER);
        self.parts.push((Arc::clone(part), watch.is_some()));
        self.pipes.push(part.pipe.shared_read_end());
        // Who holds a slot by now is watched; who will, rings.
        let (watched, look_after) = match &mut *watch {
            Some((_, watch)) => watch.before_wait(&part.ledger, &part.pipe),
            None => (Vec::new(), Some(crate::scan::LOOK_AFTER)),
        };
        self.descriptors.extend(watched);
        self.look_after = self.look_after.into_iter().chain(look_after).min();
    }
}

impl Drop for PoolWait {
    fn drop(&mut self) {
        for (part, counted) in &self.parts {
            let others_must_look =
                *counted && part.watch().as_mut().is_some_and(|(_, watch)| watch.after_wait());
            part.ledger.waiters().fetch_sub(1, IN_ORDER);
            if others_must_look {
                part.ledger.bell().ring();
            }
        }
    }
}

/// The right to run one job; dropping it gives it back.
///
/// Only the process that took a slot gives it back: a copy that a fork made is inert.
pub struct Slot {
    part: Arc<Part>,
    tenure: Tenure,
    /// The process that gives it back; none if that is for somebody else.
    taker: Option<Pid>,
}

impl Slot {
    fn ours(part: &Arc<Part>, tenure: Tenure) -> Slot {
        Slot { part: Arc::clone(part), tenure, taker: Some(getpid()) }
    }

    /// Lends the slot that this process runs on: a slot for a job of this process, which
    /// itself must not run until the slot has come back. None if it is lent already.
    pub fn lend(&self) -> Option<Slot> {
        if self.is_lent() {
            return None;
        }
        let loan = self.part.ledger.lend(self.tenure)?;
        Some(Slot::ours(&self.part, loan))
    }

    /// Whether it is this process that holds it.
    pub(crate) fn is_ours(&self) -> bool {
        self.taker == Some(getpid())
    }

    /// Whether it is lent, and has not come back.
    pub fn is_lent(&self) -> bool {
        self.part.ledger.is_lent(self.tenure)
    }

    /// Leaves it for good to the job that has borrowed it. False if it has just come back.
    pub(crate) fn pass_on(&mut self) -> bool {
        let passed_on = self.part.ledger.pass_on(self.tenure);
        if passed_on {
            self.taker = None; // by the time of our drop, the entry may be another's
        }
        passed_on
    }

    /// What names the slot to the job that is launched on it: see [`Pool::adopt`].
    pub fn to_word(&self) -> u64 {
        self.part.word(self.tenure)
    }

    /// Says that a job is about to be born that will adopt the slot.
    pub fn launch(&self) {
        self.part.ledger.launch(self.tenure);
    }

    /// In a forked job: takes over the slot that its owner launched it on. None if the owner
    /// has died or given up: then nothing may run.
    pub fn adopt(&self) -> Option<Slot> {
        let adopted = self.part.ledger.adopt(self.tenure);
        adopted.then(|| Slot::ours(&self.part, self.tenure))
    }

    /// The job is born: from now on the slot is its own, or comes back at its end.
    pub(crate) fn launched(mut self) -> Launched {
        self.launch();
        self.taker = None;
        Launched { part: Arc::clone(&self.part), tenure: self.tenure }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.is_ours() {
            self.part.ledger.give_back(self.tenure, &self.part.pipe);
        }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("tenure", &self.tenure).field("taker", &self.taker).finish()
    }
}

/// The slot of a job that is running, as its owner knows it.
#[derive(Debug)]
pub(crate) struct Launched {
    part: Arc<Part>,
    tenure: Tenure,
}

impl Launched {
    /// Says which process is the job. It `adopts` the slot itself when it begins; or it knows
    /// nothing of slots, and holds this one until its end.
    pub(crate) fn born(&self, pid: Pid, adopts: bool) {
        self.part.ledger.born(self.tenure, pid, adopts);
    }

    /// Puts the slot back if the job never took it over, though it should have by now; or if
    /// it had, and its process, `ended`, is dead.
    pub(crate) fn settle(&self, ended: Option<Pid>) {
        self.part.ledger.settle(self.tenure, ended, &self.part.pipe);
    }

    /// Its owner will hear no more of it: its death is for everybody to see.
    pub(crate) fn disown(&self) {
        self.part.ledger.disown(self.tenure);
    }
}

//! The pool: N slots that any process of the user can reach, none of which is ever lost.

use crate::error::{Error, ErrorKind, Result};
use crate::process::{is_this, Child, Kept, Named};
use crate::slots::entry::Tenure;
use crate::slots::home::{is_in_a_home, Home};
use crate::slots::ledger::{Held, Ledger, Lender};
use crate::slots::lineage::{in_recipe_below, makes_above, Lineage};
use crate::slots::makeflags::{export, Auth};
use crate::slots::pipe::TokenPipe;
use crate::slots::style::Style;
use crate::slots::warden;
use crate::slots::watch::Watch;
use crate::sys::getpid;
use crate::sys::{is_free_or, open_for_others, open_in_place, Descriptor};
use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use rustix::fs::OFlags;
use rustix::process::{getppid, Pid};
use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
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
    /// What is above the process whose pid stands beside it.
    lineage: Mutex<Option<(Pid, Arc<Lineage>)>>,
    /// The process that runs as a job of this pool, and so on a slot of its own, if any; 0: none.
    job: AtomicI32,
    /// Of that job: the process above whose slot its own is borrowed from; [`OF_POOL`] if
    /// that is the one in common; [`ABOVE`] if it has no slot, and was started by a program; 0: none.
    lent_from: AtomicU64,
    /// The implicit slot of this program, where that is nobody else's: see [`Part::join`].
    implicit: OnceLock<(Pid, Tenure)>,
    home: Arc<Home>,
}

/// What a new job runs on.
#[derive(Debug)]
pub enum Adopted {
    /// Its slot.
    Slot(Slot),
    /// No slot, as it was to be.
    Nothing,
    /// Its owner has died or given up: then nothing may run.
    Gone,
}

/// Of a word that a job is launched with: it names no slot to run on.
const WITHOUT: u64 = 1 << 59;
/// Not a process whose slot may be borrowed, but the nearest above that has one.
const ABOVE: u64 = 1 << 58;
/// Nor is the slot a process's.
const OF_POOL: u64 = 1 << 57;

/// A process as 51 bits.
fn holder_to_word(holder: Named) -> u64 {
    u64::from(holder.mark) << 22 | u64::from(holder.pid_bits())
}

/// What that made; None if it is 0.
fn holder_from_word(word: u64) -> Option<Named> {
    Named::from_bits(word as u32 & ((1 << 22) - 1), (word >> 22) as u32)
}

/// After how long to look again for a slot that was there a moment ago.
const A_MOMENT: Duration = Duration::from_millis(1);

const MAKING: &str = "cannot make a pool of slots";
const JOINING: &str = "cannot join a pool";

impl Pool {
    /// A new pool with `slots` free slots, 1 to [`MAX_SLOTS`].
    pub fn new(slots: usize) -> Result<Pool> {
        Part::new(slots, false, makes_above()).map(Pool::of)
    }

    /// A new pool of `slots` slots for a command that is no job, and the ends that the command is to
    /// inherit: see [`Pool::makeflags`]. Make and its like run one job below it without a token: so one
    /// of the slots has no byte, but is lent to whoever below comes first. MAKELEVEL is to be
    /// unset for the command: what is below it is in no recipe, unless of a make that is too.
    pub fn for_command(slots: usize, style: Style) -> Result<(Pool, Option<Ends>)> {
        let pool = Part::new(slots, true, 0).map(Pool::of)?;
        pool.set_style(style);
        let ends = pool.open_ends()?;
        Ok((pool, ends))
    }

    fn of(part: Part) -> Pool {
        Pool { part: Arc::new(part) }
    }

    /// Opens a pool that another process has made or joined, by its [`Pool::home`].
    pub fn open(home: &Path) -> Result<Pool> {
        Part::open(Home::of(home)).map(Pool::of)
    }

    /// Joins a pool of `slots` slots, such as make's, by the two ends of its pipe, without an
    /// implicit slot. Processes that this one forks share what it knows of who holds which
    /// slot; others do not.
    pub fn join(read: OwnedFd, write: OwnedFd, slots: usize) -> Result<Pool> {
        let known = |end| Descriptor::new(end).map_err(Error::system(JOINING));
        let (read, write) = (known(read)?, known(write)?);
        let auth = Auth::Pipe { read: read.as_raw_fd(), write: write.as_raw_fd() };
        let pipe = TokenPipe::of_ends(read, write, slots)?;
        Part::of_others(pipe, auth, slots, false).map(Pool::of)
    }

    /// Joins the pool that MAKEFLAGS names in this way, as a program that was started on one
    /// of its slots. `slots` is used where the pool itself does not say how many it has.
    pub(crate) fn join_named(auth: &Auth, slots: usize) -> Result<Pool> {
        let part = match home_of(auth)? {
            Some(home) => Part::join(Home::of(&home))?,
            None => Part::of_others(TokenPipe::named(auth, slots)?, auth.clone(), slots, true)?,
        };
        Ok(Pool::of(part))
    }

    /// Takes a slot if one is free at this moment; never waits. A slot whose holder has been
    /// killed is free. The slot that this program was started on comes first: it is nobody else's.
    pub fn try_take(&self) -> Result<Option<Slot>> {
        match self.take()? {
            None if self.reclaim() => self.take(),
            taken => Ok(taken),
        }
    }

    fn take(&self) -> Result<Option<Slot>> {
        let (part, me) = (&self.part, Named::me());
        let borrowed = part.lender(me.pid).map(|lender| part.ledger.lend(lender, me, true));
        let taken = match borrowed.transpose()?.flatten() {
            None => part.ledger.take(&part.pipe, me)?,
            borrowed => borrowed,
        };
        let taker = Some(me.pid);
        Ok(taken.map(|tenure| Slot { part: Arc::clone(part), tenure, taker }))
    }

    /// Puts back the slots of holders that have been killed: whether there were any.
    pub fn reclaim(&self) -> bool {
        self.part.reclaim()
    }

    /// In a job: takes over the slot that its owner launched it on, by [`Slot::to_word`] or
    /// [`Pool::word_without_slot`].
    pub fn adopt(&self, word: u64) -> Result<Adopted> {
        self.begin_job();
        let Some(tenure) = Tenure::from_word(word).filter(|_| word & WITHOUT == 0) else {
            self.part.lent_from.store(word & !WITHOUT, Ordering::Relaxed);
            return Ok(Adopted::Nothing);
        };
        let slot = Slot { part: Arc::clone(&self.part), tenure, taker: None }.adopt()?;
        Ok(slot.map_or(Adopted::Gone, Adopted::Slot))
    }

    /// In a new job that was forked: runs on this slot of its owner's, or without.
    pub fn adopt_forked(&self, slot: Option<&Slot>) -> Result<Adopted> {
        match slot {
            None => self.adopt(self.word_without_slot_of(getppid())),
            Some(slot) => {
                self.begin_job();
                Ok(slot.adopt()?.map_or(Adopted::Gone, Adopted::Slot))
            }
        }
    }

    /// In a job: from now on this process runs on a slot of its own, or on none, but not on that
    /// of a process above it.
    fn begin_job(&self) {
        self.part.job.store(getpid().as_raw_nonzero().get(), Ordering::Relaxed);
    }

    /// Whether this process is a job of this pool.
    pub fn is_job(&self) -> bool {
        self.part.job.load(Ordering::Relaxed) == getpid().as_raw_nonzero().get()
    }

    /// What a job of this process is launched with that is to run without a slot: what it can borrow
    /// for jobs of its own. That is what this process could.
    pub fn word_without_slot(&self) -> u64 {
        self.word_without_slot_of(Some(getpid()))
    }

    fn word_without_slot_of(&self, process: Option<Pid>) -> u64 {
        let job = Pid::from_raw(self.part.job.load(Ordering::Relaxed));
        match job.is_some() && job == process {
            true => self.part.lent_from.load(Ordering::Relaxed) | WITHOUT,
            false => ABOVE | WITHOUT,
        }
    }

    /// How many slots the pool has, free or not.
    pub fn slots(&self) -> usize {
        self.part.slots
    }

    /// How many slots are free at this moment (FIONREAD: nobody starves while we count).
    pub fn free(&self) -> Result<usize> {
        let free = self.part.pipe.free().map_err(Error::system("cannot count the free slots"))?;
        let ledger = &self.part.ledger;
        Ok(free + usize::from(ledger.open_common().is_some()))
    }

    /// Whether this process could take a slot at this moment.
    pub fn has_one(&self) -> Result<bool> {
        Ok(self.part.lender(getpid()).is_some() || self.free()? > 0)
    }

    /// Who holds slots now, as far as they are processes that use this crate.
    pub fn held(&self) -> Vec<Held> {
        self.part.ledger.held()
    }

    /// The processes that hold slots as jobs of this owner.
    pub fn jobs_of(&self, owner: Named) -> Vec<Named> {
        self.part.ledger.jobs_of(owner)
    }

    /// The folder by which other processes can [`Pool::open`] it.
    pub fn home(&self) -> &Path {
        self.part.home.path()
    }

    /// What keeps its home for jobs that outlive this pool, and programs below them.
    pub fn kept_home(&self) -> Kept {
        // With a lock, as who has the pool has one: it is in use.
        let home = &self.part.home;
        Arc::new((Arc::clone(home), home.open_ledger().ok()))
    }

    /// Has MAKEFLAGS name this pool, which must be ours, in a style.
    pub fn set_style(&self, style: Style) {
        self.part.ledger.style().store(style.to_word(), IN_ORDER);
    }

    fn style(&self) -> Style {
        Style::from_word(self.part.ledger.style().load(IN_ORDER))
    }

    /// The two ends that MAKEFLAGS is to name, if any; those of a pool of ours are opened for that,
    /// and left open for every program below.
    pub fn open_ends(&self) -> Result<Option<Ends>> {
        match (self.auth(), self.style()) {
            (Auth::Pipe { read, write }, _) => Ok(Some((*read, *write))),
            (_, Style::Fifo) => Ok(None),
            (_, Style::Pipe | Style::Both) => {
                let fifo = self.part.home.fifo();
                let open = |how| open_for_others(&fifo, how).map_err(Error::system(OPENING));
                Ok(Some((open(READ_END)?, open(WRITE_END)?)))
            }
        }
    }

    /// Where new processes are to have those ends, as far as it can be known beforehand.
    pub fn place_for_ends(&self) -> Option<Place> {
        if let Auth::Pipe { read, write } = self.auth() {
            return Some(Place::Theirs((*read, *write)));
        }
        if self.style() == Style::Fifo {
            return None;
        }
        let fifo = self.part.pipe.shared_read_end();
        let mut free = PLACES.rev().filter(|number| is_free_or(*number, &fifo));
        let path = CString::new(self.part.home.fifo().into_os_string().into_vec()).ok()?;
        Some(Place::Ours((free.next()?, free.next()?), path))
    }

    /// In a new process, before it has threads: opens the ends there. None if there is something else
    /// by now.
    pub fn open_ends_at(&self, place: &Place) -> Option<Ends> {
        let (read, write) = place.ends();
        let opened = match place {
            Place::Theirs(_) => true,
            Place::Ours(_, fifo) => {
                let open = |end, how| open_in_place(end, fifo, how).is_ok_and(|opened| opened);
                // Not one without the other.
                is_free_or(write, &self.part.pipe.shared_read_end())
                    && open(read, READ_END)
                    && open(write, WRITE_END)
            }
        };
        opened.then_some((read, write))
    }

    /// MAKEFLAGS for programs below that inherit these ends, if any; `existing` is what it says so far.
    pub fn makeflags(&self, existing: Option<&OsStr>, ends: Option<Ends>) -> OsString {
        let by_ends = ends.map(|(read, write)| Auth::Pipe { read, write });
        let (auth, for_make) = match (self.style(), &by_ends) {
            (Style::Pipe, Some(by_ends)) => (by_ends, None),
            _ if by_ends.as_ref() == Some(self.auth()) => (self.auth(), None),
            _ => (self.auth(), ends),
        };
        export(existing, auth, for_make, self.slots())
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
        PoolWait::of(&self.part)
    }
}

impl Part {
    /// A new one; if one of its slots is `common`, that has no byte in the pipe.
    fn new(slots: usize, common: bool, level: u64) -> Result<Part> {
        if !(1..=MAX_SLOTS).contains(&slots) {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "the number of slots must be between 1 and 16384",
            ));
        }
        let (home, file) = Home::create(MAKING, |home| crate::sys::make_fifo(&home.fifo()))?;
        let pipe = TokenPipe::open(&home.fifo(), slots).map_err(Error::system(MAKING))?;
        let bytes = slots - usize::from(common);
        pipe.fill(bytes).map_err(Error::system("cannot fill a pool of slots"))?;
        let auth = Auth::Fifo(home.fifo());
        Part::with_new_ledger(pipe, auth, slots, home, file, (common, level))
    }

    fn open(home: Home) -> Result<Part> {
        let file = home.open_ledger().map_err(Error::system(JOINING))?;
        let ledger = Ledger::open(file, home.bells())?;
        let slots = ledger.slots();
        let named = std::fs::read(home.auth()).ok();
        let named = named.and_then(|named| Auth::parse(OsStr::from_bytes(&named)));
        let auth = named.unwrap_or_else(|| Auth::Fifo(home.fifo()));
        let pipe = TokenPipe::named(&auth, slots)?;
        Ok(Part::with(pipe, auth, ledger, slots, home))
    }

    /// As a program that was started on one of the slots: that of a process above it, or the one
    /// that all have in common. In a recipe of a make that is below those it has one of its own,
    /// which make knows of.
    fn join(home: Home) -> Result<Part> {
        let part = Part::open(home)?;
        let above = part.lineage().nearest(&part.ledger).map(|(above, _)| above);
        if in_recipe_below(above, part.ledger.level()) {
            if let Some(implicit) = part.ledger.claim_implicit()? {
                let _ = part.implicit.set((getpid(), implicit));
            }
        }
        Ok(part)
    }

    /// A pool that is not ours, with a ledger for what our own processes hold of it; and, if it is
    /// to be, with the slot that this program was started on.
    fn of_others(pipe: TokenPipe, auth: Auth, slots: usize, implicit: bool) -> Result<Part> {
        let name = auth.to_os_string();
        let (home, file) = Home::create(JOINING, |home| {
            within_limit(|| std::fs::write(home.auth(), name.as_bytes()))
        })?;
        // Where the system has no process left for it, we do without: it is for kills only.
        let _ = warden::post(&home, &pipe);
        Part::with_new_ledger(pipe, auth, slots, home, file, (implicit, makes_above()))
    }

    fn with_new_ledger(
        pipe: TokenPipe,
        auth: Auth,
        slots: usize,
        home: Home,
        file: Descriptor,
        (common, level): (bool, u64),
    ) -> Result<Part> {
        let ledger = Ledger::create(file, home.bells(), slots, common, level)
            .map_err(Error::system(MAKING))?;
        let part = Part::with(pipe, auth, ledger, slots, home);
        // All that a pool ever opens here is open from the start, and not when it first runs
        // out of slots, which may be when descriptors have become scarce.
        drop(part.watch());
        Ok(part)
    }

    fn with(pipe: TokenPipe, auth: Auth, ledger: Ledger, slots: usize, home: Home) -> Part {
        let (watch, lineage, job) = (Mutex::default(), Mutex::default(), AtomicI32::new(0));
        let (implicit, home) = (OnceLock::new(), Arc::new(home));
        let lent_from = AtomicU64::new(0);
        Part { pipe, ledger, watch, slots, auth, lineage, job, lent_from, implicit, home }
    }

    /// A slot that this process may borrow now: that of the nearest process above it that has one,
    /// or else the one that all have in common.
    fn lender(&self, me: Pid) -> Option<Lender> {
        // A job has a slot of its own. And nothing above the maker of a pool has slots of it.
        let is_job = self.job.load(Ordering::Relaxed) == me.as_raw_nonzero().get();
        if is_job {
            return self.lender_of_job();
        }
        let nearest = match self.home.is_made_by(me) {
            true => None,
            false => self.lineage().nearest(&self.ledger),
        };
        match nearest {
            Some((_, open)) => open,
            None => self.ledger.open_common(),
        }
    }

    /// The same for a job, which has a slot of its own beside: that which its program has borrowed for
    /// it, since nobody else could take it once the job has yielded it. In a recipe of make, the slot
    /// that all have in common is one that make runs a recipe on.
    fn lender_of_job(&self) -> Option<Lender> {
        let from = self.lent_from.load(Ordering::Relaxed);
        let open = match (from, holder_from_word(from)) {
            (ABOVE, _) => match self.lineage().nearest(&self.ledger) {
                Some((_, open)) => return open,
                None => None,
            },
            (OF_POOL, _) => self.ledger.open_common(),
            // It may have given its slot away, to what that was lent from.
            (_, Some(holder)) => self.lineage().nearest_from(holder, &self.ledger),
            (_, None) => None,
        };
        if open.is_some() {
            return open;
        }
        let open = self.ledger.open_common()?;
        (!in_recipe_below(None, self.ledger.level())).then_some(open)
    }

    /// Whether this process runs on a slot that it could lend: it may have come back just now.
    fn has_own(&self) -> bool {
        let me = getpid();
        self.job.load(Ordering::Relaxed) == me.as_raw_nonzero().get()
            && self.ledger.run_by(Named::me_cheaply(me, None)).1.is_some()
    }

    fn lineage(&self) -> Arc<Lineage> {
        let mut known = self.lineage.lock().unwrap_or_else(PoisonError::into_inner);
        let me = getpid();
        match &*known {
            Some((pid, lineage)) if *pid == me => Arc::clone(lineage),
            _ => {
                let found = Arc::new(Lineage::of_this_process());
                *known = Some((me, Arc::clone(&found)));
                found
            }
        }
    }

    fn reclaim(&self) -> bool {
        let mut watch = self.watch();
        let Some((_, watch)) = &mut *watch else { return false };
        watch.reclaim(&self.ledger, &self.pipe)
    }

    /// The watch of this process; None if the system has no descriptor left for one, or if this is
    /// no place to look from.
    fn watch(&self) -> MutexGuard<'_, Option<(Pid, Watch)>> {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        let me = getpid();
        if self.ledger.check_namespace(me).is_err() {
            *watch = None; // whoever lives would seem to be dead
            return watch;
        }
        if watch.as_ref().is_none_or(|(pid, _)| *pid != me) {
            *watch = Watch::new(self.ledger.bells()).ok().map(|watch| (me, watch));
        }
        watch
    }
}

/// The two ends of a pool's pipe, as MAKEFLAGS names them: (read, write).
pub type Ends = (RawFd, RawFd);

/// Where new processes are to have the ends that MAKEFLAGS names: each opens them for itself, so that
/// what a program does to one touches nobody else.
#[derive(Debug, Clone)]
pub enum Place {
    /// The ends of a pool of others.
    Theirs(Ends),
    /// Numbers that were free, or this pool's already; and the fifo, by a path that a new process need
    /// not make first.
    Ours(Ends, CString),
}

impl Place {
    /// Their numbers.
    pub fn ends(&self) -> Ends {
        match self {
            Place::Theirs(ends) | Place::Ours(ends, _) => *ends,
        }
    }
}

/// The highest numbers for which the kernel's table of a process need not grow, and which the user's
/// files have last.
const PLACES: std::ops::Range<RawFd> = 32..64;

const OPENING: &str = "cannot open the pool to programs below";

/// As make has it: its clients, gcc among them, rely on a read that does not wait. To read and write,
/// or the opening would wait.
const READ_END: OFlags = OFlags::RDWR.union(OFlags::NONBLOCK);
const WRITE_END: OFlags = OFlags::RDWR;

impl Drop for Part {
    fn drop(&mut self) {
        if let Some((_, implicit)) = self.implicit.get().filter(|(pid, _)| *pid == getpid()) {
            self.ledger.give_back(*implicit, &self.pipe);
        }
    }
}

/// The home of the pool that is named in this way, if it is one of ours.
fn home_of(auth: &Auth) -> Result<Option<PathBuf>> {
    let (fifo, open) = match auth {
        Auth::Fifo(fifo) => (fifo.clone(), None),
        // Only Linux tells what an open fifo's name is.
        Auth::Pipe { read, .. } => match std::fs::read_link(format!("/proc/self/fd/{read}")) {
            Ok(fifo) => (fifo, Some(crate::sys::duplicate(*read).map_err(Error::system(JOINING))?)),
            Err(_) => return Ok(None),
        },
    };
    let Some(home) = fifo.parent().filter(|_| is_in_a_home(&fifo)) else { return Ok(None) };
    let there = match &open {
        Some(open) => Home::of(home).has_fifo(open),
        None => home.join("ledger").exists(),
    };
    match there {
        true => Ok(Some(home.to_owned())),
        // Its name means nothing here, or another: whoever joined its pipe could lose slots.
        false => {
            Err(Error::new(ErrorKind::Elsewhere, "the home of the pool cannot be seen from here"))
        }
    }
}

/// A sleep of one thread until a slot may be free; over when it is dropped.
#[derive(Debug)]
pub(crate) struct PoolWait {
    part: Arc<Part>,
    /// Whether the watch counts us.
    counted: bool,
    pub(crate) pipe: Arc<Descriptor>,
    pub(crate) descriptors: Vec<Arc<Descriptor>>,
    pub(crate) look_after: Option<Duration>,
}

impl PoolWait {
    /// After this program has closed something that would have been waited for: sees to it that
    /// holders are watched anew. False if it is the pipe.
    pub(crate) fn mend(&self) -> bool {
        let mut watch = self.part.watch.lock().unwrap_or_else(PoisonError::into_inner);
        watch.take_if(|(_, watch)| !watch.is_intact());
        self.pipe.is_intact()
    }

    fn of(part: &Arc<Part>) -> PoolWait {
        let mut watch = part.watch(); // so that the bells are heard from now on
        let ledger = &part.ledger;
        for counter in [ledger.waiters(), ledger.borrowers()] {
            counter.fetch_add(1, IN_ORDER);
        }
        // Current holders are watched; a future holder rings the bell.
        let (descriptors, mut look_after) = match &mut *watch {
            Some((_, watch)) => watch.before_wait(ledger, &part.pipe),
            None => (Vec::new(), Some(crate::scan::LOOK_AFTER)),
        };
        if part.lender(getpid()).is_some() || part.has_own() {
            look_after = Some(A_MOMENT); // it has come back before we would have heard of that
        }
        PoolWait {
            part: Arc::clone(part),
            counted: watch.is_some(),
            pipe: part.pipe.shared_read_end(),
            descriptors,
            look_after,
        }
    }
}

impl Drop for PoolWait {
    fn drop(&mut self) {
        let (part, ledger) = (&self.part, &self.part.ledger);
        let others_must_look =
            self.counted && part.watch().as_mut().is_some_and(|(_, watch)| watch.after_wait());
        for counter in [ledger.waiters(), ledger.borrowers()] {
            counter.fetch_sub(1, IN_ORDER);
        }
        if others_must_look {
            ledger.bells().change.ring();
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
        // (In another namespace than the ledger's there is nothing that it could be lent to.)
        let (ledger, me) = (&self.part.ledger, Named::me());
        let loan = ledger.lend(ledger.open_of_mine(self.tenure, me)?, me, false).ok()??;
        Some(Slot::ours(&self.part, loan))
    }

    /// This process runs on it from now on: programs below may borrow it.
    pub(crate) fn run_on(&self) {
        self.part.ledger.open_to_borrowers(self.tenure);
    }

    /// Before it is handed over: sees to it that nobody borrows it. False if it is lent.
    pub(crate) fn close(&self) -> bool {
        self.part.ledger.close(self.tenure)
    }

    /// Whether it is this process that holds it.
    pub(crate) fn is_ours(&self) -> bool {
        // (Whether it is in fact ours to give back, the ledger knows.)
        self.taker.is_some_and(is_this)
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
        self.tenure.to_word()
    }

    /// Says that a job is about to be born that will adopt the slot.
    pub fn launch(&self) {
        self.part.ledger.launch(self.tenure);
    }

    /// In a forked job: takes over the slot that its owner launched it on. None if the owner
    /// has died or given up: then nothing may run.
    pub fn adopt(&self) -> Result<Option<Slot>> {
        let ledger = &self.part.ledger;
        let adopted = ledger.adopt(self.tenure)?;
        if adopted {
            // (While it is lent, nobody else holds it. But afterwards it may be handed on, and that
            // process run on another: so it is known by its holder, and not by itself.)
            let from = ledger.borrowed_from(self.tenure).map(|lender| ledger.holder_of(lender));
            let from = from.map_or(0, |holder| holder.map_or(OF_POOL, holder_to_word));
            self.part.lent_from.store(from, Ordering::Relaxed);
        }
        Ok(adopted.then(|| Slot::ours(&self.part, self.tenure)))
    }

    /// The job is born: from now on the slot is its own, or comes back at its end. It `adopts` the
    /// slot itself when it begins; or it knows nothing of slots, and holds this one until its end.
    pub(crate) fn launched(mut self, job: &Child, adopts: bool) -> Launched {
        self.launch();
        self.taker = None;
        let job = Named::of(job);
        self.part.ledger.born(self.tenure, job, adopts);
        Launched { part: Arc::clone(&self.part), tenure: self.tenure, job }
    }
}

impl Slot {
    /// Gives it back, as its drop does. False if this process cannot any more, and must end for
    /// the slot to be free.
    pub(crate) fn give_back(mut self) -> bool {
        let back = self.let_go();
        self.taker = None;
        back
    }

    fn let_go(&self) -> bool {
        !self.is_ours() || self.part.ledger.give_back(self.tenure, &self.part.pipe)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.let_go();
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
    job: Named,
}

impl Launched {
    /// Puts the slot back if the job never took it over, though it should have by now; or if
    /// it had, and its process has `ended`.
    pub(crate) fn settle(&self, ended: bool) {
        let ended = ended.then_some(self.job);
        self.part.ledger.settle(self.tenure, ended, &self.part.pipe);
    }

    /// Its owner will hear no more of it: its death is for everybody to see.
    pub(crate) fn disown(&self) {
        self.part.ledger.disown(self.tenure);
    }
}

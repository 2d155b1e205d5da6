//! The bank: a token pipe with its ledger, and what this process knows about both.

use super::assignment::BorrowedFrom;
use super::auth::Auth;
use super::entry::Tenure;
use super::home::{is_in_a_home, Home};
use super::ledger::{Ledger, Lender, Row, Waiter};
use super::lineage::{in_recipe_below, makes_above, Lineage};
use super::parts::Parts;
use super::pipe::{TokenPipe, MAX_SLOTS};
use super::warden;
use super::watch::Watch;
use crate::error::{Error, ErrorKind, Result};
use crate::platform::{duplicate, getpid, make_fifo, within_limit, Descriptor};
use crate::process::ProcessId;
use rustix::process::Pid;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI32, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

const MAKING: &str = "cannot make a pool of slots";
pub(super) const JOINING: &str = "cannot join a pool";

/// One token pipe with its ledger.
#[derive(Debug)]
pub(crate) struct Bank {
    pub(super) pipe: TokenPipe,
    pub(super) ledger: Ledger,
    /// The watch of the process whose pid stands beside it; a forked child makes its own.
    pub(super) watch: Mutex<Option<(Pid, Watch)>>,
    pub(super) slots: usize,
    pub(super) auth: Auth,
    /// The lineage of the process whose pid stands beside it.
    pub(super) lineage: Mutex<Option<(Pid, Arc<Lineage>)>>,
    /// The pid of the process that runs as a job of this pool, and so on a slot of its own, if any;
    /// 0: none.
    pub(super) job: AtomicI32,
    /// Where that job's slot is borrowed from, as a word of [`BorrowedFrom`].
    pub(super) borrowed_from: AtomicU64,
    /// How many jobs are above this process.
    depth: AtomicU16,
    /// The waiter that goes first and did not take a slot that was free, since then.
    hesitant: Mutex<Option<(Waiter, Instant)>>,
    /// What the waiters of this process have gathered.
    parts: Mutex<Parts>,
    /// The slots that threads of this process run on. Programs below may borrow them; this process
    /// may not.
    of_threads: Mutex<Vec<Tenure>>,
    /// The implicit slot of this program, if no other program shares it: see [`Bank::join`].
    pub(super) implicit: OnceLock<(Pid, Tenure)>,
    pub(super) home: Arc<Home>,
}

impl Bank {
    /// Makes a bank. If one of its slots is `common`, that slot has no byte in the pipe.
    pub(super) fn new(slots: usize, common: bool, level: u64) -> Result<Bank> {
        if !(1..=MAX_SLOTS).contains(&slots) {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "the number of slots must be between 1 and 16384",
            ));
        }
        let (home, file) = Home::create(MAKING, |home| make_fifo(&home.fifo()))?;
        let pipe = TokenPipe::open(&home.fifo(), slots).map_err(Error::system(MAKING))?;
        let bytes = slots - usize::from(common);
        pipe.fill(bytes).map_err(Error::system("cannot fill a pool of slots"))?;
        let auth = Auth::Fifo(home.fifo());
        Bank::with_new_ledger(pipe, auth, slots, home, file, (common, level))
    }

    pub(super) fn open(home: Home) -> Result<Bank> {
        let file = home.open_ledger().map_err(Error::system(JOINING))?;
        let ledger = Ledger::open(file, home.bells())?;
        let slots = ledger.slots();
        let named = std::fs::read(home.auth()).ok();
        let named = named.and_then(|named| Auth::parse(OsStr::from_bytes(&named)));
        let auth = named.unwrap_or_else(|| Auth::Fifo(home.fifo()));
        let pipe = TokenPipe::named(&auth, slots)?;
        Ok(Bank::with(pipe, auth, ledger, slots, home))
    }

    /// Joins as a program that was started on one of the slots: that of a process above it, or the
    /// one that all have in common. In a recipe of a make that is below those, the program has a
    /// slot of its own, which make knows about.
    pub(super) fn join(home: Home) -> Result<Bank> {
        let bank = Bank::open(home)?;
        let above = bank.lineage().nearest(&bank.ledger, &[]).map(|(above, _)| above);
        let depth = above.and_then(|above| bank.ledger.depth_of(above)).unwrap_or(0);
        bank.set_depth(depth.saturating_add(1));
        if in_recipe_below(above, bank.ledger.level()) {
            if let Some(implicit) = bank.ledger.claim_implicit()? {
                let _ = bank.implicit.set((getpid(), implicit));
            }
        }
        Ok(bank)
    }

    /// Joins make's pool, with a ledger for the tokens that our own processes hold; and, if
    /// `implicit`, with the slot that this program was started on.
    pub(super) fn of_others(
        pipe: TokenPipe,
        auth: Auth,
        slots: usize,
        implicit: bool,
    ) -> Result<Bank> {
        let name = auth.to_os_string();
        let (home, file) = Home::create(JOINING, |home| {
            within_limit(|| std::fs::write(home.auth(), name.as_bytes()))
        })?;
        // Where the system has no process left for a warden, the pool does without: only kills need
        // it.
        let _ = warden::post(&home, &pipe);
        Bank::with_new_ledger(pipe, auth, slots, home, file, (implicit, makes_above()))
    }

    fn with_new_ledger(
        pipe: TokenPipe,
        auth: Auth,
        slots: usize,
        home: Home,
        file: Descriptor,
        (common, level): (bool, u64),
    ) -> Result<Bank> {
        let ledger = Ledger::create(file, home.bells(), slots, common, level)
            .map_err(Error::system(MAKING))?;
        let bank = Bank::with(pipe, auth, ledger, slots, home);
        // All descriptors that a pool ever needs here are opened now. When the pool first runs out
        // of slots, descriptors may have become scarce.
        drop(bank.watch());
        Ok(bank)
    }

    fn with(pipe: TokenPipe, auth: Auth, ledger: Ledger, slots: usize, home: Home) -> Bank {
        let (watch, lineage, job) = (Mutex::default(), Mutex::default(), AtomicI32::new(0));
        let (implicit, home) = (OnceLock::new(), Arc::new(home));
        let (borrowed_from, depth) = (AtomicU64::new(0), AtomicU16::new(0));
        Bank {
            pipe,
            ledger,
            watch,
            slots,
            auth,
            lineage,
            job,
            borrowed_from,
            depth,
            hesitant: Mutex::default(),
            parts: Mutex::default(),
            of_threads: Mutex::default(),
            implicit,
            home,
        }
    }

    /// Returns a slot that this process may borrow now: that of the nearest process above it that
    /// has one, or else the one that all have in common.
    pub(super) fn lender(&self, me: Pid) -> Option<Lender> {
        // A job has a slot of its own. The processes above a pool's maker have no slots of the
        // pool.
        if self.is_job() {
            return self.lender_of_job();
        }
        let nearest = match self.home.is_made_by(me) {
            true => None,
            false => self.lineage().nearest(&self.ledger, &self.of_threads()),
        };
        match nearest {
            Some((_, open)) => open,
            None => self.ledger.open_common(),
        }
    }

    /// Does the same for a job, which has a slot of its own besides. It returns the slot that its
    /// program has borrowed for it: no other process could take that slot once the job has yielded
    /// it. In a recipe of make, the slot that all have in common is one that make runs a recipe on.
    fn lender_of_job(&self) -> Option<Lender> {
        let open = match self.borrowed_from() {
            BorrowedFrom::NearestAbove => {
                match self.lineage().nearest(&self.ledger, &self.of_threads()) {
                    Some((_, open)) => return open,
                    None => None,
                }
            }
            BorrowedFrom::Common => self.ledger.open_common(),
            // The lender may have given its slot away, back to the slot that it was lent from.
            BorrowedFrom::Process(holder) => {
                self.lineage().nearest_from(holder, &self.ledger, &self.of_threads())
            }
            BorrowedFrom::Nobody => None,
        };
        if open.is_some() {
            return open;
        }
        let open = self.ledger.open_common()?;
        (!in_recipe_below(None, self.ledger.level())).then_some(open)
    }

    /// Returns whether this process is a job of this pool.
    pub(super) fn is_job(&self) -> bool {
        self.job.load(Ordering::Relaxed) == getpid().as_raw_nonzero().get()
    }

    /// Returns whether there may be slots that only this process and its kin can borrow.
    pub(super) fn may_borrow(&self) -> bool {
        let me = getpid();
        let borrows = match self.is_job() {
            true => self.borrowed_from() != BorrowedFrom::Nobody,
            false => !self.home.is_made_by(me),
        };
        borrows || self.ledger.common().is_some()
    }

    pub(super) fn hesitant(&self) -> MutexGuard<'_, Option<(Waiter, Instant)>> {
        self.hesitant.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn of_threads(&self) -> MutexGuard<'_, Vec<Tenure>> {
        self.of_threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives back what a waiter of this process has gathered.
    pub(super) fn give_part_back(&self, row: Row) {
        let part = std::mem::take(self.parts().of(row));
        for tenure in part {
            self.ledger.give_back(tenure, &self.pipe);
        }
        self.ledger.end_gathering(row);
    }

    /// Takes a waiter that does not take a slot out of the queue. If it is of this process, it may be
    /// unable to go on before another one of this process does, for example because a signal handler
    /// has interrupted it. So what it has gathered goes back.
    pub(super) fn pass_over(&self, waiter: Waiter) {
        self.ledger.pass_over(waiter);
        if waiter.process == ProcessId::current() {
            for tenure in self.parts().taken_from(waiter.index) {
                self.ledger.give_back(tenure, &self.pipe);
            }
        }
    }

    pub(super) fn depth(&self) -> u16 {
        self.depth.load(Ordering::Relaxed)
    }

    pub(super) fn set_depth(&self, depth: u16) {
        self.depth.store(depth, Ordering::Relaxed);
    }

    pub(super) fn borrowed_from(&self) -> BorrowedFrom {
        BorrowedFrom::from_word(self.borrowed_from.load(Ordering::Relaxed))
    }

    pub(super) fn set_borrowed_from(&self, from: BorrowedFrom) {
        self.borrowed_from.store(from.to_word(), Ordering::Relaxed);
    }

    /// Returns whether this process runs on a slot that it could lend: it may have come back just
    /// now.
    pub(super) fn has_own(&self) -> bool {
        let me = ProcessId::current_if_known(getpid(), None);
        self.is_job() && self.ledger.run_by(me, &self.of_threads()).1.is_some()
    }

    pub(super) fn lineage(&self) -> Arc<Lineage> {
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

    pub(super) fn reclaim(&self) -> bool {
        let mut watch = self.watch();
        let Some((_, watch)) = &mut *watch else { return false };
        watch.reclaim(&self.ledger, &self.pipe)
    }

    /// Returns the watch of this process. None if the system has no descriptor left for one, or if
    /// this process is in another pid namespace than the ledger's.
    pub(super) fn watch(&self) -> MutexGuard<'_, Option<(Pid, Watch)>> {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        let me = getpid();
        if self.ledger.check_namespace(me).is_err() {
            *watch = None; // live holders would seem to be dead
            return watch;
        }
        if watch.as_ref().is_none_or(|(pid, _)| *pid != me) {
            *watch = Watch::new(self.ledger.bells()).ok().map(|watch| (me, watch));
        }
        watch
    }
}

impl Drop for Bank {
    fn drop(&mut self) {
        if let Some((_, implicit)) = self.implicit.get().filter(|(pid, _)| *pid == getpid()) {
            self.ledger.give_back(*implicit, &self.pipe);
        }
    }
}

/// Returns the home of the pool that is named by `auth`, if the pool is one of ours.
pub(super) fn home_of(auth: &Auth) -> Result<Option<PathBuf>> {
    let (fifo, open) = match auth {
        Auth::Fifo(fifo) => (fifo.clone(), None),
        // Only Linux can tell the name of an open fifo.
        Auth::Pipe { read, .. } => match std::fs::read_link(format!("/proc/self/fd/{read}")) {
            Ok(fifo) => (fifo, Some(duplicate(*read).map_err(Error::system(JOINING))?)),
            Err(_) => return Ok(None),
        },
    };
    let Some(home) = fifo.parent().filter(|_| is_in_a_home(&fifo)) else { return Ok(None) };
    let there = match &open {
        Some(open) => Home::at(home).has_fifo(open),
        None => home.join("ledger").exists(),
    };
    match there {
        true => Ok(Some(home.to_owned())),
        // The name means nothing here, or another file: a process that joined only the pipe could
        // lose slots.
        false => {
            Err(Error::new(ErrorKind::Elsewhere, "the home of the pool cannot be seen from here"))
        }
    }
}

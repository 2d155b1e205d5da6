//! The pool: N slots that any process of the user can reach. No slot is ever lost.

use super::auth::{Auth, Ends};
use super::bank::home_of;
use super::bank::{Bank, JOINING};
use super::home::Home;
use super::ledger::{Held, Want};
use super::lineage::makes_above;
use super::own_slot::Own;
use super::pipe::TokenPipe;
use super::style::Style;
use super::turn::Turn;
use super::Slot;
use crate::error::{Error, Result};
use crate::platform::shared::IN_ORDER;
use crate::platform::Descriptor;
use crate::process::{Kept, ProcessId};
use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Weak};

/// A pool of slots, shared by every process that has opened it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pool {
    pub(super) bank: Arc<Bank>,
    pub(super) own: Arc<Own>,
}

/// A weak reference to a pool: it does not keep the pool.
#[derive(Debug)]
pub(crate) struct WeakPool {
    bank: Weak<Bank>,
    own: Weak<Own>,
}

impl WeakPool {
    pub(crate) fn upgrade(&self) -> Option<Pool> {
        Some(Pool { bank: self.bank.upgrade()?, own: self.own.upgrade()? })
    }
}

impl Pool {
    /// Makes a pool with `slots` free slots, 1 to [`MAX_SLOTS`](super::MAX_SLOTS).
    pub fn new(slots: usize) -> Result<Pool> {
        Bank::new(slots, false, makes_above()).map(Pool::from_bank)
    }

    /// Makes a pool of `slots` slots for a command that is not a job. Returns also the ends that
    /// the command must inherit: see [`Pool::makeflags`]. Make and its like run one job below the
    /// command without a token. So one of the slots has no byte in the pipe; the pool lends it to
    /// the first process below that asks for it. The caller must unset MAKELEVEL for the command:
    /// the programs below it are in no recipe, unless a make below the command runs them.
    pub fn for_command(slots: usize, style: Style) -> Result<(Pool, Option<Ends>)> {
        Pool::with_common(slots, style, 0)
    }

    /// The same, for programs that have so many makes above them.
    pub(super) fn with_common(
        slots: usize,
        style: Style,
        level: u64,
    ) -> Result<(Pool, Option<Ends>)> {
        let pool = Bank::new(slots, true, level).map(Pool::from_bank)?;
        pool.set_style(style);
        let ends = pool.open_ends()?;
        Ok((pool, ends))
    }

    fn from_bank(bank: Bank) -> Pool {
        Pool { bank: Arc::new(bank), own: Arc::default() }
    }

    /// Opens a pool that another process has made or joined, by its [`Pool::home`].
    ///
    /// # Errors
    ///
    /// Another pid namespace, or a damaged or missing home.
    pub fn open(home: &Path) -> Result<Pool> {
        Bank::open(Home::at(home)).map(Pool::from_bank)
    }

    /// Joins a pool of `slots` slots, such as make's, by the two ends of its pipe, without an
    /// implicit slot. This process and the processes that it forks share one ledger of that pool;
    /// other processes do not have it.
    pub fn join(read: OwnedFd, write: OwnedFd, slots: usize) -> Result<Pool> {
        let known = |end| Descriptor::new(end).map_err(Error::system(JOINING));
        let (read, write) = (known(read)?, known(write)?);
        let auth = Auth::Pipe { read: read.as_raw_fd(), write: write.as_raw_fd() };
        let pipe = TokenPipe::of_ends(read, write, slots)?;
        Bank::of_others(pipe, auth, slots, false).map(Pool::from_bank)
    }

    /// Joins the pool that MAKEFLAGS names by `auth`, as a program that was started on one of its
    /// slots. `slots` is used where the pool itself does not say how many it has.
    pub(crate) fn join_named(auth: &Auth, slots: usize) -> Result<Pool> {
        let bank = match home_of(auth)? {
            Some(home) => Bank::join(Home::at(&home))?,
            None => Bank::of_others(TokenPipe::named(auth, slots)?, auth.clone(), slots, true)?,
        };
        Ok(Pool::from_bank(bank))
    }

    /// Takes a slot if one is free at this moment; never waits. A slot whose holder has been killed
    /// is free. The slot that this program was started on comes first: the rest of the pool cannot
    /// use it. Like make, this competes with all waiters: it does not let an owner's go first.
    pub fn try_take(&self) -> Result<Option<Slot>> {
        self.compete().try_take()
    }

    /// Returns the turn of a thread that competes for each slot.
    pub fn compete(&self) -> Turn {
        Turn::new(&self.bank, None)
    }

    /// Returns the turn of a thread that waits for its place in the pool's queue.
    pub(crate) fn turn(&self, want: Want) -> Turn {
        Turn::new(&self.bank, Some(want))
    }

    /// Returns the turn of a job that waits for as many slots as it had.
    pub(crate) fn turn_to_resume(&self) -> Turn {
        let takes = self.own.slot().takes();
        self.turn(Want::Resume).needing(takes)
    }

    /// Puts back the slots of holders that have been killed. Returns whether there were any.
    pub fn reclaim(&self) -> bool {
        self.bank.reclaim()
    }

    /// Returns how many slots the pool has, free or not.
    pub fn slots(&self) -> usize {
        self.bank.slots
    }

    /// Returns how many slots are free at this moment. (FIONREAD counts the bytes without taking
    /// them, so no process misses a slot meanwhile.)
    pub fn free(&self) -> Result<usize> {
        let free = self.bank.pipe.free().map_err(Error::system("cannot count the free slots"))?;
        let ledger = &self.bank.ledger;
        Ok(free + usize::from(ledger.open_common().is_some()))
    }

    /// Returns the holders of slots that use this crate. Tokens that other programs have taken are
    /// not in the list.
    pub fn held(&self) -> Vec<Held> {
        self.bank.ledger.held()
    }

    /// Returns the processes that hold slots as jobs of this owner.
    pub fn jobs_of(&self, owner: ProcessId) -> Vec<ProcessId> {
        self.bank.ledger.jobs_of(owner)
    }

    /// Returns the folder by which other processes can [`Pool::open`] the pool.
    pub fn home(&self) -> &Path {
        self.bank.home.path()
    }

    /// Returns a value that keeps the home for jobs that outlive this pool, and for programs below
    /// them.
    pub fn kept_home(&self) -> Kept {
        // It has a lock on the ledger, as each process of the pool has: so the home is in use.
        let home = &self.bank.home;
        Arc::new((Arc::clone(home), home.open_ledger().ok()))
    }

    /// Sets the style in which MAKEFLAGS names this pool, which must not be make's.
    pub fn set_style(&self, style: Style) {
        self.bank.ledger.style().store(style.to_word(), IN_ORDER);
    }

    pub(crate) fn style(&self) -> Style {
        Style::from_word(self.bank.ledger.style().load(IN_ORDER))
    }

    /// Returns how MAKEFLAGS names the pool to programs that know a fifo.
    pub fn auth(&self) -> &Auth {
        &self.bank.auth
    }

    /// Returns the read end of the pipe, which polls as readable while a slot is free.
    pub fn read_end(&self) -> BorrowedFd<'_> {
        self.bank.pipe.read_end()
    }

    /// Returns the write end of the pipe.
    pub fn write_end(&self) -> BorrowedFd<'_> {
        self.bank.pipe.write_end()
    }

    /// Returns whether this process is a job with a slot that it could lend or hand over.
    pub fn runs(&self) -> bool {
        self.own.slot().runs()
    }

    /// Returns whether a submission of this process could start on a slot that the process, or a
    /// thread of it, runs on.
    pub fn can_lend(&self) -> bool {
        self.runs() || self.has_thread_slots()
    }

    /// Returns whether this process is a job of several slots. When it waits, it gives all of them
    /// to the pool, and goes on with as many.
    pub fn runs_on_several(&self) -> bool {
        self.own.slot().takes() > 1
    }

    /// In a job that must wait for a slot: returns its own slot for a job of its own, on loan or,
    /// if it `yields`, for good; None if it has several. The job must not go on before
    /// [`Pool::resume`] returns true.
    pub fn own_slot(&self, yields: bool) -> Option<Slot> {
        match yields {
            true => self.own.hand_over(),
            false => self.own.slot().lend(),
        }
    }

    /// Gives away the slot that this process runs on, for a wait. Returns whether there was one.
    pub fn give_own_slot_away(&self) -> bool {
        self.own.give_away()
    }

    /// In a job that has given its slot away and waits for one: tells its owner, if it has not yet.
    pub(crate) fn tell_if_without_slot(&self) {
        self.own.tell_if_without_slot();
    }

    /// In a job: gives back the slot that this process runs on, if it has one. If the slot is lent,
    /// its borrower keeps it. Returns false if this process cannot do either: then it must end for
    /// the slot to be free.
    pub fn release(&self) -> bool {
        self.own.slot().release()
    }

    /// Gets this process a slot to go on with. Returns whether it has one now; never waits.
    pub fn resume(&self) -> Result<bool> {
        self.resume_by(&mut self.turn_to_resume())
    }

    /// Does the same for a thread that waits by this turn.
    pub(crate) fn resume_by(&self, turn: &mut Turn) -> Result<bool> {
        self.own.slot().resume(|| turn.try_take())
    }

    pub(crate) fn downgrade(&self) -> WeakPool {
        WeakPool { bank: Arc::downgrade(&self.bank), own: Arc::downgrade(&self.own) }
    }

    /// Returns whether both are the same pool object of this process.
    pub(crate) fn is_same(&self, other: &Pool) -> bool {
        Arc::ptr_eq(&self.bank, &other.bank)
    }
}

//! The ledger: which live process holds which slot.
//!
//! The free slots of a pool are bytes in a pipe, and a process that is killed while it holds one
//! cannot put it back. So each byte that is taken goes directly from the pipe into an entry of this
//! table, in memory that all processes of the pool share, and the entry names its holder. A process
//! that finds an entry whose holder is dead puts the byte back.
//!
//! Every step here is a single atomic change, and the process may be killed after any of them.
//! ARCHITECTURE.md describes the protocol, and `model/` checks it with all those kills. Not here:
//! which process runs on which slot and why (`slots::pool`, `slots::own_slot`), and which process
//! may borrow which slot (`slots::lineage`).
//!
//! ```text
//! file   = magic slots waiters used style namespace marks borrowers common level queued tickets
//!          takes gatherers ... table entry* row*
//! table  = the 256 possible bytes of a token, at offset 256; never changed
//! entry  = holder token sending lender borrower owner since depth      (words of 8 bytes)
//! row    = waiter rank entered gathered
//! ```

mod gather;
mod give_back;
mod layout;
mod lend;
mod number;
mod queue;
mod reclaim;
mod take;

pub(crate) use lend::Lender;
pub(crate) use queue::{Row, Standing, Ticket, Waiter, Want};
pub(crate) use reclaim::Reclaimed;
#[cfg(test)]
pub(crate) use {layout::ROWS, queue::PATIENCE};

use super::bell::{PoolBell, RowBells};
use super::entry::{Borrower, HeldBy, Holder, Tenure};
use super::pipe::MAX_SLOTS;
use crate::error::{Error, ErrorKind, Result};
use crate::platform::identity::ProcessId;
use crate::platform::liveness::marks;
use crate::platform::namespace::Namespace;
use crate::platform::shared::{Shared, Word, IN_ORDER, WORD};
use crate::platform::{getpid, occupy, within_limit, Descriptor};
use layout::*;
use rustix::process::Pid;
use std::sync::atomic::{AtomicUsize, Ordering};

/// An entry in use: its holder, and the owner that the holder is a job of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tenant {
    pub(crate) tenure: Tenure,
    pub(crate) process: ProcessId,
    /// The process that will notice the holder's end, as a word; 0 for none.
    pub(crate) owner: u64,
}

impl Tenant {
    /// Returns whether both are the same taking of the entry by the same holder.
    pub(crate) fn is_same(&self, other: &Tenant) -> bool {
        self.tenure == other.tenure && self.process == other.process
    }
}

/// An entry in use, as `jobserver status` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The holder's process id.
    pub pid: Pid,
    /// How many seconds the holder has held it.
    pub seconds: u32,
    /// Whether it is lent to another process, which is in the list too.
    pub lent: bool,
    /// Whether it is a loan, which stands for no slot of its own.
    pub loan: bool,
}

/// Changes a word if it is still `from`. A damaged word may be the `same` to its readers, and yet
/// not be what they would write. It is changed too, since its readers would try for ever otherwise.
fn change(word: &Word, from: u64, to: u64, same: impl Fn(u64) -> bool) -> bool {
    let change = |from| word.compare_exchange(from, to, IN_ORDER, IN_ORDER);
    match change(from) {
        Err(now) if same(now) => change(now).is_ok(),
        changed => changed.is_ok(),
    }
}

/// Returns the time since boot in seconds.
fn now() -> u64 {
    rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_sec as u64
}

/// The bells that wake waiters.
#[derive(Debug)]
pub(crate) struct Bells {
    /// Rung when an entry with a slot is about to have another holder.
    pub(crate) change: PoolBell,
    /// Rung when a slot that was lent can be borrowed again.
    pub(crate) open: PoolBell,
    /// Rung for one waiter.
    pub(crate) rows: RowBells,
}

/// The ledger of one pool.
#[derive(Debug)]
pub(crate) struct Ledger {
    memory: Shared,
    bells: Bells,
    entries: usize,
    /// The entry at which a search for a free entry begins.
    hint: AtomicUsize,
}

impl Ledger {
    /// Makes an empty file the ledger of a pool of `slots` slots. With `common`, one of the slots
    /// has no byte in the pipe: the pool itself lends it. `level` is the number of makes above the
    /// programs of the pool.
    pub(crate) fn create(
        file: Descriptor,
        bells: Bells,
        slots: usize,
        common: bool,
        level: u64,
    ) -> rustix::io::Result<Ledger> {
        let words = words_for(slots);
        // The whole file is allocated now. If the file system were full later, a write to a page of
        // the mapping would kill its writer.
        within_limit(|| occupy(&file, words * WORD))?;
        let table: [u8; 256] = std::array::from_fn(|byte| byte as u8);
        rustix::io::pwrite(&file, &table, (TABLE * WORD) as u64)?;
        let memory = Shared::map(file, words)?;
        let ledger =
            Ledger { memory, bells, entries: entries_for(slots), hint: AtomicUsize::new(0) };
        let say = |word, value| ledger.memory.word(word).store(value, IN_ORDER);
        say(SLOTS, slots as u64);
        say(NAMESPACE, Namespace::current().0);
        say(MARKS, marks() as u64);
        say(LEVEL, level);
        if common {
            let tenure = Tenure { index: 0, generation: 1 };
            let holder = Holder { by: HeldBy::Pool, generation: 1, launching: false };
            ledger.field(0, HOLDER).store(holder.to_word(), IN_ORDER);
            let open = Borrower::open(1, HeldBy::Pool);
            ledger.field(0, BORROWER).store(open.to_word(), IN_ORDER);
            say(USED, 1);
            say(COMMON, tenure.to_word());
        }
        say(0, MAGIC);
        Ok(ledger)
    }

    /// Opens a ledger that another process has made.
    ///
    /// # Errors
    ///
    /// The file is no ledger or a damaged one; or this process is in another pid namespace, where
    /// its pids mean nothing.
    pub(crate) fn open(file: Descriptor, bells: Bells) -> Result<Ledger> {
        let doing = "cannot open the ledger of a pool";
        let size = rustix::fs::fstat(&file).map_err(Error::system(doing))?.st_size;
        let words = usize::try_from(size).unwrap_or(0) / WORD;
        if words < FIRST_ENTRY {
            return Err(Error::new(ErrorKind::Protocol, "this is not the ledger of a pool"));
        }
        let memory = Shared::map(file, words).map_err(Error::system(doing))?;
        if memory.word(0).load(IN_ORDER) != MAGIC {
            return Err(Error::new(
                ErrorKind::Protocol,
                "the pool's ledger is of another version of jobserver",
            ));
        }
        // The numbers are checked against the file's size: a file may be damaged or forged.
        let slots = usize::try_from(memory.word(SLOTS).load(IN_ORDER)).unwrap_or(0);
        if !(1..=MAX_SLOTS).contains(&slots) || words != words_for(slots) {
            return Err(Error::new(ErrorKind::Protocol, "the ledger of a pool is damaged"));
        }
        let ledger =
            Ledger { memory, bells, entries: entries_for(slots), hint: AtomicUsize::new(0) };
        ledger.check_namespace(getpid())?;
        Ok(ledger)
    }

    /// Fails where the pids of this ledger mean nothing: its holders would all seem to be dead.
    pub(crate) fn check_namespace(&self, me: Pid) -> Result<()> {
        let said = |word| self.memory.word(word).load(IN_ORDER);
        if said(MARKS) != marks() as u64 {
            return Err(Error::new(
                ErrorKind::Elsewhere,
                "the pool of slots identifies processes by marks that this process cannot read \
                 (it may be in a sandbox without pidfds, or have JOBSERVER_PORTABLE set)",
            ));
        }
        if said(NAMESPACE) == Namespace::of_this(me).0 {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Elsewhere,
            "the pool of slots belongs to another pid or time namespace than this process (which \
             may be in a container or sandbox, or without /proc), and this process could not tell \
             which of its holders live",
        ))
    }

    pub(crate) fn slots(&self) -> usize {
        self.memory.word(SLOTS).load(IN_ORDER) as usize
    }

    /// Returns the style in which MAKEFLAGS names the pool, as a word of `Style`.
    pub(crate) fn style(&self) -> &Word {
        self.memory.word(STYLE)
    }

    /// Returns the number of waiters, which must wake before a new holder takes a slot. A waiter
    /// that was killed is counted for ever; that costs other processes a ring for each launch.
    pub(crate) fn waiters(&self) -> &Word {
        self.memory.word(WAITERS)
    }

    /// Returns how many makes are above the programs of the pool.
    pub(crate) fn level(&self) -> u64 {
        self.memory.word(LEVEL).load(IN_ORDER)
    }

    /// Returns how many of the waiters could go on with a slot that is lent to them.
    pub(crate) fn borrowers(&self) -> &Word {
        self.memory.word(BORROWERS)
    }

    pub(crate) fn bells(&self) -> &Bells {
        &self.bells
    }

    /// Wakes all waiters, which then look which processes hold slots. This comes *before* an entry
    /// with a slot has another holder: that holder may be killed at once, and the waiters must be
    /// awake by then.
    fn ring(&self) {
        if self.waiters().load(IN_ORDER) > 0 {
            self.bells.change.ring();
        }
    }

    /// Wakes the waiters that might borrow a slot, after a slot can be borrowed. If the borrower or
    /// the holder is killed before this ring, its death wakes them.
    fn ring_open(&self) {
        if self.borrowers().load(IN_ORDER) > 0 {
            self.bells.open.ring();
        }
    }

    fn field(&self, index: u32, field: usize) -> &Word {
        self.memory.word(FIRST_ENTRY + index as usize * ENTRY + field)
    }

    fn offset(&self, index: u32, field: usize) -> usize {
        FIRST_ENTRY + index as usize * ENTRY + field
    }

    fn holder(&self, index: u32) -> Holder {
        Holder::from_word(self.field(index, HOLDER).load(IN_ORDER))
    }

    /// Changes an entry's holder if it is still `from`.
    fn change_holder(&self, index: u32, from: Holder, to: Holder) -> bool {
        let same = |word| Holder::from_word(word) == from;
        change(self.field(index, HOLDER), from.to_word(), to.to_word(), same)
    }

    fn borrower(&self, index: u32) -> Borrower {
        Borrower::from_word(self.field(index, BORROWER).load(IN_ORDER))
    }

    /// Changes which loan an entry is lent to if that is still `from`.
    fn change_borrower(&self, index: u32, from: Borrower, to: Borrower) -> bool {
        let same = |word| Borrower::from_word(word) == from;
        change(self.field(index, BORROWER), from.to_word(), to.to_word(), same)
    }

    /// Returns the tenure that a word names, if it can be one of this ledger's.
    fn tenure(&self, word: u64) -> Option<Tenure> {
        Tenure::from_word(word).filter(|tenure| (tenure.index as usize) < self.entries)
    }

    /// Returns the slot that all have in common, if there is one: the pool itself lends it.
    pub(crate) fn common(&self) -> Option<Tenure> {
        self.tenure(self.memory.word(COMMON).load(IN_ORDER))
    }

    /// Returns the process that holds this entry; None if the pool holds it.
    pub(crate) fn holder_of(&self, tenure: Tenure) -> Option<ProcessId> {
        self.holder(tenure.index).named()
    }

    /// Returns all entries in use, with their holders.
    pub(crate) fn in_use(&self) -> impl Iterator<Item = Tenant> + '_ {
        (0..self.used()).filter_map(|index| {
            let owner = self.field(index, OWNER).load(IN_ORDER);
            let holder = self.holder(index);
            let tenure = Tenure { index, generation: holder.generation };
            holder.named().map(|process| Tenant { tenure, process, owner })
        })
    }

    /// Returns whether the entry is about to be held by the job that is being launched on it.
    pub(crate) fn is_launching(&self, index: u32) -> bool {
        self.holder(index).launching
    }

    /// Returns the processes that hold slots as jobs of this owner.
    pub(crate) fn jobs_of(&self, owner: ProcessId) -> Vec<ProcessId> {
        let is_owner = |word| ProcessId::from_word(word).is_some_and(|named| named.may_be(owner));
        let jobs = self.in_use().filter(|entry| is_owner(entry.owner));
        jobs.map(|entry| entry.process).filter(|job| !job.may_be(owner)).collect()
    }

    fn used(&self) -> u32 {
        self.memory.word(USED).load(IN_ORDER).min(self.entries as u64) as u32
    }

    /// Returns the entries that were used and are not as at first, except for their generation and time.
    #[cfg(all(test, target_os = "linux"))]
    pub(crate) fn unclean(&self) -> Vec<u32> {
        let common = self.common().map(|common| common.index);
        let rest = (0..self.used()).filter(|index| Some(*index) != common);
        let is_clean = |index: &u32| {
            let word = |field| self.field(*index, field).load(IN_ORDER);
            let empty = [TOKEN, SENDING, LENDER, BORROWER, OWNER].map(word) == [0; 5];
            empty && self.holder(*index).by == HeldBy::Nobody && !self.holder(*index).launching
        };
        rest.filter(|index| !is_clean(index)).collect()
    }

    /// Returns all slots and loans that are held now.
    pub(crate) fn held(&self) -> Vec<Held> {
        self.in_use().filter_map(|entry| self.held_by(&entry)).collect()
    }

    fn held_by(&self, entry: &Tenant) -> Option<Held> {
        let field = |field| self.field(entry.tenure.index, field).load(IN_ORDER);
        let lender = self.tenure(field(LENDER));
        if matches!(field(TOKEN), NONE | IMPLICIT) && lender.is_none() {
            return None;
        }
        Some(Held {
            pid: entry.process.pid,
            seconds: u32::try_from(now().saturating_sub(field(SINCE))).unwrap_or(u32::MAX),
            lent: self.borrower(entry.tenure.index).loan().is_some(),
            // The slot that all have in common is shown as a slot and not as a loan.
            loan: lender.is_some() && lender != self.common(),
        })
    }
}

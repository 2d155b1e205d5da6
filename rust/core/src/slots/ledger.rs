//! The ledger: which live process holds which slot.
//!
//! The free slots of a pool are bytes in a pipe, and a process that is killed while it holds
//! one cannot put it back. So each byte that is taken goes straight from the pipe into an
//! entry of this table, in memory that all processes of the pool share, and the entry names
//! its holder. Whoever finds an entry whose holder is dead puts the byte back.
//!
//! Every step here is a single atomic change, and the process may be killed after any of
//! them; ARCHITECTURE.md tells the protocol, and `model/` checks it with all those kills.
//! Not here: who runs on which slot and why (`slots::pool`, `slots::own`), and who may borrow
//! whose (`slots::lineage`).
//!
//! ```text
//! file   = magic slots waiters used style namespace marks borrowers common level ... table entry*
//! table  = the 256 possible bytes of a token, at offset 256; never changed
//! entry  = holder token sending lender borrower owner since -      (words of 8 bytes)
//! ```

use crate::error::{Error, ErrorKind, Result};
use crate::process::identity::{self, marks, Named};
use crate::process::namespace::Namespace;
use crate::slots::bell::PoolBell;
use crate::slots::entry::{Borrower, By, Holder, Tenure, GENERATIONS};
use crate::slots::pipe::TokenPipe;
use crate::slots::MAX_SLOTS;
use crate::sys::getpid;
use crate::sys::shared::{Shared, IN_ORDER, WORD};
use crate::sys::{within_limit, Descriptor};
use rustix::fd::AsFd;
use rustix::io::Errno;
use rustix::process::Pid;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// How many entries there are beside two for each slot: whoever tries to take one has an entry
/// for a moment, and each loan has one. So deep can jobs wait in `submit` for each other.
const SPARE: usize = 2048;

/// How many loans of loans there can be: more are those of a ledger that is damaged.
const LONGEST: usize = SPARE;

/// Says what the file is, and in which version. (The bytes "jobserv" and a number.)
const MAGIC: u64 = u64::from_be_bytes(*b"jobserv\x02");

const SLOTS: usize = 1;
const WAITERS: usize = 2;
const USED: usize = 3;
const STYLE: usize = 4;
/// Where the pids in it are meant, and of what kind their marks are.
const NAMESPACE: usize = 5;
const MARKS: usize = 6;
/// How many of those who wait may borrow a slot.
const BORROWERS: usize = 7;
/// The entry of the slot that is lent to whoever comes first; 0 if there is none.
const COMMON: usize = 8;
/// How many makes are above what the pool was made for.
const LEVEL: usize = 9;
const TABLE: usize = 256 / WORD;
const FIRST_ENTRY: usize = 512 / WORD;

/// The fields of an entry, in words from its start.
const HOLDER: usize = 0;
const TOKEN: usize = 1;
const SENDING: usize = 2;
const LENDER: usize = 3;
const BORROWER: usize = 4;
const OWNER: usize = 5;
/// The second in which it got its holder, for people to read.
const SINCE: usize = 6;
const ENTRY: usize = 8;

/// A token that is not there. A byte that is read over it makes it another word; but one of
/// NUL, which no known tool uses, only when it has been marked as taken.
const NONE: u64 = 0;
const TAKEN: u64 = u64::from_ne_bytes([0, 1, 0, 0, 0, 0, 0, 0]);
/// Beside a lender: a program below its holder has borrowed it.
const FROM_ABOVE: u64 = 1 << 60;
/// In the place of a token: the slot is its holder's by what started it, and has no byte.
const IMPLICIT: u64 = u64::from_ne_bytes([0, 0, 1, 0, 0, 0, 0, 0]);

/// An entry in use: who holds it, and as whose job.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tenant {
    pub(crate) tenure: Tenure,
    pub(crate) process: Named,
    /// The process that will hear of the holder's end, as a word; 0 for none.
    pub(crate) owner: u64,
}

impl Tenant {
    /// Whether the entry has had no other holder meanwhile.
    pub(crate) fn is_same(&self, other: &Tenant) -> bool {
        self.tenure == other.tenure && self.process == other.process
    }
}

/// A slot that can be borrowed, and what its entry says of that.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lender(Tenure, Borrower);

/// What came of an attempt to take back the slot of a dead holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reclaimed {
    /// It is back.
    Done,
    /// It is lent to somebody who lives, and comes back at their end.
    Lent,
    /// Another process is about to give it back. Whoever relies on that must watch that one
    /// too, since it may be killed: look again.
    ByAnother,
    /// It stays with the dead, for others to see: this program has closed its way to the pipe.
    OutOfReach,
}

/// A slot stays with its holder, until that ends and another process puts it back: this program
/// has closed its way to the pipe.
struct OutOfReach;

/// An entry in use, as `status` tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The holder's process id.
    pub pid: Pid,
    /// For how many seconds it has held it.
    pub seconds: u32,
    /// Whether it is lent to another process, which is in the list too.
    pub lent: bool,
    /// Whether it is a loan, and so stands for no slot of its own.
    pub loan: bool,
}

/// Makes a file so large, with all its blocks.
fn occupy(file: &Descriptor, size: usize) -> rustix::io::Result<()> {
    #[cfg(target_os = "linux")]
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, size as u64) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
        done => return done,
    }
    let mut written = 0;
    while written < size {
        let zeroes = vec![0; size - written];
        written += rustix::io::pwrite(file, &zeroes, written as u64)?;
    }
    Ok(())
}

fn entries_for(slots: usize) -> usize {
    2 * slots + SPARE
}

fn words_for(slots: usize) -> usize {
    FIRST_ENTRY + entries_for(slots) * ENTRY
}

/// The second since boot that this is.
fn now() -> u64 {
    rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_sec as u64
}

/// What wakes those who wait.
#[derive(Debug)]
pub(crate) struct Bells {
    /// Rung when an entry with a slot is about to have another holder.
    pub(crate) change: PoolBell,
    /// Rung when a slot that was lent can be borrowed again.
    pub(crate) open: PoolBell,
}

/// The ledger of one pool.
#[derive(Debug)]
pub(crate) struct Ledger {
    memory: Shared,
    bells: Bells,
    entries: usize,
    /// Where to look for a free entry first.
    hint: AtomicUsize,
}

impl Ledger {
    /// Makes an empty file the ledger of a pool of `slots` slots.
    /// If one of the slots is to be `common`, it has no byte in the pipe. There are `level` makes
    /// above what the pool is for.
    pub(crate) fn create(
        file: Descriptor,
        bells: Bells,
        slots: usize,
        common: bool,
        level: u64,
    ) -> rustix::io::Result<Ledger> {
        let words = words_for(slots);
        // All of it now: where the file system is full later, a write to a page of the mapping
        // would kill its writer.
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
            let holder = Holder { by: By::Pool, generation: 1, launching: false };
            ledger.field(0, HOLDER).store(holder.to_word(), IN_ORDER);
            let open = Borrower::open(1, By::Pool);
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
    /// It is none, or a damaged one; or this process is where its pids mean nothing.
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
        // What it says is believed only as far as it fits: a file may be damaged, or forged.
        let slots = usize::try_from(memory.word(SLOTS).load(IN_ORDER)).unwrap_or(0);
        if !(1..=MAX_SLOTS).contains(&slots) || words != words_for(slots) {
            return Err(Error::new(ErrorKind::Protocol, "the ledger of a pool is damaged"));
        }
        let ledger =
            Ledger { memory, bells, entries: entries_for(slots), hint: AtomicUsize::new(0) };
        ledger.check_namespace(getpid())?;
        Ok(ledger)
    }

    /// Fails where pids of this ledger mean nothing: its holders would all seem to be dead.
    pub(crate) fn check_namespace(&self, me: Pid) -> Result<()> {
        let said = |word| self.memory.word(word).load(IN_ORDER);
        if said(MARKS) != marks() as u64 {
            return Err(Error::new(
                ErrorKind::Elsewhere,
                "the pool of slots tells processes apart in another way than this process can \
                 (which may be in a sandbox without pidfds, or have JOBSERVER_PORTABLE set)",
            ));
        }
        if said(NAMESPACE) == Namespace::of_this(me).0 {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Elsewhere,
            "the pool of slots belongs to another pid or time namespace than this process (which \
             may be in a container or sandbox, or without /proc): from here, nobody could tell \
             which of its holders live",
        ))
    }

    pub(crate) fn slots(&self) -> usize {
        self.memory.word(SLOTS).load(IN_ORDER) as usize
    }

    /// How MAKEFLAGS is to name the pool: see `Style`.
    pub(crate) fn style(&self) -> &AtomicU64 {
        self.memory.word(STYLE)
    }

    /// How many processes are asleep until a slot is free; they want to hear of new holders.
    /// One that was killed in its sleep counts for ever, which costs others a ring a launch.
    pub(crate) fn waiters(&self) -> &AtomicU64 {
        self.memory.word(WAITERS)
    }

    /// How many makes are above what the pool was made for.
    pub(crate) fn level(&self) -> u64 {
        self.memory.word(LEVEL).load(IN_ORDER)
    }

    /// How many of those who sleep could go on with a slot that is lent to them.
    pub(crate) fn borrowers(&self) -> &AtomicU64 {
        self.memory.word(BORROWERS)
    }

    pub(crate) fn bells(&self) -> &Bells {
        &self.bells
    }

    /// Tells all who wait to look again who holds what. Always *before* an entry with a slot
    /// in it has another holder, who may be killed at once: they must be awake by then.
    fn ring(&self) {
        if self.waiters().load(IN_ORDER) > 0 {
            self.bells.change.ring();
        }
    }

    /// Tells those who might borrow a slot that one can be borrowed. After it can: should its
    /// borrower, or its holder, be killed before this, its death tells them.
    fn ring_open(&self) {
        if self.borrowers().load(IN_ORDER) > 0 {
            self.bells.open.ring();
        }
    }

    fn field(&self, index: u32, field: usize) -> &AtomicU64 {
        self.memory.word(FIRST_ENTRY + index as usize * ENTRY + field)
    }

    fn offset(&self, index: u32, field: usize) -> usize {
        FIRST_ENTRY + index as usize * ENTRY + field
    }

    fn holder(&self, index: u32) -> Holder {
        Holder::from_word(self.field(index, HOLDER).load(IN_ORDER))
    }

    /// Changes an entry's holder if it is still this one.
    fn change_holder(&self, index: u32, from: Holder, to: Holder) -> bool {
        let (from, to) = (from.to_word(), to.to_word());
        self.field(index, HOLDER).compare_exchange(from, to, IN_ORDER, IN_ORDER).is_ok()
    }

    fn borrower(&self, index: u32) -> Borrower {
        Borrower::from_word(self.field(index, BORROWER).load(IN_ORDER))
    }

    /// Changes to whom an entry is lent if that is still so.
    fn change_borrower(&self, index: u32, from: Borrower, to: Borrower) -> bool {
        let (from, to) = (from.to_word(), to.to_word());
        self.field(index, BORROWER).compare_exchange(from, to, IN_ORDER, IN_ORDER).is_ok()
    }

    /// The tenure that a word names, if it can be one of this ledger's.
    fn tenure(&self, word: u64) -> Option<Tenure> {
        Tenure::from_word(word).filter(|tenure| (tenure.index as usize) < self.entries)
    }

    /// Makes a free entry ours.
    fn claim(&self, me: Named) -> Option<Tenure> {
        let hint = self.hint.load(Ordering::Relaxed);
        let index = (hint..self.entries).chain(0..hint).find(|index| {
            let free = self.holder(*index as u32);
            let generation = (free.generation + 1) & GENERATIONS;
            free.by == By::Nobody
                && self.change_holder(*index as u32, free, Holder::process(me, generation))
        })?;
        self.hint.store(index + 1, Ordering::Relaxed);
        self.memory.word(USED).fetch_max(index as u64 + 1, IN_ORDER);
        let index = index as u32;
        self.field(index, OWNER).store(me.to_word(), IN_ORDER);
        self.field(index, SINCE).store(now(), Ordering::Relaxed);
        Some(Tenure { index, generation: self.holder(index).generation })
    }

    fn set_free(&self, tenure: Tenure) {
        let Tenure { index, generation } = tenure;
        let free = Holder { by: By::Nobody, generation, launching: false };
        self.field(index, OWNER).store(0, IN_ORDER);
        self.field(index, HOLDER).store(free.to_word(), IN_ORDER);
        self.hint.fetch_min(index as usize, Ordering::Relaxed);
    }

    /// Takes a slot if one is free at this moment; never waits.
    pub(crate) fn take(&self, pipe: &TokenPipe, me: Named) -> Result<Option<Tenure>> {
        let doing = "cannot take a slot";
        // First, lest those who wait wake each other for ever by trying in vain.
        let others_wait = self.waiters().load(IN_ORDER) > 0;
        if !pipe.may_have_any(others_wait).map_err(Error::system(doing))? {
            return Ok(None);
        }
        self.check_namespace(me.pid)?;
        let Some(tenure) = self.claim(me) else { return Ok(None) };
        self.ring();
        let read = loop {
            match pipe.take_into(&self.memory, self.offset(tenure.index, TOKEN)) {
                Err(Errno::INTR) => {}
                read => break read,
            }
        };
        match read {
            Ok(0) | Err(Errno::AGAIN) => {
                self.set_free(tenure);
                Ok(None)
            }
            Err(e) => {
                self.set_free(tenure);
                Err(Error::system(doing)(e))
            }
            Ok(_) => {
                self.field(tenure.index, TOKEN).fetch_or(TAKEN, IN_ORDER);
                Ok(Some(tenure))
            }
        }
    }

    /// The slot that this program was started on by a program that knows no ledger: it is ours,
    /// to be borrowed by jobs of ours. None if there is no room for more entries.
    pub(crate) fn claim_implicit(&self) -> Result<Option<Tenure>> {
        let me = Named::me();
        self.check_namespace(me.pid)?;
        let Some(tenure) = self.claim(me) else { return Ok(None) };
        self.field(tenure.index, TOKEN).store(IMPLICIT, IN_ORDER);
        self.open_to_borrowers(tenure);
        Ok(Some(tenure))
    }

    /// The slot that is lent to whoever comes first, if there is one.
    pub(crate) fn common(&self) -> Option<Tenure> {
        self.tenure(self.memory.word(COMMON).load(IN_ORDER))
    }

    /// Has a slot of ours lent to whoever is below and asks for it, from now on: we run on it.
    pub(crate) fn open_to_borrowers(&self, tenure: Tenure) {
        self.open_below(tenure, Named::me_cheaply(getpid(), None));
    }

    /// The same for a slot of ours that is about to be this process's.
    fn open_below(&self, tenure: Tenure, holder: Named) {
        let open = Borrower::open(tenure.generation, By::Process(holder));
        if self.change_borrower(tenure.index, Borrower::Closed, open) {
            self.ring_open();
        }
    }

    /// An entry for a job that is to run on the slot of `lender`: this process's own, or that of
    /// one that this program is below, and which waits for it. None if it is lent already, or
    /// cannot be borrowed, or if there is no room for more entries.
    /// Whoever is `below` the lender's holder, and does not lend it itself, may borrow it again.
    pub(crate) fn lend(&self, lender: Lender, me: Named, below: bool) -> Result<Option<Tenure>> {
        let Lender(lender, open) = lender;
        if self.borrower(lender.index) != open {
            return Ok(None);
        }
        self.check_namespace(me.pid)?;
        let Some(loan) = self.claim(me) else { return Ok(None) };
        let from = lender.to_word() | if below { FROM_ABOVE } else { 0 };
        self.field(loan.index, LENDER).store(from, IN_ORDER);
        if self.change_borrower(lender.index, open, Borrower::Lent { loan, passed_on: false }) {
            return Ok(Some(loan));
        } // else somebody was quicker, or its holder has given it back
        self.field(loan.index, LENDER).store(0, IN_ORDER);
        self.set_free(loan);
        Ok(None)
    }

    /// The slots that a process runs on, or, if it is another, is just starting a program on:
    /// whether there is any, and one that can be borrowed.
    pub(crate) fn run_by(&self, process: Named) -> (bool, Option<Lender>) {
        let is_this = process.pid == getpid();
        let mut any = false;
        for entry in self.in_use().filter(|entry| entry.process.may_be(process)) {
            let index = entry.tenure.index;
            let open = Borrower::open(entry.tenure.generation, By::Process(process));
            match self.borrower(index) {
                borrower if borrower == open => return (true, Some(Lender(entry.tenure, open))),
                Borrower::Lent { passed_on: false, .. } => any = true,
                _ => any |= !is_this && self.is_launching(index),
            }
        }
        (any, None)
    }

    /// A slot of this holder's, if it is there to be borrowed.
    fn open_of(&self, tenure: Tenure, holder: By) -> Option<Lender> {
        let open = Borrower::open(tenure.generation, holder);
        (self.borrower(tenure.index) == open).then_some(Lender(tenure, open))
    }

    /// A slot of this process's, if it can be lent.
    pub(crate) fn open_of_mine(&self, tenure: Tenure, me: Named) -> Option<Lender> {
        self.open_of(tenure, By::Process(me))
    }

    /// The slot that is lent to whoever comes first, if there is one and it can be borrowed.
    pub(crate) fn open_common(&self) -> Option<Lender> {
        self.open_of(self.common()?, By::Pool)
    }

    /// The slot of a process above that this one, or one that this is a loan of, was borrowed from by
    /// a program below. (What a job has lent itself, that job runs on when it has come back.)
    pub(crate) fn borrowed_from(&self, loan: Tenure) -> Option<Tenure> {
        let lender = |loan: Tenure| self.field(loan.index, LENDER).load(IN_ORDER);
        let mut next = lender(loan);
        for _ in 0..LONGEST {
            let found = self.tenure(next)?;
            if next & FROM_ABOVE != 0 {
                return Some(found);
            }
            next = lender(found);
        }
        None
    }

    /// The process that holds this one; None if it is the pool's.
    pub(crate) fn holder_of(&self, tenure: Tenure) -> Option<Named> {
        self.holder(tenure.index).named()
    }

    /// Whether a slot of ours is lent, and has not come back.
    pub(crate) fn is_lent(&self, tenure: Tenure) -> bool {
        self.borrower(tenure.index).loan().is_some()
    }

    /// Says that we are launching a job on this slot: see [`Ledger::adopt`]. Harmless when
    /// repeated, and when the job has the slot already.
    pub(crate) fn launch(&self, tenure: Tenure) {
        loop {
            let ours = self.holder(tenure.index);
            if ours.launching || ours.generation != tenure.generation {
                return;
            }
            let me = Named::me();
            if !ours.is(me) {
                return;
            }
            // Not who claimed the entry, if that was handed over to us with its slot.
            self.field(tenure.index, OWNER).store(me.to_word(), IN_ORDER);
            if self.change_holder(tenure.index, ours, Holder { launching: true, ..ours }) {
                return;
            } // else our owner has just given us our mark: see `born`
        }
    }

    /// In a job: takes over the slot that its owner launched it on. False if the owner has
    /// died or given up, and the slot is no longer for us: then nothing may run.
    pub(crate) fn adopt(&self, tenure: Tenure) -> Result<bool> {
        let pid = getpid();
        self.check_namespace(pid)?;
        if (tenure.index as usize) >= self.entries {
            return Ok(false);
        }
        loop {
            let launching = self.holder(tenure.index);
            if !launching.launching || launching.generation != tenure.generation {
                return Ok(false);
            }
            self.ring();
            // If we have not been named yet, our owner does so: see `born`.
            let me = Named::me_cheaply(pid, launching.named());
            if self.change_holder(tenure.index, launching, Holder::process(me, tenure.generation)) {
                self.field(tenure.index, SINCE).store(now(), Ordering::Relaxed);
                self.open_to_borrowers(tenure);
                return Ok(true);
            } // else the owner may just have said who we are: see `born`
        }
    }

    /// Says that the process is born that we launch on this slot: from now on its death frees
    /// the slot, and not only ours. It `adopts` the slot itself when it begins, or else knows
    /// nothing of slots.
    pub(crate) fn born(&self, tenure: Tenure, job: Named, adopts: bool) {
        loop {
            let holder = self.holder(tenure.index);
            let ours = holder.generation == tenure.generation;
            // It has adopted it already, without knowing its own mark.
            let nameless = holder.named() == Some(Named { mark: 0, ..job }) && job.mark != 0;
            if !ours || !holder.launching && !nameless {
                return;
            }
            let launching = holder.launching && adopts;
            if !adopts {
                // To programs below it, and as long as the slot is ours: later, the command may be
                // dead, and this another taking.
                self.open_below(tenure, job);
            }
            let born = Holder { by: By::Process(job), launching, ..holder };
            self.ring();
            if self.change_holder(tenure.index, holder, born) {
                break;
            } // else it has just adopted it
        }
        if !adopts {
            self.ring_open(); // it can be borrowed only now
        }
    }

    /// Gives a slot back that is ours. If it is lent, its borrower will do so at its end. False if
    /// this process cannot: then it must end, so that the slot is free.
    pub(crate) fn give_back(&self, tenure: Tenure, pipe: &TokenPipe) -> bool {
        let mut next = Some(tenure);
        for _ in 0..LONGEST {
            let Some(ours) = next else { break };
            match self.give_back_one(ours, pipe) {
                Ok(lender) => next = lender,
                Err(OutOfReach) => return false,
            }
        }
        true
    }

    /// Gives one entry back. Returns the lender's, if that is now for us to give back.
    fn give_back_one(
        &self,
        tenure: Tenure,
        pipe: &TokenPipe,
    ) -> std::result::Result<Option<Tenure>, OutOfReach> {
        let (holder, me) = (self.holder(tenure.index), getpid());
        let ours = holder.generation == tenure.generation && holder.is(Named::me_cheaply(me, None));
        if !ours || self.check_namespace(me).is_err() {
            return Ok(None); // whoever has it now, it is theirs
        }
        if self.close_or_pass_on(tenure) {
            return Ok(None);
        }
        let token = self.field(tenure.index, TOKEN);
        if !matches!(token.load(IN_ORDER), NONE | IMPLICIT) {
            self.put_back(tenure, pipe)?;
        }
        let lender = self.field(tenure.index, LENDER);
        let lent = self.tenure(lender.load(IN_ORDER));
        let passed_on = lent.filter(|lent| self.return_loan(*lent, tenure));
        // In this order: an entry without a token has nothing more to send.
        token.store(NONE, IN_ORDER);
        self.field(tenure.index, SENDING).store(0, IN_ORDER);
        lender.store(0, IN_ORDER);
        self.set_free(tenure);
        if let (Some(lent), None) = (lent, passed_on) {
            self.reclaim(lent.index, pipe); // if its holder has died meanwhile
        }
        Ok(passed_on)
    }

    /// Before a slot is given back: sees to it that nobody borrows it any more. If it is lent,
    /// leaves it to its borrower for good: whether that is so.
    fn close_or_pass_on(&self, tenure: Tenure) -> bool {
        // Again if it has been borrowed, or has come back, in between.
        loop {
            if self.close(tenure) {
                return false;
            }
            if self.pass_on(tenure) {
                return true;
            }
        }
    }

    /// Before a slot of ours becomes a job's: sees to it that nobody borrows it meanwhile. False if
    /// it is lent.
    pub(crate) fn close(&self, tenure: Tenure) -> bool {
        match self.borrower(tenure.index) {
            Borrower::Closed => true,
            open @ Borrower::Open { .. } => {
                self.change_borrower(tenure.index, open, Borrower::Closed)
            }
            Borrower::Lent { .. } => false,
        }
    }

    /// If a slot of ours is lent, leaves it to its borrower for good: whether that is so.
    pub(crate) fn pass_on(&self, tenure: Tenure) -> bool {
        match self.borrower(tenure.index) {
            // Only its holder does this, and only the borrower ends it: it fails if it has just done
            // so.
            lent @ Borrower::Lent { loan, passed_on } => {
                let passed = Borrower::Lent { loan, passed_on: true };
                if !passed_on {
                    self.ring(); // whoever waits has to watch the borrower now
                }
                passed_on || self.change_borrower(tenure.index, lent, passed)
            }
            _ => false,
        }
    }

    /// Puts the byte back, unless that has been done: in one step with the note of it where
    /// the pipe allows that.
    fn put_back(&self, tenure: Tenure, pipe: &TokenPipe) -> std::result::Result<(), OutOfReach> {
        let byte = self.field(tenure.index, TOKEN).load(IN_ORDER).to_ne_bytes()[0];
        let sending = self.field(tenure.index, SENDING);
        let unsent = (TABLE * WORD) as u64 + u64::from(byte);
        if sending.load(IN_ORDER) == unsent + 1 {
            return Ok(());
        }
        let end = pipe.end_to_write().ok_or(OutOfReach)?;
        sending.store(unsent, IN_ORDER);
        if pipe.send_from(&self.memory, self.offset(tenure.index, SENDING), end.as_fd()) {
            return Ok(());
        }
        // In two steps. A kill in between loses the slot, which is the lesser evil: one slot
        // too many would oversubscribe the machine.
        sending.store(unsent + 1, IN_ORDER);
        if TokenPipe::put_back(byte, end.as_fd()) {
            return Ok(());
        }
        sending.store(unsent, IN_ORDER);
        Err(OutOfReach)
    }

    /// Ends a loan: whether its lender wanted the slot no more, so that we hold it now.
    fn return_loan(&self, lender: Tenure, loan: Tenure) -> bool {
        let [ours, passed_on] = [false, true].map(|passed_on| Borrower::Lent { loan, passed_on });
        // While it is lent, it has no other holder.
        let open = Borrower::open(lender.generation, self.holder(lender.index).by);
        if self.change_borrower(lender.index, ours, open) {
            self.ring_open();
            return false;
        }
        if self.borrower(lender.index) != passed_on {
            return false;
        }
        // Who was to hear of its holder's end has heard of it by now, or never will: we are watched
        // by all.
        self.field(lender.index, OWNER).store(0, IN_ORDER);
        self.ring();
        // Nobody else touches an entry that was passed on to us.
        let me = Holder::process(Named::me(), lender.generation);
        self.field(lender.index, HOLDER).store(me.to_word(), IN_ORDER);
        self.field(lender.index, BORROWER).store(Borrower::Closed.to_word(), IN_ORDER);
        true
    }

    /// Takes back a slot, loans of it included, if its holder is dead.
    fn reclaim(&self, index: u32, pipe: &TokenPipe) -> Reclaimed {
        self.reclaim_chain(index, pipe, LONGEST)
    }

    /// The same in a chain of so many loans at most.
    fn reclaim_chain(&self, index: u32, pipe: &TokenPipe, left: usize) -> Reclaimed {
        let holder = self.holder(index);
        match holder.by {
            By::Pool => Reclaimed::Lent,
            By::Process(named) if identity::is_alive(named) => Reclaimed::ByAnother,
            By::Process(_) => self.take_over(index, holder, pipe, left),
            By::Nobody => Reclaimed::Done,
        }
    }

    /// The same, where the holder is known to be dead.
    pub(crate) fn reclaim_from(&self, dead: Tenant, pipe: &TokenPipe) -> Reclaimed {
        let Tenant { tenure, process, .. } = dead;
        let holder = self.holder(tenure.index);
        if holder.named() != Some(process) || holder.generation != tenure.generation {
            return Reclaimed::ByAnother;
        }
        self.take_over(tenure.index, holder, pipe, LONGEST)
    }

    /// Takes a slot back on which we launched a job: if the job never took it over, or if it
    /// did, is dead (`ended` then), and had not given it back.
    pub(crate) fn settle(&self, tenure: Tenure, ended: Option<Named>, pipe: &TokenPipe) {
        let holder = self.holder(tenure.index);
        // (Or the job has adopted it, and launches one of its own on it.)
        let still_ours = || {
            let me = Named::me();
            holder.is(me) || self.field(tenure.index, OWNER).load(IN_ORDER) == me.to_word()
        };
        let never_adopted = holder.launching && still_ours();
        let died = ended.is_some_and(|job| holder.is(job));
        let to_come_back = holder.generation == tenure.generation && (never_adopted || died);
        let left = match to_come_back {
            true => self.take_over(tenure.index, holder, pipe, LONGEST) != Reclaimed::Done,
            // Whoever is giving it back for the job, which has ended, is no job of ours.
            false => ended.is_some() && holder.by != By::Nobody,
        };
        if left {
            self.disown(tenure);
        }
    }

    /// Takes over from a holder that is known to be dead, and gives back.
    fn take_over(&self, index: u32, dead: Holder, pipe: &TokenPipe, left: usize) -> Reclaimed {
        // Read only now, when the holder can change it no more. (A program below the holder may
        // still borrow the slot: then that program gives it back.)
        if let Borrower::Lent { loan, passed_on } = self.borrower(index) {
            if (loan.index as usize) >= self.entries || left == 0 {
                return Reclaimed::Lent; // it is damaged
            }
            let holder = self.holder(loan.index);
            let there = holder.generation == loan.generation;
            if there && holder.named().is_some_and(identity::is_alive) {
                return Reclaimed::Lent;
            }
            let reclaimed = self.reclaim_chain(loan.index, pipe, left - 1);
            if passed_on || matches!(reclaimed, Reclaimed::Lent | Reclaimed::OutOfReach) {
                return reclaimed; // with the loan, or as it is lent on to somebody who lives
            }
            if self.borrower(index).loan().is_some() {
                return Reclaimed::ByAnother;
            }
        }
        // Ours, it would be found by nobody for as long as we live.
        if pipe.end_to_write().is_none() {
            return Reclaimed::OutOfReach;
        }
        self.ring();
        if !self.change_holder(index, dead, Holder::process(Named::me(), dead.generation)) {
            return Reclaimed::ByAnother;
        }
        self.give_back(Tenure { index, generation: dead.generation }, pipe);
        Reclaimed::Done
    }

    /// All entries in use, with their holders.
    pub(crate) fn in_use(&self) -> impl Iterator<Item = Tenant> + '_ {
        (0..self.used()).filter_map(|index| {
            let owner = self.field(index, OWNER).load(IN_ORDER);
            let holder = self.holder(index);
            let tenure = Tenure { index, generation: holder.generation };
            holder.named().map(|process| Tenant { tenure, process, owner })
        })
    }

    /// Whether the entry is about to be another process's: the job's that is being launched.
    pub(crate) fn is_launching(&self, index: u32) -> bool {
        self.holder(index).launching
    }

    /// The processes that hold slots as jobs of this owner.
    pub(crate) fn jobs_of(&self, owner: Named) -> Vec<Named> {
        let is_owner = |word| Named::from_word(word).is_some_and(|named| named.may_be(owner));
        let jobs = self.in_use().filter(|entry| is_owner(entry.owner));
        jobs.map(|entry| entry.process).filter(|job| !job.may_be(owner)).collect()
    }

    fn used(&self) -> u32 {
        self.memory.word(USED).load(IN_ORDER).min(self.entries as u64) as u32
    }

    /// Lets everybody, and not only this process, look after the entries of jobs whose
    /// owner will hear of their ends no more.
    pub(crate) fn disown(&self, tenure: Tenure) {
        if self.holder(tenure.index).generation == tenure.generation {
            self.field(tenure.index, OWNER).store(0, IN_ORDER);
            self.ring();
        }
    }

    /// All slots and loans held now.
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
            // What is borrowed of nobody in particular is a slot like any other.
            loan: lender.is_some() && lender != self.common(),
        })
    }
}

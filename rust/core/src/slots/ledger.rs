//! The ledger: which live process holds which slot.
//!
//! The free slots of a pool are bytes in a pipe, and a process that is killed while it holds
//! one cannot put it back. So each byte that is taken goes straight from the pipe into an
//! entry of this table, in memory that all processes of the pool share, and the entry names
//! its holder. Whoever finds an entry whose holder is dead puts the byte back.
//!
//! Every step here is a single atomic change, and the process may be killed after any of
//! them; ARCHITECTURE.md tells the protocol, and `model/` checks it with all those kills.
//! Not here: who runs on which slot and why (`slots::pool`, `slots::own`).
//!
//! ```text
//! file   = magic slots waiters used style ... table entry*          (words of 8 bytes)
//! table  = the 256 possible bytes of a token, at offset 256; never changed
//! entry  = holder token sending lender borrower owner - -
//! ```

use crate::error::{Error, ErrorKind, Result};
use crate::process::other::{self, Named};
use crate::slots::bell::PoolBell;
use crate::slots::pipe::TokenPipe;
use crate::sys::shared::{Shared, IN_ORDER, WORD};
use crate::sys::within_limit;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{getpid, Pid};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// How many entries there are beside two for each slot: whoever tries to take one has an entry
/// for a moment, and each loan has one. So deep can jobs wait in `submit` for each other.
const SPARE: usize = 2048;

/// Says what the file is, and in which version. (The bytes "jobserv" and a number.)
const MAGIC: u64 = u64::from_be_bytes(*b"jobserv\x01");

const SLOTS: usize = 1;
const WAITERS: usize = 2;
const USED: usize = 3;
const STYLE: usize = 4;
const TABLE: usize = 256 / WORD;
const FIRST_ENTRY: usize = 512 / WORD;

/// The fields of an entry, in words from its start.
const HOLDER: usize = 0;
const TOKEN: usize = 1;
const SENDING: usize = 2;
const LENDER: usize = 3;
const BORROWER: usize = 4;
const OWNER: usize = 5;
const ENTRY: usize = 8;

/// A token that is not there. A byte that is read over it makes it another word; but one of
/// NUL, which no known tool uses, only when it has been marked as taken.
const NONE: u64 = 0;
const TAKEN: u64 = u64::from_ne_bytes([0, 1, 0, 0, 0, 0, 0, 0]);

/// Names one taking of an entry: its place, and a count that tells it from later ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tenure {
    pub(crate) index: u32,
    pub(crate) generation: u16,
}

const NAMED: u64 = 1 << 63;
/// On a borrower: the lender wants its slot back no more; the borrower is to give it back.
const PASSED_ON: u64 = 1 << 62;

impl Tenure {
    /// As a word that is not 0.
    pub fn to_word(self) -> u64 {
        NAMED | u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// What [`Tenure::to_word`] made; None if that is 0.
    pub fn from_word(word: u64) -> Option<Tenure> {
        let (index, generation) = (word as u32, (word >> 32) as u16 & GENERATIONS);
        (word & NAMED != 0).then_some(Tenure { index, generation })
    }
}

const GENERATIONS: u16 = (1 << 12) - 1;

/// Who holds an entry: one word, so that it changes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holder {
    /// None for an entry that is free.
    pub(crate) process: Option<Named>,
    generation: u16,
    /// The holder is launching a job that has not taken it over yet.
    launching: bool,
}

impl Holder {
    fn me(generation: u16) -> Holder {
        Holder::of(Named::me(), generation)
    }

    fn of(process: Named, generation: u16) -> Holder {
        Holder { process: Some(process), generation, launching: false }
    }

    // pid: 22 bits, the kernel's limit; since: 29; launching: 1; generation: 12.
    fn to_word(self) -> u64 {
        let (pid, since) = self.process.map_or((0, 0), |named| (named.pid_bits(), named.since));
        u64::from(pid) << 42
            | u64::from(since) << 13
            | u64::from(self.launching) << 12
            | u64::from(self.generation)
    }

    fn from_word(word: u64) -> Holder {
        Holder {
            process: Named::from_bits((word >> 42) as u32, (word >> 13) as u32),
            generation: word as u16 & GENERATIONS,
            launching: word >> 12 & 1 == 1,
        }
    }

    fn is(self, pid: Pid) -> bool {
        self.process.is_some_and(|named| named.pid == pid)
    }
}

/// An entry in use: who holds it, and as whose job.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tenant {
    pub(crate) tenure: Tenure,
    pub(crate) process: Named,
    /// The pid of the process that will hear of the holder's end; 0 for none.
    pub(crate) owner: u32,
}

impl Tenant {
    /// Whether the entry has had no other holder meanwhile.
    pub(crate) fn is_same(&self, other: &Tenant) -> bool {
        self.tenure == other.tenure && self.process == other.process
    }
}

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
}

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
fn occupy(file: &OwnedFd, size: usize) -> rustix::io::Result<()> {
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

/// The ledger of one pool.
#[derive(Debug)]
pub(crate) struct Ledger {
    memory: Shared,
    bell: PoolBell,
    entries: usize,
    /// Where to look for a free entry first.
    hint: AtomicUsize,
}

impl Ledger {
    /// Makes an empty file the ledger of a pool of `slots` slots.
    pub(crate) fn create(
        file: OwnedFd,
        bell: PoolBell,
        slots: usize,
    ) -> rustix::io::Result<Ledger> {
        let entries = 2 * slots + SPARE;
        let words = FIRST_ENTRY + entries * ENTRY;
        // All of it now: where the file system is full later, a write to a page of the mapping
        // would kill its writer.
        within_limit(|| occupy(&file, words * WORD))?;
        let table: [u8; 256] = std::array::from_fn(|byte| byte as u8);
        rustix::io::pwrite(&file, &table, (TABLE * WORD) as u64)?;
        let memory = Shared::map(file, words)?;
        let ledger = Ledger { memory, bell, entries, hint: AtomicUsize::new(0) };
        ledger.memory.word(SLOTS).store(slots as u64, IN_ORDER);
        ledger.memory.word(0).store(MAGIC, IN_ORDER);
        Ok(ledger)
    }

    /// Opens a ledger that another process has made.
    pub(crate) fn open(file: OwnedFd, bell: PoolBell) -> Result<Ledger> {
        let doing = "cannot open the ledger of a pool";
        let size = rustix::fs::fstat(&file).map_err(Error::system(doing))?.st_size;
        let words = usize::try_from(size).unwrap_or(0) / WORD;
        if words < FIRST_ENTRY {
            return Err(Error::new(ErrorKind::Protocol, "this is not the ledger of a pool"));
        }
        let entries = (words - FIRST_ENTRY) / ENTRY;
        let memory = Shared::map(file, words).map_err(Error::system(doing))?;
        if memory.word(0).load(IN_ORDER) != MAGIC {
            return Err(Error::new(
                ErrorKind::Protocol,
                "the pool's ledger is of another version of jobserver",
            ));
        }
        Ok(Ledger { memory, bell, entries, hint: AtomicUsize::new(0) })
    }

    pub(crate) fn slots(&self) -> usize {
        self.memory.word(SLOTS).load(IN_ORDER) as usize
    }

    /// 1 if MAKEFLAGS is to name the pool's pipe by descriptors.
    pub(crate) fn style(&self) -> &AtomicU64 {
        self.memory.word(STYLE)
    }

    /// How many processes are asleep until a slot is free; they want to hear of new holders.
    /// One that was killed in its sleep counts for ever, which costs others a ring a launch.
    pub(crate) fn waiters(&self) -> &AtomicU64 {
        self.memory.word(WAITERS)
    }

    pub(crate) fn bell(&self) -> &PoolBell {
        &self.bell
    }

    /// Tells all who wait to look again who holds what. Always *before* an entry with a slot
    /// in it has another holder, who may be killed at once: they must be awake by then.
    fn ring(&self) {
        if self.waiters().load(IN_ORDER) > 0 {
            self.bell.ring();
        }
    }

    fn field(&self, index: u32, field: usize) -> &AtomicU64 {
        self.memory.word(FIRST_ENTRY + index as usize * ENTRY + field)
    }

    fn offset(&self, index: u32, field: usize) -> usize {
        FIRST_ENTRY + index as usize * ENTRY + field
    }

    pub(crate) fn holder(&self, index: u32) -> Holder {
        Holder::from_word(self.field(index, HOLDER).load(IN_ORDER))
    }

    /// Changes an entry's holder if it is still this one.
    fn change_holder(&self, index: u32, from: Holder, to: Holder) -> bool {
        let (from, to) = (from.to_word(), to.to_word());
        self.field(index, HOLDER).compare_exchange(from, to, IN_ORDER, IN_ORDER).is_ok()
    }

    /// Makes a free entry ours.
    fn claim(&self) -> Option<Tenure> {
        let me = Named::me();
        let hint = self.hint.load(Ordering::Relaxed);
        let index = (hint..self.entries).chain(0..hint).find(|index| {
            let free = self.holder(*index as u32);
            let generation = (free.generation + 1) & GENERATIONS;
            free.process.is_none()
                && self.change_holder(*index as u32, free, Holder::of(me, generation))
        })?;
        self.hint.store(index + 1, Ordering::Relaxed);
        self.memory.word(USED).fetch_max(index as u64 + 1, IN_ORDER);
        let index = index as u32;
        self.field(index, OWNER).store(me.pid_bits().into(), IN_ORDER);
        Some(Tenure { index, generation: self.holder(index).generation })
    }

    fn set_free(&self, tenure: Tenure) {
        let free = Holder { process: None, generation: tenure.generation, launching: false };
        self.field(tenure.index, HOLDER).store(free.to_word(), IN_ORDER);
        self.hint.fetch_min(tenure.index as usize, Ordering::Relaxed);
    }

    /// Takes a slot if one is free at this moment; never waits.
    pub(crate) fn take(&self, pipe: &TokenPipe) -> rustix::io::Result<Option<Tenure>> {
        // First, lest those who wait wake each other for ever by trying in vain.
        if pipe.free()? == 0 {
            return Ok(None);
        }
        let Some(tenure) = self.claim() else { return Ok(None) };
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
                Err(e)
            }
            Ok(_) => {
                self.field(tenure.index, TOKEN).fetch_or(TAKEN, IN_ORDER);
                Ok(Some(tenure))
            }
        }
    }

    /// An entry for a job that is to run on the slot of `lender`, which must be ours and not
    /// lent. None if there is no room for more entries.
    pub(crate) fn lend(&self, lender: Tenure) -> Option<Tenure> {
        let loan = self.claim()?;
        self.field(loan.index, LENDER).store(lender.to_word(), IN_ORDER);
        self.field(lender.index, BORROWER).store(loan.to_word(), IN_ORDER);
        Some(loan)
    }

    /// Whether a slot of ours is lent, and has not come back.
    pub(crate) fn is_lent(&self, tenure: Tenure) -> bool {
        self.field(tenure.index, BORROWER).load(IN_ORDER) != 0
    }

    /// Says that we are launching a job on this slot: see [`Ledger::adopt`]. Harmless when
    /// repeated, and when the job has the slot already.
    pub(crate) fn launch(&self, tenure: Tenure) {
        let ours = self.holder(tenure.index);
        if ours.launching || ours.generation != tenure.generation {
            return;
        }
        let me = Named::me();
        if ours.is(me.pid) {
            // Not who claimed the entry, if that was handed over to us with its slot.
            self.field(tenure.index, OWNER).store(me.pid_bits().into(), IN_ORDER);
            self.change_holder(tenure.index, ours, Holder { launching: true, ..ours });
        }
    }

    /// In a job: takes over the slot that its owner launched it on. False if the owner has
    /// died or given up, and the slot is no longer for us: then nothing may run.
    pub(crate) fn adopt(&self, tenure: Tenure) -> bool {
        loop {
            let launching = self.holder(tenure.index);
            if !launching.launching || launching.generation != tenure.generation {
                return false;
            }
            self.ring();
            if self.change_holder(tenure.index, launching, Holder::me(tenure.generation)) {
                return true;
            } // else the owner may just have said who we are: see `born`
        }
    }

    /// Says that the process is born that we launch on this slot: from now on its death frees
    /// the slot, and not only ours. It `adopts` the slot itself when it begins, or else knows
    /// nothing of slots.
    pub(crate) fn born(&self, tenure: Tenure, pid: Pid, adopts: bool) {
        let holder = self.holder(tenure.index);
        if holder.generation == tenure.generation && holder.launching {
            let process = Some(Named::now(pid));
            let born = Holder { process, launching: adopts, ..holder };
            self.ring();
            self.change_holder(tenure.index, holder, born); // unless it has just adopted it
        }
    }

    /// Gives a slot back that is ours. If it is lent, its borrower will do so at its end.
    pub(crate) fn give_back(&self, tenure: Tenure, pipe: &TokenPipe) {
        let mut next = Some(tenure);
        while let Some(ours) = next {
            next = self.give_back_one(ours, pipe);
        }
    }

    /// Gives one entry back. Returns the lender's, if that is now for us to give back.
    fn give_back_one(&self, tenure: Tenure, pipe: &TokenPipe) -> Option<Tenure> {
        let holder = self.holder(tenure.index);
        if holder.generation != tenure.generation || !holder.is(getpid()) {
            return None; // whoever has it now, it is theirs
        }
        if self.pass_on(tenure) {
            return None;
        }
        let token = self.field(tenure.index, TOKEN);
        if token.load(IN_ORDER) != NONE {
            self.put_back(tenure, pipe);
        }
        let lender = self.field(tenure.index, LENDER);
        let lent = Tenure::from_word(lender.load(IN_ORDER));
        let passed_on = lent.filter(|lent| self.return_loan(*lent, tenure));
        // In this order: an entry without a token has nothing more to send.
        token.store(NONE, IN_ORDER);
        self.field(tenure.index, SENDING).store(0, IN_ORDER);
        lender.store(0, IN_ORDER);
        self.field(tenure.index, OWNER).store(0, IN_ORDER);
        self.set_free(tenure);
        if let (Some(lent), None) = (lent, passed_on) {
            self.reclaim(lent.index, pipe); // if its holder has died meanwhile
        }
        passed_on
    }

    /// If a slot of ours is lent, leaves it to its borrower for good: whether that is so.
    pub(crate) fn pass_on(&self, tenure: Tenure) -> bool {
        let borrower = self.field(tenure.index, BORROWER);
        let lent = borrower.load(IN_ORDER);
        // Only we set this, and only the borrower clears it: it fails if it has just ended.
        lent != 0
            && (lent & PASSED_ON != 0
                || borrower.compare_exchange(lent, lent | PASSED_ON, IN_ORDER, IN_ORDER).is_ok())
    }

    /// Puts the byte back, unless that has been done: in one step with the note of it where
    /// the pipe allows that.
    fn put_back(&self, tenure: Tenure, pipe: &TokenPipe) {
        let byte = self.field(tenure.index, TOKEN).load(IN_ORDER).to_ne_bytes()[0];
        let sending = self.field(tenure.index, SENDING);
        let unsent = (TABLE * WORD) as u64 + u64::from(byte);
        if sending.load(IN_ORDER) == unsent + 1 {
            return;
        }
        sending.store(unsent, IN_ORDER);
        if pipe.send_from(&self.memory, self.offset(tenure.index, SENDING)) {
            return;
        }
        // In two steps. A kill in between loses the slot, which is the lesser evil: one slot
        // too many would oversubscribe the machine.
        sending.store(unsent + 1, IN_ORDER);
        pipe.put_back(byte);
    }

    /// Ends a loan: whether its lender wanted the slot no more, so that we hold it now.
    fn return_loan(&self, lender: Tenure, loan: Tenure) -> bool {
        let borrower = self.field(lender.index, BORROWER);
        let (ours, passed_on) = (loan.to_word(), loan.to_word() | PASSED_ON);
        if borrower.compare_exchange(ours, 0, IN_ORDER, IN_ORDER).is_ok()
            || borrower.load(IN_ORDER) != passed_on
        {
            return false;
        }
        self.ring();
        // Nobody else touches an entry that was passed on to us.
        self.field(lender.index, HOLDER).store(Holder::me(lender.generation).to_word(), IN_ORDER);
        borrower.store(0, IN_ORDER);
        true
    }

    /// Takes back a slot, loans of it included, if its holder is dead.
    pub(crate) fn reclaim(&self, index: u32, pipe: &TokenPipe) -> Reclaimed {
        let holder = self.holder(index);
        match holder.process {
            Some(named) if other::is_alive(named) => Reclaimed::ByAnother,
            Some(_) => self.take_over(index, holder, pipe),
            None => Reclaimed::Done,
        }
    }

    /// The same, where the holder is known to be dead.
    pub(crate) fn reclaim_from(&self, dead: Tenant, pipe: &TokenPipe) -> Reclaimed {
        let Tenant { tenure, process, .. } = dead;
        let holder = self.holder(tenure.index);
        if holder.process != Some(process) || holder.generation != tenure.generation {
            return Reclaimed::ByAnother;
        }
        self.take_over(tenure.index, holder, pipe)
    }

    /// Takes a slot back on which we launched a job: if the job never took it over, or if it
    /// did, is dead (`ended` then), and had not given it back.
    pub(crate) fn settle(&self, tenure: Tenure, ended: Option<Pid>, pipe: &TokenPipe) {
        let holder = self.holder(tenure.index);
        let never_adopted = holder.launching;
        let died = ended.is_some_and(|job| holder.is(job));
        let to_come_back = holder.generation == tenure.generation && (never_adopted || died);
        let left = match to_come_back {
            true => self.take_over(tenure.index, holder, pipe) != Reclaimed::Done,
            // Whoever is giving it back for the job, which has ended, is no job of ours.
            false => ended.is_some() && holder.process.is_some(),
        };
        if left {
            self.disown(tenure);
        }
    }

    /// Takes over from a holder that is known to be dead, and gives back.
    fn take_over(&self, index: u32, dead: Holder, pipe: &TokenPipe) -> Reclaimed {
        // Read only now, when the holder can change it no more.
        let borrower = self.field(index, BORROWER).load(IN_ORDER);
        if let Some(loan) = Tenure::from_word(borrower) {
            let holder = self.holder(loan.index);
            let there = holder.generation == loan.generation && holder.process.is_some();
            if there && holder.process.is_some_and(other::is_alive) {
                return Reclaimed::Lent;
            }
            let reclaimed = self.reclaim(loan.index, pipe);
            if borrower & PASSED_ON != 0 {
                return reclaimed; // with the loan
            }
            if self.field(index, BORROWER).load(IN_ORDER) != 0 {
                return Reclaimed::ByAnother;
            }
        }
        self.ring();
        if !self.change_holder(index, dead, Holder::me(dead.generation)) {
            return Reclaimed::ByAnother;
        }
        self.give_back(Tenure { index, generation: dead.generation }, pipe);
        Reclaimed::Done
    }

    /// All entries in use, with their holders.
    pub(crate) fn in_use(&self) -> impl Iterator<Item = Tenant> + '_ {
        (0..self.used()).filter_map(|index| {
            let owner = self.field(index, OWNER).load(IN_ORDER) as u32;
            let Holder { process, generation, .. } = self.holder(index);
            process.map(|process| Tenant { tenure: Tenure { index, generation }, process, owner })
        })
    }

    /// Whether the entry is about to be another process's: the job's that is being launched.
    pub(crate) fn is_launching(&self, index: u32) -> bool {
        self.holder(index).launching
    }

    /// The processes that hold slots as jobs of this owner.
    pub(crate) fn jobs_of(&self, owner: Pid) -> Vec<Named> {
        let owner = owner.as_raw_nonzero().get().unsigned_abs();
        let jobs = self.in_use().filter(|entry| entry.owner == owner);
        jobs.map(|entry| entry.process).filter(|job| job.pid_bits() != owner).collect()
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
        self.in_use()
            .map(|entry| {
                let field = |field| self.field(entry.tenure.index, field).load(IN_ORDER);
                (entry.process, field(TOKEN), field(BORROWER) != 0, field(LENDER) != 0)
            })
            .filter(|(_, token, _, loan)| *token != NONE || *loan)
            .map(|(process, _, lent, loan)| Held {
                pid: process.pid,
                seconds: process.seconds(),
                lent,
                loan,
            })
            .collect()
    }
}

//! The place of each word in the ledger's file.

use crate::platform::shared::WORD;

/// How many entries there are beside two for each slot. A process that tries to take a slot has an
/// entry for a moment, and each loan has one. So this bounds how deep jobs can wait in `submit` for
/// each other.
pub(super) const SPARE: usize = 2048;

/// The longest chain of loans of loans. A longer chain means that the ledger is damaged.
pub(super) const LONGEST: usize = SPARE;

/// Names the kind of file and its version: the bytes "jobserv" and a number.
pub(super) const MAGIC: u64 = u64::from_be_bytes(*b"jobserv\x05");

pub(super) const SLOTS: usize = 1;

pub(super) const WAITERS: usize = 2;

pub(super) const USED: usize = 3;

pub(super) const STYLE: usize = 4;

/// The namespace that the pids belong to. MARKS is the kind of their marks.
pub(super) const NAMESPACE: usize = 5;

pub(super) const MARKS: usize = 6;

/// How many of the waiters may borrow a slot.
pub(super) const BORROWERS: usize = 7;

/// The entry of the slot that all have in common; 0 if there is none.
pub(super) const COMMON: usize = 8;

/// How many makes are above the programs of the pool.
pub(super) const LEVEL: usize = 9;

/// How many rows of the queue were used at once; the next waiter's ticket; and how many slots were
/// taken.
pub(super) const QUEUED: usize = 10;

pub(super) const TICKETS: usize = 11;

pub(super) const TAKES: usize = 12;

/// How many waiters have gathered some of the slots that they need. Those that were killed are
/// counted for ever; that costs other waiters a look.
pub(super) const GATHERERS: usize = 13;

pub(super) const TABLE: usize = 256 / WORD;

pub(super) const FIRST_ENTRY: usize = 512 / WORD;

/// The fields of an entry, in words from its start.
pub(super) const HOLDER: usize = 0;

pub(super) const TOKEN: usize = 1;

pub(super) const SENDING: usize = 2;

pub(super) const LENDER: usize = 3;

pub(super) const BORROWER: usize = 4;

pub(super) const OWNER: usize = 5;

/// The time in seconds at which the entry got its holder, for people to read.
pub(super) const SINCE: usize = 6;

/// How many jobs are above the holder.
pub(super) const DEPTH: usize = 7;

pub(super) const ENTRY: usize = 8;

/// How many waiters the queue has room for. Others wait without a row, and come last.
pub(crate) const ROWS: usize = if cfg!(test) { 64 } else { 2048 };

/// The fields of a row of the queue, in words from its start: the process, its rank (0: it is not
/// in the queue), how many slots were taken before it entered, and whether it has gathered slots.
pub(super) const WAITER: usize = 0;

pub(super) const RANK: usize = 1;

pub(super) const ENTERED: usize = 2;

pub(super) const GATHERED: usize = 3;

pub(super) const ROW: usize = 4;

/// No token. A byte that is read over it makes it another word. A byte of NUL, which no known tool
/// uses, does so only once it is marked as `TAKEN`.
pub(super) const NONE: u64 = 0;

pub(super) const TAKEN: u64 = u64::from_ne_bytes([0, 1, 0, 0, 0, 0, 0, 0]);

/// Set in the word of a lender if a program below the lender's holder has borrowed the slot.
pub(super) const FROM_ABOVE: u64 = 1 << 60;

/// Stands in the place of a token: the slot is implicit, and has no byte.
pub(super) const IMPLICIT: u64 = u64::from_ne_bytes([0, 0, 1, 0, 0, 0, 0, 0]);

pub(super) fn entries_for(slots: usize) -> usize {
    2 * slots + SPARE
}

/// The first of the words that say which entry a slot's number was given to, after the queue.
pub(super) fn numbers_from(slots: usize) -> usize {
    FIRST_ENTRY + entries_for(slots) * ENTRY + ROWS * ROW
}

pub(super) fn words_for(slots: usize) -> usize {
    numbers_from(slots) + slots
}

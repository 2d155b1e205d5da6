//! Where in the ledger's file each word is.

use crate::platform::shared::WORD;

/// How many entries there are beside two for each slot: whoever tries to take one has an entry
/// for a moment, and each loan has one. So deep can jobs wait in `submit` for each other.
pub(super) const SPARE: usize = 2048;

/// How many loans of loans there can be: more are those of a ledger that is damaged.
pub(super) const LONGEST: usize = SPARE;

/// Says what the file is, and in which version. (The bytes "jobserv" and a number.)
pub(super) const MAGIC: u64 = u64::from_be_bytes(*b"jobserv\x02");

pub(super) const SLOTS: usize = 1;

pub(super) const WAITERS: usize = 2;

pub(super) const USED: usize = 3;

pub(super) const STYLE: usize = 4;

/// Where the pids in it are meant, and of what kind their marks are.
pub(super) const NAMESPACE: usize = 5;

pub(super) const MARKS: usize = 6;

/// How many of those who wait may borrow a slot.
pub(super) const BORROWERS: usize = 7;

/// The entry of the slot that is lent to whoever comes first; 0 if there is none.
pub(super) const COMMON: usize = 8;

/// How many makes are above what the pool was made for.
pub(super) const LEVEL: usize = 9;

pub(super) const TABLE: usize = 256 / WORD;

pub(super) const FIRST_ENTRY: usize = 512 / WORD;

/// The fields of an entry, in words from its start.
pub(super) const HOLDER: usize = 0;

pub(super) const TOKEN: usize = 1;

pub(super) const SENDING: usize = 2;

pub(super) const LENDER: usize = 3;

pub(super) const BORROWER: usize = 4;

pub(super) const OWNER: usize = 5;

/// The second in which it got its holder, for people to read.
pub(super) const SINCE: usize = 6;

pub(super) const ENTRY: usize = 8;

/// A token that is not there. A byte that is read over it makes it another word; but one of
/// NUL, which no known tool uses, only when it has been marked as taken.
pub(super) const NONE: u64 = 0;

pub(super) const TAKEN: u64 = u64::from_ne_bytes([0, 1, 0, 0, 0, 0, 0, 0]);

/// Beside a lender: a program below its holder has borrowed it.
pub(super) const FROM_ABOVE: u64 = 1 << 60;

/// In the place of a token: the slot is its holder's by what started it, and has no byte.
pub(super) const IMPLICIT: u64 = u64::from_ne_bytes([0, 0, 1, 0, 0, 0, 0, 0]);

pub(super) fn entries_for(slots: usize) -> usize {
    2 * slots + SPARE
}

pub(super) fn words_for(slots: usize) -> usize {
    FIRST_ENTRY + entries_for(slots) * ENTRY
}

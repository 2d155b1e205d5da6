//! The words of a ledger's entry: which taking of it is meant, which process holds it, and which
//! entry borrows it.
//!
//! Each is one word of shared memory, and so changes in one step. Not here: how they change, and in
//! which order (`slots::ledger`).

use crate::process::ProcessId;

/// One taking of an entry: its place, and a generation that tells it from later ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tenure {
    pub(super) index: u32,
    pub(super) generation: u16,
}

pub(super) const GENERATIONS: u16 = (1 << 12) - 1;

const NAMED: u64 = 1 << 63;
const PASSED_ON: u64 = 1 << 62;
const OPEN: u64 = 1 << 61;
const PART: u64 = 1 << 59;

impl Tenure {
    /// Converts to a word that is not 0.
    pub(super) fn to_word(self) -> u64 {
        NAMED | u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The word in the place of a lender for an entry whose slot belongs to the same job as this
    /// one's. It names no tenure.
    pub(super) fn to_part_word(self) -> u64 {
        self.to_word() & !NAMED | PART
    }

    /// Converts back from [`Tenure::to_word`]. Returns None for a word that names no tenure.
    pub(super) fn from_word(word: u64) -> Option<Tenure> {
        let (index, generation) = (word as u32, (word >> 32) as u16 & GENERATIONS);
        (word & NAMED != 0).then_some(Tenure { index, generation })
    }
}

/// What holds an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeldBy {
    /// The entry is free.
    Nobody,
    /// The pool itself, for as long as it lasts: the entry is only ever lent.
    Pool,
    Process(ProcessId),
}

/// The holder of an entry, in one taking of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) by: HeldBy,
    pub(super) generation: u16,
    /// Whether the holder is launching a job that has not adopted the slot yet.
    pub(super) launching: bool,
}

/// Stands in the place of a mark, beside pid 0.
const OF_POOL: u32 = 1;

impl Holder {
    pub(super) fn process(process: ProcessId, generation: u16) -> Holder {
        Holder { by: HeldBy::Process(process), generation, launching: false }
    }

    /// Returns the process that holds the entry, or None if the entry is free or the pool's.
    pub(super) fn named(self) -> Option<ProcessId> {
        match self.by {
            HeldBy::Process(named) => Some(named),
            _ => None,
        }
    }

    /// Returns whether `process` holds the entry. A mark of 0 fits every process of its pid.
    pub(super) fn is(self, process: ProcessId) -> bool {
        self.named().is_some_and(|named| named.may_be(process))
    }

    // pid: 22 bits, the kernel's limit; mark: 29; launching: 1; generation: 12.
    pub(super) fn to_word(self) -> u64 {
        let (pid, mark) = match self.by {
            HeldBy::Nobody => (0, 0),
            HeldBy::Pool => (0, OF_POOL),
            HeldBy::Process(named) => (named.pid_bits(), named.mark),
        };
        u64::from(pid) << 42
            | u64::from(mark) << 13
            | u64::from(self.launching) << 12
            | u64::from(self.generation)
    }

    pub(super) fn from_word(word: u64) -> Holder {
        let (pid, mark) = ((word >> 42) as u32, (word >> 13) as u32);
        let by = match ProcessId::from_bits(pid, mark) {
            Some(named) => HeldBy::Process(named),
            None if word >> 13 == 0 => HeldBy::Nobody,
            None => HeldBy::Pool,
        };
        Holder { by, generation: word as u16 & GENERATIONS, launching: word >> 12 & 1 == 1 }
    }
}

/// Which loan an entry is lent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Borrower {
    /// Not lent, and cannot be borrowed: its holder does not run on it yet, or not any more.
    Closed,
    /// Not lent, and can be borrowed, in this taking of it from this holder. `holder` is a pid (0:
    /// the pool), because a job that the entry is handed over to holds it in the same taking.
    Open { generation: u16, holder: u32 },
    /// Lent to the holder of this entry, the loan. If it is passed on, the lender does not want it
    /// back, and the borrower must give it back.
    Lent { loan: Tenure, passed_on: bool },
}

impl Borrower {
    pub(super) fn to_word(self) -> u64 {
        match self {
            Borrower::Closed => 0,
            Borrower::Open { generation, holder } => {
                OPEN | u64::from(generation) << 32 | u64::from(holder)
            }
            Borrower::Lent { loan, passed_on: false } => loan.to_word(),
            Borrower::Lent { loan, passed_on: true } => loan.to_word() | PASSED_ON,
        }
    }

    pub(super) fn from_word(word: u64) -> Borrower {
        match Tenure::from_word(word) {
            Some(loan) => Borrower::Lent { loan, passed_on: word & PASSED_ON != 0 },
            None if word & OPEN != 0 => Borrower::Open {
                generation: (word >> 32) as u16 & GENERATIONS,
                holder: word as u32,
            },
            None => Borrower::Closed,
        }
    }

    /// Returns `Open` for a taking by this holder.
    pub(super) fn open(generation: u16, holder: HeldBy) -> Borrower {
        let holder = match holder {
            HeldBy::Process(named) => named.pid_bits(),
            HeldBy::Nobody | HeldBy::Pool => 0,
        };
        Borrower::Open { generation, holder }
    }

    /// Returns the loan that it is lent to, if it is lent.
    pub(super) fn loan(self) -> Option<Tenure> {
        match self {
            Borrower::Lent { loan, .. } => Some(loan),
            _ => None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_read_as_what_it_was_made_from() {
        let me = ProcessId::current();
        for by in [HeldBy::Nobody, HeldBy::Pool, HeldBy::Process(me)] {
            for launching in [false, true] {
                let holder = Holder { by, generation: GENERATIONS, launching };
                let launching = launching && matches!(by, HeldBy::Process(_));
                let read = Holder::from_word(Holder { launching, ..holder }.to_word());
                assert_eq!(read, Holder { launching, ..holder });
            }
        }
        let loan = Tenure { index: u32::MAX, generation: GENERATIONS };
        for borrower in [
            Borrower::Closed,
            Borrower::Open { generation: 0, holder: 0 },
            Borrower::Open { generation: GENERATIONS, holder: u32::MAX },
            Borrower::Lent { loan, passed_on: false },
            Borrower::Lent { loan, passed_on: true },
        ] {
            assert_eq!(Borrower::from_word(borrower.to_word()), borrower);
        }
    }
}

//! The words of a ledger's entry: which taking of it is meant, who holds it, and who borrows it.
//!
//! Each is one word of shared memory, so that it changes at once. Not here: how they change, and in
//! which order (`slots::ledger`).

use crate::process::ProcessId;

/// Names one taking of an entry: its place, and a count that tells it from later ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tenure {
    pub(super) index: u32,
    pub(super) generation: u16,
}

pub(super) const GENERATIONS: u16 = (1 << 12) - 1;

const NAMED: u64 = 1 << 63;
const PASSED_ON: u64 = 1 << 62;
const OPEN: u64 = 1 << 61;

impl Tenure {
    /// As a word that is not 0.
    pub(super) fn to_word(self) -> u64 {
        NAMED | u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// What [`Tenure::to_word`] made; None if that is 0.
    pub(super) fn from_word(word: u64) -> Option<Tenure> {
        let (index, generation) = (word as u32, (word >> 32) as u16 & GENERATIONS);
        (word & NAMED != 0).then_some(Tenure { index, generation })
    }
}

/// Whose an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// It is free.
    Nobody,
    /// Nobody's in particular, for as long as the pool lasts: it is only ever lent.
    Pool,
    Process(ProcessId),
}

/// Who holds an entry, in which taking of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) by: By,
    pub(super) generation: u16,
    /// The holder is launching a job that has not taken it over yet.
    pub(super) launching: bool,
}

/// In the place of a mark, beside the pid of nobody.
const OF_POOL: u32 = 1;

impl Holder {
    pub(super) fn process(process: ProcessId, generation: u16) -> Holder {
        Holder { by: By::Process(process), generation, launching: false }
    }

    /// The process that holds it, unless it is free or the pool's.
    pub(super) fn named(self) -> Option<ProcessId> {
        match self.by {
            By::Process(named) => Some(named),
            _ => None,
        }
    }

    /// Whether this process holds it, or may, if it has not been told from others of its pid.
    pub(super) fn is(self, process: ProcessId) -> bool {
        self.named().is_some_and(|named| named.may_be(process))
    }

    // pid: 22 bits, the kernel's limit; mark: 29; launching: 1; generation: 12.
    pub(super) fn to_word(self) -> u64 {
        let (pid, mark) = match self.by {
            By::Nobody => (0, 0),
            By::Pool => (0, OF_POOL),
            By::Process(named) => (named.pid_bits(), named.mark),
        };
        u64::from(pid) << 42
            | u64::from(mark) << 13
            | u64::from(self.launching) << 12
            | u64::from(self.generation)
    }

    pub(super) fn from_word(word: u64) -> Holder {
        let (pid, mark) = ((word >> 42) as u32, (word >> 13) as u32);
        let by = match ProcessId::from_bits(pid, mark) {
            Some(named) => By::Process(named),
            None if word >> 13 == 0 => By::Nobody,
            None => By::Pool,
        };
        Holder { by, generation: word as u16 & GENERATIONS, launching: word >> 12 & 1 == 1 }
    }
}

/// To whom an entry is lent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Borrower {
    /// To nobody, and nobody may have it: its holder does not run on it yet, or not any more.
    Closed,
    /// To nobody, and it may be had, in this taking of it from this holder. (0: the pool. By the pid,
    /// since a job that it is handed over to holds it in the same taking.)
    Open { generation: u16, holder: u32 },
    /// To the holder of this entry, the loan. If it is passed on, its holder wants it back no
    /// more, and the borrower is to give it back.
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

    /// Open, in a taking by this holder.
    pub(super) fn open(generation: u16, holder: By) -> Borrower {
        let holder = match holder {
            By::Process(named) => named.pid_bits(),
            By::Nobody | By::Pool => 0,
        };
        Borrower::Open { generation, holder }
    }

    /// The entry that it is lent to.
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
        for by in [By::Nobody, By::Pool, By::Process(me)] {
            for launching in [false, true] {
                let holder = Holder { by, generation: GENERATIONS, launching };
                let launching = launching && matches!(by, By::Process(_));
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

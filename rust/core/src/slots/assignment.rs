//! What a job is launched on: a slot of its owner's, or none. It is sent as one word.

use super::entry::Tenure;
use crate::process::ProcessId;

/// What a job is launched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Assignment {
    /// This slot, which the job must adopt, and so many further ones that the ledger joins to it.
    Slot {
        /// The first.
        first: Tenure,
        /// The number of the others.
        further: u16,
    },
    /// No slot. Jobs of this job can borrow from there.
    WithoutSlot(BorrowedFrom),
}

/// Where a job's slot is borrowed from. Jobs of the job may borrow there once the job has given its
/// slot away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BorrowedFrom {
    /// The slot is not borrowed.
    Nobody,
    /// The nearest process above that has a slot: this job has none, and a program started it.
    NearestAbove,
    /// The slot that all programs below the pool's maker have in common.
    Common,
    /// This process above.
    Process(ProcessId),
}

const WITHOUT_SLOT: u64 = 1 << 59;
const NEAREST_ABOVE: u64 = 1 << 58;
const COMMON: u64 = 1 << 57;

/// Where the number of further slots begins, above the word of the first.
const FURTHER: u32 = 44;
const FURTHER_MASK: u64 = (1 << 14) - 1;

/// How many bits of a process's word are its pid; its mark follows. Together they are 51 bits.
const PID_BITS: u32 = 22;

impl Assignment {
    /// Returns the assignment of a job without a slot, which has none to borrow.
    pub fn none() -> Assignment {
        Assignment::WithoutSlot(BorrowedFrom::Nobody)
    }

    /// Converts to a word that is not 0.
    pub fn to_word(self) -> u64 {
        match self {
            Assignment::Slot { first, further } => {
                first.to_word() | (u64::from(further) & FURTHER_MASK) << FURTHER
            }
            Assignment::WithoutSlot(from) => from.to_word() | WITHOUT_SLOT,
        }
    }

    /// Converts back from [`Assignment::to_word`]. Any other word means no slot.
    pub fn from_word(word: u64) -> Assignment {
        match Tenure::from_word(word).filter(|_| word & WITHOUT_SLOT == 0) {
            Some(first) => {
                Assignment::Slot { first, further: (word >> FURTHER & FURTHER_MASK) as u16 }
            }
            None => Assignment::WithoutSlot(BorrowedFrom::from_word(word & !WITHOUT_SLOT)),
        }
    }
}

impl BorrowedFrom {
    /// Converts to a word of 59 bits; 0 for `Nobody`.
    pub(crate) fn to_word(self) -> u64 {
        match self {
            BorrowedFrom::Nobody => 0,
            BorrowedFrom::NearestAbove => NEAREST_ABOVE,
            BorrowedFrom::Common => COMMON,
            BorrowedFrom::Process(holder) => {
                u64::from(holder.mark) << PID_BITS | u64::from(holder.pid_bits())
            }
        }
    }

    /// Converts back from [`BorrowedFrom::to_word`].
    pub(crate) fn from_word(word: u64) -> BorrowedFrom {
        match word {
            NEAREST_ABOVE => BorrowedFrom::NearestAbove,
            COMMON => BorrowedFrom::Common,
            _ => {
                let pid = word as u32 & ((1 << PID_BITS) - 1);
                let holder = ProcessId::from_bits(pid, (word >> PID_BITS) as u32);
                holder.map_or(BorrowedFrom::Nobody, BorrowedFrom::Process)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slots::entry::GENERATIONS;

    #[test]
    fn each_assignment_is_read_as_what_it_was_made_from() {
        let froms = [
            BorrowedFrom::Nobody,
            BorrowedFrom::NearestAbove,
            BorrowedFrom::Common,
            BorrowedFrom::Process(ProcessId::current()),
        ];
        let first = Tenure { index: u32::MAX, generation: GENERATIONS };
        let most = (crate::slots::MAX_SLOTS - 1) as u16;
        let slots = [0, 1, most].map(|further| Assignment::Slot { first, further });
        for assignment in froms.map(Assignment::WithoutSlot).into_iter().chain(slots) {
            assert_eq!(Assignment::from_word(assignment.to_word()), assignment);
            assert_ne!(assignment.to_word(), 0);
        }
    }
}

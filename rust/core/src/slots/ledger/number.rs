//! The numbers of slots: a job can ask for a number that no other running job of the pool has, for
//! example to choose a GPU or a port.
//!
//! A number is given at the first question and not with the slot, so a job that does not ask pays
//! nothing. It is never given back: it is free when the entry that it was given to is free, or is in
//! another taking. Therefore no kill can lose a number.

use super::layout::*;
use super::*;

impl Ledger {
    /// Returns the number of the slot that this process runs on, less than the number of slots. A
    /// borrowed slot has the lender's number. None only if the ledger is damaged: there are never
    /// more slots in use than numbers.
    pub(crate) fn number(&self, tenure: Tenure) -> Option<usize> {
        let slot = self.lent_by(tenure).to_word();
        let known = self.numbers().position(|number| number.load(IN_ORDER) == slot);
        known.or_else(|| {
            self.numbers().position(|number| {
                let before = number.load(IN_ORDER);
                !self.is_held(before) && change(number, before, slot, |word| word == before)
            })
        })
    }

    fn numbers(&self) -> impl Iterator<Item = &Word> {
        let first = numbers_from(self.slots());
        (first..first + self.slots()).map(|word| self.memory.word(word))
    }

    /// Returns the entry that a loan was lent from in the end; for any other entry, that entry.
    fn lent_by(&self, tenure: Tenure) -> Tenure {
        let mut slot = tenure;
        for _ in 0..LONGEST {
            match self.tenure(self.field(slot.index, LENDER).load(IN_ORDER)) {
                Some(lender) => slot = lender,
                None => break,
            }
        }
        slot
    }

    /// Whether the taking of an entry that a word names is not over. It is over when the token is
    /// about to go back (SENDING) or has gone (no TOKEN), because then another job can have the
    /// slot, and needs a number. The holder is read last: until then, it was in no other taking.
    fn is_held(&self, word: u64) -> bool {
        let Some(tenure) = self.tenure(word) else { return false };
        let field = |field| self.field(tenure.index, field).load(IN_ORDER);
        let has_slot = field(TOKEN) != NONE && field(SENDING) == 0 || self.common() == Some(tenure);
        let holder = self.holder(tenure.index);
        has_slot && holder.generation == tenure.generation && holder.by != HeldBy::Nobody
    }
}

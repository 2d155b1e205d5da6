//! What the waiters of one process have gathered for jobs of several slots, by their rows.
//!
//! It belongs to the process and not to the waiting thread, because that thread may be unable to give
//! it back: it may run a signal handler that waits for slots itself.

use super::entry::Tenure;
use super::ledger::Row;
use crate::platform::getpid;
use rustix::process::Pid;
use std::collections::HashMap;

#[derive(Debug, Default)]
pub(super) struct Parts {
    /// The process whose waiters they are; a fork has none.
    of: Option<Pid>,
    rows: HashMap<u32, Vec<Tenure>>,
}

impl Parts {
    /// What the waiter of this row has. A borrowed slot comes first.
    pub(super) fn of(&mut self, row: Row) -> &mut Vec<Tenure> {
        self.forget_parents();
        self.rows.entry(row.index).or_default()
    }

    /// Takes it from the waiter of the row with this index.
    pub(super) fn taken_from(&mut self, index: u32) -> Vec<Tenure> {
        self.forget_parents();
        self.rows.remove(&index).unwrap_or_default()
    }

    fn forget_parents(&mut self) {
        let me = Some(getpid());
        if self.of != me {
            self.of = me;
            self.rows.clear();
        }
    }
}

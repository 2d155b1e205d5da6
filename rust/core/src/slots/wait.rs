//! The wait of one thread until a slot may be free.

use super::bank::Bank;
use crate::platform::shared::IN_ORDER;
use crate::platform::{getpid, Descriptor};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// How long to sleep before a look for a slot that could be borrowed a moment ago.
const LOOK_AGAIN_FOR_LENDER: Duration = Duration::from_millis(1);

/// A wait of one thread until a slot may be free. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct PoolWait {
    bank: Arc<Bank>,
    /// Whether the watch counts this thread.
    counted: bool,
    pub(crate) pipe: Arc<Descriptor>,
    pub(crate) descriptors: Vec<Arc<Descriptor>>,
    pub(crate) look_after: Option<Duration>,
}

impl PoolWait {
    /// Repairs the wait after this program has closed a descriptor that it needs: the holders will
    /// be watched anew. Returns false if the pipe is closed.
    pub(crate) fn mend(&self) -> bool {
        let mut watch = self.bank.watch.lock().unwrap_or_else(PoisonError::into_inner);
        watch.take_if(|(_, watch)| !watch.is_intact());
        self.pipe.is_intact()
    }

    pub(super) fn begin(bank: &Arc<Bank>) -> PoolWait {
        let mut watch = bank.watch(); // creates the watch: a ring from now on wakes it
        let ledger = &bank.ledger;
        for counter in [ledger.waiters(), ledger.borrowers()] {
            counter.fetch_add(1, IN_ORDER);
        }
        // Current holders are watched by pidfd; a future holder rings the bell before it takes the
        // slot.
        let (descriptors, mut look_after) = match &mut *watch {
            Some((_, watch)) => watch.before_wait(ledger, &bank.pipe),
            None => (Vec::new(), Some(crate::wait::POLL_INTERVAL)),
        };
        if bank.lender(getpid()).is_some() || bank.has_own() {
            look_after = Some(LOOK_AGAIN_FOR_LENDER); // no bell: it has come back already
        }
        PoolWait {
            bank: Arc::clone(bank),
            counted: watch.is_some(),
            pipe: bank.pipe.shared_read_end(),
            descriptors,
            look_after,
        }
    }
}

impl Drop for PoolWait {
    fn drop(&mut self) {
        let (bank, ledger) = (&self.bank, &self.bank.ledger);
        let others_must_look =
            self.counted && bank.watch().as_mut().is_some_and(|(_, watch)| watch.after_wait());
        for counter in [ledger.waiters(), ledger.borrowers()] {
            counter.fetch_sub(1, IN_ORDER);
        }
        if others_must_look {
            ledger.bells().change.ring();
        }
    }
}

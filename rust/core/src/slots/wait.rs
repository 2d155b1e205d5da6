//! The wait of one thread until a slot may be free.

use super::bank::Bank;
use crate::platform::shared::IN_ORDER;
use crate::platform::Descriptor;
use crate::process::{getpid, is_this, Pid};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// The longest sleep of a waiter that does not listen, for the case that a process that cannot
/// reach the pool's home any more did not tell it something.
const LOOK_AGAIN_BEHIND: Duration = Duration::from_secs(30);

/// What reports the deaths of some processes; None for a process whose death no descriptor reports.
pub(super) type Deaths = Vec<Option<Arc<Descriptor>>>;

/// A wait of one thread until a slot may be free. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct PoolWait {
    bank: Arc<Bank>,
    /// The process that waits.
    pid: Pid,
    pub(super) listens: bool,
    /// Whether the watch counts this thread.
    counted: bool,
    /// The token pipe. None if the thread must not wait for a token.
    pub(crate) pipe: Option<Arc<Descriptor>>,
    pub(crate) descriptors: Vec<Arc<Descriptor>>,
    pub(crate) look_after: Option<Duration>,
}

impl PoolWait {
    /// Repairs the wait after this program has closed a descriptor that it needs: the holders will
    /// be watched anew. Returns false if the pipe is closed.
    pub(crate) fn mend(&self) -> bool {
        let mut watch = self.bank.watch.lock().unwrap_or_else(PoisonError::into_inner);
        watch.take_if(|(_, watch)| !watch.is_intact());
        self.bank.pipe.shared_read_end().is_intact()
    }

    /// Begins the wait of a thread that listens: for tokens, unless they are `left` to another
    /// waiter, for the deaths of holders, and for at most `longest`.
    pub(super) fn listen(bank: &Arc<Bank>, left: bool, longest: Option<Duration>) -> PoolWait {
        let mut watch = bank.watch(); // creates the watch: a ring from now on wakes it
        let ledger = &bank.ledger;
        for counter in [ledger.waiters(), ledger.borrowers()] {
            counter.fetch_add(1, IN_ORDER);
        }
        // Current holders are watched by pidfd; a future holder rings the bell before it takes the
        // slot.
        let (descriptors, look_after) = match &mut *watch {
            Some((_, watch)) => watch.before_wait(ledger, &bank.pipe),
            None => (Vec::new(), Some(crate::wait::POLL_INTERVAL)),
        };
        PoolWait {
            bank: Arc::clone(bank),
            pid: getpid(),
            listens: true,
            counted: watch.is_some(),
            pipe: (!left).then(|| bank.pipe.shared_read_end()),
            descriptors,
            look_after: look_after.into_iter().chain(longest).min(),
        }
    }

    /// Returns the same wait, of this length at most if that is given.
    pub(super) fn at_most(mut self, longest: Option<Duration>) -> PoolWait {
        self.look_after = self.look_after.into_iter().chain(longest).min();
        self
    }

    /// Begins the wait of a thread that sleeps behind another waiter: for its `bell`, for the
    /// `deaths` of waiters before it, and for at most `longest`.
    pub(super) fn behind(
        bank: &Arc<Bank>,
        bell: Arc<Descriptor>,
        deaths: Deaths,
        longest: Option<Duration>,
    ) -> PoolWait {
        let all_told = deaths.iter().all(Option::is_some);
        let look = if all_told { LOOK_AGAIN_BEHIND } else { crate::wait::POLL_INTERVAL };
        PoolWait {
            bank: Arc::clone(bank),
            pid: getpid(),
            listens: false,
            counted: false,
            pipe: None,
            descriptors: [bell].into_iter().chain(deaths.into_iter().flatten()).collect(),
            look_after: longest.or(Some(look)),
        }
    }
}

impl Drop for PoolWait {
    fn drop(&mut self) {
        let (bank, ledger) = (&self.bank, &self.bank.ledger);
        if !self.listens || !is_this(self.pid) {
            return; // a process that a signal handler has forked drops a copy
        }
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

//! Kill points: a test chooses the access to a ledger just before which a process is killed.
//!
//! In tests a word of shared memory is a `Word` of this module. It counts the accesses of this
//! process as *steps*, and so does `Shared` its reads and splices. Where the count reaches the step
//! that was chosen, the process sends itself a signal just before it. SIGKILL ends it there; SIGSTOP
//! has it wait there, alive, until somebody continues or kills it. A load is a step for who is to be
//! stopped: what it has read may be out of date when it goes on. For who is to be killed it is none:
//! the ledger is the same before it and after it. So a kill at each step is a kill at every moment.
//!
//! No other build has any of this. Not here: the processes, and what they do (`slots::kills`).

use rustix::process::{kill_process, Signal};
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};

/// How many steps this process goes on to the chosen one, that one included; 0: none is chosen.
static LEFT: AtomicUsize = AtomicUsize::new(0);
/// What happens to it there.
static SIGNAL: AtomicI32 = AtomicI32::new(0);

/// What ends a process that is killed in the gap that the protocol accepts: see [`pass_gap`].
pub(crate) const IN_GAP: Signal = Signal::USR2;

/// From now on, this process takes `steps` steps, and the signal just before the next one.
pub(crate) fn arm(steps: usize, signal: Signal) {
    SIGNAL.store(signal.as_raw(), Ordering::Relaxed);
    LEFT.store(steps + 1, Ordering::Relaxed);
}

/// From now on, nothing happens to it.
pub(crate) fn disarm() {
    LEFT.store(0, Ordering::Relaxed);
}

fn is_reached() -> bool {
    let armed = LEFT.load(Ordering::Relaxed) > 0;
    armed && LEFT.fetch_sub(1, Ordering::Relaxed) == 1
}

fn kills() -> bool {
    SIGNAL.load(Ordering::Relaxed) == Signal::KILL.as_raw()
}

/// Before each step that may change something.
pub(crate) fn pass() {
    if is_reached() {
        signal(if kills() { Signal::KILL } else { Signal::STOP });
    }
}

/// Between the two steps of putting a byte back by write(2), where a kill loses the slot: it is
/// told from all others by another signal. Nobody is stopped here.
pub(crate) fn pass_gap() {
    if kills() && is_reached() {
        signal(IN_GAP);
    }
}

/// Sends this process a signal, which takes effect before this returns.
pub(crate) fn signal(signal: Signal) {
    let _ = kill_process(rustix::process::getpid(), signal);
}

/// A word of shared memory, whose accesses are steps.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct Word(AtomicU64);

impl Word {
    pub(crate) fn load(&self, order: Ordering) -> u64 {
        if !kills() {
            pass();
        }
        self.0.load(order)
    }

    fn step(&self) -> &AtomicU64 {
        pass();
        &self.0
    }

    pub(crate) fn store(&self, value: u64, order: Ordering) {
        self.step().store(value, order);
    }

    pub(crate) fn compare_exchange(
        &self,
        from: u64,
        to: u64,
        changed: Ordering,
        not: Ordering,
    ) -> Result<u64, u64> {
        self.step().compare_exchange(from, to, changed, not)
    }

    pub(crate) fn fetch_or(&self, value: u64, order: Ordering) -> u64 {
        self.step().fetch_or(value, order)
    }

    pub(crate) fn fetch_max(&self, value: u64, order: Ordering) -> u64 {
        self.step().fetch_max(value, order)
    }

    pub(crate) fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        self.step().fetch_add(value, order)
    }

    pub(crate) fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
        self.step().fetch_sub(value, order)
    }
}

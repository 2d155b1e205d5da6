//! The watch: how a waiter notices that a slot has become free, or can be borrowed.
//!
//! A holder's death frees a slot silently. So a waiter has a pidfd for each holder that is not its
//! own job (the owner's table of jobs notices those deaths). It also has a bell that rings when a
//! slot is about to have a new holder, and another that rings when a slot that was lent can be
//! borrowed again. That is three descriptors to poll, and a wait costs nothing while nothing
//! happens. Where there are no pidfds, the waiter looks from time to time.
//!
//! Where jobs are short and many processes wait, the bell rings all the time, and the waiters would
//! do little else than look. So after a look, a waiter ignores the bell for 10 ms and then looks
//! again. The price: a holder that is killed within its first moments may be found that much later.

use super::bell::PoolBell;
use super::ledger::{Bells, Ledger, Reclaimed, Tenant};
use super::pipe::TokenPipe;
use crate::platform::identity::{Life, ProcessId};
use crate::platform::liveness::look;
use crate::platform::Descriptor;
use crate::platform::{backend, ReadySet};
use crate::wait::POLL_INTERVAL;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a waiter ignores the bell after a look. Measured with 64 waiters while jobs of 1 ms run
/// on two slots: 10 ms halves the time that they cost, and 20 ms saves no more.
pub(super) const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(10);

/// The most looks in a row at entries that other processes are about to give back. Each such look
/// finds that another process has made a step, and no slot takes more than a few steps. Only an
/// entry of a damaged ledger is still there after so many.
const MOST_LOOKS: usize = 100;

/// How this process notices a holder's death.
#[derive(Debug)]
enum Watched {
    By(Arc<Descriptor>),
    /// By looking from time to time.
    Blindly,
    /// The holder is dead, and its slot is lent to a process that is watched instead.
    Not,
}

#[derive(Debug)]
pub(crate) struct Watch {
    /// The holders' pidfds, each under its entry's place.
    set: Box<dyn ReadySet>,
    holders: HashMap<u32, (Tenant, Watched)>,
    /// The sets that watch the bells: `change`, for new holders, and `open`, for slots that can be
    /// borrowed again.
    change: Option<Box<dyn ReadySet>>,
    open: Option<Box<dyn ReadySet>>,
    /// When this process last looked before a wait.
    looked: Option<Instant>,
    /// How many threads of this process wait.
    waits: usize,
    /// Whether some changes show on no descriptor.
    must_look: bool,
    /// Whether a job is being launched. The job's process reads the count of waiters before it
    /// changes the holder, and does not ring if the count was 0 then. So this process looks again
    /// until it has seen the job begin.
    launching: bool,
    /// Whether the last look found an entry that no process gives back. A wait then polls.
    stuck: bool,
}

impl Watch {
    pub(crate) fn new(bells: &Bells) -> rustix::io::Result<Watch> {
        let mut watch = Watch::without_bells()?;
        (watch.change, watch.open) = (hearing(&bells.change)?, hearing(&bells.open)?);
        watch.must_look = watch.change.is_none() || watch.open.is_none();
        Ok(watch)
    }

    /// Returns whether this program has closed none of its descriptors.
    pub(crate) fn is_intact(&self) -> bool {
        let sets = [Some(&self.set), self.change.as_ref(), self.open.as_ref()];
        sets.into_iter().flatten().all(|set| set.is_intact())
    }

    /// Makes a watch that does not watch for new holders.
    pub(crate) fn without_bells() -> rustix::io::Result<Watch> {
        Ok(Watch {
            set: backend().ready_set()?,
            holders: HashMap::new(),
            change: None,
            open: None,
            looked: None,
            waits: 0,
            must_look: false,
            launching: false,
            stuck: false,
        })
    }

    /// Puts the slots of the dead back. Returns whether there were any. Live holders are watched
    /// from now on.
    pub(crate) fn reclaim(&mut self, ledger: &Ledger, pipe: &TokenPipe) -> bool {
        let mut any = false;
        for _ in 0..MOST_LOOKS {
            let dead = self.look(ledger);
            any |= !dead.is_empty();
            self.stuck = false;
            for entry in dead {
                let reclaimed = ledger.reclaim_from(entry, pipe);
                if reclaimed != Reclaimed::Done {
                    self.stop_watching(entry.tenure.index);
                }
                self.stuck |= reclaimed == Reclaimed::ByAnother;
            }
            if !self.stuck {
                break;
            }
        }
        any
    }

    /// Returns the entries whose holders are dead. All other holders are watched from now on.
    fn look(&mut self, ledger: &Ledger) -> Vec<Tenant> {
        // This comes first: a ring after it wakes the next wait.
        let _ = self.change.as_mut().map(|set| set.ready());
        // A pidfd of a dead process stays readable, so the set reports it at the next look too.
        let ready: HashSet<u64> = self.set.ready().unwrap_or_default().into_iter().collect();
        let me = ProcessId::current();
        let mut before = std::mem::take(&mut self.holders);
        let mut dead = Vec::new();
        self.launching = false;
        let of_others = |entry: &Tenant| entry.owner != me.to_word() && !entry.process.may_be(me);
        for entry in ledger.in_use().filter(of_others) {
            let index = entry.tenure.index;
            self.launching |= ledger.is_launching(index);
            let how = match before.remove(&index) {
                Some((known, Watched::Not)) if known.is_same(&entry) => {
                    dead.push(entry);
                    Watched::Not
                }
                Some((known, watched @ Watched::By(_))) if known.is_same(&entry) => {
                    dead.extend(ready.contains(&index.into()).then_some(entry));
                    watched
                }
                other => {
                    self.forget(index, other);
                    match look(entry.process) {
                        Life::Alive(pidfd) => self.watch(index, pidfd),
                        Life::Dead => {
                            dead.push(entry);
                            continue;
                        }
                    }
                }
            };
            self.holders.insert(index, (entry, how));
        }
        for (index, gone) in before {
            self.forget(index, Some(gone));
        }
        dead
    }

    fn watch(&mut self, index: u32, pidfd: Option<Arc<Descriptor>>) -> Watched {
        let watched = pidfd.filter(|pidfd| self.set.add(pidfd, index.into()).is_ok());
        watched.map_or(Watched::Blindly, Watched::By)
    }

    /// Stops watching a dead holder whose slot stays with it for now. (Its pidfd would be readable
    /// for good, and no wait would ever sleep.)
    fn stop_watching(&mut self, index: u32) {
        let Some((entry, watched)) = self.holders.remove(&index) else { return };
        self.forget(index, Some((entry, watched)));
        self.holders.insert(index, (entry, Watched::Not));
    }

    fn forget(&mut self, index: u32, holder: Option<(Tenant, Watched)>) {
        if let Some((_, Watched::By(pidfd))) = holder {
            self.set.remove(&pidfd, index.into());
        }
    }

    /// For a thread that counts as a waiter: looks, unless this process has looked in the last 10
    /// ms. Returns the descriptors to poll and the longest time to sleep.
    pub(crate) fn before_wait(
        &mut self,
        ledger: &Ledger,
        pipe: &TokenPipe,
    ) -> (Vec<Arc<Descriptor>>, Option<Duration>) {
        self.waits += 1;
        // This comes before the caller looks for a slot to borrow: a ring after it wakes the wait.
        let _ = self.open.as_mut().map(|set| set.ready());
        let ago = self.looked.map(|looked| looked.elapsed());
        if let Some(rest) = ago.and_then(|ago| LOOK_AGAIN_AFTER.checked_sub(ago)) {
            let open = self.open.iter().flat_map(|set| set.watched());
            return (self.set.watched().into_iter().chain(open).collect(), Some(rest));
        }
        self.reclaim(ledger, pipe);
        self.looked = Some(Instant::now());
        let (mut descriptors, look_after) = self.watched();
        let bells = self.change.iter().chain(&self.open);
        descriptors.extend(bells.flat_map(|set| set.watched()));
        (descriptors, look_after)
    }

    /// Ends a wait. Returns whether to ring the bell because other threads of this process wait:
    /// the look of one thread consumed the edge for all threads, and no other event makes them look
    /// again.
    pub(crate) fn after_wait(&mut self) -> bool {
        self.waits = self.waits.saturating_sub(1);
        self.launching && self.waits > 0
    }

    /// Returns the descriptors to poll for the deaths of watched holders, and the longest time to
    /// sleep.
    pub(crate) fn watched(&self) -> (Vec<Arc<Descriptor>>, Option<Duration>) {
        let blind = self.holders.values().any(|(_, how)| matches!(how, Watched::Blindly));
        let polls = self.must_look || self.launching || self.stuck || blind;
        (self.set.watched(), polls.then_some(POLL_INTERVAL))
    }
}

/// Returns a set that watches a bell, where a descriptor can do so.
fn hearing(bell: &PoolBell) -> rustix::io::Result<Option<Box<dyn ReadySet>>> {
    let mut set = backend().ready_set()?;
    let bell = bell.descriptor().filter(|bell| bell.is_intact());
    let heard = bell.is_some_and(|bell| set.add_edge(bell, 0));
    Ok(heard.then_some(set))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn who_leaves_while_a_job_is_launched_has_the_other_threads_look_again() {
        let mut watch = Watch::without_bells().unwrap();
        watch.waits = 3;
        assert!(!watch.after_wait());
        watch.launching = true;
        assert!(watch.after_wait());
        assert!(!watch.after_wait());
    }
}

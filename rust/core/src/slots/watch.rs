//! Watching the holders of slots, for who waits until one is free.
//!
//! A holder's death frees a slot without a word. So who waits has a pidfd for each holder
//! that is not its own job (those ends the table of jobs hears of), a bell that rings when
//! there is a new one, and another that rings when a slot that was lent can be borrowed again.
//! That is three descriptors to poll, and nothing is done while nothing happens. Where there are no pidfds, who waits looks now and then.
//!
//! Where jobs are short and many wait, the bell rings all the time, and all would do little but
//! look. So who has just looked does not listen for a moment, and looks again after it: a holder
//! that is killed within its first moments may be found that much later.

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

/// For how long who has looked does not listen. Measured with 64 that wait while jobs of 1 ms come
/// and go on two slots: they then cost half as much time, and with 20 ms no less than with 10.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(10);

/// How we hear of a holder's death.
#[derive(Debug)]
enum Watched {
    By(Arc<Descriptor>),
    /// By looking now and then.
    Blindly,
    /// It is dead, and its slot is lent to somebody who is watched instead.
    Left,
}

#[derive(Debug)]
pub(crate) struct Watch {
    /// Under their entries' places.
    set: Box<dyn ReadySet>,
    holders: HashMap<u32, (Tenant, Watched)>,
    /// What hears of changes, and of slots that can be borrowed again.
    change: Option<Box<dyn ReadySet>>,
    open: Option<Box<dyn ReadySet>>,
    /// When we last looked before a wait.
    looked: Option<Instant>,
    /// How many threads of this process wait.
    waits: usize,
    /// Some news come by no descriptor.
    must_look: bool,
    /// Some job is being launched. Who did not count as waiting yet when it looked whether to
    /// ring will not ring: so we look again until we have seen it begin.
    launching: bool,
}

impl Watch {
    pub(crate) fn new(bells: &Bells) -> rustix::io::Result<Watch> {
        let mut watch = Watch::without_bells()?;
        (watch.change, watch.open) = (hearing(&bells.change)?, hearing(&bells.open)?);
        watch.must_look = watch.change.is_none() || watch.open.is_none();
        Ok(watch)
    }

    /// Whether this program has closed nothing of it.
    pub(crate) fn is_intact(&self) -> bool {
        let sets = [Some(&self.set), self.change.as_ref(), self.open.as_ref()];
        sets.into_iter().flatten().all(|set| set.is_intact())
    }

    /// For who need not hear of new holders.
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
        })
    }

    /// Puts the slots of the dead back: whether there were any. Those who live are watched
    /// from now on.
    pub(crate) fn reclaim(&mut self, ledger: &Ledger, pipe: &TokenPipe) -> bool {
        let mut any = false;
        loop {
            let dead = self.look(ledger);
            any |= !dead.is_empty();
            let mut look_again = false;
            for entry in dead {
                match ledger.reclaim_from(entry, pipe) {
                    Reclaimed::Done => {}
                    Reclaimed::Lent | Reclaimed::OutOfReach => self.leave(entry.tenure.index),
                    Reclaimed::ByAnother => look_again = true,
                }
            }
            if !look_again {
                return any;
            }
        }
    }

    /// The entries whose holders are dead; those of all others are watched from now on.
    fn look(&mut self, ledger: &Ledger) -> Vec<Tenant> {
        // First, so that who rings from now on is heard by the next wait.
        let _ = self.change.as_mut().map(|set| set.ready());
        // A pidfd stays ready for good, and so is told of at the next look too.
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
                Some((known, Watched::Left)) if known.is_same(&entry) => {
                    dead.push(entry);
                    Watched::Left
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

    /// This holder is dead, and its slot stays with it for now: its death wakes nobody any
    /// more. (Its pidfd would be ready for good, and no wait would ever sleep.)
    fn leave(&mut self, index: u32) {
        let Some((entry, watched)) = self.holders.remove(&index) else { return };
        self.forget(index, Some((entry, watched)));
        self.holders.insert(index, (entry, Watched::Left));
    }

    fn forget(&mut self, index: u32, holder: Option<(Tenant, Watched)>) {
        if let Some((_, Watched::By(pidfd))) = holder {
            self.set.remove(&pidfd, index.into());
        }
    }

    /// For who counts as waiting: looks, unless it has just done so. What to poll, and how long to
    /// sleep at most.
    pub(crate) fn before_wait(
        &mut self,
        ledger: &Ledger,
        pipe: &TokenPipe,
    ) -> (Vec<Arc<Descriptor>>, Option<Duration>) {
        self.waits += 1;
        // Before the caller looks whether a slot can be borrowed: a ring from now on is heard.
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

    /// After a wait: whether the bell is to be rung, since other threads of this process wait. They
    /// have not heard what it said to the one that looked, and nobody looks again for them.
    pub(crate) fn after_wait(&mut self) -> bool {
        self.waits = self.waits.saturating_sub(1);
        self.launching && self.waits > 0
    }

    /// What to poll for the deaths of those that are watched, and how long to sleep at most.
    pub(crate) fn watched(&self) -> (Vec<Arc<Descriptor>>, Option<Duration>) {
        let blind = self.holders.values().any(|(_, how)| matches!(how, Watched::Blindly));
        (self.set.watched(), (self.must_look || self.launching || blind).then_some(POLL_INTERVAL))
    }
}

/// What hears a bell, where it can be heard by a descriptor.
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

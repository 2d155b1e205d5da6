//! Watching the holders of slots, for who waits until one is free.
//!
//! A holder's death frees a slot without a word. So who waits has a pidfd for each holder
//! that is not its own job (those ends the table of jobs hears of), and a bell that rings
//! when there is a new one. All of it is one descriptor to poll, and nothing is done while
//! nothing happens. Where there are no pidfds, who waits looks now and then.

use crate::process::other::{look, Life, Named};
use crate::scan::{ReadySet, LOOK_AFTER};
use crate::slots::ledger::Ledger;
use rustix::fd::OwnedFd;
use rustix::process::getpid;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// The bell's key in the set; the others are places in the ledger.
const BELL: u64 = u64::MAX;

/// How we hear of a holder's death.
#[derive(Debug)]
enum Watched {
    By(Arc<OwnedFd>),
    /// By looking now and then.
    Blindly,
    /// It is dead, and its slot is lent to somebody who is watched instead.
    Left,
}

#[derive(Debug)]
pub(crate) struct Watch {
    set: ReadySet,
    holders: HashMap<u32, (Named, Watched)>,
    /// Some news come by no descriptor.
    must_look: bool,
}

impl Watch {
    pub(crate) fn new(bell: Option<&Arc<OwnedFd>>) -> rustix::io::Result<Watch> {
        let mut set = ReadySet::new()?;
        let heard = bell.is_some_and(|bell| set.add_edge(bell, BELL));
        Ok(Watch { set, holders: HashMap::new(), must_look: !heard })
    }

    /// The places of entries whose holders are dead.
    pub(crate) fn look(&mut self, ledger: &Ledger) -> Vec<u32> {
        let mut dead = Vec::new();
        // A pidfd stays ready for good, and so is told of at the next look too.
        for key in self.set.ready().unwrap_or_default() {
            if key != BELL {
                dead.push(key as u32);
            }
        }
        let me = getpid().as_raw_nonzero().get().unsigned_abs();
        let mut present = HashMap::with_capacity(self.holders.len());
        for (index, named, owner) in ledger.in_use() {
            if owner == me || named.pid_bits() == me {
                continue;
            }
            match self.holders.remove(&index) {
                Some((known, watched @ Watched::By(_))) if known == named => {
                    present.insert(index, (known, watched));
                }
                Some((known, Watched::Left)) if known == named => {
                    dead.push(index);
                    present.insert(index, (known, Watched::Left));
                }
                other => {
                    self.forget(index, other);
                    match look(named) {
                        Life::Dead => dead.push(index),
                        Life::Alive(pidfd) => {
                            present.insert(index, (named, self.watch(index, pidfd)));
                        }
                    }
                }
            }
        }
        for (index, gone) in std::mem::replace(&mut self.holders, present) {
            self.forget(index, Some(gone));
        }
        dead
    }

    fn watch(&mut self, index: u32, pidfd: Option<Arc<OwnedFd>>) -> Watched {
        let watched = pidfd.filter(|pidfd| self.set.add(pidfd, index.into()).is_ok());
        watched.map_or(Watched::Blindly, Watched::By)
    }

    /// This holder is dead, and its slot stays with it for now: its death wakes nobody any
    /// more. (Its pidfd would be ready for good, and no wait would ever sleep.)
    pub(crate) fn leave(&mut self, index: u32) {
        let Some((named, watched)) = self.holders.remove(&index) else { return };
        self.forget(index, Some((named, watched)));
        self.holders.insert(index, (named, Watched::Left));
    }

    fn forget(&mut self, index: u32, holder: Option<(Named, Watched)>) {
        if let Some((_, Watched::By(pidfd))) = holder {
            self.set.remove(&pidfd, index.into());
        }
    }

    /// What to poll, and how long to sleep at most.
    pub(crate) fn watched(&self) -> (Vec<Arc<OwnedFd>>, Option<Duration>) {
        let blind = self.holders.values().any(|(_, how)| matches!(how, Watched::Blindly));
        (self.set.watched(), (self.must_look || blind).then_some(LOOK_AFTER))
    }
}

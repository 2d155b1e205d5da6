//! A process and everything that it has started, to be stopped together.
//!
//! Who a process's children are is told by /proc. A job is the reaper of its orphans
//! (PR_SET_CHILD_SUBREAPER), so that also what a shell had started and left behind is found
//! below it. Each member is held by a pidfd: a pid that is used again is never signalled.
//! Linux only; elsewhere a family is its root alone.

use super::child::signal_process;
use super::outliving::outlives_jobs;
use crate::error::{Error, Result};
use crate::platform::identity::{Life, ProcessId};
use crate::platform::liveness::look;
use crate::platform::proc::parent;
use crate::platform::{become_subreaper, getpid, Descriptor};
use crate::process::lifeline::{lifeline_held_by, lifelines_of};
use crate::wait::{Wait, Woken, POLL_INTERVAL};
use rustix::process::{Pid, Signal};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Some processes, all alive when they were found.
#[derive(Debug)]
pub struct Family {
    root: Pid,
    members: BTreeMap<i32, Member>,
}

#[derive(Debug, Clone)]
struct Member {
    process: ProcessId,
    pidfd: Option<Arc<Descriptor>>,
    /// It has been asked to end. All others are stopped.
    asked: bool,
}

impl Member {
    fn ask(&mut self) {
        self.asked = true;
        self.signal(Signal::TERM);
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        // One that has ended, or that is somebody else's by now, is no error.
        let _ = signal_process(self.process.pid, self.pidfd.as_ref(), signal);
    }
}

fn number(pid: Pid) -> i32 {
    pid.as_raw_nonzero().get()
}

/// Who is whose child, and who belongs to whom in another way.
type Below = BTreeMap<i32, BTreeSet<i32>>;

impl Family {
    /// `root`, which must be a process of ours that has not been reaped, or be held by the
    /// pidfd.
    pub(crate) fn new(root: Pid, pidfd: Option<Arc<Descriptor>>) -> Family {
        let member = Member { process: ProcessId::of_live(root), pidfd, asked: false };
        Family { root, members: BTreeMap::from([(number(root), member)]) }
    }

    /// Ends all of it, and what it goes on starting meanwhile: asks by SIGTERM, those first that
    /// have nobody below them, while all others are stopped. So whoever ends finds its owner
    /// alive, nobody is orphaned unseen, and nothing new is begun. Says whether all have ended;
    /// returns before that at `deadline`, or when a signal comes, to be called again.
    ///
    /// `kin` says who else belongs to each: jobs that a fork server has forked for it.
    pub fn ask(
        &mut self,
        kin: &impl Fn(ProcessId) -> Vec<ProcessId>,
        deadline: Instant,
    ) -> Result<Woken> {
        loop {
            let below = self.find(kin);
            if self.members.is_empty() {
                return Ok(Woken::Ready);
            }
            for (number, member) in &mut self.members {
                if !member.asked && !below.contains_key(number) {
                    member.ask();
                }
            }
            match self.wait_for_one(deadline)? {
                Woken::Ready => {}
                other => return Ok(other),
            }
        }
    }

    /// Asks all those as well that have somebody below them who does not end.
    pub fn ask_everybody(&mut self) {
        for member in self.members.values_mut().filter(|member| !member.asked) {
            member.ask();
        }
    }

    /// Kills all of it, and returns when it is gone: soon, unless the system itself hangs with
    /// one of them, which is left to it after `patience`.
    pub fn kill(
        mut self,
        kin: &impl Fn(ProcessId) -> Vec<ProcessId>,
        patience: Duration,
    ) -> Result<()> {
        for member in self.members.values_mut() {
            member.asked = false; // and so is stopped, too
            member.signal(Signal::STOP);
        }
        self.find(kin);
        for member in self.members.values_mut() {
            member.signal(Signal::KILL);
            member.asked = true;
        }
        let deadline = Instant::now() + patience;
        while !self.members.is_empty() && self.wait_for_one(deadline)? != Woken::TimedOut {
            self.forget_the_dead();
        }
        Ok(())
    }

    fn forget_the_dead(&mut self) {
        self.members.retain(|_, member| match &member.pidfd {
            Some(pidfd) => !pidfd.is_readable(),
            None => matches!(look(member.process), Life::Alive(_)),
        });
    }

    /// Finds who belongs to it now, and stops those, until nobody new is found: what is stopped
    /// starts nothing more. Returns who has whom below.
    fn find(&mut self, kin: &impl Fn(ProcessId) -> Vec<ProcessId>) -> Below {
        loop {
            self.forget_the_dead();
            let (mut below, before) = (Below::new(), self.members.len());
            let children = children_of_all();
            let beside = self.beside(&children);
            for member in self.members.clone().into_values() {
                let (above, mut found) = (member.process.pid, Vec::new());
                for child in children.get(&number(above)).into_iter().flatten() {
                    // Asked again once it is held: by then the pid might be another's.
                    let member = self.hold(ProcessId::of_live(*child));
                    found.extend(member.filter(|_| parent(*child) == Some(number(above))));
                }
                found.extend(
                    kin(member.process).into_iter().filter_map(|process| self.hold(process)),
                );
                let lifelines = if beside.is_empty() { Vec::new() } else { lifelines_of(above) };
                for (pid, _) in beside.iter().filter(|(_, held)| lifelines.contains(held)) {
                    found.extend(self.hold(ProcessId::of_live(*pid)));
                }
                for member in found {
                    let number = number(member.process.pid);
                    below.entry(self::number(above)).or_default().insert(number);
                    self.members.entry(number).or_insert(member);
                }
            }
            for member in self.members.values().filter(|member| !member.asked) {
                member.signal(Signal::STOP);
            }
            if self.members.len() == before {
                return below;
            }
        }
    }

    /// The other children of who forked the root, with what they hang on: if that is a fork
    /// server, jobs of members are among them.
    fn beside(&self, children: &BTreeMap<i32, Vec<Pid>>) -> Vec<(Pid, PathBuf)> {
        let above = parent(self.root).filter(|above| *above != number(getpid()));
        let siblings = above.and_then(|above| children.get(&above)).into_iter().flatten();
        siblings
            .filter(|pid| **pid != self.root)
            .filter_map(|pid| Some((*pid, lifeline_held_by(*pid)?)))
            .collect()
    }

    /// A process that lives, held so that it stays the one that it is now.
    fn hold(&self, process: ProcessId) -> Option<Member> {
        let known = self.members.get(&number(process.pid)).cloned();
        known.or_else(|| match look(process) {
            Life::Alive(pidfd) if !outlives_jobs(process.pid) => {
                Some(Member { process, pidfd, asked: false })
            }
            _ => None,
        })
    }

    /// Waits until one that was asked may have ended.
    fn wait_for_one(&self, deadline: Instant) -> Result<Woken> {
        let asked = self.members.values().filter(|member| member.asked);
        let descriptors: Vec<_> = asked.clone().filter_map(|member| member.pidfd.clone()).collect();
        let blind = descriptors.len() < asked.count();
        Wait::new(descriptors, blind.then_some(POLL_INTERVAL)).block(Some(deadline))
    }

    /// In a job: what its descendants leave behind becomes its own child, to be found here.
    pub fn collect_orphans() -> Result<()> {
        become_subreaper().map_err(Error::system("cannot become the reaper of a job's orphans"))
    }
}

/// The children of every process.
fn children_of_all() -> BTreeMap<i32, Vec<Pid>> {
    let mut children: BTreeMap<i32, Vec<Pid>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid =
            entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        if let Some((pid, parent)) = pid.and_then(|pid| Some((pid, parent(pid)?))) {
            children.entry(parent).or_default().push(pid);
        }
    }
    children
}

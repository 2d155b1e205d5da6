//! A process and all processes that it has started, to be ended together.
//!
//! /proc shows the children of each process. A job is the reaper of its orphans
//! (PR_SET_CHILD_SUBREAPER), so a process that a shell had started and left behind is also found
//! below the job. Each member is held by a pidfd, so a pid that is used again is never signalled.
//! This is for Linux only; elsewhere a family is its root alone.

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

/// A root process and the processes below it, all alive when they were found.
#[derive(Debug)]
pub struct Family {
    root: Pid,
    members: BTreeMap<i32, Member>,
}

#[derive(Debug, Clone)]
struct Member {
    process: ProcessId,
    pidfd: Option<Arc<Descriptor>>,
    /// Whether it has been asked to end. All other members are stopped.
    asked: bool,
}

impl Member {
    fn ask(&mut self) {
        self.asked = true;
        self.signal(Signal::TERM);
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        // If it has ended, or another process has its pid by now, that is no error.
        let _ = signal_process(self.process.pid, self.pidfd.as_ref(), signal);
    }
}

fn number(pid: Pid) -> i32 {
    pid.as_raw_nonzero().get()
}

/// The members that are below each member, as children or by `kin`, by pid.
type Below = BTreeMap<i32, BTreeSet<i32>>;

impl Family {
    /// Makes the family of `root`, which must be an unreaped process of this process, or be held by
    /// the pidfd.
    pub(crate) fn new(root: Pid, pidfd: Option<Arc<Descriptor>>) -> Family {
        let member = Member { process: ProcessId::of_live(root), pidfd, asked: false };
        Family { root, members: BTreeMap::from([(number(root), member)]) }
    }

    /// Ends all members, and the processes that they still start meanwhile. Asks them by SIGTERM,
    /// first those that have no member below them, while all others are stopped. So a member that
    /// ends finds its owner alive, no orphan is missed, and no new process starts. Returns `Ready`
    /// when all have ended; returns before that at `deadline`, or when a signal comes, and then
    /// must be called again.
    ///
    /// `kin` returns the other processes that belong to a member: jobs that a fork server has
    /// forked for it.
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

    /// Asks also the members that have a member below them that does not end.
    pub fn ask_everybody(&mut self) {
        for member in self.members.values_mut().filter(|member| !member.asked) {
            member.ask();
        }
    }

    /// Kills all members, and returns when they are gone. That is soon, unless the kernel hangs
    /// with one of them; then this returns after `patience`.
    pub fn kill(
        mut self,
        kin: &impl Fn(ProcessId) -> Vec<ProcessId>,
        patience: Duration,
    ) -> Result<()> {
        for member in self.members.values_mut() {
            member.asked = false; // so that `find` stops it, too
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

    /// Finds the current members and stops them, until there is no new one: a stopped process
    /// starts no other. Returns the members below each member.
    fn find(&mut self, kin: &impl Fn(ProcessId) -> Vec<ProcessId>) -> Below {
        loop {
            self.forget_the_dead();
            let (mut below, before) = (Below::new(), self.members.len());
            let children = children_of_all();
            let beside = self.beside(&children);
            for member in self.members.clone().into_values() {
                let (above, mut found) = (member.process.pid, Vec::new());
                for child in children.get(&number(above)).into_iter().flatten() {
                    // Checked again once it is held: before that, the pid may have become
                    // another's.
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

    /// Returns the other children of the process that forked the root, with their lifelines. If
    /// that process is a fork server, jobs of members are among them.
    fn beside(&self, children: &BTreeMap<i32, Vec<Pid>>) -> Vec<(Pid, PathBuf)> {
        let above = parent(self.root).filter(|above| *above != number(getpid()));
        let siblings = above.and_then(|above| children.get(&above)).into_iter().flatten();
        siblings
            .filter(|pid| **pid != self.root)
            .filter_map(|pid| Some((*pid, lifeline_held_by(*pid)?)))
            .collect()
    }

    /// Returns a live process as a member, held by a pidfd so that its pid cannot come to mean
    /// another process.
    fn hold(&self, process: ProcessId) -> Option<Member> {
        let known = self.members.get(&number(process.pid)).cloned();
        known.or_else(|| match look(process) {
            Life::Alive(pidfd) if !outlives_jobs(process.pid) => {
                Some(Member { process, pidfd, asked: false })
            }
            _ => None,
        })
    }

    /// Waits until a member that was asked may have ended.
    fn wait_for_one(&self, deadline: Instant) -> Result<Woken> {
        let asked = self.members.values().filter(|member| member.asked);
        let descriptors: Vec<_> = asked.clone().filter_map(|member| member.pidfd.clone()).collect();
        let blind = descriptors.len() < asked.count();
        Wait::new(descriptors, blind.then_some(POLL_INTERVAL)).block(Some(deadline))
    }

    /// In a job: makes the orphans of its descendants its own children, so that they are found
    /// here.
    pub fn collect_orphans() -> Result<()> {
        become_subreaper().map_err(Error::system("cannot become the reaper of a job's orphans"))
    }
}

/// Returns the children of every process, by the parent's pid.
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

//! A process and everything that it has started, to be stopped together.
//!
//! Who a process's children are is told by /proc. A job is the reaper of its orphans
//! (PR_SET_CHILD_SUBREAPER), so that also what a shell had started and left behind is found
//! below it. Each member is held by a pidfd: a pid that is used again is never signalled.
//! Linux only; elsewhere a family is its root alone.

use crate::error::Result;
use crate::process::identity::{is_called, look, parent, Life, Named};
use crate::process::lifeline::{lifeline_held_by, lifelines_of};
use crate::scan::{Wait, Woken, LOOK_AFTER};
use crate::slots::warden;
use crate::sys::getpid;
use crate::sys::{is_resource_tracker, Descriptor};
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
    named: Named,
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
        let _ = match &self.pidfd {
            #[cfg(target_os = "linux")]
            Some(pidfd) => rustix::process::pidfd_send_signal(pidfd, signal),
            _ => rustix::process::kill_process(self.named.pid, signal),
        };
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
    pub(crate) fn of(root: Pid, pidfd: Option<Arc<Descriptor>>) -> Family {
        let member = Member { named: Named::now(root), pidfd, asked: false };
        Family { root, members: BTreeMap::from([(number(root), member)]) }
    }

    /// Ends all of it, and what it goes on starting meanwhile: asks by SIGTERM, those first that
    /// have nobody below them, while all others are stopped. So whoever ends finds its owner
    /// alive, nobody is orphaned unseen, and nothing new is begun. Says whether all have ended;
    /// returns before that at `deadline`, or when a signal comes, to be called again.
    ///
    /// `kin` says who else belongs to each: jobs that a fork server has forked for it.
    pub fn ask(&mut self, kin: &impl Fn(Named) -> Vec<Named>, deadline: Instant) -> Result<Woken> {
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
    pub fn kill(mut self, kin: &impl Fn(Named) -> Vec<Named>, patience: Duration) -> Result<()> {
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
            #[cfg(all(target_os = "linux", not(jobserver_portable)))]
            Some(pidfd) => !pidfd.is_readable(),
            _ => matches!(look(member.named), Life::Alive(_)),
        });
    }

    /// Finds who belongs to it now, and stops those, until nobody new is found: what is stopped
    /// starts nothing more. Returns who has whom below.
    fn find(&mut self, kin: &impl Fn(Named) -> Vec<Named>) -> Below {
        loop {
            self.forget_the_dead();
            let (mut below, before) = (Below::new(), self.members.len());
            let children = children_of_all();
            let beside = self.beside(&children);
            for member in self.members.clone().into_values() {
                let (above, mut found) = (member.named.pid, Vec::new());
                for child in children.get(&number(above)).into_iter().flatten() {
                    // Asked again once it is held: by then the pid might be another's.
                    let member = self.hold(Named::now(*child));
                    found.extend(member.filter(|_| parent(*child) == Some(number(above))));
                }
                found.extend(kin(member.named).into_iter().filter_map(|named| self.hold(named)));
                let lifelines = if beside.is_empty() { Vec::new() } else { lifelines_of(above) };
                for (pid, _) in beside.iter().filter(|(_, held)| lifelines.contains(held)) {
                    found.extend(self.hold(Named::now(*pid)));
                }
                for member in found {
                    let number = number(member.named.pid);
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
    fn hold(&self, named: Named) -> Option<Member> {
        let known = self.members.get(&number(named.pid)).cloned();
        known.or_else(|| match look(named) {
            Life::Alive(pidfd) if !is_spared(named.pid) => {
                Some(Member { named, pidfd, asked: false })
            }
            _ => None,
        })
    }

    /// Waits until one that was asked may have ended.
    fn wait_for_one(&self, deadline: Instant) -> Result<Woken> {
        let asked = self.members.values().filter(|member| member.asked);
        let descriptors: Vec<_> = asked.clone().filter_map(|member| member.pidfd.clone()).collect();
        let blind = descriptors.len() < asked.count();
        Wait::new(descriptors, blind.then_some(LOOK_AFTER)).block(Some(deadline))
    }

    /// In a job: what its descendants leave behind becomes its own child, to be found here.
    pub fn gather() -> Result<()> {
        #[cfg(target_os = "linux")]
        rustix::process::set_child_subreaper(Some(crate::sys::getpid()))
            .map_err(crate::error::Error::system("cannot become the reaper of a job's orphans"))?;
        Ok(())
    }
}

/// Whether a process below a job serves others than that, and so outlasts it.
fn is_spared(pid: Pid) -> bool {
    is_called(pid, warden::NAME) || is_resource_tracker(pid)
}

/// The children of every process.
fn children_of_all() -> BTreeMap<i32, Vec<Pid>> {
    let mut children: BTreeMap<i32, Vec<Pid>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid =
            entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        if let Some((pid, parent)) = pid.and_then(|pid| Some((pid, super::identity::parent(pid)?)))
        {
            children.entry(parent).or_default().push(pid);
        }
    }
    children
}

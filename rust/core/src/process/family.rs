//! A process and everything that it has started, to be stopped together.
//!
//! Who a process's children are is told by /proc. A job is the reaper of its orphans
//! (PR_SET_CHILD_SUBREAPER), so that also what a shell had started and left behind is found
//! below it. Each member is held by a pidfd: a pid that is used again is never signalled.
//! Linux only; elsewhere a family is its root alone.

use crate::error::{Error, Result};
use crate::process::other::{look, Life, Named};
use crate::scan::{Wait, Woken};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, Signal};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Some processes, all alive when they were found.
#[derive(Debug, Default)]
pub struct Family {
    members: BTreeMap<i32, (Pid, Option<Arc<OwnedFd>>)>,
}

impl Family {
    /// `root` and its descendants, and those of what `kin` says belongs to each, which may not
    /// be children: jobs that a fork server has forked for it.
    pub fn of(root: Pid, kin: impl Fn(Pid) -> Vec<Pid>) -> Family {
        let mut family = Family::default();
        family.add(root, &children_of_all(), &kin);
        family
    }

    fn add(
        &mut self,
        pid: Pid,
        children: &BTreeMap<i32, Vec<Pid>>,
        kin: &impl Fn(Pid) -> Vec<Pid>,
    ) {
        let number = pid.as_raw_nonzero().get();
        if self.members.contains_key(&number) {
            return;
        }
        let Life::Alive(pidfd) = look(Named::now(pid)) else { return };
        self.members.insert(number, (pid, pidfd));
        let below = children.get(&number).cloned().unwrap_or_default();
        for child in below.into_iter().chain(kin(pid)) {
            self.add(child, children, kin);
        }
    }

    /// Kills all of it, and what it goes on starting meanwhile.
    pub fn kill(mut self, kin: impl Fn(Pid) -> Vec<Pid>) {
        // What is stopped starts nothing more: until nobody new is found.
        loop {
            self.signal(Signal::STOP);
            let (before, children) = (self.members.len(), children_of_all());
            for (pid, _) in self.members.clone().into_values() {
                let below = children.get(&pid.as_raw_nonzero().get()).cloned().unwrap_or_default();
                for child in below.into_iter().chain(kin(pid)) {
                    self.add(child, &children, &kin);
                }
            }
            if self.members.len() == before {
                return self.signal(Signal::KILL);
            }
        }
    }

    /// Sends a signal to every member that is still alive.
    pub fn signal(&self, signal: Signal) {
        for (pid, pidfd) in self.members.values() {
            // One that has ended, or that is somebody else's by now, is no error.
            let _ = match pidfd {
                #[cfg(target_os = "linux")]
                Some(pidfd) => rustix::process::pidfd_send_signal(pidfd, signal),
                _ => rustix::process::kill_process(*pid, signal),
            };
        }
    }

    /// Whether all have ended; waits for one that has not, until `deadline` or a signal.
    pub fn wait(&mut self, deadline: Instant) -> Result<Woken> {
        while let Some((number, (_, Some(pidfd)))) = self.members.iter().next() {
            let (number, wait) = (*number, Wait::on(pidfd));
            match wait.block(Some(deadline))? {
                Woken::Ready => {}
                other => return Ok(other),
            }
            self.members.remove(&number);
        }
        Ok(Woken::Ready)
    }

    /// In a job: what its descendants leave behind becomes its own child, to be found here.
    pub fn gather() -> Result<()> {
        #[cfg(target_os = "linux")]
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(Error::system("cannot become the reaper of a job's orphans"))?;
        Ok(())
    }
}

/// The children of every process.
fn children_of_all() -> BTreeMap<i32, Vec<Pid>> {
    let mut children: BTreeMap<i32, Vec<Pid>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid =
            entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        if let Some((pid, parent)) = pid.and_then(|pid| Some((pid, super::other::parent(pid)?))) {
            children.entry(parent).or_default().push(pid);
        }
    }
    children
}

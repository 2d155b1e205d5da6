//! The scan of an owner's table: it receives what is ready, reaps, and returns each job's outcome
//! once.

use super::jobs::{key, Jobs, CHANNEL, EXIT};
use super::outcome::{Finished, JobId, Outcome};
use super::process::{Process, ProcessState};
use crate::error::{Error, ErrorKind, Result};
use crate::platform::{Undisturbed, AT_ONCE};
use crate::process::ExitStatus;
use crate::slots::Launched;
use crate::wire::{Head, Received, PACKET};
use rustix::io::Errno;

impl<J> Jobs<J> {
    /// Looks, without blocking, at everything that is ready. Returns the jobs whose outcomes this
    /// scan found.
    pub fn scan(&mut self) -> Result<Vec<Finished<J>>> {
        let _undisturbed = Undisturbed::begin();
        let mut finished = std::mem::take(&mut self.received);
        let (there, yielded) = (self.processes.len(), self.yielded.len());
        let ending = self.ending.len();
        let collected = self.collect(&mut finished);
        // Waiters wake also when a process was only reaped, or is not watched any more, because a
        // thread may wait for the last to be reaped; and when a job has yielded, because an owner
        // that waits for it may have to yield too.
        if self.yielded.len() > yielded {
            self.wake();
        } else if !finished.is_empty() || self.processes.len() < there || self.ending.len() > ending
        {
            self.wake_for(&finished.iter().map(|it| it.id).collect::<Vec<_>>());
        }
        match collected {
            // The next scan will have the error too; these outcomes come once.
            Err(e) if finished.is_empty() => Err(e),
            _ => Ok(finished),
        }
    }

    /// Takes all that is ready from the descriptors.
    fn collect(&mut self, finished: &mut Vec<Finished<J>>) -> Result<()> {
        if self.lost {
            self.renew(finished)?;
        }
        while let Some(set) = &mut self.set {
            let ready = match set.ready() {
                Err(_) if !set.is_intact() => {
                    self.renew(finished)?;
                    continue;
                }
                ready => ready.map_err(Error::system("cannot look at the jobs"))?,
            };
            let these_are_all = ready.len() != AT_ONCE;
            for key in ready {
                match key & 1 {
                    CHANNEL => self.read_channel(key >> 1, finished),
                    _ => self.check_exit(key >> 1, finished),
                }
            }
            if these_are_all {
                break;
            }
        }
        for number in self.unwatched.iter().copied().collect::<Vec<_>>() {
            self.check_exit(number, finished);
        }
        for number in std::mem::take(&mut self.ending) {
            if !self.reap(number, finished) {
                self.ending.push(number);
            }
        }
        Ok(())
    }

    /// Receives all frames that a process's channel holds.
    pub(super) fn read_channel(&mut self, number: u64, finished: &mut Vec<Finished<J>>) {
        if self.buffer.is_empty() {
            self.buffer = vec![0; PACKET];
        }
        loop {
            let Some(process) = self.processes.get_mut(&number) else { return };
            let Some(channel) = &process.channel else { return };
            let received = channel.try_receive(&mut self.buffer);
            let ours = process.child.is_ours();
            match received {
                Ok(Received::NothingYet) => return,
                Ok(Received::Frame(frame)) => match frame.head {
                    Head::Exited { status } if !ours => {
                        return self.ended(number, status, finished);
                    }
                    Head::Result { stays: true } if process.state == ProcessState::Running => {
                        process.last_words = None;
                        process.finish(number, Outcome::from_frame(frame), finished);
                        if process.stay() {
                            self.idle.push(number);
                            self.quick = true;
                        }
                        return; // an idle process sends nothing more
                    }
                    Head::Yielded => {
                        self.yielded.insert(JobId::new(number, process.jobs));
                        continue;
                    }
                    Head::LastWords => {
                        process.last_words = Some(frame.body);
                        continue;
                    }
                    _ => process.finish(number, Outcome::from_frame(frame), finished),
                },
                // The fork server has ended, so nothing will report how its child ended.
                Ok(Received::EndOfFile) if !ours => {
                    return self.ended(number, ExitStatus::Unknown, finished)
                }
                Ok(Received::EndOfFile) => {
                    process.has_gone_silent();
                    self.idle.retain(|idle| *idle != number);
                    return self.close_channel(number);
                }
                Err(e) if e.kind() == ErrorKind::DescriptorLost => {
                    return self.lose(number, e, finished)
                }
                Err(e) => process.finish(number, Outcome::Lost(e), finished),
            }
            // (An idle process that sends a frame ends too.) If the process intends to stay, this
            // must end it: a message that could not be received does not say whether it stays.
            process.dismiss();
            self.idle.retain(|idle| *idle != number);
            if ours {
                self.leave_exit(number);
                return self.close_channel(number);
            }
        }
    }

    /// Leaves the exit of a child whose job is over to later scans. To be woken for it would cost
    /// the owner a second wake-up for most jobs. What is left so is reaped after the next event, or
    /// within two seconds: see `look_over`.
    fn leave_exit(&mut self, number: u64) {
        let Some(process) = self.processes.get_mut(&number) else { return };
        let (Some(set), Some(exit)) = (&mut self.set, process.child.watch()) else { return };
        if self.ending.len() < AT_ONCE && !self.unwatched.contains(&number) {
            set.remove(exit, key(number, EXIT));
            process.exit_is_left = true;
            self.ending.push(number);
        }
    }

    /// Watches the exits that were left to later scans.
    pub(super) fn watch_exits_left(&mut self) {
        let Some(set) = &mut self.set else { return };
        for number in std::mem::take(&mut self.ending) {
            let Some(process) = self.processes.get_mut(&number) else { continue };
            let Some(exit) = process.child.watch() else { continue };
            process.exit_is_left = set.add(exit, key(number, EXIT)).is_err();
            if process.exit_is_left {
                self.ending.push(number);
            }
        }
    }

    /// After this program has closed descriptors of the table: gives up the processes that the
    /// owner can receive nothing from any more, and watches the others by a new set. (The old set
    /// may be another file now, or report for ever descriptors that are closed.)
    fn renew(&mut self, finished: &mut Vec<Finished<J>>) -> Result<()> {
        (self.set, self.lost) = (None, true);
        self.ending.clear(); // all are watched from now on
        self.sleepers.forget_lost_bells();
        self.sleepers.ring_polling();
        for number in self.processes.keys().copied().collect::<Vec<_>>() {
            if self.processes.get(&number).is_some_and(Process::is_lost) {
                let lost = Error::system("cannot receive from a job any more")(Errno::BADF);
                self.lose(number, lost, finished);
            }
            let Some(mut process) = self.processes.remove(&number) else { continue };
            process.child.look_to_watch();
            process.exit_is_left = false;
            let watched = self.watch(number, &process.child, process.channel.as_ref());
            self.processes.insert(number, process);
            watched.map_err(Error::system("cannot watch the jobs"))?;
        }
        self.lost = false;
        Ok(())
    }

    /// Gives up a process whose channel is closed, or is another file now. The process is ended, as
    /// it would be at its owner's end: nothing can be received from it, and no Future can get its
    /// result.
    fn lose(&mut self, number: u64, error: Error, finished: &mut Vec<Finished<J>>) {
        let Some(process) = self.processes.get_mut(&number) else { return };
        process.child.end();
        process.finish(number, Outcome::Lost(error), finished);
        process.dismiss();
        let ours = process.child.is_ours();
        // Nothing will report its end to this owner, so any process may reclaim its slot.
        let slot = if ours { None } else { process.slot.take() };
        slot.iter().for_each(Launched::disown);
        self.idle.retain(|idle| *idle != number);
        self.close_channel(number);
        if !ours {
            self.ended(number, ExitStatus::Unknown, finished);
        }
    }

    fn check_exit(&mut self, number: u64, finished: &mut Vec<Finished<J>>) {
        if !self.reap(number, finished) {
            self.watch_by_looking(number);
        }
    }

    /// Reaps a direct child if it has ended. Returns whether it has.
    fn reap(&mut self, number: u64, finished: &mut Vec<Finished<J>>) -> bool {
        let Some(process) = self.processes.get(&number) else { return true };
        let status = if process.exit_is_left {
            match process.child.reap() {
                true => ExitStatus::Unknown, // its job has its outcome
                false => return false,
            }
        } else {
            match process.child.try_wait() {
                Ok(None) => return false,
                Ok(Some(status)) => status,
                Err(_) => ExitStatus::Unknown,
            }
        };
        self.read_channel(number, finished); // frames that it sent before its end come first
        self.ended(number, status, finished);
        true
    }

    /// Polls for a child's end instead of watching a descriptor. The child may have ended while
    /// this process cannot reap it yet, because a debugger that is attached to it is notified
    /// first.
    fn watch_by_looking(&mut self, number: u64) {
        let Some(process) = self.processes.get(&number) else { return };
        if let (Some(set), Some(exit)) = (&mut self.set, process.child.watch()) {
            if self.unwatched.insert(number) {
                set.remove(exit, key(number, EXIT));
                self.sleepers.ring_polling(); // from now on they must look from time to time
            }
        }
    }

    fn ended(&mut self, number: u64, status: ExitStatus, finished: &mut Vec<Finished<J>>) {
        self.close_channel(number);
        let Some(mut process) = self.processes.remove(&number) else { return };
        if let Some(slot) = &process.slot {
            slot.settle(true);
        }
        self.idle.retain(|idle| *idle != number);
        self.ending.retain(|ending| *ending != number);
        let last_words = process.last_words.take();
        process.finish(number, Outcome::Ended(status, last_words), finished);
        let watched =
            !self.unwatched.remove(&number) && process.child.is_ours() && !process.exit_is_left;
        let watch = process.child.watch();
        if let (Some(set), Some(exit), true) = (&mut self.set, watch, watched) {
            set.remove(exit, key(number, EXIT));
        }
    }

    pub(super) fn close_channel(&mut self, number: u64) {
        let process = self.processes.get_mut(&number);
        let Some(channel) = process.and_then(|process| process.channel.take()) else { return };
        if let Some(set) = &mut self.set {
            set.remove(channel.socket(), key(number, CHANNEL));
        }
    }
}

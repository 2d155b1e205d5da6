//! Taking a slot, and handing it to a job that is launched on it.

use super::layout::*;
use super::*;
use crate::slots::entry::{HeldBy, Holder, GENERATIONS};
use crate::slots::pipe::TokenPipe;
use rustix::io::Errno;

impl Ledger {
    /// Claims a free entry for this process. Returns None if there is no free entry.
    pub(super) fn claim(&self, me: ProcessId) -> Option<Tenure> {
        let hint = self.hint.load(Ordering::Relaxed);
        let index = (hint..self.entries).chain(0..hint).find(|index| {
            let free = self.holder(*index as u32);
            let generation = (free.generation + 1) & GENERATIONS;
            free.by == HeldBy::Nobody
                && self.change_holder(*index as u32, free, Holder::process(me, generation))
        })?;
        self.hint.store(index + 1, Ordering::Relaxed);
        self.memory.word(USED).fetch_max(index as u64 + 1, IN_ORDER);
        let index = index as u32;
        self.field(index, OWNER).store(me.to_word(), IN_ORDER);
        self.field(index, SINCE).store(now(), Ordering::Relaxed);
        Some(Tenure { index, generation: self.holder(index).generation })
    }

    pub(super) fn set_free(&self, tenure: Tenure) {
        let Tenure { index, generation } = tenure;
        let free = Holder { by: HeldBy::Nobody, generation, launching: false };
        self.field(index, OWNER).store(0, IN_ORDER);
        self.field(index, HOLDER).store(free.to_word(), IN_ORDER);
        self.hint.fetch_min(index as usize, Ordering::Relaxed);
    }

    /// Takes a slot if one is free at this moment; never waits.
    pub(crate) fn take(&self, pipe: &TokenPipe, me: ProcessId) -> Result<Option<Tenure>> {
        let doing = "cannot take a slot";
        // This comes first: otherwise waiters would wake each other for ever by tries that fail.
        let others_wait = self.waiters().load(IN_ORDER) > 0;
        if !pipe.may_have_any(others_wait).map_err(Error::system(doing))? {
            return Ok(None);
        }
        self.check_namespace(me.pid)?;
        let Some(tenure) = self.claim(me) else { return Ok(None) };
        self.ring();
        let read = loop {
            match pipe.take_into(&self.memory, self.offset(tenure.index, TOKEN)) {
                Err(Errno::INTR) => {}
                read => break read,
            }
        };
        match read {
            Ok(0) | Err(Errno::AGAIN) => {
                self.set_free(tenure);
                Ok(None)
            }
            Err(e) => {
                self.set_free(tenure);
                Err(Error::system(doing)(e))
            }
            Ok(_) => {
                self.field(tenure.index, TOKEN).fetch_or(TAKEN, IN_ORDER);
                self.count_taking();
                Ok(Some(tenure))
            }
        }
    }

    /// Claims an entry for the slot that this program was started on by a program that knows no
    /// ledger. Jobs of this process can borrow it. Returns None if there is no free entry.
    pub(crate) fn claim_implicit(&self) -> Result<Option<Tenure>> {
        let me = ProcessId::current();
        self.check_namespace(me.pid)?;
        let Some(tenure) = self.claim(me) else { return Ok(None) };
        self.field(tenure.index, TOKEN).store(IMPLICIT, IN_ORDER);
        self.open_to_borrowers(tenure);
        Ok(Some(tenure))
    }

    /// Records how many jobs are above the process that runs on this slot, or is about to.
    pub(crate) fn set_depth(&self, tenure: Tenure, depth: u16) {
        self.field(tenure.index, DEPTH).store(depth.into(), IN_ORDER);
    }

    /// Returns how many jobs are above the process that runs on this slot.
    pub(crate) fn depth(&self, tenure: Tenure) -> u16 {
        self.field(tenure.index, DEPTH).load(IN_ORDER) as u16
    }

    /// Returns the same of this process, if it runs on a slot.
    pub(crate) fn depth_of(&self, process: ProcessId) -> Option<u16> {
        let entry = self.in_use().find(|entry| entry.process.may_be(process))?;
        Some(self.depth(entry.tenure))
    }

    /// Records that this process is launching a job of this depth on this slot: see
    /// [`Ledger::adopt`]. A second call does nothing, and neither does a call when the job has the
    /// slot already: by then the entry may be another job's.
    pub(crate) fn launch(&self, tenure: Tenure, depth: u16) {
        loop {
            let ours = self.holder(tenure.index);
            if ours.launching || ours.generation != tenure.generation {
                return;
            }
            let me = ProcessId::current();
            if !ours.is(me) {
                return;
            }
            self.set_depth(tenure, depth);
            // The owner word may still name the process that claimed the entry and handed it over
            // with its slot.
            self.field(tenure.index, OWNER).store(me.to_word(), IN_ORDER);
            if self.change_holder(tenure.index, ours, Holder { launching: true, ..ours }) {
                return;
            } // else our owner has just added our mark: see `born`
        }
    }

    /// In a job: adopts the slot that its owner launched it on, and opens it to programs below the
    /// job. Returns false if the owner has died or has taken the slot back: then the job must not
    /// run.
    pub(crate) fn adopt(&self, tenure: Tenure) -> Result<bool> {
        let adopted = self.adopt_further(tenure)?;
        if adopted {
            self.open_to_borrowers(tenure);
        }
        Ok(adopted)
    }

    /// Does the same for a further slot of the job, which is not opened: programs below a job of
    /// several slots have a pool of their own.
    pub(crate) fn adopt_further(&self, tenure: Tenure) -> Result<bool> {
        let pid = getpid();
        self.check_namespace(pid)?;
        if (tenure.index as usize) >= self.entries {
            return Ok(false);
        }
        loop {
            let launching = self.holder(tenure.index);
            if !launching.launching || launching.generation != tenure.generation {
                return Ok(false);
            }
            self.ring();
            // If the entry does not name this process yet, the owner adds the mark: see `born`.
            let me = ProcessId::current_if_known(pid, launching.named());
            if self.change_holder(tenure.index, launching, Holder::process(me, tenure.generation)) {
                self.field(tenure.index, SINCE).store(now(), Ordering::Relaxed);
                return Ok(true);
            } // else the owner may just have named us: see `born`
        }
    }

    /// Records that the process is born that this process launches on this slot: from now on the
    /// death of that process frees the slot. The job `adopts` the slot itself when it begins, or
    /// else does not know about slots.
    pub(crate) fn born(&self, tenure: Tenure, job: ProcessId, adopts: bool) {
        loop {
            let holder = self.holder(tenure.index);
            let ours = holder.generation == tenure.generation;
            // The job has adopted the slot already, without knowing its own mark.
            let nameless = holder.named() == Some(ProcessId { mark: 0, ..job }) && job.mark != 0;
            if !ours || !holder.launching && !nameless {
                return;
            }
            let launching = holder.launching && adopts;
            if !adopts {
                // Opens the slot to programs below the job. This happens while this process holds
                // the slot: later the command may be dead, and the entry may be in another taking.
                self.open_below(tenure, job);
            }
            let born = Holder { by: HeldBy::Process(job), launching, ..holder };
            self.ring();
            if self.change_holder(tenure.index, holder, born) {
                break;
            } // else the job has just adopted it
        }
        if !adopts {
            self.ring_open(); // the slot can be borrowed only now
        }
    }
}

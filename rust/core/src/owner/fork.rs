//! Forking this process for a job, or for a worker of jobs.

use super::shared::Owner;
use super::{ForkHost, Started};
use crate::error::{Error, Result};
use crate::platform::{exit_at_once, Forked, SignalsHeld};
use crate::process::{Child, Lifeline, Signal};
use crate::slots::{Pool, Slot};
use crate::wire::Channel;

/// The side of a fork that the caller is on.
#[derive(Debug)]
pub enum Birth {
    /// In the owner, with the job if the worker was forked for one.
    Owner(Option<Started>),
    /// In the new process.
    Worker(Box<Born>),
}

/// A new process, and the state that it inherits.
#[derive(Debug)]
pub struct Born {
    /// Its end of the channel.
    pub channel: Channel,
    /// Its pool.
    pub pool: Pool,
    /// Whether it reports to its owner that it gives its slot away.
    pub tells: bool,
    /// The error that kept it from becoming a job; None if there was none.
    pub failed: Option<Error>,
    /// Its signals, which stay held until this is dropped.
    pub held: SignalsHeld,
    /// Ends the process when it is dropped.
    pub never_on: NeverOn,
}

/// Ends a forked process that an error would let run on in the owner's code.
#[derive(Debug)]
pub struct NeverOn;

impl Drop for NeverOn {
    fn drop(&mut self) {
        exit_at_once(1);
    }
}

impl<J> Owner<J> {
    /// Forks a job, which runs on this slot, if there is one. The owner keeps a `J` for the job.
    pub fn fork_job<H: ForkHost>(
        &self,
        host: &H,
        slot: &mut Option<Slot>,
        job: impl FnOnce() -> J,
    ) -> std::result::Result<Birth, H::Error> {
        let _launching = self.begin_launch()?;
        Ok(match self.fork_process(host, slot.as_ref())? {
            Side::Owner(channel, child) => {
                let started = self.state().jobs.started(channel, child, slot.take(), job)?;
                Birth::Owner(Some(started))
            }
            Side::Worker(born) => Birth::Worker(born),
        })
    }

    /// Forks a worker, which is idle until a job is launched on it.
    pub fn fork_worker<H: ForkHost>(&self, host: &H) -> std::result::Result<Birth, H::Error> {
        let _launching = self.begin_launch()?;
        Ok(match self.fork_process(host, None)? {
            Side::Owner(channel, child) => Birth::Owner(self.hired(channel, child, None, None)?),
            Side::Worker(born) => Birth::Worker(born),
        })
    }

    fn fork_process<H: ForkHost>(
        &self,
        host: &H,
        slot: Option<&Slot>,
    ) -> std::result::Result<Side, H::Error> {
        let pool = self.pool()?;
        let (owner_end, job_end) = Channel::pair()?;
        let (lifeline, tells) = (self.lifeline()?, self.hears_of_yields());
        // The host's hooks may run code in its language. If a signal handler ran in a hook, its
        // error would be dropped, its Ctrl-C lost, and a lock of that code could stay locked.
        // (With several threads another thread may take the signal, and this can still happen, as
        // it can around `os.fork`.)
        // Handlers also run before signals are held, because a handler that runs later, and starts
        // processes, would run with all signals blocked. After that only signals that came in
        // between are left.
        // A Ctrl-C that comes later, while the hooks run, would reach only this process: the job
        // does not exist yet, and would run on. In that case the loop starts again.
        let (held, forked) = loop {
            host.run_signal_handlers_in(self.pid)?;
            let held = SignalsHeld::begin();
            host.run_signal_handlers_in(self.pid)?;
            if let Some(slot) = slot {
                slot.launch();
            }
            match host.fork(&|| held.holds(Signal::INT)) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                forked => {
                    break (held, forked.map_err(|e| Error::refused("cannot fork a job", e))?)
                }
            }
        };
        match forked {
            Forked::Parent(pid) => Ok(Side::Owner(owner_end, Child::adopt(pid))),
            Forked::Child => {
                let never_on = NeverOn;
                drop(owner_end);
                let failed = self.become_job(lifeline, slot, &pool).err();
                let channel = job_end;
                let born = Born { channel, pool, tells, failed, held, never_on };
                Ok(Side::Worker(Box::new(born)))
            }
        }
    }

    /// In a forked child: makes it a job, on this slot.
    fn become_job(
        &self,
        lifeline: Option<Lifeline>,
        slot: Option<&Slot>,
        pool: &Pool,
    ) -> Result<()> {
        if let Some(lifeline) = lifeline {
            lifeline.hang_on()?;
        }
        self.abandon();
        match pool.adopt_forked(slot)? {
            true => Ok(()),
            false => Err(Error::owner_gone()),
        }
    }

    /// In a forked child: forgets the owner's jobs. The values kept for them are leaked on purpose:
    /// a drop would write to memory that the fork shares, and may run code.
    fn abandon(&self) {
        let mut state = self.state();
        std::mem::forget(std::mem::take(&mut state.undelivered));
        state.jobs.leave_to_parent();
        state.lifeline = None;
    }
}

enum Side {
    Owner(Channel, Child),
    Worker(Box<Born>),
}

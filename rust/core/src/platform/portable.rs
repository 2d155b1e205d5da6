//! The backend for every Unix: poll, waitid, signal 0, temporary files. Its callers look from time
//! to time to notice a death.

use super::backend::{Backend, Readiness, ReadySet};
use super::identity::{Life, Marks, ProcessId};
use super::{poll, proc, Descriptor};
use rustix::fd::BorrowedFd;
use rustix::io::Result;
use rustix::process::{Pid, Signal, WaitIdOptions, WaitIdStatus};
use std::path::Path;

#[derive(Debug)]
pub(crate) struct Portable;

impl Backend for Portable {
    fn ready_set(&self) -> Result<Box<dyn ReadySet>> {
        Ok(Box::new(poll::Set::default()))
    }

    fn readiness(&self) -> Option<Result<Box<dyn Readiness>>> {
        None
    }

    fn watch_process(&self, _pid: Pid) -> Option<Descriptor> {
        None
    }

    fn wait_process(
        &self,
        _watch: &Descriptor,
        _options: WaitIdOptions,
    ) -> Option<Result<Option<WaitIdStatus>>> {
        None
    }

    fn signal_process(&self, _watch: &Descriptor, _signal: Signal) -> Option<Result<()>> {
        None
    }

    fn marks(&self) -> Marks {
        proc::MARKS
    }

    fn mark_of(&self, _pid: Pid) -> Option<u32> {
        Some(proc::now())
    }

    fn mark_of_watched(&self, _watch: &Descriptor) -> Option<u32> {
        None
    }

    fn look(&self, process: ProcessId) -> Life {
        proc::look(process, true)
    }

    fn memory_file(&self) -> Option<Result<Descriptor>> {
        None
    }

    fn seal(&self, _file: BorrowedFd<'_>) {}

    fn unchanging_size(&self, _file: BorrowedFd<'_>) -> Option<usize> {
        None
    }

    fn splices(&self, _pipe: &Descriptor, _slots: usize) -> bool {
        false
    }

    fn kill_at_hang_up(&self, _read_end: &Path) -> std::io::Result<Option<Descriptor>> {
        Ok(None)
    }

    fn set_kill_at_hang_up(&self, _own: &Descriptor, _kills: bool) -> std::io::Result<()> {
        Ok(())
    }
}

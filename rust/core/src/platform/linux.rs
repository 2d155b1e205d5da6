//! Linux's backend: epoll, pidfds, memfds, splice, and a signal at a pipe's hang-up.

use super::backend::{Backend, Readiness, ReadySet};
use super::identity::{Life, Marks, ProcessId, MARK};
use super::{epoll, getpid, hang_up, proc, readiness, Descriptor};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{fcntl_add_seals, fcntl_get_seals, fstat, fstatfs, MemfdFlags, SealFlags};
use rustix::io::{Errno, Result};
use rustix::process::{
    pidfd_open, pidfd_send_signal, waitid, Pid, PidfdFlags, Signal, WaitId, WaitIdOptions,
    WaitIdStatus,
};
use std::path::Path;
use std::sync::{Arc, OnceLock};

#[derive(Debug)]
pub(crate) struct Linux;

/// The kernel's PID_FS_MAGIC (linux/magic.h).
const PIDFS: u64 = 0x5049_4446;

/// The kernel's TMPFS_MAGIC. The file system of huge pages is not accepted: huge pages can run out
/// when a page is copied.
const TMPFS: u64 = 0x0102_1994;

impl Backend for Linux {
    fn ready_set(&self) -> Result<Box<dyn ReadySet>> {
        Ok(Box::new(epoll::Set::new()?))
    }

    fn readiness(&self) -> Option<Result<Box<dyn Readiness>>> {
        let boxed = |set| -> Box<dyn Readiness> { Box::new(set) };
        Some(readiness::Set::new().map(boxed))
    }

    fn watch_process(&self, pid: Pid) -> Option<Descriptor> {
        open(pid).ok()
    }

    fn wait_process(
        &self,
        watch: &Descriptor,
        options: WaitIdOptions,
    ) -> Option<Result<Option<WaitIdStatus>>> {
        // A pidfd cannot mean another child that got the pid after other code reaped this one.
        match waitid(WaitId::PidFd(watch.as_fd()), options) {
            Err(Errno::INVAL) => None, // Linux 5.3 has pidfds without waitid
            waited => Some(waited),
        }
    }

    fn signal_process(&self, watch: &Descriptor, signal: Signal) -> Option<Result<()>> {
        Some(pidfd_send_signal(watch, signal))
    }

    fn marks(&self) -> Marks {
        static MARKS: OnceLock<Marks> = OnceLock::new();
        *MARKS.get_or_init(|| {
            let kind = open(getpid()).and_then(fstatfs).map(|system| u64::try_from(system.f_type));
            match kind {
                Ok(Ok(PIDFS)) => Marks::Inodes,
                _ => Marks::Times,
            }
        })
    }

    fn mark_of(&self, pid: Pid) -> Option<u32> {
        match self.marks() {
            Marks::Inodes => self.mark_of_watched(&open(pid).ok()?),
            _ => Some(proc::now()),
        }
    }

    fn mark_of_watched(&self, watch: &Descriptor) -> Option<u32> {
        match self.marks() {
            // Never 0, which would mean an unknown mark.
            Marks::Inodes => watch.inode().map(|inode| (inode as u32 & MARK).max(1)),
            _ => None,
        }
    }

    fn look(&self, process: ProcessId) -> Life {
        match open(process.pid) {
            Ok(pidfd) => {
                // These checks come after the opening, and so are about the process that the pidfd
                // refers to.
                if self.is_another(process, &pidfd) || pidfd.is_readable() {
                    return Life::Dead;
                }
                Life::Alive(Some(Arc::new(pidfd)))
            }
            // The pid is a thread's, for example, or no process has it.
            Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => Life::Dead,
            Err(_) => proc::look(process, self.marks() == Marks::Times),
        }
    }

    fn memory_file(&self) -> Option<Result<Descriptor>> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        match rustix::fs::memfd_create("jobserver", flags).and_then(Descriptor::new) {
            Err(Errno::NOSYS) => None,
            file => Some(file),
        }
    }

    fn seal(&self, file: BorrowedFd<'_>) {
        let _ = fcntl_add_seals(file, all_seals());
    }

    fn unchanging_size(&self, file: BorrowedFd<'_>) -> Option<usize> {
        if !fcntl_get_seals(file).ok()?.contains(all_seals())
            || u64::try_from(fstatfs(file).ok()?.f_type).ok()? != TMPFS
        {
            return None;
        }
        let stat = fstat(file).ok()?;
        // A read of a hole needs a new page. If no page is left, the reader dies of SIGBUS.
        let present = u64::try_from(stat.st_blocks).ok()?.checked_mul(512)?;
        let size = usize::try_from(stat.st_size).ok()?;
        (size > 0 && present >= size as u64).then_some(size)
    }

    fn splices(&self, pipe: &Descriptor, slots: usize) -> bool {
        use rustix::pipe::{fcntl_getpipe_size, fcntl_setpipe_size};
        let wanted = slots.saturating_mul(rustix::param::page_size());
        let enough = |size: Result<usize>| size.is_ok_and(|size| size >= wanted);
        enough(fcntl_getpipe_size(pipe)) || enough(fcntl_setpipe_size(pipe, wanted))
    }

    fn kill_at_hang_up(&self, read_end: &Path) -> std::io::Result<Option<Descriptor>> {
        hang_up::kill_at_hang_up(read_end).map(Some)
    }

    fn set_kill_at_hang_up(&self, own: &Descriptor, kills: bool) -> std::io::Result<()> {
        hang_up::set_kill_at_hang_up(own, kills)
    }
}

impl Linux {
    /// Returns whether the pidfd refers to another process, which has this one's pid by now.
    fn is_another(&self, process: ProcessId, pidfd: &Descriptor) -> bool {
        match self.marks() {
            Marks::Inodes => {
                let differs = |mark| mark != process.mark;
                process.mark != 0 && self.mark_of_watched(pidfd).is_some_and(differs)
            }
            // A process that was named in this tick was born before now. The birth time cannot tell
            // more.
            _ => process.mark != proc::now() && proc::is_another(process),
        }
    }
}

fn open(pid: Pid) -> Result<Descriptor> {
    pidfd_open(pid, PidfdFlags::empty()).and_then(Descriptor::new)
}

fn all_seals() -> SealFlags {
    SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE
}

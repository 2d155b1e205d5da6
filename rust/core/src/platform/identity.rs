//! The name of a process: its pid and a mark.
//!
//! A pid alone may mean another process by now. So a process is named by its pid and a *mark* that
//! no other process of that pid has:
//!
//! * where the kernel has pidfs (Linux 6.9), the mark is the lowest bits of its pidfd's inode
//!   number. The kernel gives that number to one process only, and it is the same in every
//!   namespace;
//! * elsewhere on Linux, the mark is a time at which the process was seen to live, in ticks of 10
//!   ms. A process of that pid that was born later is another one;
//! * other Unixes have no mark. There, a process that gets a used pid passes for the process that
//!   had it.
//!
//! A mark of 0 is not known yet, and fits any process of that pid.
//!
//! A pid means something in one pid namespace only, and a time in one time namespace. Not here:
//! what follows from that (`namespace`, `slots::ledger`), and whether a process lives (`liveness`).

use super::Descriptor;
use rustix::process::Pid;
use std::sync::Arc;

/// The bits of a mark. Inode numbers repeat after 2^29 births of processes, ticks after 62 days;
/// the pid would have to be the same too.
pub(super) const MARK: u32 = (1 << 29) - 1;

/// A process: its pid, and the mark that tells it from others of that pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProcessId {
    pub(crate) pid: Pid,
    pub(crate) mark: u32,
}

/// The kind of this system's marks. The numbers are stored in ledgers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marks {
    #[allow(dead_code)] // on Linux
    None = 2,
    #[allow(dead_code)] // on other Unixes
    Times = 0,
    #[allow(dead_code)] // without Linux's backend
    Inodes = 1,
}

impl ProcessId {
    /// Converts back from [`ProcessId::to_word`]. Returns None for a word without a pid.
    pub(crate) fn from_word(word: u64) -> Option<ProcessId> {
        let pid = i32::try_from(word >> 32).ok().and_then(Pid::from_raw)?;
        Some(ProcessId { pid, mark: word as u32 })
    }

    /// Converts to a word that is not 0.
    pub(crate) fn to_word(self) -> u64 {
        u64::from(self.pid_bits()) << 32 | u64::from(self.mark)
    }

    pub(crate) fn pid_bits(self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Makes it from a pid (0 for none) and the lowest bits of a mark.
    pub(crate) fn from_bits(pid: u32, mark: u32) -> Option<ProcessId> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
        Some(ProcessId { pid, mark: mark & MARK })
    }
}

/// The result of a look at another process.
#[derive(Debug)]
pub(crate) enum Life {
    Dead,
    /// With a descriptor that polls as readable at its death, where the system has that.
    Alive(Option<Arc<Descriptor>>),
}

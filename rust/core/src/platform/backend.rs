//! The contract of a backend: the work that each kind of Unix does in its own way.
//!
//! There are two backends. [`super::linux`] uses epoll, pidfds and memfds. [`super::portable`] uses
//! poll, waitid and temporary files, and so works on every Unix. Linux uses it too if the
//! environment has `JOBSERVER_PORTABLE=1`, or if the build leaves the other out (`--cfg
//! jobserver_portable`). A third one (kqueue, for example) implements [`Backend`] in this folder
//! and is chosen in `choice.rs`; nothing outside this folder changes.
//!
//! Not here: small differences between systems that no backend decides (`system`, `birth`).

use super::identity::{Life, Marks, ProcessId};
use super::Descriptor;
use rustix::fd::BorrowedFd;
use rustix::io::Result;
use rustix::process::{Pid, Signal, WaitIdOptions, WaitIdStatus};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The methods of a backend. Where a method returns `None`, the caller does the work in a general
/// way.
pub(crate) trait Backend: Sync {
    /// Returns an empty set of descriptors to be watched for input.
    fn ready_set(&self) -> Result<Box<dyn ReadySet>>;

    /// Returns a descriptor that an event loop can poll in the place of several. None where there is
    /// no such descriptor.
    fn readiness(&self) -> Option<Result<Box<dyn Readiness>>>;

    /// Returns a descriptor that polls as readable once the process has ended, and never means
    /// another process. None where there is no such descriptor, or where no descriptor is left:
    /// then the caller looks at the process from time to time.
    fn watch_process(&self, pid: Pid) -> Option<Descriptor>;

    /// Does waitid by the descriptor that [`Backend::watch_process`] returned. None: the caller
    /// uses the pid.
    fn wait_process(
        &self,
        watch: &Descriptor,
        options: WaitIdOptions,
    ) -> Option<Result<Option<WaitIdStatus>>>;

    /// Signals the process that this descriptor watches. None: the caller uses the pid.
    fn signal_process(&self, watch: &Descriptor, signal: Signal) -> Option<Result<()>>;

    /// Returns the kind of marks, which tell a process from a later one with the same pid.
    fn marks(&self) -> Marks;

    /// Returns the mark of a process that is alive, or has not been reaped.
    fn mark_of(&self, pid: Pid) -> Option<u32>;

    /// Returns the mark of the process that this descriptor watches, if the descriptor has it.
    fn mark_of_watched(&self, watch: &Descriptor) -> Option<u32>;

    /// Looks whether a process lives. A zombie does not.
    fn look(&self, process: ProcessId) -> Life;

    /// Makes a file that has no name and is made of memory. None: the caller makes a temporary
    /// file.
    fn memory_file(&self) -> Option<Result<Descriptor>>;

    /// Seals a memory file, so that no process can change it any more, where the system has seals.
    fn seal(&self, file: BorrowedFd<'_>);

    /// Returns the size of a file that no process can change any more and whose pages all exist.
    /// None if the file is not known to be so, or is empty.
    fn unchanging_size(&self, file: BorrowedFd<'_>) -> Option<usize>;

    /// Makes a pipe large enough to take `slots` bytes by `splice`. Returns whether that succeeded.
    fn splices(&self, pipe: &Descriptor, slots: usize) -> bool;

    /// Asks the kernel to kill this process once the last writer of a pipe is gone; `read_end` is
    /// the path of the pipe's read end. The kernel does so for as long as the returned descriptor
    /// stays open. None where the system cannot do so.
    fn kill_at_hang_up(&self, read_end: &Path) -> std::io::Result<Option<Descriptor>>;

    /// Makes the kernel do that, or not do that for a time, by the descriptor that it returned.
    fn set_kill_at_hang_up(&self, own: &Descriptor, kills: bool) -> std::io::Result<()>;
}

/// Descriptors that are watched for input, each under a key.
pub(crate) trait ReadySet: std::fmt::Debug + Send + Sync {
    /// Watches a descriptor. The set reports its key for as long as there is input
    /// (level-triggered).
    fn add(&mut self, fd: &Arc<Descriptor>, key: u64) -> Result<()>;

    /// Watches a descriptor. The set reports its key whenever more input comes, even if the last
    /// input was not read (edge-triggered). Returns false where the system cannot do so.
    fn add_edge(&mut self, fd: &Arc<Descriptor>, key: u64) -> bool;

    /// Stops watching a descriptor.
    fn remove(&mut self, fd: &Arc<Descriptor>, key: u64);

    /// Stops reporting a descriptor's input, or resumes it. Returns false where the system cannot do
    /// so.
    fn mute(&mut self, fd: &Arc<Descriptor>, key: u64, muted: bool) -> bool;

    /// Returns the keys of some descriptors that are ready now; none only if no descriptor is
    /// ready.
    fn ready(&mut self) -> Result<Vec<u64>>;

    /// Returns whether the set's own descriptors are intact.
    fn is_intact(&self) -> bool;

    /// Returns descriptors of which one is readable when a descriptor of the set is ready.
    fn watched(&self) -> Vec<Arc<Descriptor>>;

    /// Returns whether a wait on [`ReadySet::watched`] that has begun also wakes for a descriptor
    /// that is added later.
    fn grows_while_waited_for(&self) -> bool;
}

/// A descriptor that an event loop can poll in the place of several.
pub(crate) trait Readiness: std::fmt::Debug + Send + Sync {
    fn descriptor(&self) -> &Descriptor;

    /// From now on it is readable while one of these is, and after this time; and not for what it
    /// rested on before.
    fn rest_on(&mut self, descriptors: Vec<Arc<Descriptor>>, after: Option<Duration>)
        -> Result<()>;
}

/// How many ready descriptors one call of [`ReadySet::ready`] reports at most, if the kernel keeps
/// the set. The next call reports the rest.
pub(crate) const AT_ONCE: usize = 64;

//! The contract of a backend: what each kind of Unix does in a way of its own.
//!
//! Two backends stand side by side. [`super::linux`] uses epoll, pidfds and memfds. [`super::portable`]
//! uses poll, waitid and temporary files, and so works on every Unix; Linux takes it too if the
//! environment has `JOBSERVER_PORTABLE=1`, or if the build leaves the other out (`--cfg
//! jobserver_portable`). A third one (kqueue, say) implements [`Backend`], beside them, and is chosen in
//! `choice.rs`; nothing outside this folder changes.
//!
//! Not here: small differences between systems that no backend decides (`system`, `birth`).

use super::identity::{Life, Marks, ProcessId};
use super::Descriptor;
use rustix::fd::BorrowedFd;
use rustix::io::Result;
use rustix::process::{Pid, Signal, WaitIdOptions, WaitIdStatus};
use std::path::Path;
use std::sync::Arc;

/// What a backend supplies. A method that returns `None` leaves the work to the caller's general way.
pub(crate) trait Backend: Sync {
    /// An empty set of descriptors to be watched for input.
    fn ready_set(&self) -> Result<Box<dyn ReadySet>>;

    /// A descriptor that polls as readable once the process has ended, and never means another process.
    /// None where there is no such descriptor, or where none is left: the process is looked at then.
    fn watch_process(&self, pid: Pid) -> Option<Descriptor>;

    /// As `waitid`, by the descriptor that [`Backend::watch_process`] returned. None: by the pid.
    fn wait_process(
        &self,
        watch: &Descriptor,
        options: WaitIdOptions,
    ) -> Option<Result<Option<WaitIdStatus>>>;

    /// Signals the process that this descriptor watches. None: by the pid.
    fn signal_process(&self, watch: &Descriptor, signal: Signal) -> Option<Result<()>>;

    /// What tells a process from a later one that has its pid.
    fn marks(&self) -> Marks;

    /// The mark of a process that is alive, or has not been reaped.
    fn mark_of(&self, pid: Pid) -> Option<u32>;

    /// The mark of the process that this descriptor watches, if the descriptor tells.
    fn mark_of_watched(&self, watch: &Descriptor) -> Option<u32>;

    /// Whether a process lives. A zombie does not.
    fn look(&self, process: ProcessId) -> Life;

    /// A new file that has no name and is made of memory. None: a temporary file.
    fn memory_file(&self) -> Option<Result<Descriptor>>;

    /// Sees to it that nobody changes a memory file any more, if that can be had.
    fn seal(&self, file: BorrowedFd<'_>);

    /// The size of a file that nobody can change any more and whose pages are all there. None if
    /// the file is not known to be so, or is empty.
    fn unchanging_size(&self, file: BorrowedFd<'_>) -> Option<usize>;

    /// Whether bytes can be put into a pipe by `splice`, as many as there are slots.
    fn splices(&self, pipe: &Descriptor, slots: usize) -> bool;

    /// Has the kernel kill this process once the last writer of a pipe is gone, whose read end has
    /// this path. The kernel does so for as long as the descriptor that is returned stays open. None
    /// where it does not.
    fn kill_at_hang_up(&self, read_end: &Path) -> std::io::Result<Option<Descriptor>>;
}

/// Descriptors that are watched for input, each under a key.
pub(crate) trait ReadySet: std::fmt::Debug + Send + Sync {
    /// Watches a descriptor. Its key is told for as long as there is input.
    fn add(&mut self, fd: &Arc<Descriptor>, key: u64) -> Result<()>;

    /// Watches a descriptor. Its key is told whenever more input comes, whether or not the last was
    /// read. False where that cannot be had.
    fn add_edge(&mut self, fd: &Arc<Descriptor>, key: u64) -> bool;

    /// Watches a descriptor no more.
    fn remove(&mut self, fd: &Arc<Descriptor>, key: u64);

    /// The keys of some descriptors that are ready now; none when no descriptor is.
    fn ready(&mut self) -> Result<Vec<u64>>;

    /// Whether the set still hears of what it watches, as far as its own descriptors tell.
    fn is_intact(&self) -> bool;

    /// Descriptors of which one is readable when something in the set is.
    fn watched(&self) -> Vec<Arc<Descriptor>>;

    /// Whether a wait on [`ReadySet::watched`] that has begun hears of what is added later.
    fn grows_while_waited_for(&self) -> bool;
}

/// How many ready descriptors one call of [`ReadySet::ready`] tells of at most, if the kernel keeps
/// the set; the rest come with the next call.
pub(crate) const AT_ONCE: usize = 64;

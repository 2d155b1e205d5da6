//! The lifeline: it ends jobs when their owner is killed.
//!
//! The lifeline is a pipe of which only the owner has the write end. When the owner is gone for
//! whatever reason, the read end hangs up, and a job has asked the kernel to send it SIGKILL then.
//! PR_SET_PDEATHSIG would not do: it fires when the *thread* that forked ends, and for a job of the
//! fork server it reports the end of the fork server and not of the owner.
//!
//! For that, each job needs an open description of its own, which Linux gives through /proc. Where
//! that is not mounted, and on other Unixes, which have no such signal, jobs outlive an owner that
//! is killed.

use crate::error::{Error, Result};
use crate::platform::{self, backend, getpid, Descriptor};
use rustix::fd::AsRawFd;
use rustix::process::Pid;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// The lifeline of a process. It lasts for as long as a value of this type exists, so a process
/// without jobs need not have one.
#[derive(Debug, Clone)]
pub struct Lifeline(Arc<LifelineEnds>);

#[derive(Debug)]
struct LifelineEnds {
    owner: Pid,
    read: Arc<Descriptor>,
    /// The path of `read` in /proc, in this process and in jobs that are forked.
    path: PathBuf,
    /// None in a forked child.
    write: Mutex<Option<Descriptor>>,
}

/// The lifeline that this process itself hangs on. It stays open for as long as the process lives.
/// A job that it forks has inherited it, and puts its own in its place.
static HELD: Mutex<Option<Descriptor>> = Mutex::new(None);

/// The lifeline of this process's jobs.
static OWN: Mutex<Weak<LifelineEnds>> = Mutex::new(Weak::new());

/// All lifelines that this process, or a process that it was forked from, has made.
static MADE: Mutex<Vec<Weak<LifelineEnds>>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LifelineEnds {
    /// Returns whether the ends are this process's own, and it has not closed them.
    fn are_ours(&self) -> bool {
        self.owner == getpid()
            && self.read.is_intact()
            && lock(&self.write).as_ref().is_some_and(Descriptor::is_intact)
    }
}

impl Lifeline {
    /// Makes a lifeline.
    pub(crate) fn new() -> Result<Lifeline> {
        let (read, write) = platform::pipe().map_err(Error::system("cannot start a job"))?;
        let (owner, path, read) = (getpid(), path_of(&read), Arc::new(read));
        let ends = Arc::new(LifelineEnds { owner, read, path, write: Mutex::new(Some(write)) });
        let mut made = lock(&MADE);
        made.retain(|ends| ends.strong_count() > 0);
        made.push(Arc::downgrade(&ends));
        Ok(Lifeline(ends))
    }

    /// Returns the lifeline of this process's jobs. There is at most one at a time.
    pub fn of_this_process() -> Result<Lifeline> {
        let mut current = lock(&OWN);
        if let Some(ends) = current.upgrade().filter(|ends| ends.are_ours()) {
            return Ok(Lifeline(ends));
        }
        let made = Lifeline::new()?;
        *current = Arc::downgrade(&made.0);
        Ok(made)
    }

    /// In a forked child, as early as possible: closes its copies of its parent's write ends.
    /// Otherwise the parent's lifelines would outlast the parent.
    pub fn forget_parents() {
        let made = lock(&MADE);
        let all = made.iter().filter_map(Weak::upgrade);
        all.filter(|ends| ends.owner != getpid()).for_each(|ends| *lock(&ends.write) = None);
    }

    /// Returns the read end, to be sent to a job.
    pub fn as_descriptor(&self) -> &Descriptor {
        &self.0.read
    }

    /// Returns the read end, to be waited for.
    pub(crate) fn read_end(&self) -> &Arc<Descriptor> {
        &self.0.read
    }

    /// In a job that this process has forked: from now on the job ends when its owner does.
    pub fn hang_on(&self) -> Result<()> {
        hang_on(&self.0.path)
    }

    /// Does the same in a job that has been sent the descriptor.
    pub fn hang_on_to(received: &Descriptor) -> Result<()> {
        hang_on(&path_of(received))
    }
}

/// Whether this process has let go of the lifeline that it holds.
static LET_GO: AtomicBool = AtomicBool::new(false);

/// After a job: from now on this process does not end with its owner.
pub(crate) fn let_go() -> Result<()> {
    let held = lock(&HELD);
    // The job may have closed it.
    let Some(held) = held.as_ref().filter(|held| held.is_intact()) else { return Ok(()) };
    backend().set_kill_at_hang_up(held, false).map_err(Error::system(WATCHING))?;
    LET_GO.store(true, Ordering::Relaxed);
    Ok(())
}

/// Before a job: does the contrary of [`let_go`]. If the owner has ended already, this process
/// ends. Between the two calls the process must run no code of the user.
pub(crate) fn hang_on_again() -> Result<()> {
    match &*lock(&HELD) {
        Some(held) if LET_GO.swap(false, Ordering::Relaxed) => {
            backend().set_kill_at_hang_up(held, true).map_err(Error::system(WATCHING))
        }
        _ => Ok(()),
    }
}

const WATCHING: &str = "cannot watch a job's owner";

fn path_of(fd: &Descriptor) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

fn hang_on(read_end: &Path) -> Result<()> {
    match backend().kill_at_hang_up(read_end) {
        Ok(held) => {
            *lock(&HELD) = held;
            LET_GO.store(false, Ordering::Relaxed);
        }
        Err(_) if !has_proc() => {}
        Err(e) => return Err(Error::system(WATCHING)(e)),
    }
    Ok(())
}

fn has_proc() -> bool {
    rustix::fs::access("/proc/self", rustix::fs::Access::EXISTS).is_ok()
}

/// Returns the lifeline that a process hangs on, if any, as /proc names the pipe.
pub(crate) fn lifeline_held_by(pid: Pid) -> Option<PathBuf> {
    pipes(pid, |flags| flags & ASYNC != 0).pop()
}

/// Returns the lifelines that other processes may hang on: the pipes of which a process has a write
/// end.
pub(crate) fn lifelines_of(owner: Pid) -> Vec<PathBuf> {
    pipes(owner, |flags| flags & ACCESS == WRITE_ONLY)
}

// The flags of an open description as /proc shows them, in octal: Linux's own numbers.
const ASYNC: u32 = 0o20000;
const ACCESS: u32 = 0o3;
const WRITE_ONLY: u32 = 0o1;

fn pipes(pid: Pid, wanted: impl Fn(u32) -> bool) -> Vec<PathBuf> {
    let process = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
    let open = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    open.filter_map(|entry| {
        let pipe = std::fs::read_link(entry.path()).ok()?;
        let told = std::fs::read_to_string(process.join("fdinfo").join(entry.file_name())).ok()?;
        let flags = told.lines().find_map(|line| line.strip_prefix("flags:"))?;
        let flags = u32::from_str_radix(flags.trim(), 8).ok()?;
        (pipe.to_str()?.starts_with("pipe:") && wanted(flags)).then_some(pipe)
    })
    .collect()
}

//! This process's pid, mostly without a system call. It is needed several times for each job,
//! because any code of the user may have forked.
//!
//! The pid is kept in a page of memory that the kernel wipes in the child of every fork
//! (MADV_WIPEONFORK, Linux 4.14). Where there is no such page, each call asks the system.

use rustix::process::Pid;

/// Returns the pid of this process.
pub fn getpid() -> Pid {
    noted_pid().unwrap_or_else(rustix::process::getpid)
}

#[cfg(not(all(target_os = "linux", not(jobserver_portable))))]
fn noted_pid() -> Option<Pid> {
    None
}

#[cfg(not(all(target_os = "linux", not(jobserver_portable))))]
pub(super) fn renew() {}

#[cfg(all(target_os = "linux", not(jobserver_portable)))]
use page::noted_pid;
/// In the child of a fork: stores its pid now. (If the first access to the page is a write, it
/// costs one page fault; if it is a read, a later write costs another.)
#[cfg(all(target_os = "linux", not(jobserver_portable)))]
pub(super) use page::renew;

#[cfg(all(target_os = "linux", not(jobserver_portable)))]
mod page {
    use rustix::mm::{madvise, mmap_anonymous, munmap, Advice, MapFlags, ProtFlags};
    use rustix::process::Pid;
    use std::ptr::{null_mut, NonNull};
    use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

    /// The page that the kernel wipes; null until the first use.
    static PAGE: AtomicPtr<AtomicI32> = AtomicPtr::new(null_mut());
    /// Used where there is no such page. It is never written to.
    static NO_PAGE: AtomicI32 = AtomicI32::new(0);

    pub(super) fn noted_pid() -> Option<Pid> {
        let page = page();
        if std::ptr::eq(page, &raw const NO_PAGE) {
            return None;
        }
        let known = Pid::from_raw(page.load(Ordering::Relaxed));
        Some(known.unwrap_or_else(|| {
            let pid = rustix::process::getpid();
            page.store(pid.as_raw_nonzero().get(), Ordering::Relaxed);
            pid
        }))
    }

    pub(in crate::platform) fn renew() {
        let page = page();
        if !std::ptr::eq(page, &raw const NO_PAGE) {
            page.store(rustix::process::getpid().as_raw_nonzero().get(), Ordering::Relaxed);
        }
    }

    fn page() -> &'static AtomicI32 {
        // There is no lock: a fork by another thread would leave it locked in the child.
        let page = NonNull::new(PAGE.load(Ordering::Acquire)).unwrap_or_else(map_page);
        // SAFETY: `NO_PAGE`, or a page that is never unmapped, aligned and initialised by the
        // kernel, and accessed as this atomic only.
        unsafe { page.as_ref() }
    }

    fn map_page() -> NonNull<AtomicI32> {
        let page = map().unwrap_or(NonNull::from(&NO_PAGE));
        let first =
            PAGE.compare_exchange(null_mut(), page.as_ptr(), Ordering::AcqRel, Ordering::Acquire);
        // If another thread was quicker, this page stays unused.
        first.err().and_then(NonNull::new).unwrap_or(page)
    }

    fn map() -> Option<NonNull<AtomicI32>> {
        if !crate::platform::choice::linux() {
            return None;
        }
        let size = rustix::param::page_size();
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let start = unsafe { mmap_anonymous(null_mut(), size, access, MapFlags::PRIVATE) }.ok()?;
        // SAFETY: the mapping is new, and there is no reference to it yet.
        if unsafe { madvise(start, size, Advice::LinuxWipeOnFork) }.is_err() {
            // SAFETY: likewise. An error would mean that it is not mapped.
            let _ = unsafe { munmap(start, size) };
            return None;
        }
        NonNull::new(start.cast())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rustix::process::WaitOptions;

    #[test]
    fn a_child_that_nobody_has_told_of_its_fork_knows_its_pid() {
        assert_eq!(getpid(), rustix::process::getpid());
        // SAFETY: the child calls what is async-signal-safe, and leaves.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let known =
                getpid() == rustix::process::getpid() && getpid() == rustix::process::getpid();
            // SAFETY: ends the process without running anything.
            unsafe { libc::_exit(if known { 7 } else { 8 }) };
        }
        let status = rustix::process::waitpid(Pid::from_raw(child), WaitOptions::empty());
        assert_eq!(status.unwrap().unwrap().1.exit_status(), Some(7));
    }
}

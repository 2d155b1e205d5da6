//! Closing what a forked child has inherited and does not use.

use super::Descriptor;
use rustix::fd::{AsRawFd, RawFd};

/// In a forked child: closes these numbers. The caller neither uses nor drops the descriptors after
/// this; to drop many would write to memory that the fork shares.
///
/// It does not check whether a number still is the descriptor's file, so only a process in which no
/// other code runs may call it. Numbers that follow each other are closed by one system call, if the
/// system has that: a fork server has two descriptors for each of its children.
pub(crate) fn close_inherited<'a>(descriptors: impl Iterator<Item = &'a Descriptor>) {
    let mut numbers: Vec<RawFd> = descriptors.map(AsRawFd::as_raw_fd).collect();
    numbers.sort_unstable();
    for run in numbers.chunk_by(|one, next| one + 1 == *next) {
        if !close_range(run) {
            for number in run {
                // SAFETY: closes a number that nothing in this process uses after this.
                unsafe { libc::close(*number) };
            }
        }
    }
}

/// Marks a descriptor that forked children are to close though other code has run: see
/// [`is_still_ours`].
pub(crate) fn mark_inherited(descriptor: &Descriptor) {
    #[cfg(all(target_os = "linux", not(jobserver_portable)))]
    super::mark::put_inherited(descriptor);
    let _ = descriptor;
}

/// In a forked child: returns whether the number is still the descriptor's. To ask for a file's
/// identity takes 0.9 us (measured in a virtual machine; the inode is in no cache), and to see a
/// mark 0.3 us. So what is marked counts, and what is not is asked for its identity.
pub(crate) fn is_still_ours(descriptor: &Descriptor) -> bool {
    #[cfg(all(target_os = "linux", not(jobserver_portable)))]
    if super::mark::is_inherited(descriptor) {
        return true;
    }
    descriptor.is_intact()
}

/// Closes numbers that follow each other. Returns false if the system cannot: Linux before 5.9, and
/// where a filter of system calls refuses it.
#[cfg(target_os = "linux")]
fn close_range(run: &[RawFd]) -> bool {
    let (Some(first), Some(last)) = (run.first(), run.last()) else { return true };
    // SAFETY: as in `close_inherited`. (Older C libraries have no function for this call.)
    unsafe { libc::syscall(libc::SYS_close_range, *first, *last, 0) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn close_range(_run: &[RawFd]) -> bool {
    false
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::platform::{exit_at_once, fork, pipe, Forked};
    use rustix::process::{waitpid, WaitOptions};

    #[test]
    fn a_forked_child_closes_these_descriptors_and_no_others() {
        let pipes: Vec<_> = (0..20).map(|_| pipe().unwrap()).collect();
        let (closed, kept): (Vec<_>, Vec<_>) =
            pipes.iter().enumerate().partition(|(place, _)| place % 7 != 3);
        // SAFETY: the child makes system calls only, and allocates, which glibc allows.
        let Forked::Parent(child) = unsafe { fork() }.unwrap() else {
            close_inherited(closed.iter().flat_map(|(_, (read, write))| [read, write]));
            let are_closed = closed.iter().all(|(_, (read, _))| !read.is_intact());
            let are_kept = kept.iter().all(|(_, (_, write))| write.is_intact());
            exit_at_once(i32::from(!are_closed || !are_kept));
        };
        let status = waitpid(Some(child), WaitOptions::empty()).unwrap().unwrap().1;
        assert_eq!(status.exit_status(), Some(0));
        assert!(closed.iter().all(|(_, (read, _))| read.is_intact()), "the parent has them");
    }

    #[test]
    #[cfg(all(target_os = "linux", not(jobserver_portable)))]
    fn a_number_that_is_another_files_by_now_is_not_inherited() {
        let ((lost, kept), (another, _)) = (pipe().unwrap(), pipe().unwrap());
        mark_inherited(&lost);
        assert!(is_still_ours(&lost) && is_still_ours(&kept));
        let _now = crate::platform::put_in_place_of(&lost, &another);
        assert!(!is_still_ours(&lost));
    }
}

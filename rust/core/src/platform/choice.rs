//! The choice of this process's backend.

use super::backend::{Backend, ReadySet};
use super::poll;

/// Returns whether to use what only Linux has (epoll, pidfd, memfd).
#[cfg(all(target_os = "linux", not(jobserver_portable)))]
pub(super) fn linux() -> bool {
    use std::sync::OnceLock;
    static LINUX: OnceLock<bool> = OnceLock::new();
    *LINUX.get_or_init(|| std::env::var_os("JOBSERVER_PORTABLE").is_none_or(|v| v != "1"))
}

/// The backend of this process.
#[cfg(all(target_os = "linux", not(jobserver_portable)))]
pub(crate) fn backend() -> &'static dyn Backend {
    match linux() {
        true => &super::linux::Linux,
        false => &super::portable::Portable,
    }
}

/// The backend of this process.
#[cfg(not(all(target_os = "linux", not(jobserver_portable))))]
pub(crate) fn backend() -> &'static dyn Backend {
    &super::portable::Portable
}

/// Returns a set that watches no descriptor and needs no system call.
pub(crate) fn empty_set() -> Box<dyn ReadySet> {
    Box::new(poll::Set::default())
}

/// Properties that the sets of all backends have.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn sets() -> Vec<Box<dyn ReadySet>> {
        vec![
            #[cfg(all(target_os = "linux", not(jobserver_portable)))]
            Box::new(crate::platform::epoll::Set::new().unwrap()),
            Box::new(crate::platform::poll::Set::default()),
        ]
    }

    #[test]
    fn only_what_is_ready_is_told_and_until_it_is_removed() {
        for mut set in sets() {
            let (quiet, _keep) = crate::platform::pipe().unwrap();
            let (loud, write) = crate::platform::pipe().unwrap();
            let (quiet, loud) = (Arc::new(quiet), Arc::new(loud));
            set.add(&quiet, 1).unwrap();
            set.add(&loud, 2).unwrap();
            assert!(set.ready().unwrap().is_empty());
            rustix::io::write(&write, b"x").unwrap();
            assert_eq!(set.ready().unwrap(), [2]);
            assert_eq!(set.ready().unwrap(), [2]);
            set.remove(&loud, 2);
            assert!(set.ready().unwrap().is_empty());
        }
    }

    #[test]
    fn the_end_of_a_writer_is_readiness() {
        for mut set in sets() {
            let (read, write) = crate::platform::pipe().unwrap();
            let read = Arc::new(read);
            set.add(&read, 7).unwrap();
            drop(write);
            assert_eq!(set.ready().unwrap(), [7]);
        }
    }
}

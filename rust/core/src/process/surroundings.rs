//! What a new program has of the process that starts it, and a look at it costs little.

use rustix::fd::AsFd;
use rustix::fs::{fstat, stat, Stat};
use rustix::process::{getegid, geteuid, getgid, getgroups, getpgrp, getpriority_process, getuid};
use rustix::process::{getrlimit, Resource};
use rustix::stdio::{stderr, stdout};

const LIMITS: [Resource; 10] = [
    Resource::As,
    Resource::Core,
    Resource::Cpu,
    Resource::Data,
    Resource::Fsize,
    Resource::Memlock,
    Resource::Nofile,
    Resource::Nproc,
    Resource::Rss,
    Resource::Stack,
];

/// What the kernel tells of a process beside that, as numbers: privileges, and the umask.
const STATUS: [&str; 8] =
    ["Umask", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"];

/// Returns the user and groups of this process, its process group, priority, limits, privileges and
/// umask, and which files are its root, its current folder, and its standard output and error. They
/// are numbers, to be compared. (The environment is the host's.)
pub fn surroundings() -> Vec<u64> {
    let files = [stat("/"), stat("."), fstat(stdout().as_fd()), fstat(stderr().as_fd())];
    let files = files.iter().flat_map(|file| file.as_ref().map_or([0; 2], name));
    let limits = LIMITS.iter().map(|limit| getrlimit(*limit));
    let limits = limits.flat_map(|limit| [limit.current, limit.maximum]);
    let ids = [getuid().as_raw(), geteuid().as_raw(), getgid().as_raw(), getegid().as_raw()];
    let groups = getgroups().unwrap_or_default();
    let groups = groups.iter().map(|group| group.as_raw());
    let priority = getpriority_process(None).unwrap_or_default();
    let group = getpgrp().as_raw_nonzero().get().unsigned_abs();
    files
        .chain(limits.map(|limit| limit.unwrap_or(u64::MAX)))
        .chain(ids.into_iter().chain(groups).map(u64::from))
        .chain([priority.unsigned_abs().into(), (priority < 0).into(), group.into()])
        .chain(status())
        .collect()
}

fn status() -> Vec<u64> {
    let told = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let lines = told.lines().filter_map(|line| line.split_once(':'));
    let ours = lines.filter(|(name, _)| STATUS.contains(name));
    ours.map(|(_, value)| u64::from_str_radix(value.trim(), 16).unwrap_or(u64::MAX)).collect()
}

#[allow(clippy::unnecessary_cast)] // on other systems they are of other types
fn name(file: &Stat) -> [u64; 2] {
    [file.st_dev as u64, file.st_ino as u64]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rustix::process::{setrlimit, Rlimit};

    #[test]
    fn a_changed_limit_is_seen() {
        let before = surroundings();
        assert_eq!(surroundings(), before);
        let limit = getrlimit(Resource::Stack);
        let less = limit.current.unwrap_or(u64::MAX >> 1) - 1;
        setrlimit(Resource::Stack, Rlimit { current: Some(less), ..limit }).unwrap();
        assert_ne!(surroundings(), before);
        setrlimit(Resource::Stack, limit).unwrap();
        assert_eq!(surroundings(), before);
    }
}

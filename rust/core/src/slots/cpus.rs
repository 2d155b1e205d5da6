//! How many CPUs this process may use: the default number of slots.
//!
//! The standard library already considers affinity masks and the CPU quotas of cgroups version 1
//! and 2. It rounds a fractional quota down.

use std::num::NonZeroUsize;

/// Returns how many CPUs this process may use now, at least 1. Affinity and cgroup quota are
/// considered.
pub fn usable_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

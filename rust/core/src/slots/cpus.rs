//! How many CPUs this process may really use: the default number of slots.
//!
//! The standard library already knows affinity masks and the CPU quotas of cgroups
//! version 1 and 2, rounding a fractional quota down; there is nothing to add to it.

use std::num::NonZeroUsize;

/// The CPUs that this process may use now: affinity and cgroup quota considered, at least 1.
pub fn usable_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

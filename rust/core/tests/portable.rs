//! Which backend is used: Linux's own, or, on request, the portable one.
//!
//! All other tests run twice, once with each backend. This file proves that the second run uses the
//! portable one.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::*;
use jobserver_core::wire::memory_file;
use jobserver_core::Jobs;
use rustix::process::Signal;
use std::fs::{read_dir, read_link};

/// The other process: runs a job and opens a memory file. It ends with exit code 0 if it uses
/// Linux's own descriptors exactly when it should.
#[test]
fn user_of_everything() {
    if !has_role("user_of_everything") {
        return;
    }
    let mut jobs = Jobs::new();
    let id = start(&mut jobs, None, |channel| i32::from(channel.receive().unwrap().is_some()));
    let file = memory_file().unwrap();
    let open: Vec<String> = read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| read_link(entry.unwrap().path()).ok())
        .map(|target| target.to_string_lossy().into_owned())
        .collect();
    let uses = |what: &str| open.iter().any(|target| target.contains(what));
    let used = [uses("[eventpoll]"), uses("pidfd"), uses("memfd:")];
    jobs.signal(id, Signal::KILL).unwrap();
    outcomes(&mut jobs, 1);
    drain(&mut jobs);
    drop(file);
    assert_eq!(used, [!portable(); 3], "{open:?}");
}

#[test]
fn linux_uses_its_own_means_unless_told_otherwise() {
    let _alone = Alone::new();
    let mut user = another_process("user_of_everything");
    let status = user.env_remove("JOBSERVER_PORTABLE").status().unwrap();
    assert!(status.success());
}

#[test]
fn the_variable_takes_the_portable_path() {
    let _alone = Alone::new();
    let mut user = another_process("user_of_everything");
    let status = user.env("JOBSERVER_PORTABLE", "1").status().unwrap();
    assert!(status.success());
}

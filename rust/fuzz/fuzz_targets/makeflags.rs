//! MAKEFLAGS is whatever the environment holds: no bytes may make its reader panic, and none may
//! keep the programs that we start from our pool.
//!
//! The input is a value and, after a zero byte (which no environment can hold), a pool's path.
#![no_main]

use jobserver_core::make::flags::{export, MakeFlags, PoolName};
use jobserver_core::slots::Auth;
use libfuzzer_sys::fuzz_target;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

fuzz_target!(|input: &[u8]| {
    let mut parts = input.splitn(2, |&byte| byte == 0).map(OsStr::from_bytes);
    let existing = parts.next().unwrap_or_default();
    let path = parts.next().unwrap_or_default();
    let dry_run = MakeFlags::parse(existing).dry_run;
    let fifo = (Auth::Fifo(path.into()), Some((3, 4)));
    for (auth, for_make) in [fifo, (Auth::Pipe { read: 3, write: 4 }, None)] {
        let flags = export(Some(existing), &auth, for_make, 2);
        let exported = MakeFlags { named: PoolName::Pool(auth), jobs: Some(2), dry_run };
        assert_eq!(MakeFlags::parse(&flags), exported);
    }
});

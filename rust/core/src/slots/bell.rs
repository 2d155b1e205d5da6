//! The bell of a pool: wakes whoever sleeps until a slot is free, in whichever process.
//!
//! Who sleeps watches the holders of all slots, lest one of them dies. So the bell is rung
//! when a slot is about to have another holder. It is a fifo, of which only that it was
//! written to counts; nobody reads what was rung.

use crate::platform::Descriptor;
use rustix::fs::{Mode, OFlags};
use rustix::io::{retry_on_intr, Errno};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

#[derive(Debug)]
pub(crate) struct PoolBell {
    fifo: PathBuf,
    /// Opened when it is first needed; None if the system would not.
    open: OnceLock<Option<Arc<Descriptor>>>,
}

impl PoolBell {
    pub(crate) fn at(fifo: PathBuf) -> PoolBell {
        PoolBell { fifo, open: OnceLock::new() }
    }

    /// What becomes readable, anew each time it is rung.
    pub(crate) fn descriptor(&self) -> Option<&Arc<Descriptor>> {
        let open = || {
            let flags = OFlags::RDWR | OFlags::NONBLOCK;
            Descriptor::open(&self.fifo, flags, Mode::empty()).ok().map(Arc::new)
        };
        self.open.get_or_init(open).as_ref()
    }

    pub(crate) fn ring(&self) {
        let fifo = self.descriptor().and_then(|fifo| fifo.intact_or_anew().ok());
        let Some(fifo) = &fifo else { return };
        let ring = || retry_on_intr(|| rustix::io::write(fifo, b"!"));
        if ring() == Err(Errno::AGAIN) {
            let _ = rustix::io::read(fifo, &mut [0u8; 4096]); // it is full
            let _ = ring();
        }
    }
}

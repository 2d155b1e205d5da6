//! The bell of a pool: it wakes all processes that wait for a slot.
//!
//! A waiter watches the holders of all slots, because a holder may be killed. So the bell is rung
//! when a slot is about to have another holder. The bell is a fifo that is watched edge-triggered:
//! each write wakes all waiters, and no waiter reads the bytes.

use crate::platform::Descriptor;
use rustix::fs::{Mode, OFlags};
use rustix::io::{retry_on_intr, Errno};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

#[derive(Debug)]
pub(crate) struct PoolBell {
    fifo: PathBuf,
    /// Opened at first use. None if the system refused.
    open: OnceLock<Option<Arc<Descriptor>>>,
}

impl PoolBell {
    pub(crate) fn at(fifo: PathBuf) -> PoolBell {
        PoolBell { fifo, open: OnceLock::new() }
    }

    /// Returns the descriptor that has an edge of readiness at each ring.
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
            let _ = rustix::io::read(fifo, &mut [0u8; 4096]); // the fifo is full
            let _ = ring();
        }
    }
}

//! The bell of a pool: it wakes all processes that wait for a slot.
//!
//! A waiter watches the holders of all slots, because a holder may be killed. So the bell is rung
//! when a slot is about to have another holder. The bell is a fifo that is watched edge-triggered:
//! each write wakes all waiters, and no waiter reads the bytes.

use crate::platform::{make_fifo, Descriptor};
use rustix::fd::BorrowedFd;
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

    /// Empties the fifo.
    pub(crate) fn drain(fifo: BorrowedFd<'_>) {
        while matches!(retry_on_intr(|| rustix::io::read(fifo, &mut [0u8; 64])), Ok(1..)) {}
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

/// The bells of single waiters: a fifo for each row of the queue, in the pool's home. A waiter that
/// does not listen has the fifo of its row open; if it has not, it does not sleep.
#[derive(Debug)]
pub(crate) struct RowBells {
    home: PathBuf,
}

impl RowBells {
    pub(crate) fn in_home(home: PathBuf) -> RowBells {
        RowBells { home }
    }

    fn fifo(&self, row: u32) -> PathBuf {
        self.home.join(format!("{ROW}{row}"))
    }

    /// Opens the fifo of this process's row, and makes it if it was never used.
    pub(crate) fn open(&self, row: u32) -> rustix::io::Result<Descriptor> {
        let (fifo, flags) = (self.fifo(row), OFlags::RDWR | OFlags::NONBLOCK);
        match Descriptor::open(&fifo, flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                let _ = make_fifo(&fifo); // or another process has made it just now
                Descriptor::open(&fifo, flags, Mode::empty())
            }
            opened => opened,
        }
    }

    /// Wakes the waiter of a row. Returns false if no process has the fifo open: then the waiter
    /// does not sleep there.
    pub(crate) fn ring(&self, row: u32) -> bool {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK;
        let fifo = Descriptor::open(&self.fifo(row), flags, Mode::empty());
        if let Ok(fifo) = &fifo {
            let _ = retry_on_intr(|| rustix::io::write(fifo, b"!")); // if it is full, it is ready
        }
        fifo.is_ok()
    }
}

/// The prefix of the names of those fifos.
pub(crate) const ROW: &str = "row-";

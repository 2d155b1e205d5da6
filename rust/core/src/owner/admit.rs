//! Admission: how a submission comes to a slot.

use super::shared::Owner;
use super::waits::Until;
use super::OwnerHost;
use crate::error::Result;
use crate::slots::Slot;

/// What a submission runs on, once it has been admitted. Dropping it gives a slot back.
#[derive(Debug, Default)]
pub struct Admitted {
    /// None for a job that takes no slot; and once a job has it.
    pub slot: Option<Slot>,
    /// The slot was this process's own: it must not go on before [`Owner::resume`] returns.
    pub own: bool,
}

impl<J> Owner<J> {
    /// Scans, and waits if need be, until a slot can be taken, or `timeout` seconds are over; or, if
    /// `callbacks`, until the host has something to do.
    ///
    /// A job that would have to wait gets its own slot instead, to lend or, if it yields, to hand over.
    pub fn admit<H: OwnerHost<J>>(
        &self,
        host: &H,
        timeout: Option<f64>,
        callbacks: bool,
    ) -> std::result::Result<Until<Admitted>, H::Error> {
        let pool = self.open_pool()?; // before any callbacks
        let may_wait = timeout.is_none_or(|seconds| seconds > 0.0);
        let look = || self.admit_at_once(may_wait);
        self.until(host, timeout, Some(&pool), callbacks, look)
    }

    /// Takes a slot if one is free at this moment; or, if a job `may_lend`, its own.
    pub fn admit_at_once(&self, may_lend: bool) -> Result<Option<Admitted>> {
        let pool = self.open_pool()?;
        if let Some(slot) = pool.try_take()? {
            return Ok(Some(Admitted { slot: Some(slot), own: false }));
        }
        let own = if may_lend { pool.own_slot(self.options.yields) } else { None };
        Ok(own.map(|slot| Admitted { slot: Some(slot), own: true }))
    }

    /// Whether [`Owner::admit_at_once`] would find a slot; if a job `may_lend`, its own counts.
    pub fn could_admit(&self, may_lend: bool) -> Result<bool> {
        let pool = self.open_pool()?;
        Ok(pool.has_one()? || may_lend && pool.runs())
    }

    /// After an admission is used up, or has failed: gives a slot back that no job has. If it was this
    /// process's own, waits until there is one to go on with, the own one or another.
    pub fn conclude<H: OwnerHost<J>>(
        &self,
        host: &H,
        admitted: &mut Admitted,
    ) -> std::result::Result<(), H::Error> {
        drop(admitted.slot.take());
        match std::mem::take(&mut admitted.own) {
            true => self.resume(host),
            false => Ok(()),
        }
    }

    /// After this process's slot was given away: waits until there is one to go on with.
    pub fn resume<H: OwnerHost<J>>(&self, host: &H) -> std::result::Result<(), H::Error> {
        let Ok(pool) = self.pool() else { return Ok(()) };
        self.until(host, None, Some(&pool), false, || Ok(pool.resume()?.then_some(())))?;
        Ok(())
    }
}

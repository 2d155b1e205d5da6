//! Admission: how a submission gets a slot.

use super::shared::Owner;
use super::waits::Until;
use super::OwnerHost;
use crate::error::Result;
use crate::slots::{PausedTurn, Pool, Slot, ThreadSlot, Turn, Want};

/// The slot of an admitted submission. A drop gives the slot back.
#[derive(Debug, Default)]
pub struct Admitted {
    /// None for a job that takes no slot, and after the slot has passed to a job.
    pub slot: Option<Slot>,
    /// The slot was this process's own, of this pool, so this process must not go on before
    /// [`Owner::conclude`] returns.
    pub own: Option<Pool>,
}

impl<J> Owner<J> {
    /// Scans and waits until a slot can be taken, or `timeout` seconds are over. With `callbacks`,
    /// also returns when the host has something to do.
    ///
    /// If this process is a job that would have to wait, this returns the job's own slot instead:
    /// the job lends it or, if it yields, gives it away. For a new job of several slots, or if this
    /// one has several, the job gives all of its slots to the pool, and waits in the queue. If an
    /// error ends that wait, the job has no slot, and `given_away` is the pool.
    pub fn admit<H: OwnerHost<J>>(
        &self,
        host: &H,
        paused: &mut PausedTurn,
        needs: usize,
        (timeout, callbacks): (Option<f64>, bool),
        given_away: &mut Option<Pool>,
    ) -> std::result::Result<Until<Admitted>, H::Error> {
        let pool = self.open_pool()?; // fails before any callback runs
        let may_wait = timeout.is_none_or(|seconds| seconds > 0.0);
        let several = needs > 1 || pool.runs_on_several();
        let mut turn = pool.turn(Want::Start).needing(needs).after(paused);
        let mut gave_away = false;
        let look = |turn: &mut Turn| {
            // With a timeout, the process could have to wait for longer than that for its slot.
            if timeout.is_none() && self.must_give_way(turn) {
                gave_away |= pool.give_own_slot_away();
            }
            let admitted = self.admit_by(turn, needs, may_wait && !several)?;
            if admitted.is_some() || !(several && may_wait) {
                return Ok(admitted);
            }
            pool.give_thread_slots_away();
            gave_away |= pool.give_own_slot_away();
            self.admit_by(turn, needs, false)
        };
        let admitted = self.until(host, timeout, &mut turn, callbacks, look);
        *paused = turn.pause();
        if admitted.is_err() && gave_away {
            *given_away = Some(pool.clone());
        }
        match admitted? {
            Until::Found(admitted) if gave_away => {
                Ok(Until::Found(Admitted { own: Some(pool), ..admitted }))
            }
            until => {
                if gave_away {
                    self.resume(host, &pool)?;
                }
                Ok(until)
            }
        }
    }

    /// Whether this process's slot belongs to a job that waits further down, rather than to a new
    /// job of this process: that would make the tree broader. A job that holds its slot gives way
    /// only if a job of its own has given its slot away.
    fn must_give_way(&self, turn: &Turn) -> bool {
        (self.options.yields || self.any_has_yielded()) && turn.is_for_a_deeper_one()
    }

    /// Takes what a job needs if it is free; never waits. Otherwise, if this process is a job and
    /// `may_lend`, returns the job's own slot, which must be enough.
    pub fn admit_at_once(
        &self,
        paused: &mut PausedTurn,
        needs: usize,
        may_lend: bool,
    ) -> Result<Option<Admitted>> {
        let pool = self.open_pool()?;
        let mut turn = pool.turn(Want::Start).needing(needs).after(paused);
        let admitted = self.admit_by(&mut turn, needs, may_lend);
        *paused = turn.pause();
        admitted
    }

    /// Takes what a job needs, and lets this process go on whatever it takes; never waits. If this
    /// process is a job, it lends its own slot first: a job with an event loop, or with a thread that
    /// submits for others, is taken to wait for the jobs that it starts. (If it computes beside them,
    /// one more than the slots computes. Nothing shows that.)
    pub fn admit_beside(&self, paused: &mut PausedTurn, needs: usize) -> Result<Option<Admitted>> {
        let pool = self.open_pool()?;
        let own = if needs == 1 { pool.own_slot(false) } else { None };
        match own {
            Some(own) => Ok(Some(Admitted { slot: Some(own), own: None })),
            None => {
                let admitted = self.admit_at_once(paused, needs, false)?;
                Ok(admitted.or_else(|| from_thread(&pool, needs)))
            }
        }
    }

    /// Takes a slot for a thread of this process to run on, if one is free; never waits. If it
    /// `lends`, lends the process's own slot first, as [`Owner::admit_beside`] does; of several slots,
    /// gives all to the pool if none is free, and the process goes on without until it resumes.
    pub fn admit_thread(&self, paused: &mut PausedTurn, lends: bool) -> Result<Option<ThreadSlot>> {
        let pool = self.open_pool()?;
        let own = if lends { pool.own_slot(false) } else { None };
        let admit = |paused: &mut PausedTurn| {
            self.admit_at_once(paused, 1, false).map(|admitted| admitted?.slot)
        };
        let mut slot = match own {
            Some(own) => Some(own),
            None => admit(paused)?,
        };
        // Several slots are not lent. The process waits for its threads, perhaps, which need them.
        if slot.is_none() && lends && pool.runs_on_several() && pool.give_own_slot_away() {
            slot = admit(paused)?;
        }
        if slot.is_none() {
            pool.tell_if_without_slot();
        }
        Ok(slot.map(|slot| pool.run_thread_on(slot)))
    }

    fn admit_by(&self, turn: &mut Turn, needs: usize, may_lend: bool) -> Result<Option<Admitted>> {
        let pool = self.open_pool()?;
        if let Some(slot) = turn.try_take()? {
            return Ok(Some(Admitted { slot: Some(slot), own: None }));
        }
        let own = if may_lend { pool.own_slot(self.options.yields) } else { None };
        if own.is_none() && may_lend {
            return Ok(from_thread(&pool, needs));
        }
        Ok(own.map(|slot| Admitted { slot: Some(slot), own: Some(pool) }))
    }

    /// Whether [`Owner::admit_at_once`] would return a slot. With `may_lend`, a job's own slot
    /// counts.
    pub fn could_admit(
        &self,
        paused: &mut PausedTurn,
        needs: usize,
        may_lend: bool,
    ) -> Result<bool> {
        let pool = self.open_pool()?;
        let mut turn = pool.turn(Want::Start).needing(needs).after(paused);
        let could = turn.could_take()?;
        *paused = turn.pause();
        Ok(could || may_lend && pool.can_lend())
    }

    /// Gives the slots of an admission back for a while, and keeps the place of the submission in the
    /// queue: the turn is for [`Owner::admit_by_turn`].
    pub fn set_aside(
        &self,
        admitted: &mut Admitted,
        paused: &mut PausedTurn,
        needs: usize,
    ) -> Result<Turn> {
        let turn = self.open_pool()?.turn(Want::Start).needing(needs).after(paused);
        Ok(turn.set_aside(admitted.slot.take()))
    }

    /// Takes what a job needs if it is free; never waits. If the process is to get slots of its own
    /// again, `admitted` says so.
    pub fn admit_by_turn(&self, turn: &mut Turn, admitted: &mut Admitted) -> Result<bool> {
        self.open_pool()?;
        admitted.slot = turn.try_take()?;
        Ok(admitted.slot.is_some())
    }

    /// Ends an admission: gives the slot back if no job has it. If the slot was this process's own,
    /// waits until this process has a slot again, the same or another.
    pub fn conclude<H: OwnerHost<J>>(
        &self,
        host: &H,
        admitted: &mut Admitted,
    ) -> std::result::Result<(), H::Error> {
        drop(admitted.slot.take());
        admitted.own.take().map_or(Ok(()), |pool| self.resume(host, &pool))
    }

    /// After this process's slot of `pool` was given away: waits until this process has a slot of
    /// it again, also if the owner has been closed meanwhile.
    pub fn resume<H: OwnerHost<J>>(
        &self,
        host: &H,
        pool: &Pool,
    ) -> std::result::Result<(), H::Error> {
        let mut turn = pool.turn_to_resume();
        let look = |turn: &mut Turn| Ok(pool.resume_by(turn)?.then_some(()));
        let resumed = self.until(host, None, &mut turn, false, look);
        drop(turn);
        self.state().abandon_if_closed(); // the wait has opened descriptors
        resumed.map(drop)
    }
}

/// For a submission that would have to wait: the slot of a thread of this process. If there is none,
/// tells the owner of this job if the job has no slot either: otherwise the owner could keep the
/// last one.
fn from_thread(pool: &Pool, needs: usize) -> Option<Admitted> {
    let slot = match needs {
        1 => pool.take_thread_slot(),
        _ => {
            pool.give_thread_slots_away();
            None // they must come together
        }
    };
    if slot.is_none() {
        pool.tell_if_without_slot();
    }
    slot.map(|slot| Admitted { slot: Some(slot), own: None })
}

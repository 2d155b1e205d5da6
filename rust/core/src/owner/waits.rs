//! An owner's waits: scans and sleeps alternate. Meanwhile other threads of the host can run, and
//! signal handlers run.

use super::shared::Owner;
use super::sleepers::{Sleep, Wants};
use super::wait::{Look, Waiting};
use super::JobId;
use super::OwnerHost;
use crate::error::Result;
use crate::slots::{PausedTurn, Turn, Want};
use crate::wait::Woken;
use std::time::{Duration, Instant};

/// The reason why a wait has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until<T> {
    /// The wait found this.
    Found(T),
    /// The host has something to do first: see [`OwnerHost::is_due`].
    Due,
    /// The time is over.
    TimedOut,
}

impl<J> Owner<J> {
    /// Scans and sleeps until `look` finds something by this turn, or the time is over. With
    /// `callbacks`, also returns when the host has something to do.
    pub(super) fn until<H: OwnerHost<J>, T>(
        &self,
        host: &H,
        timeout: Option<f64>,
        turn: &mut Turn,
        callbacks: bool,
        mut look: impl FnMut(&mut Turn) -> Result<Option<T>>,
    ) -> std::result::Result<Until<T>, H::Error> {
        let find = |turn: Option<&mut Turn>| turn.map_or(Ok(None), &mut look);
        let wants = if turn.is_for_free_slots() { Wants::Turn } else { Wants::Change };
        let sleep = Sleep { wants, alone: host.handles_signals(), callbacks };
        self.until_releasing(host, timeout, Some(turn), sleep, &mut || (), find)
    }

    /// The same, and calls `release` before each sleep.
    fn until_releasing<H: OwnerHost<J>, T>(
        &self,
        host: &H,
        timeout: Option<f64>,
        mut turn: Option<&mut Turn>,
        sleep: Sleep,
        release: &mut dyn FnMut(),
        mut find: impl FnMut(Option<&mut Turn>) -> Result<Option<T>>,
    ) -> std::result::Result<Until<T>, H::Error> {
        let mut sleeper = self.sleeper(sleep, turn.is_some());
        let deadline = deadline(timeout);
        let mut more_time = true;
        loop {
            let look = self.scan_and(host, sleep.callbacks)?;
            if sleep.callbacks && host.is_due()? {
                return Ok(Until::Due);
            }
            if let Some(found) = find(turn.as_deref_mut())? {
                sleeper.nothing_is_due();
                return Ok(Until::Found(found));
            }
            if !more_time || timeout.is_some_and(|seconds| seconds <= 0.0) {
                sleeper.nothing_is_due();
                return Ok(Until::TimedOut);
            }
            release();
            // Other events may wake this thread again and again without the event that it waits
            // for.
            more_time = self.sleep(host, look, turn.as_deref_mut(), sleep, deadline)?
                && deadline.is_none_or(|deadline| Instant::now() < deadline);
        }
    }

    /// Scans and waits until `job` is `done`, `timeout` seconds are over, or the host has something
    /// to do. If this process is a job, it gives its slot to the pool while it waits if it
    /// `yields`, or if a job of its own has given its slot away.
    pub fn wait_for<H: OwnerHost<J>>(
        &self,
        host: &H,
        job: JobId,
        done: impl Fn() -> bool,
        timeout: Option<f64>,
        yields: bool,
    ) -> std::result::Result<Until<()>, H::Error> {
        let sleep =
            Sleep { wants: Wants::Job(job), alone: host.handles_signals(), callbacks: true };
        self.yielding(host, yields, |release| {
            let find = |_: Option<&mut Turn>| Ok(done().then_some(()));
            self.until_releasing(host, timeout, None, sleep, release, find)
        })
    }

    /// Waits until `job` is `done`, or `timeout` seconds are over, in a thread that then handles the
    /// outcome itself: no thread in [`Owner::wait_beside`] hears of that. Not for a job that lends its
    /// slot. Does nothing that the host has to do. Returns whether the job is done.
    pub fn wait_for_own<H: OwnerHost<J>>(
        &self,
        host: &H,
        job: JobId,
        done: impl Fn() -> bool,
        timeout: Option<f64>,
    ) -> std::result::Result<bool, H::Error> {
        let sleep =
            Sleep { wants: Wants::Own(job), alone: host.handles_signals(), callbacks: false };
        let find = |_: Option<&mut Turn>| Ok(done().then_some(()));
        let until = self.until_releasing(host, timeout, None, sleep, &mut || (), find)?;
        Ok(matches!(until, Until::Found(())))
    }

    /// Waits until a job may be ready, another thread has scanned, `timeout` seconds are over, or,
    /// with `slots`, so many slots may be free; the place in the queue is kept for the next wait or
    /// submission. Returns at once if something has changed since `look`. A job gives its slot to the
    /// pool meanwhile if it `yields`, if it has several, or if a job of its own has given its slot
    /// away.
    pub fn wait<H: OwnerHost<J>>(
        &self,
        host: &H,
        look: Look,
        slots: Option<(usize, &mut PausedTurn)>,
        timeout: Option<f64>,
        yields: bool,
    ) -> std::result::Result<(), H::Error> {
        self.wait_by(host, look, slots, timeout, yields, Wants::Change)
    }

    /// The same for a thread that submits for others: see [`Owner::admit_beside`]. The wait may also
    /// end because the own slot of this process, or of a thread of it, has come back. For the slots
    /// of a job of several, the process gives its own to the pool, and goes on without: to get it
    /// again could take one of those slots.
    pub fn wait_beside<H: OwnerHost<J>>(
        &self,
        host: &H,
        look: Look,
        slots: Option<(usize, &mut PausedTurn)>,
        timeout: Option<f64>,
    ) -> std::result::Result<(), H::Error> {
        if slots.as_ref().is_some_and(|(needs, _)| *needs > 1) {
            self.pool()?.give_own_slot_away();
        }
        self.wait_by(host, look, slots, timeout, self.options.yields, Wants::Others)
    }

    fn wait_by<H: OwnerHost<J>>(
        &self,
        host: &H,
        look: Look,
        slots: Option<(usize, &mut PausedTurn)>,
        timeout: Option<f64>,
        yields: bool,
        wants: Wants,
    ) -> std::result::Result<(), H::Error> {
        let (mut paused, mut turn, mut slept) = (None, None, false);
        let pool = self.pool()?;
        if let Some((needs, place)) = slots {
            let ours = pool.turn(Want::Start).after(place).needing(needs);
            let ours = ours.about_to_wait();
            turn = Some(if wants == Wants::Others { ours } else { ours.beside_own() });
            paused = Some(place);
        }
        let sleep = Sleep { wants, ..any_change(host) };
        self.yielding(host, yields, |release| {
            // Other waiters may wake this thread too. It goes on only for an event of its own, because
            // each time that a waiter leaves the queue and comes back, it wakes others.
            let find = |turn: Option<&mut Turn>| {
                let may_reclaim = std::mem::replace(&mut slept, true);
                let is_ready = match turn {
                    Some(turn) if turn.is_for_several() => turn.try_take()?.is_some(),
                    Some(turn) if turn.uses_own() && pool.can_lend() => true,
                    Some(turn) => {
                        turn.could_take()? || may_reclaim && pool.reclaim() && turn.could_take()?
                    }
                    None => false,
                };
                Ok((is_ready || self.state().jobs.look() != look).then_some(()))
            };
            let waited = self.until_releasing(host, timeout, turn.as_mut(), sleep, release, find);
            // Before this thread resumes, perhaps: it is one waiter then.
            if let (Some(turn), Some(paused)) = (turn, paused) {
                *paused = turn.pause();
            }
            waited.map(drop)
        })
    }

    /// Waits until a job may be ready, this thread may be able to take a slot by its turn, or
    /// `timeout` seconds are over. A job keeps its slot meanwhile.
    pub fn wait_for_slot<H: OwnerHost<J>>(
        &self,
        host: &H,
        look: Look,
        paused: &mut PausedTurn,
        timeout: Option<f64>,
    ) -> std::result::Result<(), H::Error> {
        let pool = self.pool()?;
        let mut turn = pool.turn(Want::Start).after(paused);
        let sleep = any_change(host);
        let sleeper = self.sleeper(sleep, true);
        let slept = self.sleep(host, look, Some(&mut turn), sleep, deadline(timeout));
        drop(sleeper);
        *paused = turn.pause();
        slept.map(drop)
    }

    /// Waits by `wait`. A job gives its own slot to the pool during the sleep, and has a slot again
    /// afterwards, if it `yields`, or if a job of its own has given its slot away and needs one to
    /// go on. After an error it goes on without a slot: Ctrl-C must work at once.
    pub(super) fn yielding<H: OwnerHost<J>, T>(
        &self,
        host: &H,
        yields: bool,
        wait: impl FnOnce(&mut dyn FnMut()) -> std::result::Result<T, H::Error>,
    ) -> std::result::Result<T, H::Error> {
        let pool = self.pool().ok();
        let mut yielded = false;
        let waited = wait(&mut || {
            let yields = yields || self.must_yield();
            yielded |= pool.as_ref().is_some_and(|pool| yields && pool.give_own_slot_away());
        })?;
        if let Some(pool) = pool.filter(|_| yielded) {
            self.resume(host, &pool)?;
        }
        Ok(waited)
    }

    /// Sleeps until something may be ready, or the deadline. Returns false at the deadline.
    pub(super) fn sleep<H: OwnerHost<J>>(
        &self,
        host: &H,
        look: Look,
        mut turn: Option<&mut Turn>,
        sleep: Sleep,
        deadline: Option<Instant>,
    ) -> std::result::Result<bool, H::Error> {
        let mut spins = true;
        loop {
            // Handlers run here too, and not only after an interrupted wait: a signal that comes
            // together with the event interrupts nothing, for example a Ctrl-C that also ends a
            // job.
            self.run_signal_handlers(host, sleep)?;
            let mut state = self.state();
            let begun = state.jobs.begin_sleep(look, turn.as_deref_mut(), sleep)?;
            drop(state);
            let Some(waiting) = begun else { return Ok(true) };
            let woken = match waiting.is_for_own() {
                true => self.sleep_on_own(host, &waiting, std::mem::take(&mut spins), deadline),
                false => self.sleep_through(host, &waiting, sleep, deadline),
            };
            self.check_process()?; // the bells are the parent's
            self.state().jobs.end_wait(waiting);
            match woken? {
                Woken::Interrupted | Woken::Missed => {}
                Woken::Ready => return Ok(true),
                Woken::TimedOut => return Ok(false),
            }
        }
    }

    fn sleep_through<H: OwnerHost<J>>(
        &self,
        host: &H,
        waiting: &Waiting,
        sleep: Sleep,
        deadline: Option<Instant>,
    ) -> std::result::Result<Woken, H::Error> {
        if host.unlocked(|| waiting.spin()) {
            return Ok(Woken::Ready);
        }
        // The jobs that run may have jobs of their own. Not before the spin: what ends within it is
        // often followed by a launch, for which the worker would have to be taken back.
        self.state().jobs.share_idle();
        loop {
            self.run_signal_handlers(host, sleep)?;
            match host.unlocked(|| waiting.block(deadline))? {
                Woken::Missed => {}
                woken => return Ok(woken),
            }
        }
    }

    /// Spins the first time, and sleeps the next. The caller ends the wait in between, because signal
    /// handlers run there: see `own`.
    fn sleep_on_own<H: OwnerHost<J>>(
        &self,
        host: &H,
        waiting: &Waiting,
        spins: bool,
        deadline: Option<Instant>,
    ) -> std::result::Result<Woken, H::Error> {
        if spins {
            let ready = host.unlocked(|| waiting.spin());
            return Ok(if ready { Woken::Ready } else { Woken::Missed });
        }
        self.state().jobs.share_idle();
        Ok(host.unlocked(|| waiting.block(deadline))?)
    }

    /// Runs signal handlers, in a thread that does. Nobody depends on it meanwhile: see `sleepers`.
    fn run_signal_handlers<H: OwnerHost<J>>(
        &self,
        host: &H,
        sleep: Sleep,
    ) -> std::result::Result<(), H::Error> {
        if sleep.alone {
            host.run_signal_handlers_in(self.pid)?;
        }
        Ok(())
    }

    /// Begins a wait of this thread, with a turn for a slot or without.
    pub(super) fn sleeper(&self, sleep: Sleep, has_turn: bool) -> Sleeper<'_, J> {
        let turn_alone = sleep.alone && has_turn;
        if turn_alone {
            self.state().jobs.sleepers.begin_turn_alone();
        }
        Sleeper { owner: self, turn_alone, rings_for_host: sleep.callbacks }
    }
}

/// A wait of a thread. When it ends, another thread polls for those that sleep.
///
/// The thread may have been woken to do what the host has to do. Unless there is nothing, another
/// thread is woken for it too: this one may take long, or an exception (for example from Ctrl-C) may
/// keep it from that.
pub(super) struct Sleeper<'a, J> {
    owner: &'a Owner<J>,
    turn_alone: bool,
    rings_for_host: bool,
}

impl<J> Sleeper<'_, J> {
    fn nothing_is_due(&mut self) {
        self.rings_for_host = false;
    }
}

impl<J> Drop for Sleeper<'_, J> {
    fn drop(&mut self) {
        if self.owner.check_process().is_err() {
            return; // the threads that sleep are the parent's
        }
        let mut state = self.owner.state();
        if self.turn_alone {
            state.jobs.sleepers.end_turn_alone();
        }
        if self.rings_for_host {
            state.jobs.sleepers.ring_for_host();
        }
        state.jobs.hand_over();
        state.abandon_if_closed(); // another thread may have closed the owner during the wait
    }
}

/// The sleep of a thread that looks after each change whether that is what it waits for.
pub(super) fn any_change<J>(host: &impl OwnerHost<J>) -> Sleep {
    Sleep { wants: Wants::Change, alone: host.handles_signals(), callbacks: false }
}

/// The time when a timeout is over. None if it is too long for the clock, for example infinite.
fn deadline(timeout: Option<f64>) -> Option<Instant> {
    let timeout = timeout.and_then(|t| Duration::try_from_secs_f64(t.max(0.0)).ok());
    timeout.and_then(|timeout| Instant::now().checked_add(timeout))
}

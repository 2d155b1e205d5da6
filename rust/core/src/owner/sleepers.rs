//! The threads that sleep until something happens to a table: which of them polls the table's
//! descriptors, and which of them an event wakes.
//!
//! If each thread polled all of the table's descriptors, each event would wake every thread. So one
//! of them, the *leader*, does, and each other one, a *follower*, polls its own bell only (and what
//! its turn for a slot listens to). The thread that handles an event rings the bells of those that
//! want it. Measured: by forkserver on two slots, with processes that stay, a job of 64 threads
//! costs the CPU time of 27 jobs of one thread if all poll.
//!
//! The lead is vacant while the leader handles an event, because no code of the host runs
//! meanwhile. Before such code runs, and at the end of its wait, a thread calls
//! [`Sleepers::hand_over`], which wakes a follower if the lead is vacant and no other thread is on
//! its way. So the following always holds: if followers sleep, there is a leader; or a thread that
//! was rung is on its way, and will either lead or call `hand_over`; or a thread is between its wait
//! and one of these two.
//!
//! Code of the host may take any time, and may wait for a thread that is a follower. So a thread
//! that runs signal handlers within its wait neither leads nor follows: it polls for itself.

use super::outcome::JobId;
use crate::wait::Bell;
use std::sync::Arc;

/// The event that a sleeping thread wants to be woken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wants {
    /// Any change.
    Change,
    /// The outcome of this job.
    Job(JobId),
    /// The outcome of this job, which the thread handles itself: see `own`.
    Own(JobId),
    /// Any change but the outcome of a job that another thread handles itself.
    Others,
    /// None: its turn for a slot wakes it.
    Turn,
    /// Any change, and all that the host has to do. It is an event loop's, not a thread's: see
    /// `readiness`.
    All,
}

/// What a sleeping thread does for the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// It polls the table's descriptors, for all followers.
    Leads,
    /// It polls its own bell.
    Follows,
    /// It polls the table's descriptors, and nobody depends on it.
    Alone,
}

impl Role {
    pub(super) fn polls(self) -> bool {
        self != Role::Follows
    }
}

/// What a thread says of itself when it goes to sleep.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sleep {
    pub(super) wants: Wants,
    /// Code of the host may run before its wait has ended.
    pub(super) alone: bool,
    /// It ends its wait if the host has something to do.
    pub(super) callbacks: bool,
}

#[derive(Debug)]
struct Sleeper {
    bell: Arc<Bell>,
    sleep: Sleep,
    role: Role,
}

#[derive(Debug, Default)]
pub(super) struct Sleepers {
    /// In the order in which they went to sleep.
    asleep: Vec<Sleeper>,
    /// How many threads that were rung are on their way. Those that are alone do not count.
    rung: usize,
    /// How many threads that are alone have a turn. In the queue of waiters such a thread may keep
    /// others of this process behind it while it runs a signal handler.
    turns_alone: usize,
    /// The last job whose outcome a thread has received for itself.
    pub(super) handled: Option<JobId>,
    spare_bells: Vec<Arc<Bell>>,
}

impl Sleepers {
    /// Returns whether a thread that goes to sleep now must poll the table's descriptors.
    pub(super) fn must_poll(&self, sleep: Sleep) -> bool {
        sleep.alone || !self.is_led()
    }

    /// Returns the role of a thread that goes to sleep now.
    pub(super) fn role(&self, sleep: Sleep, has_bell: bool) -> Role {
        match (sleep.alone || !has_bell, self.is_led()) {
            (true, _) => Role::Alone,
            (false, true) => Role::Follows,
            (false, false) => Role::Leads,
        }
    }

    pub(super) fn is_led(&self) -> bool {
        self.asleep.iter().any(|sleeper| sleeper.role == Role::Leads)
    }

    /// Returns a bell. None at the limit of descriptors.
    pub(super) fn bell(&mut self) -> Option<Arc<Bell>> {
        self.spare_bells.pop().or_else(|| Bell::new().ok().map(Arc::new))
    }

    /// Makes a bell for a later wait.
    pub(super) fn prepare(&mut self) {
        self.spare_bells.extend(Bell::new().ok().map(Arc::new));
    }

    pub(super) fn enter(&mut self, bell: Arc<Bell>, sleep: Sleep, role: Role) {
        self.asleep.push(Sleeper { bell, sleep, role });
    }

    /// Ends a sleep. Returns whether the thread was rung.
    pub(super) fn leave(&mut self, bell: Arc<Bell>, role: Role) -> bool {
        let before = self.asleep.len();
        self.asleep.retain(|other| !Arc::ptr_eq(&other.bell, &bell));
        let rung = self.asleep.len() == before;
        if rung && role != Role::Alone {
            self.rung = self.rung.saturating_sub(1);
        }
        if !rung || bell.silence() {
            self.spare_bells.push(bell);
        } // otherwise it would wake the next wait
        rung
    }

    /// Wakes a follower, if followers sleep and no thread leads or is on its way. In a case of doubt
    /// this wakes a thread too many: a thread too few would be a lost wake-up.
    pub(super) fn hand_over(&mut self) {
        if self.rung > 0 || self.is_led() {
            return;
        }
        // Those that wait for a slot sleep longest, the last of them above all.
        let follows = |sleeper: &Sleeper| sleeper.role == Role::Follows;
        let waits_longest =
            |sleeper: &Sleeper| follows(sleeper) && sleeper.sleep.wants == Wants::Turn;
        let longest = self.asleep.iter().rposition(waits_longest);
        if let Some(place) = longest.or_else(|| self.asleep.iter().rposition(follows)) {
            self.ring_at(place);
        }
    }

    /// Wakes those that want one of these outcomes, and those that want any change.
    pub(super) fn ring_for(&mut self, jobs: &[JobId]) {
        let handled = matches!(jobs, [job] if self.handled == Some(*job));
        self.ring(|sleeper| match sleeper.sleep.wants {
            Wants::Change | Wants::All => true,
            Wants::Job(id) | Wants::Own(id) => jobs.contains(&id),
            Wants::Others => !handled,
            Wants::Turn => false,
        });
        if self.turns_alone > 0 {
            // It looks whether the thread that goes first is to be passed over.
            self.ring_first(|sleeper| {
                sleeper.sleep.wants == Wants::Turn && sleeper.role != Role::Alone
            });
        }
    }

    /// Wakes a thread that runs what the host has to do; and event loops, which need not come soon.
    pub(super) fn ring_for_host(&mut self) {
        self.ring(|sleeper| sleeper.sleep.wants == Wants::All);
        self.ring_first(|sleeper| sleeper.sleep.callbacks);
    }

    /// Wakes those that poll the table's descriptors: these are others now.
    pub(super) fn ring_polling(&mut self) {
        self.ring(|sleeper| sleeper.role.polls());
    }

    pub(super) fn ring_all(&mut self) {
        self.ring(|_| true);
    }

    fn ring(&mut self, is_meant: impl Fn(&Sleeper) -> bool) {
        let Sleepers { asleep, rung, .. } = self;
        asleep.retain(|sleeper| {
            let meant = is_meant(sleeper);
            if meant {
                sleeper.bell.ring();
                *rung += usize::from(sleeper.role != Role::Alone);
            }
            !meant
        });
    }

    fn ring_first(&mut self, is_meant: impl Fn(&Sleeper) -> bool) {
        if let Some(place) = self.asleep.iter().position(is_meant) {
            self.ring_at(place);
        }
    }

    fn ring_at(&mut self, place: usize) {
        let sleeper = self.asleep.remove(place);
        sleeper.bell.ring();
        self.rung += usize::from(sleeper.role != Role::Alone);
    }

    pub(super) fn begin_turn_alone(&mut self) {
        self.turns_alone += 1;
    }

    pub(super) fn end_turn_alone(&mut self) {
        self.turns_alone = self.turns_alone.saturating_sub(1);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.asleep.is_empty()
    }

    /// Drops the bells that this program has closed.
    pub(super) fn forget_lost_bells(&mut self) {
        self.spare_bells.retain(|bell| bell.is_intact());
    }

    /// Forgets all. (In a forked child the threads are the parent's.)
    pub(super) fn clear(&mut self) {
        *self = Sleepers::default();
    }
}

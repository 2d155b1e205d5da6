//! The queue of waiters: which of them may take the next free slot, and which listens for it.
//!
//! A waiter has a *row*: its process, and a rank that says what comes before it. Deeper waiters
//! come first, because they end what is begun; among equals, a waiter that resumes comes before one
//! that starts a job, and then the older one. So a tree of jobs has few processes at once, whatever
//! its shape.
//!
//! Only two waiters *listen*, the first one and the first one of another process: they watch the
//! pipe and the holders of slots. Each other waiter sleeps *behind* the one before it: it watches
//! that process's death, and is told, by a fifo of its row, when that waiter leaves or another one
//! comes between. The following always holds: the
//! first waiter listens, or is awake and will look; and a waiter that does not listen watches the
//! waiter before it, or has been told to look, or that waiter is about to tell it. `model/queue.pml`
//! checks this with kills at every step.
//!
//! Not here: how a thread waits by its row (`slots::turn`).

use super::layout::*;
use super::*;
use crate::platform::getpid;
use crate::platform::liveness::is_alive;

/// What a waiter wants a slot for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// To go on with what it has begun.
    Resume,
    /// To start a job.
    Start,
}

/// A waiter that this many takings have passed over goes before all others.
pub(crate) const PATIENCE: u64 = if cfg!(test) { 1 << 8 } else { 1 << 16 };

/// Flags of a rank, in its lowest bits. The waiter listens; or it enters the queue, and has not
/// told the waiter behind it yet.
const LISTENS: u64 = 1;
const ENTERING: u64 = 2;
pub(super) const FLAGS: u32 = 2;

const TICKET_BITS: u32 = 44;
const TICKETS_MASK: u64 = (1 << TICKET_BITS) - 1;
const IN_QUEUE: u64 = 1 << 61;

/// The place of a waiter in the order of all: lower goes first. No two waiters have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Order(pub(super) u64);

impl Order {
    fn new(depth: u16, want: Want, ticket: u64) -> Order {
        let shallow = u64::from(u16::MAX - depth) << (TICKET_BITS + 1);
        let starts = u64::from(want == Want::Start) << TICKET_BITS;
        Order(IN_QUEUE | shallow | starts | ticket & TICKETS_MASK)
    }

    fn to_rank(self, flags: u64) -> u64 {
        self.0 << FLAGS | flags
    }
}

/// A row of this process's in the queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) index: u32,
    pub(crate) ticket: Ticket,
    pub(super) order: Order,
}

/// When a waiter first entered the queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticket {
    /// Its number among all that have entered.
    number: u64,
    /// How many slots had been taken.
    since: u64,
}

/// A waiter, as it was seen in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waiter {
    pub(crate) index: u32,
    rank: u64,
    pub(crate) process: ProcessId,
    since: u64,
}

impl Waiter {
    pub(super) fn listens(&self) -> bool {
        self.rank & LISTENS != 0
    }

    pub(super) fn order(&self) -> Order {
        Order(self.rank >> FLAGS)
    }

    /// Returns whether both are the same wait.
    pub(crate) fn is_same(&self, other: &Waiter) -> bool {
        self.order() == other.order()
    }
}

/// Where a waiter stands.
#[derive(Debug)]
pub(crate) enum Standing {
    /// One of those that listen.
    Listening,
    /// Behind others; it watches these.
    Behind(Vec<Waiter>),
}

/// Whether a waiter of this process listens that has these before it: none, or only waiters of one
/// other process. A second process is needed, because the first may be stopped, or its interpreter
/// may be busy.
fn listens(before: &[Waiter], process: ProcessId) -> bool {
    let Some(first) = before.first() else { return true };
    first.process != process && before.iter().all(|waiter| waiter.process == first.process)
}

/// The waiters whose deaths a waiter behind these watches: the nearest; and if these are of two
/// processes, one of the other, because it is to listen once either has gone, and the one that is
/// left may be stopped.
fn watched_behind(before: &[Waiter]) -> Vec<Waiter> {
    let Some(nearest) = before.last() else { return Vec::new() };
    let mut others = before.iter().filter(|waiter| waiter.process != nearest.process);
    let other = others.next().filter(|other| others.all(|waiter| waiter.process == other.process));
    [nearest].into_iter().chain(other).copied().collect()
}

impl Ledger {
    /// Returns whether there is a waiter in another row than this, without a system call.
    pub(crate) fn has_waiter_beside(&self, row: Option<Row>) -> bool {
        let ours = row.map(|row| row.index);
        self.waiters_in_queue().any(|waiter| Some(waiter.index) != ours)
    }

    /// Enters the queue, or enters it again with the same ticket. Returns None if it is full: then
    /// the caller listens without a row.
    pub(crate) fn enter(
        &self,
        me: ProcessId,
        depth: u16,
        want: Want,
        ticket: Option<Ticket>,
    ) -> Option<Row> {
        let index = self.claim_row(me)?;
        let number = || self.memory.word(TICKETS).fetch_add(1, IN_ORDER);
        let ticket = ticket.unwrap_or_else(|| Ticket { number: number(), since: self.takes() });
        let row = Row { index, ticket, order: Order::new(depth, want, ticket.number) };
        self.row(index, ENTERED).store(ticket.since, IN_ORDER);
        self.row(index, GATHERED).store(0, IN_ORDER);
        self.come_in(row);
        Some(row)
    }

    /// Comes into the queue, from outside.
    fn come_in(&self, row: Row) {
        // The waiter behind is told before this one counts as entered. So if this process is killed
        // in between, a waiter that leaves tells the one behind too.
        self.row(row.index, RANK).store(row.order.to_rank(ENTERING), IN_ORDER);
        self.tell_behind(row.order);
        self.mark(row, 0);
        self.tell_gatherers(row);
    }

    /// Sets the flags of a rank. Returns false if the waiter has been passed over.
    fn mark(&self, row: Row, flags: u64) -> bool {
        let (rank, new) = (self.row(row.index, RANK), row.order.to_rank(flags));
        let mut now = rank.load(IN_ORDER);
        while now >> FLAGS == row.order.0 {
            match rank.compare_exchange(now, new, IN_ORDER, IN_ORDER) {
                Ok(_) => return true,
                Err(other) => now = other,
            }
        }
        false
    }

    /// Leaves the queue.
    pub(crate) fn leave(&self, row: Row, me: ProcessId) {
        if !self.has_row(row, me) {
            return;
        }
        self.row(row.index, RANK).store(0, IN_ORDER);
        // While this process is in the row, no other waiter has it.
        self.tell_behind(row.order);
        self.row(row.index, WAITER).store(0, IN_ORDER);
    }

    /// Whether the row is this process's. It always is, unless another process took this one for
    /// dead.
    fn has_row(&self, row: Row, me: ProcessId) -> bool {
        self.row(row.index, WAITER).load(IN_ORDER) == me.to_word()
    }

    /// Finds out whether the waiter of this row listens now; if it does, its rank says so. The
    /// caller must have emptied the row's fifo before this call, so that it hears of every change
    /// after it. A waiter that has been passed over comes in again.
    pub(crate) fn stand(&self, row: Row, me: ProcessId) -> Standing {
        loop {
            let is_to_listen = listens(&self.before(row.order), me);
            if !self.has_row(row, me) {
                return Standing::Listening;
            }
            // This comes before the next look: a waiter that leaves after it tells this one.
            if !self.mark(row, if is_to_listen { LISTENS } else { 0 }) {
                self.come_in(row);
                continue;
            }
            if is_to_listen {
                return Standing::Listening;
            }
            let before = self.before(row.order);
            if !listens(&before, me) {
                return Standing::Behind(watched_behind(&before));
            }
        }
    }

    /// Returns whether that waiter is still where it was seen.
    pub(crate) fn is_still_there(&self, waiter: Waiter) -> bool {
        self.row(waiter.index, RANK).load(IN_ORDER) >> FLAGS == waiter.order().0
    }

    /// Takes a waiter out of the queue that lives, but does not take a slot. It may be stopped, or
    /// run another program now. When it looks again, it comes in again.
    pub(crate) fn pass_over(&self, waiter: Waiter) {
        let rank = self.row(waiter.index, RANK);
        if rank.compare_exchange(waiter.rank, 0, IN_ORDER, IN_ORDER).is_ok() {
            self.tell_behind(waiter.order());
        }
    }

    /// Removes a waiter that is dead.
    pub(crate) fn remove(&self, dead: Waiter) {
        let rank = self.row(dead.index, RANK);
        let now = rank.load(IN_ORDER);
        let is_there = now >> FLAGS == dead.order().0;
        if is_there && rank.compare_exchange(now, 0, IN_ORDER, IN_ORDER).is_ok() {
            self.tell_behind(dead.order());
        }
        if rank.load(IN_ORDER) == 0 {
            let (word, dead) = (self.row(dead.index, WAITER), dead.process.to_word());
            let _ = word.compare_exchange(dead, 0, IN_ORDER, IN_ORDER);
        }
    }

    /// Returns the live waiter that takes the next slot before the waiter of this row does; without
    /// a row, before one that enters the queue now.
    pub(crate) fn goes_first(
        &self,
        row: Option<Row>,
        depth: u16,
        want: Want,
        ticket: Option<Ticket>,
    ) -> Option<Waiter> {
        if self.check_namespace(getpid()).is_err() {
            return None; // live waiters would seem to be dead
        }
        let order = Order::new(depth, want, ticket.map_or(u64::MAX, |ticket| ticket.number));
        let order = row.map_or(order, |row| row.order);
        loop {
            let takes = self.takes();
            let is_passed_over = |waiter: &Waiter| takes.wrapping_sub(waiter.since) >= PATIENCE;
            let longest = self.waiters_in_queue().filter(is_passed_over).min_by_key(|w| w.since);
            // A waiter that is not in the queue for this moment keeps its patience.
            let ours =
                ticket.filter(|it| row.is_none() && takes.wrapping_sub(it.since) >= PATIENCE);
            if ours.is_some_and(|ours| longest.is_none_or(|other| ours.since <= other.since)) {
                return None;
            }
            let first = match longest {
                Some(this) if Some(this.index) == row.map(|row| row.index) => return None,
                Some(other) => other,
                None => self
                    .waiters_in_queue()
                    .filter(|waiter| waiter.order() < order)
                    .min_by_key(|waiter| waiter.rank)?,
            };
            if is_alive(first.process) {
                if longest.is_some() {
                    self.tell(first);
                }
                return Some(first);
            }
            self.remove(first);
        }
    }

    /// Wakes a process that waits behind others, because something of its own has changed.
    pub(super) fn tell_process(&self, process: ProcessId) {
        let its = |waiter: &Waiter| waiter.process.may_be(process);
        for waiter in self.waiters_in_queue().filter(its) {
            self.tell(waiter);
        }
    }

    /// Tells the waiters behind this place to look: those that are to listen and do not; and the
    /// next one if it does not listen, and further ones until one of them will see to the rest.
    fn tell_behind(&self, order: Order) {
        let mut all: Vec<Waiter> = self.waiters_in_queue().collect();
        all.sort_unstable_by_key(|waiter| waiter.rank);
        let behind = all.iter().position(|waiter| waiter.order() > order).unwrap_or(all.len());
        let mut is_next = true;
        for (place, waiter) in all.iter().enumerate().skip(behind) {
            let is_to_listen = listens(&all[..place], waiter.process);
            if waiter.listens() {
                is_next = false;
            } else if is_next || is_to_listen {
                // It may be dead. But then the one behind it watches it, because it told that one.
                // If it cannot be told, it is awake, or runs another program: the next one must see
                // to that.
                is_next &= !self.tell(*waiter) || waiter.rank & ENTERING != 0;
            } else if all[..place].iter().any(|waiter| waiter.process != all[0].process) {
                return; // no further one is to listen
            }
        }
    }

    pub(super) fn tell(&self, waiter: Waiter) -> bool {
        self.bells.rows.ring(waiter.index)
    }

    /// The waiters before this place, in their order.
    fn before(&self, order: Order) -> Vec<Waiter> {
        let before = self.waiters_in_queue().filter(|waiter| waiter.order() < order);
        let mut before: Vec<Waiter> = before.collect();
        before.sort_unstable_by_key(|waiter| waiter.rank);
        before
    }

    pub(super) fn waiters_in_queue(&self) -> impl Iterator<Item = Waiter> + '_ {
        let used = self.memory.word(QUEUED).load(IN_ORDER).min(ROWS as u64) as u32;
        (0..used).filter_map(|index| {
            let rank = self.row(index, RANK).load(IN_ORDER);
            if rank == 0 {
                return None;
            }
            let process = ProcessId::from_word(self.row(index, WAITER).load(IN_ORDER))?;
            let since = self.row(index, ENTERED).load(IN_ORDER);
            // The same rank again: the rest is of the same waiter.
            let again = self.row(index, RANK).load(IN_ORDER);
            (again >> FLAGS == rank >> FLAGS).then_some(Waiter {
                index,
                rank: again,
                process,
                since,
            })
        })
    }

    /// Takes a row that is free, or whose process was killed before it was in the queue.
    fn claim_row(&self, me: ProcessId) -> Option<u32> {
        let claim = |index: u32, from| {
            let row = self.row(index, WAITER);
            row.compare_exchange(from, me.to_word(), IN_ORDER, IN_ORDER).is_ok()
        };
        let is_left = |index: &u32| {
            let waiter = ProcessId::from_word(self.row(*index, WAITER).load(IN_ORDER));
            let out = self.row(*index, RANK).load(IN_ORDER) == 0;
            waiter
                .filter(|waiter| out && !is_alive(*waiter))
                .is_some_and(|waiter| claim(*index, waiter.to_word()))
        };
        let mut rows = 0..ROWS as u32;
        let index =
            rows.find(|index| claim(*index, 0)).or_else(|| (0..ROWS as u32).find(is_left))?;
        self.memory.word(QUEUED).fetch_max(u64::from(index) + 1, IN_ORDER);
        Some(index)
    }

    pub(super) fn row(&self, index: u32, field: usize) -> &Word {
        self.memory.word(FIRST_ENTRY + self.entries * ENTRY + index as usize * ROW + field)
    }

    fn takes(&self) -> u64 {
        self.memory.word(TAKES).load(IN_ORDER)
    }

    /// Counts a slot that was taken.
    pub(super) fn count_taking(&self) {
        self.memory.word(TAKES).fetch_add(1, Ordering::Relaxed);
    }
}

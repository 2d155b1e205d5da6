//! The stage: a pool, the processes that use it, and what happens to each at which step.

use crate::platform::shared::{Shared, IN_ORDER, WORD};
use crate::platform::{self, kill_point, Forked};
use crate::process::ProcessId;
use crate::slots::entry::Tenure;
use crate::slots::home::Home;
use crate::slots::ledger::Ledger;
use crate::slots::pipe::TokenPipe;
use crate::slots::{Pool, Slot, Style};
use rustix::io::retry_on_intr;
use rustix::process::{
    kill_process, set_parent_process_death_signal, waitid, Pid, Signal, WaitId, WaitIdOptions,
};
use std::cell::Cell;
use std::panic::{catch_unwind, AssertUnwindSafe};

/// For how many seconds a test may run, and each of its processes.
const PATIENCE: u32 = 60;
const PATIENCE_WITH_ONE: u32 = 15;

/// More steps than any operation has.
const STEPS: usize = 1000;

/// Runs a test in a process of its own, without another thread that runs tests: those would see
/// descriptors that the forked processes have copies of.
pub(super) fn alone<T: FnOnce()>(test: T) {
    const ALONE: &str = "ALONE_WITH_KILLS";
    let name = std::any::type_name::<T>();
    let name = name.split_once("::").unwrap().1.trim_end_matches("::{{closure}}");
    if std::env::var_os(ALONE).is_some() {
        end_after(PATIENCE);
        return test();
    }
    let mut itself = std::process::Command::new(std::env::current_exe().unwrap());
    itself.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(ALONE, name);
    let run = itself.output().unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(
        run.status.success() && said.contains("1 passed"),
        "{name}: {said}{}",
        String::from_utf8_lossy(&run.stderr)
    );
}

/// The system ends this process after so many seconds.
fn end_after(seconds: u32) {
    // SAFETY: touches no memory; whoever has started the tests may have the signal ignored.
    unsafe { libc::signal(libc::SIGALRM, libc::SIG_DFL) };
    // SAFETY: touches no memory, and the default of SIGALRM is to end the process.
    unsafe { libc::alarm(seconds) };
}

/// Plays a scene with each step at which its process can be killed or stopped, until the scene says
/// that the process was through before that step.
pub(super) fn at_each_step(mut scene: impl FnMut(usize) -> bool) {
    for step in 0..STEPS {
        if scene(step) {
            assert!(step > 0, "the operation has no steps");
            return;
        }
    }
    panic!("the operation has no end");
}

/// The same for two processes: each step of the second for each step of the first.
pub(super) fn at_each_two_steps(mut scene: impl FnMut(usize, usize) -> (bool, bool)) {
    at_each_step(|first| {
        let mut through = false;
        for second in 0..STEPS {
            let (first_is, second_is) = scene(first, second);
            through = first_is;
            if second_is {
                return through;
            }
        }
        through
    });
}

/// More entries than any test uses at once.
const MORE: usize = 6;

/// What happens to a process, and at which step.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fate {
    Lives,
    KilledAt(usize),
    StoppedAt(usize),
}

/// What has become of a process for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// It waits, at the step of its fate or because of [`Role::pause`].
    Stopped,
    Killed,
    /// It has ended by itself, with all that it had.
    Ended,
}

/// What a process does that was stopped at the step of its fate.
#[derive(Debug, Clone, Copy)]
pub(super) enum Then {
    GoesOn,
    /// Once somebody has reclaimed what there is to be reclaimed.
    GoesOnLater,
    IsKilled,
}

/// What processes tell each other: the first words say which of them are through.
const NOTES: usize = 64;
const TOLD: usize = 32;

/// A pool, and what the processes of a test share beside it.
pub(super) struct Stage {
    pub(super) pool: Pool,
    pub(super) ledger: Ledger,
    pub(super) pipe: TokenPipe,
    slots: usize,
    notes: Shared,
    started: Cell<usize>,
    /// How many slots the gap has lost that the protocol accepts where there is no splice.
    lost: Cell<usize>,
}

impl Stage {
    /// A pool of so many slots.
    pub(super) fn new(slots: usize) -> Stage {
        Stage::of(Pool::new(slots).unwrap())
    }

    /// The same, but one of the slots is lent to whoever comes first.
    pub(super) fn with_common(slots: usize) -> Stage {
        Stage::of(Pool::for_command(slots, Style::Fifo).unwrap().0)
    }

    fn of(pool: Pool) -> Stage {
        let (home, slots) = (Home::at(pool.home()), pool.slots());
        let ledger = Ledger::open(home.open_ledger().unwrap(), home.bells()).unwrap();
        let pipe = TokenPipe::open(&home.fifo(), slots).unwrap();
        let notes = crate::wire::memory_file().unwrap();
        rustix::fs::ftruncate(&notes, (NOTES * WORD) as u64).unwrap();
        let notes = Shared::map(notes, NOTES).unwrap();
        let (started, lost) = (Cell::new(0), Cell::new(0));
        Stage { pool, ledger, pipe, slots, notes, started, lost }
    }

    /// Starts a process that plays `part`. It ends at once after that, and drops nothing.
    pub(super) fn start(&self, fate: Fate, part: impl FnOnce(&Role)) -> Actor<'_> {
        let number = self.started.get();
        self.started.set(number + 1);
        assert!(number < TOLD);
        // SAFETY: no other thread of this process runs anything but the test harness, which waits.
        match unsafe { platform::fork() }.unwrap() {
            Forked::Parent(pid) => Actor { stage: self, pid, number, over: Cell::new(false) },
            Forked::Child => {
                end_after(PATIENCE_WITH_ONE);
                let role = Role { stage: self, fate, number };
                let played = catch_unwind(AssertUnwindSafe(|| {
                    set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
                    part(&role);
                }));
                platform::exit_at_once(i32::from(played.is_err()))
            }
        }
    }

    /// Tells the others something.
    pub(super) fn tell(&self, what: usize, word: u64) {
        self.notes.word(TOLD + what).store(word, IN_ORDER);
    }

    /// What has been told; 0 if nothing has.
    pub(super) fn told(&self, what: usize) -> u64 {
        self.notes.word(TOLD + what).load(IN_ORDER)
    }

    /// Tells them who a process is, which need not know its own mark.
    pub(super) fn tell_name(&self, what: usize, actor: &Actor<'_>) {
        self.tell(what, ProcessId::of_live(actor.pid).to_word());
    }

    pub(super) fn tell_tenure(&self, what: usize, tenure: Tenure) {
        self.tell(what, tenure.to_word());
    }

    pub(super) fn told_tenure(&self, what: usize) -> Option<Tenure> {
        Tenure::from_word(self.told(what))
    }

    /// How many slots the gap has lost.
    pub(super) fn lost(&self) -> usize {
        self.lost.get()
    }

    /// How many slots are free, those included that the gap has lost.
    pub(super) fn free(&self) -> usize {
        self.pool.free().unwrap() + self.lost()
    }

    /// When all processes have ended, or wait without a slot: every slot is there once, no loan is
    /// open, and the ledger is as new.
    pub(super) fn check(&self) {
        self.pool.reclaim();
        assert_eq!(self.free(), self.slots, "{:?}", self.pool.held());
        assert_eq!(self.pool.held(), []);
        let all: Vec<Slot> = std::iter::from_fn(|| self.pool.try_take().unwrap()).collect();
        assert_eq!(all.len() + self.lost(), self.slots);
        drop(all);
        assert_eq!(self.free(), self.slots);
        // An entry of the dead that does not count as used yet is found when one after it is.
        let more = [(); MORE].map(|()| self.ledger.claim_implicit().unwrap().unwrap());
        assert_eq!(more.map(|entry| self.ledger.give_back(entry, &self.pipe)), [true; MORE]);
        self.pool.reclaim();
        assert_eq!(self.ledger.unclean(), [0; 0]);
    }
}

/// What a process does on the stage.
pub(super) struct Role<'a> {
    stage: &'a Stage,
    fate: Fate,
    number: usize,
}

impl Role<'_> {
    /// Does something during which it meets its fate.
    pub(super) fn meet_fate<T>(&self, operation: impl FnOnce() -> T) -> T {
        match self.fate {
            Fate::Lives => {}
            Fate::KilledAt(steps) => kill_point::arm(steps, Signal::KILL),
            Fate::StoppedAt(steps) => kill_point::arm(steps, Signal::STOP),
        }
        let done = operation();
        kill_point::disarm();
        self.stage.notes.word(self.number).store(1, IN_ORDER);
        done
    }

    /// Waits until the test has it go on.
    pub(super) fn pause(&self) {
        kill_point::signal(Signal::STOP);
    }

    /// Takes a free slot.
    pub(super) fn take(&self) -> Tenure {
        self.stage.ledger.take(&self.stage.pipe, ProcessId::current()).unwrap().unwrap()
    }

    /// Takes a free slot and runs on it.
    pub(super) fn run(&self) -> Tenure {
        let tenure = self.take();
        self.stage.ledger.open_to_borrowers(tenure);
        tenure
    }

    /// Borrows the slot that a process runs on, as if this process were below it.
    pub(super) fn borrow(&self, from: Pid) -> Option<Tenure> {
        let open = self.stage.ledger.run_by(ProcessId::of_live(from), &[]).1?;
        self.stage.ledger.lend(open, ProcessId::current(), true).unwrap()
    }

    pub(super) fn give_back(&self, tenure: Tenure) {
        assert!(self.stage.ledger.give_back(tenure, &self.stage.pipe));
    }

    /// Borrows it, runs on it, and gives it back.
    pub(super) fn borrow_for_a_while(&self, from: Pid) {
        if let Some(loan) = self.borrow(from) {
            self.stage.ledger.open_to_borrowers(loan);
            self.give_back(loan);
        }
    }
}

/// A process on the stage. Its drop ends it.
pub(super) struct Actor<'a> {
    stage: &'a Stage,
    pub(super) pid: Pid,
    number: usize,
    over: Cell<bool>,
}

impl Actor<'_> {
    /// Waits until it has ended or waits.
    pub(super) fn rest(&self) -> Rest {
        let how = WaitIdOptions::EXITED | WaitIdOptions::STOPPED;
        let status = retry_on_intr(|| waitid(WaitId::Pid(self.pid), how)).unwrap().unwrap();
        if status.stopped() {
            return Rest::Stopped;
        }
        self.over.set(true);
        match (status.exit_status(), status.terminating_signal().and_then(Signal::from_named_raw)) {
            (Some(0), _) => return Rest::Ended,
            (_, Some(Signal::KILL)) => {}
            (_, Some(kill_point::IN_GAP)) => self.stage.lost.set(self.stage.lost.get() + 1),
            _ => panic!("a process has failed, or takes too long: {status:?}"),
        }
        Rest::Killed
    }

    /// Whether it has done that during which it was to meet its fate.
    pub(super) fn is_through(&self) -> bool {
        self.stage.notes.word(self.number).load(IN_ORDER) == 1
    }

    /// Has it go on, if it waits, until it has ended or waits once more.
    pub(super) fn go_on(&self) -> Rest {
        if self.over.get() {
            return Rest::Ended;
        }
        kill_process(self.pid, Signal::CONT).unwrap();
        self.rest()
    }

    /// Has it do that, until it has ended or waits once more.
    pub(super) fn then(&self, then: Then) {
        match then {
            Then::GoesOn => drop(self.go_on()),
            Then::GoesOnLater => {
                self.stage.pool.reclaim();
                self.go_on();
            }
            Then::IsKilled => self.kill(),
        }
    }

    /// Kills it where it is.
    pub(super) fn kill(&self) {
        if !self.over.replace(true) {
            kill_process(self.pid, Signal::KILL).unwrap();
            retry_on_intr(|| waitid(WaitId::Pid(self.pid), WaitIdOptions::EXITED)).unwrap();
        }
    }
}

impl Drop for Actor<'_> {
    fn drop(&mut self) {
        self.kill();
    }
}

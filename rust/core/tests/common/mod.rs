//! Shared code of the integration tests: forked processes, deadlines, and the check that no process
//! or descriptor is left behind.
//!
//! Descriptors and children are counted for the whole process, so the tests of one binary take
//! turns: each holds an [`Alone`]. A test never waits without a deadline. If the code under test
//! blocks where it must not, an alarm ends the process.
#![allow(dead_code)] // each test binary uses a part of it
#![allow(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod slots;

use jobserver_core::owner::Finished;
use jobserver_core::platform::{self, Forked};
use jobserver_core::slots::{Assignment, BorrowedFrom};
use jobserver_core::wire::Head;
use jobserver_core::{Channel, ExitStatus, JobId, Jobs, Outcome, Slot, Woken};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{waitid, Pid, WaitId, WaitIdOptions};
use std::collections::HashMap;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Makes a pipe that is close-on-exec, on every system. Only a test that runs alone may make one:
/// some systems cannot do it in one step.
pub fn pipe() -> (OwnedFd, OwnedFd) {
    let (read, write) = rustix::pipe::pipe().unwrap();
    for end in [&read, &write] {
        rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC).unwrap();
    }
    (read, write)
}

/// The head of a launch without a slot, and of the result of a process that does not stay.
pub const LAUNCH: Head = Head::Launch { assignment: Assignment::WithoutSlot(BorrowedFrom::Nobody) };
pub const RESULT: Head = Head::Result { stays: false };

/// Seconds: enough for the slowest machine. Only a test that fails waits for so long.
const PATIENCE: u64 = 30;

/// The exit code of a child that panicked.
const PANICKED: i32 = 101;

pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(PATIENCE)
}

/// Counts the descriptors that this process has open.
pub fn descriptors() -> usize {
    std::fs::read_dir("/dev/fd").unwrap().count()
}

/// A test's turn. At its end, no descriptor and no child may be left that did not exist before.
pub struct Alone {
    descriptors: usize,
    /// Whether there were no children at the start. Children of a failed test must not make the
    /// next test fail.
    childless: bool,
    _turn: MutexGuard<'static, ()>,
}

impl Alone {
    pub fn new() -> Alone {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        alarm(4 * PATIENCE);
        while matches!(any_child(WaitIdOptions::NOHANG), Ok(Some(_))) {}
        Alone { descriptors: descriptors(), childless: childless(), _turn: turn }
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        alarm(0);
        if std::thread::panicking() {
            return;
        }
        // Other code may have a descriptor open for a moment: the allocator, at the end of another
        // test's thread, for example.
        let deadline = soon();
        while descriptors() > self.descriptors {
            assert!(Instant::now() < deadline, "more than the {} before", self.descriptors);
            std::thread::yield_now();
        }
        assert!(childless() || !self.childless, "a child is left, running or a zombie");
    }
}

fn any_child(how: WaitIdOptions) -> rustix::io::Result<Option<rustix::process::WaitIdStatus>> {
    waitid(WaitId::All, how | WaitIdOptions::EXITED)
}

fn childless() -> bool {
    matches!(any_child(WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT), Err(Errno::CHILD))
}

/// For tests that need no turn: ends the process unless it has ended by this deadline.
pub fn deadline() {
    alarm(4 * PATIENCE);
}

fn alarm(seconds: u64) {
    // SAFETY: touches no memory. The process may have been started with SIGALRM ignored.
    unsafe { libc::signal(libc::SIGALRM, libc::SIG_DFL) };
    // SAFETY: touches no memory. SIGALRM's default action ends the process, as intended.
    unsafe { libc::alarm(u32::try_from(seconds).unwrap()) };
}

/// Ends this process at once, without cleaning up what the fork has copied.
fn exit_now(code: i32) -> ! {
    // SAFETY: never returns.
    unsafe { libc::_exit(code) }
}

/// Forks as the fork server or an owner does.
pub fn fork() -> std::io::Result<Forked> {
    // SAFETY: the test harness's other threads only wait. glibc keeps consistent what the child
    // then uses (the allocator above all).
    unsafe { platform::fork() }
}

/// Runs `body` in a forked process. The process exits with the value of `body`, or with 101 if it
/// panics. SIGALRM ends it if it takes too long.
pub fn child(body: impl FnOnce() -> i32) -> Pid {
    match fork().unwrap() {
        Forked::Parent(pid) => pid,
        Forked::Child => finish(body),
    }
}

/// In a forked process: runs the rest of it.
pub fn finish(body: impl FnOnce() -> i32) -> ! {
    alarm(2 * PATIENCE); // after the deadlines of the processes that wait for this one
    exit_now(catch_unwind(AssertUnwindSafe(body)).unwrap_or(PANICKED))
}

/// Waits for a child that is in no table of jobs, and reaps it.
pub fn ended(pid: Pid) -> ExitStatus {
    let status = rustix::io::retry_on_intr(|| waitid(WaitId::Pid(pid), WaitIdOptions::EXITED));
    let status = status.unwrap().unwrap();
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => ExitStatus::Code(code),
        (_, Some(signal)) => ExitStatus::Signal(signal),
        _ => ExitStatus::Unknown,
    }
}

/// Sleeps until killed.
pub fn hang() -> ! {
    loop {
        std::thread::park();
    }
}

/// Starts a job that is a fork of this process.
pub fn start(jobs: &mut Jobs, slot: Option<Slot>, job: impl FnOnce(Channel) -> i32) -> JobId {
    let (owner_end, job_end) = Channel::pair().unwrap();
    match fork().unwrap() {
        Forked::Child => {
            drop(owner_end);
            jobs.abandon();
            finish(|| job(job_end))
        }
        Forked::Parent(pid) => {
            drop(job_end);
            jobs.started(owner_end, jobserver_core::Child::adopt(pid), slot, || ()).unwrap().id
        }
    }
}

/// Returns the outcomes of the next `count` jobs that end or send a result. Each may be reported
/// only once.
pub fn outcomes(jobs: &mut Jobs, count: usize) -> HashMap<JobId, Outcome> {
    let (mut told, deadline) = (HashMap::new(), soon());
    loop {
        for Finished { id, outcome, .. } in jobs.scan().unwrap() {
            assert!(told.insert(id, outcome).is_none(), "{id:?} was told of twice");
        }
        if told.len() >= count {
            return told;
        }
        wait(jobs, deadline);
    }
}

/// Waits until every process is reaped; no outcome may be reported meanwhile.
pub fn drain(jobs: &mut Jobs) {
    let deadline = soon();
    loop {
        let news = jobs.scan().unwrap();
        assert!(news.is_empty(), "told too late or twice: {news:?}");
        if jobs.outstanding() == 0 {
            return;
        }
        wait(jobs, deadline);
    }
}

fn wait(jobs: &mut Jobs, deadline: Instant) {
    let woken = jobs.wait(None, Some(deadline)).unwrap();
    assert_ne!(woken, Woken::TimedOut, "still outstanding: {jobs:?}");
}

/// Returns the result that a job has sent.
pub fn result(outcome: Outcome) -> Vec<u8> {
    match outcome {
        Outcome::Result(body) => body.into_bytes().unwrap(),
        other => panic!("no result but {other:?}"),
    }
}

/// Returns how a job ended that sent no result.
pub fn death(outcome: &Outcome) -> ExitStatus {
    match outcome {
        Outcome::Ended(status, _) => *status,
        other => panic!("no death but {other:?}"),
    }
}

/// Returns bytes that differ from any torn, shifted or repeated copy.
pub fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i % 251) as u8 ^ (i / 251) as u8).collect()
}

/// Returns whether this run uses the portable backend.
pub fn portable() -> bool {
    cfg!(jobserver_portable) || std::env::var_os("JOBSERVER_PORTABLE").is_some_and(|v| v == "1")
}

/// Makes the system reap this process's children itself from now on.
pub fn ignore_ends_of_children() {
    // SAFETY: SIG_IGN is no handler, so it runs no code.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// A thread whose waits SIGUSR1 interrupts.
#[derive(Clone, Copy)]
pub struct Interruptible(libc::pthread_t);

impl Interruptible {
    /// Returns the calling thread.
    pub fn this_thread() -> Interruptible {
        extern "C" fn ignore(_: libc::c_int) {}
        // SAFETY: all zeroes is an action without flags (and so without SA_RESTART).
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = ignore as *const () as libc::sighandler_t;
        // SAFETY: the handler does nothing, which is safe in a signal's context.
        unsafe { libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()) };
        // SAFETY: always succeeds.
        Interruptible(unsafe { libc::pthread_self() })
    }

    /// Interrupts the thread, which must not have been joined.
    pub fn interrupt(self) {
        // SAFETY: the caller has not joined the thread, so its handle is still valid.
        unsafe { libc::pthread_kill(self.0, libc::SIGUSR1) };
    }
}

/// Attaches to `pid` as a debugger does. Returns whether that succeeded.
#[cfg(target_os = "linux")]
pub fn trace(pid: Pid) -> bool {
    let pid = pid.as_raw_nonzero().get();
    // SAFETY: PTRACE_SEIZE reads no memory of ours.
    unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) == 0 }
}

/// Returns a command that runs this test binary as another process, with the test named `role`
/// alone. That test must check the variable ROLE and do nothing without it.
pub fn another_process(role: &str) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", role, "--nocapture", "--test-threads=1", "--quiet"]);
    command.env("ROLE", role).stdout(std::process::Stdio::null());
    command
}

/// Returns whether this process was started by [`another_process`] for this role.
pub fn has_role(role: &str) -> bool {
    std::env::var_os("ROLE").is_some_and(|value| value == role)
}

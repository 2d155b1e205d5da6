//! What the integration tests share: forked processes, deadlines, and the proof that nothing
//! was left behind.
//!
//! Descriptors and children are counted for the whole process, so the tests of one binary
//! take turns: each holds an [`Alone`]. A test never waits without a deadline; should the
//! code under test block where it must not, an alarm ends the process.
#![allow(dead_code)] // each test binary uses a part of it
#![allow(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

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

/// A pipe that is closed on exec, on every system. Only a test that runs alone may make one: not all
/// systems can do it in one step.
pub fn pipe() -> (OwnedFd, OwnedFd) {
    let (read, write) = rustix::pipe::pipe().unwrap();
    for end in [&read, &write] {
        rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC).unwrap();
    }
    (read, write)
}

/// The head of a launch on no slot, and of the result of a process that does not stay.
pub const LAUNCH: Head = Head::Launch { assignment: Assignment::WithoutSlot(BorrowedFrom::Nobody) };
pub const RESULT: Head = Head::Result { stays: false };

/// Long enough for the slowest machine; only a test that fails waits for so long.
const PATIENCE: u64 = 30;

/// The exit code of a child that panicked.
const PANICKED: i32 = 101;

pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(PATIENCE)
}

/// The descriptors that this process has open.
pub fn descriptors() -> usize {
    std::fs::read_dir("/dev/fd").unwrap().count()
}

/// A test's turn. At its end no descriptor and no child may be left that was not there
/// before.
pub struct Alone {
    descriptors: usize,
    /// What a failed test has left running must not fail the next one.
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
        // For moments, others than the test have one open too: the allocator, at the end of
        // another test's thread, for example.
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

/// For tests that need no turn: from now on the process has so long to go.
pub fn deadline() {
    alarm(4 * PATIENCE);
}

fn alarm(seconds: u64) {
    // SAFETY: touches no memory; whoever started the tests may have it ignored.
    unsafe { libc::signal(libc::SIGALRM, libc::SIG_DFL) };
    // SAFETY: touches no memory; SIGALRM's default is to end the process, which is meant.
    unsafe { libc::alarm(u32::try_from(seconds).unwrap()) };
}

/// Ends this process at once, with no thought for what the fork has copied.
fn exit_now(code: i32) -> ! {
    // SAFETY: never returns, so nothing can go wrong afterwards.
    unsafe { libc::_exit(code) }
}

/// Forks as a fork server's helper or an owner would.
pub fn fork() -> std::io::Result<Forked> {
    // SAFETY: besides the one that forks, the test harness's threads only wait; what the
    // child then uses (the allocator above all) glibc keeps consistent.
    unsafe { platform::fork() }
}

/// Runs `body` in a forked process, which exits with what it returns, 101 if it panics, and
/// is ended by SIGALRM if it takes too long.
pub fn child(body: impl FnOnce() -> i32) -> Pid {
    match fork().unwrap() {
        Forked::Parent(pid) => pid,
        Forked::Child => finish(body),
    }
}

/// In a forked process: runs the rest of it.
pub fn finish(body: impl FnOnce() -> i32) -> ! {
    alarm(2 * PATIENCE); // after the deadlines of whoever waits for us
    exit_now(catch_unwind(AssertUnwindSafe(body)).unwrap_or(PANICKED))
}

/// Waits for a child that no table knows.
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

/// What came of the next `count` jobs to say something; each may say it only once.
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

/// Waits until every process is reaped; nothing new may be told meanwhile.
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

/// The result that a job has sent.
pub fn result(outcome: Outcome) -> Vec<u8> {
    match outcome {
        Outcome::Result(body) => body.into_bytes().unwrap(),
        other => panic!("no result but {other:?}"),
    }
}

/// How a job has ended that sent no result.
pub fn death(outcome: &Outcome) -> ExitStatus {
    match outcome {
        Outcome::Ended(status, _) => *status,
        other => panic!("no death but {other:?}"),
    }
}

/// Bytes that a torn, shifted or repeated copy would differ from.
pub fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i % 251) as u8 ^ (i / 251) as u8).collect()
}

/// Whether this run takes the path of the other Unixes.
pub fn portable() -> bool {
    cfg!(jobserver_portable) || std::env::var_os("JOBSERVER_PORTABLE").is_some_and(|v| v == "1")
}

/// From now on the system reaps this process's children itself.
pub fn ignore_ends_of_children() {
    // SAFETY: SIG_IGN is no handler, so no code of ours runs in a signal's context.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// A thread whose waits SIGUSR1 interrupts.
#[derive(Clone, Copy)]
pub struct Interruptible(libc::pthread_t);

impl Interruptible {
    /// The calling thread.
    pub fn this_thread() -> Interruptible {
        extern "C" fn ignore(_: libc::c_int) {}
        // SAFETY: all zeroes is an action with no flags (no SA_RESTART above all).
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = ignore as *const () as libc::sighandler_t;
        // SAFETY: the handler does nothing, which is safe in a signal's context.
        unsafe { libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()) };
        // SAFETY: always succeeds.
        Interruptible(unsafe { libc::pthread_self() })
    }

    /// Interrupts it; it must not have been joined.
    pub fn interrupt(self) {
        // SAFETY: the caller has not joined the thread, so its name is still valid.
        unsafe { libc::pthread_kill(self.0, libc::SIGUSR1) };
    }
}

/// Whether `pid` could be attached to, as a debugger would be.
#[cfg(target_os = "linux")]
pub fn trace(pid: Pid) -> bool {
    let pid = pid.as_raw_nonzero().get();
    // SAFETY: PTRACE_SEIZE reads no memory of ours.
    unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) == 0 }
}

/// This test binary, to be run as another process that runs the test named `role` alone.
/// That test must look for the variable ROLE and do nothing without it.
pub fn another_process(role: &str) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", role, "--nocapture", "--test-threads=1", "--quiet"]);
    command.env("ROLE", role).stdout(std::process::Stdio::null());
    command
}

/// Whether this process was started by [`another_process`] for this role.
pub fn has_role(role: &str) -> bool {
    std::env::var_os("ROLE").is_some_and(|value| value == role)
}

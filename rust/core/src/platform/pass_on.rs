//! Signals that this process survives and passes on to a process that it has started.
//!
//! The handler itself sends them, so no signal is lost between a look and a wait. A signal that
//! comes before there is a process to send it to is kept until then. A handler may interrupt any
//! code: it only changes atomics and makes system calls.

use super::signal_from_raw;
use rustix::process::{kill_process, Pid};
use std::io;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

/// The pid that signals are passed on to; 0 for none yet.
static TO: AtomicI32 = AtomicI32::new(0);
/// The signals that have come and have not been sent, one bit for each.
static COME: AtomicU64 = AtomicU64::new(0);

/// Makes this process survive the signal numbered `signal` and pass it on.
///
/// A terminal sends the signals of its keys to all programs in its foreground. For such a signal,
/// `from_processes_only` passes on only those that a process has sent: otherwise the other process
/// would get each twice. (Only Linux can tell them apart; elsewhere such a signal is not passed
/// on.)
pub fn pass_on(signal: i32, from_processes_only: bool) -> io::Result<()> {
    // SAFETY: all zeroes is a valid sigaction. The fields that matter are set next.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: Handler = if from_processes_only { come_from_process } else { come };
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    // SAFETY: sigfillset initialises the set that it is given; none interrupts another.
    unsafe { libc::sigfillset(&mut action.sa_mask) };
    // SAFETY: reads `action`. Its handlers do only what a handler may do.
    match unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Passes on to this process the signals that have come and will come. With None, they are kept
/// again; the caller must do that before it reaps the process, or while it holds all signals
/// ([`super::SignalsHeld`]).
pub fn pass_on_to(process: Option<Pid>) {
    TO.store(process.map_or(0, |pid| pid.as_raw_nonzero().get()), Ordering::SeqCst);
    send();
}

type Handler = extern "C" fn(libc::c_int, *const libc::siginfo_t, *const libc::c_void);

extern "C" fn come(signal: libc::c_int, _: *const libc::siginfo_t, _: *const libc::c_void) {
    COME.fetch_or(1 << (signal - 1), Ordering::SeqCst);
    send();
}

extern "C" fn come_from_process(
    signal: libc::c_int,
    info: *const libc::siginfo_t,
    context: *const libc::c_void,
) {
    // SAFETY: the kernel passes a handler with SA_SIGINFO a valid siginfo.
    let code = unsafe { (*info).si_code };
    // On Linux the code is positive if the kernel itself sent the signal.
    if cfg!(target_os = "linux") && code <= 0 {
        come(signal, info, context);
    }
}

fn send() {
    let Some(to) = Pid::from_raw(TO.load(Ordering::SeqCst)) else { return };
    let mut come = COME.swap(0, Ordering::SeqCst);
    while come != 0 {
        let signal = come.trailing_zeros() as i32 + 1;
        come &= come - 1;
        if let Some(signal) = signal_from_raw(signal) {
            let _ = kill_process(to, signal); // it may have ended
        }
    }
}

//! Signals that this process survives, and passes on to one that it has started.
//!
//! The handler itself sends them, so that none is lost between a look and a wait. What comes
//! before there is a process to send it to is kept until then. A handler may interrupt
//! anything: it only changes atomics and calls the system.

use super::signal_from_raw;
use rustix::process::{kill_process, Pid};
use std::io;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

/// To whom; 0 for nobody yet.
static TO: AtomicI32 = AtomicI32::new(0);
/// What has come and has not been sent, a bit a signal.
static COME: AtomicU64 = AtomicU64::new(0);

/// From now on this process survives the signal numbered `signal`, which is passed on.
///
/// A terminal sends the signals of its keys to all programs that it shows. So for those that
/// come from a terminal too, `from_processes_only` keeps the other from getting them twice.
/// (Only Linux tells; elsewhere such a signal is not passed on.)
pub fn pass_on(signal: i32, from_processes_only: bool) -> io::Result<()> {
    // SAFETY: all zeroes is a valid sigaction, of which the fields that count are set next.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: Handler = if from_processes_only { come_from_process } else { come };
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    // SAFETY: sigfillset initialises the set that it is given; none interrupts another.
    unsafe { libc::sigfillset(&mut action.sa_mask) };
    // SAFETY: reads `action`, whose handlers keep to what a handler may do.
    match unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Passes on what has come and what will come, to this process; to none any more, which must
/// be said before it is reaped, or with all signals held ([`super::SignalsHeld`]).
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
    // SAFETY: the kernel passes a handler with SA_SIGINFO what it knows of the signal.
    let code = unsafe { (*info).si_code };
    // As Linux has it: positive where the kernel itself sends it.
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

//! The fork server: a helper forks jobs for many clients. Whichever process dies at whatever time,
//! every client gets the correct outcome, and the helper goes on for the others.
//!
//! The helper is this test binary, started again (see `helper`). The text that is sent to a job
//! says what it does (see `job`).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::*;
use jobserver_core::forkserver::{Ahead, ForkServer, Server};
use jobserver_core::platform::{self, Forked};
#[cfg(target_os = "linux")]
use jobserver_core::process::Lifeline;
use jobserver_core::wire::{memory_file, INLINE};
use jobserver_core::{Channel, Child, Error, ErrorKind, ExitStatus, JobId, Jobs, Outcome, Pool};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{send, SendFlags};
use rustix::process::{getpid, kill_process, setrlimit, Pid, Resource, Rlimit, Signal};
use std::fs::File;
use std::io::{Read, Write};
use std::process::Command;

// The helper and its jobs.

/// The other process: a helper that behaves as the variable MODE says.
#[test]
fn helper() {
    if !has_role("helper") {
        return;
    }
    let mode = std::env::var("MODE").unwrap();
    let requests = platform::duplicate(0).unwrap();
    platform::fill_standard(true).unwrap();
    if let Ok(files) = mode.parse() {
        setrlimit(Resource::Nofile, Rlimit { current: Some(files), maximum: Some(files) }).unwrap();
    }
    let inherited = descriptors() - 1; // without the request socket, only the helper's
    let mut server = Server::new(requests).unwrap();
    if let Some(script) = mode.strip_prefix("run ") {
        let mut command = Command::new("sh");
        command.args(["-c", script]).env("OPEN", inherited.to_string());
        return server.serve_by(&mut command).unwrap();
    }
    let served = server.serve(|_| match mode.as_str() {
        "refuse" => Err(Errno::AGAIN.into()),
        "die" => match fork() {
            Ok(Forked::Parent(_)) => kill_process(getpid(), Signal::KILL).map(|()| hang())?,
            child => child,
        },
        _ => fork(),
    });
    if let Some(channel) = served.unwrap() {
        finish(|| job(&channel, inherited));
    }
}

/// In a job: does what its launch says.
fn job(channel: &Channel, inherited: usize) -> i32 {
    let Some(launch) = channel.receive().unwrap() else { return 0 };
    let text = String::from_utf8(launch.body.into_bytes().unwrap()).unwrap();
    let (verb, rest) = text.split_once(' ').unwrap();
    let number = || rest.parse::<i32>().unwrap();
    match verb {
        "echo" => send_result(channel, rest.as_bytes()),
        "exit" => return number(),
        "kill" => kill_process(getpid(), platform::signal_from_raw(number()).unwrap()).unwrap(),
        "large" => {
            let body = pattern(number() as usize);
            let mut file = File::from(memory_file().unwrap());
            file.write_all(&body).unwrap();
            channel.send_memory(RESULT, file.as_fd(), body.len() as u64, &[]).unwrap();
        }
        "descriptors" => send_result(channel, &[(descriptors() - inherited) as u8]),
        "orphan" => {
            child(|| hang()); // it keeps the channel open
            return number();
        }
        "flood" => while send(channel.as_descriptor(), &[0; 4096], SendFlags::DONTWAIT).is_ok() {},
        _ => hang(),
    }
    0
}

fn send_result(channel: &Channel, body: &[u8]) {
    channel.send(RESULT, body, &[]).unwrap();
}

// Clients.

fn command(mode: &str) -> Command {
    let mut command = another_process("helper");
    command.env("MODE", mode);
    command
}

fn serve(mode: &str) -> ForkServer {
    ForkServer::start(&mut command(mode)).unwrap()
}

fn stop(server: &ForkServer) {
    server.stop();
    while !server.wait_stopped().unwrap() {}
}

/// Requests a forked process, which waits for its launch.
fn born(server: &ForkServer) -> Result<(Channel, Child), Error> {
    let (owner_end, job_end) = Channel::pair()?;
    server.request(&job_end, None)?;
    drop(job_end);
    loop {
        if let Some(child) = server.wait_answer(&owner_end)? {
            return Ok((owner_end, child));
        }
    }
}

fn start_job(server: &ForkServer, jobs: &mut Jobs, launch: &str) -> Result<JobId, Error> {
    let (channel, child) = born(server)?;
    let id = jobs.started(channel, child, None, || ())?.id;
    jobs.channel(id).unwrap().send(LAUNCH, launch.as_bytes(), &[])?;
    Ok(id)
}

/// Returns the only outcome that the table reports, of the job `id`.
fn outcome(jobs: &mut Jobs, id: JobId) -> Outcome {
    outcomes(jobs, 1).remove(&id).unwrap()
}

/// Makes a pipe whose reader sees the end of file once no process has the write end.
fn witness() -> (File, OwnedFd) {
    let (read, write) = pipe();
    (File::from(read), write)
}

#[test]
fn a_job_gets_its_launch_and_sends_its_result() {
    let _alone = Alone::new();
    let (server, mut jobs) = (serve(""), Jobs::new());
    for n in 0..50 {
        let id = start_job(&server, &mut jobs, &format!("echo {n}")).unwrap();
        assert_eq!(result(outcome(&mut jobs, id)), n.to_string().as_bytes());
        drain(&mut jobs);
    }
    stop(&server);
}

#[test]
fn results_of_every_size_arrive() {
    let _alone = Alone::new();
    let (server, mut jobs) = (serve(""), Jobs::new());
    for size in [0, 1, INLINE, 10 * INLINE] {
        let id = start_job(&server, &mut jobs, &format!("large {size}")).unwrap();
        assert_eq!(result(outcome(&mut jobs, id)), pattern(size));
    }
    drain(&mut jobs);
    stop(&server);
}

#[test]
fn every_death_is_told_exactly() {
    let _alone = Alone::new();
    let (server, mut jobs) = (serve(""), Jobs::new());
    for code in [0, 1, 7, 255] {
        let id = start_job(&server, &mut jobs, &format!("exit {code}")).unwrap();
        assert_eq!(death(&outcome(&mut jobs, id)), ExitStatus::Code(code));
    }
    for signal in [libc::SIGKILL, libc::SIGTERM, libc::SIGABRT] {
        let id = start_job(&server, &mut jobs, &format!("kill {signal}")).unwrap();
        assert_eq!(death(&outcome(&mut jobs, id)), ExitStatus::Signal(signal));
    }
    assert_eq!(jobs.outstanding(), 0);
    stop(&server);
}

#[test]
fn a_job_can_be_signalled_by_its_owner() {
    let _alone = Alone::new();
    let (server, mut jobs) = (serve(""), Jobs::new());
    let id = start_job(&server, &mut jobs, "hang ").unwrap();
    jobs.signal(id, Signal::TERM).unwrap();
    assert_eq!(death(&outcome(&mut jobs, id)), ExitStatus::Signal(libc::SIGTERM));
    stop(&server);
}

#[test]
fn a_refused_fork_names_the_limit_and_the_helper_goes_on() {
    let _alone = Alone::new();
    let server = serve("refuse");
    for _ in 0..3 {
        let error = born(&server).unwrap_err();
        assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::System, Some(libc::EAGAIN)));
        assert!(error.to_string().contains("ulimit -u"), "{error}");
    }
    stop(&server);
}

#[test]
fn a_helper_that_serves_by_a_command_tells_how_each_program_ended() {
    let _alone = Alone::new();
    // Its standard input, the channel, is a socket, and it has nothing else of the helper's.
    let script = "run test -S /dev/stdin && test $(ls /dev/fd/ | wc -l) = $OPEN && exit 3";
    let (server, mut jobs) = (serve(script), Jobs::new());
    for _ in 0..3 {
        let (channel, child) = born(&server).unwrap();
        let id = jobs.started(channel, child, None, || ()).unwrap().id;
        assert_eq!(death(&outcome(&mut jobs, id)), ExitStatus::Code(3));
    }
    drain(&mut jobs);
    stop(&server);
}

#[test]
fn a_job_has_nothing_of_the_helpers_but_its_channel() {
    let _alone = Alone::new();
    let (server, mut jobs) = (serve(""), Jobs::new());
    let hanging: Vec<_> = (0..5).map(|_| start_job(&server, &mut jobs, "hang ").unwrap()).collect();
    let id = start_job(&server, &mut jobs, "descriptors ").unwrap();
    assert_eq!(result(outcome(&mut jobs, id)), [1]);
    for id in &hanging {
        jobs.signal(*id, Signal::KILL).unwrap();
    }
    outcomes(&mut jobs, hanging.len());
    drain(&mut jobs);
    stop(&server);
}

#[test]
fn an_end_is_told_though_a_process_of_the_jobs_keeps_the_channel() {
    let _alone = Alone::new();
    let (server, mut jobs) = (serve(""), Jobs::new());
    let id = start_job(&server, &mut jobs, "orphan 3").unwrap();
    assert_eq!(death(&outcome(&mut jobs, id)), ExitStatus::Code(3));
    drain(&mut jobs);
    stop(&server);
}

#[test]
fn an_owner_that_gives_up_before_the_launch_ends_its_job() {
    let _alone = Alone::new();
    let server = serve("");
    for _ in 0..20 {
        drop(born(&server).unwrap());
    }
    stop(&server); // this waits for the helper's children
}

#[test]
fn an_owner_killed_before_the_answer_costs_the_helper_nothing() {
    let _alone = Alone::new();
    let (server, mut jobs) = (serve(""), Jobs::new());
    for _ in 0..20 {
        let owner = child(|| {
            server.request(&Channel::pair().unwrap().1, None).unwrap();
            kill_process(getpid(), Signal::KILL).map_or(1, |()| hang())
        });
        assert_eq!(ended(owner), ExitStatus::Signal(libc::SIGKILL));
        let id = start_job(&server, &mut jobs, "echo alive").unwrap();
        assert_eq!(result(outcome(&mut jobs, id)), b"alive");
        drain(&mut jobs);
    }
    stop(&server);
}

#[test]
fn many_clients_each_get_their_own_results() {
    let _alone = Alone::new();
    let server = serve("");
    let clients: Vec<Pid> = (0..6)
        .map(|client| {
            child(|| {
                let server = server.descriptors().into_iter().map(|fd| fd.duplicate().unwrap());
                let server = ForkServer::join(server).unwrap();
                let mut jobs = Jobs::new();
                for n in 0..15 {
                    let text = format!("{client}/{n}");
                    let id = start_job(&server, &mut jobs, &format!("echo {text}")).unwrap();
                    assert_eq!(result(outcome(&mut jobs, id)), text.as_bytes());
                }
                drain(&mut jobs);
                0
            })
        })
        .collect();
    for client in clients {
        assert_eq!(ended(client), ExitStatus::Code(0));
    }
    stop(&server);
}

#[test]
fn a_slot_is_back_with_the_result_of_a_job_forked_by_the_helper() {
    let _alone = Alone::new();
    let (server, mut jobs, pool) = (serve(""), Jobs::new(), Pool::new(1).unwrap());
    let (channel, child) = born(&server).unwrap();
    let id = jobs.started(channel, child, pool.try_take().unwrap(), || ()).unwrap().id;
    assert_eq!(pool.free().unwrap(), 0);
    jobs.channel(id).unwrap().send(LAUNCH, b"echo x", &[]).unwrap();
    outcome(&mut jobs, id);
    assert_eq!(pool.free().unwrap(), 1);
    drain(&mut jobs);
    stop(&server);
}

// The helper's end.

#[test]
fn a_stopped_helper_ends_after_its_children_and_takes_no_more() {
    let _alone = Alone::new();
    let (server, mut jobs) = (serve(""), Jobs::new());
    let (channel, child) = born(&server).unwrap();
    let id = jobs.started(channel, child, None, || ()).unwrap().id;
    server.stop();
    server.stop();
    assert_eq!(born(&server).unwrap_err().kind(), ErrorKind::ForkServerGone);
    jobs.channel(id).unwrap().send(LAUNCH, b"exit 4", &[]).unwrap();
    assert_eq!(death(&outcome(&mut jobs, id)), ExitStatus::Code(4));
    while !server.wait_stopped().unwrap() {}
    assert!(server.wait_stopped().unwrap(), "also when asked again");
}

#[test]
fn a_helper_ends_with_the_last_of_its_clients() {
    let _alone = Alone::new();
    let (mut witness, stderr) = witness();
    let client = child(|| {
        let server = ForkServer::start(command("").stderr(stderr)).unwrap();
        born(&server).unwrap();
        kill_process(getpid(), Signal::KILL).map_or(1, |()| hang())
    });
    assert_eq!(ended(client), ExitStatus::Signal(libc::SIGKILL));
    // The closure has been dropped here, and `stderr` with it. Only the helper and its job can
    // still have the write end.
    assert_eq!(witness.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_job_outlives_a_killed_helper_and_its_result_arrives() {
    let _alone = Alone::new();
    let (server, mut jobs) = (serve(""), Jobs::new());
    let (channel, child) = born(&server).unwrap();
    let id = jobs.started(channel, child, None, || ()).unwrap().id;
    kill_helper(&server);
    jobs.channel(id).unwrap().send(LAUNCH, b"echo on", &[]).unwrap();
    assert_eq!(result(outcome(&mut jobs, id)), b"on");
    drain(&mut jobs);
}

#[test]
fn how_a_job_ended_whose_helper_was_killed_is_unknown() {
    let _alone = Alone::new();
    let (server, mut jobs) = (serve(""), Jobs::new());
    let id = start_job(&server, &mut jobs, "hang ").unwrap();
    kill_helper(&server);
    jobs.signal(id, Signal::KILL).unwrap();
    assert_eq!(death(&outcome(&mut jobs, id)), ExitStatus::Unknown);
    assert_eq!(jobs.outstanding(), 0);
}

#[test]
fn a_helper_that_cannot_be_started_leaves_nothing_though_its_command_is_kept() {
    let _alone = Alone::new();
    let mut command = Command::new("/no/such/program");
    let before = descriptors();
    let error = ForkServer::start(&mut command).unwrap_err();
    assert_eq!((error.raw_os_error(), descriptors()), (Some(libc::ENOENT), before));
}

#[test]
fn a_request_to_a_killed_helper_says_that_it_is_gone() {
    let _alone = Alone::new();
    let mut kept = command("");
    let server = ForkServer::start(&mut kept).unwrap();
    born(&server).unwrap();
    kill_helper(&server);
    for _ in 0..2 {
        let error = born(&server).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ForkServerGone, "{error}");
    }
}

fn kill_helper(server: &ForkServer) {
    let pid = server.pid().unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    assert_eq!(ended(pid), ExitStatus::Signal(libc::SIGKILL));
}

#[test]
fn processes_are_not_asked_for_ahead_where_that_would_mean_to_wait() {
    let _alone = Alone::new();
    // In a process of its own, which an alarm ends if the call waits.
    let owner = child(|| {
        let (server, mut ahead) = (serve(""), Ahead::default());
        let helper = server.pid().unwrap();
        kill_process(helper, Signal::STOP).unwrap();
        while server.try_request(&Channel::pair().unwrap().1, None).unwrap() {}
        ahead.top_up(1, &server, None).unwrap();
        assert!(ahead.take().is_none());
        kill_process(helper, Signal::CONT).unwrap();
        drop(born(&server).unwrap()); // a caller that needs a process waits
        stop(&server);
        0
    });
    assert_eq!(ended(owner), ExitStatus::Code(0));
}

#[test]
fn a_helper_killed_with_a_request_unread_is_gone() {
    let _alone = Alone::new();
    for _ in 0..20 {
        let server = serve("");
        let pid = server.pid().unwrap();
        kill_process(pid, Signal::STOP).unwrap();
        let (owner_end, job_end) = Channel::pair().unwrap();
        server.request(&job_end, None).unwrap();
        drop(job_end);
        kill_helper(&server);
        let error = server.wait_answer(&owner_end).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ForkServerGone, "{error}");
    }
}

#[test]
fn a_helper_killed_between_fork_and_answer_does_not_leave_its_client_waiting() {
    let _alone = Alone::new();
    // In a process of its own, which an alarm ends if it waits for an answer that never comes.
    let owner = child(|| {
        let (server, mut jobs) = (serve("die"), Jobs::new());
        match start_job(&server, &mut jobs, "echo born") {
            Ok(id) => assert_eq!(result(outcome(&mut jobs, id)), b"born"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ForkServerGone, "{error}"),
        }
        drain(&mut jobs);
        assert_eq!(ended(server.pid().unwrap()), ExitStatus::Signal(libc::SIGKILL));
        0
    });
    assert_eq!(ended(owner), ExitStatus::Code(0));
}

// The helper's limits.

#[test]
fn a_helper_at_its_limit_of_descriptors_says_so_and_recovers() {
    let _alone = Alone::new();
    let (server, mut jobs) = (serve("24"), Jobs::new());
    let mut waiting = Vec::new();
    let error = loop {
        match born(&server) {
            Ok((channel, child)) => {
                waiting.push(jobs.started(channel, child, None, || ()).unwrap().id)
            }
            Err(error) => break error,
        }
    };
    for id in &waiting {
        jobs.channel(*id).unwrap().send(LAUNCH, b"echo done", &[]).unwrap();
    }
    assert_eq!(outcomes(&mut jobs, waiting.len()).len(), waiting.len());
    drain(&mut jobs);
    let id = start_job(&server, &mut jobs, "echo again").unwrap();
    assert_eq!(result(outcome(&mut jobs, id)), b"again");
    drain(&mut jobs);
    stop(&server);
    assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error}");
    assert!(error.to_string().contains("ulimit -n"), "{error}");
}

/// The other process of the next test: a client whose user has more descriptors in flight in
/// sockets than the helper may have open. The kernel uses the helper's limit as the limit of those.
#[test]
#[cfg(target_os = "linux")]
fn client_with_much_under_way() {
    if !has_role("client_with_much_under_way") {
        return;
    }
    let server = serve("16");
    let (owner, _job) = Channel::pair().unwrap();
    let fd = owner.as_descriptor();
    owner.send(LAUNCH, b"", &[fd.as_fd(); 30]).unwrap();
    let mut jobs = Jobs::new();
    let id = start_job(&server, &mut jobs, "echo x").unwrap();
    assert_eq!(result(outcome(&mut jobs, id)), b"x");
    drain(&mut jobs);
    stop(&server);
}

#[test]
#[cfg(target_os = "linux")]
fn a_job_whose_pidfd_cannot_be_sent_is_started_without() {
    use std::os::unix::process::CommandExt;
    let _alone = Alone::new();
    let client = child(|| {
        let mut command = another_process("client_with_much_under_way");
        if rustix::process::geteuid().is_root() {
            command.uid(65534); // the limit does not apply to root
        }
        Err::<(), _>(command.exec()).map_or(102, |()| 0)
    });
    assert_eq!(ended(client), ExitStatus::Code(0));
}

#[test]
fn a_job_that_floods_its_channel_does_not_stall_the_helper() {
    let _alone = Alone::new();
    let owner = child(|| {
        let (server, mut jobs) = (serve(""), Jobs::new());
        let (flooded, _) = born(&server).unwrap();
        flooded.send(LAUNCH, b"flood ", &[]).unwrap();
        flooded.wait_readable().unwrap();
        for _ in 0..100 {
            let id = start_job(&server, &mut jobs, "echo served").unwrap();
            assert_eq!(result(outcome(&mut jobs, id)), b"served");
        }
        drain(&mut jobs);
        drop(flooded);
        stop(&server);
        0
    });
    assert_eq!(ended(owner), ExitStatus::Code(0));
}

// Processes that are forked ahead.

/// Takes the next process that is ahead.
fn taken(server: &ForkServer, ahead: &mut Ahead) -> (Channel, Child) {
    let channel = ahead.take().unwrap();
    loop {
        if let Some(child) = server.wait_answer(&channel).unwrap() {
            return (channel, child);
        }
    }
}

#[test]
fn processes_ahead_are_there_when_they_are_needed_and_no_more_than_asked_for() {
    let _alone = Alone::new();
    let (server, mut jobs, mut ahead) = (serve(""), Jobs::new(), Ahead::default());
    assert!(ahead.take().is_none());
    let mut pids = Vec::new();
    for n in 0..20 {
        ahead.top_up(2, &server, None).unwrap();
        ahead.top_up(2, &server, None).unwrap();
        let (channel, child) = taken(&server, &mut ahead);
        assert!(!child.has_ended());
        pids.push(child.pid());
        let id = jobs.started(channel, child, None, || ()).unwrap().id;
        let launch = format!("echo {n}");
        jobs.channel(id).unwrap().send(LAUNCH, launch.as_bytes(), &[]).unwrap();
        assert_eq!(result(outcome(&mut jobs, id)), n.to_string().as_bytes());
        drain(&mut jobs);
    }
    assert!(ahead.take().is_some());
    assert!(ahead.take().is_none(), "two at a time");
    pids.dedup();
    assert_eq!(pids.len(), 20);
    stop(&server);
}

#[test]
fn dismissed_processes_ahead_end_though_somebody_has_copies_of_their_channels() {
    let _alone = Alone::new();
    let (server, mut ahead) = (serve(""), Ahead::default());
    ahead.top_up(3, &server, None).unwrap();
    let holder = child(|| hang());
    ahead.dismiss();
    stop(&server); // this waits for the helper's children
    kill_process(holder, Signal::KILL).unwrap();
    ended(holder);
}

#[test]
#[cfg(target_os = "linux")]
fn processes_ahead_end_with_a_killed_owner_though_a_child_of_its_lives_on() {
    if portable() {
        return; // processes do not end with their owner there
    }
    let _alone = Alone::new();
    let server = serve("");
    let (mut told, tell) = witness();
    let owner = child(|| {
        let mut ahead = Ahead::default();
        let lifeline = Lifeline::of_this_process().unwrap();
        ahead.top_up(1, &server, Some(&lifeline)).unwrap();
        let (channel, born) = taken(&server, &mut ahead);
        let child = child(|| {
            Lifeline::forget_parents();
            hang()
        });
        let pids = [born.pid(), child].map(|pid| pid.as_raw_nonzero().get().to_ne_bytes());
        File::from(tell.try_clone().unwrap()).write_all(&pids.concat()).unwrap();
        kill_process(getpid(), Signal::KILL).unwrap();
        drop(channel);
        hang()
    });
    ended(owner);
    let mut pids = [0; 8];
    told.read_exact(&mut pids).unwrap();
    let [_ahead, child] = [&pids[..4], &pids[4..]]
        .map(|pid| Pid::from_raw(i32::from_ne_bytes(pid.try_into().unwrap())).unwrap());
    stop(&server); // this waits for the process that is ahead
    kill_process(child, Signal::KILL).unwrap();
}

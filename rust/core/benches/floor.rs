//! The floor: the cost of the system calls that every process pool needs, without Python.
//!
//! `cargo bench --bench floor` prints it. With arguments it is one more contender of
//! `benchmarks/bench.py`: it sets up and reports that it is ready; for each line that it then
//! reads, it runs once and answers with the seconds for one operation. Not here: how this crate
//! uses these calls.
//!
//! It has its own small harness, because these figures must come from the same rounds as those of
//! the pools, interleaved with them.

// For the one fork: see `fork`.
#![allow(unsafe_code)]

use jobserver_core::platform::{self, Forked};
use rustix::process::{wait, WaitOptions};
use std::fs::File;
use std::hint::black_box;
use std::io::{self, BufRead, Read, Write};
use std::process::ExitCode;
use std::time::Instant;

const USAGE: &str = "\
Usage: floor                        prints every figure
       floor fork COUNT MIB         answers each line of standard input with the
       floor ping-pong COUNT        seconds for one operation, measured over COUNT";

/// The number of processes at a time: as many as the pools have slots.
const IN_FLIGHT: usize = 2;

/// An operation that is set up once and measured repeatedly.
trait Work {
    fn run(&mut self, count: usize) -> io::Result<()>;
}

fn main() -> ExitCode {
    // `cargo bench` passes --bench to every program that it runs.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match (words.as_slice(), count(&words)) {
        ([], _) => print_all(),
        (["fork", _, mib], Some(count)) => match mib.parse() {
            Ok(mib) => answer(&mut Forks::new(mib), count),
            Err(_) => Err(io::Error::other(USAGE)),
        },
        (["ping-pong", _], Some(count)) => PingPong::new().and_then(|mut w| answer(&mut w, count)),
        _ => Err(io::Error::other(USAGE)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn count(words: &[&str]) -> Option<usize> {
    words.get(1)?.parse().ok()
}

fn print_all() -> io::Result<()> {
    for mib in [0, 256, 1024] {
        report(&format!("fork, exit, wait; {mib} MiB"), &mut Forks::new(mib), 100)?;
    }
    report("pipe ping-pong, two processes", &mut PingPong::new()?, 5_000)
}

fn report(name: &str, work: &mut impl Work, count: usize) -> io::Result<()> {
    let mut times = Vec::new();
    for _ in 0..11 {
        times.push(seconds(work, count)? * 1e6);
    }
    times.sort_by(f64::total_cmp);
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    println!("{name:32} {median:9.1} us");
    Ok(())
}

/// Serves `benchmarks/bench.py`, by the protocol in `benchmarks/contender.py`.
fn answer(work: &mut impl Work, count: usize) -> io::Result<()> {
    work.run(count)?;
    println!("{{\"ready\": true}}");
    for line in io::stdin().lock().lines() {
        line?;
        println!("{{\"figure\": {:e}}}", seconds(work, count)?);
    }
    Ok(())
}

fn seconds(work: &mut impl Work, count: usize) -> io::Result<f64> {
    let begun = Instant::now();
    work.run(count)?;
    Ok(begun.elapsed().as_secs_f64() / count as f64)
}

/// Forks children that exit at once, from a process that holds this much memory.
struct Forks {
    held: Vec<u8>,
}

impl Forks {
    fn new(mib: usize) -> Forks {
        Forks { held: vec![1; mib << 20] }
    }
}

impl Work for Forks {
    fn run(&mut self, count: usize) -> io::Result<()> {
        black_box(&self.held);
        let mut running = 0;
        for _ in 0..count {
            if running == IN_FLIGHT {
                wait(WaitOptions::empty())?;
                running -= 1;
            }
            if let Forked::Child = fork()? {
                platform::exit_at_once(0);
            }
            running += 1;
        }
        for _ in 0..running {
            wait(WaitOptions::empty())?;
        }
        Ok(())
    }
}

/// Sends a byte to another process and back: the least cost of a request to a process.
struct PingPong {
    there: File,
    back: File,
}

impl PingPong {
    fn new() -> io::Result<PingPong> {
        let (mut asked, there) = pipe()?;
        let (back, mut answers) = pipe()?;
        if let Forked::Child = fork()? {
            drop((there, back)); // so the child sees the end of file when the parent ends
            let mut byte = [0];
            while asked.read_exact(&mut byte).and_then(|()| answers.write_all(&byte)).is_ok() {}
            platform::exit_at_once(0);
        }
        Ok(PingPong { there, back })
    }
}

impl Work for PingPong {
    fn run(&mut self, count: usize) -> io::Result<()> {
        let mut byte = [0];
        for _ in 0..count {
            self.there.write_all(&byte)?;
            self.back.read_exact(&mut byte)?;
        }
        Ok(())
    }
}

/// Makes a pipe: (read end, write end).
fn pipe() -> io::Result<(File, File)> {
    let (reading, writing) = rustix::pipe::pipe()?;
    Ok((reading.into(), writing.into()))
}

fn fork() -> io::Result<Forked> {
    // SAFETY: this program has one thread.
    unsafe { platform::fork() }
}

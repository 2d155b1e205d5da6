//! The example `run_commands`, run as a user runs it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::Write;
use std::process::{Command, Output, Stdio};

/// `cargo test` builds the examples into a folder beside the tests'.
fn run_commands() -> Command {
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().unwrap().with_file_name("examples").join("run_commands");
    assert!(program.exists(), "with --test, first `cargo build --example run_commands`");
    common::deadline();
    Command::new(program)
}

fn run(arguments: &[&str], input: &str) -> (i32, String, String) {
    let mut child = run_commands()
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[test]
fn commands_that_succeed_make_a_success() {
    let (code, out, err) = run(&["-j", "2", "true", "exit 0", "true"], "");
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(out.lines().filter(|line| line.starts_with("ok")).count(), 3, "{out}");
    assert!(out.contains("3 of 3 commands succeeded"), "{out}");
}

#[test]
fn every_death_is_reported_and_the_others_run_all_the_same() {
    let (code, out, _) = run(&["kill -KILL $$", "exit 7", "true"], "");
    assert_eq!(code, 1);
    assert!(out.contains("kill -KILL $$  (was killed by SIGKILL)"), "{out}");
    assert!(out.contains("exit 7  (exited with code 7)"), "{out}");
    assert!(out.contains("1 of 3 commands succeeded"), "{out}");
}

#[test]
fn commands_come_from_standard_input_one_a_line() {
    let (code, out, _) = run(&["-j1"], "");
    assert_eq!((code, out.as_str()), (2, ""), "-j1 is no option of ours");
    let (code, out, _) = run(&["-j", "1"], "true\n\n# a comment\n  exit 3\n");
    assert_eq!(code, 1);
    assert!(out.contains("1 of 2 commands succeeded"), "{out}");
}

#[test]
fn no_more_commands_run_at_once_than_there_are_slots() {
    // Otherwise each command would see the folder of a command that runs at the same time.
    let folder = std::env::temp_dir().join(format!("run_commands-{}", std::process::id()));
    let line = format!("mkdir '{0}' && rmdir '{0}'", folder.display());
    let (code, out, err) = run(&["-j", "1"], &format!("{line}\n").repeat(20));
    assert_eq!(code, 0, "{out}{err}");
}

#[test]
fn a_command_that_cannot_be_started_is_a_failure_like_another() {
    let output = run_commands().args(["true", "true"]).env("PATH", "/nowhere").output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(out.contains("true  (cannot start a process: "), "{out}");
    assert!(out.contains("0 of 2 commands succeeded"), "{out}");
}

#[test]
fn a_mistake_is_explained_and_nothing_is_run() {
    for (arguments, complaint) in [
        (&["-j", "0", "echo ran"][..], "-j needs a number from 1 to"),
        (&["-j", "many", "echo ran"], "not \"many\""),
        (&["echo ran", "-j"], "-j needs a number"),
        (&["--fast", "echo ran"], "no such option: --fast"),
    ] {
        let (code, out, err) = run(arguments, "");
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}");
        assert!(err.contains(complaint) && err.contains("--help"), "{err}");
    }
}

#[test]
fn help_tells_how_to_use_it() {
    let (code, out, _) = run(&["--help"], "");
    assert_eq!(code, 0);
    assert!(out.contains("Usage: run_commands"), "{out}");
}

#[test]
fn no_commands_at_all_are_no_failure() {
    let (code, out, _) = run(&[], "");
    assert_eq!(code, 0);
    assert!(out.contains("0 of 0 commands succeeded"), "{out}");
}

#[test]
fn a_reader_that_has_seen_enough_does_not_stop_the_commands() {
    let mut child = run_commands().args(["true", "true"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

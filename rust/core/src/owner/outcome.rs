//! The ids of jobs, and their outcomes.

use crate::error::Error;
use crate::process::{ExitStatus, Pid};
use crate::wire::{Body, Frame, Head};

/// The id of a job of one owner; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub u64);

impl JobId {
    /// The `number`th job of a process, counted from 1.
    pub(super) fn new(process: u64, number: u32) -> JobId {
        JobId(process << 32 | u64::from(number))
    }

    pub(super) fn process(self) -> u64 {
        self.0 >> 32
    }
}

/// A job that has been started, and its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// The job.
    pub id: JobId,
    /// Its process.
    pub pid: Pid,
}

/// The outcome of a job.
#[derive(Debug)]
pub enum Outcome {
    /// The job sent this result.
    Result(Body),
    /// The job's process ended without a result, after it had sent these last words. (A command
    /// sends none; this is its normal end.)
    Ended(ExitStatus, Option<Body>),
    /// The job sent a message that could not be received.
    Lost(Error),
}

impl Outcome {
    pub(super) fn from_frame(frame: Frame) -> Outcome {
        match frame.head {
            Head::Result { .. } => Outcome::Result(frame.body),
            _ => Outcome::Lost(Error::not_a_result()),
        }
    }
}

/// A job that has finished, by a result or otherwise.
#[derive(Debug)]
pub struct Finished<J> {
    /// Its id.
    pub id: JobId,
    /// The value that its owner kept for it.
    pub job: J,
    /// Its outcome.
    pub outcome: Outcome,
}

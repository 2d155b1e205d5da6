//! Jobs by their names, and what comes of them.

use crate::error::Error;
use crate::process::{ExitStatus, Pid};
use crate::wire::{Body, Frame, Head};

/// Names a job of one owner; never used again.
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

/// What came of a job.
#[derive(Debug)]
pub enum Outcome {
    /// It sent this result.
    Result(Body),
    /// It ended without having sent a result, and had said this of its end before. (For a command,
    /// which says nothing, the normal end.)
    Ended(ExitStatus, Option<Body>),
    /// It sent something that could not be received.
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

/// A job that has finished, well or not.
#[derive(Debug)]
pub struct Finished<J> {
    /// Which.
    pub id: JobId,
    /// What its owner kept for it.
    pub job: J,
    /// What came of it.
    pub outcome: Outcome,
}

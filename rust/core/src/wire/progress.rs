//! Progress: which of its calls each of several jobs is in, in memory shared with their owner.
//!
//! It is for jobs that make many calls: when one dies, its owner knows which call it was in. A
//! frame on the channel would say that too, but costs a system call for each call; this is one
//! store. Each job has a *place* on a cache line of its own, so jobs that run at the same time do
//! not slow each other down. Not here: what the calls are.

use super::memory_file;
use crate::error::{Error, ErrorKind, Result};
use crate::platform::shared::{Shared, WORD};
use crate::platform::{within_limit, Descriptor};
use rustix::fs::{fstat, ftruncate};
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// The size of a place, in words: that of a cache line.
const STRIDE: usize = 8;

/// The value of a place's word after the last call. Other values are the number of calls that have
/// begun.
const ENDED: u64 = u64::MAX;

/// Places for several jobs. A forked job uses its owner's; other jobs open the file.
#[derive(Debug)]
pub struct Progress {
    shared: Shared,
    places: usize,
}

impl Progress {
    /// Makes places for so many jobs at a time.
    pub fn new(places: usize) -> Result<Progress> {
        let file = memory_file()?;
        let size = places.saturating_mul(STRIDE * WORD);
        within_limit(|| ftruncate(&file, size as u64))
            .map_err(Error::system("cannot make a memory file"))?;
        Progress::map(file.into(), places)
    }

    /// In a job: opens the owner's, by the descriptor that came with its launch.
    pub fn open(file: Arc<Descriptor>) -> Result<Progress> {
        let status = fstat(&file).map_err(Error::system("cannot look at a memory file"))?;
        let size = usize::try_from(status.st_size).unwrap_or(0);
        Progress::map(file, size / (STRIDE * WORD))
    }

    fn map(file: Arc<Descriptor>, places: usize) -> Result<Progress> {
        let shared = Shared::map(file, places * STRIDE)
            .map_err(Error::system("cannot map a memory file"))?;
        Ok(Progress { shared, places })
    }

    /// Returns the file, to be sent to jobs.
    pub fn file(&self) -> &Arc<Descriptor> {
        self.shared.file()
    }

    /// Before a job is started: records that it has begun no call.
    pub fn clear(&self, place: usize) -> Result<()> {
        self.store(place, 0)
    }

    /// In the job: records that it begins the call of this number, from 0.
    pub fn begin(&self, place: usize, call: u64) -> Result<()> {
        self.store(place, call + 1)
    }

    /// In the job: records that all calls have ended.
    pub fn end(&self, place: usize) -> Result<()> {
        self.store(place, ENDED)
    }

    /// Returns the call that the job is in, or was in when it died. None before the first and after
    /// the last.
    pub fn running(&self, place: usize) -> Result<Option<u64>> {
        self.check(place)?;
        let word = self.shared.word(place * STRIDE).load(Ordering::Acquire);
        Ok(if word == ENDED { None } else { word.checked_sub(1) })
    }

    fn store(&self, place: usize, word: u64) -> Result<()> {
        self.check(place)?;
        self.shared.word(place * STRIDE).store(word, Ordering::Release);
        Ok(())
    }

    fn check(&self, place: usize) -> Result<()> {
        match place < self.places {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::InvalidInput, "there is no such place")),
        }
    }
}

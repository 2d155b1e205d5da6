//! Workers that an owner has a fork server fork ahead of need.

use super::ForkServer;
use crate::error::Result;
use crate::process::{getpid, Lifeline};
use crate::wire::Channel;
use rustix::process::Pid;
use std::collections::VecDeque;

/// Processes that an owner has asked a fork server for ahead of need. They hold nothing, hang on
/// the owner's lifeline, and end when their channels do.
#[derive(Debug, Default)]
pub struct Ahead {
    /// The owner's ends. The answers are read when the processes are needed.
    channels: VecDeque<Channel>,
    /// The owner, once it has asked for some.
    owner: Option<Pid>,
}

impl Ahead {
    /// How many there are, or will be in a moment.
    pub fn number(&self) -> usize {
        self.channels.len()
    }

    /// The next of them: its answer is there, or will be in a moment. None if there is none.
    pub fn take(&mut self) -> Option<Channel> {
        self.channels.pop_front()
    }

    /// Sees to it that there are `number` of them, or will be in a moment; or fewer, if the helper
    /// is behind with many requests: never waits.
    pub fn top_up(
        &mut self,
        number: usize,
        server: &ForkServer,
        lifeline: Option<&Lifeline>,
    ) -> Result<()> {
        self.owner = Some(getpid());
        while self.channels.len() < number {
            let (owner_end, job_end) = Channel::pair()?;
            if !server.try_request(&job_end, lifeline)? {
                break;
            }
            self.channels.push_back(owner_end);
        }
        Ok(())
    }

    /// Has them end, whoever else has copies of the channels.
    pub fn dismiss(&mut self) {
        for channel in self.channels.drain(..) {
            channel.stop_sending();
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        if self.owner == Some(getpid()) {
            self.dismiss(); // else these are a forked child's copies
        }
    }
}

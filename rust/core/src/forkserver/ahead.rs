//! Workers that a fork server forks ahead, for an owner.

use super::ForkServer;
use crate::error::Result;
use crate::process::{getpid, Lifeline};
use crate::wire::Channel;
use rustix::process::Pid;
use std::collections::VecDeque;

/// Workers ahead, which an owner has requested. They hold no slot, hang on the owner's lifeline,
/// and end when their channels are closed.
#[derive(Debug, Default)]
pub struct Ahead {
    /// The owner's ends of their channels. The answers are read when the workers are needed.
    channels: VecDeque<Channel>,
    /// The owner; None before its first request.
    owner: Option<Pid>,
}

impl Ahead {
    /// The number of workers that are requested and not taken.
    pub fn number(&self) -> usize {
        self.channels.len()
    }

    /// The next worker; its answer is there or comes soon. None if there is none.
    pub fn take(&mut self) -> Option<Channel> {
        self.channels.pop_front()
    }

    /// Requests workers until there are `number`; fewer, if the helper is behind with many
    /// requests. Never waits.
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

    /// Makes the workers end, also if other processes have copies of the channels.
    pub fn dismiss(&mut self) {
        for channel in self.channels.drain(..) {
            channel.stop_sending();
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        if self.owner == Some(getpid()) {
            self.dismiss(); // otherwise these are the copies in a forked child
        }
    }
}

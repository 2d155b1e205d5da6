//! One descriptor that an event loop can poll in the place of several, on Linux: an epoll set with a
//! timer in it.

use super::backend::Readiness;
use super::Descriptor;
use rustix::event::{epoll, Timespec};
use rustix::io::Result;
use rustix::time::{
    timerfd_create, timerfd_settime, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags,
};
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug)]
pub(crate) struct Set {
    epoll: Descriptor,
    timer: Descriptor,
    watched: Vec<Arc<Descriptor>>,
    is_timed: bool,
}

impl Set {
    pub(crate) fn new() -> Result<Set> {
        let epoll = Descriptor::anonymous(epoll::create(epoll::CreateFlags::CLOEXEC)?)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = Descriptor::anonymous(timerfd_create(TimerfdClockId::Monotonic, flags)?)?;
        add(&epoll, &timer)?;
        Ok(Set { epoll, timer, watched: Vec::new(), is_timed: false })
    }

    fn set_timer(&mut self, after: Option<Duration>) -> Result<()> {
        if after.is_none() && !self.is_timed {
            return Ok(());
        }
        let never = Timespec::default();
        // (0 would mean never.)
        let after = after.map(|after| after.max(Duration::from_nanos(1)));
        let it_value = after.and_then(|after| Timespec::try_from(after).ok()).unwrap_or(never);
        let time = Itimerspec { it_interval: never, it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &time)?;
        self.is_timed = after.is_some();
        Ok(())
    }
}

impl Readiness for Set {
    fn descriptor(&self) -> &Descriptor {
        &self.epoll
    }

    fn rest_on(
        &mut self,
        descriptors: Vec<Arc<Descriptor>>,
        after: Option<Duration>,
    ) -> Result<()> {
        for gone in self.watched.iter().filter(|fd| !is_in(&descriptors, fd)) {
            // Of a closed descriptor, another file may have the number: see `epoll::Set`.
            if gone.is_intact() {
                let _ = epoll::delete(&self.epoll, gone);
            }
        }
        let before = std::mem::take(&mut self.watched);
        for fd in descriptors {
            if !is_in(&before, &fd) {
                add(&self.epoll, &fd)?;
            }
            self.watched.push(fd);
        }
        self.set_timer(after)
    }
}

fn is_in(all: &[Arc<Descriptor>], fd: &Arc<Descriptor>) -> bool {
    all.iter().any(|each| Arc::ptr_eq(each, fd))
}

fn add(set: &Descriptor, fd: &Descriptor) -> Result<()> {
    epoll::add(set, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn it_is_readable_for_what_it_rests_on_and_nothing_else() {
        let mut set = Set::new().unwrap();
        let (read, write) = crate::platform::pipe().unwrap();
        let (other, _write) = crate::platform::pipe().unwrap();
        let (read, other) = (Arc::new(read), Arc::new(other));
        rustix::io::write(&write, b"x").unwrap();
        assert!(!set.descriptor().is_readable());
        set.rest_on(vec![Arc::clone(&read), Arc::clone(&other)], None).unwrap();
        assert!(set.descriptor().is_readable());
        set.rest_on(vec![Arc::clone(&other)], None).unwrap();
        assert!(!set.descriptor().is_readable());
        set.rest_on(vec![other, read], None).unwrap();
        assert!(set.descriptor().is_readable());
    }

    #[test]
    fn it_is_readable_after_its_time() {
        let mut set = Set::new().unwrap();
        set.rest_on(Vec::new(), Some(Duration::ZERO)).unwrap();
        let mut fds = [rustix::event::PollFd::new(&set.epoll, rustix::event::PollFlags::IN)];
        assert_eq!(rustix::event::poll(&mut fds, None).unwrap(), 1);
        set.rest_on(Vec::new(), None).unwrap();
        assert!(!set.descriptor().is_readable());
    }
}

//! What the scheduler thread waits for, in two classes: urgent (doorbells, the timer) and chores.
//!
//! The chores have an epoll instance of their own, which is itself watched by the urgent one. The
//! thread does at most one chore before it looks for doorbells again, so a doorbell waits for one
//! message or one accepted client at most, however many are there.
//!
//! Doorbells and the timer are edge-triggered and never read: each ring is an edge. That saves a
//! system call a ring, and a client cannot keep its descriptor readable for ever.

use std::os::fd::{AsFd, OwnedFd};

use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, Event, EventData, EventFlags},
    io::Errno,
    process::Pid,
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};
use xsched_sched::Nanos;

/// Urgent events taken at once.
const BATCH: usize = 64;
const NO_WAIT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// Who is the reason for a wake-up. Sessions and processes are named by their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A client's state words changed.
    Doorbell(u64),
    /// Timer expired.
    Timer,
    /// See [`Reactor::next_chore`].
    Chores,
    /// A client sent something, hung up, or can be sent to again.
    Socket(u64),
    /// A client's process ended.
    Process(u64),
    /// A process that had called the HTTP API ended.
    Caller(Pid),
    /// Somebody connects.
    Listener,
    /// The HTTP thread asks something.
    Request,
    /// The daemon is to end.
    Stop,
}

const KINDS: u64 = 9;

impl Source {
    fn pack(self) -> EventData {
        let (kind, number) = match self {
            Source::Doorbell(session) => (0, session),
            Source::Socket(session) => (1, session),
            Source::Process(session) => (2, session),
            Source::Timer => (3, 0),
            Source::Chores => (4, 0),
            Source::Listener => (5, 0),
            Source::Request => (6, 0),
            Source::Stop => (7, 0),
            Source::Caller(pid) => (8, pid.as_raw_nonzero().get() as u64),
        };
        EventData::new_u64(number * KINDS + kind)
    }

    fn unpack(data: EventData) -> Self {
        let number = data.u64() / KINDS;
        match data.u64() % KINDS {
            0 => Source::Doorbell(number),
            1 => Source::Socket(number),
            2 => Source::Process(number),
            3 => Source::Timer,
            4 => Source::Chores,
            5 => Source::Listener,
            6 => Source::Request,
            7 => Source::Stop,
            _ => Source::Caller(Pid::from_raw(number as i32).unwrap_or(Pid::INIT)),
        }
    }
}

/// The thread's epoll instances and its timer.
pub(crate) struct Reactor {
    urgent: OwnedFd,
    chores: OwnedFd,
    timer: OwnedFd,
    armed: Option<Nanos>,
    events: Vec<Event>,
    chore: Vec<Event>,
}

impl Reactor {
    pub(crate) fn new() -> Result<Self, Errno> {
        let urgent = epoll::create(CreateFlags::CLOEXEC)?;
        let chores = epoll::create(CreateFlags::CLOEXEC)?;
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )?;
        epoll::add(&urgent, &chores, Source::Chores.pack(), EventFlags::IN)?;
        let edge = EventFlags::IN | EventFlags::ET;
        epoll::add(&urgent, &timer, Source::Timer.pack(), edge)?;
        Ok(Reactor {
            urgent,
            chores,
            timer,
            armed: None,
            events: Vec::with_capacity(BATCH),
            chore: Vec::with_capacity(1),
        })
    }

    /// Starts to watch a doorbell, which must be an eventfd.
    pub(crate) fn watch_doorbell(&self, fd: impl AsFd, session: u64) -> Result<(), Errno> {
        let flags = EventFlags::IN | EventFlags::ET;
        epoll::add(&self.urgent, fd, Source::Doorbell(session).pack(), flags)
    }

    /// Starts to watch a descriptor of ours for something to read.
    pub(crate) fn watch(&self, fd: impl AsFd, source: Source) -> Result<(), Errno> {
        epoll::add(&self.chores, fd, source.pack(), EventFlags::IN)
    }

    /// Whether to wait for room to write, beside something to read.
    pub(crate) fn watch_writable(
        &self,
        fd: impl AsFd,
        source: Source,
        writable: bool,
    ) -> Result<(), Errno> {
        let mut flags = EventFlags::IN;
        flags.set(EventFlags::OUT, writable);
        epoll::modify(&self.chores, fd, source.pack(), flags)
    }

    /// Ends the watch on a doorbell. Closing alone would not: the client has it open, too.
    pub(crate) fn forget_doorbell(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.urgent, fd);
    }

    /// Ends the watch on another descriptor.
    pub(crate) fn forget(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.chores, fd);
    }

    /// Waits for something urgent or for a chore; `block` false: only looks.
    pub(crate) fn wait(&mut self, block: bool) -> Result<(), Errno> {
        wait(&self.urgent, &mut self.events, block)
    }

    /// What the last [`wait`](Self::wait) found, one after the other from 0.
    pub(crate) fn found(&self, index: usize) -> Option<Source> {
        self.events
            .get(index)
            .map(|event| Source::unpack(event.data))
    }

    /// One chore, if there is one. Those that wait take turns.
    pub(crate) fn next_chore(&mut self) -> Result<Option<Source>, Errno> {
        wait(&self.chores, &mut self.chore, false)?;
        Ok(self.chore.first().map(|event| Source::unpack(event.data)))
    }

    /// Wakes the thread at this time of `CLOCK_MONOTONIC`.
    pub(crate) fn arm(&mut self, at: Option<Nanos>) -> Result<(), Errno> {
        if at == self.armed {
            return Ok(());
        }
        // Zero would disarm; a time that has passed expires at once.
        let at_ns = at.map_or(0, |at| at.max(1));
        let spec = Itimerspec {
            it_interval: NO_WAIT,
            it_value: Timespec {
                tv_sec: (at_ns / 1_000_000_000) as i64,
                tv_nsec: (at_ns % 1_000_000_000) as i64,
            },
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &spec)?;
        self.armed = at;
        Ok(())
    }

    /// To be called when the timer expired: the same time may be armed again.
    pub(crate) fn expired(&mut self) {
        self.armed = None;
    }
}

fn wait(epoll: &OwnedFd, events: &mut Vec<Event>, block: bool) -> Result<(), Errno> {
    events.clear();
    let timeout = if block { None } else { Some(&NO_WAIT) };
    match epoll::wait(epoll, spare_capacity(events), timeout) {
        Ok(_) => Ok(()),
        // A signal: whoever called looks around and comes back.
        Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    fn found(reactor: &Reactor) -> Vec<Source> {
        (0..).map_while(|index| reactor.found(index)).collect()
    }

    #[test]
    fn sources_survive_packing() {
        for source in [
            Source::Doorbell(7),
            Source::Socket(u64::MAX / KINDS),
            Source::Process(1),
            Source::Caller(Pid::from_raw(i32::MAX).unwrap()),
            Source::Timer,
            Source::Chores,
            Source::Listener,
            Source::Request,
            Source::Stop,
        ] {
            assert_eq!(Source::unpack(source.pack()), source);
        }
    }

    #[test]
    fn each_ring_is_seen_once_though_never_read() {
        let mut reactor = Reactor::new().unwrap();
        let bell = eventfd(0, EventfdFlags::SEMAPHORE).unwrap();
        reactor.watch_doorbell(&bell, 3).unwrap();
        for _ in 0..3 {
            rustix::io::write(&bell, &5u64.to_ne_bytes()).unwrap();
            reactor.wait(true).unwrap();
            assert_eq!(found(&reactor), [Source::Doorbell(3)]);
            reactor.wait(false).unwrap();
            assert_eq!(found(&reactor), []);
        }
        let copy = bell.try_clone().unwrap();
        reactor.forget_doorbell(&bell);
        drop(bell);
        rustix::io::write(&copy, &1u64.to_ne_bytes()).unwrap();
        reactor.wait(false).unwrap();
        assert_eq!(found(&reactor), [], "the peer's copy rings nobody");
    }

    #[test]
    fn the_timer_expires_again_and_again() {
        let mut reactor = Reactor::new().unwrap();
        for _ in 0..3 {
            reactor.arm(Some(1)).unwrap();
            reactor.wait(true).unwrap();
            assert_eq!(found(&reactor), [Source::Timer]);
            reactor.expired();
        }
        reactor.arm(Some(u64::MAX / 2)).unwrap();
        reactor.arm(None).unwrap();
        reactor.wait(false).unwrap();
        assert_eq!(found(&reactor), []);
    }

    #[test]
    fn chores_come_one_at_a_time_in_turn() {
        let mut reactor = Reactor::new().unwrap();
        let bells = [1, 2].map(|id| {
            let bell = eventfd(1, EventfdFlags::empty()).unwrap();
            reactor.watch(&bell, Source::Socket(id)).unwrap();
            bell
        });
        reactor.wait(true).unwrap();
        assert_eq!(found(&reactor), [Source::Chores]);
        let first = reactor.next_chore().unwrap().unwrap();
        let second = reactor.next_chore().unwrap().unwrap();
        assert_ne!(first, second);
        reactor.forget(&bells[0]);
        reactor.forget(&bells[1]);
        assert_eq!(reactor.next_chore().unwrap(), None);
    }
}

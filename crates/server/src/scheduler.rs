//! The scheduler thread: waits, and lets the host act, in order of urgency.
//!
//! ```text
//!  doorbells, timer ─▶ engine ─▶ gates        at once, all that are there
//!  one chore        ─▶ host                    a message, a new client, an end, a request
//!  one step of the round                       every 100 ms over all sessions, a few a step
//! ```
//! Nothing here waits for anybody: sockets are non-blocking, doorbells are never read, and what
//! clients sent is closed elsewhere.

use std::{
    os::fd::{BorrowedFd, OwnedFd},
    sync::{Arc, mpsc},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sys::socket::{UnixCredentials, getsockopt, sockopt::PeerCredentials};
use rustix::{
    event::{EventfdFlags, eventfd},
    io::Errno,
    net::{SocketFlags, accept_with},
    process::{Pid, PidfdFlags, pidfd_open},
    time::{ClockId, clock_gettime},
};
use tracing::{debug, info, warn};
use xsched_sched::Nanos;
use xsched_wire::{FromScheduler, packet};

use crate::{
    host::{HEARTBEAT_MS, Host},
    reactor::Source,
    session::Peer,
};

/// Between rounds over all sessions: twice a heartbeat period, so that each beat is in time.
const ROUND: Nanos = HEARTBEAT_MS as Nanos / 2 * 1_000_000;

/// The user of a connection whose credentials cannot be read.
const NOBODY: u32 = u32::MAX;

/// Now, on the clock that all timestamps are of.
pub(crate) fn now() -> Nanos {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// A function for the scheduler thread.
type Request = Box<dyn FnOnce(&mut Host, Nanos) + Send>;

/// Lets other threads have functions run on the scheduler thread.
#[derive(Clone)]
pub(crate) struct Requests {
    queue: mpsc::Sender<Request>,
    /// Counts those in the queue.
    bell: Arc<OwnedFd>,
}

impl Requests {
    /// Queues one. It is dropped, unrun, if the scheduler ends before.
    pub(crate) fn send(&self, request: impl FnOnce(&mut Host, Nanos) + Send + 'static) {
        if self.queue.send(Box::new(request)).is_ok() {
            // After the queue, so that one request at least is there for each count.
            let _ = rustix::io::write(&*self.bell, &1u64.to_ne_bytes());
        }
    }
}

/// The scheduler thread's own state around the host.
pub(crate) struct Scheduler {
    host: Host,
    listener: OwnedFd,
    /// Not watched for want of descriptors; again at the next round.
    listener_paused: bool,
    requests: mpsc::Receiver<Request>,
    request_bell: Arc<OwnedFd>,
    /// Where the round over all sessions goes on, if one is under way.
    round: Option<u64>,
    next_round: Nanos,
    exit_when_unused: Option<Nanos>,
    unused_since: Option<Nanos>,
}

impl Scheduler {
    /// Everything but the loop. `stop` becomes readable when the daemon is to end.
    pub(crate) fn new(
        host: Host,
        listener: OwnedFd,
        stop: BorrowedFd<'_>,
        exit_when_unused: Option<Duration>,
    ) -> Result<(Self, Requests)> {
        let bell = eventfd(
            0,
            EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK | EventfdFlags::SEMAPHORE,
        )?;
        let bell = Arc::new(bell);
        host.reactor.watch(&listener, Source::Listener)?;
        host.reactor.watch(&bell, Source::Request)?;
        host.reactor.watch(stop, Source::Stop)?;
        let (sender, requests) = mpsc::channel();
        let scheduler = Scheduler {
            host,
            listener,
            listener_paused: false,
            requests,
            request_bell: bell.clone(),
            round: None,
            next_round: 0,
            exit_when_unused: exit_when_unused.map(|limit| limit.as_nanos() as Nanos),
            unused_since: Some(now()),
        };
        let queue = sender;
        Ok((scheduler, Requests { queue, bell }))
    }

    /// Runs until it is told to stop or is no longer used.
    pub(crate) fn run(mut self) -> Result<()> {
        loop {
            self.host.reactor.arm(self.deadline())?;
            let block = self.round.is_none();
            self.host.reactor.wait(block).context("cannot wait")?;
            let chores = self.urgent();
            if chores && !self.chore()? {
                break;
            }
            self.tend();
            // A chore that is left may be a new client.
            if self.is_unused() && !chores {
                info!("nobody uses the daemon: it ends");
                break;
            }
        }
        self.host.release_all();
        Ok(())
    }

    /// Doorbells and the engine's timer. True: there are chores.
    fn urgent(&mut self) -> bool {
        let now = now();
        let mut chores = false;
        let mut index = 0;
        while let Some(source) = self.host.reactor.found(index) {
            match source {
                Source::Doorbell(session) => self.host.rung(session, now),
                Source::Timer => self.host.reactor.expired(),
                _ => chores = true,
            }
            index += 1;
        }
        self.host.tick_engine(now);
        chores
    }

    /// One thing that can wait. False: the daemon is to end.
    fn chore(&mut self) -> Result<bool> {
        let chore = self.host.reactor.next_chore().context("cannot wait")?;
        match chore {
            Some(Source::Socket(session)) => self.host.socket_ready(session, now()),
            Some(Source::Process(session)) => self.host.process_ended(session, now()),
            Some(Source::Caller(pid)) => self.host.caller_ended(pid),
            Some(Source::Listener) => self.accept(),
            Some(Source::Request) => {
                let mut count = [0; 8];
                if rustix::io::read(&self.request_bell, &mut count).is_ok()
                    && let Ok(request) = self.requests.try_recv()
                {
                    request(&mut self.host, now());
                }
            }
            Some(Source::Stop) => {
                info!("told to end");
                return Ok(false);
            }
            _ => {}
        }
        Ok(true)
    }

    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match accept_with(&self.listener, flags) {
            Ok(socket) => socket,
            Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                warn!("no descriptors left: new clients wait");
                self.host.reactor.forget(&self.listener);
                self.listener_paused = true;
                return;
            }
            // Left before it was accepted.
            Err(_) => return,
        };
        let peer = getsockopt(&socket, PeerCredentials);
        let uid = peer.map_or(NOBODY, |peer| peer.uid());
        match identify(peer) {
            Ok((peer, pidfd)) => self.host.connected(socket, peer, pidfd, now()),
            Err(Some(reason)) => {
                warn!(reason, "client refused");
                let _ = packet::send(&socket, &FromScheduler::Refused { reason });
                self.host.reaper.take(uid, socket);
            }
            Err(None) => {
                debug!("a client was gone before it was accepted");
                self.host.reaper.take(uid, socket);
            }
        }
    }

    /// A step of the round, or its start.
    fn tend(&mut self) {
        let now = now();
        if self.round.is_none() && self.needs_rounds() && now >= self.next_round {
            self.round = Some(0);
            self.next_round = now + ROUND;
            if self.listener_paused {
                let watched = self.host.reactor.watch(&self.listener, Source::Listener);
                self.listener_paused = watched.is_err();
            }
        }
        if let Some(from) = self.round {
            self.round = self.host.tend(from, now);
        }
    }

    fn needs_rounds(&self) -> bool {
        self.listener_paused || !self.host.sessions.is_empty()
    }

    /// When something is to be done, whatever comes.
    fn deadline(&self) -> Option<Nanos> {
        let round = self.needs_rounds().then_some(self.next_round);
        let unused = self.unused_since.zip(self.exit_when_unused);
        let end = unused.map(|(since, limit)| since.saturating_add(limit));
        [self.host.engine.next_timer(), round, end]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether it has been unused for so long that it ends. To be asked every turn.
    fn is_unused(&mut self) -> bool {
        if self.host.is_used() {
            self.unused_since = None;
            return false;
        }
        let Some(limit) = self.exit_when_unused else {
            return false;
        };
        let now = now();
        let since = *self.unused_since.get_or_insert(now);
        now.saturating_sub(since) >= limit
    }
}

/// Who connected, by the kernel's word. `Err(None)`: it is gone.
fn identify(peer: nix::Result<UnixCredentials>) -> Result<(Peer, OwnedFd), Option<String>> {
    let peer = peer.map_err(|error| Some(format!("peer credentials: {error}")))?;
    // Zero: a process that has no number here.
    let pid = Pid::from_raw(peer.pid()).ok_or_else(|| {
        Some(
            "the program runs in another PID namespace, where its end cannot be seen: \
             share this one (for instance docker run --pid=host)"
                .to_owned(),
        )
    })?;
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => Ok((
            Peer {
                pid,
                uid: peer.uid(),
            },
            pidfd,
        )),
        Err(Errno::SRCH) => Err(None),
        Err(error) => Err(Some(format!(
            "the daemon cannot watch the process: {error}"
        ))),
    }
}

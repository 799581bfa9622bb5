//! The session with the daemon: connect, register, obey, notice its loss, come back.

use std::{
    fmt, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::atomic::{AtomicI32, Ordering},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
    time::Timespec,
};
use xsched_wire::{
    Admitted, FromScheduler, Hello, endpoint,
    packet::{self, PacketError},
};

use crate::{
    log,
    shared::{NO_FD, Shared, hush, short},
};

/// Between attempts to reach a daemon.
const RETRY: Duration = Duration::from_millis(250);
/// After a daemon has said no: it will not change its mind soon.
const RETRY_REFUSED: Duration = Duration::from_secs(5);
/// A daemon that does not answer a hello within this time hangs.
const HELLO_TIMEOUT: Duration = Duration::from_secs(1);
/// Heartbeats that may be missed.
const MISSED_BEATS: u32 = 4;
/// Why there is no session.
enum Failure {
    /// Nobody listens.
    Nobody(PathBuf),
    /// The daemon refused.
    Refused(String),
    /// Anything else.
    Broken(PacketError),
}

impl From<PacketError> for Failure {
    fn from(error: PacketError) -> Self {
        Failure::Broken(error)
    }
}

/// Runs until the process ends (or, in a forked child, never).
pub(crate) fn run(shared: &Shared) {
    let mut said = String::new();
    // A loss was said: that nobody answers since is no news.
    let mut lost = false;
    loop {
        let (message, pause) = match Session::open(shared) {
            Ok(session) => {
                log::info(&format!("scheduled by policy {}", session.terms.policy));
                if let Some(notice) = &session.terms.notice {
                    log::warn(notice);
                }
                let loss = session.run();
                drop(session);
                said.clear();
                lost = true;
                let pause = match loss {
                    Loss::Ended(_) => RETRY_REFUSED,
                    _ => RETRY,
                };
                (
                    format!("lost the scheduler ({loss}): running unscheduled until it is back"),
                    pause,
                )
            }
            Err(Failure::Nobody(_) | Failure::Broken(_)) if lost => {
                std::thread::sleep(RETRY);
                continue;
            }
            Err(Failure::Nobody(path)) => (
                format!(
                    "no scheduler at {}: running unscheduled; start one with `xsched serve`, or \
                     this program with `xsched run`",
                    path.display()
                ),
                RETRY,
            ),
            Err(Failure::Refused(reason)) => (
                format!("the scheduler refused this program: {reason}"),
                RETRY_REFUSED,
            ),
            Err(Failure::Broken(error)) => (
                format!("no session with the scheduler: {error}; running unscheduled"),
                RETRY,
            ),
        };
        if said != message {
            log::warn(&message);
            said = message;
        }
        std::thread::sleep(pause);
    }
}

/// However it ends, also before it has really begun, every gate opens, and nothing is noted for a
/// scheduler any more.
struct Session<'a> {
    shared: &'a Shared,
    socket: SessionSocket<'a>,
    terms: Admitted,
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.shared.release_all();
    }
}

/// The socket, its number noted where a forked child finds it.
struct SessionSocket<'a> {
    fd: OwnedFd,
    note: &'a AtomicI32,
}

impl<'a> SessionSocket<'a> {
    fn new(fd: OwnedFd, note: &'a AtomicI32) -> Self {
        note.store(fd.as_raw_fd(), Ordering::SeqCst);
        SessionSocket { fd, note }
    }
}

impl Drop for SessionSocket<'_> {
    fn drop(&mut self) {
        self.note.store(NO_FD, Ordering::SeqCst);
    }
}

impl AsFd for SessionSocket<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// How a session ended.
enum Loss {
    Socket(PacketError),
    Ended(String),
    Silent(Duration),
}

impl From<PacketError> for Loss {
    fn from(error: PacketError) -> Self {
        Loss::Socket(error)
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Loss::Socket(error) => error.fmt(f),
            Loss::Ended(reason) => f.write_str(reason),
            Loss::Silent(time) => write!(f, "no heartbeat for {} ms", time.as_millis()),
        }
    }
}

impl<'a> Session<'a> {
    fn open(shared: &'a Shared) -> Result<Self, Failure> {
        let socket = SessionSocket::new(reach_daemon(shared)?, &shared.session_fd);
        let hello = Hello {
            name: short(&shared.settings.name),
            job: shared.settings.job,
            hints: shared.process_hints(),
        };
        packet::send_hello(&socket, &hello, shared.segment_fd(), shared.doorbell())?;
        wait(&[socket.as_fd()], HELLO_TIMEOUT);
        let terms = match packet::recv(&socket) {
            Ok(FromScheduler::Welcome(terms)) => terms,
            Ok(FromScheduler::Refused { reason }) => return Err(Failure::Refused(reason)),
            Ok(other) => {
                let error = format!("expected a welcome, got {other:?}");
                return Err(PacketError::Malformed(error).into());
            }
            Err(error) => return Err(error.into()),
        };
        let session = Session {
            shared,
            socket,
            terms,
        };
        for message in shared.announce_all(hello.hints) {
            session.send(&message)?;
        }
        shared.set_scheduled(true);
        Ok(session)
    }

    /// Obeys until the daemon is lost; the result says how.
    fn run(&self) -> Loss {
        let limit = MISSED_BEATS * Duration::from_millis(self.terms.heartbeat_ms.into());
        let mut beat = self.shared.layout().heartbeat();
        let mut beat_seen = Instant::now();
        loop {
            let tick = self.shared.tick();
            wait(&[self.socket.as_fd(), self.shared.wake_fd()], tick);
            hush(self.shared.wake_fd());
            if let Err(loss) = self.obey().and_then(|()| self.report()) {
                return loss;
            }
            self.shared.look_after(Instant::now());

            let now = self.shared.layout().heartbeat();
            if now != beat {
                beat = now;
                beat_seen = Instant::now();
            } else if beat_seen.elapsed() > limit {
                return Loss::Silent(beat_seen.elapsed());
            }
        }
    }

    /// Does what the daemon says.
    fn obey(&self) -> Result<(), Loss> {
        loop {
            match packet::recv(&self.socket) {
                Ok(FromScheduler::QueueReady { slot }) => self.shared.hand_over(slot),
                Ok(FromScheduler::Share { slot, share }) => {
                    if let Some(managed) = self.shared.managed(slot) {
                        managed.apply_share(share);
                    }
                }
                Ok(FromScheduler::Refused { reason }) => {
                    return Err(Loss::Ended(reason));
                }
                Ok(FromScheduler::Notice { text }) => log::warn(&text),
                Ok(FromScheduler::Welcome(_)) => {}
                Err(PacketError::WouldBlock) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Tells the daemon what the application's threads left in the outbox.
    fn report(&self) -> Result<(), Loss> {
        for message in self.shared.take_outbox() {
            self.send(&message)?;
        }
        Ok(())
    }

    /// Sends one message, waiting for room at most as long as a daemon may take for a hello.
    fn send(&self, message: &xsched_wire::ToScheduler) -> Result<(), PacketError> {
        match packet::send(&self.socket, message) {
            Err(PacketError::WouldBlock) => {
                let mut fds = [PollFd::new(&self.socket.fd, PollFlags::OUT)];
                let _ = poll(&mut fds, Some(&timespec(HELLO_TIMEOUT)));
                packet::send(&self.socket, message)
            }
            result => result,
        }
    }
}

fn reach_daemon(shared: &Shared) -> Result<OwnedFd, Failure> {
    for path in &shared.sockets {
        match dial(path, &shared.user_socket) {
            Ok(socket) => return Ok(socket),
            Err(error) => log::info(&format!("{}: {error}", path.display())),
        }
    }
    let last = shared.sockets.last();
    Err(Failure::Nobody(last.cloned().unwrap_or_default()))
}

fn dial(path: &Path, user_socket: &Path) -> io::Result<OwnedFd> {
    if path == user_socket
        && let Some(dir) = path.parent()
    {
        // Somebody else's daemon must not get a segment of ours.
        endpoint::check_private(dir)?;
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Sleeps until one of the descriptors has something to read, at most `timeout`.
pub(crate) fn wait(fds: &[BorrowedFd<'_>], timeout: Duration) {
    let mut fds: Vec<_> = fds
        .iter()
        .map(|fd| PollFd::new(fd, PollFlags::IN))
        .collect();
    // A signal or a timeout: the caller looks again anyway.
    let _ = poll(&mut fds, Some(&timespec(timeout)));
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: duration.as_secs() as i64,
        tv_nsec: duration.subsec_nanos().into(),
    }
}

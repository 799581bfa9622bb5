//! One connected program: what it said of itself, its queues, and what it is yet to be told.
//!
//! Nothing here is trusted: texts are bounded and cleaned, the segment and the doorbell checked
//! for what they are. Whatever does not hold ends this session, with a reason.

use std::{
    collections::VecDeque,
    fmt, mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    fs::{Mode, OFlags, fstat, open, readlink},
    net::{Shutdown, shutdown, sockopt::set_socket_linger},
    process::Pid,
};
use xsched_sched::{DeviceId, Hints, Nanos, QueueId};
use xsched_wire::{
    Attributes, ControlBlock, FromScheduler, Hello, Level, State,
    message::MAX_TEXT,
    packet::{self, PacketError},
    segment::{PeerSegment, SLOTS},
};

use crate::reactor::{Reactor, Source};

/// Messages that may wait for a client to read; one that lets more pile up is closed.
const MAX_OUTBOX: usize = 2 * SLOTS;

/// Who is at the other end, as the kernel says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    /// The process that connected.
    pub(crate) pid: Pid,
    /// Its user.
    pub(crate) uid: u32,
}

impl Peer {
    /// The process's number.
    pub(crate) fn pid_number(self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }
}

/// Why a session ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The client left or died.
    Gone,
    /// It did what it may not; a line for people.
    Refused(String),
}

impl From<PacketError> for End {
    fn from(error: PacketError) -> Self {
        if error.is_violation() {
            End::Refused(error.to_string())
        } else {
            End::Gone
        }
    }
}

/// A connection.
pub(crate) struct Session {
    pub(crate) peer: Peer,
    /// Readable when the process has ended, even if a child of it keeps the socket open.
    pub(crate) pidfd: OwnedFd,
    /// Closed after the pidfd, since that never waits.
    pub(crate) socket: OwnedFd,
    /// When it connected.
    pub(crate) since: Nanos,
    /// Messages that the socket had no room for, in order.
    outbox: VecDeque<FromScheduler>,
    strays: Strays,
    /// Set by its hello.
    pub(crate) client: Option<Client>,
}

/// Descriptors of a hello that was refused: whatever the client liked to send. Sockets among them
/// do not linger when they are closed.
#[derive(Default)]
struct Strays(Vec<OwnedFd>);

impl Drop for Strays {
    fn drop(&mut self) {
        for stray in &self.0 {
            // Others have no such option.
            let _ = set_socket_linger(stray, None);
        }
    }
}

/// A registered program.
pub(crate) struct Client {
    pub(crate) name: Arc<str>,
    pub(crate) job: u64,
    /// What it was given, if it asked or somebody asked for it.
    pub(crate) hints: Hints,
    pub(crate) segment: PeerSegment,
    pub(crate) segment_id: SegmentId,
    pub(crate) doorbell: OwnedFd,
    /// By slot; as long as the highest slot that was ever used.
    pub(crate) queues: Vec<Option<Box<Queue>>>,
    /// A queue has, or had, hints of its own: its groups may hold each other back.
    pub(crate) several_groups: bool,
    /// Its changes ring nobody.
    pub(crate) quiet: bool,
    /// What was last seen of its process.
    pub(crate) condition: Condition,
    /// A hint of it was not taken as it stands, and the log says so.
    pub(crate) hint_logged: bool,
    /// What it was last told of hints that could not be heeded.
    pub(crate) noticed: Option<String>,
}

/// A registered queue.
pub(crate) struct Queue {
    pub(crate) id: QueueId,
    pub(crate) device: DeviceId,
    pub(crate) device_name: Arc<str>,
    pub(crate) level: QueueLevel,
    /// State word and completion mark as they were last seen.
    pub(crate) seen: (State, u32),
}

/// The level in force, as checked from [`Attributes`].
pub(crate) struct QueueLevel {
    pub(crate) level: Level,
    pub(crate) max: Level,
    pub(crate) reason: Option<Arc<str>>,
}

impl Session {
    pub(crate) fn new(peer: Peer, socket: OwnedFd, pidfd: OwnedFd, since: Nanos) -> Self {
        Session {
            peer,
            socket,
            pidfd,
            since,
            outbox: VecDeque::new(),
            strays: Strays::default(),
            client: None,
        }
    }

    /// Reads the first message: what it says and the doorbell. `None` if it is not there yet.
    pub(crate) fn read_hello(&mut self) -> Result<Option<(Greeting, OwnedFd)>, End> {
        let received = packet::recv_hello(&self.socket, &mut self.strays.0);
        let (hello, segment, doorbell) = match received {
            Ok(received) => received,
            Err(PacketError::WouldBlock) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match Greeting::check(&hello, segment.as_fd(), doorbell.as_fd()) {
            // The segment's descriptor is closed here: a memfd's never waits.
            Ok(greeting) => Ok(Some((greeting, doorbell))),
            Err(end) => {
                self.strays.0.extend([segment, doorbell]);
                Err(end)
            }
        }
    }

    /// Sends, or keeps the message until the client has read others. Never waits.
    pub(crate) fn send(
        &mut self,
        message: FromScheduler,
        id: u64,
        reactor: &Reactor,
    ) -> Result<(), End> {
        if self.outbox.is_empty() {
            match packet::send(&self.socket, &message) {
                Ok(()) => return Ok(()),
                Err(PacketError::WouldBlock) => {
                    let watched = reactor.watch_writable(&self.socket, Source::Socket(id), true);
                    watched.map_err(|_| End::Gone)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        if self.outbox.len() >= MAX_OUTBOX {
            return Err(End::Refused("it does not read its messages".into()));
        }
        self.outbox.push_back(message);
        Ok(())
    }

    /// Sends what waits, as far as there is room.
    pub(crate) fn flush(&mut self, id: u64, reactor: &Reactor) -> Result<(), End> {
        if self.outbox.is_empty() {
            return Ok(());
        }
        while let Some(message) = self.outbox.front() {
            match packet::send(&self.socket, message) {
                Ok(()) => drop(self.outbox.pop_front()),
                Err(PacketError::WouldBlock) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        self.outbox = VecDeque::new();
        let watched = reactor.watch_writable(&self.socket, Source::Socket(id), false);
        watched.map_err(|_| End::Gone)
    }

    /// Tells the client, as far as it listens, why its session ends.
    pub(crate) fn refuse(&self, reason: &str) {
        let mut end = reason.len().min(MAX_TEXT);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let reason = reason[..end].to_owned();
        let _ = packet::send(&self.socket, &FromScheduler::Refused { reason });
    }

    /// Shows the client that the session has ended. The socket may be closed any time later.
    pub(crate) fn hang_up(&self) {
        let _ = shutdown(&self.socket, Shutdown::Both);
    }
}

impl Client {
    /// The queue in `slot` and its block.
    pub(crate) fn queue(&mut self, slot: u16) -> Option<(&mut Queue, &ControlBlock)> {
        let queue = self.queues.get_mut(usize::from(slot))?.as_deref_mut()?;
        Some((queue, self.segment.layout().block(slot)?))
    }

    /// All queues with their slots and blocks.
    pub(crate) fn queues(&self) -> impl Iterator<Item = (u16, &Queue, &ControlBlock)> {
        self.queues.iter().enumerate().filter_map(|(slot, queue)| {
            let slot = u16::try_from(slot).ok()?;
            Some((slot, queue.as_deref()?, self.segment.layout().block(slot)?))
        })
    }

    /// Nobody schedules it any more.
    pub(crate) fn open_gates(&self) {
        for (_, _, block) in self.queues() {
            open_for_good(block);
        }
    }

    /// Its changes ring from now on. True: they did not before, and are yet to be heard.
    pub(crate) fn end_quiet(&mut self) -> bool {
        let quiet = mem::take(&mut self.quiet);
        if quiet {
            self.segment.layout().set_quiet(false);
        }
        quiet
    }

    /// Whether a queue exists that was ready when last looked at.
    pub(crate) fn has_ready(&self) -> bool {
        self.queues
            .iter()
            .flatten()
            .any(|queue| queue.seen.0.is_ready())
    }
}

/// Which memfd a segment is (device, inode), however often it was passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentId(u64, u64);

/// What a hello said and brought, checked.
pub(crate) struct Greeting {
    pub(crate) name: Arc<str>,
    pub(crate) job: u64,
    pub(crate) hints: Hints,
    pub(crate) segment: PeerSegment,
    pub(crate) segment_id: SegmentId,
}

impl Greeting {
    fn check(
        hello: &Hello,
        segment: BorrowedFd<'_>,
        doorbell: BorrowedFd<'_>,
    ) -> Result<Self, End> {
        let refused = |reason: &dyn fmt::Display| End::Refused(reason.to_string());
        let name = checked_text("name", &hello.name)?;
        check_eventfd(doorbell)?;
        let mapped = PeerSegment::open(segment).map_err(|error| refused(&error))?;
        let file = fstat(segment).map_err(|error| refused(&error))?;
        Ok(Greeting {
            name,
            job: hello.job,
            hints: hello.hints,
            segment: mapped,
            segment_id: SegmentId(file.st_dev, file.st_ino),
        })
    }
}

/// Opens a gate and wakes its waiters even if it was open: a daemon that died may have opened it
/// and not come to waking them, and nobody else will.
pub(crate) fn open_for_good(block: &ControlBlock) {
    let _ = block.open_gate();
    block.wake_gate();
}

/// A slot that exists, whether or not it has a queue.
pub(crate) fn check_slot(slot: u16) -> Result<(), End> {
    if usize::from(slot) < SLOTS {
        return Ok(());
    }
    Err(End::Refused(format!(
        "slot {slot} does not exist: a process has {SLOTS} slots"
    )))
}

/// A text that is short enough, with control characters replaced.
pub(crate) fn checked_text(what: impl fmt::Display, text: &str) -> Result<Arc<str>, End> {
    if text.len() > MAX_TEXT {
        return Err(End::Refused(format!(
            "{what} has {} bytes: use {MAX_TEXT} at most",
            text.len()
        )));
    }
    if text.contains(char::is_control) {
        return Ok(text.replace(char::is_control, "?").into());
    }
    Ok(text.into())
}

/// A level with its reason checked.
pub(crate) fn checked_level(attributes: &Attributes) -> Result<QueueLevel, End> {
    let reason = attributes.reason.as_deref();
    Ok(QueueLevel {
        level: attributes.level,
        max: attributes.max_level,
        reason: reason
            .map(|text| checked_text("reason", text))
            .transpose()?,
    })
}

/// Anything but an eventfd could be readable for ever, or have its driver's code run by a watch.
fn check_eventfd(fd: BorrowedFd<'_>) -> Result<(), End> {
    let link = readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new());
    match link {
        // No path can look like this: paths start with a slash.
        Ok(link) if link.as_bytes() == b"anon_inode:[eventfd]" => Ok(()),
        Ok(_) => Err(End::Refused("doorbell is not an eventfd".into())),
        Err(error) => Err(End::Refused(format!("cannot check the doorbell: {error}"))),
    }
}

/// How a process is, as the kernel says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Condition {
    /// Stopped by a signal or a debugger.
    pub(crate) stopped: bool,
    /// Its nice value, -20 to 19.
    pub(crate) nice: i8,
    /// Its parent's number; 0 if it has none that is seen here.
    pub(crate) parent: i32,
}

impl Condition {
    /// Of this process. One that is gone counts as running, with nice value 0.
    pub(crate) fn of(pid: Pid) -> Condition {
        let read = || {
            let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
            let file = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            let mut start = [0; 512];
            let len = rustix::io::read(&file, &mut start)?;
            rustix::io::Result::Ok(Condition::parse(&start[..len]).unwrap_or_default())
        };
        read().unwrap_or_default()
    }

    /// "PID (NAME) STATE PPID …", the nice value in place 19; the name has at most 15 bytes, any of them a parenthesis.
    fn parse(stat: &[u8]) -> Option<Condition> {
        let name_end = stat.iter().rposition(|&byte| byte == b')')?;
        let rest = std::str::from_utf8(&stat[name_end + 1..]).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        Some(Condition {
            stopped: matches!(fields.next()?, "T" | "t"),
            parent: fields.next()?.parse().ok()?,
            nice: fields.nth(14)?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::{
        event::{EventfdFlags, eventfd},
        fs::{MemfdFlags, memfd_create},
        net::sockopt::socket_linger,
    };

    use super::*;

    #[test]
    fn texts_are_bounded_and_cleaned() {
        let check = |text: &str, expect: &str| {
            assert_eq!(&*checked_text("name", text).unwrap(), expect);
        };
        check("resnet18", "resnet18");
        check("", "");
        check("a\x1b[31m\nb", "a?[31m?b");
        check("größe", "größe");
        assert!(checked_text("name", &"x".repeat(MAX_TEXT)).is_ok());
        let End::Refused(reason) = checked_text("name", &"x".repeat(MAX_TEXT + 1)).unwrap_err()
        else {
            panic!("not refused");
        };
        assert!(reason.contains("name has 257 bytes"), "{reason}");
    }

    #[test]
    fn only_an_eventfd_is_a_doorbell() {
        let real = eventfd(0, EventfdFlags::empty()).unwrap();
        check_eventfd(real.as_fd()).unwrap();
        let (pipe, _writer) = rustix::pipe::pipe().unwrap();
        let memfd = memfd_create("[eventfd]", MemfdFlags::empty()).unwrap();
        let file = tempfile::tempfile().unwrap();
        for fd in [pipe.as_fd(), memfd.as_fd(), file.as_fd()] {
            let refused = check_eventfd(fd).unwrap_err();
            assert_eq!(refused, End::Refused("doorbell is not an eventfd".into()));
        }
    }

    #[test]
    fn strays_do_not_linger() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        set_socket_linger(&socket, Some(Duration::from_secs(1000))).unwrap();
        let (pipe, _writer) = rustix::pipe::pipe().unwrap();
        let copy = socket.try_clone().unwrap();
        drop(Strays(vec![pipe, copy.into()]));
        assert_eq!(socket_linger(&socket).unwrap(), None);
    }

    #[test]
    fn a_stopped_process_is_seen() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&child);
        let wait = |stopped: bool| {
            let start = std::time::Instant::now();
            while Condition::of(pid).stopped != stopped {
                assert!(start.elapsed().as_secs() < 10, "{stopped}");
                std::thread::yield_now();
            }
        };
        wait(false);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        wait(true);
        rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
        wait(false);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!Condition::of(pid).stopped);
    }

    #[test]
    fn the_nice_value_and_the_parent_are_read() {
        let check = |text: &str, expect| assert_eq!(Condition::parse(text.as_bytes()), expect);
        let found = Condition {
            stopped: true,
            nice: -5,
            parent: 42,
        };
        check(
            "7 (a) b) T 42 1 1 0 -1 4 9 0 0 0 1 2 0 0 15 -5 1 0 99",
            Some(found),
        );
        check("7 (a) T 42", None);
        check("", None);
        let own = Condition::of(rustix::process::getpid());
        let nice = rustix::process::getpriority_process(None).unwrap();
        let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
        assert_eq!((i32::from(own.nice), own.parent), (nice, parent));
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let kind = SocketType::SEQPACKET;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, kind, SocketFlags::empty(), None).unwrap();
        let pid = rustix::process::getpid();
        let pidfd = eventfd(0, EventfdFlags::empty()).unwrap();
        let session = Session::new(Peer { pid, uid: 0 }, ours, pidfd, 0);
        session.refuse(&"ü".repeat(MAX_TEXT));
        let FromScheduler::Refused { reason } = packet::recv(&theirs).unwrap() else {
            panic!("not refused");
        };
        assert_eq!(reason, "ü".repeat(MAX_TEXT / 2));
    }
}

//! A daemon on a thread of the test, and raw clients that speak the wire protocol themselves.
#![allow(dead_code, reason = "each test file uses a part")]

use std::{
    io::Write,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, eventfd},
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
};
use xsched_server::{Client, Daemon, ServeOptions, api};
use xsched_wire::{
    Admitted, Attributes, ControlBlock, FromScheduler, Hello, Hints, Level, Priority, QueueInfo,
    Share, ToScheduler,
    packet::{self, PacketError},
    segment::OwnSegment,
};

/// Long enough for a loaded machine; only a failing test waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

#[track_caller]
pub(crate) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub(crate) fn options(socket: &Path) -> ServeOptions {
    ServeOptions {
        socket: socket.into(),
        policy: "hpf".into(),
        // No pieces for others: what is closed stays closed.
        min_share: 0.0,
        exit_when_unused: None,
        trace: None,
    }
}

pub(crate) struct TestDaemon {
    pub(crate) socket: PathBuf,
    pub(crate) dir: tempfile::TempDir,
    stop: UnixStream,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl TestDaemon {
    pub(crate) fn start() -> TestDaemon {
        Self::start_in(tempfile::tempdir().unwrap(), |_| {})
    }

    pub(crate) fn start_in(
        dir: tempfile::TempDir,
        adjust: impl FnOnce(&mut ServeOptions),
    ) -> TestDaemon {
        Self::start_after(dir, adjust, |_| {})
    }

    /// `early` may connect and send, but the daemon sees it only afterwards.
    pub(crate) fn start_after(
        dir: tempfile::TempDir,
        adjust: impl FnOnce(&mut ServeOptions),
        early: impl FnOnce(&Path),
    ) -> TestDaemon {
        let socket = dir.path().join("x.sock");
        let mut options = options(&socket);
        adjust(&mut options);
        let daemon = Daemon::bind(options).unwrap();
        early(&socket);
        let (stop, stopped) = UnixStream::pair().unwrap();
        TestDaemon {
            socket,
            dir,
            stop,
            thread: Some(std::thread::spawn(move || daemon.run(stopped))),
        }
    }

    pub(crate) fn api(&self) -> Client {
        Client::connect(&self.socket).unwrap()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends the daemon, leaves its directory.
    pub(crate) fn stop(mut self) -> tempfile::TempDir {
        self.end();
        std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap())
    }

    fn end(&mut self) {
        let _ = self.stop.write_all(b"x");
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }
}

impl Drop for TestDaemon {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.end();
        }
    }
}

/// What the daemon lists.
pub(crate) fn queues(daemon: &TestDaemon) -> Vec<api::Queue> {
    daemon
        .api()
        .get::<api::Queues>(api::path::QUEUES)
        .unwrap()
        .queues
}

/// A connected socket that has said nothing.
pub(crate) fn connect_to(socket: &Path) -> OwnedFd {
    let flags = SocketFlags::CLOEXEC;
    let fd = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    set_socket_timeout(&fd, Timeout::Recv, Some(PATIENCE)).unwrap();
    connect(&fd, &SocketAddrUnix::new(socket).unwrap()).unwrap();
    fd
}

pub(crate) fn hello(name: &str, priority: Option<i32>) -> Hello {
    Hello {
        name: name.into(),
        job: 7,
        hints: hints(priority),
    }
}

/// A priority, or nothing.
pub(crate) fn hints(priority: Option<i32>) -> Hints {
    Hints {
        priority: priority.map(|value| Priority::new(value).unwrap()),
        ..Hints::default()
    }
}

pub(crate) fn queue_info(slot: u16, device: &str) -> QueueInfo {
    QueueInfo {
        slot,
        device: device.into(),
        hints: Hints::default(),
        attributes: Attributes {
            one_background: false,
            level: Level::Lv1,
            max_level: Level::Lv3,
            reason: Some("a test".into()),
        },
    }
}

/// Why the daemon refused whoever has this socket; it must have closed it, too.
#[track_caller]
pub(crate) fn refusal(socket: &OwnedFd) -> String {
    let reason = loop {
        match packet::recv(socket) {
            Ok(FromScheduler::Refused { reason }) => break reason,
            Ok(_) => {}
            Err(error) => panic!("no reason: {error}"),
        }
    };
    match packet::recv::<FromScheduler>(socket) {
        Err(PacketError::Closed) => reason,
        other => panic!("still open: {other:?}"),
    }
}

/// A program as an agent would register it. Its queues may do what they like.
pub(crate) struct RawClient {
    pub(crate) socket: OwnedFd,
    pub(crate) segment: OwnSegment,
    pub(crate) bell: OwnedFd,
    pub(crate) admitted: Admitted,
}

impl RawClient {
    pub(crate) fn join(daemon: &TestDaemon, name: &str, priority: Option<i32>) -> RawClient {
        Self::join_at(&daemon.socket, name, priority)
    }

    pub(crate) fn join_at(socket: &Path, name: &str, priority: Option<i32>) -> RawClient {
        let segment = OwnSegment::create().unwrap();
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        Self::join_with(socket, hello(name, priority), segment, bell)
    }

    pub(crate) fn join_with(
        socket: &Path,
        hello: Hello,
        segment: OwnSegment,
        bell: OwnedFd,
    ) -> RawClient {
        let socket = connect_to(socket);
        packet::send_hello(&socket, &hello, segment.as_fd(), bell.as_fd()).unwrap();
        let FromScheduler::Welcome(admitted) = packet::recv(&socket).unwrap() else {
            panic!("not welcome");
        };
        RawClient {
            socket,
            segment,
            bell,
            admitted,
        }
    }

    pub(crate) fn send(&self, message: &ToScheduler) {
        packet::send(&self.socket, message).unwrap();
    }

    pub(crate) fn block(&self, slot: u16) -> &'static ControlBlock {
        self.segment.layout().block(slot).unwrap()
    }

    /// Registers a queue and gives its gate to the daemon.
    pub(crate) fn create(&self, slot: u16, device: &str) {
        self.create_as(queue_info(slot, device));
    }

    pub(crate) fn create_as(&self, info: QueueInfo) {
        let slot = info.slot;
        self.send(&ToScheduler::CreateQueue(info));
        loop {
            match packet::recv(&self.socket).unwrap() {
                FromScheduler::QueueReady { slot: ready } if ready == slot => break,
                FromScheduler::Share { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        let _ = self.block(slot).set_bypass(false);
    }

    /// The next share that the daemon sets for a queue of this client.
    #[track_caller]
    pub(crate) fn next_share(&self) -> (u16, Share) {
        match packet::recv(&self.socket).unwrap() {
            FromScheduler::Share { slot, share } => (slot, share),
            other => panic!("{other:?}"),
        }
    }

    fn ring(&self, slot: u16) {
        let _ = self.segment.layout().set_dirty(slot);
        rustix::io::write(&self.bell, &1u64.to_ne_bytes()).unwrap();
    }

    /// Submits a command.
    pub(crate) fn submit(&self, slot: u16) {
        if self.block(slot).publish().became_ready {
            self.ring(slot);
        }
    }

    /// Everything submitted has completed.
    pub(crate) fn finish(&self, slot: u16) {
        let block = self.block(slot);
        while block.waiting() > 0 {
            block.forwarded();
        }
        let point = block.drain_point().expect("ready");
        block.complete(point.number() as u32);
        assert!(block.drained(point));
        self.ring(slot);
    }

    pub(crate) fn is_open(&self, slot: u16) -> bool {
        self.block(slot).is_open()
    }

    #[track_caller]
    pub(crate) fn wait_open(&self, slot: u16, open: bool) {
        let what = if open { "open gate" } else { "closed gate" };
        wait_until(what, || self.is_open(slot) == open);
    }
}

/// A high and a low program with a queue each on one device; the low one is ready.
pub(crate) fn high_and_low(daemon: &TestDaemon) -> (RawClient, RawClient) {
    let high = RawClient::join(daemon, "high", Some(100));
    let low = RawClient::join(daemon, "low", Some(-100));
    high.create(0, "cpu:0");
    low.create(0, "cpu:0");
    low.submit(0);
    low.wait_open(0, true);
    (high, low)
}

/// Shows that the daemon still schedules these two.
#[track_caller]
pub(crate) fn check_scheduled(high: &RawClient, low: &RawClient) {
    high.submit(0);
    low.wait_open(0, false);
    assert!(high.is_open(0));
    high.finish(0);
    low.wait_open(0, true);
}

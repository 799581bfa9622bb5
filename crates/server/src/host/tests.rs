//! The host with a real socket, but on the test's thread and without permission to raise.

use std::{
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
};

use rustix::{
    event::{EventfdFlags, eventfd},
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
    process::getpid,
};
use tracing::{
    Level, Metadata, Subscriber,
    span::{Attributes, Id, Record},
};
use xsched_sched::{Config, Priority, policy};
use xsched_wire::{Hello, segment::OwnSegment};

use super::*;

/// Counts what a daemon's log would show as warnings.
#[derive(Clone, Default)]
struct Warnings(Arc<AtomicUsize>);

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN
    }

    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

const OWNER: u32 = 1000;
const GUEST: u32 = 2000;

fn host() -> Host {
    let engine = xsched_sched::Engine::new(Config::new(policy::by_name("hpf").unwrap()));
    Host::new(
        Reactor::new().unwrap(),
        Reaper::start().unwrap(),
        crate::trace::Observed::new(engine, None),
        OWNER,
    )
}

/// Connects a program of this user's, which is this process for the host.
fn connect(host: &mut Host, uid: u32) -> OwnedFd {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .unwrap();
    let peer = Peer { pid: getpid(), uid };
    let never = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    host.connected(ours, peer, never, 0);
    theirs
}

#[test]
fn what_a_user_left_and_cannot_be_closed_takes_up_room() {
    struct Stuck(mpsc::Receiver<()>);
    impl Drop for Stuck {
        fn drop(&mut self) {
            let _ = self.0.recv();
        }
    }
    let mut host = host();
    let mut releases = Vec::new();
    for _ in 0..MAX_SESSIONS_OF_ONE_USER {
        let (release, stuck) = mpsc::channel();
        host.reaper.take(GUEST, Stuck(stuck));
        releases.push(release);
    }
    let refused = connect(&mut host, GUEST);
    assert!(matches!(
        packet::recv(&refused).unwrap(),
        FromScheduler::Refused { reason } if reason.contains("of this user")
    ));
    assert!(host.sessions.is_empty());
    connect(&mut host, OWNER);
    connect(&mut host, GUEST + 1);
    assert_eq!(host.sessions.len(), 2);
}

#[test]
fn a_client_cannot_fill_the_log_with_hints() {
    let mut host = host();
    let theirs = connect(&mut host, GUEST);
    let hello = Hello {
        name: "guest".into(),
        job: 0,
        hints: Hints::default(),
    };
    let segment = OwnSegment::create().unwrap();
    let bell = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    packet::send_hello(&theirs, &hello, segment.as_fd(), bell.as_fd()).unwrap();
    host.socket_ready(1, 0);

    let warnings = Warnings::default();
    tracing::subscriber::with_default(warnings.clone(), || {
        for asked in [5, 200, 5, 6] {
            let hints = Hints {
                priority: Some(Priority::new(asked).unwrap()),
                ..Hints::default()
            };
            packet::send(&theirs, &ToScheduler::Hint { slot: None, hints }).unwrap();
            host.socket_ready(1, 0);
        }
    });
    assert_eq!(warnings.0.load(Ordering::SeqCst), 1);
    let client = host.sessions[&1].client.as_ref().unwrap();
    assert_eq!(client.hints.priority, Some(Priority::NORMAL));
}

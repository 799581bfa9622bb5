//! The host with a real socket, but on the test's thread and without permission to raise.

use std::{
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
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

#[test]
fn a_client_cannot_fill_the_log_with_hints() {
    const OWNER: u32 = 1000;
    const GUEST: u32 = 2000;
    let engine = xsched_sched::Engine::new(Config::new(policy::by_name("hpf").unwrap()));
    let engine = crate::trace::Observed::new(engine, None);
    let mut host = Host::new(
        Reactor::new().unwrap(),
        Reaper::start().unwrap(),
        engine,
        OWNER,
    );
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .unwrap();
    let peer = Peer {
        pid: getpid(),
        uid: GUEST,
    };
    let never = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    host.connected(ours, peer, never, 0);
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

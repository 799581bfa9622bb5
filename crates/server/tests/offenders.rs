//! Those that break the rules harm themselves alone.

mod common;

use std::os::fd::{AsFd, OwnedFd};

use common::*;
use rustix::{
    event::{EventfdFlags, eventfd},
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create},
    net::{SendFlags, send},
};
use xsched_sched::HintKind;
use xsched_server::api::{self, path};
use xsched_wire::{
    Attributes, FromScheduler, Level, ToScheduler, VERSION,
    message::{HELLO_MAGIC, MAX_PACKET, MAX_TEXT},
    packet,
    segment::{OwnSegment, SEGMENT_BYTES, SLOTS},
};

fn bell() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC).unwrap()
}

/// Lets `offend` loose on a daemon that schedules others; it returns its socket.
#[track_caller]
fn check_refused(expect: &str, offend: impl FnOnce(&TestDaemon) -> OwnedFd) {
    let daemon = TestDaemon::start();
    let (high, low) = high_and_low(&daemon);
    let socket = offend(&daemon);
    let reason = refusal(&socket);
    assert!(reason.contains(expect), "{reason}");
    assert!(
        reason.len() <= MAX_TEXT && !reason.contains('\n'),
        "{reason}"
    );
    check_scheduled(&high, &low);
    let status: api::Status = daemon.api().get(path::STATUS).unwrap();
    assert_eq!((status.clients, status.queues), (2, 2));
}

#[track_caller]
fn check_bytes_refused(expect: &str, bytes: &[u8]) {
    check_refused(expect, |daemon| {
        let socket = connect_to(&daemon.socket);
        send(&socket, bytes, SendFlags::NOSIGNAL).unwrap();
        socket
    });
}

#[track_caller]
fn check_hello_refused(expect: &str, hello: xsched_wire::Hello, segment: OwnedFd, bell: OwnedFd) {
    check_refused(expect, |daemon| {
        let socket = connect_to(&daemon.socket);
        packet::send_hello(&socket, &hello, segment.as_fd(), bell.as_fd()).unwrap();
        socket
    });
}

/// A memfd of `size` bytes with `seals`, its header as a real segment has it.
fn memfd(size: usize, seals: SealFlags) -> OwnedFd {
    let own = OwnSegment::create().unwrap();
    let mut header = [0; 12];
    rustix::io::pread(&own, &mut header, 0).unwrap();
    let fd = memfd_create("x", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::io::write(&fd, &header).unwrap();
    ftruncate(&fd, size as u64).unwrap();
    fcntl_add_seals(&fd, seals).unwrap();
    fd
}

const SEALS: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::SEAL);

#[test]
fn garbage_is_refused() {
    check_bytes_refused("no xsched hello", b"GET / HTTP/1.1\r\n\r\n");
    check_bytes_refused("no xsched hello", &[0xff; 64]);
}

#[test]
fn another_version_is_refused_by_its_number() {
    let mut bytes = Vec::from(HELLO_MAGIC);
    bytes.extend(999u16.to_le_bytes());
    check_bytes_refused("protocol version 999", &bytes);
}

#[test]
fn too_long_a_packet_is_refused() {
    check_bytes_refused("longer than 4096", &[0; MAX_PACKET + 1]);
}

#[test]
fn a_hello_without_descriptors_is_refused() {
    let mut bytes = Vec::from(HELLO_MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    // No name, no job, none of the hints.
    bytes.extend([0; 2 + HintKind::ALL.len()]);
    check_bytes_refused("0 descriptors", &bytes);
}

#[test]
fn a_segment_that_could_harm_is_refused() {
    let check = |expect: &str, segment: OwnedFd| {
        check_hello_refused(expect, hello("x", None), segment, bell());
    };
    check(
        "not a sealed memfd",
        memfd(SEGMENT_BYTES, SealFlags::empty()),
    );
    check("not a sealed memfd", tempfile::tempfile().unwrap().into());
    check("bytes", memfd(SEGMENT_BYTES - 4096, SEALS));
    check("bytes", memfd(SEGMENT_BYTES + 4096, SEALS));
    let empty = memfd_create("x", MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&empty, SEGMENT_BYTES as u64).unwrap();
    fcntl_add_seals(&empty, SEALS).unwrap();
    check("header", empty);
}

#[test]
fn a_doorbell_that_is_none_is_refused() {
    let (pipe, _writer) = rustix::pipe::pipe().unwrap();
    for bogus in [pipe, tempfile::tempfile().unwrap().into()] {
        let segment = memfd(SEGMENT_BYTES, SEALS);
        check_hello_refused("not an eventfd", hello("x", None), segment, bogus);
    }
}

#[test]
fn a_hello_that_asks_for_nonsense_is_refused() {
    let check = |expect: &str, hello: xsched_wire::Hello| {
        check_hello_refused(expect, hello, memfd(SEGMENT_BYTES, SEALS), bell());
    };
    check("257 bytes", hello(&"x".repeat(MAX_TEXT + 1), None));
}

#[test]
fn silence_is_refused_after_a_while() {
    check_refused("no hello within 2 s", |daemon| connect_to(&daemon.socket));
}

#[test]
fn silence_is_refused_though_nobody_else_is_there() {
    let daemon = TestDaemon::start();
    assert!(refusal(&connect_to(&daemon.socket)).contains("no hello within 2 s"));
}

#[test]
fn messages_that_make_no_sense_end_their_session() {
    let check = |expect: &str, message: ToScheduler| {
        check_refused(expect, |daemon| {
            let client = RawClient::join(daemon, "offender", None);
            client.create(1, "cpu:0");
            client.send(&message);
            client.socket
        });
    };
    let create = ToScheduler::CreateQueue;
    check("slot 1 has a queue", create(queue_info(1, "cpu:0")));
    check("1024 slots", create(queue_info(SLOTS as u16, "cpu:0")));
    let long = "x".repeat(MAX_TEXT + 1);
    check("device has 257 bytes", create(queue_info(2, &long)));
    let slot = 9;
    check("slot 9 has no queue", ToScheduler::DestroyQueue { slot });
    let (slot, held) = (SLOTS as u16, true);
    check("1024 slots", ToScheduler::Hold { slot, held });
    let (slot, hints) = (Some(SLOTS as u16), hints(None));
    check("1024 slots", ToScheduler::Hint { slot, hints });
    let attributes = Attributes {
        one_background: false,
        level: Level::Lv1,
        max_level: Level::Lv1,
        reason: Some(long),
    };
    let slot = 1;
    check(
        "reason has 257 bytes",
        ToScheduler::Level { slot, attributes },
    );
    let slot = SLOTS as u16;
    let attributes = queue_info(slot, "cpu:0").attributes;
    check("1024 slots", ToScheduler::Level { slot, attributes });
}

#[test]
fn messages_that_cross_the_end_of_their_queue_are_ignored() {
    let daemon = TestDaemon::start();
    let client = RawClient::join(&daemon, "one", None);
    client.create(0, "cpu:0");
    client.send(&ToScheduler::DestroyQueue { slot: 0 });
    for slot in [0, SLOTS as u16 - 1] {
        client.send(&ToScheduler::Hold { slot, held: true });
        let hints = hints(Some(7));
        let whom = Some(slot);
        client.send(&ToScheduler::Hint { slot: whom, hints });
        let attributes = queue_info(slot, "cpu:0").attributes;
        client.send(&ToScheduler::Level { slot, attributes });
    }
    client.create(1, "cpu:0");
    assert_eq!(queues(&daemon)[0].priority, 0);
}

#[test]
fn garbage_after_the_hello_ends_the_session_and_opens_its_gates() {
    let daemon = TestDaemon::start();
    let (high, low) = high_and_low(&daemon);
    high.submit(0);
    low.wait_open(0, false);
    send(&low.socket, &[0xff; 9], SendFlags::NOSIGNAL).unwrap();
    assert!(refusal(&low.socket).contains("malformed"));
    // It is the daemon's no more, so nothing may hold it back.
    low.wait_open(0, true);
    assert_eq!(queues(&daemon).len(), 1);
}

#[test]
fn words_that_lie_harm_nobody() {
    let daemon = TestDaemon::start();
    let (high, low) = high_and_low(&daemon);
    let liar = RawClient::join(&daemon, "liar", Some(-200));
    liar.create(0, "cpu:0");
    // Dirty bits for queues that do not exist, and rings for nothing, by a semaphore that could
    // be read for ever.
    for slot in 0..SLOTS as u16 {
        let _ = liar.segment.layout().set_dirty(slot);
    }
    rustix::io::write(&liar.bell, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    check_scheduled(&high, &low);
    liar.block(0).complete(u32::MAX);
    liar.block(0).reset();
    check_scheduled(&high, &low);
}

#[test]
fn who_does_not_read_is_not_waited_for() {
    let daemon = TestDaemon::start();
    let (high, low) = high_and_low(&daemon);
    let deaf = RawClient::join(&daemon, "deaf", Some(-50));
    // More answers than a socket holds: they wait until they are read, and none is lost.
    for slot in 0..SLOTS as u16 {
        deaf.send(&ToScheduler::CreateQueue(queue_info(slot, "cpu:9")));
        if slot % 128 == 0 {
            check_scheduled(&high, &low);
        }
    }
    for slot in 0..SLOTS as u16 {
        let ready: FromScheduler = packet::recv(&deaf.socket).unwrap();
        assert_eq!(ready, FromScheduler::QueueReady { slot });
    }
    check_scheduled(&high, &low);
}

#[test]
fn who_never_reads_is_closed() {
    let daemon = TestDaemon::start();
    let (high, low) = high_and_low(&daemon);
    let deaf = RawClient::join(&daemon, "deaf", Some(-50));
    let is_open = || {
        let info = queue_info(0, "cpu:9");
        packet::send(&deaf.socket, &ToScheduler::CreateQueue(info)).is_ok()
            && packet::send(&deaf.socket, &ToScheduler::DestroyQueue { slot: 0 }).is_ok()
    };
    let answers = (0..100_000).take_while(|_| is_open()).count();
    assert!(answers < 100_000, "the daemon keeps them all");
    wait_until("closed", || queues(&daemon).len() == 2);
    check_scheduled(&high, &low);
}

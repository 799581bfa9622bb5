//! Programs register, are scheduled, and go; those that break the rules harm themselves alone.

mod common;

use std::{
    io::{BufRead, BufReader},
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use common::*;
use rustix::{
    event::{EventfdFlags, eventfd},
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create},
    net::{SendFlags, send},
    process::{Pid, Signal, kill_process},
};
use xsched_server::api::{self, path};
use xsched_wire::{
    Attributes, FromScheduler, Hints, Level, Share, ToScheduler, VERSION,
    message::{HELLO_MAGIC, MAX_PACKET, MAX_TEXT},
    packet,
    segment::{OwnSegment, SEGMENT_BYTES, SLOTS},
};

fn bell() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC).unwrap()
}

fn queues(daemon: &TestDaemon) -> Vec<api::Queue> {
    daemon
        .api()
        .get::<api::Queues>(path::QUEUES)
        .unwrap()
        .queues
}

#[test]
fn a_program_registers() {
    let daemon = TestDaemon::start();
    let client = RawClient::join(&daemon, "one", Some(5));
    assert_eq!(client.admitted.policy, "hpf");
    assert_eq!(client.admitted.heartbeat_ms, 200);
    assert_eq!(client.admitted.notice, None);
    client.create(3, "cpu:0");
    assert!(client.is_open(3), "alone and idle");
    let queue = &queues(&daemon)[0];
    assert_eq!((&*queue.name, queue.priority, queue.open), ("one", 5, true));
    let layout = client.segment.layout();
    let before = layout.heartbeat();
    wait_until("heartbeats", || layout.heartbeat() > before + 2);
}

#[test]
fn the_urgent_one_holds_the_other_back() {
    let daemon = TestDaemon::start();
    let (high, low) = high_and_low(&daemon);
    for _ in 0..20 {
        check_scheduled(&high, &low);
    }
    let preemptions = queues(&daemon).iter().map(|q| q.preemptions).sum::<u64>();
    assert_eq!(preemptions, 20);
}

#[test]
fn what_waits_at_the_gate_is_woken() {
    let daemon = TestDaemon::start();
    let (high, low) = high_and_low(&daemon);
    high.submit(0);
    low.wait_open(0, false);
    let block = low.block(0);
    let sleeper = std::thread::spawn(move || block.wait_open());
    high.finish(0);
    sleeper.join().unwrap();
}

#[test]
fn devices_are_independent() {
    let daemon = TestDaemon::start();
    let (high, low) = high_and_low(&daemon);
    low.create(1, "cpu:1");
    low.submit(1);
    high.submit(0);
    low.wait_open(0, false);
    assert!(low.is_open(1));
}

#[test]
fn hardware_shares_follow_the_classes() {
    let daemon = TestDaemon::start();
    let low = RawClient::join(&daemon, "low", Some(-100));
    low.create(4, "cpu:0");
    let high = RawClient::join(&daemon, "high", Some(100));
    high.create(0, "cpu:0");
    assert_eq!(low.next_share(), (4, Share::Background));
    drop(high);
    assert_eq!(low.next_share(), (4, Share::Normal));
}

#[test]
fn a_queue_of_its_own_priority_is_scheduled_alone() {
    let daemon = TestDaemon::start();
    let client = RawClient::join(&daemon, "both", None);
    client.create(0, "cpu:0");
    let mut info = queue_info(1, "cpu:0");
    info.hints.priority = Some(50);
    client.create_as(info);
    client.submit(0);
    client.submit(1);
    client.wait_open(0, false);
    assert!(client.is_open(1));
    let listed = queues(&daemon);
    assert_ne!(listed[0].group, listed[1].group);

    let lower = Hints {
        priority: Some(-50),
    };
    let slot = Some(1);
    client.send(&ToScheduler::Hint { slot, hints: lower });
    client.wait_open(1, false);
    assert!(client.is_open(0));
}

#[test]
fn hints_holds_and_levels_take_effect() {
    let daemon = TestDaemon::start();
    let (high, low) = high_and_low(&daemon);
    high.submit(0);
    low.wait_open(0, false);
    // The application suspends its urgent queue itself: the other one may go on.
    let held = |held| ToScheduler::Hold { slot: 0, held };
    high.send(&held(true));
    low.wait_open(0, true);
    assert!(!high.is_open(0));
    high.send(&held(false));
    low.wait_open(0, false);

    low.send(&ToScheduler::Hint {
        slot: None,
        hints: Hints {
            priority: Some(200),
        },
    });
    low.wait_open(0, true);
    high.wait_open(0, false);

    low.send(&ToScheduler::Level {
        slot: 0,
        attributes: Attributes {
            level: Level::Lv2,
            max_level: Level::Lv2,
            reason: None,
        },
    });
    wait_until("level", || queues(&daemon)[1].level == 2);
    let listed = queues(&daemon);
    assert_eq!((listed[1].max_level, &listed[1].reason), (2, &None));
    assert_eq!(listed[1].priority, 200);
}

#[test]
fn a_bad_hint_is_ignored() {
    let daemon = TestDaemon::start();
    let (high, low) = high_and_low(&daemon);
    low.send(&ToScheduler::Hint {
        slot: None,
        hints: Hints {
            priority: Some(300),
        },
    });
    check_scheduled(&high, &low);
    assert_eq!(queues(&daemon)[1].priority, -100);
}

#[test]
fn who_leaves_holds_nobody_back() {
    let daemon = TestDaemon::start();
    let (high, low) = high_and_low(&daemon);
    high.submit(0);
    low.wait_open(0, false);
    drop(high);
    low.wait_open(0, true);
    assert_eq!(queues(&daemon).len(), 1);
}

#[test]
fn a_queue_that_leaves_holds_nobody_back() {
    let daemon = TestDaemon::start();
    let (high, low) = high_and_low(&daemon);
    high.submit(0);
    low.wait_open(0, false);
    // Those at the gate of a queue that is gone wait for nothing.
    low.send(&ToScheduler::DestroyQueue { slot: 0 });
    low.wait_open(0, true);
    high.send(&ToScheduler::DestroyQueue { slot: 0 });
    wait_until("no queues", || queues(&daemon).is_empty());
    high.block(0).reset();
    high.create(0, "cpu:0");
    assert!(high.is_open(0), "a slot can be used again");
}

#[test]
fn a_queue_that_was_ready_before_the_daemon_is_seen() {
    let first = TestDaemon::start();
    let (high, low) = high_and_low(&first);
    high.submit(0);
    low.wait_open(0, false);
    let dir = first.stop();
    assert!(low.is_open(0), "a daemon that ends opens what it closed");

    let second = TestDaemon::start_in(dir, |_| {});
    let again = |client: RawClient, name: &str, priority| {
        let _ = client.block(0).set_bypass(true);
        let RawClient { segment, bell, .. } = client;
        let hello = hello(name, Some(priority));
        RawClient::join_with(&second.socket, hello, segment, bell)
    };
    let low = again(low, "low", -100);
    low.create(0, "cpu:0");
    assert!(low.is_open(0));
    // Nobody rings: the state word alone says that this one is ready.
    let high = again(high, "high", 100);
    high.create(0, "cpu:0");
    low.wait_open(0, false);
    high.finish(0);
    low.wait_open(0, true);
}

#[test]
fn a_hung_program_holds_nobody_back_until_it_moves() {
    let daemon = TestDaemon::start();
    let (high, low) = high_and_low(&daemon);
    high.submit(0);
    low.wait_open(0, false);
    low.wait_open(0, true);
    assert!(queues(&daemon)[0].stalled);
    // Without a ring: the daemon looks at the counters itself.
    high.block(0).complete(77);
    low.wait_open(0, false);
    assert!(!queues(&daemon)[0].stalled);
}

#[test]
fn a_stopped_program_holds_nobody_back() {
    let daemon = TestDaemon::start();
    let low = RawClient::join(&daemon, "low", Some(-100));
    low.create(0, "cpu:0");
    low.submit(0);
    let keeper = Keeper::start(&daemon);
    low.wait_open(0, false);
    kill_process(keeper.pid, Signal::STOP).unwrap();
    low.wait_open(0, true);
    assert!(queues(&daemon).iter().any(|queue| queue.stopped));
    kill_process(keeper.pid, Signal::CONT).unwrap();
    low.wait_open(0, false);
}

#[test]
fn a_killed_program_is_gone_though_its_child_keeps_the_socket() {
    let daemon = TestDaemon::start();
    let low = RawClient::join(&daemon, "low", Some(-100));
    low.create(0, "cpu:0");
    low.submit(0);
    let mut keeper = Keeper::start(&daemon);
    low.wait_open(0, false);
    kill_process(keeper.pid, Signal::KILL).unwrap();
    keeper.process.wait().unwrap();
    low.wait_open(0, true);
    rustix::process::test_kill_process(keeper.heir).expect("the child lives");
    assert_eq!(queues(&daemon).len(), 1);
}

/// A process with a busy urgent queue, and a child of it that has its socket.
struct Keeper {
    process: Child,
    pid: Pid,
    heir: Pid,
}

impl Keeper {
    fn start(daemon: &TestDaemon) -> Keeper {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "keeper", "--ignored", "--nocapture"])
            .env("KEEPER_SOCKET", &daemon.socket)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let heir = lines
            .map_while(Result::ok)
            .find_map(|line| Some(line.split_once("HEIR ")?.1.parse().unwrap()))
            .expect("the keeper is ready");
        Keeper {
            pid: Pid::from_child(&process),
            process,
            heir: Pid::from_raw(heir).unwrap(),
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = kill_process(self.heir, Signal::KILL);
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
#[ignore = "the role of a process that other tests start"]
fn keeper() {
    let socket = PathBuf::from(std::env::var_os("KEEPER_SOCKET").expect("started by a test"));
    let client = RawClient::join_at(&socket, "keeper", Some(100));
    client.create(0, "cpu:0");
    client.submit(0);
    let mut heir = Command::new("sleep")
        .arg("600")
        .stdin(client.socket.try_clone().unwrap())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    println!("\nHEIR {}", heir.id());
    heir.wait().unwrap();
}

// ---- those that break the rules ----

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
    bytes.extend([0, 0, 0]);
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
    check("256 is out of range", hello("x", Some(256)));
}

#[test]
fn silence_is_refused_after_a_while() {
    check_refused("no hello within 2 s", |daemon| connect_to(&daemon.socket));
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
    let held = true;
    check("slot 9 has no queue", ToScheduler::Hold { slot, held });
    let (slot, hints) = (Some(9), Hints::default());
    check("slot 9 has no queue", ToScheduler::Hint { slot, hints });
    let attributes = Attributes {
        level: Level::Lv1,
        max_level: Level::Lv1,
        reason: Some(long),
    };
    let slot = 1;
    check(
        "reason has 257 bytes",
        ToScheduler::Level { slot, attributes },
    );
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
        liar.segment.layout().set_dirty(slot);
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

#[test]
fn two_hundred_clients_come_and_go() {
    let daemon = TestDaemon::start();
    let (high, low) = high_and_low(&daemon);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let daemon = &daemon;
            scope.spawn(move || {
                for number in 0..50 {
                    let name = format!("guest-{thread}-{number}");
                    let guest = RawClient::join(daemon, &name, Some(-150));
                    guest.create(0, "cpu:0");
                    guest.submit(0);
                    if number % 2 == 0 {
                        guest.finish(0);
                    }
                }
            });
        }
    });
    wait_until("guests gone", || queues(&daemon).len() == 2);
    check_scheduled(&high, &low);
}

//! What breaks, with real processes: daemons and programs that are killed, stopped, hung, forked,
//! replaced or hostile, and what the others notice of it.

mod common;
#[path = "common/guest.rs"]
mod guest;

use std::{
    fs, mem,
    os::fd::{AsFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use common::{Daemon, PATIENCE, RawClient, connect_to, is_alive, wait_until};
use guest::{AHEAD, Guest, Orphan, print_time, queue_of};
use rustix::{
    event::{EventfdFlags, eventfd},
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create},
    net::{SendFlags, send},
    process::Signal,
};
use xsched_server::api::Queue;
use xsched_wire::{
    FromScheduler, Hello, Hints, Level,
    message::{HELLO_MAGIC, MAX_PACKET},
    packet,
    segment::SEGMENT_BYTES,
};

/// No pieces for the waiting: what is held stands still.
const STRICT: &[&str] = &["--min-share", "0"];
/// Far more than the second that is promised; only "never" gets here.
const SOON: Duration = Duration::from_secs(5);

/// The role of a process that the other tests start.
#[test]
fn guest_process() {
    if std::env::var_os(guest::ROLE_VARIABLE).is_some() {
        guest::serve();
    }
}

/// A running low program that a running high one keeps from its device.
fn low_and_high(daemon: &Daemon, level: Level) -> (Guest, Guest) {
    let mut low = Guest::start(daemon, "low", -100, level);
    low.ask("run");
    low.advance(1);
    let mut high = Guest::start(daemon, "high", 100, Level::Lv2);
    high.ask("run");
    held(daemon, &mut low, &mut high);
    behind_gate(daemon, &mut low, level);
    (low, high)
}

fn is_held(queue: &Queue) -> bool {
    queue.ready && !queue.open
}

/// Waits until `low` stands still while `high` runs; says how many commands it has done.
#[track_caller]
fn held(daemon: &Daemon, low: &mut Guest, high: &mut Guest) -> u64 {
    let listed = || low.queue(daemon).is_some_and(|queue| is_held(&queue));
    wait_until(listed, PATIENCE);
    // What was executing when the gate closed is finished first.
    let mut done = low.done();
    let stands = || {
        high.advance(10);
        let now = low.done();
        mem::replace(&mut done, now) == now
    };
    wait_until(stands, PATIENCE);
    high.advance(50);
    assert_eq!(low.done(), done, "it moves behind a closed gate");
    done
}

/// Checks what holds a program: its own thread in admission, or the device at a gate.
#[track_caller]
fn behind_gate(daemon: &Daemon, guest: &mut Guest, level: Level) {
    let stands = || {
        let (counts, queue) = (guest.counts(), guest.queue(daemon).unwrap());
        assert_eq!(queue.level, level as u8);
        match level {
            Level::Lv1 => counts.launched == counts.done && queue.submitted == counts.launched + 1,
            _ => counts.launched == counts.done + AHEAD && queue.submitted == counts.launched,
        }
    };
    wait_until(stands, PATIENCE);
}

/// Checks that the device goes from one to the other and back.
#[track_caller]
fn check_scheduled(daemon: &Daemon, low: &mut Guest, high: &mut Guest) {
    held(daemon, low, high);
    high.ask("pause");
    low.advance(3);
    high.ask("run");
    held(daemon, low, high);
}

// ---- the daemon ----

#[track_caller]
fn check_daemon_killed(level: Level) {
    let mut daemon = Daemon::start_with(STRICT);
    let (mut low, mut high) = low_and_high(&daemon, level);
    let done = low.done();

    daemon.kill();
    let start = Instant::now();
    wait_until(|| low.done() > done, SOON);
    print_time(&format!("daemon killed, level {level} runs on"), start);
    low.advance(100);
    high.advance(10);

    daemon.restart();
    let start = Instant::now();
    let both = || low.queue(&daemon).is_some() && high.queue(&daemon).is_some();
    wait_until(both, PATIENCE);
    print_time("new daemon, both rejoined", start);
    check_scheduled(&daemon, &mut low, &mut high);
    behind_gate(&daemon, &mut low, level);
}

#[test]
fn a_thread_in_admission_outlives_its_daemon_and_rejoins_the_next() {
    check_daemon_killed(Level::Lv1);
}

#[test]
fn a_queue_behind_a_device_gate_outlives_its_daemon_and_rejoins_the_next() {
    check_daemon_killed(Level::Lv2);
}

#[test]
fn a_hung_daemon_holds_nobody_and_schedules_again_when_it_wakes() {
    let daemon = Daemon::start_with(STRICT);
    let (mut low, mut high) = low_and_high(&daemon, Level::Lv1);
    let done = low.done();

    daemon.signal(Signal::STOP);
    let start = Instant::now();
    wait_until(|| low.done() > done, SOON);
    print_time("daemon stopped, low runs on", start);
    // Long enough for the agents to knock again, in vain.
    low.advance(200);
    high.advance(10);

    daemon.signal(Signal::CONT);
    check_scheduled(&daemon, &mut low, &mut high);
    assert_eq!(daemon.queues().len(), 2);
}

// ---- the program that holds the device ----

#[test]
fn a_killed_program_holds_nobody() {
    let daemon = Daemon::start_with(STRICT);
    let (mut low, mut high) = low_and_high(&daemon, Level::Lv2);
    high.signal(Signal::KILL);
    let start = Instant::now();
    low.advance(1);
    print_time("high killed, low runs", start);
    high.wait();
    wait_until(|| high.queue(&daemon).is_none(), PATIENCE);
    low.advance(100);
}

#[test]
fn a_stopped_program_holds_nobody_until_it_goes_on() {
    let daemon = Daemon::start_with(STRICT);
    let (mut low, mut high) = low_and_high(&daemon, Level::Lv1);
    for _ in 0..2 {
        high.signal(Signal::STOP);
        let start = Instant::now();
        low.advance(1);
        print_time("high stopped, low runs", start);
        wait_until(|| high.queue(&daemon).unwrap().stopped, PATIENCE);
        low.advance(100);
        high.signal(Signal::CONT);
        held(&daemon, &mut low, &mut high);
        assert!(!high.queue(&daemon).unwrap().stopped);
    }
}

#[test]
fn a_hung_program_holds_nobody_until_it_moves() {
    let daemon = Daemon::start_with(STRICT);
    let (mut low, mut high) = low_and_high(&daemon, Level::Lv2);
    high.ask("pause");
    low.advance(1);

    high.ask("hold");
    let start = Instant::now();
    let listed = || low.queue(&daemon).is_some_and(|queue| is_held(&queue));
    wait_until(listed, PATIENCE);
    wait_until(|| high.queue(&daemon).unwrap().stalled, PATIENCE);
    low.advance(100);
    print_time("high hung, low ran 100 commands", start);
    assert!(high.queue(&daemon).unwrap().ready);

    high.ask("release");
    high.ask("run");
    held(&daemon, &mut low, &mut high);
    assert!(!high.queue(&daemon).unwrap().stalled);
}

// ---- fork, exec, exit while suspended ----

const BOTH: [Level; 2] = [Level::Lv1, Level::Lv2];

#[test]
fn a_child_forked_while_suspended_starts_afresh_and_outlives_its_parent() {
    let daemon = Daemon::start_with(STRICT);
    for level in BOTH {
        let (mut low, mut high) = low_and_high(&daemon, level);
        let done = low.done();
        // Answered when the child has passed the inherited queue's admission.
        let child: u32 = low.ask("fork").parse().unwrap();
        let _orphan = Orphan(child);
        let listed = || queue_of(&daemon, child).is_some_and(|queue| is_held(&queue));
        wait_until(listed, PATIENCE);
        assert_eq!(held(&daemon, &mut low, &mut high), done);
        behind_gate(&daemon, &mut low, level);
        let (parents, childs) = (
            low.queue(&daemon).unwrap(),
            queue_of(&daemon, child).unwrap(),
        );
        assert_eq!(childs.name, parents.name);
        assert_eq!(childs.level, level as u8);

        high.ask("pause");
        low.advance(10);
        let grows = |submitted| {
            let grown = || queue_of(&daemon, child).unwrap().submitted > submitted;
            wait_until(grown, PATIENCE);
        };
        // Once all that it may keep ahead was submitted, more means that commands are executed.
        grows(childs.submitted + AHEAD);

        low.signal(Signal::KILL);
        low.wait();
        wait_until(|| low.queue(&daemon).is_none(), PATIENCE);
        grows(queue_of(&daemon, child).unwrap().submitted + AHEAD);
        assert!(is_alive(child));
    }
}

#[test]
fn a_killed_program_is_gone_though_its_child_inherited_everything() {
    let daemon = Daemon::start_with(STRICT);
    let (mut low, mut high) = low_and_high(&daemon, Level::Lv1);
    let child: u32 = high.ask("clone").parse().unwrap();
    let _orphan = Orphan(child);
    let links = |pid: u32| {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let mut links: Vec<_> = fds
            .map(|fd| fs::read_link(fd.unwrap().path()).unwrap())
            .collect();
        links.sort();
        links
    };
    assert_eq!(links(child), links(high.pid()));
    assert!(
        links(child)
            .iter()
            .any(|link| link.to_string_lossy().contains("memfd:xsched"))
    );

    high.signal(Signal::KILL);
    high.wait();
    wait_until(|| high.queue(&daemon).is_none(), PATIENCE);
    let list = daemon.xsched().arg("list").output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    assert!(list.contains("low") && !list.contains("high"), "{list}");
    low.advance(100);
    assert!(is_alive(child));
}

#[test]
fn a_program_replaced_while_suspended_leaves_no_queue() {
    let daemon = Daemon::start_with(STRICT);
    for level in BOTH {
        let (mut low, mut high) = low_and_high(&daemon, level);
        let old = low.queue(&daemon).unwrap();
        low.tell("exec");
        wait_until(|| low.queue(&daemon).is_none(), PATIENCE);
        assert_eq!(low.ask("counts"), "none", "a new image");
        assert_eq!(daemon.queues().len(), 1);

        low.ask("run");
        held(&daemon, &mut low, &mut high);
        assert_ne!(low.queue(&daemon).unwrap().id, old.id);
        check_scheduled(&daemon, &mut low, &mut high);
    }
}

#[test]
fn a_program_exits_at_once_while_suspended() {
    let daemon = Daemon::start_with(STRICT);
    for level in BOTH {
        let (mut low, mut high) = low_and_high(&daemon, level);
        low.tell("exit 7");
        let start = Instant::now();
        let status = low.wait();
        print_time(&format!("exit at level {level}"), start);
        assert_eq!(status.code(), Some(7));
        wait_until(|| low.queue(&daemon).is_none(), PATIENCE);
        high.advance(10);
    }
}

// ---- many ----

const MANY: usize = 200;
/// What the daemon may need a client.
const CLIENT_KIB: f64 = 256.0;

/// Resident memory, KiB: counted by page, since the quick figure of `status` is a rough one.
fn resident(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:"));
    let figure = line.unwrap().trim().trim_end_matches(" kB");
    figure.parse().unwrap()
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Open descriptors, once the connections of earlier requests are closed.
fn settled_descriptors(pid: u32) -> usize {
    let (mut count, mut same) = (descriptors(pid), 0);
    while same < 20 {
        thread::sleep(Duration::from_millis(10));
        let now = descriptors(pid);
        same = if mem::replace(&mut count, now) == now {
            same + 1
        } else {
            0
        };
    }
    count
}

/// Programs come, use a queue, and go, every other one killed. Returns the daemon's memory while
/// all were there.
fn wave(daemon: &Daemon) -> u64 {
    let start = |number| Guest::start(daemon, &format!("guest-{number}"), -150, Level::Lv2);
    let mut guests: Vec<_> = (0..MANY).map(start).collect();
    for guest in &mut guests {
        assert_eq!(guest.ask("once"), "finished");
    }
    let all = || {
        let status = daemon.status();
        (status.clients, status.queues) == (MANY, MANY)
    };
    wait_until(all, PATIENCE);
    let memory = resident(daemon.pid());
    for (number, guest) in guests.iter_mut().enumerate() {
        if number % 2 == 0 {
            guest.dismiss();
        } else {
            guest.signal(Signal::KILL);
        }
    }
    for (number, guest) in guests.iter_mut().enumerate() {
        let code = (number % 2 == 0).then_some(0);
        assert_eq!(guest.wait().code(), code);
    }
    wait_until(|| daemon.status().clients == 0, PATIENCE);
    assert!(daemon.queues().is_empty());
    memory
}

#[test]
fn many_programs_come_and_go_and_leave_nothing() {
    let daemon = Daemon::start_with(STRICT);
    let pid = daemon.pid();
    let before = (settled_descriptors(pid), resident(pid));
    let each = |kib: u64| kib.saturating_sub(before.1) as f64 / MANY as f64;

    let connected = wave(&daemon);
    let once = resident(pid);
    println!(
        "daemon's memory: {} KiB at first, {connected} with {MANY} programs ({:.1} KiB each), \
         {once} when they are gone ({:.1} KiB each)",
        before.1,
        each(connected),
        each(once),
    );
    assert!(each(connected) <= CLIENT_KIB);
    wave(&daemon);
    let twice = resident(pid);
    println!("{twice} KiB after as many again");
    // What an allocator keeps, it keeps once.
    let more = twice.saturating_sub(once);
    assert!(more < MANY as u64 * 4, "{more} KiB more the second time");
    assert_eq!(settled_descriptors(pid), before.0);

    let (mut low, mut high) = low_and_high(&daemon, Level::Lv1);
    check_scheduled(&daemon, &mut low, &mut high);
}

// ---- the hostile ----

/// A memfd that is not quite a segment.
fn memfd(size: usize, seals: SealFlags) -> OwnedFd {
    let fd = memfd_create("x", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&fd, size as u64).unwrap();
    fcntl_add_seals(&fd, seals).unwrap();
    fd
}

#[test]
fn the_hostile_are_closed_with_a_reason_and_nobody_else_notices() {
    let daemon = Daemon::start_with(STRICT);
    let (mut low, mut high) = low_and_high(&daemon, Level::Lv2);
    let mut check = |expect: &str, offend: &dyn Fn() -> OwnedFd| {
        let seen = daemon.log().len();
        let socket = offend();
        let reason = loop {
            match packet::recv(&socket) {
                Ok(FromScheduler::Refused { reason }) => break reason,
                Ok(_) => {}
                Err(error) => panic!("{expect}: {error}"),
            }
        };
        assert!(reason.contains(expect), "{reason}");
        let end = packet::recv::<FromScheduler>(&socket);
        assert!(matches!(end, Err(packet::PacketError::Closed)), "{end:?}");
        let log = daemon.log();
        let pid = format!("pid={}", std::process::id());
        let is_named = |line: &str| line.contains(expect) && line.contains(&pid);
        assert!(log[seen..].lines().any(is_named), "{expect} in {log}");
        check_scheduled(&daemon, &mut low, &mut high);
        assert_eq!(daemon.status().clients, 2);
    };

    let bytes = |bytes: &[u8]| {
        let socket = connect_to(&daemon);
        send(&socket, bytes, SendFlags::NOSIGNAL).unwrap();
        socket
    };
    check("no xsched hello", &|| bytes(b"GET / HTTP/1.1\r\n\r\n"));
    check("longer than 4096 bytes", &|| bytes(&[0; MAX_PACKET + 1]));
    let future = [&HELLO_MAGIC[..], &999u16.to_le_bytes()].concat();
    check("protocol version 999", &|| bytes(&future));

    let segment = |size, seals| {
        let socket = connect_to(&daemon);
        let hello = Hello {
            name: "hostile".into(),
            job: 0,
            hints: Hints::default(),
        };
        let bell = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let memory = memfd(size, seals);
        packet::send_hello(&socket, &hello, memory.as_fd(), bell.as_fd()).unwrap();
        socket
    };
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    check("not a sealed memfd", &|| {
        segment(SEGMENT_BYTES, SealFlags::empty())
    });
    let short = SEGMENT_BYTES - 4096;
    check(&format!("segment has {short} bytes"), &|| {
        segment(short, seals)
    });

    check("malformed", &|| {
        let client = RawClient::register(&daemon, "hostile", Some(200));
        client.create_queue(0, Level::Lv1, None);
        client.become_ready(0);
        send(client.socket(), &[0xff; 9], SendFlags::NOSIGNAL).unwrap();
        client.socket().try_clone().unwrap()
    });
}

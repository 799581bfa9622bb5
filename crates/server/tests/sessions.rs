//! Programs register, are scheduled, and go.

mod common;

use std::{
    io::{BufRead, BufReader},
    os::fd::AsFd,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
};

use common::*;
use rustix::process::{Pid, Signal, kill_process};
use xsched_server::api;
use xsched_wire::{Attributes, FromScheduler, Level, Share, ToScheduler, packet};

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
fn a_device_takes_over_nothing_of_one_that_is_gone() {
    let daemon = TestDaemon::start();
    let shares = |device, one_background| {
        let programs = [100, -100, -100].map(|priority| {
            let program = RawClient::join(&daemon, "program", Some(priority));
            let mut info = queue_info(0, device);
            info.attributes.one_background = one_background;
            program.create_as(info);
            program
        });
        let shares: Vec<api::Share> = queues(&daemon).iter().map(|queue| queue.share).collect();
        drop(programs);
        wait_until("all gone", || queues(&daemon).is_empty());
        shares
    };
    let (normal, background) = (api::Share::Normal, api::Share::Background);
    let sliced = api::Share::Slice(200);
    assert_eq!(shares("cuda:0", true), [normal, sliced, sliced]);
    assert_eq!(shares("cuda:1", false), [normal, background, background]);
}

#[test]
fn a_queue_of_its_own_priority_is_scheduled_alone() {
    let daemon = TestDaemon::start();
    let client = RawClient::join(&daemon, "both", None);
    client.create(0, "cpu:0");
    let mut info = queue_info(1, "cpu:0");
    info.hints = hints(Some(50));
    client.create_as(info);
    client.submit(0);
    client.submit(1);
    client.wait_open(0, false);
    assert!(client.is_open(1));
    let listed = queues(&daemon);
    assert_ne!(listed[0].group, listed[1].group);

    let lower = hints(Some(-50));
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
        hints: hints(Some(200)),
    });
    low.wait_open(0, true);
    high.wait_open(0, false);

    low.send(&ToScheduler::Level {
        slot: 0,
        attributes: Attributes {
            one_background: false,
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

/// Whether a change of this program's queue has to ring.
fn rings(client: &RawClient) -> bool {
    client.segment.layout().set_dirty(0)
}

#[test]
fn a_program_alone_rings_nobody_and_is_heard_when_another_comes() {
    let daemon = TestDaemon::start();
    let high = RawClient::join(&daemon, "high", Some(100));
    high.create(0, "cpu:0");
    assert!(rings(&high), "at first");
    wait_until("quiet", || !rings(&high));
    assert!(high.block(0).publish().became_ready && !rings(&high));
    assert!(queues(&daemon)[0].ready, "seen when somebody asks");

    let low = RawClient::join(&daemon, "low", Some(-100));
    low.create(0, "cpu:0");
    assert!(!low.is_open(0) && rings(&high));
    low.submit(0);
    high.finish(0);
    low.wait_open(0, true);
    drop(high);
    wait_until("quiet", || !rings(&low));

    // Its own gate closes: it has to ring from then on.
    let never = hints(Some(-256));
    low.send(&ToScheduler::Hint {
        slot: None,
        hints: never,
    });
    low.wait_open(0, false);
    assert!(rings(&low));
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

/// A thread asleep at the closed gate of the low one, which somebody then opens without a wake, as
/// a daemon does that dies in between. `end` must wake it.
#[track_caller]
fn check_woken(end: impl FnOnce(TestDaemon, RawClient)) {
    let daemon = TestDaemon::start();
    let (high, low) = high_and_low(&daemon);
    high.submit(0);
    low.wait_open(0, false);
    let block = low.block(0);
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        tell.send(rustix::thread::gettid().as_raw_nonzero())
            .unwrap();
        block.wait_open();
        tell.send(rustix::thread::gettid().as_raw_nonzero())
    });
    let stat = format!("/proc/self/task/{}/stat", told.recv().unwrap());
    wait_until("asleep", || {
        std::fs::read_to_string(&stat).unwrap().contains(") S ")
    });
    assert!(block.open_gate());
    end(daemon, low);
    told.recv_timeout(PATIENCE).expect("woken");
}

#[test]
fn who_sleeps_at_an_open_gate_is_woken_at_the_end() {
    check_woken(|_, low| low.send(&ToScheduler::DestroyQueue { slot: 0 }));
    check_woken(|_, low| drop(low));
    check_woken(|daemon, _| drop(daemon));
}

#[test]
fn a_program_that_returns_supersedes_its_earlier_session() {
    let daemon = TestDaemon::start();
    let (high, low) = high_and_low(&daemon);
    // Its first socket stays open, as one does that has messages to be read.
    let socket = connect_to(&daemon.socket);
    let hello = hello("low", Some(-100));
    packet::send_hello(&socket, &hello, low.segment.as_fd(), low.bell.as_fd()).unwrap();
    let welcome: FromScheduler = packet::recv(&socket).unwrap();
    assert!(matches!(welcome, FromScheduler::Welcome(_)), "{welcome:?}");
    while packet::recv::<FromScheduler>(&low.socket).is_ok() {}
    assert_eq!(queues(&daemon).len(), 1);
    let again = RawClient { socket, ..low };
    again.create(0, "cpu:0");
    assert_eq!(queues(&daemon).len(), 2);
    check_scheduled(&high, &again);
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
            .args(["--exact", "keeper", "--nocapture"])
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

/// The role of a process that other tests start.
#[test]
fn keeper() {
    let Some(socket) = std::env::var_os("KEEPER_SOCKET") else {
        return;
    };
    let client = RawClient::join_at(Path::new(&socket), "keeper", Some(100));
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

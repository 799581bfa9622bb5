//! An urgent program beside background ones on one device, without a scheduler and at each level: what
//! the background executes while an urgent command runs, and how long urgent requests take.

mod common;

use std::{
    sync::atomic::{AtomicU32, Ordering::SeqCst},
    thread,
    time::Duration,
};

use common::{
    Handle, Hip, NON_BLOCKING, SUCCESS,
    Value::{Address, Word},
    runtime,
    shared::{Daemon, View, a_moment, level, scene, support, until},
    shim, value,
};
use support::Peer;
use tempfile::TempDir;
use xsched_server::ServeOptions;

/// Programs in the background; each always has kernels to run. More than one, so that the device's turns of
/// 2 ms make an urgent request wait for longer than it takes.
const BACKGROUND: usize = 5;
const THEIRS_US: u32 = 200;
/// Kernels between two synchronizations of theirs.
const BURST: u32 = 64;
/// Commands that level 1 lets be in flight.
const WINDOW: u64 = 4;
/// A request of the urgent program that is measured is one kernel.
const REQUESTS: u64 = 100;
const URGENT_US: u32 = 500;

const PARTS: [(&str, fn()); 4] = [
    ("background", background),
    ("urgent", urgent),
    ("measured", measured),
    ("strict daemon", strict_daemon),
];

/// Kernels that count themselves, back to back; answers questions.
fn background() {
    let hip = Hip::load();
    let (stream, place) = (hip.stream(NON_BLOCKING), hip.word());
    thread::spawn(move || execute_always(stream, place));
    begin();
    loop {
        match support::listen().trim() {
            "executed" => println!("executed {}", value(place)),
            "held" => {
                let view = View::own();
                let held = view.as_ref().is_some_and(View::all_are_held);
                println!("held {held}");
            }
            "ahead" => {
                let forwarded = View::own().unwrap().first().forwarded_count();
                // A launch that has not returned yet may be executed already.
                println!("ahead {}", forwarded.saturating_sub(value(place).into()));
            }
            "taken off" => println!("taken off {}", hip.updates().taken_off),
            _ => return,
        }
    }
}

fn execute_always(stream: Handle, place: &AtomicU32) {
    let hip = Hip::load();
    let kernel = hip.function("add_u32_us");
    let values = [Address(place.as_ptr().addr()), Word(1), Word(THEIRS_US)];
    loop {
        for _ in 0..BURST {
            assert_eq!(hip.launch(stream, kernel, &values), SUCCESS);
        }
        hip.synchronize(stream);
    }
}

/// A kernel that runs until it is told to end.
fn urgent() {
    let hip = Hip::load();
    let (stream, end) = (hip.stream(NON_BLOCKING), hip.word());
    hip.write(stream, hip.word(), 1);
    hip.synchronize(stream);
    begin();
    support::listen();
    let values = [Address(end.as_ptr().addr()), Word(1)];
    assert_eq!(
        hip.launch(stream, hip.function("until_u32"), &values),
        SUCCESS
    );
    println!("running");
    support::listen();
    end.store(1, SeqCst);
    hip.synchronize(stream);
    println!("over");
}

/// Says that it is scheduled, if a shim is there.
fn begin() {
    if common::told("LD_PRELOAD").is_empty() {
        println!("begun");
    } else {
        until("scheduled", || level() != 0);
        println!("begun at level {}", level());
    }
}

/// Without a guard against starvation: while something urgent runs, nobody else does.
fn strict_daemon() {
    let options = ServeOptions {
        socket: common::told("XSCHED_SOCKET").into(),
        policy: "hpf".into(),
        min_share: 0.0,
        exit_when_unused: None,
        trace: None,
    };
    xsched_server::serve(options, || println!("serving")).unwrap();
}

/// One device for the programs of a test.
struct Device {
    folder: TempDir,
    shim: String,
}

impl Device {
    fn new() -> Device {
        runtime();
        Device {
            folder: tempfile::tempdir().unwrap(),
            shim: shim().to_str().unwrap().to_owned(),
        }
    }

    fn path(&self, name: &str) -> String {
        let path = self.folder.path().join(name);
        path.to_str().unwrap().to_owned()
    }

    fn daemon(&self) -> (Peer, String) {
        let socket = self.path("xsched.sock");
        let mut daemon = Peer::start("strict daemon", &[("XSCHED_SOCKET", &socket)]);
        daemon.expect("serving");
        (daemon, socket)
    }

    /// Starts a program, under the scheduler at this socket at a level, or without.
    fn start(&self, role: &str, priority: &str, scheduled: Option<(&str, &str)>) -> Peer {
        let device = self.path("device");
        let mut variables = vec![("STANDIN_SHM", device.as_str())];
        let window = WINDOW.to_string();
        if let Some((socket, level)) = scheduled {
            variables.extend([
                ("LD_PRELOAD", self.shim.as_str()),
                ("XSCHED_SOCKET", socket),
                ("XSCHED_AUTO_XQUEUE_LEVEL", level),
                ("XSCHED_AUTO_XQUEUE_PRIORITY", priority),
                ("XSCHED_AUTO_XQUEUE_THRESHOLD", &window),
            ]);
        }
        let mut peer = Peer::start(role, &variables);
        let begun = peer.expect("begun");
        let expected = scheduled.map_or(String::new(), |(_, level)| format!("at level {level}"));
        assert_eq!(begun, expected);
        peer
    }
}

fn ask(peer: &mut Peer, question: &str) -> String {
    peer.say(question);
    peer.expect(question)
}

fn executed(others: &mut [Peer]) -> Vec<u64> {
    let counts = others.iter_mut().map(|peer| ask(peer, "executed"));
    counts.map(|count| count.parse().unwrap()).collect()
}

#[track_caller]
fn all_go_on(others: &mut [Peer]) {
    let before = executed(others);
    until("the background goes on", || {
        let now = executed(others);
        now.iter()
            .zip(&before)
            .all(|(now, before)| *now > before + 50)
    });
}

#[test]
fn unscheduled_the_background_goes_on_while_an_urgent_command_runs() {
    scene(&PARTS, || {
        let device = Device::new();
        let mut urgent = device.start("urgent", "10", None);
        let mut others: Vec<_> = (0..BACKGROUND)
            .map(|_| device.start("background", "0", None))
            .collect();
        urgent.say("begin");
        urgent.expect("running");
        all_go_on(&mut others);
        urgent.say("end");
        urgent.expect("over");
    });
}

#[test]
fn the_background_executes_nothing_while_an_urgent_command_runs_at_every_level() {
    scene(&PARTS, || {
        for level in ["1", "2", "3"] {
            let device = Device::new();
            let (_daemon, socket) = device.daemon();
            let scheduled = Some((socket.as_str(), level));
            let mut urgent = device.start("urgent", "10", scheduled);
            let mut others: Vec<_> = (0..BACKGROUND)
                .map(|_| device.start("background", "0", scheduled))
                .collect();
            all_go_on(&mut others);

            urgent.say("begin");
            urgent.expect("running");
            until("the background is held", || {
                others.iter_mut().all(|peer| ask(peer, "held") == "true")
            });
            // What was in flight is over, or stands behind a gate.
            let mut stands = executed(&mut others);
            until("the background stands", || {
                a_moment();
                let now = executed(&mut others);
                std::mem::replace(&mut stands, now.clone()) == now
            });
            for _ in 0..20 {
                a_moment();
                assert_eq!(executed(&mut others), stands, "level {level}");
            }
            // Level 1 holds the programs' threads; above it launches go on, up to their next wait.
            let ahead = others.iter_mut().map(|peer| ask(peer, "ahead"));
            let ahead: Vec<u64> = ahead.map(|count| count.parse().unwrap()).collect();
            let most = ahead.iter().max().unwrap();
            assert_eq!(*most <= WINDOW, level == "1", "level {level}: {ahead:?}");
            for peer in &mut others {
                let off: u64 = ask(peer, "taken off").parse().unwrap();
                assert_eq!(off > 0, level == "3", "level {level}: {off} updates to 0 %");
            }
            urgent.say("end");
            urgent.expect("over");
            all_go_on(&mut others);
        }
    });
}

// ---- how long it takes ----

/// Says how long its requests took, from submission to completion, in µs of device time.
fn measured() {
    let hip = Hip::load();
    let (stream, spin) = (hip.stream(NON_BLOCKING), hip.function("spin_us"));
    let event = || {
        let mut event: Handle = 0;
        ok!(hip, hipEventCreate(&mut event => &mut Handle));
        event
    };
    let (start, end) = (event(), event());
    hip.write(stream, hip.word(), 1);
    hip.synchronize(stream);
    begin();
    support::listen();
    let mut took: Vec<_> = (0..REQUESTS)
        .map(|number| {
            ok!(hip, hipEventRecord(start => Handle, stream => Handle));
            assert_eq!(hip.launch(stream, spin, &[Word(URGENT_US)]), SUCCESS);
            ok!(hip, hipEventRecord(end => Handle, stream => Handle));
            hip.synchronize(stream);
            let mut milliseconds = 0_f32;
            ok!(hip, hipEventElapsedTime(
                &mut milliseconds => &mut f32, start => Handle, end => Handle,
            ));
            // Not in step with the others' turns.
            thread::sleep(Duration::from_millis(3 + number * 7 % 10));
            (milliseconds * 1e3) as u64
        })
        .collect();
    took.sort_unstable();
    let of_100 = |number: usize| took[number - 1];
    println!("took {} {}", of_100(50), of_100(99));
}

#[test]
#[ignore = "depends on how busy the machine is: run it alone, with --ignored --nocapture"]
fn the_urgent_programs_p99_is_at_most_half_of_what_it_was_unscheduled() {
    scene(&PARTS, || {
        let p99 = |scheduled: Option<(&str, &str)>| -> u64 {
            let device = Device::new();
            let mut urgent = device.start("measured", "10", scheduled);
            let _others: Vec<_> = (0..BACKGROUND)
                .map(|_| device.start("background", "0", scheduled))
                .collect();
            urgent.say("go");
            let took = urgent.expect("took");
            let (p50, p99) = took.split_once(' ').unwrap();
            let how = scheduled.map_or("unscheduled".into(), |(_, level)| format!("level {level}"));
            println!("{how}: P50 {p50} µs, P99 {p99} µs of the stand-in's time");
            p99.parse().unwrap()
        };
        let unscheduled = p99(None);
        for level in ["1", "2", "3"] {
            let daemon = Daemon::start();
            let scheduled = p99(Some((daemon.variable().1, level)));
            assert!(
                scheduled * 2 <= unscheduled,
                "level {level}: {scheduled} µs, without {unscheduled} µs"
            );
        }
    });
}

//! An urgent program beside background ones on one device, without a scheduler and at each level. What
//! decides is device time, as events in the urgent program's stream have it, and what the stand-ins saw.

mod common;

use std::{thread, time::Duration};

use common::{
    Handle, Hip, NON_BLOCKING, SUCCESS,
    Value::Word,
    runtime,
    shared::{Daemon, level, scene, support, until},
    shim,
};
use support::Peer;

/// Programs in the background; each always has kernels to run. More than one, so that the device's turns of
/// 2 ms make an urgent request wait for longer than it takes.
const BACKGROUND: usize = 3;
const THEIRS_US: u32 = 200;
/// A request of the urgent program is one kernel.
const REQUESTS: u64 = 100;
const URGENT_US: u32 = 500;

/// In the background until the input ends.
fn background() {
    let hip = Hip::load();
    let (stream, spin) = (hip.stream(NON_BLOCKING), hip.function("spin_us"));
    thread::spawn(move || {
        let hip = Hip::load();
        loop {
            for _ in 0..64 {
                assert_eq!(hip.launch(stream, spin, &[Word(THEIRS_US)]), SUCCESS);
            }
            hip.synchronize(stream);
        }
    });
    begin(&hip);
    support::listen();
    println!("taken off {}", hip.updates().taken_off);
}

/// Says that it is scheduled, if a shim is there.
fn begin(hip: &Hip) {
    if common::told("LD_PRELOAD").is_empty() {
        println!("begun");
        return;
    }
    hip.write(0, hip.word(), 1);
    hip.synchronize(0);
    until("scheduled", || level() != 0);
    println!("begun at level {}", level());
}

/// Says how long its requests took, from submission to completion, in µs of device time.
fn urgent() {
    let hip = Hip::load();
    let (stream, spin) = (hip.stream(NON_BLOCKING), hip.function("spin_us"));
    let event = || {
        let mut event: Handle = 0;
        ok!(hip, hipEventCreate(&mut event => &mut Handle));
        event
    };
    let (start, end) = (event(), event());
    begin(&hip);
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
    let mean = took.iter().sum::<u64>() / REQUESTS;
    println!("took {mean} {} {}", of_100(90), of_100(99));
}

/// Of the urgent program's requests, in µs.
#[derive(Clone, Copy, Debug)]
struct Took {
    mean: u64,
    p90: u64,
}

/// What requests took, and how often compute queues of the background were taken off.
fn run(daemon: Option<&Daemon>, level: &str) -> (Took, u64) {
    let (folder, shim) = (tempfile::tempdir().unwrap(), shim());
    let device = folder.path().join("device");
    let mut variables = vec![("STANDIN_SHM", device.to_str().unwrap())];
    let preload = ("LD_PRELOAD", shim.to_str().unwrap());
    if let Some(daemon) = daemon {
        variables.extend([preload, daemon.variable()]);
        // A window that fits kernels of this length.
        variables.push(("XSCHED_AUTO_XQUEUE_THRESHOLD", "2"));
        variables.push(("XSCHED_AUTO_XQUEUE_LEVEL", level));
    }
    let start = |role, priority| {
        let priority = ("XSCHED_AUTO_XQUEUE_PRIORITY", priority);
        let mut peer = Peer::start(role, &[&variables[..], &[priority]].concat());
        let begun = peer.expect("begun");
        assert!(begun.ends_with(level), "{begun}");
        peer
    };
    let mut urgent = start("urgent", "10");
    let mut others: Vec<_> = (0..BACKGROUND).map(|_| start("background", "0")).collect();
    urgent.say("go");
    let said = urgent.expect("took");
    let figures: Vec<u64> = said.split(' ').map(|word| word.parse().unwrap()).collect();
    let [mean, p90, p99] = figures[..] else {
        panic!("{said}");
    };
    // The last percentile is for people: one late thread of the machine decides it.
    println!("level {level}: mean {mean} µs, P90 {p90} µs, P99 {p99} µs");
    assert!(urgent.finish().success());
    let off = others.iter_mut().map(|peer| {
        peer.say("end");
        peer.expect("taken off").parse::<u64>().unwrap()
    });
    (Took { mean, p90 }, off.sum())
}

#[test]
fn an_urgent_program_takes_less_than_half_as_long_at_every_level() {
    scene(&[("urgent", urgent), ("background", background)], || {
        runtime();
        let (unscheduled, _) = run(None, "");
        for level in ["1", "2", "3"] {
            let daemon = Daemon::start();
            let (scheduled, off) = run(Some(&daemon), level);
            assert!(
                scheduled.mean * 2 <= unscheduled.mean && scheduled.p90 * 2 <= unscheduled.p90,
                "level {level}: {scheduled:?}, without {unscheduled:?}"
            );
            assert_eq!(off > 0, level == "3", "{off} updates to 0 %");
        }
    });
}

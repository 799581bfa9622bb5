//! The engine, driven by short scripts in virtual time.

mod host;

use crate::*;
use host::{Host, MS, US, event};

/// After the script these gates are open, without the guard.
#[track_caller]
fn check(script: &str, expect_open: &[u64]) -> Host {
    check_with(
        Config {
            min_share: 0.0,
            ..Config::default()
        },
        script,
        expect_open,
    )
}

#[track_caller]
fn check_with(config: Config, script: &str, expect_open: &[u64]) -> Host {
    let mut host = Host::new(config);
    host.run(script);
    assert_eq!(host.open(), expect_open, "after {script}");
    host
}

/// Runs the script without the guard.
fn check_any(script: &str) -> Host {
    let mut host = Host::new(Config {
        min_share: 0.0,
        ..Config::default()
    });
    host.run(script);
    host
}

#[test]
fn the_higher_priority_runs() {
    check("new 1 high; new 2 low", &[1, 2]);
    check("new 1 high; new 2 low; ready 2", &[1, 2]);
    check("new 1 high; new 2 low; ready 2; ready 1", &[1]);
    check(
        "new 1 high; new 2 low; ready 2; ready 1; ready 1; ready 2",
        &[1],
    );
    check(
        "new 1 high; new 2 low; ready 2; ready 1; wait 300; idle 1; wait 300; idle 1",
        &[1, 2],
    );
    check("new 1 high; new 2 low; ready 1; gone 1", &[2]);
    check("new 1 high; new 2 low; ready 1; exit 1", &[2]);
    check("new 1 high; new 2 low; ready 1; idle 2", &[1]);
    check("new 1 high; new 2 high; new 3 0; ready 3; ready 2", &[1, 2]);
    check("new 1 -256; new 2 0; ready 1", &[2]);
    check("new 1 -256; ready 1", &[]);
    // A queue that comes while a higher one is busy starts closed.
    check("new 1 high; ready 1; new 2 low", &[1]);
    // Devices are independent.
    check(
        "new 1 high 1 0; new 2 low 2 1; new 3 low 3 0; ready 1..3",
        &[1, 2],
    );
    check(
        "new 1 high 1 0; new 2 high 1 1; new 3 low 3 0; new 4 low 4 1; ready 1..4; exit 1",
        &[3, 4],
    );
}

#[test]
fn the_queues_of_a_process_are_one_group() {
    check(
        "new 1 high 7; new 2 high 7; new 3 low; ready 3; ready 1",
        &[1, 2],
    );
    check(
        "new 1 high 7; new 2 high 7; new 3 low; ready 3; ready 1..2; wait 300; idle 1",
        &[1, 2],
    );
    check("new 1 low 7; new 2 low 7; new 3 high; ready 1..3", &[3]);
    check(
        "new 1 high 7; new 2 high 7; new 3 low; ready 1; ready 3; gone 1",
        &[2, 3],
    );
}

#[test]
fn priorities_change_at_any_time() {
    check("new 1 high; new 2 low; ready 1..2; pprio 1 idle", &[2]);
    check("new 1 high; new 2 low; ready 1..2; pprio 2 realtime", &[2]);
    check("new 1 high; new 2 low; ready 1..2; pprio 1 -256", &[2]);
    // Later queues of the process have what was said last.
    check(
        "new 1 high; pprio 1 low; new 3 low 1; new 2 0; ready 1..3",
        &[2],
    );
    // Over all devices.
    check(
        "new 1 0 7 0; new 2 0 7 1; new 3 0 8 0; new 4 0 8 1; ready 1..4; pprio 7 high",
        &[1, 2],
    );
}

#[test]
fn a_queue_with_a_priority_of_its_own_is_a_group_of_its_own() {
    check(
        "new 1 low 7; new 2 low 7; new 3 0; ready 1..3; prio 2 high",
        &[2],
    );
    check(
        "new 1 low 7; new 2 low 7; new 3 0; ready 1; ready 3; prio 2 high",
        &[2, 3],
    );
    check(
        "new 1 low 7; new 2 low 7; new 3 0; ready 1..3; prio 2 high; prio 2 -9",
        &[3],
    );
    // Its priority and the process's no longer concern each other.
    check(
        "new 1 0 7; new 2 0 7; new 3 0; ready 1..3; prio 2 low; pprio 7 high",
        &[1],
    );
    check(
        "new 1 0 7; new 2 0 7; new 3 0; ready 1..3; prio 2 high; new 4 high 7",
        &[1, 2, 4],
    );
    check(
        "new 1 0 7; new 2 0 7; new 3 0; ready 1..3; prio 2 high; exit 7",
        &[3],
    );
    // An open queue that leaves a running group for a class that may not run is closed.
    check("new 1 high 7; new 2 high 7; ready 1..2; prio 2 low", &[1]);
    let host = check("new 1 high 7; new 2 high 7; prio 2 low", &[1, 2]);
    assert_eq!(host.group(1).queues, [QueueId(1)]);
    assert_eq!(
        (host.group(2).priority, host.group(2).process),
        (Priority::LOW, ProcessId(7))
    );
}

#[test]
fn a_held_queue_is_closed_and_does_not_count() {
    check("new 1 high; new 2 low; ready 1..2; hold 1", &[2]);
    check(
        "new 1 high; new 2 low; ready 1..2; hold 1; hold 1; unhold 1",
        &[1],
    );
    check("new 1 high; new 2 low; hold 1; ready 1..2", &[2]);
    check(
        "new 1 high; new 2 low; hold 1; ready 1..2; idle 1; unhold 1",
        &[1, 2],
    );
    check(
        "new 1 high 7; new 2 high 7; new 3 low; ready 1..3; hold 1",
        &[2],
    );
    check(
        "new 1 high 7; new 2 high 7; new 3 low; ready 1..3; hold 1..2",
        &[3],
    );
    assert!(check("new 1 0; hold 1", &[]).group(1).held);
}

#[test]
fn the_others_open_late_only_between_short_bursts() {
    let bursts = "new 1 high; new 2 low; ready 2; ready 1; wait 1000; idle 1; wait 100; ready 1; wait 50; idle 1";
    check(bursts, &[1]);
    check(&format!("{bursts}; wait 199"), &[1]);
    check(&format!("{bursts}; wait 200"), &[1, 2]);
    check(&format!("{bursts}; wait 199; ready 1"), &[1]);
    // The gap before the last burst was long: nothing is wasted.
    check(
        "new 1 high; new 2 low; ready 2; wait 300; ready 1; wait 50; idle 1",
        &[1, 2],
    );
}

#[test]
fn idle_groups_that_were_active_last_stand_open() {
    // Below the highest class eight of them.
    check("new 1 high; new 2..12 low", &[1, 5, 6, 7, 8, 9, 10, 11, 12]);
    check(
        "new 1 high; new 2..12 low; ready 2; wait 300; idle 2",
        &[1, 2, 6, 7, 8, 9, 10, 11, 12],
    );
    check("new 1 high; new 2..12 low; ready 1", &[1]);
    check(
        "new 1 high; new 2..12 low; ready 1; wait 300; idle 1",
        &[1, 6, 7, 8, 9, 10, 11, 12],
    );
    // One that becomes ready behind a busy one runs when that is idle.
    check(
        "new 1 high; new 2..9 low; ready 1; wait 300; ready 4; idle 1; wait 200",
        &[1, 3, 4, 5, 6, 7, 8, 9],
    );
    // When the top class goes, the next one is the top and stands open.
    check(
        "new 1 high; new 2..12 0; new 13 low; ready 1; wait 300; exit 1",
        &(2..14).collect::<Vec<_>>(),
    );
    check(
        "new 1 high; new 2..3 0; new 4 low; ready 1; wait 300; idle 1; pprio 1 idle",
        &[1, 2, 3, 4],
    );
    // A new policy sees everybody.
    check(
        "new 1 high; new 2..12 low; ready 1; wait 300; policy fifo",
        &(1..13).collect::<Vec<_>>(),
    );
}

#[test]
fn hardware_shares_follow_the_registered_classes() {
    #[track_caller]
    fn check_background(script: &str, expect: &[u64]) {
        let mut host = Host::new(Config::default());
        host.run(script);
        let background = host
            .shares
            .iter()
            .filter(|(_, share)| **share == HwShare::Background);
        assert_eq!(
            background.map(|(queue, _)| *queue).collect::<Vec<_>>(),
            expect,
            "after {script}"
        );
    }
    check_background("new 1 high; new 2 low", &[2]);
    check_background("new 2 low; new 1 high", &[2]);
    check_background("new 1..2 0", &[]);
    // Arrivals change nothing, classes do.
    check_background(
        "new 1 high; new 2 low; ready 2; ready 1; idle 1; wait 300000",
        &[2],
    );
    check_background("new 1 high; new 2 low; exit 1", &[]);
    check_background("new 1 high; new 2 low; pprio 2 high", &[]);
    check_background("new 1 high; new 2 low; pprio 1 -256", &[1]);
    check_background("new 1 high; new 2 low; new 3 -256", &[2, 3]);
    check_background("new 1 high; new 2 low; pprio 2 -256; policy hpf", &[2]);
    check_background("new 1 high; new 2 low; policy fifo", &[]);
    check_background("new 1 high; new 2 low; policy turns", &[]);
    check_background("new 1 high; new 2 low; policy fifo; policy hpf", &[2]);
    check_background("new 1 high; new 2 low; new 3 low 2", &[2, 3]);
}

#[test]
fn a_group_without_progress_no_longer_holds_the_device() {
    const HUNG: &str = "new 1 high; new 2 low; ready 1..2";
    check(&format!("{HUNG}; wait 1999999"), &[1]);
    let mut host = check(&format!("{HUNG}; wait 2000000"), &[1, 2]);
    assert!(host.group(1).stalled && host.group(1).ready && !host.group(2).stalled);
    // It goes on as soon as it moves, in whatever way.
    host.run("progress 1");
    assert_eq!((host.open(), host.group(1).stalled), (vec![1], false));
    for sign in ["progress 1", "ready 1", "idle 1; ready 1"] {
        check(&format!("{HUNG}; wait 2000000; {sign}"), &[1]);
        check(&format!("{HUNG}; wait 1900000; {sign}; wait 1900000"), &[1]);
        check(
            &format!("{HUNG}; wait 1900000; {sign}; wait 2000000"),
            &[1, 2],
        );
    }
    check(&format!("{HUNG}; wait 2000000; idle 1"), &[1, 2]);
    // One that keeps nobody from running may take its time, and has it again when somebody comes.
    check(
        "new 1 high; new 2 low; ready 1; wait 5000000; ready 2; wait 1999999",
        &[1],
    );
    check(
        "new 1 high; new 2 low; ready 1; wait 5000000; ready 2; wait 2000000",
        &[1, 2],
    );
    // So may one that was closed itself: its time counts from when it is given the device.
    check(
        "new 1 high; new 2 0; new 3 low; ready 1..3; wait 1900000; idle 1; wait 1900000",
        &[1, 2],
    );
    check(
        "new 1 high; new 2 0; new 3 low; ready 1..3; wait 1900000; idle 1; wait 2000000",
        &[1, 2, 3],
    );
    for end in [
        "gone 2",
        "exit 2",
        "prio 2 high",
        "pprio 2 high",
        "pprio 2 -256",
        "hold 2",
        "stop 2",
    ] {
        let host = check_any(&format!("{HUNG}; {end}; wait 5000000"));
        assert!(
            !host.group(1).stalled && host.engine.next_timer().is_none(),
            "after {end}"
        );
    }
    // A stalled one stays open behind a higher one, or it could never be seen to move.
    check(
        &format!("{HUNG}; wait 2000000; new 3 realtime; ready 3"),
        &[1, 3],
    );
    check(
        &format!("{HUNG}; wait 2000000; new 3 realtime; ready 3; progress 1"),
        &[3],
    );
    check(
        &format!("{HUNG}; wait 2000000; new 3 realtime; ready 3; idle 1"),
        &[3],
    );
    check(&format!("{HUNG}; wait 2000000; pprio 1 -256"), &[2]);
    // The guard's pieces neither hide a hang nor cause one.
    check_with(Config::default(), &format!("{HUNG}; wait 2000000"), &[1, 2]);
    let patient = Config {
        stall_limit: 0,
        min_share: 0.0,
        ..Config::default()
    };
    check_with(patient, &format!("{HUNG}; wait 9000000"), &[1]);
}

#[test]
fn a_queue_without_progress_holds_nothing_for_the_others_of_its_group() {
    // 2 never moves again, 1 goes on in bursts.
    let busy = "progress 1; wait 50000; idle 1; wait 50000; ready 1; wait 50000;".repeat(14);
    let stuck = format!("new 1..2 high 7; new 3 low; ready 1..3; {busy}");
    let mut host = check(&format!("{stuck} idle 1"), &[1, 2, 3]);
    let stalled = |host: &Host| {
        let queues = host.engine.queues(host.now);
        let stalled = queues.filter(|queue| queue.stalled);
        stalled.map(|queue| queue.queue.0).collect::<Vec<_>>()
    };
    assert_eq!(stalled(&host), [2]);
    assert!(host.group(1).stalled && host.group(1).ready);
    // The group has the device whenever the other one has work, which is no sign of the first.
    host.run("wait 1000; ready 1");
    assert_eq!((host.open(), stalled(&host)), (vec![1, 2], vec![2]));
    assert!(!host.group(1).stalled);
    host.run("wait 1000; idle 1");
    assert_eq!((host.open(), stalled(&host)), (vec![1, 2, 3], vec![2]));
    // Its own move is.
    for sign in ["progress 2", "ready 2"] {
        check(&format!("{stuck} idle 1; {sign}; wait 1999999"), &[1, 2]);
        check(&format!("{stuck} idle 1; {sign}; wait 2000000"), &[1, 2, 3]);
    }
    // The other one has the limit for itself.
    check(&format!("{stuck} wait 1949999"), &[1, 2]);
    check(&format!("{stuck} wait 1950000"), &[1, 2, 3]);
    // It may go, be held, or become a group of its own.
    for end in ["gone 2", "hold 2", "idle 2"] {
        let host = check_any(&format!("{stuck} {end}; idle 1; wait 300"));
        assert!(host.open().contains(&3) && !host.group(1).stalled, "{end}");
    }
    check(&format!("{stuck} idle 1; prio 2 low"), &[1, 2, 3]);
    check(&format!("{stuck} idle 1; prio 2 99; wait 1999999"), &[1, 2]);
    check(
        &format!("{stuck} idle 1; prio 2 99; wait 2000000"),
        &[1, 2, 3],
    );
    // Two that stall one after the other.
    let both = "new 1..2 high 7; new 3 low; ready 2..3; wait 1000000; ready 1";
    check(&format!("{both}; wait 1999999"), &[1, 2]);
    check(&format!("{both}; wait 2000000"), &[1, 2, 3]);
    // The end of the other's work is the end of a burst.
    check(
        &format!(
            "{stuck} idle 1; wait 300; ready 1; wait 50; idle 1; wait 100; ready 1; wait 50; idle 1; wait 199"
        ),
        &[1, 2],
    );
}

#[test]
fn a_stopped_process_does_not_hold_the_device() {
    // At once, between short bursts too.
    check(
        "new 1 high; new 2 low; ready 2; ready 1; wait 300; idle 1; wait 100; ready 1; stop 1",
        &[1, 2],
    );
    check("new 1 high; new 2 low; ready 1..2; stop 1", &[1, 2]);
    check(
        "new 1 high; new 2 low; ready 1..2; stop 1; stop 1; cont 1",
        &[1],
    );
    check("new 1 high; new 2 low; stop 1; ready 1..2", &[1, 2]);
    check(
        "new 1 high; new 2 low; stop 1; new 3 high 1; ready 1..3",
        &[1, 2, 3],
    );
    check(
        "new 1 high 7 0; new 2 low 8 0; new 3 high 7 1; new 4 low 8 1; ready 1..4; stop 7",
        &[1, 2, 3, 4],
    );
    check(
        "new 1 high; new 2 low; ready 1..2; stop 2; wait 200000; idle 1; wait 300; cont 2",
        &[1, 2],
    );
}

#[test]
fn time_is_accounted() {
    let mut host = check(
        "new 1 high; new 2 low; ready 2; wait 1000; ready 1; wait 3000; idle 1; wait 500",
        &[1, 2],
    );
    let counts = |host: &Host, queue| {
        let group = host.group(queue);
        (
            group.served_ns / US,
            group.waiting_ns / US,
            group.preemptions,
        )
    };
    assert_eq!(counts(&host, 1), (3_000, 0, 0));
    assert_eq!(counts(&host, 2), (1_500, 3_000, 1));
    host.run("idle 2; wait 700; ready 1; wait 300; idle 1");
    assert_eq!(counts(&host, 1), (3_300, 0, 0));
    assert_eq!(counts(&host, 2), (1_500, 3_000, 1));
    let queue = host.engine.queues(host.now).last().unwrap();
    assert_eq!(
        (queue.served_ns / US, queue.waiting_ns / US),
        (1_500, 3_000)
    );
}

#[test]
fn the_guard_gives_pieces() {
    let mut host = check_with(
        Config::default(),
        "new 1 high; new 2..3 low; ready 1..3; wait 266999",
        &[1],
    );
    host.run("wait 1");
    assert_eq!(host.open(), [2], "a piece is exclusive");
    host.run("wait 4999");
    assert_eq!(host.open(), [2]);
    host.run("wait 1");
    assert_eq!(host.open(), [1]);
    host.run("wait 14999");
    assert_eq!(host.open(), [1], "pieces keep their distance");
    host.run("wait 1");
    assert_eq!(host.open(), [3], "in turns");
    host.run("idle 3");
    assert_eq!(host.open(), [1], "a piece ends when it is not used");
    assert_eq!(host.group(1).preemptions, 2);
    assert_eq!(
        (host.group(1).min_share, host.group(2).min_share),
        (0.05, 0.05)
    );
    // Nobody waits so long, nobody is served.
    let regular = "ready 1; wait 250000; idle 1; wait 20000;".repeat(50);
    let host = check_with(
        Config::default(),
        &format!("new 1 high; new 2 low; ready 2; {regular}"),
        &[1, 2],
    );
    assert_eq!(host.group(1).preemptions, 0);
    // Waiting of old times is not owed to a group that was parked meanwhile.
    let old = "new 1 high; new 2 low; ready 1..2; wait 260000; idle 2; wait 300000; ready 2";
    check_with(Config::default(), &format!("{old}; wait 266999"), &[1]);
    check_with(Config::default(), &format!("{old}; wait 267000"), &[2]);
    // Off, held, not to run, stopped: nothing.
    check("new 1 high; new 2 low; ready 1..2; wait 267000", &[1]);
    check_with(
        Config::default(),
        "new 1 high; new 2 low; ready 1..2; hold 2; wait 267000",
        &[1],
    );
    check_with(
        Config::default(),
        "new 1 high; new 2 -256; ready 1..2; wait 267000",
        &[1],
    );
    check_with(
        Config::default(),
        "new 1 high; new 2 low; ready 1..2; stop 2; wait 267000",
        &[1],
    );
    // What ends a piece early: its group goes, may not run, or is held; not that the policy runs it, too.
    for end in ["gone 2", "pprio 2 -256", "hold 2", "stop 2"] {
        check_with(
            Config::default(),
            &format!("new 1 high; new 2 low; ready 1..2; wait 267000; {end}"),
            &[1],
        );
    }
    let both = "new 1 high; new 2 low; ready 1..2; wait 267000; pprio 2 high";
    check_with(Config::default(), both, &[2]);
    check_with(Config::default(), &format!("{both}; wait 5000"), &[1, 2]);
    check_with(
        Config::default(),
        "new 1 high; new 2 low; ready 1..2; wait 267000; idle 1",
        &[1, 2],
    );
}

#[test]
fn wrong_events_are_refused_and_change_nothing() {
    #[track_caller]
    fn check_refused(verb: &str, id: u64, rest: &[&str], expect: EventError) {
        let mut host = check("new 1 high; new 2 low; ready 1..2", &[1]);
        let before = format!("{:?}", host.engine.queues(host.now).collect::<Vec<_>>());
        assert_eq!(host.handle(event(verb, id, rest)), Err(expect));
        assert_eq!(
            format!("{:?}", host.engine.queues(host.now).collect::<Vec<_>>()),
            before
        );
    }
    for verb in ["ready", "idle", "hold", "unhold", "progress", "gone"] {
        check_refused(verb, 9, &[], EventError::UnknownQueue(QueueId(9)));
    }
    check_refused("prio", 9, &["0"], EventError::UnknownQueue(QueueId(9)));
    check_refused("pprio", 9, &["0"], EventError::UnknownProcess(ProcessId(9)));
    check_refused("stop", 9, &[], EventError::UnknownProcess(ProcessId(9)));
    check_refused("new", 1, &["0"], EventError::DuplicateQueue(QueueId(1)));
    // A process that had no queues may end.
    check("new 1 high; exit 9; exit 1; exit 1", &[]);
    // Time that goes back stands still.
    let mut host = check("new 1 high; new 2 low; ready 1..2", &[1]);
    host.now = 0;
    host.run("idle 1");
    host.now = 1_000 * MS + 200 * US;
    host.run("wait 0");
    assert_eq!(host.open(), [1, 2]);
}

#[test]
fn a_policy_that_asks_for_the_past_does_not_make_the_host_spin() {
    struct Hasty;
    impl Policy for Hasty {
        fn name(&self) -> &'static str {
            "hasty"
        }

        fn decide(&mut self, _now: Nanos, _snapshot: &Snapshot<'_>, decision: &mut Decision) {
            decision.ask_again(0);
        }

        fn forget(&mut self, _group: &GroupView) {}
    }
    let mut host = Host::new(Config::new(Box::new(Hasty)));
    host.run("new 1 0; ready 1");
    assert!(host.engine.next_timer() > Some(host.now));
}

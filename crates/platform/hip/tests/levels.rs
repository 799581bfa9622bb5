//! What each level does, decided by what the stand-in runtime and the stand-in `/dev/kfd` saw, and
//! how levels fall.

mod common;

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
    sync::atomic::Ordering::SeqCst,
};

use common::{
    Gated, Handle, Hip, NON_BLOCKING, SUCCESS,
    Value::{Address, Word},
    shared::{Daemon, LOCAL, a_moment, level, preloaded, scene, support, until},
    shim, shimmed, shimmed_saying, value,
};
use support::Peer;

const LEVEL_2: (&str, &str) = ("XSCHED_AUTO_XQUEUE_LEVEL", "2");

/// Held at a closed gate: the command behind the running one, on a stream that runs a kernel which
/// does not end.
#[test]
fn level_2_stops_a_stream_behind_the_running_command() {
    shimmed(&[LOCAL, LEVEL_2], |hip| {
        let gated = Gated::stream(hip, hip.stream(NON_BLOCKING));
        let (end, place) = (hip.word(), hip.word());
        let first = [Address(end.as_ptr().addr()), Word(1)];
        assert_eq!(
            hip.launch(gated.stream, hip.function("until_u32"), &first),
            SUCCESS
        );
        gated.close();
        gated.write(place, 1);
        end.store(1, SeqCst);
        a_moment();
        assert_eq!(
            value(place),
            0,
            "the running command ended, the next did not begin"
        );
        gated.open();
        hip.synchronize(gated.stream);
        assert_eq!((value(place), level()), (1, 2));
        let updates = hip.updates();
        assert_eq!(
            (updates.taken_off, updates.put_back, updates.wrong),
            (0, 0, 0)
        );
    });
}

#[test]
fn level_3_takes_the_running_command_off_and_puts_it_back() {
    shimmed(&[LOCAL], |hip| {
        let gated = Gated::stream(hip, hip.stream(NON_BLOCKING));
        let (end, place) = (hip.word(), hip.word());
        assert_eq!(level(), 3);
        for round in 1..4 {
            end.store(0, SeqCst);
            let first = [Address(end.as_ptr().addr()), Word(1)];
            assert_eq!(
                hip.launch(gated.stream, hip.function("until_u32"), &first),
                SUCCESS
            );
            let before = hip.updates();
            gated.close();
            until("every compute queue is off", || {
                let now = hip.updates();
                now.taken_off == before.taken_off + now.queues
            });
            gated.write(place, round);
            // It would end now, if it ran.
            end.store(1, SeqCst);
            a_moment();
            let query = cu!(hip, hipStreamQuery(gated.stream => Handle));
            assert_eq!((query, value(place)), (600, round - 1));
            gated.open();
            hip.synchronize(gated.stream);
            assert_eq!(value(place), round);
            until("all queues are back", || {
                let now = hip.updates();
                (now.put_back, now.wrong) == (now.taken_off, 0)
            });
        }
    });
}

#[test]
fn queues_that_come_and_go_are_learnt_and_forgotten() {
    shimmed(&[LOCAL], |hip| {
        let streams: Vec<_> = (0..6).map(|_| hip.stream(NON_BLOCKING)).collect();
        let gated = Gated::stream(hip, streams[0]);
        let end = hip.word();
        let held = [Address(end.as_ptr().addr()), Word(1)];
        assert_eq!(
            hip.launch(gated.stream, hip.function("until_u32"), &held),
            SUCCESS
        );
        gated.close();
        until("four queues are off", || hip.updates().taken_off == 4);
        end.store(1, SeqCst);
        gated.open();
        hip.synchronize(gated.stream);
        until("they are back", || hip.updates().put_back == 4);
        // The context goes with its queues, which nobody may name any more.
        ok!(hip, hipDeviceReset());
        let again = Gated::stream(hip, 0);
        again.close();
        hip.write(0, hip.word(), 1);
        until("the new queues are off", || hip.updates().taken_off > 4);
        again.open();
        hip.synchronize(0);
        until("they are back", || {
            hip.updates().put_back == hip.updates().taken_off
        });
        assert_eq!(hip.updates().wrong, 0);
    });
}

/// Why a level fell, for people, as `xsched list` says it.
fn falls(settings: &'static [(&'static str, &'static str)], expected: i32, reason: &str) {
    scene(&[("client", client)], || {
        let (daemon, shim) = (Daemon::start(), shim());
        common::runtime();
        let mut more = vec![daemon.variable()];
        more.extend(settings);
        let mut client = Peer::start("client", &preloaded(&shim, &more));
        assert_eq!(client.expect("in force:"), expected.to_string());
        let mut found = None;
        until("the daemon knows the queue", || {
            found = daemon.queues().pop();
            found.is_some()
        });
        let queue = found.unwrap();
        let text = format!("{queue:?}");
        assert!(text.contains(reason), "{text}");
        client.say("end");
        assert!(client.finish().success());
    });
}

fn client() {
    let hip = Hip::load();
    let place = hip.word();
    for number in 1..50 {
        hip.write(0, place, number);
    }
    hip.synchronize(0);
    assert_eq!(value(place), 49);
    assert_eq!(
        cu!(hip, hipGetLastError()),
        0,
        "what the shim tried is not the program's error"
    );
    until("scheduled", || level() != 0);
    println!("in force: {}", level());
    support::listen();
}

#[test]
fn without_waits_for_values_it_is_level_1() {
    falls(&[("STANDIN_WAIT", "none")], 1, "cannot wait for a value");
}

#[test]
fn without_signal_memory_it_is_level_1() {
    falls(
        &[("STANDIN_FAIL", "hipExtMallocWithFlags:2")],
        1,
        "refused signal memory (error 2)",
    );
}

#[test]
fn when_the_kernel_refuses_it_is_level_2() {
    falls(
        &[("STANDIN_FAIL", "ioctl:EPERM")],
        2,
        "the kernel refused to update a queue",
    );
}

/// However many streams a program has, at each of which the platform refuses.
#[test]
fn why_a_level_is_no_higher_is_said_in_one_line_of_the_log() {
    let refusals = [
        ("hipExtMallocWithFlags:2", "refused signal memory (error 2)"),
        ("ioctl:EPERM", "the kernel refused to update a queue"),
    ];
    for (failure, line) in refusals {
        let more = [LOCAL, ("XSCHED_LOG", "info"), ("STANDIN_FAIL", failure)];
        let told = common::told("STANDIN_FAIL");
        if support::role().is_none() || told == failure {
            shimmed_saying(Some(line), &more, |hip| {
                let place = hip.word();
                for stream in [0, hip.stream(NON_BLOCKING), hip.stream(0)] {
                    hip.write(stream, place, 1);
                    hip.synchronize(stream);
                }
                assert_eq!(value(place), 1);
            });
        }
    }
}

#[test]
fn with_several_gpus_in_a_process_it_is_level_2() {
    shimmed_saying(None, &[LOCAL, ("STANDIN_DEVICES", "2")], |hip| {
        Gated::stream(hip, 0);
        assert_eq!(hip.set_device(1), SUCCESS);
        let second = Gated::stream(hip, 0);
        until("the lower level is in force", || level() == 2);
        second.close();
        hip.write(0, hip.word(), 1);
        a_moment();
        assert_eq!(
            hip.updates().taken_off,
            0,
            "whose queues they are is not known"
        );
        second.open();
        hip.synchronize(0);
    });
}

/// The user's trials: no priority was ever set, since a preload alone had no scheduler behind it and
/// nobody was told.
#[test]
fn a_preload_without_a_scheduler_says_so_once_and_runs() {
    scene(&[("client", lone_client)], || {
        let folder = tempfile::tempdir().unwrap();
        let (socket, shim) = (folder.path().join("none.sock"), shim());
        common::runtime();
        let variable = ("XSCHED_SOCKET", socket.to_str().unwrap());
        let mut client = support::command("client", &preloaded(&shim, &[variable]))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(client.stderr.take().unwrap()).lines();
        let mut said = lines.by_ref().map_while(Result::ok);
        // The agent's thread says it in its own time; the client stays until then.
        assert!(said.any(|line| line.contains("no scheduler at")));
        drop(client.stdin.take());
        assert!(client.wait().unwrap().success());
        let more: Vec<_> = lines.map_while(Result::ok).collect();
        assert!(
            more.iter().all(|line| !line.starts_with("xsched")),
            "{more:?}"
        );
    });
}

fn lone_client() {
    let hip = Hip::load();
    let place = hip.word();
    for number in 1..100 {
        hip.write(0, place, number);
    }
    hip.synchronize(0);
    assert_eq!((value(place), level()), (99, 0));
    support::listen();
}

/// A client that is held by its daemon with a command behind the gate.
fn held_client() {
    let hip = Hip::load();
    let (stream, place) = (hip.stream(NON_BLOCKING), hip.word());
    hip.write(stream, place, 1);
    hip.synchronize(stream);
    println!("launched");
    support::listen();
    hip.write(stream, place, 2);
    println!("submitted");
    hip.synchronize(stream);
    println!("value {}", value(place));
}

#[test]
fn a_daemon_that_is_killed_holds_nobody() {
    scene(&[("client", held_client)], || {
        let (mut daemon, shim) = (Daemon::start(), shim());
        common::runtime();
        let mut client = Peer::start("client", &preloaded(&shim, &[daemon.variable()]));
        client.expect("launched");
        until("the daemon knows the queue", || daemon.queues().len() == 1);
        daemon.hint(&daemon.queues()[0], common::shared::NO_RUN);
        client.say("go on");
        client.expect("submitted");
        daemon.peer.kill();
        assert_eq!(client.expect("value"), "2");
        assert!(client.finish().success());
    });
}

/// The user's trials: suspending one stream of a process while another waited on it deadlocked LLM
/// servers.
#[test]
fn a_stream_that_waits_for_a_held_one_of_the_same_process_gets_through() {
    shimmed(&[LOCAL], |hip| {
        let held = Gated::stream(hip, hip.stream(NON_BLOCKING));
        let urgent = Gated::stream(hip, hip.stream(NON_BLOCKING));
        assert_eq!(common::shared::set_priority(urgent.stream, 5), 0);
        let (place, mut event) = (hip.word(), 0);
        ok!(hip, hipEventCreate(&mut event => &mut Handle));
        held.close();
        hip.write(held.stream, place, 1);
        ok!(hip, hipEventRecord(event => Handle, held.stream => Handle));
        ok!(hip, hipStreamWaitEvent(urgent.stream => Handle, event => Handle, 0 => u32));
        hip.write(urgent.stream, place, 2);
        hip.synchronize(urgent.stream);
        assert_eq!(value(place), 2);
        held.open();
    });
}

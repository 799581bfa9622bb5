//! `--trace`: the file of a daemon that two programs used, read as a viewer reads it.

mod common;

use std::{collections::BTreeMap, fs, path::Path};

use common::*;
use serde_json::Value;
use xsched_server::{BadOption, Daemon, TraceOptions};

fn traced(limit: u64) -> TestDaemon {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("trace.json");
    TestDaemon::start_in(dir, |options| {
        options.trace = Some(TraceOptions { file, limit });
    })
}

fn read(text: &str) -> Vec<Value> {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn word<'a>(event: &'a Value, key: &str) -> &'a str {
    event[key].as_str().unwrap_or_default()
}

/// The events of each track, in the order of the file.
fn tracks(events: &[Value]) -> BTreeMap<(u64, u64), Vec<&Value>> {
    let mut tracks: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for event in events {
        let number = |key: &str| event[key].as_u64();
        if let (Some(pid), Some(tid)) = (number("pid"), number("tid")) {
            tracks.entry((pid, tid)).or_default().push(event);
        }
    }
    tracks
}

/// Checks that the slices of a queue nest, and gives the inner ones in order.
fn slices(track: &[&Value], complete: bool) -> Vec<String> {
    let (mut open, mut inner) = (Vec::<String>::new(), Vec::<String>::new());
    let mut last = 0.0;
    for event in track {
        let Some(at) = event["ts"].as_f64() else {
            continue;
        };
        assert!(at >= last, "time goes back: {event}");
        last = at;
        match word(event, "ph") {
            "B" => {
                let name = word(event, "name").to_owned();
                match open.len() {
                    0 => assert_eq!(name, "ready"),
                    1 => inner.push(name.clone()),
                    _ => panic!("a third slice: {event}"),
                }
                open.push(name);
            }
            "E" => {
                open.pop().expect("a slice to end");
            }
            _ => {}
        }
    }
    assert!(!complete || open.is_empty(), "left open: {open:?}");
    inner
}

/// The inner slices of the program of a name.
fn of(events: &[Value], name: &str, complete: bool) -> Vec<String> {
    let named = |event: &&Value| {
        word(event, "name") == "process_name" && word(&event["args"], "name").starts_with(name)
    };
    let event = events.iter().find(named).expect("its process has a name");
    let key = (
        event["pid"].as_u64().unwrap(),
        event["tid"].as_u64().unwrap(),
    );
    slices(&tracks(events)[&key], complete)
}

#[test]
fn a_trace_shows_who_ran_and_who_was_held() {
    let daemon = traced(1 << 20);
    let (high, low) = high_and_low(&daemon);
    check_scheduled(&high, &low);
    check_scheduled(&high, &low);
    low.finish(0);
    let dir = daemon.stop();
    let events = read(&fs::read_to_string(dir.path().join("trace.json")).unwrap());

    // The low one is held twice; the high one always runs. A queue may become ready before its gate
    // opens, so each may begin with a held slice.
    let low = of(&events, "low", true);
    let held = low.iter().skip(1).filter(|name| *name == "held").count();
    assert!(held >= 2, "{low:?}");
    assert!(low.windows(2).all(|pair| pair[0] != pair[1]), "{low:?}");
    assert_eq!(low.last().unwrap(), "running");
    let high = of(&events, "high", true);
    assert!(high.iter().filter(|name| *name == "running").count() >= 2);

    for key in tracks(&events).values() {
        slices(key, true);
    }
    let decisions: Vec<_> = events.iter().filter(|e| word(e, "ph") == "X").collect();
    assert!(decisions.iter().any(|event| word(event, "name") == "ready"));
    let mut end = 0.0;
    for decision in &decisions {
        assert_eq!(word(&decision["args"], "policy"), "hpf");
        let start = decision["ts"].as_f64().unwrap();
        // Figures are of nanoseconds, in microseconds.
        assert!(start >= end - 0.002, "decisions overlap: {decision}");
        end = start + decision["dur"].as_f64().unwrap();
    }
    let gates = |name: &str| events.iter().filter(|e| word(e, "name") == name).count();
    assert!(gates("gate opens") >= 3 && gates("gate closes") >= 2);
    let both = |event: &&Value| {
        word(event, "name") == "queues on cpu:0"
            && event["args"]["running"] == 1
            && event["args"]["held"] == 1
    };
    assert!(events.iter().any(|event| both(&event)), "a device track");
}

#[test]
fn a_trace_of_a_daemon_that_still_runs_lacks_only_its_end() {
    let daemon = traced(1 << 20);
    let (high, low) = high_and_low(&daemon);
    check_scheduled(&high, &low);
    let file = daemon.dir.path().join("trace.json");
    let text = || fs::read_to_string(&file).unwrap();
    wait_until("a gate in the file", || {
        text().matches("gate closes").count() > 0
    });
    // What a kill would leave now.
    let events = read(&(text() + "]"));
    assert!(!of(&events, "low", false).is_empty());
}

#[test]
fn a_trace_ends_at_its_limit() {
    let limit = 80 * 1024;
    let daemon = traced(limit);
    let (high, low) = high_and_low(&daemon);
    let file = daemon.dir.path().join("trace.json");
    let full = || fs::read_to_string(&file).unwrap().contains("trace is full");
    let mut rounds = 0;
    while !full() {
        check_scheduled(&high, &low);
        rounds += 1;
        assert!(rounds < 10_000, "never full");
    }
    check_scheduled(&high, &low);
    let dir = daemon.stop();
    let text = fs::read_to_string(dir.path().join("trace.json")).unwrap();
    assert!((text.len() as u64) < limit, "{} bytes", text.len());
    let events = read(&text);
    for track in tracks(&events).values() {
        slices(track, true);
    }
}

#[test]
fn an_unwritable_trace_is_refused_before_anything_starts() {
    let check = |file: &Path, expect: &str| {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(&dir.path().join("x.sock"));
        options.trace = Some(TraceOptions {
            file: file.into(),
            limit: 1 << 20,
        });
        let error = Daemon::bind(options).err().expect("refused");
        let line = format!("{error:#}");
        assert!(error.downcast_ref::<BadOption>().is_some(), "{line}");
        assert!(line.contains(expect) && !line.contains('\n'), "{line}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{line}");
    };
    let dir = tempfile::tempdir().unwrap();
    check(dir.path(), "cannot be written");
    check(&dir.path().join("missing/trace.json"), "cannot be written");
}

#[test]
fn a_trace_that_another_daemon_writes_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let bind = |socket: &str| {
        let mut options = options(&dir.path().join(socket));
        options.trace = Some(TraceOptions {
            file: dir.path().join("trace.json"),
            limit: 1 << 20,
        });
        Daemon::bind(options)
    };
    let first = bind("one.sock").unwrap();
    let error = bind("two.sock").err().expect("refused");
    let line = format!("{error:#}");
    assert!(line.contains("written by another daemon"), "{line}");
    drop(first);
    bind("two.sock").unwrap();
}

#[test]
fn a_daemon_that_is_refused_leaves_trace_files_alone() {
    let daemon = TestDaemon::start();
    let file = daemon.dir.path().join("trace.json");
    let bind = || {
        let mut options = options(&daemon.socket);
        options.trace = Some(TraceOptions {
            file: file.clone(),
            limit: 1 << 20,
        });
        assert!(Daemon::bind(options).is_err(), "the socket is taken");
    };
    bind();
    assert!(!file.exists());
    fs::write(&file, "kept").unwrap();
    bind();
    assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
}

//! Policies and hints with real processes on the CPU device: changed while programs run.

mod common;
#[path = "common/guest.rs"]
mod guest;

use common::{Daemon, PATIENCE, wait_until};
use guest::Guest;
use xsched_wire::Level;

/// The role of a process that the other tests start.
#[test]
fn guest_process() {
    if std::env::var_os(guest::ROLE_VARIABLE).is_some() {
        guest::serve();
    }
}

fn running(daemon: &Daemon, names: &[&str]) -> Vec<Guest> {
    let start = |name: &&str| Guest::running(daemon, name, Level::Lv2);
    names.iter().map(start).collect()
}

fn said(command: &mut assert_cmd::Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Changes nothing, in one line with exit code 2.
#[track_caller]
fn refused(daemon: &Daemon, args: &[&str], expect: &[&str]) {
    let hints = || {
        daemon
            .queues()
            .into_iter()
            .map(|queue| queue.hints)
            .collect::<Vec<_>>()
    };
    let before = hints();
    let output = daemon.xsched().args(args).output().unwrap();
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        (output.status.code(), line.lines().count()),
        (Some(2), 1),
        "{line}"
    );
    for part in expect {
        assert!(line.contains(part), "{line} does not name {part}");
    }
    assert_eq!(hints(), before);
}

#[test]
fn a_policy_is_changed_while_programs_run() {
    let daemon = Daemon::start();
    let mut guests = running(&daemon, &["a", "b", "c"]);
    let policies = said(daemon.xsched().args(["policy", "--list"]));
    let names: Vec<&str> = policies
        .lines()
        .filter_map(|line| line[2..].split_whitespace().next())
        .collect();
    assert!(names.len() >= 14, "{names:?}");
    for name in names {
        assert_eq!(
            said(daemon.xsched().args(["policy", name])),
            format!("{name}\n")
        );
        // At once: no list shows more than one of them running, where one may.
        if ["turns", "up", "pup", "spup", "kedf", "cfs", "mlfq"].contains(&name) {
            for _ in 0..20 {
                let queues = daemon.queues();
                let run = queues
                    .iter()
                    .filter(|queue| queue.ready && queue.open)
                    .count();
                assert!(run <= 1 && queues.len() == 3, "{name}: {queues:?}");
            }
        }
        // Nobody is lost.
        for guest in &mut guests {
            guest.advance(2);
        }
    }
}

#[test]
fn hints_reach_the_policy_by_pid_queue_and_name() {
    let daemon = Daemon::start_with(&["--policy", "up"]);
    let guests = running(&daemon, &["a", "b"]);
    let listed = |guest: &Guest, hint: &str| {
        let queue = guest.queue(&daemon).unwrap();
        queue.hints.get(hint).map(ToString::to_string)
    };
    let pid = guests[0].pid().to_string();
    let line = said(
        daemon
            .xsched()
            .args(["hint", "--pid", &pid, "--utilization", "75"]),
    );
    assert_eq!(line, format!("pid {pid}: utilization 75\n"));
    assert_eq!(listed(&guests[0], "utilization").as_deref(), Some("75"));
    said(daemon.xsched().args([
        "hint",
        "--name",
        "b",
        "--utilization",
        "25",
        "--timeslice",
        "30ms",
    ]));
    assert_eq!(listed(&guests[1], "timeslice").as_deref(), Some("30000"));
    let table = said(daemon.xsched().arg("list"));
    assert!(
        table.contains("utilization 75") && table.contains("MIN SHARE"),
        "{table}"
    );

    let queue = guests[1].queue(&daemon).unwrap().id.to_string();
    said(
        daemon
            .xsched()
            .args(["hint", "--queue", &queue, "--utilization", "20"]),
    );
    assert_eq!(listed(&guests[1], "utilization").as_deref(), Some("20"));

    refused(
        &daemon,
        &["hint", "--pid", &pid, "--utilization", "81"],
        &["81", "80 percent", "cpu:"],
    );
    refused(
        &daemon,
        &["hint", "--pid", &pid, "--utilization", "101"],
        &["101", "0 to 100"],
    );
    refused(
        &daemon,
        &["hint", "--pid", &pid, "--deadline", "0"],
        &["1us to 1h"],
    );
    refused(
        &daemon,
        &["hint", "--pid", &pid, "--deadline", "5ms"],
        &["up", "kedf"],
    );
    refused(&daemon, &["hint", "--pid", &pid, "--weight", "5"], &["cfs"]);
    refused(&daemon, &["policy", "best"], &["best", "mlfq"]);
    assert_eq!(daemon.status().policy, "up");
}

#[test]
fn what_stands_in_the_environment_reaches_the_daemon() {
    let daemon = Daemon::start_with(&["--policy", "kedf"]);
    let variables = [
        ("XSCHED_AUTO_XQUEUE_DEADLINE", "33000"),
        ("XSCHED_AUTO_XQUEUE_KDEADLINE", "2"),
        ("XSCHED_AUTO_XQUEUE_UTILIZATION", "30"),
        ("XSCHED_AUTO_XQUEUE_LAXITY", "1000"),
    ];
    let mut guest = Guest::start_with(&daemon, "env", 7, Level::Lv1, &variables);
    guest.ask("once");
    wait_until(|| guest.queue(&daemon).is_some(), PATIENCE);
    let hints = guest.queue(&daemon).unwrap().hints;
    let expect = serde_json::json!({
        "priority": 7, "deadline": 33000, "kdeadline": 2, "utilization": 30, "laxity": "1000:0:7",
    });
    assert_eq!(serde_json::to_value(hints).unwrap(), expect);
}

#[test]
fn a_share_from_the_environment_that_does_not_fit_is_said_and_left_out() {
    let daemon = Daemon::start_with(&["--policy", "up"]);
    let start = |name: &str, share: &str| {
        let variables = [("XSCHED_AUTO_XQUEUE_UTILIZATION", share)];
        let mut guest = Guest::start_with(&daemon, name, 0, Level::Lv1, &variables);
        guest.ask("once");
        wait_until(|| guest.queue(&daemon).is_some(), PATIENCE);
        guest
    };
    let stated = |guest: &Guest| {
        let queue = guest.queue(&daemon).unwrap();
        queue.hints.get("utilization").map(ToString::to_string)
    };
    let first = start("first", "70");
    let second = start("second", "50");
    let line =
        "utilization 50 does not fit on cpu:0: use 30 percent at most, or lower others' first";
    wait_until(
        || daemon.programs_said().contains(line) && daemon.log().contains(line),
        PATIENCE,
    );
    assert_eq!(stated(&first).as_deref(), Some("70"));
    assert_eq!(stated(&second), None);
    let third = start("third", "30");
    assert_eq!(stated(&third).as_deref(), Some("30"));
    assert_eq!(daemon.programs_said().matches("does not fit").count(), 1);
}

#[test]
fn the_nice_value_and_the_active_window_count() {
    use xsched_server::api::{ActiveWindow, path};
    let daemon = Daemon::start_with(&["--policy", "awf", "--min-share", "0"]);
    let guests = running(&daemon, &["a", "b"]);
    let runs_alone = |which: usize| {
        let is_so = || {
            let open = |guest: &Guest| guest.queue(&daemon).unwrap().open;
            open(&guests[which]) && !open(&guests[1 - which])
        };
        wait_until(is_so, PATIENCE);
    };
    for which in [0, 1] {
        let pid = Some(guests[which].pid());
        let _: ActiveWindow = daemon
            .client()
            .put(path::ACTIVE_WINDOW, &ActiveWindow { pid })
            .unwrap();
        runs_alone(which);
    }
    // Children of the window's process count as well: both are this test's.
    let pid = Some(std::process::id());
    let _: ActiveWindow = daemon
        .client()
        .put(path::ACTIVE_WINDOW, &ActiveWindow { pid })
        .unwrap();
    let both = || daemon.queues().iter().all(|queue| queue.open);
    wait_until(both, PATIENCE);

    said(daemon.xsched().args(["policy", "chpf"]));
    wait_until(both, PATIENCE);
    let pid = rustix::process::Pid::from_raw(guests[1].pid() as i32);
    rustix::process::setpriority_process(pid, 10).unwrap();
    runs_alone(0);
}

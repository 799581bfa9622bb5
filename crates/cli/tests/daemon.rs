//! The commands that ask a daemon, as black boxes: `list`, `hint`, `policy`, `serve`, `doctor`.

mod common;

use std::{fs, os::unix::fs::PermissionsExt, process::Stdio};

use common::{
    Daemon, PATIENCE, RawClient, clean, executable, is_alive, signal, wait_until, xsched,
};
use rustix::process::Signal;
use serde_json::Value;
use xsched_wire::Level;

/// What a command that must succeed prints.
fn said(command: &mut assert_cmd::Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The one line of a command that must fail.
#[track_caller]
fn refused(command: &mut assert_cmd::Command, code: i32) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(
        line.starts_with("xsched: ") && line.lines().count() == 1,
        "{line}"
    );
    line
}

#[test]
fn list_shows_every_queue() {
    let daemon = Daemon::start();
    assert!(said(daemon.xsched().arg("list")).starts_with("no queues"));
    assert_eq!(
        said(daemon.xsched().args(["list", "--json"])),
        "{\n  \"queues\": []\n}\n"
    );

    let high = RawClient::register(&daemon, "server", Some(100));
    high.create_queue(0, Level::Lv3, None);
    let low = RawClient::register(&daemon, "train", Some(-100));
    low.create_queue(5, Level::Lv2, Some("RLIMIT_NICE is too low"));
    low.become_ready(5);
    wait_until(|| daemon.queues()[1].ready, PATIENCE);

    let mut list: Value =
        serde_json::from_str(&said(daemon.xsched().args(["list", "--json"]))).unwrap();
    for queue in list["queues"].as_array_mut().unwrap() {
        assert_eq!(queue["pid"], std::process::id());
        assert_eq!(queue["uid"], rustix::process::geteuid().as_raw());
        for (key, shape) in [("pid", "[pid]"), ("uid", "[uid]"), ("served_ms", "[ms]")] {
            queue[key] = shape.into();
        }
    }
    insta::assert_json_snapshot!("list", list);

    let table = said(daemon.xsched().arg("list"));
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines.len(), 3, "{table}");
    assert_eq!(
        lines[0][..5],
        ["QUEUE", "PID", "NAME", "DEVICE", "PRIORITY"]
    );
    assert_eq!(lines[1][2..7], ["server", "cpu:0", "100", "3", "idle"]);
    assert_eq!(lines[2][2..7], ["train", "cpu:0", "-100", "2", "running"]);
    assert!(table.contains("RLIMIT_NICE is too low"), "{table}");

    high.become_ready(0);
    wait_until(|| !daemon.queues()[1].open, PATIENCE);
    let table = said(daemon.xsched().arg("list"));
    assert!(table.lines().nth(2).unwrap().contains(" held "), "{table}");
}

#[test]
fn a_hint_changes_a_process_a_queue_or_a_name() {
    let daemon = Daemon::start();
    let client = RawClient::register(&daemon, "train", None);
    client.create_queue(0, Level::Lv1, None);
    client.create_queue(1, Level::Lv1, None);
    let priorities = || {
        daemon
            .queues()
            .iter()
            .map(|queue| queue.priority)
            .collect::<Vec<_>>()
    };
    let hint = |target: &[&str], priority: &str| {
        let mut command = daemon.xsched();
        said(
            command
                .arg("hint")
                .args(target)
                .args(["--priority", priority]),
        )
    };
    let pid = std::process::id().to_string();

    assert_eq!(priorities(), [0, 0]);
    assert_eq!(
        hint(&["--pid", &pid], "-5"),
        format!("pid {pid}: priority -5\n")
    );
    assert_eq!(priorities(), [-5, -5]);
    hint(&["--name", "train"], "high");
    assert_eq!(priorities(), [100, 100]);
    let queue = daemon.queues()[1].id.to_string();
    let line = hint(&["--queue", &queue], "-256");
    assert_eq!(line, format!("queue {queue} of pid {pid}: priority -256\n"));
    assert_eq!(priorities(), [100, -256]);
}

#[test]
fn a_hint_that_cannot_be_is_one_line() {
    let daemon = Daemon::start();
    let hint = |args: &[&str], code| refused(daemon.xsched().arg("hint").args(args), code);
    let line = hint(&["--pid", "1", "--priority", "999"], 2);
    assert!(
        line.contains("999") && line.contains("-255") && line.contains("255"),
        "{line}"
    );
    hint(&["--pid", "1"], 2);
    hint(&["--priority", "1"], 2);
    hint(&["--pid", "1", "--queue", "1", "--priority", "1"], 2);
    hint(&["--pid", "one", "--priority", "1"], 2);
    // Nobody of that kind is registered.
    let line = hint(&["--pid", "1", "--priority", "1"], 1);
    assert!(line.contains('1'), "{line}");
    hint(&["--queue", "77", "--priority", "1"], 1);
    let line = hint(&["--name", "nobody", "--priority", "1"], 1);
    assert!(line.contains("nobody"), "{line}");
}

#[test]
fn the_policy_is_shown_listed_and_changed() {
    let daemon = Daemon::start();
    let policy = |args: &[&str]| said(daemon.xsched().arg("policy").args(args));
    assert_eq!(policy(&[]), "hpf\n");
    assert_eq!(policy(&["fifo"]), "fifo\n");
    assert_eq!(daemon.status().policy, "fifo");
    let list = policy(&["--list"]);
    assert!(
        list.contains("  hpf    highest") && list.contains("* fifo   no scheduling"),
        "{list}"
    );

    let line = refused(daemon.xsched().args(["policy", "best"]), 2);
    assert!(
        line.contains("best") && line.contains("hpf") && line.contains("fifo"),
        "{line}"
    );
    assert_eq!(policy(&[]), "fifo\n");
}

#[test]
fn without_a_daemon_the_line_says_how_to_start_one() {
    let dir = tempfile::tempdir().unwrap();
    for args in [
        &["list"][..],
        &["policy"],
        &["hint", "--pid", "1", "--priority", "0"],
    ] {
        let mut command = xsched();
        command
            .env("XSCHED_SOCKET", dir.path().join("xsched.sock"))
            .args(args);
        let line = refused(&mut command, 1);
        assert!(
            line.contains("no daemon is running") && line.contains("xsched serve"),
            "{line}"
        );
    }
}

#[test]
fn a_daemon_that_hangs_is_not_waited_for() {
    let daemon = Daemon::start();
    signal(daemon.pid(), Signal::STOP).unwrap();
    let line = refused(daemon.xsched().arg("list"), 1);
    assert!(line.contains("does not answer"), "{line}");
}

#[test]
fn serve_takes_policy_and_share() {
    let daemon = Daemon::start_with(&["--policy", "fifo", "--min-share", "10"]);
    let status = daemon.status();
    assert_eq!(status.policy, "fifo");
    assert!(
        (status.min_share - 0.10).abs() < 1e-9,
        "{}",
        status.min_share
    );
    assert_eq!(status.socket, daemon.socket());
    assert_eq!(status.pid, daemon.pid());
}

#[test]
fn serve_refuses_bad_input_before_it_listens() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("xsched.sock");
    let check = |args: &[&str], expect: &str| {
        let line = refused(
            xsched()
                .arg("serve")
                .arg("--socket")
                .arg(&socket)
                .args(args),
            2,
        );
        assert!(line.contains(expect), "{line}");
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            0,
            "nothing half-made"
        );
    };
    check(&["--policy", "best"], "hpf");
    check(&["--min-share", "26"], "0 to 25");
    check(&["--min-share", "NaN"], "0 to 25");
    check(&["--exit-when-unused", "-1"], "seconds");
    check(&["--trace", "/proc/trace.json"], "cannot be written");
    check(&["--trace-limit", "0"], "0 is not in");
    let nowhere = dir.path().join("missing/xsched.sock");
    let line = refused(xsched().arg("serve").arg("--socket").arg(nowhere), 2);
    assert!(
        line.contains("missing") && line.contains("create it"),
        "{line}"
    );
}

#[test]
fn one_daemon_a_socket() {
    let mut daemon = Daemon::start();
    let line = refused(
        xsched().arg("serve").arg("--socket").arg(daemon.socket()),
        1,
    );
    assert!(line.contains(daemon.socket().to_str().unwrap()), "{line}");
    assert_eq!(daemon.status().pid, daemon.pid(), "the first one serves on");

    // What a crash leaves behind is no obstacle; an orderly end leaves nothing.
    daemon.kill();
    assert!(daemon.socket().exists());
    daemon.restart();
    assert!(daemon.end().success());
    assert!(!daemon.socket().exists());
}

#[test]
fn serve_finds_its_socket_in_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("named.sock");
    let mut command = clean(executable());
    command
        .env("XSCHED_SOCKET", &socket)
        .arg("serve")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let program = common::Program::start(&mut command);
    wait_until(|| common::status(&socket).is_some(), PATIENCE);
    assert_eq!(common::status(&socket).unwrap().pid, program.pid());
}

#[test]
fn the_log_follows_its_variable() {
    let daemon = Daemon::start();
    let client = RawClient::register(&daemon, "train", None);
    client.create_queue(0, Level::Lv1, None);
    wait_until(|| daemon.log().contains("train"), PATIENCE);

    let assert = daemon
        .xsched()
        .env("XSCHED_LOG", "loud")
        .arg("policy")
        .assert()
        .success();
    let text = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
    assert!(
        text.contains("XSCHED_LOG") && text.contains("is ignored"),
        "{text}"
    );
}

#[test]
fn doctor_checks_this_machine() {
    let daemon = Daemon::start();
    let file = daemon.dir().join("doctor.json");
    let mut command = daemon.xsched();
    command
        .arg("doctor")
        .arg("--json")
        .arg(&file)
        .env("XDG_RUNTIME_DIR", daemon.dir());
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("PASSED  daemon: ") && text.contains(&daemon.pid().to_string()),
        "{text}"
    );
    for name in [
        "kernel", "memory", "futex", "eventfd", "pidfd", "socket", "settings",
    ] {
        assert!(
            text.contains(&format!("PASSED  {name}: ")),
            "{name} in {text}"
        );
    }
    assert!(text.ends_with("PASSED: this machine is ready\n"), "{text}");

    let report: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(report["passed"], true);
    assert_eq!(report["platform"], "cpu");
    assert_eq!(report["checks"][0]["name"], "kernel");
    assert_eq!(report["checks"][0]["verdict"], "passed");
}

#[test]
fn doctor_says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("xsched")).unwrap();
    fs::set_permissions(dir.path().join("xsched"), fs::Permissions::from_mode(0o777)).unwrap();
    let mut command = xsched();
    command
        .arg("doctor")
        .env("XDG_RUNTIME_DIR", dir.path())
        .env("XSCHED_SOCKET", dir.path().join("nobody.sock"))
        .env("XSCHED_AUTO_XQUEUE_PRIORITY", "300");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    for failed in ["FAILED  settings: ", "FAILED  socket: ", "FAILED  daemon: "] {
        assert!(text.contains(failed), "{failed} in {text}");
    }
    assert!(
        text.contains("-> start one with `xsched serve --socket"),
        "{text}"
    );
    assert!(
        text.ends_with("FAILED: 3 checks need your attention\n"),
        "{text}"
    );
}

#[test]
fn doctor_refuses_what_it_cannot_do() {
    let dir = tempfile::tempdir().unwrap();
    let line = refused(xsched().args(["doctor", "--platform", "abacus"]), 2);
    assert!(line.contains("abacus") && line.contains("cpu"), "{line}");
    for file in [dir.path().join("no/such/dir/x.json"), dir.path().to_owned()] {
        let line = refused(xsched().arg("doctor").arg("--json").arg(&file), 2);
        assert!(line.contains("cannot write"), "{line}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_daemon_without_programs_ends_when_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = clean(executable());
    command
        .arg("serve")
        .arg("--socket")
        .arg(dir.path().join("xsched.sock"));
    command
        .args(["--exit-when-unused", "0.2"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut program = common::Program::start(&mut command);
    assert!(program.wait().success());
    assert!(!is_alive(program.pid()));
    assert!(!dir.path().join("xsched.sock").exists());
}

#[test]
fn help_says_which_way_priorities_count() {
    for command in ["run", "hint"] {
        let help = said(xsched().args([command, "--help"]));
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(help.contains("larger number is more urgent (MPS and HAMi count the other way)"));
    }
    let help = said(xsched().arg("--help"));
    for command in ["run", "serve", "list", "hint", "policy", "doctor", "bench"] {
        assert!(help.contains(&format!("\n  {command} ")), "{help}");
    }
    assert!(!help.contains("worker"), "{help}");
}

//! The daemon's own life: options, one daemon a socket, its end.

mod common;

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use common::*;
use rustix::process::{Pid, Signal, kill_process};
use xsched_server::{BadOption, Client, Daemon, ServeOptions, api, serve};
use xsched_wire::endpoint::http_socket;

#[track_caller]
fn check_bad(expect: &str, adjust: impl FnOnce(&mut ServeOptions)) {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(&dir.path().join("x.sock"));
    adjust(&mut options);
    let error = Daemon::bind(options).err().expect("refused");
    let line = format!("{error:#}");
    assert!(error.downcast_ref::<BadOption>().is_some(), "{line}");
    assert!(line.contains(expect) && !line.contains('\n'), "{line}");
    let left = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 0, "nothing half-made");
}

#[test]
fn options_out_of_range_are_named() {
    check_bad("hpf", |options| options.policy = "best".into());
    check_bad("use 0 (none) to 0.25", |options| options.min_share = 0.26);
    check_bad("use 0 (none) to 0.25", |options| options.min_share = -0.1);
    check_bad("use 0 (none) to 0.25", |o| o.min_share = f64::NAN);
    check_bad("at most", |o| o.socket.push("x".repeat(120)));
}

#[test]
fn a_second_daemon_is_refused_and_the_first_serves_on() {
    let daemon = TestDaemon::start();
    let error = Daemon::bind(options(&daemon.socket)).err().unwrap();
    let line = format!("{error:#}");
    assert!(line.contains("another daemon (pid"), "{line}");
    assert!(error.downcast_ref::<BadOption>().is_none());
    let (high, low) = high_and_low(&daemon);
    check_scheduled(&high, &low);
    let dir = daemon.stop();
    let next = TestDaemon::start_in(dir, |_| {});
    assert!(next.api().get::<api::Status>(api::path::STATUS).is_ok());
}

#[test]
fn nothing_is_left_at_the_end() {
    let daemon = TestDaemon::start();
    let socket = daemon.socket.clone();
    let client = RawClient::join(&daemon, "one", None);
    let _dir = daemon.stop();
    assert!(!socket.exists() && !http_socket(&socket).exists());
    assert!(Client::connect(&socket).is_err());
    let message = xsched_wire::packet::recv::<xsched_wire::FromScheduler>(&client.socket);
    assert!(message.is_err(), "{message:?}");
}

#[test]
fn an_unused_daemon_ends_itself() {
    let limit = Duration::from_millis(300);
    let daemon = TestDaemon::start_in(tempfile::tempdir().unwrap(), |options| {
        options.exit_when_unused = Some(limit);
    });
    let client = RawClient::join(&daemon, "user", None);
    std::thread::sleep(limit * 3);
    assert!(!daemon.has_ended(), "somebody uses it");
    drop(client);
    wait_until("end", || daemon.has_ended());
    assert!(!daemon.socket.exists());
}

#[test]
fn a_daemon_that_nobody_ever_used_ends_itself() {
    let daemon = TestDaemon::start_in(tempfile::tempdir().unwrap(), |options| {
        options.exit_when_unused = Some(Duration::from_millis(50));
    });
    wait_until("end", || daemon.has_ended());
}

#[test]
fn a_daemon_lasts_as_long_as_a_process_that_called_it() {
    let limit = Duration::from_millis(300);
    let daemon = TestDaemon::start_in(tempfile::tempdir().unwrap(), |options| {
        options.exit_when_unused = Some(limit);
    });
    let client = RawClient::join(&daemon, "until it is called", None);
    let (mut caller, _output) = start_role("caller_process", "CALLED", &daemon.socket);
    drop(client);
    std::thread::sleep(limit * 3);
    assert!(!daemon.has_ended(), "the caller may become a program");
    caller.kill().unwrap();
    caller.wait().unwrap();
    wait_until("end", || daemon.has_ended());
}

/// Calls a daemon, as `xsched run` does, and is some program from then on.
#[test]
fn caller_process() {
    let Some(socket) = std::env::var_os("DAEMON_SOCKET") else {
        return;
    };
    let status: api::Status = Client::connect(Path::new(&socket))
        .and_then(|client| client.get(api::path::STATUS))
        .unwrap();
    println!("\nCALLED {}", status.pid);
    std::thread::sleep(PATIENCE * 3);
}

#[test]
fn a_signal_ends_it_in_order() {
    for signal in [Signal::TERM, Signal::INT] {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("x.sock");
        let (mut process, _output) = start_process(&socket);
        let client = RawClient::join_at(&socket, "one", None);
        kill_process(Pid::from_child(&process), signal).unwrap();
        assert!(process.wait().unwrap().success());
        assert!(!socket.exists() && !http_socket(&socket).exists());
        drop(client);
    }
}

#[test]
fn a_killed_daemon_leaves_a_socket_that_the_next_one_takes() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("x.sock");
    let (mut process, _output) = start_process(&socket);
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(socket.exists());
    let next = TestDaemon::start_in(dir, |_| {});
    let (high, low) = high_and_low(&next);
    check_scheduled(&high, &low);
}

/// A daemon in a process of its own that serves already, and the output that it may go on writing.
fn start_process(socket: &Path) -> (Child, impl Sized + use<>) {
    start_role("daemon_process", "DAEMON READY", socket)
}

/// A test of this file in a process of its own, once it has said a word.
fn start_role(name: &str, word: &str, socket: &Path) -> (Child, impl Sized + use<>) {
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env("DAEMON_SOCKET", socket)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains(word)));
    (process, lines)
}

/// The role of a process that other tests start.
#[test]
fn daemon_process() {
    let Some(socket) = std::env::var_os("DAEMON_SOCKET") else {
        return;
    };
    serve(options(Path::new(&socket)), || println!("\nDAEMON READY")).unwrap();
}

//! `xsched active-window` end to end: a real X server, a real daemon, two real programs.

mod common;
#[path = "common/guest.rs"]
mod guest;
#[path = "../../x11/tests/support/mod.rs"]
mod x_server;

use std::process::Stdio;

use common::{Daemon, PATIENCE, Program, wait_until};
use guest::Guest;
use x_server::{Manager, Server};
use xsched_wire::Level;

/// The role of a process that the other tests start.
#[test]
fn guest_process() {
    if std::env::var_os(guest::ROLE_VARIABLE).is_some() {
        guest::serve();
    }
}

#[test]
fn the_program_with_the_active_window_goes_first() {
    let daemon = Daemon::start_with(&["--policy", "awf", "--min-share", "0"]);
    let server = Server::start();
    let manager = Manager::of(&server);
    let guests = ["a", "b"].map(|name| Guest::running(&daemon, name, Level::Lv2));
    let windows = guests
        .each_ref()
        .map(|guest| manager.window(Some(guest.pid())));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_xsched"));
    command
        .args(["active-window", "--display", &server.name])
        .env("XSCHED_SOCKET", daemon.socket())
        .stdout(Stdio::null())
        .stderr(daemon.program_log());
    let mut reporter = Program::start(&mut command);
    let open = |guest: &Guest| guest.queue(&daemon).unwrap().open;
    for which in [0, 1, 0] {
        manager.activate(windows[which]);
        let alone = || open(&guests[which]) && !open(&guests[1 - which]);
        wait_until(alone, PATIENCE);
    }
    manager.activate(0);
    wait_until(|| guests.iter().all(open), PATIENCE);

    // Without its display it ends, and says why in one line.
    drop(server);
    assert_eq!(reporter.wait().code(), Some(1));
    let said = daemon.programs_said();
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("display"))
        .collect();
    assert_eq!(lines.len(), 1, "{said}");
}

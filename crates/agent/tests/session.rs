//! The session with a daemon, whose part the test plays.

mod common;

use std::os::fd::OwnedFd;

use common::{agent, has_role, queue, run};
use rustix::net::{
    AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen,
    shutdown, socket_with,
};
use xsched_wire::{
    Admitted, FromScheduler, Hello, Hints, Priority, ToScheduler,
    env::{self, Scheduler},
    packet,
};

/// Runs a test in a process whose `XSCHED_SOCKET` names a socket that nobody has yet.
#[track_caller]
fn check(role: &str) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("x.sock");
    assert!(run(role, &[(env::SOCKET.name, &socket)]).success());
}

struct Daemon(OwnedFd);

impl Daemon {
    /// Listens where `XSCHED_SOCKET` says.
    fn listen() -> Daemon {
        let flags = SocketFlags::CLOEXEC;
        let fd = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let path = env::SOCKET.get().unwrap();
        bind(&fd, &SocketAddrUnix::new(path).unwrap()).unwrap();
        listen(&fd, 8).unwrap();
        Daemon(fd)
    }

    /// The next agent, and what it said of itself.
    fn accept(&self) -> (OwnedFd, Hello) {
        let socket = accept_with(&self.0, SocketFlags::CLOEXEC).unwrap();
        let (hello, _segment, _doorbell) = packet::recv_hello(&socket, &mut Vec::new()).unwrap();
        (socket, hello)
    }
}

fn welcome(session: &OwnedFd) {
    let terms = Admitted {
        policy: "hpf".into(),
        heartbeat_ms: 200,
        notice: None,
    };
    packet::send(session, &FromScheduler::Welcome(terms)).unwrap();
}

fn low() -> Hints {
    Hints {
        priority: Some(Priority::LOW),
        ..Hints::default()
    }
}

#[test]
fn a_hint_between_hello_and_welcome_reaches_the_daemon() {
    check("hint_before_the_welcome");
}

#[test]
fn hint_before_the_welcome() {
    if !has_role("hint_before_the_welcome") {
        return;
    }
    let daemon = Daemon::listen();
    let agent = agent(Scheduler::Global);
    let _queue = queue(&agent, 0);
    let (session, hello) = daemon.accept();
    assert_eq!(hello.hints, Hints::default());
    agent.hint_process(low());
    welcome(&session);
    let hint = ToScheduler::Hint {
        slot: None,
        hints: low(),
    };
    assert_eq!(packet::recv::<ToScheduler>(&session).unwrap(), hint);
    let next = packet::recv(&session).unwrap();
    assert!(matches!(next, ToScheduler::CreateQueue(_)), "{next:?}");
}

#[test]
fn nothing_is_noted_after_a_session_that_broke_off_at_its_start() {
    check("break_off_after_the_welcome");
}

#[test]
fn break_off_after_the_welcome() {
    if !has_role("break_off_after_the_welcome") {
        return;
    }
    let daemon = Daemon::listen();
    let agent = agent(Scheduler::Global);
    let _queue = queue(&agent, 0);
    let (session, _) = daemon.accept();
    // It can no longer be told anything.
    shutdown(&session, Shutdown::Read).unwrap();
    welcome(&session);
    // The agent has given that session up once it tries the next one, which is never answered.
    let _next = daemon.accept();
    for _ in 0..100 {
        agent.hint_process(low());
    }
    assert_eq!(agent.unsent(), 0);
}

#[test]
fn the_environment_is_read_when_the_agent_is_made() {
    check("environment_that_changes");
}

#[test]
fn environment_that_changes() {
    if !has_role("environment_that_changes") {
        return;
    }
    let daemon = Daemon::listen();
    let agent = agent(Scheduler::Global);
    // SAFETY: the process's other thread only waits for this test.
    unsafe { std::env::set_var(env::SOCKET.name, "elsewhere") };
    let _queue = queue(&agent, 0);
    daemon.accept();
}

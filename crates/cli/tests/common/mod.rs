//! What the tests share: real daemons and programs in temporary directories, ended by their guards.
#![allow(dead_code, reason = "every test file uses a part of it")]

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, eventfd},
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
        sockopt::{self, Timeout},
    },
    process::{Pid, Signal, kill_process},
};
use tempfile::TempDir;
use xsched_server::{
    Client,
    api::{self, Queue, Queues, Status},
};
use xsched_wire::{
    FromScheduler, Hello, Hints, Level, Priority, QueueInfo, ToScheduler, env,
    message::Attributes,
    packet,
    segment::{Layout, OwnSegment},
};

/// Long enough for a busy machine; decides nothing but when a broken test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The executable under test.
pub(crate) fn executable() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_xsched"))
}

/// `xsched` with nothing of ours left in its environment.
pub(crate) fn xsched() -> assert_cmd::Command {
    assert_cmd::Command::from_std(clean(executable()))
}

/// A command with nothing of ours left in its environment.
pub(crate) fn clean(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for variable in env::ALL {
        command.env_remove(variable.name);
    }
    command
}

/// Looks until `condition` holds.
#[track_caller]
pub(crate) fn wait_until(mut condition: impl FnMut() -> bool, timeout: Duration) {
    let deadline = Instant::now() + timeout;
    while !condition() {
        assert!(
            Instant::now() < deadline,
            "did not come true within {timeout:?}"
        );
        thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a process exists and is not just waiting to be collected by its parent.
pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the name, which is in parentheses and may hold anything.
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

/// Sends a signal to one process.
pub(crate) fn signal(pid: u32, signal: Signal) -> io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    Ok(kill_process(
        pid.ok_or(io::ErrorKind::InvalidInput)?,
        signal,
    )?)
}

/// A child that ends with its guard.
pub(crate) struct Program(Child);

impl Program {
    /// Starts it.
    pub(crate) fn start(command: &mut Command) -> Program {
        Program(command.spawn().unwrap())
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// The child itself, for its pipes.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, number: Signal) {
        signal(self.pid(), number).unwrap();
    }

    /// Waits until it has ended.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until(
            || {
                status = self.0.try_wait().unwrap();
                status.is_some()
            },
            PATIENCE,
        );
        status.unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A daemon of its own in a temporary directory.
pub(crate) struct Daemon {
    program: Program,
    socket: PathBuf,
    args: Vec<String>,
    dir: TempDir,
}

impl Daemon {
    /// Starts one and waits until it answers.
    pub(crate) fn start() -> Daemon {
        Daemon::start_with(&[])
    }

    /// Likewise, with more arguments for `xsched serve`.
    pub(crate) fn start_with(args: &[&str]) -> Daemon {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("xsched.sock");
        let args: Vec<_> = args.iter().map(ToString::to_string).collect();
        let program = serve(&socket, &args);
        Daemon {
            program,
            socket,
            args,
            dir,
        }
    }

    /// After its end: another one on the same socket.
    pub(crate) fn restart(&mut self) {
        self.program = serve(&self.socket, &self.args);
    }

    /// Where programs register.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(log(&self.socket)).unwrap()
    }

    /// Where its programs may log; shown if the test fails.
    pub(crate) fn program_log(&self) -> File {
        open_log(&self.socket.with_extension("programs.log"))
    }

    /// What its programs have logged.
    pub(crate) fn programs_said(&self) -> String {
        std::fs::read_to_string(self.socket.with_extension("programs.log")).unwrap_or_default()
    }

    /// A directory that lives as long as the daemon.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.program.pid()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, number: Signal) {
        self.program.signal(number);
    }

    /// Ends it with SIGKILL, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.program.signal(Signal::KILL);
        self.program.wait();
    }

    /// Asks it to end, and waits.
    pub(crate) fn end(&mut self) -> ExitStatus {
        self.program.signal(Signal::TERM);
        self.program.wait()
    }

    /// `xsched` that talks to this daemon.
    pub(crate) fn xsched(&self) -> assert_cmd::Command {
        let mut command = xsched();
        command.env(env::SOCKET.name, &self.socket);
        command
    }

    /// A connection to its HTTP API.
    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.socket).unwrap()
    }

    /// What it says about itself.
    pub(crate) fn status(&self) -> Status {
        self.client().get(api::path::STATUS).unwrap()
    }

    /// What it says about the registered queues.
    pub(crate) fn queues(&self) -> Vec<Queue> {
        self.client()
            .get::<Queues>(api::path::QUEUES)
            .unwrap()
            .queues
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if thread::panicking() {
            for log in [
                log(&self.socket),
                self.socket.with_extension("programs.log"),
            ] {
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                println!("---- {}\n{text}", log.display());
            }
        }
    }
}

fn serve(socket: &Path, args: &[String]) -> Program {
    let mut command = clean(executable());
    command.arg("serve").arg("--socket").arg(socket).args(args);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(open_log(&log(socket)));
    let mut program = Program::start(&mut command);
    wait_until(
        || {
            assert!(
                program.child().try_wait().unwrap().is_none(),
                "the daemon ended"
            );
            status(socket).is_some()
        },
        PATIENCE,
    );
    program
}

fn log(socket: &Path) -> PathBuf {
    socket.with_extension("log")
}

fn open_log(path: &Path) -> File {
    let mut options = File::options();
    options.append(true).create(true).open(path).unwrap()
}

/// The status of the daemon at `socket`, if one answers there.
pub(crate) fn status(socket: &Path) -> Option<Status> {
    Client::connect(socket)
        .and_then(|client| client.get(api::path::STATUS))
        .ok()
}

/// A connection that has said nothing yet.
pub(crate) fn connect_to(daemon: &Daemon) -> OwnedFd {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    connect(&socket, &SocketAddrUnix::new(daemon.socket()).unwrap()).unwrap();
    sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE)).unwrap();
    socket
}

/// This test's process as a client of a daemon, by the wire protocol alone.
pub(crate) struct RawClient {
    socket: OwnedFd,
    segment: OwnSegment,
    doorbell: OwnedFd,
}

impl RawClient {
    /// Registers under a name.
    pub(crate) fn register(daemon: &Daemon, name: &str, priority: Option<i32>) -> RawClient {
        let client = RawClient {
            socket: connect_to(daemon),
            segment: OwnSegment::create().unwrap(),
            doorbell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap(),
        };
        let hello = Hello {
            name: name.into(),
            job: 7,
            hints: Hints {
                priority: priority.map(|value| Priority::new(value).unwrap()),
                ..Hints::default()
            },
        };
        let (segment, doorbell) = (client.segment.as_fd(), client.doorbell.as_fd());
        packet::send_hello(&client.socket, &hello, segment, doorbell).unwrap();
        let answer: FromScheduler = packet::recv(&client.socket).unwrap();
        assert!(matches!(answer, FromScheduler::Welcome(_)), "{answer:?}");
        client
    }

    /// Creates a queue on the CPU and waits until the daemon has it.
    pub(crate) fn create_queue(&self, slot: u16, level: Level, reason: Option<&str>) {
        let info = QueueInfo {
            slot,
            device: "cpu:0".into(),
            hints: Hints::default(),
            attributes: Attributes {
                one_background: false,
                level,
                max_level: Level::Lv3,
                reason: reason.map(Into::into),
            },
        };
        packet::send(&self.socket, &ToScheduler::CreateQueue(info)).unwrap();
        while packet::recv::<FromScheduler>(&self.socket).unwrap()
            != (FromScheduler::QueueReady { slot })
        {}
    }

    /// Announces a command, as a program's first launch does.
    pub(crate) fn become_ready(&self, slot: u16) {
        let _ = self.layout().block(slot).unwrap().publish();
        let _ = self.layout().set_dirty(slot);
        rustix::io::write(&self.doorbell, &1u64.to_ne_bytes()).unwrap();
    }

    /// The session, for what no honest client sends.
    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    fn layout(&self) -> &'static Layout {
        self.segment.layout()
    }
}

//! A private daemon for the scheduled phase, on a socket that nobody else uses.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use tempfile::TempDir;

use crate::interrupt::Interrupt;
use crate::launch::{END_GRACE, Launcher, Process, describe_exit};
use crate::phase::Failure;
use crate::usage::Usage;

/// What a daemon is started with unless somebody says otherwise.
pub const DEFAULT_POLICY: &str = "hpf";

/// How long the daemon may take until it listens.
const START_LIMIT: Duration = Duration::from_secs(15);

/// How long it may take until it has forgotten the queues of programs that have ended.
const FORGET_LIMIT: Duration = Duration::from_secs(5);

/// How often a wait looks again.
const POLL: Duration = Duration::from_millis(10);

/// A running daemon. Dropping it ends it and removes its directory.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    socket: PathBuf,
    /// Readable by its owner alone.
    _dir: TempDir,
}

impl Daemon {
    /// Starts a daemon with the default policy and waits until it listens.
    pub fn start(launcher: &Launcher, interrupt: &Interrupt) -> Result<Daemon, Failure> {
        Daemon::with_policy(launcher, DEFAULT_POLICY, interrupt)
    }

    /// Starts a daemon with this policy and waits until it listens.
    pub fn with_policy(
        launcher: &Launcher,
        policy: &str,
        interrupt: &Interrupt,
    ) -> Result<Daemon, Failure> {
        let fail = |reason: String| Failure::Daemon(format!("could not be started: {reason}"));
        let dir = tempfile::Builder::new()
            .prefix("xsched-bench-")
            .tempdir_in(socket_root())
            .map_err(|error| fail(error.to_string()))?;
        let socket = dir.path().join("xsched.sock");
        let process = launcher
            .spawn(launcher.daemon_command(&socket, policy), "daemon")
            .map_err(|error| fail(error.to_string()))?;
        let mut daemon = Daemon {
            process,
            socket,
            _dir: dir,
        };

        let deadline = Instant::now() + START_LIMIT;
        while connect(&daemon.socket).is_err() {
            if let Some(signal) = interrupt.received() {
                return Err(Failure::Interrupted(signal));
            }
            daemon.check()?;
            if Instant::now() >= deadline {
                let log = daemon.process.log().display();
                return Err(fail(format!(
                    "it did not listen within {} s; log: {log}",
                    START_LIMIT.as_secs()
                )));
            }
            std::thread::sleep(POLL);
        }
        Ok(daemon)
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The processor time and memory that it has used so far; `None` if it is gone.
    pub fn usage(&self) -> Option<Usage> {
        Usage::of(self.process.id())
    }

    /// Queues that it still has though every program has ended, once it has had time to notice; `None`
    /// if it does not say.
    pub fn queues_left(&self, launcher: &Launcher) -> Option<usize> {
        #[derive(serde::Deserialize)]
        struct Answer {
            queues: Vec<serde::de::IgnoredAny>,
        }
        let deadline = Instant::now() + FORGET_LIMIT;
        loop {
            let output = launcher.list_command(&self.socket).output().ok()?;
            let answer: Answer = serde_json::from_slice(&output.stdout).ok()?;
            if answer.queues.is_empty() || Instant::now() >= deadline {
                return Some(answer.queues.len());
            }
            std::thread::sleep(10 * POLL);
        }
    }

    /// Fails if the daemon has ended: nobody scheduled the rest of the phase, then.
    pub fn check(&mut self) -> Result<(), Failure> {
        match self.process.poll_exit() {
            None => Ok(()),
            Some(status) => {
                let words = self
                    .process
                    .last_words()
                    .map(|words| format!(" ({words})"))
                    .unwrap_or_default();
                let log = self.process.log().display();
                Err(Failure::Daemon(format!(
                    "ended early with {}{words}; log: {log}",
                    describe_exit(status)
                )))
            }
        }
    }
}

/// Connects as an agent does, and hangs up.
fn connect(socket: &Path) -> io::Result<()> {
    let address = SocketAddrUnix::new(socket)?;
    let flags = SocketFlags::CLOEXEC;
    let client = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    Ok(rustix::net::connect(&client, &address)?)
}

/// Where the socket's directory goes: a socket's path may have 107 bytes at most.
fn socket_root() -> PathBuf {
    let root = std::env::temp_dir();
    if root.as_os_str().len() <= 64 {
        root
    } else {
        "/tmp".into()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.process.end(END_GRACE);
    }
}

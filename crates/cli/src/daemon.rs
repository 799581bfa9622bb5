//! Finds the daemon that answers, and starts the user's own.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail};
use xsched_server::{Client, ClientError, api};
use xsched_wire::{endpoint, env};

use crate::{failure, shim};

/// How long a daemon may take to answer a question.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// How long a daemon that was just started may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(3);
/// How often a start is looked at.
const POLL: Duration = Duration::from_millis(10);
/// A log longer than this starts anew with the next daemon.
const LOG_LIMIT: u64 = 1 << 20;

/// What is at the end of a socket's path.
#[derive(Debug)]
pub(crate) enum Presence {
    /// A daemon that answers.
    Answers(api::Status),
    /// Nobody.
    Absent,
    /// Somebody, but of no use: why, and what to do.
    Unusable(anyhow::Error),
}

/// Asks whoever listens at `socket` who it is, for at most [`ANSWER_LIMIT`].
pub(crate) fn ask(socket: &Path) -> Presence {
    if let Err(error) = check_owner(socket) {
        return Presence::Unusable(error.into());
    }
    let (sender, answer) = mpsc::channel();
    let path = socket.to_owned();
    // A stopped daemon still takes connections: its silence must not become ours.
    std::thread::spawn(move || {
        let status = Client::connect(&path).and_then(|client| client.get(api::path::STATUS));
        let _ = sender.send(status);
    });
    match answer.recv_timeout(ANSWER_LIMIT) {
        Ok(Ok(status)) => Presence::Answers(status),
        Ok(Err(ClientError::NotRunning { .. })) => Presence::Absent,
        Ok(Err(error)) => Presence::Unusable(error.into()),
        Err(_) => Presence::Unusable(anyhow!(
            "the daemon at {} does not answer: end it and start it again",
            socket.display()
        )),
    }
}

/// The first candidate that answers. One that is of no use is said on stderr; the user's own is
/// not, since [`start_own`] comes next and says it.
pub(crate) fn find() -> Option<PathBuf> {
    let own = endpoint::user_socket();
    let mut candidates = endpoint::candidates().into_iter();
    candidates.find(|socket| match ask(socket) {
        Presence::Answers(_) => true,
        Presence::Unusable(error) if *socket != own => {
            failure::say(&format!("{error:#}"));
            false
        }
        Presence::Unusable(_) | Presence::Absent => false,
    })
}

/// A connection to the first candidate that answers, for commands that need one.
pub(crate) fn connect() -> anyhow::Result<Client> {
    let candidates = endpoint::candidates();
    let mut unusable = None;
    for socket in &candidates {
        match ask(socket) {
            Presence::Answers(_) => return Ok(Client::connect(socket)?),
            Presence::Unusable(error) => unusable = unusable.or(Some(error)),
            Presence::Absent => {}
        }
    }
    if let Some(error) = unusable {
        return Err(error);
    }
    if let Some(socket) = env::SOCKET.get() {
        bail!(
            "no daemon is running: nothing answers at {socket}: start one with `xsched serve --socket {socket}`, or \
             unset {}",
            env::SOCKET.name
        );
    }
    let tried: Vec<String> = candidates
        .iter()
        .map(|socket| socket.display().to_string())
        .collect();
    bail!(
        "no daemon is running: nothing answers at {}: start one with `xsched serve`, or a program \
         with `xsched run -- CMD`, which starts one",
        tried.join(" or ")
    )
}

/// Starts the user's own daemon and waits until it answers. When two do this at once, the
/// daemons' lock lets one of them live, and both find that one.
pub(crate) fn start_own(unused: Duration) -> anyhow::Result<PathBuf> {
    let socket = endpoint::user_socket();
    let dir = socket.parent().context("the socket has no directory")?;
    endpoint::private_dir(dir).with_context(|| format!("cannot use {}", dir.display()))?;
    let log = dir.join("xsched.log");
    launch(&socket, &log, unused).context("cannot start a daemon")?;

    let deadline = Instant::now() + START_LIMIT;
    loop {
        let presence = ask(&socket);
        let late = Instant::now() >= deadline;
        match presence {
            Presence::Answers(_) => return Ok(socket),
            Presence::Unusable(error) if late => return Err(error),
            Presence::Absent if late => bail!(
                "the daemon did not answer within {} s: read {}",
                START_LIMIT.as_secs(),
                log.display()
            ),
            // Not there yet, or one that is just ending.
            Presence::Unusable(_) | Presence::Absent => std::thread::sleep(POLL),
        }
    }
}

/// Starts `xsched serve --detach`, which leaves the daemon behind as nobody's child: a program
/// that waits for its children must not find one that it never had.
fn launch(socket: &Path, log: &Path, unused: Duration) -> anyhow::Result<()> {
    let out = open_log(log).with_context(|| format!("cannot write {}", log.display()))?;
    let status = Command::new(std::env::current_exe()?)
        .args(["serve", "--detach", "--exit-when-unused"])
        .arg(unused.as_secs_f64().to_string())
        .arg("--socket")
        .arg(socket)
        .env_remove(shim::LD_PRELOAD)
        .env_remove(env::SOCKET.name)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .status()?;
    if !status.success() {
        bail!("it ended with {status}: read {}", log.display());
    }
    Ok(())
}

fn open_log(path: &Path) -> io::Result<File> {
    let log = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    if log.metadata()?.len() > LOG_LIMIT {
        log.set_len(0)?;
    }
    Ok(log)
}

/// Whoever answers at the user's own path must be in the user's own directory: under `/tmp`
/// anybody could have made it first.
fn check_owner(socket: &Path) -> io::Result<()> {
    match socket.parent() {
        Some(dir) if env::SOCKET.get().is_none() && socket == endpoint::user_socket() => {
            match endpoint::check_private(dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                result => result,
            }
        }
        _ => Ok(()),
    }
}

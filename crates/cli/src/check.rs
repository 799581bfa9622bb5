//! The checks of `xsched doctor`, each done with the real thing.

pub(crate) mod cuda;
pub(crate) mod hip;
pub(crate) mod opencl;
mod program;

use std::{
    io,
    os::fd::AsFd,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    process::{Pid, PidfdFlags, pidfd_open},
    time::Timespec,
};
use serde::Serialize;
use xsched_server::api;
use xsched_wire::{
    endpoint,
    env::{self, Scheduler, Settings},
    segment::{OwnSegment, PeerSegment},
};

use crate::daemon::{self, Presence};

/// How long the kernel may take for what takes it microseconds.
const LIMIT: Duration = Duration::from_secs(5);
/// Bytes of a Unix socket's path, with the final zero.
const SUN_PATH: usize = 108;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// As it should be.
    Passed,
    /// Works, with less than there could be.
    Note,
    /// Does not work.
    Failed,
}

impl Verdict {
    /// For people.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Verdict::Passed => "PASSED",
            Verdict::Note => "NOTE",
            Verdict::Failed => "FAILED",
        }
    }
}

/// One check.
#[derive(Debug, Serialize)]
pub(crate) struct Check {
    /// What was checked.
    pub(crate) name: &'static str,
    /// How it came out.
    pub(crate) verdict: Verdict,
    /// What was found.
    pub(crate) detail: String,
    /// What to do.
    pub(crate) remedy: Option<String>,
}

impl Check {
    fn passed(name: &'static str, detail: impl Into<String>) -> Check {
        Check {
            name,
            verdict: Verdict::Passed,
            detail: detail.into(),
            remedy: None,
        }
    }

    pub(crate) fn note(
        name: &'static str,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Check {
        Check {
            verdict: Verdict::Note,
            remedy: Some(remedy.into()),
            ..Check::passed(name, detail)
        }
    }

    fn failed(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Check {
        Check {
            verdict: Verdict::Failed,
            ..Check::note(name, detail, remedy)
        }
    }

    fn works(name: &'static str, what: &str, result: io::Result<()>, remedy: &str) -> Check {
        match result {
            Ok(()) => Check::passed(name, what),
            Err(error) => Check::failed(name, format!("{what}: {error}"), remedy),
        }
    }
}

/// What every platform needs of the kernel.
pub(crate) fn system() -> Vec<Check> {
    let remedy = "use Linux 5.4 or newer, without a sandbox that forbids this system call";
    vec![
        kernel(),
        Check::works(
            "memory",
            "sealed memory is shared (memfd)",
            shared_memory(),
            remedy,
        ),
        Check::works(
            "futex",
            "a gate wakes its waiters through shared memory",
            gate(),
            remedy,
        ),
        Check::works("eventfd", "a doorbell rings", doorbell(), remedy),
        Check::works(
            "pidfd",
            "the end of a process is noticed",
            end_of_process(),
            remedy,
        ),
    ]
}

/// What the CPU as an accelerator needs.
pub(crate) fn cpu() -> Vec<Check> {
    vec![cores(), scheduling_class()]
}

/// Settings, sockets, daemon.
pub(crate) fn daemon() -> Vec<Check> {
    let mut checks = vec![settings(), socket_directory()];
    checks.extend(presence());
    checks
}

fn kernel() -> Check {
    const NAME: &str = "kernel";
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    match version(release) {
        Some(version) if version >= (5, 4) => Check::passed(NAME, format!("Linux {release}")),
        Some(_) => Check::failed(NAME, format!("Linux {release}"), "use Linux 5.4 or newer"),
        None => Check::note(
            NAME,
            format!("unknown release '{release}'"),
            "use Linux 5.4 or newer",
        ),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

fn shared_memory() -> io::Result<()> {
    let ours = OwnSegment::create().map_err(io::Error::other)?;
    let theirs = PeerSegment::open(ours.as_fd()).map_err(io::Error::other)?;
    theirs.layout().beat();
    if ours.layout().heartbeat() != 1 {
        return Err(io::Error::other(
            "a change is not seen in the other mapping",
        ));
    }
    Ok(())
}

/// A thread sleeps on one mapping of a block; another mapping wakes it.
fn gate() -> io::Result<()> {
    let ours = OwnSegment::create().map_err(io::Error::other)?;
    let theirs = PeerSegment::open(ours.as_fd()).map_err(io::Error::other)?;
    let no_slot = || io::Error::other("a segment without slots");
    let (sleeper, waker) = (ours.layout().block(0), theirs.layout().block(0));
    let (sleeper, waker) = (sleeper.ok_or_else(no_slot)?, waker.ok_or_else(no_slot)?);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        // The word stays as it is: nothing but the wake, or the time limit, ends the sleep.
        let thread = scope.spawn(|| sleeper.wait_completed(0, LIMIT));
        while !thread.is_finished() {
            waker.wake_completed();
            std::thread::yield_now();
        }
    });
    if begin.elapsed() >= LIMIT {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(())
}

fn doorbell() -> io::Result<()> {
    let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    rustix::io::write(&fd, &1u64.to_ne_bytes())?;
    wait_readable(&fd)?;
    rustix::io::read(&fd, &mut [0; 8])?;
    Ok(())
}

fn end_of_process() -> io::Result<()> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let noticed = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())
        .map_err(io::Error::from)
        .and_then(|fd| wait_readable(&fd));
    child.wait()?;
    noticed
}

fn wait_readable(fd: impl AsFd) -> io::Result<()> {
    let timeout = Timespec {
        tv_sec: LIMIT.as_secs() as i64,
        tv_nsec: 0,
    };
    match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout))? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

fn cores() -> Check {
    const NAME: &str = "cores";
    match std::thread::available_parallelism() {
        Ok(cores) if cores.get() > 1 => Check::passed(NAME, format!("{cores} to run on")),
        Ok(_) => Check::note(
            NAME,
            "1 to run on",
            "measure on two or more: on one, the daemon and the programs take turns",
        ),
        Err(error) => Check::failed(NAME, error.to_string(), "check the process's CPU affinity"),
    }
}

/// Whether level 3 of the CPU works: its workers' scheduling class must be raised again after it
/// was lowered.
fn scheduling_class() -> Check {
    const NAME: &str = "level 3";
    match xsched_cpu::lv3_refusal() {
        None => Check::passed(NAME, "the scheduling class can be lowered and raised again"),
        Some(reason) => Check::note(
            NAME,
            reason,
            "programs get level 2; for level 3 allow nice 0 (`ulimit -e 20`, or `- nice 0` in \
             /etc/security/limits.conf) or the capability CAP_SYS_NICE",
        ),
    }
}

fn settings() -> Check {
    const NAME: &str = "settings";
    let settings = Settings::from_env();
    let set: Vec<&str> = env::ALL
        .iter()
        .filter(|variable| variable.get().is_some())
        .map(|v| v.name)
        .collect();
    if !settings.warnings.is_empty() {
        return Check::failed(NAME, settings.warnings.join("; "), "correct or unset them");
    }
    let every: Vec<&str> = env::ALL.iter().map(|variable| variable.name).collect();
    let unknown: Vec<String> = std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| name.starts_with("XSCHED_") && !every.contains(&&**name))
        .collect();
    if !unknown.is_empty() {
        return Check::note(
            NAME,
            format!("xsched knows no {}", unknown.join(", ")),
            format!("correct or unset them; it knows {}", every.join(", ")),
        );
    }
    match settings.scheduler {
        Scheduler::Off => Check::note(
            NAME,
            "scheduling is switched off in this environment",
            format!("unset {} and {}", env::DISABLE.name, env::AUTO_XQUEUE.name),
        ),
        _ if set.is_empty() => Check::passed(NAME, "no XSCHED_ variable is set"),
        _ => Check::passed(NAME, format!("{} understood", set.join(", "))),
    }
}

/// The directory in which `xsched run` would start a daemon.
fn socket_directory() -> Check {
    const NAME: &str = "socket";
    let socket = endpoint::user_socket();
    let dir = socket.parent().unwrap_or(Path::new("/"));
    let shown = dir.display();
    if endpoint::http_socket(&socket).as_os_str().len() >= SUN_PATH {
        return Check::failed(
            NAME,
            format!("{} is too long for a socket", socket.display()),
            format!(
                "set XDG_RUNTIME_DIR or {} to something shorter",
                env::SOCKET.name
            ),
        );
    }
    match endpoint::check_private(dir) {
        Ok(()) => Check::passed(NAME, format!("{shown} is yours alone")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = dir.parent().unwrap_or(Path::new("/"));
            let writable = rustix::fs::access(
                parent,
                rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK,
            );
            match writable {
                Ok(()) => Check::passed(NAME, format!("{shown} will be made when it is needed")),
                Err(error) => Check::failed(
                    NAME,
                    format!("{shown} cannot be made: {error}"),
                    "set XDG_RUNTIME_DIR to a directory of yours",
                ),
            }
        }
        Err(error) => Check::failed(
            NAME,
            error.to_string(),
            format!(
                "remove {shown}, or set {} to a path elsewhere",
                env::SOCKET.name
            ),
        ),
    }
}

/// One check a place where a daemon may be.
fn presence() -> Vec<Check> {
    const NAME: &str = "daemon";
    let named = env::SOCKET.get();
    let mut checks = Vec::new();
    let mut absent = Vec::new();
    for socket in endpoint::candidates() {
        match daemon::ask(&socket) {
            Presence::Answers(status) => checks.push(Check::passed(NAME, answer(&socket, &status))),
            Presence::Unusable(error) => checks.push(Check::failed(
                NAME,
                format!("{error:#}"),
                format!("end the process that listens at {}", socket.display()),
            )),
            Presence::Absent => absent.push(socket.display().to_string()),
        }
    }
    match named {
        Some(socket) if checks.is_empty() => checks.push(Check::failed(
            NAME,
            format!("nothing answers at {socket}"),
            format!(
                "start one with `xsched serve --socket {socket}`, or unset {}",
                env::SOCKET.name
            ),
        )),
        None if checks.is_empty() => checks.push(Check::note(
            NAME,
            format!("none is running at {}", absent.join(" or ")),
            "`xsched run -- CMD` starts one when it is needed",
        )),
        _ => {}
    }
    checks
}

fn answer(socket: &Path, status: &api::Status) -> String {
    format!(
        "{} answers: version {}, pid {}, user {}, policy {}, {} programs",
        socket.display(),
        status.version,
        status.pid,
        status.owner_uid,
        status.policy,
        status.clients,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read() {
        let check = |release, expect| assert_eq!(version(release), expect, "{release}");
        check("6.18.44-fc-v657", Some((6, 18)));
        check("5.4.0-1029-aws", Some((5, 4)));
        check("5.15", Some((5, 15)));
        check("", None);
        check("linux", None);
    }
}

//! Programs that the doctor starts: with a shim or without, under a scheduler of its own; and the checks
//! of them that every platform has.

use std::{
    io::{BufRead, BufReader, Read},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail};
use xsched_server::{
    Client, Daemon, ServeOptions,
    api::{self, Queue, Queues},
};
use xsched_wire::env;

use super::Check;
use crate::{
    probe::{Found, Step},
    shim,
};

/// How long a program may take: a first use of a large machine initialises every device.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a program finds that uses the platform without the shim; `first` is the check that fails where
/// it does not come to say so.
pub(super) fn unscheduled(
    checks: &mut Vec<Check>,
    interface: &str,
    first: &'static str,
    remedy: &str,
) -> Option<Found> {
    match Probe::start(interface, None).and_then(|mut probe| probe.read()) {
        Ok(found) => Some(found),
        Err(error) => {
            let detail = format!("a program that uses it failed: {error:#}");
            checks.push(Check::failed(first, detail, remedy));
            None
        }
    }
}

/// Whether such a program found a device and computed on it; what to do where it did not.
pub(super) fn computes(
    checks: &mut Vec<Check>,
    found: &Found,
    no_device: &str,
    no_product: &str,
) -> bool {
    let step = found.failure.as_ref().map(|(step, _)| *step);
    let error = found.error();
    if step == Some(Step::Device) {
        checks.push(Check::failed("device", error, no_device));
        return false;
    }
    let devices = found.devices.join(", ");
    let count = found.devices.len();
    checks.push(Check::passed("device", format!("{count}: {devices}")));
    checks.push(match found.rows {
        Some(rows) if step.is_none() => Check::passed("matmul", equal(rows)),
        _ => Check::failed("matmul", error, no_product),
    });
    step.is_none()
}

/// A scheduler of the doctor's own and the product under it, with the shim; then whatever else is
/// to be tried there.
pub(super) fn scheduled(
    checks: &mut Vec<Check>,
    interface: &str,
    shim: &Path,
    more: impl FnOnce(&mut Vec<Check>, &Scheduler, Option<Queue>),
) {
    match Scheduler::start() {
        Ok(scheduler) => {
            let queue = preloaded(checks, interface, &scheduler, shim);
            more(checks, &scheduler, queue);
        }
        Err(error) => checks.push(Check::failed(
            "preload",
            format!("cannot start a daemon to try it with: {error:#}"),
            "see the checks of the system above",
        )),
    }
}

fn equal(rows: u32) -> String {
    format!("{rows} × {rows} on the device, equal to the host's")
}

/// The file of a shim, and bytes of it, where programs can preload it.
pub(super) fn shim_file(checks: &mut Vec<Check>, library: &str) -> Option<(PathBuf, Option<u64>)> {
    const NAME: &str = "shim";
    let executable = std::env::current_exe().ok()?;
    let paths = shim::installed(&executable);
    let is_ours = |path: &&PathBuf| path.file_name().is_some_and(|name| name == library);
    let Some(path) = paths.iter().find(is_ours) else {
        let beside = executable.parent().unwrap_or(Path::new("/")).display();
        checks.push(Check::failed(
            NAME,
            format!("{library} is neither in {beside}/../lib nor in {beside}"),
            "build it with `cargo xtask build --release`",
        ));
        return None;
    };
    if !shim::preload(std::slice::from_ref(path), None).1.is_empty() {
        checks.push(Check::failed(
            NAME,
            format!(
                "{} holds a blank or a colon, so it cannot be preloaded",
                path.display()
            ),
            "install xsched elsewhere",
        ));
        return None;
    }
    let bytes = size(checks, NAME, path);
    Some((path.clone(), bytes))
}

/// Notes a library that is there; bytes of it.
pub(super) fn size(checks: &mut Vec<Check>, name: &'static str, path: &Path) -> Option<u64> {
    let bytes = path.metadata().map(|metadata| metadata.len()).ok();
    let size = bytes.unwrap_or(0) as f64 / f64::from(1 << 20);
    checks.push(Check::passed(
        name,
        format!("{}, {size:.1} MiB", path.display()),
    ));
    bytes
}

/// The product with the shim, under the doctor's own daemon; what that daemon knows of its queue.
fn preloaded(
    checks: &mut Vec<Check>,
    interface: &str,
    scheduler: &Scheduler,
    shim: &Path,
) -> Option<Queue> {
    const NAME: &str = "preload";
    const REPORT: &str = "run the program with XSCHED_LOG=debug and report what it says; \
                          XSCHED_DISABLE=1 switches scheduling off";
    let result = Probe::start(interface, Some((scheduler, shim))).and_then(|mut probe| {
        let found = probe.read()?;
        let queue = scheduler.queue_of(probe.child.0.id());
        Ok((found, queue))
    });
    let (found, queue) = match result {
        Ok(result) => result,
        Err(error) => {
            checks.push(Check::failed(NAME, format!("{error:#}"), REPORT));
            return None;
        }
    };
    let failed = |detail: String| Check::failed(NAME, detail, REPORT);
    checks.push(match (&found, &queue) {
        (Found { shim: None, .. }, _) => Check::failed(
            NAME,
            format!("the loader did not preload {}", shim.display()),
            "run `LD_DEBUG=libs xsched run -- true` and look for its name; set-user-id programs \
             preload nothing",
        ),
        (
            Found {
                failure: Some((_, error)),
                ..
            },
            _,
        ) => failed(error.clone()),
        (Found { level: 0, .. }, _) | (_, None) => {
            failed("the program was not taken over by the scheduler".into())
        }
        (Found { rows, .. }, Some(queue)) => Check::passed(
            NAME,
            format!(
                "{}, scheduled as {}",
                equal(rows.unwrap_or(0)),
                queue.device
            ),
        ),
    });
    queue
}

/// The level in force; why no higher one is.
pub(super) fn level(queue: &Queue) -> Check {
    let reason = queue.reason.as_deref().unwrap_or("no reason was given");
    let why = match queue.level {
        3.. => String::new(),
        _ => format!(", since {reason}"),
    };
    Check::passed("level", format!("{}{why}", queue.level))
}

/// A product by torch, with the shim. Torch calls the devices of ROCm `cuda`, too.
pub(super) fn torch(scheduler: &Scheduler, shim: &Path, remedy: &str) -> Check {
    const NAME: &str = "torch";
    const SCRIPT: &str = "
import sys
try:
    import torch
except ImportError:
    print('python3 has no torch'); sys.exit(77)
if not torch.cuda.is_available():
    print(f'torch {torch.__version__} finds no device'); sys.exit(77)
a = torch.arange(4096, dtype=torch.float64).reshape(64, 64)
wrong = ((a.cuda() @ a.cuda()).cpu() - a @ a).abs().max().item()
print(f'torch {torch.__version__} on {torch.cuda.get_device_name()}: 64 × 64, off by {wrong}')
sys.exit(0 if wrong == 0 else 1)
";
    let mut command = Command::new("python3");
    command.args(["-c", SCRIPT]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    scheduler.prepare(&mut command, shim);
    let child = match command.spawn() {
        Ok(child) => Guarded(child),
        Err(error) => return Check::note(NAME, format!("python3 cannot run: {error}"), remedy),
    };
    match child.finish() {
        Ok((Some(0), text)) => Check::passed(NAME, text),
        Ok((Some(77), text)) => Check::note(NAME, text, remedy),
        Ok((_, text)) => Check::failed(NAME, text, "try the same with XSCHED_DISABLE=1"),
        Err(error) => Check::failed(
            NAME,
            format!("{error:#}"),
            "try the same with XSCHED_DISABLE=1",
        ),
    }
}

/// A daemon of the doctor's own, in a temporary directory; ends when dropped.
pub(super) struct Scheduler {
    socket: PathBuf,
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl Scheduler {
    fn start() -> anyhow::Result<Scheduler> {
        let folder = tempfile::tempdir().context("cannot make a directory")?;
        let socket = folder.path().join("xsched.sock");
        let daemon = Daemon::bind(ServeOptions {
            socket: socket.clone(),
            policy: "hpf".into(),
            min_share: 0.0,
            exit_when_unused: None,
            trace: None,
        })?;
        let (stop, stopped) = UnixStream::pair()?;
        let thread = std::thread::spawn(move || {
            // What goes wrong shows as a program that nobody takes over.
            let _ended = daemon.run(stopped);
        });
        Ok(Scheduler {
            socket,
            stop: Some(stop),
            thread: Some(thread),
            _folder: folder,
        })
    }

    /// Lets a program join this daemon by the shim, whatever the environment says.
    fn prepare(&self, command: &mut Command, shim: &Path) {
        clean(command);
        command.env(shim::LD_PRELOAD, shim);
        command.env(env::SOCKET.name, &self.socket);
    }

    /// The queue of a program.
    fn queue_of(&self, pid: u32) -> Option<Queue> {
        let queues: Queues = Client::connect(&self.socket)
            .ok()?
            .get(api::path::QUEUES)
            .ok()?;
        queues.queues.into_iter().find(|queue| queue.pid == pid)
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// Without what would switch scheduling off, or another library's shim on.
fn clean(command: &mut Command) {
    let kept = [&env::CUDA_LIB, &env::HIP_LIB, &env::OPENCL_LIB].map(|library| library.name);
    command.env_remove(shim::LD_PRELOAD);
    for variable in env::ALL
        .iter()
        .filter(|variable| !kept.contains(&variable.name))
    {
        command.env_remove(variable.name);
    }
}

/// A child that is killed if it is dropped.
struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

impl Guarded {
    /// Waits for its end: exit code, and the last line that it wrote.
    fn finish(mut self) -> anyhow::Result<(Option<i32>, String)> {
        let (out, err) = (self.0.stdout.take(), self.0.stderr.take());
        let read = |from: Option<Box<dyn Read + Send>>| {
            std::thread::spawn(move || {
                let mut text = String::new();
                if let Some(mut from) = from {
                    let _ = from.read_to_string(&mut text);
                }
                text
            })
        };
        let out = read(out.map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
        let err = read(err.map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
        let end = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.0.try_wait()? {
                break status;
            }
            if Instant::now() >= end {
                bail!("it did not end within {} s", PATIENCE.as_secs());
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let texts = [out, err].map(|reader| reader.join().unwrap_or_default());
        let last = texts.iter().find_map(|text| text.trim().lines().last());
        let said = last.unwrap_or("it said nothing").to_owned();
        Ok(match status.code() {
            Some(code) => (Some(code), said),
            None => (None, format!("{status}: {said}")),
        })
    }
}

/// A run of `xsched probe`.
struct Probe {
    child: Guarded,
}

impl Probe {
    /// Without the shim, or with it under a scheduler.
    fn start(interface: &str, scheduled: Option<(&Scheduler, &Path)>) -> anyhow::Result<Probe> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["probe", interface]);
        match scheduled {
            None => clean(&mut command),
            Some((scheduler, shim)) => {
                command.arg("--scheduled");
                scheduler.prepare(&mut command, shim);
            }
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = command.spawn().context("cannot start it")?;
        Ok(Probe {
            child: Guarded(child),
        })
    }

    /// What it found. It lives on until it is dropped.
    fn read(&mut self) -> anyhow::Result<Found> {
        let output = self.child.0.stdout.take().context("no pipe")?;
        let (sender, line) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(output).read_line(&mut line);
            let _ = sender.send(read.map(|_| line));
        });
        let line = line
            .recv_timeout(PATIENCE)
            .map_err(|_| anyhow!("it said nothing for {} s", PATIENCE.as_secs()))??;
        if line.is_empty() {
            let status = self.child.0.wait()?;
            let mut said = String::new();
            if let Some(mut errors) = self.child.0.stderr.take() {
                let _ = errors.read_to_string(&mut said);
            }
            let said = said.trim().lines().last().unwrap_or("it said nothing");
            bail!("it ended with {status}: {said}");
        }
        serde_json::from_str(&line).context("it answered something else")
    }
}

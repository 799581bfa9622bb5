//! Ways of scheduling that are measured beside ours, in the same run: nobody's, and other people's.
//!
//! A new one is a [`Peer`], and an arm of `chosen`. A user adds one by command line: `--peer
//! 'NAME=CMD'`.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::interrupt::Interrupt;
use crate::launch::{END_GRACE, Launcher, Process, describe_exit};
use crate::phase::Failure;
use crate::run::{Contender, Kind};
use crate::task::{TaskSpec, is_name};
use crate::worker::Device;

const MPS_CONTROL: &str = "nvidia-cuda-mps-control";
/// How long it may take to start.
const MPS_LIMIT: Duration = Duration::from_secs(15);

/// Somebody else's scheduler. Dropping it ends what it started.
pub trait Peer {
    /// As `run.json` has it.
    fn contender(&self) -> Contender;

    /// Starts what it needs, for one phase.
    fn start(&mut self, _launcher: &Launcher, _interrupt: &Interrupt) -> Result<(), Failure> {
        Ok(())
    }

    /// Gives a task's worker what it needs to be scheduled; `rank` is its place among `tasks`, the most
    /// urgent first.
    fn environment(&self, task: &mut TaskSpec, rank: usize, tasks: usize);

    /// Ends what it started; everything is as it was found.
    fn stop(&mut self) {}
}

/// Those that a run has, and what to know about those that it cannot have. `wanted` are the values of
/// `--peer`: `auto` (all that the machine has), `none`, a name, or `NAME=CMD`.
#[allow(clippy::type_complexity)]
pub(crate) fn chosen(
    wanted: &[String],
    device: Device,
) -> Result<(Vec<Box<dyn Peer>>, Vec<String>), String> {
    let (mut peers, mut notes): (Vec<Box<dyn Peer>>, _) = (Vec::new(), Vec::new());
    for one in wanted {
        match (one.as_str(), device) {
            ("none", _) => {}
            ("auto", Device::Cpu) | ("nice", Device::Cpu) => peers.push(Box::new(Nice)),
            ("auto", Device::Cuda) if find(MPS_CONTROL).is_none() => {
                notes.push(format!("mps is left out: {MPS_CONTROL} is not in PATH."));
            }
            ("mps", Device::Cuda) if find(MPS_CONTROL).is_none() => {
                return Err(format!(
                    "--peer mps: {MPS_CONTROL} is not in PATH: install it, or leave this peer out"
                ));
            }
            ("auto" | "mps", Device::Cuda) => peers.push(Box::new(Mps::default())),
            (text, _) => match text.split_once('=') {
                Some((name, command)) if is_name(name) && !command.trim().is_empty() => {
                    peers.push(Box::new(Wrapped {
                        name: name.to_owned(),
                        command: command.to_owned(),
                    }));
                }
                _ => {
                    return Err(format!(
                        "--peer {text}: use auto, none, nice (on cpu), mps (on cuda), or NAME=CMD \
                         with a name of small letters, digits and dashes"
                    ));
                }
            },
        }
    }
    let mut names = vec!["standalone".to_owned(), "native".into(), "xsched".into()];
    for peer in &peers {
        let name = peer.contender().name;
        if names.contains(&name) {
            return Err(format!("--peer {name}: this name is taken, use another"));
        }
        names.push(name);
    }
    Ok((peers, notes))
}

/// A program in PATH.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

fn peer(name: &str, title: &str) -> Contender {
    Contender {
        name: name.to_owned(),
        title: title.to_owned(),
        kind: Kind::Peer,
    }
}

/// The kernel's own priorities of the processes: 0 for the most urgent, 19 for the last.
struct Nice;

impl Peer for Nice {
    fn contender(&self) -> Contender {
        peer("nice", "nice")
    }

    fn environment(&self, task: &mut TaskSpec, rank: usize, tasks: usize) {
        let value = 19 * rank / (tasks - 1).max(1);
        task.wrap = ["nice", "-n", &value.to_string()].map(String::from).into();
    }
}

/// A command of the user's before each worker's command line.
struct Wrapped {
    name: String,
    command: String,
}

impl Peer for Wrapped {
    fn contender(&self) -> Contender {
        peer(&self.name, &self.name)
    }

    /// The shell reads the text, so that it may set variables and quote; the worker's words are never
    /// part of the text.
    fn environment(&self, task: &mut TaskSpec, rank: usize, _tasks: usize) {
        let mut text = self
            .command
            .replace("{priority}", &task.class)
            .replace("{rank}", &rank.to_string())
            .replace("{task}", &task.name);
        match text.contains("{command}") {
            true => text = text.replace("{command}", "\"$@\""),
            false => text.push_str(" \"$@\""),
        }
        task.wrap = ["sh", "-c", &text, "sh"].map(String::from).into();
    }
}

/// CUDA MPS with its two client priorities: a control daemon of this user's own, in folders of its own.
#[derive(Default)]
struct Mps {
    running: Option<(Process, TempDir)>,
}

impl Mps {
    fn folders(&self) -> Vec<(String, String)> {
        let Some((_, folder)) = &self.running else {
            return Vec::new();
        };
        let folder = folder.path().display().to_string();
        ["CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"]
            .map(|name| (name.to_owned(), folder.clone()))
            .into()
    }
}

impl Peer for Mps {
    fn contender(&self) -> Contender {
        peer("mps", "CUDA MPS")
    }

    fn start(&mut self, launcher: &Launcher, interrupt: &Interrupt) -> Result<(), Failure> {
        let fail = |reason: String| Failure::Start {
            task: "mps".to_owned(),
            reason,
        };
        let folder = tempfile::Builder::new().prefix("xsched-mps-").tempdir();
        let folder = folder.map_err(|error| fail(error.to_string()))?;
        let mut command = Command::new(MPS_CONTROL);
        command
            .arg("-f")
            .env("CUDA_MPS_PIPE_DIRECTORY", folder.path())
            .env("CUDA_MPS_LOG_DIRECTORY", folder.path());
        let process = launcher
            .spawn(command, "mps")
            .map_err(|error| fail(error.to_string()))?;
        let control = folder.path().join("control");
        let (process, _) = self.running.insert((process, folder));
        let deadline = Instant::now() + MPS_LIMIT;
        while !control.exists() {
            if let Some(signal) = interrupt.received() {
                return Err(Failure::Interrupted(signal));
            }
            if let Some(status) = process.poll_exit() {
                let words = process.last_words().unwrap_or_default();
                return Err(fail(format!("{} {words}", describe_exit(status))));
            }
            if Instant::now() >= deadline {
                return Err(fail(format!("no answer within {} s", MPS_LIMIT.as_secs())));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// 0 is normal and 1 below: the most urgent task is normal.
    fn environment(&self, task: &mut TaskSpec, rank: usize, _tasks: usize) {
        task.environment = self.folders();
        let priority = u32::from(rank > 0).to_string();
        task.environment
            .push(("CUDA_MPS_CLIENT_PRIORITY".to_owned(), priority));
    }

    fn stop(&mut self) {
        let folders = self.folders();
        if let Some((mut process, _folder)) = self.running.take() {
            // Its servers are not all of its group: it has to end them itself.
            let quit = Command::new("sh")
                .args(["-c", &format!("echo quit | {MPS_CONTROL}")])
                .envs(folders)
                .output();
            drop(quit);
            process.end(END_GRACE);
        }
    }
}

impl Drop for Mps {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrap(wanted: &str, rank: usize) -> String {
        let (peers, _) = chosen(&[wanted.to_owned()], Device::Cpu).unwrap();
        let mut task = TaskSpec {
            name: "job".into(),
            class: "-5".into(),
            ..TaskSpec::default()
        };
        peers[0].environment(&mut task, rank, 3);
        task.wrap.join(" ")
    }

    #[test]
    fn each_task_gets_its_place() {
        assert_eq!(wrap("auto", 0), "nice -n 0");
        assert_eq!(wrap("nice", 1), "nice -n 9");
        assert_eq!(wrap("nice", 2), "nice -n 19");
        let said = wrap("theirs=run -p {priority} -r {rank} -t {task}", 1);
        assert_eq!(said, "sh -c run -p -5 -r 1 -t job \"$@\" sh");
        let said = wrap("theirs=A=1 {command} -x", 1);
        assert_eq!(said, "sh -c A=1 \"$@\" -x sh");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refused = |wanted: &str, device| {
            let error = chosen(&[wanted.to_owned()], device).err();
            error.unwrap_or_else(|| panic!("{wanted} is taken"))
        };
        for wanted in ["mps", "A b=true", "x=", "native", "xsched=true"] {
            assert!(refused(wanted, Device::Cpu).contains("--peer"), "{wanted}");
        }
        assert!(refused("nice", Device::Cuda).contains("nice (on cpu)"));
        let (peers, notes) = chosen(&["none".to_owned()], Device::Cuda).unwrap();
        assert!(peers.is_empty() && notes.is_empty());
    }
}

//! Child processes: their command lines and environment, a process group each, and nothing left
//! over afterwards.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use xsched_wire::env;

use crate::task::{Arrival, PhaseSpec, Scheduling, TaskSpec};

/// How long a group may take to end after SIGTERM before it gets SIGKILL.
pub const END_GRACE: Duration = Duration::from_secs(2);

/// How often a wait for a process looks again.
const POLL: Duration = Duration::from_millis(10);

/// Variables of the caller that would change what a phase measures. The others (threshold, batch
/// size, log …) stay, so that a person can tune with them.
const REPLACED_VARIABLES: &[&str] = &[
    env::DISABLE.name,
    env::SOCKET.name,
    env::NAME.name,
    env::JOB.name,
    env::SCHEDULER.name,
    env::POLICY.name,
    env::AUTO_XQUEUE.name,
    env::PRIORITY.name,
    env::LEVEL.name,
];

/// Starts workers and daemons.
#[derive(Debug, Clone)]
pub struct Launcher {
    /// The command `xsched`.
    pub program: PathBuf,
    /// Set for every child.
    pub environment: Vec<(OsString, OsString)>,
    /// Where the children's standard error goes, a file each.
    pub log_dir: PathBuf,
    /// Where the next daemon's trace goes, if one is wanted.
    pub trace: Option<PathBuf>,
}

impl Launcher {
    /// `xsched run`, up to the program that it becomes.
    pub fn run_command(
        &self,
        scheduling: &Scheduling,
        level: Option<u8>,
        class: &str,
        name: &str,
    ) -> Command {
        let task = TaskSpec {
            name: name.to_owned(),
            class: class.to_owned(),
            ..TaskSpec::default()
        };
        self.task_command(scheduling, level, &task)
    }

    /// The same with a task's hints, and whatever somebody else's scheduler puts before the program.
    fn task_command(&self, scheduling: &Scheduling, level: Option<u8>, task: &TaskSpec) -> Command {
        let mut command = self.command();
        match scheduling {
            Scheduling::Off => command.env(env::DISABLE.name, "1"),
            Scheduling::Daemon(socket) => command.env(env::SOCKET.name, socket),
            Scheduling::Local => command.env(env::SCHEDULER.name, "LCL"),
        };
        if let Some(level) = level {
            command.env(env::LEVEL.name, level.to_string());
        }
        command.args(["run", "--priority", &task.class, "--name", &task.name]);
        command.args(&task.hints).arg("--").args(&task.wrap);
        command.envs(task.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// The command line and environment of one worker.
    pub fn worker_command(&self, phase: &PhaseSpec, task: &TaskSpec) -> Command {
        let mut command = self.task_command(&phase.scheduling, phase.level, task);
        if phase.device == xsched_cpu::DEVICE_KIND {
            // gemm would read /proc/cpuinfo at every product to find this out; and candle's own
            // threads, which no queue owns, must not be started.
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            command.env("RAYON_NUM_THREADS", threads.to_string());
            command.env("CANDLE_NUM_THREADS", "1");
        }
        command.arg(&self.program).arg("worker");
        let mut option = |name: &str, value: &dyn std::fmt::Display| {
            command.arg(name).arg(value.to_string());
        };
        option("--model", &task.model);
        option("--batch", &task.batch);
        option("--device", &phase.device);
        match task.arrival {
            Arrival::Open { rate_hz } => {
                option("--arrival", &"open");
                option("--rate", &rate_hz);
            }
            Arrival::Poisson { rate_hz } => {
                option("--arrival", &"poisson");
                option("--rate", &rate_hz);
            }
            Arrival::Closed => option("--arrival", &"closed"),
        }
        option("--duration", &phase.duration.as_secs_f64());
        option("--warmup", &phase.warmup);
        option("--seed", &phase.seed);
        command.args(&task.options);
        command
    }

    /// The command line and environment of a daemon on `socket`.
    pub fn daemon_command(&self, socket: &Path, policy: &str) -> Command {
        let mut command = self.command();
        command.arg("serve").arg("--socket").arg(socket);
        command.args(["--policy", policy]);
        // Should the bench itself be killed, nobody else would end it.
        command.args(["--exit-when-unused", "120"]);
        if let Some(trace) = &self.trace {
            command.arg("--trace").arg(trace);
        }
        command
    }

    /// The command that asks the daemon on `socket` for its queues.
    pub fn list_command(&self, socket: &Path) -> Command {
        let mut command = self.command();
        command.args(["list", "--json"]);
        command.env(env::SOCKET.name, socket);
        command.stdin(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Starts `command` in a process group of its own; standard error goes to `LOG_DIR/NAME.log`.
    pub fn spawn(&self, mut command: Command, name: &str) -> io::Result<Process> {
        std::fs::create_dir_all(&self.log_dir)?;
        let log = self.log_dir.join(format!("{name}.log"));
        let child = command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .spawn()?;
        Ok(Process::new(child, log))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        for name in REPLACED_VARIABLES {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// A child and its process group. Dropping it ends the whole group.
#[derive(Debug)]
pub struct Process {
    child: Child,
    group: Pid,
    stdin: Option<ChildStdin>,
    /// Set when the leader was reaped; the group is gone by then.
    status: Option<ExitStatus>,
    log: PathBuf,
}

impl Process {
    fn new(mut child: Child, log: PathBuf) -> Process {
        let stdin = child.stdin.take();
        let group = Pid::from_child(&child);
        Process {
            child,
            group,
            stdin,
            status: None,
            log,
        }
    }

    /// The child's standard output; once.
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// The child's number, which is that of its group.
    pub fn id(&self) -> Pid {
        self.group
    }

    /// File with the child's standard error.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last line that the child wrote to its standard error.
    pub fn last_words(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&std::fs::read(&self.log).ok()?).into_owned();
        text.lines()
            .rev()
            .map(str::trim)
            .find(|line| !line.is_empty())
            .map(str::to_owned)
    }

    /// Sends one line. A child that is gone is noticed by its exit, so that a broken pipe is no
    /// error here.
    pub fn send(&mut self, line: &str) {
        if let Some(stdin) = &mut self.stdin {
            let _ = writeln!(stdin, "{line}").and_then(|()| stdin.flush());
        }
    }

    /// Ends the child's standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// The status if the leader has ended. What is left of its group is killed then, before the
    /// group's number could be given to somebody else.
    pub fn poll_exit(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
            match rustix::process::waitid(WaitId::Pid(self.group), look) {
                Ok(None) => {}
                Ok(Some(_)) => self.reap(),
                // Somebody else has reaped it (SIGCHLD is ignored): its number may be another's by
                // now.
                Err(_) => self.status = Some(ExitStatus::from_raw(0)),
            }
        }
        self.status
    }

    /// Ends the whole group: SIGTERM, after `grace` SIGKILL.
    pub fn end(&mut self, grace: Duration) {
        end_all([self], grace);
    }

    fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            // Fails only when the group has no process any more.
            let _ = rustix::process::kill_process_group(self.group, signal);
        }
    }

    /// Kills the group and waits for the leader.
    fn reap(&mut self) {
        self.signal(Signal::KILL);
        self.status = Some(
            self.child
                .wait()
                .unwrap_or_else(|_| ExitStatus::from_raw(0)),
        );
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.status.is_none() {
            self.reap();
        }
    }
}

/// Ends several groups together: SIGTERM to all, after `grace` SIGKILL to those that are left.
pub fn end_all<'a>(processes: impl IntoIterator<Item = &'a mut Process>, grace: Duration) {
    let mut left: Vec<&mut Process> = processes.into_iter().collect();
    left.retain_mut(|process| process.poll_exit().is_none());
    for process in &mut left {
        process.signal(Signal::TERM);
        // A stopped process takes SIGTERM only once it runs again.
        process.signal(Signal::CONT);
        process.close_stdin();
    }
    let deadline = Instant::now() + grace;
    while !left.is_empty() && Instant::now() < deadline {
        left.retain_mut(|process| process.poll_exit().is_none());
        std::thread::sleep(POLL);
    }
    for process in left {
        process.reap();
    }
}

/// How a process ended, for people.
pub fn describe_exit(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(9)) => "SIGKILL (the kernel sends it when memory runs out)".to_owned(),
        (None, Some(signal)) => match Signal::from_named_raw(signal) {
            Some(named) => format!("signal {signal} ({})", signal_name(named)),
            None => format!("signal {signal}"),
        },
        (None, None) => "an unknown status".to_owned(),
    }
}

fn signal_name(signal: Signal) -> &'static str {
    match signal {
        Signal::SEGV => "SIGSEGV",
        Signal::ABORT => "SIGABRT",
        Signal::TERM => "SIGTERM",
        Signal::BUS => "SIGBUS",
        Signal::ILL => "SIGILL",
        Signal::FPE => "SIGFPE",
        Signal::HUP => "SIGHUP",
        Signal::INT => "SIGINT",
        _ => "see signal(7)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launcher(dir: &Path, program: &str) -> Launcher {
        Launcher {
            program: program.into(),
            environment: Vec::new(),
            log_dir: dir.join("logs"),
            trace: None,
        }
    }

    fn phase(scheduling: Scheduling) -> PhaseSpec {
        PhaseSpec {
            name: "baseline".into(),
            tasks: vec![TaskSpec {
                name: "resnet18-high".into(),
                class: "high".into(),
                model: "resnet18".into(),
                batch: 1,
                arrival: Arrival::Open { rate_hz: 2.5 },
                options: vec!["--cuda-graph".into()],
                ..TaskSpec::default()
            }],
            duration: Duration::from_secs(60),
            scheduling,
            level: Some(2),
            device: "cpu".into(),
            seed: 42,
            warmup: 10,
        }
    }

    fn words(command: &Command) -> Vec<&str> {
        command
            .get_args()
            .map(|arg| arg.to_str().unwrap())
            .collect()
    }

    fn variable<'a>(command: &'a Command, name: &str) -> Option<Option<&'a str>> {
        let (_, value) = command.get_envs().find(|(key, _)| *key == name)?;
        Some(value.map(|value| value.to_str().unwrap()))
    }

    #[test]
    fn a_daemon_is_told_where_its_trace_goes() {
        let words = |launcher: &Launcher| -> Vec<String> {
            let command = launcher.daemon_command(Path::new("/run/x.sock"), "hpf");
            let words = command.get_args().map(|word| word.to_str().unwrap());
            words.map(str::to_owned).collect()
        };
        let mut launcher = launcher(Path::new("out"), "xsched");
        assert!(!words(&launcher).contains(&"--trace".to_owned()));
        launcher.trace = Some("out/scheduled_trace.json".into());
        let words = words(&launcher);
        assert_eq!(
            words[words.len() - 2..],
            ["--trace", "out/scheduled_trace.json"]
        );
    }

    #[test]
    fn both_phases_start_the_same_programs() {
        let launcher = launcher(Path::new("/nowhere"), "/bin/xsched");
        let baseline = phase(Scheduling::Off);
        let scheduled = phase(Scheduling::Daemon("/tmp/s/xsched.sock".into()));
        let off = launcher.worker_command(&baseline, &baseline.tasks[0]);
        let on = launcher.worker_command(&scheduled, &scheduled.tasks[0]);
        let expected = "run --priority high --name resnet18-high -- /bin/xsched worker --model \
                        resnet18 --batch 1 --device cpu --arrival open --rate 2.5 --duration 60 \
                        --warmup 10 --seed 42 --cuda-graph";
        assert_eq!(words(&off).join(" "), expected);
        assert_eq!(words(&off), words(&on));
        assert_eq!(variable(&off, "XSCHED_DISABLE"), Some(Some("1")));
        assert_eq!(variable(&off, "XSCHED_SOCKET"), Some(None));
        assert_eq!(variable(&on, "XSCHED_DISABLE"), Some(None));
        assert_eq!(
            variable(&on, "XSCHED_SOCKET"),
            Some(Some("/tmp/s/xsched.sock"))
        );
        assert_eq!(variable(&on, "XSCHED_AUTO_XQUEUE_LEVEL"), Some(Some("2")));
    }

    /// A shell that does `first`, starts a grandchild, prints its number, and then does `last`.
    fn family(dir: &Path, first: &str, last: &str) -> (Process, Pid) {
        let launcher = launcher(dir, "/bin/sh");
        let mut command = launcher.command();
        command
            .arg("-c")
            .arg(format!("{first}; sleep 1000 & echo $!; {last}"));
        let mut process = launcher.spawn(command, "family").unwrap();
        let mut line = String::new();
        let mut stdout = io::BufReader::new(process.take_stdout().unwrap());
        io::BufRead::read_line(&mut stdout, &mut line).unwrap();
        let grandchild = Pid::from_raw(line.trim().parse().unwrap()).unwrap();
        (process, grandchild)
    }

    /// Waits until a process is gone, or a zombie that only its adopter can reap.
    fn wait_until_gone(pid: Pid) {
        let stat = format!("/proc/{}/stat", pid.as_raw_nonzero());
        while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
            std::thread::sleep(POLL);
        }
    }

    #[test]
    fn ending_reaches_the_grandchildren() {
        let dir = tempfile::tempdir().unwrap();
        let (mut process, grandchild) = family(dir.path(), ":", "wait");
        assert!(process.poll_exit().is_none());
        process.end(END_GRACE);
        assert!(process.poll_exit().is_some());
        wait_until_gone(grandchild);
    }

    #[test]
    fn a_leader_that_ignores_sigterm_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let (mut process, grandchild) = family(dir.path(), "trap '' TERM", "wait");
        process.end(Duration::from_millis(50));
        assert_eq!(
            process.poll_exit().and_then(|status| status.signal()),
            Some(9)
        );
        wait_until_gone(grandchild);
    }

    #[test]
    fn grandchildren_do_not_outlive_their_leader() {
        let dir = tempfile::tempdir().unwrap();
        let (mut process, grandchild) = family(dir.path(), ":", "echo good bye >&2; exit 3");
        let status = loop {
            if let Some(status) = process.poll_exit() {
                break status;
            }
            std::thread::sleep(POLL);
        };
        assert_eq!(describe_exit(status), "exit code 3");
        assert_eq!(process.last_words().as_deref(), Some("good bye"));
        wait_until_gone(grandchild);
    }

    #[test]
    fn dropping_ends_the_group() {
        let dir = tempfile::tempdir().unwrap();
        let (process, grandchild) = family(dir.path(), ":", "wait");
        drop(process);
        wait_until_gone(grandchild);
    }

    #[test]
    fn endings_are_described() {
        assert_eq!(
            describe_exit(ExitStatus::from_raw(11)),
            "signal 11 (SIGSEGV)"
        );
        assert!(describe_exit(ExitStatus::from_raw(9)).contains("memory"));
    }
}

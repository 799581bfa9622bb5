//! Unmodified PyOpenCL programs under `xsched run`, on a real driver, with a daemon that is killed.

mod common;

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{ChildStdin, ChildStdout, Command, Stdio},
};

use common::{Daemon, PATIENCE, Program, clean, executable, wait_until};
use xsched_server::api::Queue;

/// Batches of kernels that feed each other, a digest of the result a line, until standard input
/// says a word; then one more.
const PROGRAM: &str = r#"
import hashlib, select, sys
import numpy, pyopencl as cl

context = cl.Context(cl.get_platforms()[0].get_devices()[:1])
queue = cl.CommandQueue(context)
work = cl.Kernel(cl.Program(context, """
__kernel void work(__global const uint *from, __global uint *to) {
    uint word = from[get_global_id(0)];
    for (uint i = 0; i < 200000u; i++) word = word * 1664525u + (word >> 16);
    to[get_global_id(0)] = word;
}""").build(), "work")
host = numpy.arange(64, dtype=numpy.uint32)
one, two = (cl.Buffer(context, cl.mem_flags.READ_WRITE, host.nbytes) for _ in "ab")
last = False
while True:
    out = numpy.empty_like(host)
    cl.enqueue_copy(queue, one, host, is_blocking=False)
    for _ in range(6):
        work(queue, (64,), (8,), one, two)
        one, two = two, one
    cl.enqueue_copy(queue, out, one)
    print(hashlib.sha256(out.tobytes()).hexdigest(), flush=True)
    if last:
        break
    last = bool(select.select([sys.stdin], [], [], 0)[0])
"#;

/// The program, running.
struct Running {
    program: Program,
    input: ChildStdin,
    lines: BufReader<ChildStdout>,
    digests: BTreeSet<String>,
}

impl Running {
    fn start(mut command: Command) -> Running {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut program = Program::start(&mut command);
        Running {
            input: program.child().stdin.take().unwrap(),
            lines: BufReader::new(program.child().stdout.take().unwrap()),
            program,
            digests: BTreeSet::new(),
        }
    }

    /// Waits for more batches.
    fn batches(&mut self, count: usize) {
        for _ in 0..count {
            let mut line = String::new();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "it ended");
            self.digests.insert(line);
        }
    }

    /// Ends it; gives all results that differ.
    fn end(mut self) -> BTreeSet<String> {
        self.input.write_all(b"end\n").unwrap();
        let rest = self.lines.lines().map(|line| line.unwrap() + "\n");
        self.digests.extend(rest);
        assert!(self.program.wait().success());
        self.digests
    }

    fn queue(&self, daemon: &Daemon) -> Option<Queue> {
        let mut queues = daemon.queues().into_iter();
        queues.find(|queue| queue.pid == self.program.pid())
    }

    /// Threads in the scheduling class of the background.
    fn idle_threads(&self) -> usize {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.program.pid())).unwrap();
        let is_idle = |path: PathBuf| {
            let stat = fs::read_to_string(path.join("stat")).unwrap_or_default();
            // Behind the name, which is in parentheses, the policy is the 39th field: proc(5).
            let policy = stat
                .rsplit(") ")
                .next()
                .and_then(|rest| rest.split(' ').nth(38));
            policy == Some("5")
        };
        tasks
            .filter(|task| is_idle(task.as_ref().unwrap().path()))
            .count()
    }
}

fn python() -> Command {
    let mut command = clean("/usr/bin/python3");
    command.args(["-c", PROGRAM]);
    command
}

/// `xsched` with the shim where it looks for it.
fn installed(folder: &Path) -> PathBuf {
    let shim = "libshimopencl.so";
    let built = std::env::current_exe().unwrap().with_file_name(shim);
    let place = |from: &Path, to: &str| {
        let to = folder.join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, &to).unwrap();
        to
    };
    place(&built, "lib/libshimopencl.so");
    place(executable(), "bin/xsched")
}

#[test]
fn doctor_tries_opencl_without_and_with_the_shim() {
    let folder = tempfile::tempdir().unwrap();
    let xsched = installed(folder.path());
    let doctor = |environment: &[(&str, &str)]| {
        let mut command = clean(&xsched);
        command
            .args(["doctor", "--platform", "opencl"])
            .env("XDG_RUNTIME_DIR", folder.path())
            .envs(environment.iter().copied());
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), text)
    };
    let (code, text) = doctor(&[]);
    assert_eq!(code, Some(0), "{text}");
    for name in ["loader", "device", "matmul", "shim", "preload"] {
        assert!(
            text.contains(&format!("PASSED  {name}: ")),
            "{name}: {text}"
        );
    }
    assert!(text.contains("level: "), "{text}");

    let nothing = folder.path().join("nothing").display().to_string();
    let (code, text) = doctor(&[("OCL_ICD_VENDORS", &nothing)]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("FAILED  device: "), "{text}");
    assert!(text.contains("pocl-opencl-icd"), "{text}");
}

#[test]
fn the_example_runs_scheduled() {
    let daemon = Daemon::start();
    let xsched = installed(daemon.dir());
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/examples/busy.py");
    let mut command = clean(&xsched);
    command
        .env(xsched_wire::env::SOCKET.name, daemon.socket())
        .args(["run", "--priority", "low", "--"])
        .args(["/usr/bin/python3", example, "0.1"])
        .stderr(daemon.program_log());
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches(" kernels/s\n").count(), 1, "{said}");
}

#[test]
fn opencl_programs_run_by_priority_and_outlive_their_daemon() {
    let mut bare = Running::start(python());
    bare.batches(1);
    let expect = bare.end();
    assert_eq!(expect.len(), 1);

    let mut daemon = Daemon::start_with(&["--min-share", "0"]);
    let xsched = installed(daemon.dir());
    let start = |priority: &str| {
        let mut command = clean(&xsched);
        command
            .env(xsched_wire::env::SOCKET.name, daemon.socket())
            .args(["run", "--priority", priority, "--"])
            .args(["/usr/bin/python3", "-c", PROGRAM])
            .stderr(daemon.program_log());
        Running::start(command)
    };
    let mut low = start("low");
    low.batches(1);
    let mut high = start("high");
    high.batches(1);

    let is_held = |queue: Queue| queue.ready && !queue.open;
    let held = || low.queue(&daemon).is_some_and(is_held);
    wait_until(held, PATIENCE);
    let level = low.queue(&daemon).unwrap().level;
    assert!(level >= 2, "level {level}");
    if level == 3 {
        wait_until(|| low.idle_threads() > 0, PATIENCE);
        assert_eq!(high.idle_threads(), 0);
    }

    daemon.kill();
    wait_until(|| low.idle_threads() == 0, PATIENCE);
    low.batches(3);
    high.batches(3);
    assert_eq!(low.end(), expect);
    assert_eq!(high.end(), expect);
}

//! The torch worker from its command line to its last report, with the machine's python3 and stand-ins
//! for torch and torchvision.

#[path = "../../platform/standin/tests/support/mod.rs"]
mod standin;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use xsched_bench::worker::protocol::{ErrorKind, Report};

/// Where the stand-ins for Python packages are.
fn packages() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/python")
}

struct Worker {
    dir: TempDir,
    command: Command,
}

/// How a worker ended.
struct Ended {
    reports: Vec<Report>,
    /// Device work, in order.
    trace: Vec<String>,
    success: bool,
    pid: u32,
}

impl Worker {
    fn new(options: &str) -> Worker {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_xsched-stand-in"));
        command
            .args(["worker", "--device", "cuda", "--image-size", "4"])
            .args(options.split_whitespace())
            .env("STAND_IN", "real")
            .env("PYTHONPATH", packages())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("FAKE_TORCH_TRACE", dir.path().join("trace"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        Worker { dir, command }
    }

    fn fault(mut self, fault: &str) -> Worker {
        // Without torch and a driver, which would be found before the machine's.
        let fault = if fault == "no-driver" {
            std::fs::write(self.dir.path().join("libcuda.so.1"), "none").unwrap();
            self.command.env("LD_LIBRARY_PATH", self.dir.path());
            "missing"
        } else {
            self.command
                .env("LD_LIBRARY_PATH", standin::driver_folder());
            fault
        };
        self.command.env("FAKE_TORCH", fault);
        self
    }

    /// Tells it `instructions` when it is ready, and `end` when it has reported progress.
    fn run(mut self, instructions: &str, end: Option<&str>) -> Ended {
        let mut child: Child = self.command.spawn().unwrap();
        let mut stdin = child.stdin.take();
        let mut say = |text: &str| {
            if let Some(stdin) = &mut stdin {
                stdin.write_all(text.as_bytes()).unwrap();
            }
        };
        let mut reports = Vec::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let report = serde_json::from_str(&line.unwrap()).unwrap();
            match (&report, end) {
                (Report::Ready { .. }, _) => say(instructions),
                (Report::Progress { .. }, Some(end)) => say(end),
                _ => {}
            }
            reports.push(report);
        }
        let pid = child.id();
        let success = child.wait().unwrap().success();
        let trace = std::fs::read_to_string(self.dir.path().join("trace")).unwrap_or_default();
        let trace = trace.lines().map(str::to_owned).collect();
        Ended {
            reports,
            trace,
            success,
            pid,
        }
    }
}

impl Ended {
    /// Requests, digest, and whether all outputs were equal; the last report must be a result.
    fn result(&self) -> (&[[f64; 3]], &str, bool) {
        assert!(self.success);
        match self.reports.last() {
            Some(Report::Result {
                completed,
                samples,
                digest,
                digests_equal,
                ..
            }) => {
                assert_eq!(*completed, samples.len() as u64);
                (samples, digest, *digests_equal)
            }
            other => panic!("{other:?}"),
        }
    }

    fn count(&self, work: &str) -> usize {
        self.trace.iter().filter(|line| *line == work).count()
    }
}

#[test]
fn an_open_loop_serves_its_schedule() {
    let options = "--model resnet18 --arrival open --rate 50 --duration 0.2 --warmup 3 --seed 7 \
                   --threads 1";
    let mut worker = Worker::new(options);
    worker.command.env("LD_PRELOAD", "libnone.so");
    let ended = worker.run("start\n", None);
    let (samples, digest, equal) = ended.result();
    let arrivals: Vec<f64> = samples.iter().map(|[arrival, ..]| *arrival).collect();
    let expected: Vec<f64> = (0..10).map(|index| f64::from(index) * 20.0).collect();
    assert_eq!(arrivals, expected);
    for [arrival, start, latency] in samples {
        // Latency counts from the arrival.
        assert!(start >= arrival && *latency >= start - arrival);
    }
    assert!(equal);
    assert_eq!(digest.len(), 16);

    let Report::Ready {
        model,
        batch,
        commands,
        level,
        ..
    } = &ended.reports[0]
    else {
        panic!("{:?}", ended.reports)
    };
    // Three layers and two copies; nobody has preloaded a shim.
    assert_eq!(
        (model.as_str(), *batch, *commands, *level),
        ("resnet18", 1, 5, 0)
    );

    // It became python3: same process, same environment.
    assert_eq!(ended.trace[0], format!("pid {}", ended.pid));
    assert_eq!(ended.trace[1], "LD_PRELOAD libnone.so");
    assert_eq!(ended.trace[2], "threads 1");
    assert_eq!(ended.trace[3], "seed 7");
    let request = [
        "copy pinned to cuda",
        "forward",
        "copy cuda to pinned",
        "synchronize",
    ];
    assert_eq!(&ended.trace[ended.trace.len() - 4..], request);
    // One to see the shape of the output, three to warm up, ten that count.
    assert_eq!(ended.count("forward"), 14);
}

#[test]
fn a_graph_is_captured_once_and_replayed_for_each_request() {
    let options = "--model resnet18 --arrival open --rate 100 --duration 0.1 --warmup 2";
    let eager = Worker::new(options).run("start\n", None);
    let graph = Worker::new(&format!("{options} --cuda-graph")).run("start\n", None);
    assert_eq!((graph.count("capture"), graph.count("replay")), (1, 12));
    assert_eq!(graph.result().0.len(), 10);
    assert_eq!(graph.result().1, eager.result().1);
    assert!(matches!(
        graph.reports[0],
        Report::Ready { commands: 3, .. }
    ));
}

#[test]
fn stop_and_the_end_of_the_input_end_a_run_with_a_result() {
    let options = "--model resnet50 --arrival closed --duration 3600 --warmup 1 --batch 2";
    let ended = Worker::new(options).run("start\n", Some("stop\n"));
    let (samples, _, equal) = ended.result();
    assert!(!samples.is_empty() && equal);
    for pair in samples.windows(2) {
        assert!(pair[1][1] >= pair[0][1] + pair[0][2] - 0.002);
    }
    assert!(matches!(ended.reports[1], Report::Progress { completed, .. } if completed > 0));

    let ended = Worker::new(options).run("stop\n", None);
    assert!(ended.result().0.is_empty());

    let mut worker = Worker::new(options);
    worker.command.stdin(Stdio::null());
    let ended = worker.run("", None);
    assert!(ended.result().0.is_empty());
}

#[test]
fn a_worker_can_measure_several_times() {
    let options = "--model resnet18 --arrival closed --duration 0.05 --warmup 1 --repeat 3";
    let mut worker = Worker::new(options);
    let mut child = worker.command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut results = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        match serde_json::from_str(&line.unwrap()).unwrap() {
            Report::Ready { .. } => stdin.write_all(b"start\n").unwrap(),
            Report::Result { samples, .. } => {
                assert!(!samples.is_empty());
                results += 1;
                if results < 3 {
                    stdin.write_all(b"start\n").unwrap();
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(results, 3);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_changed_output_is_noticed() {
    let options = "--model resnet18 --arrival closed --duration 0.05 --warmup 1";
    let ended = Worker::new(options).fault("changing").run("start\n", None);
    assert!(!ended.result().2);
    let digest = |options: &str| {
        let ended = Worker::new(options).run("start\n", None);
        let (_, digest, equal) = ended.result();
        assert!(equal);
        digest.to_owned()
    };
    assert_eq!(digest(options), digest(options));
    assert_ne!(digest(options), digest(&format!("{options} --seed 1")));
}

#[test]
fn failures_name_their_kind_and_a_remedy() {
    let check = |fault: &str, options: &str, kind: ErrorKind, says: &[&str]| {
        let options = format!("--arrival closed --duration 1 {options}");
        let ended = Worker::new(&options).fault(fault).run("start\n", None);
        assert!(!ended.success);
        let [
            Report::Error {
                kind: found,
                message,
            },
        ] = ended.reports.as_slice()
        else {
            panic!("{:?}", ended.reports)
        };
        assert_eq!(*found, kind, "{message}");
        assert_eq!(message.lines().count(), 1);
        for part in says {
            assert!(message.contains(part), "{part:?} is missing in {message:?}");
        }
    };
    let usage = ErrorKind::Usage;
    let model = "--model resnet18";
    check("missing", model, usage, &["pip install torch torchvision"]);
    check(
        "no-driver",
        model,
        usage,
        &["no NVIDIA driver (", "xsched doctor"],
    );
    check("broken", model, usage, &["libcudnn.so.9", "pip install"]);
    check("cpu-build", model, usage, &["without CUDA", "install"]);
    check("no-gpu", model, usage, &["finds no GPU", "nvidia-smi"]);
    check("", "--model resnet19", usage, &["no model resnet19"]);
    check(
        "out-of-memory",
        "--model resnet50 --batch 8",
        ErrorKind::OutOfMemory,
        &["CUDA out of memory. Tried to allocate 2.00 GiB; use a smaller batch than 8"],
    );
    // Refused before python3 starts.
    check("", "--model spin:0", usage, &["--model spin:0"]);
    check("", "--model spin:50 --batch 2", usage, &["--batch 2"]);
}

#[test]
fn python3_is_the_first_in_the_path() {
    let bin = tempfile::tempdir().unwrap();
    let options = "--model resnet18 --arrival closed --duration 1.5 --cuda-graph";
    let with_path = || {
        let mut worker = Worker::new(options);
        worker.command.env("PATH", bin.path());
        worker.run("start\n", None)
    };
    let ended = with_path();
    assert!(!ended.success);
    let [Report::Error { kind, message }] = ended.reports.as_slice() else {
        panic!("{:?}", ended.reports)
    };
    assert_eq!(*kind, ErrorKind::Usage);
    assert!(message.contains("python3 is not found"), "{message}");

    // Another python3, which prints what it was told as the result's digest.
    let python = bin.path().join("python3");
    let script = r#"#!/bin/sh
        shift 2
        read -r instruction
        echo '{"event":"result","completed":0,"elapsed_ms":1,"start_ns":1,"samples":[],"digest":"'"$instruction $*"'","digests_equal":true}'
    "#;
    std::fs::write(&python, script).unwrap();
    std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut worker = Worker::new(options);
    worker.command.env("PATH", bin.path());
    let mut child = worker.command.spawn().unwrap();
    // The input is untouched by the process that python3 replaced.
    child.stdin.take().unwrap().write_all(b"start\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let report: Report = serde_json::from_slice(&output.stdout).unwrap();
    let Report::Result { digest, .. } = report else {
        panic!("{report:?}")
    };
    assert_eq!(
        digest,
        "start --model resnet18 --batch 1 --arrival closed --duration 1.5 --warmup 10 --seed 0 \
         --image-size 4 --precision fp32 --repeat 1 --cuda-graph"
    );
}

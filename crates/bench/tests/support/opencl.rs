//! Workers of the OpenCL workload, on a real OpenCL device.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use xsched_bench::worker::protocol::{ErrorKind, Report};

/// A small model, back to back.
pub(crate) fn worker(options: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xsched-stand-in"));
    command
        .args(["worker", "--device", "opencl", "--arrival", "closed"])
        .args(["--image-size", "32", "--duration", "0.05", "--warmup", "1"])
        .args(options.split_whitespace())
        .env("STAND_IN", "real")
        .stderr(Stdio::null());
    command
}

/// The reports of a worker that may start as soon as it is ready.
pub(crate) fn run(mut command: Command) -> Vec<Report> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Its end would say stop. A worker that refuses its options may be gone.
    let mut stdin = child.stdin.take().unwrap();
    let _ = stdin.write_all(b"start\n");
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let reports = lines
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .collect();
    child.wait().unwrap();
    reports
}

/// Whether this machine has an OpenCL device; says so if not.
pub(crate) fn has_device() -> bool {
    match run(worker("--model resnet18")).first() {
        Some(Report::Error {
            kind: ErrorKind::Usage,
            message,
        }) if message.contains("install") => {
            eprintln!("skipped: {message}");
            false
        }
        _ => true,
    }
}

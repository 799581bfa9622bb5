//! The built-in CUDA workload from its command line to its last report, over the stand-in driver,
//! without and with the shim.

#[path = "support/reports.rs"]
mod reports;
#[path = "../../platform/standin/tests/support/mod.rs"]
mod standin;

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use reports::measured;
use xsched_bench::worker::protocol::{ErrorKind, Report};

fn worker(options: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xsched-stand-in"));
    command
        .args(["worker", "--device", "cuda", "--arrival", "closed"])
        .args(options.split_whitespace())
        .env("STAND_IN", "real")
        .env("LD_LIBRARY_PATH", standin::driver_folder())
        .stderr(Stdio::null());
    command
}

fn shim() -> PathBuf {
    let path = std::env::current_exe()
        .unwrap()
        .with_file_name("libshimcuda.so");
    assert!(path.exists(), "{} is not built", path.display());
    path
}

/// The reports of a worker that may start as soon as it is ready.
fn run(mut command: Command) -> Vec<Report> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // One that fails at once has ended by then.
    let _ = stdin.write_all(b"start\n");
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let reports = lines
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .collect();
    let _ = child.wait().unwrap();
    reports
}

const SHORT: &str = "--duration 0.1 --warmup 2";

#[test]
fn the_output_proves_the_work_however_it_is_done() {
    let of = |options: &str| measured(&run(worker(&format!("{SHORT} {options}"))));
    let (commands, level, digest) = of("--model kernels:3x50");
    assert_eq!((commands, level), (5, 0));
    assert_eq!(
        of("--model kernels:3x50 --cuda-graph"),
        (3, 0, digest.clone())
    );
    // All rounds undone, the output is the input.
    assert_eq!(of("--model spin:200"), (3, 0, digest.clone()));
    assert_ne!(of("--model spin:200 --seed 1").2, digest);
}

#[test]
fn the_shim_takes_effect_as_in_other_programs() {
    for graph in ["", "--cuda-graph"] {
        let options = format!("{SHORT} --model kernels:40x20 {graph}");
        let plain = measured(&run(worker(&options)));
        let shimmed = || {
            let mut command = worker(&options);
            command
                .env("LD_PRELOAD", shim())
                .env("XSCHED_POLICY", "hpf");
            let (commands, level, digest) = measured(&run(command));
            assert_eq!((commands, &digest), (plain.0, &plain.2));
            level
        };
        // Level 3, as the stand-in has time slices; 0 if its scheduler was not there yet.
        let level = std::iter::repeat_with(shimmed).find(|level| *level > 0);
        assert_eq!(level, Some(3));
    }
}

#[test]
fn failures_name_their_kind_and_a_remedy() {
    let check = |options: &str, fail: &str, kind: ErrorKind, says: &[&str]| {
        let mut command = worker(&format!("--duration 1 {options}"));
        command.env("STANDIN_FAIL", fail);
        let reports = run(command);
        let [
            Report::Error {
                kind: found,
                message,
            },
        ] = reports.as_slice()
        else {
            panic!("{reports:?}")
        };
        assert_eq!(*found, kind, "{message}");
        for part in says {
            assert!(message.contains(part), "{part:?} is missing in {message:?}");
        }
    };
    let spin = "--model spin:50";
    check(
        spin,
        "cuMemAlloc:2",
        ErrorKind::OutOfMemory,
        &["CUDA out of memory", "end other programs"],
    );
    check(
        spin,
        "cuInit:100",
        ErrorKind::Usage,
        &["finds no GPU", "CUDA_VISIBLE_DEVICES"],
    );
    check(
        spin,
        "cuStreamSynchronize:700",
        ErrorKind::Device,
        &["cuStreamSynchronize", "700"],
    );
    // Refused before the driver is loaded.
    check("--model spin:0", "", ErrorKind::Usage, &["--model spin:0"]);
    check(
        "--model spin:50 --batch 2",
        "",
        ErrorKind::Usage,
        &["--batch 2"],
    );

    let mut command = worker("--duration 1 --model spin:50");
    command.env_remove("LD_LIBRARY_PATH");
    let reports = run(command);
    let [Report::Error { kind, message }] = reports.as_slice() else {
        // On a machine with a GPU it works.
        return assert!(matches!(reports.last(), Some(Report::Result { .. })));
    };
    assert_eq!(*kind, ErrorKind::Usage, "{message}");
}

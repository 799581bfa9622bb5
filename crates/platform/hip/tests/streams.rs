//! Level 1 on every kind of stream, against a runtime that executes in order and asynchronously.

mod support;

use std::{path::PathBuf, process::Command};

use support::{compile, output, shim};

/// Kernels that one stream gets.
const KERNELS: usize = 12;
const WINDOW: usize = 4;

/// The test double of the runtime.
fn runtime() -> PathBuf {
    shim().with_file_name("examples/libstandin_hip.so")
}

/// Where the shim finds the runtime.
#[derive(Clone, Copy, PartialEq)]
enum Found {
    /// By XSCHED_HIP_LIB.
    Named,
    /// As a copy with a hash in its file's name, as wheels bundle it.
    Bundled,
}

/// Per stream: name, error, kernels executed in order, kernels in flight at most.
fn launches(
    with_shim: bool,
    found: Found,
    settings: &[(&str, &str)],
) -> Vec<(String, i32, i64, usize)> {
    let folder = tempfile::tempdir().expect("a folder");
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/programs/launches.c");
    let program = folder.path().join("launches");
    let mut runtime = runtime();
    if found == Found::Bundled {
        let copy = folder.path().join("libamdhip64-0123abcd.so");
        std::fs::copy(runtime, &copy).expect("a copy");
        runtime = copy;
    }
    let runtime = runtime.to_str().expect("a readable path");
    compile(&source, &program, &[runtime]);
    let mut command = Command::new(program);
    command
        .env_remove("LD_PRELOAD")
        .env_remove("XSCHED_HIP_LIB")
        .env("XSCHED_SCHEDULER", "LCL")
        .env("XSCHED_AUTO_XQUEUE_THRESHOLD", WINDOW.to_string())
        .env("XSCHED_AUTO_XQUEUE_BATCH_SIZE", "2")
        .envs(settings.iter().copied());
    if found == Found::Named {
        command.env("XSCHED_HIP_LIB", runtime);
    }
    if with_shim {
        command.env("LD_PRELOAD", shim());
    }
    let lines = output(&mut command);
    let parse = |line: &str| {
        let mut words = line.split(' ');
        let mut word = || words.next().expect("four words");
        let name = word().to_owned();
        let number = "a number";
        (
            name,
            word().parse().expect(number),
            word().parse().expect(number),
            word().parse().expect(number),
        )
    };
    lines.lines().map(parse).collect()
}

fn check(
    with_shim: bool,
    found: Found,
    settings: &[(&str, &str)],
    is_expected: impl Fn(usize) -> bool,
) {
    let streams = launches(with_shim, found, settings);
    let names: Vec<_> = streams.iter().map(|stream| stream.0.as_str()).collect();
    assert_eq!(names, ["null", "per-thread", "created"]);
    for (name, failed, executed, deepest) in streams {
        assert_eq!((failed, executed), (0, KERNELS as i64), "{name}");
        assert!(is_expected(deepest), "{name}: {deepest} in flight");
    }
}

/// The user's trials: work on the default stream went past the scheduler, and arguments were copied
/// for a later launch by another thread.
#[test]
fn every_kind_of_stream_the_default_one_included_keeps_to_the_window() {
    check(true, Found::Named, &[], |deepest| deepest <= WINDOW);
}

#[test]
fn a_bundled_runtime_is_found_by_its_file() {
    check(true, Found::Bundled, &[], |deepest| deepest <= WINDOW);
}

#[test]
fn without_a_scheduler_nothing_is_held() {
    check(false, Found::Named, &[], |deepest| deepest > WINDOW);
    check(true, Found::Named, &[("XSCHED_DISABLE", "1")], |deepest| {
        deepest > WINDOW
    });
}

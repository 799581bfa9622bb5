//! The OpenCL workload from its command line to its last report, on a real device, without and with
//! the shim.

#[path = "support/opencl.rs"]
mod opencl;
#[path = "support/reports.rs"]
mod reports;

use std::process::Command;

use opencl::{has_device, run, worker};
use reports::measured;
use xsched_bench::worker::protocol::{ErrorKind, Report};

/// A worker reports nothing but an error if its scores are not the CPU's.
#[test]
fn both_models_compute_what_the_cpu_does() {
    if !has_device() {
        return;
    }
    let of = |options: &str| measured(&run(worker(options)));
    let (commands, level, digest) = of("--model resnet18");
    assert_eq!((commands, level), (27, 0));
    assert_eq!(of("--model resnet18").2, digest);
    let other = of("--model resnet18 --seed 1 --batch 3");
    assert_eq!(other.0, 3 * 25 + 2);
    assert_ne!(other.2, digest);
    assert_ne!(of("--model resnet50").2, digest);
}

#[test]
fn the_shim_schedules_it_as_other_programs() {
    if !has_device() {
        return;
    }
    let shim = std::env::current_exe()
        .unwrap()
        .with_file_name("libshimopencl.so");
    assert!(shim.exists(), "{} is not built", shim.display());
    let plain = measured(&run(worker("--model resnet18")));
    let shimmed = || {
        let mut command = worker("--model resnet18");
        command.env("LD_PRELOAD", &shim).env("XSCHED_POLICY", "hpf");
        let (commands, level, digest) = measured(&run(command));
        assert_eq!((commands, &digest), (plain.0, &plain.2));
        level
    };
    // 0 if its scheduler was not there yet.
    let level = std::iter::repeat_with(shimmed).find(|level| *level > 0);
    assert!(level.is_some_and(|level| level <= 3), "{level:?}");
}

#[test]
fn failures_name_their_kind_and_a_remedy() {
    let check = |command: Command, kind: ErrorKind, says: &[&str]| {
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
            assert!(message.contains(part), "{message}");
        }
    };
    let refused = |options: &str, says: &str| check(worker(options), ErrorKind::Usage, &[says]);
    refused("--model alexnet", "resnet18, resnet50");
    refused("--model resnet18 --cuda-graph", "--device cuda");
    if !has_device() {
        return;
    }
    let nowhere = tempfile::tempdir().unwrap();
    let mut no_driver = worker("--model resnet18");
    no_driver.env("OCL_ICD_VENDORS", nowhere.path());
    let says = ["OpenCL finds no platform", "pocl-opencl-icd", "clinfo"];
    check(no_driver, ErrorKind::Usage, &says);
    let huge = worker("--model resnet18 --batch 1000000000000");
    check(huge, ErrorKind::OutOfMemory, &["images"]);
}

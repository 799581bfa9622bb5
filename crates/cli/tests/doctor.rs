//! `xsched doctor` of CUDA and HIP as a black box, over the stand-ins and without any.

mod common;
#[path = "../../platform/hip/tests/support/mod.rs"]
mod hip_files;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Output,
};

use common::{clean, executable};
use serde_json::Value;
use tempfile::TempDir;

/// An installed xsched, and a folder with the stand-in as the driver.
struct Machine {
    platform: &'static str,
    folder: TempDir,
}

impl Machine {
    fn cuda() -> Machine {
        let machine = Machine::new("cuda");
        symlink(built("libshimcuda.so"), machine.shim()).unwrap();
        symlink(
            built("libstandin_cuda.so"),
            machine.path("driver/libcuda.so.1"),
        )
        .unwrap();
        machine
    }

    fn hip() -> Machine {
        let machine = Machine::new("hip");
        symlink(hip_files::shim(), machine.shim()).unwrap();
        symlink(hip_files::hal(), machine.path("lib/libhalhip.so")).unwrap();
        let archive = built("libstandin_cuda.a");
        let built = archive.parent().unwrap();
        // Once for all tests, beside the archive.
        let made = built.join("standin");
        fs::create_dir_all(&made).unwrap();
        let runtime = hip_files::link_runtime(built, &made);
        symlink(runtime, machine.path("driver/libamdhip64.so.6")).unwrap();
        machine
    }

    fn new(platform: &'static str) -> Machine {
        // Beside the executable, so that it can be linked.
        let folder = tempfile::tempdir_in(executable().parent().unwrap()).unwrap();
        let machine = Machine { platform, folder };
        for name in ["bin", "lib", "driver", "empty"] {
            fs::create_dir(machine.path(name)).unwrap();
        }
        // A hard link: the command looks for the shim where its own file is.
        fs::hard_link(executable(), machine.path("bin/xsched")).unwrap();
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn shim(&self) -> PathBuf {
        self.path(&format!("lib/libshim{}.so", self.platform))
    }

    /// Runs the doctor; its output and its report.
    fn doctor(&self, environment: &[(&str, &str)]) -> (Output, String, Value) {
        let file = self.path("phase4_test1_report.json");
        let mut command = clean(self.path("bin/xsched"));
        command
            .args(["doctor", "--platform", self.platform, "--json"])
            .arg(&file)
            .env("LD_LIBRARY_PATH", self.path("driver"))
            .env("XDG_RUNTIME_DIR", self.path("empty"))
            // No python3: whether it has torch is the machine's affair.
            .env("PATH", self.path("empty"))
            .envs(environment.iter().copied());
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        let report = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        (output, text, report)
    }

    /// The doctor says that this machine is ready, and what it found.
    #[track_caller]
    fn is_ready(&self, text: &str, report: &Value, lines: &[&str]) {
        for line in lines {
            assert!(text.contains(line), "{line} in {text}");
        }
        let last = "\nPASSED: this machine is ready\n";
        assert!(text.ends_with(last), "{text}");
        assert_eq!(report["test_name"], "phase4_test1");
        assert_eq!(
            (&report["passed"], &report["platform"]),
            (&true.into(), &self.platform.into())
        );
    }

    /// The doctor passes a machine that has not the highest level, and says why.
    #[track_caller]
    fn is_lower(&self, environment: (&str, &str), level: u8, note: &str) {
        let (output, text, report) = self.doctor(&[environment]);
        assert!(output.status.success(), "{text}");
        assert!(text.contains(note), "{note} in {text}");
        let line = format!("PASSED  level: {level}, since ");
        assert!(text.contains(&line), "{text}");
        let found = &report[self.platform];
        assert_eq!(found["level"], level);
        assert!(found["reason"].is_string());
    }

    /// The doctor fails in one check, and says what to do.
    fn fails(&self, environment: &[(&str, &str)], line: &str, remedy: &str) -> Value {
        let (output, text, report) = self.doctor(environment);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(line), "{line} in {text}");
        let rest = text.split(line).nth(1).unwrap();
        assert!(
            rest.lines().nth(1).unwrap().contains(remedy),
            "{remedy} in {text}"
        );
        assert!(
            text.ends_with("FAILED: 1 check needs your attention\n"),
            "{text}"
        );
        assert_eq!(report["passed"], false);
        report
    }
}

/// What cargo has built for the tests of this package.
fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let library = test.parent().unwrap().join(name);
    assert!(library.exists(), "{} is not built", library.display());
    library
}

#[test]
fn everything_is_tried_and_reported() {
    let machine = Machine::cuda();
    let (output, text, report) = machine.doctor(&[]);
    assert!(output.status.success(), "{text}");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    let shim = machine.shim();
    let lines: &[&str] = &[
        "PASSED  driver: CUDA 13.0 at /",
        "PASSED  device: 1: Stand-in GPU 0\n",
        "PASSED  matmul: 48 × 48 on the device, equal to the host's\n",
        &format!("PASSED  shim: {}, ", shim.display()),
        "PASSED  preload: 48 × 48 on the device, equal to the host's, scheduled as cuda:GPU-",
        "PASSED  gates: mapped into the device\n",
        "PASSED  time slices: may be set by this user\n",
        "PASSED  level: 3\n",
        "NOTE    torch: python3 cannot run",
        &format!("\ninstall {}\n", machine.folder.path().display()),
        &format!("\ncommand {}\n", machine.path("bin/xsched").display()),
        &format!("\nshim    {}\n", shim.display()),
    ];
    machine.is_ready(&text, &report, lines);
    assert_eq!(report["paths"]["shims"][0], shim.to_str().unwrap());
    let cuda = &report["cuda"];
    assert_eq!((&cuda["level"], &cuda["reason"]), (&3.into(), &Value::Null));
    assert_eq!(cuda["driver_version"], 13_000);
    assert_eq!(cuda["devices"][0], "Stand-in GPU 0");
    assert!(cuda["shim_bytes"].as_u64().unwrap() > 0);
}

#[test]
fn a_lower_level_has_its_reason_and_passes() {
    let machine = Machine::cuda();
    for (environment, level, note) in [
        (
            ("STANDIN_FAIL", "ioctl:EPERM"),
            2,
            "NOTE    time slices: the kernel driver refused a time slice",
        ),
        (("STANDIN_MPS", "1"), 2, "NOTE    time slices: under MPS"),
        (
            ("STANDIN_FAIL", "cuMemHostRegister:801"),
            1,
            "NOTE    gates: the driver refused to map the gates (error 801)",
        ),
    ] {
        machine.is_lower(environment, level, note);
    }
    let (_, text, _) = machine.doctor(&[("STANDIN_DRIVER_VERSION", "11040")]);
    assert!(text.contains("NOTE    driver: CUDA 11.4 at /"), "{text}");
}

#[test]
fn what_the_environment_says_changes_nothing() {
    let machine = Machine::cuda();
    for variable in [
        ("XSCHED_DISABLE", "1"),
        ("XSCHED_POLICY", "hpf"),
        ("XSCHED_AUTO_XQUEUE_LEVEL", "1"),
    ] {
        let (output, text, report) = machine.doctor(&[variable]);
        assert!(output.status.success(), "{text}");
        assert_eq!(
            report["cuda"]["level"], 3,
            "the machine's, not the environment's"
        );
    }
}

#[test]
fn without_a_driver_it_says_what_to_install() {
    let machine = Machine::cuda();
    let report = machine.fails(
        &[("XSCHED_CUDA_LIB", "/nowhere/libcuda.so.1")],
        "FAILED  driver: /nowhere/libcuda.so.1: cannot open shared object file",
        "-> install the NVIDIA driver, or name its libcuda.so.1 in XSCHED_CUDA_LIB",
    );
    assert_eq!(report["cuda"]["library"], Value::Null);
}

#[test]
fn without_a_device_it_says_where_to_look() {
    Machine::cuda().fails(
        &[("CUDA_VISIBLE_DEVICES", "")],
        "FAILED  device: cuInit failed: CUDA_ERROR_NO_DEVICE (100)",
        "-> check that `nvidia-smi` lists it",
    );
}

#[test]
fn a_device_that_does_not_compute_is_no_fault_of_ours() {
    Machine::cuda().fails(
        &[("STANDIN_FAIL", "cuLaunchKernel:999")],
        "FAILED  matmul: cuLaunchKernel failed: CUDA_ERROR_UNKNOWN (999)",
        "-> the device fails without xsched, too",
    );
}

#[test]
fn without_a_shim_it_says_how_to_build_one() {
    let machine = Machine::cuda();
    fs::remove_file(machine.shim()).unwrap();
    machine.fails(
        &[],
        "FAILED  shim: libshimcuda.so is neither in ",
        "-> build it with `cargo xtask build --release`",
    );
}

#[test]
fn a_shim_that_cannot_be_loaded_is_found_out() {
    let machine = Machine::cuda();
    fs::remove_file(machine.shim()).unwrap();
    fs::write(machine.shim(), "no library").unwrap();
    machine.fails(
        &[],
        "FAILED  preload: the loader did not preload ",
        "LD_DEBUG=libs",
    );
}

#[test]
fn torch_is_tried_where_there_is_python() {
    let machine = Machine::cuda();
    let path = std::env::var("PATH").unwrap();
    let (_, text, report) = machine.doctor(&[("PATH", &path)]);
    assert!(text.contains("  torch: "), "{text}");
    assert_eq!(report["cuda"]["level"], 3);
}

#[test]
fn programs_of_the_doctor_are_gone_with_it() {
    let machine = Machine::cuda();
    let (output, text, _) = machine.doctor(&[]);
    assert!(output.status.success(), "{text}");
    let own = machine.path("bin/xsched");
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let left = processes.filter(|process| {
        let target = fs::read_link(process.path().join("exe")).unwrap_or_default();
        target == Path::new(&own)
    });
    assert_eq!(left.count(), 0);
}

// ---- HIP ----

#[test]
fn hip_everything_is_tried_and_reported() {
    let machine = Machine::hip();
    let (output, text, report) = machine.doctor(&[]);
    assert!(output.status.success(), "{text}");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    let shim = machine.shim();
    let lines: &[&str] = &[
        "PASSED  runtime: HIP 6.4 at /",
        "PASSED  device: 1: Stand-in GPU 0\n",
        "PASSED  matmul: 48 × 48 on the device, equal to the host's\n",
        &format!("PASSED  shim: {}, ", shim.display()),
        &format!(
            "PASSED  hal: {}, ",
            machine.path("lib/libhalhip.so").display()
        ),
        "PASSED  symbols: hipMalloc@@hip_4.2 and ",
        ", as this runtime has them\n",
        "PASSED  preload: 48 × 48 on the device, equal to the host's, scheduled as hip:",
        "PASSED  signals: streams wait for them\n",
        "PASSED  compute queues: may be taken off by this user\n",
        "PASSED  level: 3\n",
        "NOTE    torch: python3 cannot run",
        &format!("\ninstall {}\n", machine.folder.path().display()),
        &format!("\nshim    {}\n", shim.display()),
        &format!(
            "\nreport  {}\n",
            machine.path("phase4_test1_report.json").display()
        ),
    ];
    machine.is_ready(&text, &report, lines);
    let paths = &report["paths"];
    assert_eq!(paths["install"], machine.folder.path().to_str().unwrap());
    assert_eq!(paths["shims"][0], shim.to_str().unwrap());
    let hip = &report["hip"];
    assert_eq!((&hip["level"], &hip["reason"]), (&3.into(), &Value::Null));
    assert_eq!(hip["devices"][0], "Stand-in GPU 0");
    assert_eq!(hip["mismatches"], Value::Array(Vec::new()));
    assert!(hip["symbols"].as_u64().unwrap() > 100);
    for library in ["shim_bytes", "hal_bytes"] {
        assert!(hip[library].as_u64().unwrap() > 0, "{library}");
    }
}

#[test]
fn hip_a_lower_level_has_its_reason_and_passes() {
    let machine = Machine::hip();
    for (environment, level, note) in [
        (
            ("STANDIN_FAIL", "ioctl:EPERM"),
            2,
            "NOTE    compute queues: the kernel refused to update a queue",
        ),
        (
            ("STANDIN_WAIT", "none"),
            1,
            "NOTE    signals: the streams of this device cannot wait for a value",
        ),
    ] {
        machine.is_lower(environment, level, note);
    }
}

#[test]
fn hip_what_is_missing_has_its_remedy() {
    let machine = Machine::hip();
    for (environment, line, remedy) in [
        (
            ("XSCHED_HIP_LIB", "/nowhere/libamdhip64.so"),
            "FAILED  runtime: /nowhere/libamdhip64.so: cannot open shared object file",
            "-> install ROCm, or name its libamdhip64.so",
        ),
        (
            ("HIP_VISIBLE_DEVICES", ""),
            "FAILED  device: hipInit failed: hipErrorNoDevice (100)",
            "-> check that `rocminfo` lists it",
        ),
        (
            ("STANDIN_FAIL", "hiprtcCompileProgram:6"),
            "FAILED  matmul: hiprtcCompileProgram failed: error 6",
            "-> the check compiles its kernel by HIP's runtime compiler",
        ),
        (
            ("STANDIN_FAIL", "hipModuleLaunchKernel:719"),
            "FAILED  matmul: hipModuleLaunchKernel failed: hipErrorLaunchFailure (719)",
            "-> the device fails without xsched, too",
        ),
    ] {
        let report = machine.fails(&[environment], line, remedy);
        // The shim can be looked at all the same.
        assert!(report["hip"]["symbols"].as_u64().unwrap() > 100);
    }
}

#[test]
fn hip_a_missing_hal_is_found_out() {
    let machine = Machine::hip();
    let hal = machine.path("lib/libhalhip.so");
    fs::remove_file(&hal).unwrap();
    let line = format!("FAILED  hal: {} is missing", hal.display());
    machine.fails(&[], &line, "-> build it with `cargo xtask build --release`");
}

#[test]
fn hip_a_shim_without_versions_is_found_out() {
    let machine = Machine::hip();
    let relink = "-> build it with `cargo xtask build --release`, which links it with versions";
    fs::remove_file(machine.shim()).unwrap();
    symlink(built("libshimcuda.so"), machine.shim()).unwrap();
    let line = "FAILED  symbols: libshimhip.so has no hipMalloc@@hip_4.2";
    machine.fails(&[], line, relink);
    fs::remove_file(machine.shim()).unwrap();
    fs::write(machine.shim(), "no library").unwrap();
    let shown = machine.shim();
    let line = format!("FAILED  symbols: {} cannot be read: ", shown.display());
    machine.fails(&[], &line, relink);
}

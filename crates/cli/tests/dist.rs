//! What `cargo xtask dist` lays out is what a user installs and runs, by the commands of its documents.

mod common;
#[path = "../../platform/hip/tests/support/mod.rs"]
mod hip_files;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use common::{Program, clean, wait_until};
use tempfile::TempDir;

/// Everything that is laid out.
const FILES: [&str; 6] = [
    "bin/xsched",
    "lib/libhalhip.so",
    "lib/libpreempt.so",
    "lib/libshimcuda.so",
    "lib/libshimhip.so",
    "lib/libshimopencl.so",
];

/// A program of the user's, as far as scheduling sees it: kernels on the default stream by HIP's runtime.
const TEST_PY: &str = r#"
import ctypes, time
hip, shim = ctypes.CDLL("libamdhip64.so.6"), ctypes.CDLL(None)
module, kernel, place = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
assert hip.hipModuleLoadData(ctypes.byref(module), b"") == 0
assert hip.hipModuleGetFunction(ctypes.byref(kernel), module, b"write_u32") == 0
assert hip.hipMalloc(ctypes.byref(place), 4) == 0
level, end, number, read = 0, time.monotonic() + 30, 0, ctypes.c_uint32()
while level == 0 and time.monotonic() < end:
    number += 1
    value = ctypes.c_uint32(number)
    values = (ctypes.c_void_p * 2)(ctypes.addressof(place), ctypes.addressof(value))
    assert hip.hipModuleLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, None, values, None) == 0
    assert hip.hipMemcpyDtoH(ctypes.byref(read), place, 4) == 0 and read.value == number
    level = shim.xsched_level()
print("level", level)
"#;

/// Builds, and lays out under a prefix.
fn dist(prefix: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut cargo = Command::new(std::env::var_os("CARGO").expect("under cargo"));
    cargo
        .args(["xtask", "dist", "--debug", "--prefix"])
        .arg(prefix)
        .current_dir(root);
    hip_files::output(&mut cargo);
}

fn files(folder: &Path, prefix: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, prefix, found);
        } else {
            let path = path.strip_prefix(prefix).unwrap();
            found.push(path.to_str().unwrap().to_owned());
        }
    }
}

/// A folder with the stand-in runtime.
fn runtime(folder: &TempDir) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    hip_files::link_runtime(test.parent().unwrap(), folder.path());
    folder.path().to_owned()
}

#[test]
fn the_layout_is_complete_and_the_documents_commands_work() {
    let (prefix, runtimes, empty) = (tempdir(), tempdir(), tempdir());
    let runtime = runtime(&runtimes);
    dist(prefix.path());
    let mut found = Vec::new();
    files(prefix.path(), prefix.path(), &mut found);
    found.sort();
    assert_eq!(found, FILES);

    // A scheduler, by the command that was installed.
    let socket = empty.path().join("xsched.sock");
    let installed = prefix.path().join("bin/xsched");
    let mut serve = clean(&installed);
    serve.args(["serve", "--socket"]).arg(&socket);
    let mut daemon = Program::start(serve.stdout(Stdio::null()).stderr(Stdio::null()));
    wait_until(|| socket.exists(), common::PATIENCE);

    // The user's own line.
    fs::write(empty.path().join("test.py"), TEST_PY).unwrap();
    let line = "export LD_PRELOAD=$PREFIX/lib/libshimhip.so; python3 test.py";
    let mut shell = clean("sh");
    shell
        .args(["-c", line])
        .current_dir(empty.path())
        .env("PREFIX", prefix.path())
        .env("LD_LIBRARY_PATH", &runtime)
        .env("XSCHED_SOCKET", &socket);
    assert_eq!(hip_files::output(&mut shell), "level 3\n");

    // Verified by the command beside it; no python3, which the machine may have without torch.
    let report = empty.path().join("phase4_test1_report.json");
    let mut doctor = clean(&installed);
    doctor
        .args(["doctor", "--platform", "hip", "--json"])
        .arg(&report)
        .env("LD_LIBRARY_PATH", &runtime)
        .env("XDG_RUNTIME_DIR", empty.path())
        .env("PATH", empty.path());
    let text = hip_files::output(&mut doctor);
    let line = format!("\ninstall {}\n", prefix.path().display());
    assert!(text.contains(&line), "{text}");
    assert!(
        text.ends_with("\nPASSED: this machine is ready\n"),
        "{text}"
    );
    let report: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(report).unwrap()).unwrap();
    assert_eq!(report["passed"], true);

    // A program of upstream's, by the libraries that its makefile names.
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../platform/hip/tests/programs/hal.c");
    let lib = prefix.path().join("lib");
    let program = empty.path().join("hal");
    let (lib, runtime) = (lib.to_str().unwrap(), runtime.to_str().unwrap());
    let libraries = ["-L", lib, "-lpreempt", "-lhalhip", "-L", runtime];
    let more = ["-l:libamdhip64.so.6", "-ldl"];
    hip_files::compile(&source, &program, &[&libraries[..], &more].concat());
    let mut program = clean(program);
    program
        .args(["libhalhip.so", "2"])
        .env("STANDIN_DEVICES", "2")
        .env("LD_LIBRARY_PATH", format!("{lib}:{runtime}"));
    assert!(hip_files::output(&mut program).ends_with("\nended\n"));

    // Installed again while it runs.
    dist(prefix.path());
    assert_eq!(daemon.child().try_wait().unwrap(), None);
}

fn tempdir() -> TempDir {
    tempfile::tempdir().unwrap()
}

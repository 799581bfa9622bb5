//! What tests of the HIP shim share: where it is, the stand-in runtime, and a C program under them.

#![allow(dead_code, reason = "every test file uses its part")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

/// The linked shim, which is no product of cargo's.
pub(crate) fn shim() -> PathBuf {
    let executable = std::env::current_exe().expect("a running test");
    let folder = executable.ancestors().nth(2).expect("target/debug/deps");
    let (shim, archive) = (folder.join("libshimhip.so"), folder.join("libshimhip.a"));
    assert!(
        modified(&shim).is_some() && modified(&shim) >= modified(&archive),
        "{} is missing or old: run `cargo xtask build` first",
        shim.display()
    );
    shim
}

/// The hal, which the same build has linked beside the shim.
pub(crate) fn hal() -> PathBuf {
    let hal = shim().with_file_name("libhalhip.so");
    assert!(hal.exists(), "{} is missing", hal.display());
    hal
}

fn modified(path: &Path) -> Option<std::time::SystemTime> {
    path.metadata().and_then(|file| file.modified()).ok()
}

/// Links the stand-in runtime from the archive that cargo has built in a folder, unless `place` has
/// it already.
pub(crate) fn link_runtime(built: &Path, place: &Path) -> PathBuf {
    let archive = built.join("libstandin_cuda.a");
    assert!(archive.exists(), "{} is not built", archive.display());
    let mut folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let map = folders.find_map(|folder| {
        let map = folder.join("crates/platform/standin/hip.map");
        map.exists().then_some(map)
    });
    let map = map.expect("the stand-in's map");
    let runtime = place.join("libamdhip64.so.6");
    let made = modified(&runtime);
    if made.is_some() && made >= modified(&archive) && made >= modified(&map) {
        return runtime;
    }
    // Other tests may do the same, in this process or another: made beside, then renamed.
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let new = place.join(format!("libamdhip64.{}.{number}", std::process::id()));
    output(
        Command::new("cc")
            .args(["-shared", "-Wl,-soname,libamdhip64.so.6", "-Wl,-z,nodelete"])
            .arg("-Wl,-Bsymbolic-functions,-z,defs")
            .arg(format!("-Wl,--version-script={}", map.display()))
            .arg("-Wl,--whole-archive")
            .arg(&archive)
            .arg("-Wl,--no-whole-archive")
            .args(["-lgcc_s", "-lpthread", "-lm", "-ldl", "-lc", "-o"])
            .arg(&new),
    );
    fs::rename(&new, &runtime).expect("a folder to write to");
    runtime
}

/// A command's output; it has to succeed.
pub(crate) fn output(command: &mut Command) -> String {
    let output = command.output().expect("a program that is installed");
    assert!(
        output.status.success(),
        "{command:?}: {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Compiles one C file to a program.
pub(crate) fn compile(source: &Path, program: &Path, arguments: &[&str]) {
    output(
        Command::new("cc")
            .arg(source)
            .arg("-o")
            .arg(program)
            .args(arguments),
    );
}

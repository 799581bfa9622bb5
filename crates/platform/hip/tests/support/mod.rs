//! What the tests of the HIP shim share: where it is, and a C program under it.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// The linked shim, which is no product of cargo's.
pub(crate) fn shim() -> PathBuf {
    let executable = std::env::current_exe().expect("a running test");
    let folder = executable.ancestors().nth(2).expect("target/debug/deps");
    let (shim, archive) = (folder.join("libshimhip.so"), folder.join("libshimhip.a"));
    let modified = |path: &Path| path.metadata().and_then(|file| file.modified()).ok();
    assert!(
        modified(&shim).is_some() && modified(&shim) >= modified(&archive),
        "{} is missing or old: run `cargo xtask build` first",
        shim.display()
    );
    shim
}

/// A command's output; it has to succeed.
pub(crate) fn output(command: &mut Command) -> String {
    let output = command.output().expect("a program that is installed");
    assert!(
        output.status.success(),
        "{command:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Compiles one C file to a program.
#[allow(dead_code, reason = "not every test has a program")]
pub(crate) fn compile(source: &Path, program: &Path, arguments: &[&str]) {
    output(
        Command::new("cc")
            .arg(source)
            .arg("-o")
            .arg(program)
            .args(arguments),
    );
}

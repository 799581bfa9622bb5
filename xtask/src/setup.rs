//! What building and testing needs beside Rust itself.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Result, bail};

/// A program, and the Debian package that has it.
const PROGRAMS: &[(&str, &str)] = &[("cc", "gcc"), ("python3", "python3")];
/// A file, and the Debian package that has it: runtimes to test with, programs that use them, an X server
/// without a screen, a browser to look at reports.
const FILES: &[(&str, &str)] = &[
    ("/usr/bin/Xvfb", "xvfb"),
    ("/usr/bin/chromium", "chromium"),
    ("/etc/OpenCL/vendors/pocl.icd", "pocl-opencl-icd"),
    ("/usr/lib/oclgrind/liboclgrind-rt-icd.so", "oclgrind"),
    ("/usr/include/CL/cl.h", "ocl-icd-opencl-dev"),
    ("/usr/bin/clinfo", "clinfo"),
    (
        "/usr/lib/x86_64-linux-gnu/libamdhip64.so.5",
        "libamdhip64-5",
    ),
    ("/usr/bin/nm", "binutils"),
    (
        "/usr/lib/python3/dist-packages/pyopencl",
        "python3-pyopencl",
    ),
    ("/usr/bin/pytest-3", "python3-pytest"),
    (
        "/usr/share/doc/python-pyopencl-doc/examples/test_wrapper.py",
        "python-pyopencl-doc",
    ),
];
/// Parts of the Rust toolchain.
const COMPONENTS: &[&str] = &["rustfmt", "clippy"];

pub(crate) fn run() -> Result<()> {
    let missing: Vec<_> = PROGRAMS
        .iter()
        .filter(|(program, _)| !answers(program, &["--version"]))
        .chain(FILES.iter().filter(|(file, _)| !Path::new(file).exists()))
        .map(|&(_, package)| package)
        .collect();
    if !missing.is_empty() {
        install(&missing)?;
    }
    for component in COMPONENTS {
        let subcommand = component.trim_start_matches("rust");
        if !answers("cargo", &[subcommand, "--version"])
            && !answers("rustup", &["component", "add", component])
        {
            bail!("cargo {subcommand} is missing: run `rustup component add {component}`");
        }
    }
    Ok(())
}

fn install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    println!("xtask: installing {list}");
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(arguments);
        command.status().is_ok_and(|status| status.success())
    };
    let wanted: Vec<_> = ["install", "-y", "--no-install-recommends"]
        .into_iter()
        .chain(packages.iter().copied())
        .collect();
    if apt(&["update"]) && apt(&wanted) {
        return Ok(());
    }
    bail!("missing: {list}: install with your package manager (Debian: apt-get install {list})")
}

fn answers(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

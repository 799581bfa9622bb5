//! Builds the command and the shims, links those whose exports have versions, lays them out.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

/// Everything that `xsched` needs at run time; the folder that holds it.
pub(crate) fn all(root: &Path, release: bool) -> Result<PathBuf> {
    let mut arguments = vec!["build"];
    for package in ["xsched", "xsched-cuda", "xsched-opencl", "xsched-hip"] {
        arguments.extend(["-p", package]);
    }
    arguments.extend(release.then_some("--release"));
    crate::cargo(root, &arguments)?;
    let folder = target(root).join(if release { "release" } else { "debug" });
    link_hip(root, &folder)?;
    Ok(folder)
}

/// `bin/xsched` and the libraries in `lib`, under a prefix.
pub(crate) fn dist(root: &Path, prefix: &Path, release: bool) -> Result<()> {
    let folder = all(root, release)?;
    let files = [
        ("bin", "xsched"),
        ("lib", "libshimcuda.so"),
        ("lib", "libshimhip.so"),
        ("lib", "libhalhip.so"),
        ("lib", "libshimopencl.so"),
    ];
    for (place, file) in files {
        let place = prefix.join(place);
        fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
        // Beside, then renamed: a running program keeps the file that it has mapped.
        let (new, last) = (place.join(format!("{file}.new")), place.join(file));
        fs::copy(folder.join(file), &new)
            .and_then(|_| fs::rename(&new, &last))
            .with_context(|| format!("cannot write {}", last.display()))?;
        println!("xtask: {}", last.display());
    }
    // Programs of upstream XSched link to a library of this name, too: the same entry points.
    let [new, last] =
        ["libpreempt.so.new", "libpreempt.so"].map(|name| prefix.join("lib").join(name));
    let _absent = fs::remove_file(&new);
    symlink("libhalhip.so", &new)
        .and_then(|()| fs::rename(&new, &last))
        .with_context(|| format!("cannot write {}", last.display()))?;
    println!("xtask: {}", last.display());
    Ok(())
}

/// The archive of HIP becomes two libraries: the shim, whose exports have versions, which rustc cannot
/// give, and the hal, with exports of its own.
fn link_hip(root: &Path, folder: &Path) -> Result<()> {
    link(root, folder, "libshimhip.so", "exports.map")?;
    link(root, folder, "libhalhip.so", "hal.map")
}

fn link(root: &Path, folder: &Path, library: &str, map: &str) -> Result<()> {
    let map = root.join("crates/platform/hip").join(map);
    // Renamed, too: tests may run with the former one.
    let new = folder.join(format!("{library}.new"));
    let status = Command::new("cc")
        .args(["-shared", "-Wl,--gc-sections"])
        .arg(format!("-Wl,-soname,{library}"))
        // What it calls its own is its own, whatever stands before it in the process.
        .arg("-Wl,-Bsymbolic-functions,-z,defs,-z,now,-z,relro,-z,nodelete")
        .arg(format!("-Wl,--version-script={}", map.display()))
        .arg("-Wl,--whole-archive")
        .arg(folder.join("libshimhip.a"))
        .arg("-Wl,--no-whole-archive")
        .args(["-lgcc_s", "-lpthread", "-lm", "-ldl", "-lc", "-o"])
        .arg(&new)
        .status()
        .context("cannot run cc: install a C compiler")?;
    if !status.success() {
        bail!("{library} cannot be linked ({status})");
    }
    fs::rename(&new, folder.join(library)).with_context(|| format!("cannot write {library}"))
}

fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

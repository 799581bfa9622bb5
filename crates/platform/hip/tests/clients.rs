//! Against binaries of real programs for ROCm 5, 6 and 7 from PyPI: what they import and we intercept
//! is exported with the version that they ask for. Skipped where they cannot be downloaded.

mod support;

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use support::{output, shim};

/// Small wheels, and the ROCm release that they were built with.
const CLIENTS: [(&str, &str); 3] = [
    ("cupy-rocm-5-0==13.3.0", "5.0"),
    ("jax-rocm60-plugin==0.5.0", "6.0"),
    ("jax-rocm7-plugin==0.12.0", "7"),
];

/// Downloads and unpacks a wheel; false: it could not be downloaded.
fn unpack(client: &str, folder: &Path) -> bool {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps"])
        .args(["--only-binary", ":all:", "--python-version", "3.12"])
        .args(["--platform", "manylinux_2_28_x86_64"])
        .args(["--platform", "manylinux_2_27_x86_64"])
        .args(["--platform", "manylinux2014_x86_64", "--dest"])
        .args([folder.as_os_str(), client.as_ref()]);
    if !pip.output().is_ok_and(|output| output.status.success()) {
        return false;
    }
    for wheel in fs::read_dir(folder).expect("a folder").flatten() {
        let mut unzip = Command::new("python3");
        unzip.args(["-m", "zipfile", "-e"]);
        output(unzip.arg(wheel.path()).arg(folder.join("content")));
    }
    true
}

/// `name` and `version` of what a library or all libraries below a folder import or define.
fn symbols(path: &Path, which: &str, found: &mut Vec<(String, String)>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a folder").flatten() {
            symbols(&entry.path(), which, found);
        }
    } else if path.extension().is_some_and(|extension| extension == "so") {
        let listing = output(Command::new("nm").args(["-D", which]).arg(path));
        let words = listing.split_whitespace();
        found.extend(words.filter_map(|word| {
            let (name, version) = word.split_once('@')?;
            let version = version.trim_start_matches('@');
            let is_runtimes = version.starts_with("hip_");
            is_runtimes.then(|| (name.to_owned(), version.to_owned()))
        }));
    }
}

#[test]
fn real_programs_find_every_hook_under_the_version_that_they_ask_for() {
    let mut ours = Vec::new();
    symbols(&shim(), "--defined-only", &mut ours);
    let ours: BTreeMap<_, _> = ours.into_iter().collect();
    for (client, release) in CLIENTS {
        let folder = tempfile::tempdir().expect("a folder");
        if !unpack(client, folder.path()) {
            eprintln!("skipped: {client} (ROCm {release}) cannot be downloaded by pip");
            continue;
        }
        let mut imports = Vec::new();
        symbols(
            &folder.path().join("content"),
            "--undefined-only",
            &mut imports,
        );
        let hooked = imports.iter().filter(|(name, _)| ours.contains_key(name));
        let hooked: Vec<_> = hooked.collect();
        assert!(!hooked.is_empty(), "{client} launches nothing that we know");
        for (name, version) in hooked {
            assert_eq!(ours[name], *version, "{client}: {name}");
        }
    }
}

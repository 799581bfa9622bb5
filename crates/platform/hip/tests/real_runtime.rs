//! Against Debian's real runtime, on a machine without an AMD GPU: symbols, versions, error codes.

mod support;

use std::{collections::BTreeSet, path::Path, process::Command};

use support::{compile, output, shim};

const RUNTIME: &str = "/usr/lib/x86_64-linux-gnu/libamdhip64.so.5";
/// The newest version node of that runtime.
const NEWEST: (u32, u32) = (5, 2);
/// What the shim's own entry points begin with.
const OWN: [&str; 6] = ["xsched_", "Hip", "HwQueue", "HwCommand", "XQueue", "XHint"];
/// Exports of later runtimes that were put under a version that Debian's has, too.
const ADDED_LATER: [&str; 2] = [
    "hipEventRecord_spt@hip_5.2",
    "hipExtModuleLaunchKernel@hip_4.2",
];

/// `name@version` of what a library defines.
fn exports(library: &Path) -> BTreeSet<String> {
    let listing = output(
        Command::new("nm")
            .args(["-D", "--defined-only"])
            .arg(library),
    );
    listing
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2))
        .map(|symbol| symbol.replace("@@", "@"))
        .filter(|symbol| !symbol.starts_with("hip_"))
        .collect()
}

fn version(symbol: &str) -> Option<(u32, u32)> {
    let (major, minor) = symbol.split_once("@hip_")?.1.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[test]
fn every_export_has_the_version_that_the_runtime_gives_it() {
    let (ours, real) = (exports(&shim()), exports(Path::new(RUNTIME)));
    assert!(ours.contains("hipLaunchKernel@hip_4.2") && ours.contains("hipMalloc@hip_4.2"));
    let unknown: Vec<_> = ours
        .iter()
        .filter(|symbol| !matches!(symbol.as_str(), "dlsym" | "ioctl"))
        .filter(|symbol| !OWN.iter().any(|own| symbol.starts_with(own)))
        .filter(|symbol| version(symbol).is_none_or(|version| version <= NEWEST))
        .filter(|symbol| !real.contains(*symbol) && !ADDED_LATER.contains(&symbol.as_str()))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

/// What is no command that is held: semaphores and mappings.
const NO_COMMANDS: [&str; 4] = [
    "hipMemMapArrayAsync",
    "hipSignalExternalSemaphoresAsync",
    "hipStreamAttachMemAsync",
    "hipWaitExternalSemaphoresAsync",
];

#[test]
fn every_function_of_the_runtime_that_submits_has_a_hook() {
    let (ours, real) = (exports(&shim()), exports(Path::new(RUNTIME)));
    let submits = |name: &str| {
        let begins = ["hipMemcpy", "hipMemset", "hipLaunch", "hipExtLaunch"];
        begins.iter().any(|begin| name.starts_with(begin))
            || (name.contains("Launch") && !name.contains("hip_impl"))
            || name.trim_end_matches("_spt").ends_with("Async")
    };
    let missing: Vec<_> = real
        .iter()
        .filter(|symbol| {
            let name = symbol.split('@').next().unwrap_or_default();
            submits(name) && !NO_COMMANDS.contains(&name) && !ours.contains(*symbol)
        })
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Programs that link to the runtime, or look its functions up, get the runtime's own answers.
#[test]
fn without_a_gpu_programs_get_the_runtimes_own_answers() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/answers.c");
    let program = folder.path().join("answers");
    compile(&source, &program, &[RUNTIME, "-ldl"]);
    let run = |preload: Option<&Path>, scheduler: &str| {
        let mut command = Command::new(&program);
        command
            .env_remove("LD_PRELOAD")
            .env("XSCHED_SCHEDULER", scheduler);
        if let Some(shim) = preload {
            command.env("LD_PRELOAD", shim);
        }
        output(&mut command)
    };
    let without = run(None, "LCL");
    assert!(without.contains("linked hipMalloc") && without.contains("looked up hipMalloc"));
    for scheduler in ["LCL", "GLB"] {
        let with = run(Some(&shim()), scheduler);
        assert_eq!(
            with.replace("hooked", "real"),
            without,
            "{scheduler}: same answers"
        );
        let hooked = with.lines().filter(|line| line.ends_with("hooked")).count();
        assert_eq!(
            hooked,
            with.lines().count() - 1,
            "all but hipGetDevice:\n{with}"
        );
    }
}

//! Programs that know nothing of the shim: the same with it as without.

mod support;

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use support::*;

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

/// What a program says, without the shim and with it, unscheduled and scheduled.
fn same_output(program: impl AsRef<OsStr>, environment: &[(&str, &str)]) -> String {
    let said = |prepare: fn(&mut Command)| {
        let mut command = Command::new(&program);
        prepare(&mut command);
        let output = run(command.envs(environment.iter().copied()));
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let bare = said(|_| ());
    assert_eq!(
        bare,
        said(|command| shimmed(command, &[("XSCHED_DISABLE", "1")]))
    );
    assert_eq!(bare, said(|command| shimmed(command, &[LOCAL])));
    bare.1
}

#[test]
fn clinfo_says_the_same() {
    let said = same_output("clinfo", &[]);
    assert!(said.contains("Portable Computing Language"), "{said}");
}

#[test]
fn of_two_drivers_clinfo_says_the_same() {
    let drivers = drivers(&[POCL, OCLGRIND]);
    let said = same_output("clinfo", &[(VENDORS, drivers.path().to_str().unwrap())]);
    for platform in [POCL, OCLGRIND] {
        assert!(said.contains(platform), "{said}");
    }
}

#[test]
fn without_a_driver_clinfo_says_the_same() {
    let empty = tempfile::tempdir().unwrap();
    let said = same_output(
        "clinfo",
        &[("OCL_ICD_VENDORS", empty.path().to_str().unwrap())],
    );
    assert!(!said.contains("Portable Computing Language"), "{said}");
}

#[test]
fn bad_input_is_answered_as_without_the_shim() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = [
        "-Wall",
        "-Werror",
        "-Wno-deprecated-declarations",
        "-lOpenCL",
    ];
    let program = compile(&folder, "bad_input.c", &arguments);
    let said = same_output(&program, &[]);
    assert!(said.contains("word: 9"), "it went to the end: {said}");
    // PoCL without a device, and no driver at all.
    let none = folder.path().to_str().unwrap();
    for (name, value, expect) in [
        (
            "POCL_DEVICES",
            "",
            "CL_DEVICE_TYPE_ALL, 1, &device, &count): -1\n",
        ),
        (
            "OCL_ICD_VENDORS",
            none,
            "clGetPlatformIDs(1, &platform, &count): -1001\n",
        ),
    ] {
        let said = same_output(&program, &[(name, value)]);
        assert!(said.contains(expect), "{name}: {said}");
    }
}

#[test]
fn linked_programs_are_scheduled_like_those_that_look_functions_up() {
    let folder = tempfile::tempdir().unwrap();
    let program = compile(&folder, "linked.c", &["-lOpenCL", "-ldl"]);
    let said = |arguments: &[&str], environment: &[(&str, &str)]| {
        let mut command = Command::new(&program);
        shimmed(command.args(arguments), environment);
        let output = run(&mut command);
        succeeded(&output);
        String::from_utf8(output.stdout).unwrap()
    };
    for arguments in [&[][..], &["dlopen"]] {
        let line = said(arguments, &[LOCAL, LEVEL_2]);
        assert_eq!(line, "value 42 level 2 hooked 1 seen -1\n");
        let line = said(arguments, &[("XSCHED_DISABLE", "1")]);
        assert_eq!(line, "value 42 level 0 hooked 1 seen -1\n");
    }
}

/// What `linked.c` says that was built with a loader of its own, as the wheels of PyOpenCL are: under
/// another name, found by a path beside it, and loaded in a scope of its own.
fn said_with_a_loader_of_its_own(arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let (name, of_its_own) = (b"libOpenCL.so.1\0", b"libOpenCL-ab.1\0");
    let folder = tempfile::tempdir().unwrap();
    let found = run(Command::new("cc").arg("-print-file-name=libOpenCL.so.1"));
    let path = String::from_utf8(found.stdout).unwrap();
    let mut loader = fs::read(path.trim()).unwrap();
    let places: Vec<_> = (0..loader.len() - name.len())
        .filter(|&at| loader[at..].starts_with(name))
        .collect();
    assert!(!places.is_empty(), "the loader has a name");
    for at in places {
        loader[at..][..name.len()].copy_from_slice(of_its_own);
    }
    let libraries = folder.path().join(".libs");
    fs::create_dir(&libraries).unwrap();
    fs::write(libraries.join("libOpenCL-ab.1"), loader).unwrap();

    let host = compile(&folder, "extension.c", &["-ldl"]);
    let search = format!("-L{}", libraries.display());
    let link = [
        "-shared",
        "-fPIC",
        &search,
        "-l:libOpenCL-ab.1",
        "-ldl",
        "-Wl,--disable-new-dtags,-rpath,$ORIGIN/.libs",
    ];
    let program = compile(&folder, "linked.c", &link);
    let mut command = Command::new(host);
    shimmed(command.arg(program).args(arguments), environment);
    let output = run(&mut command);
    succeeded(&output);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn programs_with_a_loader_of_their_own_are_scheduled() {
    // The second way is a lookup in the system's loader: two of them are in the process then.
    for arguments in [&[][..], &["dlopen"]] {
        let line = said_with_a_loader_of_its_own(arguments, &[LOCAL, LEVEL_2]);
        assert_eq!(line, "value 42 level 2 hooked 1 seen -1\n");
        let line = said_with_a_loader_of_its_own(arguments, &[("XSCHED_DISABLE", "1")]);
        assert_eq!(line, "value 42 level 0 hooked 1 seen -1\n");
    }
}

#[test]
fn shims_that_wrap_dlsym_work_together_in_any_order() {
    let folder = tempfile::tempdir().unwrap();
    let program = compile(&folder, "linked.c", &["-lOpenCL", "-ldl"]);
    let other = compile(&folder, "other_shim.c", &["-shared", "-fPIC", "-ldl"]);
    let (ours, other) = (shim().display().to_string(), other.display().to_string());
    for preload in [format!("{ours}:{other}"), format!("{other}:{ours}")] {
        let mut command = Command::new(&program);
        shimmed(command.arg("dlopen"), &[LOCAL, LEVEL_2]);
        let output = run(command.env("LD_PRELOAD", &preload));
        succeeded(&output);
        let line = String::from_utf8(output.stdout).unwrap();
        assert_eq!(line, "value 42 level 2 hooked 1 seen 1\n", "{preload}");
    }
}

/// PyOpenCL's own tests, as Debian brings them with its documentation.
const PYOPENCL_TESTS: &str = "/usr/share/doc/python-pyopencl-doc/examples";

#[test]
fn pyopencl_passes_the_same_of_its_own_tests() {
    let folder = tempfile::tempdir().unwrap();
    let files = [
        "test_wrapper.py",
        "test_enqueue_copy.py",
        "test_arrays_in_structs.py",
    ];
    // Besides, that the shim acts.
    let own = "test_level.py";
    let files_of_ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
    fs::copy(files_of_ours.join(own), folder.path().join(own)).unwrap();
    for file in files.into_iter().chain(["empty-header.h"]) {
        let from = Path::new(PYOPENCL_TESTS).join(file);
        fs::copy(&from, folder.path().join(file))
            .unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    }
    let outcomes = |level: i32, environment: Option<&[(&str, &str)]>| {
        let mut command = Command::new("/usr/bin/pytest-3");
        if let Some(environment) = environment {
            shimmed(&mut command, environment);
        }
        let output = run(command
            .env("EXPECTED_LEVEL", level.to_string())
            .current_dir(&folder)
            .args(["-q", "-rA", "--tb=no", "-p", "no:cacheprovider"])
            .arg(own)
            .args(files));
        let text = String::from_utf8(output.stdout).unwrap();
        let outcomes: BTreeSet<_> = text
            .lines()
            .filter(|line| line.contains(".py::"))
            .filter_map(|line| Some(line.split(" - ").next()?.to_owned()))
            .collect();
        (output.status.code(), outcomes)
    };
    let bare = outcomes(0, None);
    let passed = bare.1.iter().filter(|line| line.contains("PASSED"));
    assert!(passed.count() > 20, "{bare:?}");
    assert!(
        bare.1.contains("PASSED test_level.py::test_level"),
        "{bare:?}"
    );
    assert_eq!(bare, outcomes(level_of_cpus(), Some(&[LOCAL])));
    assert_eq!(bare, outcomes(1, Some(&[LOCAL, LEVEL_1])));
}

//! `libhalhip.so` under a C program, without the shim and beside it.

mod common;

use std::{path::Path, process::Command};

use common::{
    files::{self, hal},
    runtime, shim,
};

/// What the program prints; `in_place`: launches of its own that go through its XQueue.
fn expected(in_place: u32) -> String {
    format!(
        "submitted: 12 executed, in order 1, state 1\n\
         suspended: state 2; resumed: 13 executed\n\
         held by its priority and released, in order 1\n\
         launched by the program itself: {in_place} through the queue, in order 1\n\
         suspended with a wait: all executed 1\n\
         dropped: 0 launched, state 2\n\
         ended with 21 of 21 launched\n\
         ended by its own command: 0\n\
         made once of 8 at once\n\
         on its device: 22 of 22, this thread's is 0\n\
         ended\n"
    )
}

/// The program, linked to the hal or not, at the levels that work.
fn check(is_linked: bool, preload: Option<&Path>, levels: &[u32], in_place: u32) {
    let (hal, runtime) = (hal(), runtime());
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/hal.c");
    let program = folder.path().join("hal");
    let (hal_file, runtime_file) = (hal.to_str().unwrap(), runtime.to_str().unwrap());
    let link: &[&str] = match is_linked {
        true => &[hal_file, runtime_file, "-ldl"],
        false => &["-DLOOKED_UP", runtime_file, "-ldl"],
    };
    files::compile(&source, &program, link);
    let folders = [&hal, &runtime].map(|file| file.parent().unwrap().to_str().unwrap());
    for level in levels {
        let mut command = Command::new(&program);
        command
            .args([hal_file, &level.to_string()])
            .env_remove("LD_PRELOAD")
            .env("STANDIN_DEVICES", "2")
            .env("LD_LIBRARY_PATH", folders.join(":"));
        if let Some(shim) = preload {
            command.env("LD_PRELOAD", shim);
        }
        assert_eq!(files::output(&mut command), expected(in_place), "{level}");
    }
}

#[test]
fn a_program_that_is_linked_to_the_hal_schedules_what_it_submits() {
    check(true, None, &[1, 2], 0);
}

#[test]
fn a_program_that_loads_the_hal_schedules_what_it_submits() {
    check(false, None, &[1, 2], 0);
}

/// The queue is the one that the shim has for the stream, whoever is called first.
#[test]
fn beside_the_shim_launches_of_the_program_itself_go_through_the_same_queue() {
    check(true, Some(&shim()), &[1, 2, 3], 5);
    check(false, Some(&shim()), &[1, 2, 3], 5);
}

#[test]
fn the_hal_exports_its_entry_points_alone() {
    let listing = files::output(Command::new("nm").args(["-D", "--defined-only"]).arg(hal()));
    let names = listing
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2));
    let other: Vec<_> = names
        .filter(|name| {
            !["Hip", "HwQueue", "HwCommand", "XQueue", "XHint"]
                .iter()
                .any(|own| name.starts_with(own))
        })
        .collect();
    assert!(other.is_empty(), "{other:?}");
}

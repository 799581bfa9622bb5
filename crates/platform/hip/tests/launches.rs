//! Launches of every form, by a library that is linked to the runtime's versioned symbols, and memory
//! calls of a process whose work is held.

mod common;

use std::{fs, path::Path, process::Command};

use common::{
    Gated, Handle, Hip, NON_BLOCKING, SUCCESS, files, observed, preloaded, runtime,
    shared::{LOCAL, a_moment, compile, said, set_priority, support, text},
    shim, shimmed, value,
};
use libloading::os::unix::Library;

/// `launch` of `programs/launches.c`.
type Launch = extern "C" fn(i32, usize, Handle, Handle, u64, u32) -> i32;
type RegisterFunction = extern "C" fn(usize, usize, *const i8, *const i8, u32);

const FORMS: i32 = 12;

/// The user's trials: libraries of matrix products, which are linked to versioned symbols, went past the shim.
#[test]
fn libraries_that_are_linked_to_versioned_symbols_are_held_in_every_form_of_launch() {
    if support::role().is_some() {
        support::end_if_stuck();
        return launches_are_held(&Hip::load());
    }
    let runtime = runtime();
    let link = ["-shared", "-fPIC", runtime.to_str().unwrap()];
    let library = compile("launches", include_str!("programs/launches.c"), &link);
    let imports = files::output(
        Command::new("nm")
            .args(["-D", "--undefined-only"])
            .arg(&library),
    );
    let versioned = imports.lines().filter(|line| line.contains("@hip_"));
    assert_eq!(versioned.count(), FORMS as usize, "{imports}");
    for level in ["1", "2", "3"] {
        let shim = shim();
        let library = ("LIBRARY", library.to_str().unwrap());
        let level = ("XSCHED_AUTO_XQUEUE_LEVEL", level);
        let variables = preloaded(&shim, &[LOCAL, level, library]);
        let output = observed(&variables, |_| ()).expect("the test itself");
        assert!(output.status.success(), "{level:?}: {}", text(&output));
        said(&output, None);
    }
}

fn launches_are_held(hip: &Hip) {
    static KERNEL: u8 = 0;
    // SAFETY: the library does nothing when it is loaded.
    let library = unsafe { Library::new(common::told("LIBRARY")) }.unwrap();
    // SAFETY: its own function of this type.
    let launch = *unsafe { library.get::<Launch>(b"launch\0") }.unwrap();
    let host = std::ptr::from_ref(&KERNEL).addr();
    let register: RegisterFunction = hip.symbol("__hipRegisterFunction");
    let name = c"add_u32".as_ptr();
    register(0, host, name, name, 0);
    let function = hip.function("add_u32");
    let (gated, place) = (Gated::stream(hip, hip.stream(NON_BLOCKING)), hip.word());
    let address = place.as_ptr().addr() as u64;
    for form in 0..FORMS {
        let before = gated.block.state().submitted();
        gated.close();
        std::thread::scope(|scope| {
            let stream = gated.stream;
            // At level 1 the launch itself waits.
            let thread = scope.spawn(move || launch(form, host, function, stream, address, 1));
            a_moment();
            assert_eq!(value(place), form as u32, "form {form} is held");
            gated.open();
            assert_eq!(thread.join().unwrap(), SUCCESS, "form {form}");
        });
        hip.synchronize(gated.stream);
        assert_eq!(value(place), form as u32 + 1, "form {form}");
        assert_eq!(gated.block.state().submitted(), before + 1, "form {form}");
    }
    assert_eq!(launch(FORMS, host, function, gated.stream, address, 1), -1);
}

/// The user's trials: `tensor.cuda()` hung under the preload. It allocates, which may wait for the whole
/// device, so also for a stream that is held.
#[test]
fn memory_comes_and_goes_while_another_stream_of_the_process_is_held() {
    shimmed(&[LOCAL], |hip| {
        let held = Gated::stream(hip, hip.stream(NON_BLOCKING));
        let urgent = Gated::stream(hip, hip.stream(NON_BLOCKING));
        let place = hip.word();
        // First: once the other is urgent, the gate may be closed for its sake for a moment.
        held.close();
        assert_eq!(set_priority(urgent.stream, 5), 0);
        held.write(place, 1);
        a_moment();
        assert_eq!(value(place), 0);
        for _ in 0..10 {
            let memory = hip.alloc(4096);
            ok!(hip, hipFree(memory => usize));
        }
        urgent.write(hip.word(), 1);
        hip.synchronize(urgent.stream);
        held.open();
        hip.synchronize(held.stream);
        assert_eq!(value(place), 1);
    });
}

/// The user's trials: `import torch` and `tensor.cuda()` hung under the preload, since locks were held around
/// malloc. Here another thread uses HIP inside every allocation of the shim's and of the device's.
#[test]
fn no_lock_is_held_while_memory_of_host_or_device_is_allocated() {
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/allocations.c");
    let runtime = folder.path().join("libamdhip64.so.6");
    let link = "-Wl,-soname,libamdhip64.so.6";
    files::compile(&source, &runtime, &["-DRUNTIME", "-shared", "-fPIC", link]);
    let program = folder.path().join("allocations");
    let link = [runtime.to_str().unwrap(), "-pthread", "-ldl"];
    files::compile(&source, &program, &link);
    let mut command = Command::new(&program);
    command
        .env("LD_PRELOAD", shim())
        .env("LD_LIBRARY_PATH", folder.path())
        .env(LOCAL.0, LOCAL.1);
    assert_eq!(files::output(&mut command), "host: 1, then 1; device: 2\n");
}

/// A program with a runtime of its own beside the system's: the first is scheduled, the other left alone.
#[test]
fn of_two_runtimes_in_one_process_the_second_passes_through_and_is_said_once() {
    if support::role().is_some() {
        support::end_if_stuck();
        return two_runtimes();
    }
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("libamdhip64-0123abcd.so");
    fs::copy(runtime(), &copy).unwrap();
    let shim = shim();
    let variables = preloaded(&shim, &[LOCAL, ("COPY", copy.to_str().unwrap())]);
    let output = observed(&variables, |_| ()).expect("the test itself");
    assert!(output.status.success(), "{}", text(&output));
    said(&output, Some("a second HIP runtime in this process"));
}

fn two_runtimes() {
    let first = Hip::load();
    let gated = Gated::stream(&first, first.stream(NON_BLOCKING));
    let other = Hip::load_from(&common::told("COPY"));
    gated.close();
    let place = other.word();
    let stream = other.stream(NON_BLOCKING);
    for number in 1..50 {
        other.write(stream, place, number);
    }
    other.synchronize(stream);
    assert_eq!(value(place), 49, "nobody holds the second runtime");
    let place = first.word();
    gated.write(place, 1);
    a_moment();
    assert_eq!(value(place), 0, "the first one is held as before");
    gated.open();
    first.synchronize(gated.stream);
    assert_eq!(value(place), 1);
}

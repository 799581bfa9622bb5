//! Streams, contexts and processes that end, fork or exec while their gate is closed.

mod common;

use std::{
    os::unix::process::ExitStatusExt,
    process::{Command, ExitStatus, Output},
    thread,
    time::Duration,
};

use common::{
    Gated, LOCAL, NON_BLOCKING, View, level, observed, preloaded, said, shim, shimmed,
    support::{Cuda, Handle, SUCCESS, Value::*},
    text, until, value, write,
};

/// A stream with one command behind a closed gate, and the word that the command will write.
fn held(cuda: &Cuda) -> (Gated<'_>, &'static std::sync::atomic::AtomicU32) {
    let (gated, place) = (Gated::stream(cuda, cuda.stream(NON_BLOCKING)), cuda.word());
    gated.close();
    write(cuda, gated.stream, place, 1);
    common::a_moment();
    assert_eq!(value(place), 0);
    (gated, place)
}

/// What makes a context and what ends it.
type Life = (&'static str, fn(&Cuda), fn(&Cuda));

const LIVES: [Life; 4] = [
    (
        "cuCtxDestroy",
        |cuda| {
            cuda.start();
        },
        |cuda| {
            let mut context = 0;
            ok!(cuda, cuCtxGetCurrent(&mut context => &mut Handle));
            ok!(cuda, cuCtxDestroy_v2(context => Handle));
        },
    ),
    ("cuDevicePrimaryCtxReset", retain_primary, |cuda| {
        ok!(cuda, cuDevicePrimaryCtxReset_v2(0 => i32));
    }),
    ("cuDevicePrimaryCtxRelease", retain_primary, |cuda| {
        ok!(cuda, cuDevicePrimaryCtxRelease_v2(0 => i32));
    }),
    (
        "cuStreamDestroy, cuCtxSynchronize",
        retain_primary,
        |cuda| {
            // Of what was held there is no name any more but the context's.
            ok!(cuda, cuCtxSynchronize());
        },
    ),
];

fn retain_primary(cuda: &Cuda) {
    let mut context = 0;
    ok!(cuda, cuInit(0 => u32));
    ok!(cuda, cuDevicePrimaryCtxRetain(&mut context => &mut Handle, 0 => i32));
    ok!(cuda, cuCtxSetCurrent(context => Handle));
}

#[test]
fn a_context_ends_behind_a_closed_gate() {
    shimmed(&[LOCAL], |cuda| {
        for (name, begin, end) in LIVES {
            begin(cuda);
            let (gated, place) = held(cuda);
            if name.starts_with("cuStreamDestroy") {
                ok!(cuda, cuStreamDestroy_v2(gated.stream => Handle));
            }
            end(cuda);
            assert_eq!(value(place), 1, "{name}: what was held has completed");
        }
    });
}

#[test]
fn a_primary_context_that_others_hold_stays_held() {
    shimmed(&[LOCAL], |cuda| {
        retain_primary(cuda);
        let (gated, place) = held(cuda);
        for _ in 0..3 {
            // What a library does around its own use of the device.
            let mut context = 0;
            ok!(cuda, cuDevicePrimaryCtxRetain(&mut context => &mut Handle, 0 => i32));
            ok!(cuda, cuDevicePrimaryCtxRelease_v2(0 => i32));
        }
        common::a_moment();
        assert_eq!(value(place), 0, "the context has not ended");
        gated.open();
        cuda.synchronize(gated.stream);
        assert!(gated.is_idle(), "the queue is the same");
    });
}

#[test]
fn a_stream_that_ends_while_the_shim_is_paused_is_gone() {
    let enable = |on: i32| {
        let set: extern "C" fn(i32) -> i32 = common::entry("xsched_set_enabled");
        assert_eq!(set(on), 0);
    };
    shimmed(&[LOCAL], |cuda| {
        cuda.start();
        let (gated, place) = held(cuda);
        enable(0);
        ok!(cuda, cuStreamDestroy_v2(gated.stream => Handle));
        until("its gate opens for good", || value(place) == 1);
        assert!(gated.block.is_bypassed());
        let (gated, place) = {
            enable(1);
            held(cuda)
        };
        let mut context = 0;
        ok!(cuda, cuCtxGetCurrent(&mut context => &mut Handle));
        enable(0);
        ok!(cuda, cuCtxDestroy_v2(context => Handle));
        assert_eq!(value(place), 1);
        assert!(gated.block.is_bypassed());
    });
}

/// A green context of the first device.
fn green(cuda: &Cuda) -> Handle {
    let mut green = 0;
    ok!(cuda, cuGreenCtxCreate(&mut green => &mut Handle, 0 => Handle, 0 => i32, 1 => u32));
    green
}

fn stream_of(cuda: &Cuda, green: Handle) -> Handle {
    let mut stream = 0;
    ok!(cuda, cuGreenCtxStreamCreate(
        &mut stream => &mut Handle, green => Handle, NON_BLOCKING => u32, 0 => i32,
    ));
    stream
}

#[test]
fn a_green_context_ends_behind_a_closed_gate() {
    shimmed(&[LOCAL], |cuda| {
        cuda.start();
        let green = green(cuda);
        let (gated, place) = (Gated::stream(cuda, stream_of(cuda, green)), cuda.word());
        gated.close();
        write(cuda, gated.stream, place, 1);
        common::a_moment();
        assert_eq!(value(place), 0);
        ok!(cuda, cuGreenCtxDestroy(green => Handle));
        until("what was held completes", || value(place) == 1);
        assert!(gated.block.is_bypassed(), "the stream is nobody's any more");
    });
}

#[test]
fn a_primary_context_ends_with_the_green_one_that_held_it() {
    shimmed(&[LOCAL], |cuda| {
        retain_primary(cuda);
        let (gated, _) = held(cuda);
        let green = green(cuda);
        ok!(cuda, cuDevicePrimaryCtxRelease_v2(0 => i32));
        common::a_moment();
        assert!(!gated.block.is_open(), "the green one holds it");
        ok!(cuda, cuGreenCtxDestroy(green => Handle));
        assert!(gated.block.is_bypassed(), "nothing holds it any more");
    });
}

#[test]
fn a_context_whose_end_was_not_seen_costs_the_next_one_nothing() {
    shimmed(&[LOCAL], |cuda| {
        retain_primary(cuda);
        let (first, _) = held(cuda);
        let mut context = 0;
        let retain: extern "C" fn(&mut Handle, i32) -> i32 =
            common::unseen(cuda, "cuDevicePrimaryCtxRetain");
        assert_eq!(retain(&mut context, 0), SUCCESS);
        ok!(cuda, cuDevicePrimaryCtxRelease_v2(0 => i32));
        assert!(first.block.is_bypassed(), "taken for its end");
        cuda.context(0);
        held(cuda);
        assert_eq!(level(), 3);
        ok!(cuda, cuCtxSetCurrent(context => Handle));
        held(cuda);
        assert_eq!(level(), 3);
    });
}

#[test]
fn green_contexts_come_and_go_without_end() {
    common::shimmed_saying(None, &[LOCAL], |cuda| {
        cuda.start();
        let place = cuda.word();
        // More than a process has control blocks.
        for round in 1..=1200 {
            let green = green(cuda);
            let stream = stream_of(cuda, green);
            write(cuda, stream, place, round);
            cuda.synchronize(stream);
            ok!(cuda, cuGreenCtxDestroy(green => Handle));
        }
        assert_eq!(value(place), 1200);
    });
}

#[test]
fn a_context_that_was_a_green_one_is_found_idle_and_ends() {
    shimmed(&[LOCAL], |cuda| {
        cuda.start();
        let (green, mut context) = (green(cuda), 0);
        ok!(cuda, cuCtxFromGreenCtx(&mut context => &mut Handle, green => Handle));
        ok!(cuda, cuCtxSetCurrent(context => Handle));
        let (gated, place) = (Gated::stream(cuda, common::LEGACY), cuda.word());
        write(cuda, common::LEGACY, place, 1);
        until("marks tell that it is idle", || gated.is_idle());
        gated.close();
        write(cuda, common::LEGACY, place, 2);
        common::a_moment();
        assert_eq!(value(place), 1);
        ok!(cuda, cuGreenCtxDestroy(green => Handle));
        assert_eq!(value(place), 2);
        assert!(gated.block.is_bypassed());
    });
}

#[test]
fn the_end_of_one_context_takes_nothing_from_another() {
    shimmed(&[LOCAL], |cuda| {
        // The first one, in which the gates were mapped.
        let first = cuda.start();
        Gated::stream(cuda, cuda.stream(NON_BLOCKING));
        cuda.context(0);
        let second = Gated::stream(cuda, cuda.stream(NON_BLOCKING));
        ok!(cuda, cuCtxDestroy_v2(first => Handle));
        for round in 1..30 {
            let place = cuda.word();
            second.close();
            write(cuda, second.stream, place, round);
            common::a_moment();
            assert_eq!(value(place), 0);
            second.open();
            cuda.synchronize(second.stream);
            assert_eq!((value(place), level()), (round, 3));
        }
    });
}

// ---- the end of a process ----

/// What ends a process, and how that looks from outside.
type Exit = (&'static str, fn(), fn(ExitStatus) -> bool);

const EXITS: [Exit; 6] = [
    ("return", || (), |status| status.code() == Some(0)),
    (
        "exit",
        || std::process::exit(7),
        |status| status.code() == Some(7),
    ),
    (
        "exit in another thread",
        || {
            thread::spawn(|| std::process::exit(8)).join().unwrap();
        },
        |status| status.code() == Some(8),
    ),
    (
        "_exit",
        || {
            // SAFETY: ends this process.
            unsafe { libc::_exit(9) }
        },
        |status| status.code() == Some(9),
    ),
    (
        "SIGTERM",
        || signal(libc::SIGTERM),
        |status| status.signal() == Some(libc::SIGTERM),
    ),
    (
        "SIGKILL",
        || signal(libc::SIGKILL),
        |status| status.signal() == Some(libc::SIGKILL),
    ),
];

fn signal(number: i32) {
    // SAFETY: ends this process.
    unsafe { libc::raise(number) };
}

/// Runs `body`, called `part`, and one of [`EXITS`] in a client each; what they ended with.
fn endings(part: &str, environment: &[(&str, &str)], body: impl Fn(&Cuda)) -> Option<Vec<Output>> {
    let ending = |(name, exit, _): &Exit| {
        let mut all = environment.to_vec();
        all.extend([("PART", part), ("EXIT", *name), ("STANDIN_EXIT", "wait")]);
        observed(&all, || {
            let is = |variable, value: &str| std::env::var(variable).unwrap() == value;
            if is("PART", part) && is("EXIT", name) {
                body(&Cuda::load());
                exit();
            }
        })
    };
    // All of them, although a client has no results.
    let outputs: Vec<_> = EXITS.iter().map(ending).collect();
    outputs.into_iter().collect()
}

#[test]
fn a_process_ends_behind_a_closed_gate_as_it_would_without() {
    let plain = endings("plain", &[], |cuda| {
        cuda.start();
        let (stream, place) = (cuda.stream(NON_BLOCKING), cuda.word());
        write(cuda, stream, place, 1);
    });
    let held = endings("held", &preloaded(&shim(), &[LOCAL]), |cuda| {
        cuda.start();
        held(cuda);
    });
    let (Some(plain), Some(held)) = (plain, held) else {
        return;
    };
    for (((name, _, expected), plain), held) in EXITS.iter().zip(plain).zip(held) {
        assert!(expected(plain.status), "{name}: {}", text(&plain));
        assert!(expected(held.status), "{name}: {}", text(&held));
        said(&held, None);
    }
}

// ---- fork and exec ----

/// Forks; the child runs `body` and ends with its result. The parent gets that.
fn in_child(body: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child runs nothing that needs the other threads.
    match unsafe { libc::fork() } {
        0 => {
            let code = body();
            // SAFETY: ends the child without this process's handlers.
            unsafe { libc::_exit(code) }
        }
        child => {
            let mut status = 0;
            // SAFETY: a child of ours; a valid place for the result.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            ExitStatus::from_raw(status).code().expect("no signal")
        }
    }
}

#[test]
fn a_fork_changes_nothing_for_parent_and_child() {
    shimmed(&[LOCAL], |cuda| {
        cuda.start();
        let add = cuda.function("add_u32");
        let (gated, place) = held(cuda);
        let child = in_child(|| {
            // As without the shim: the driver does not work in a fork's child.
            let values = [Address(place.as_ptr().addr()), Word(1)];
            let launched = cuda.launch(gated.stream, add, &values);
            let waited = cu!(cuda, cuStreamSynchronize(gated.stream => Handle));
            let nothing_of_ours = View::own().is_none() && threads() == 1;
            i32::from((launched, waited) == (3, 3) && nothing_of_ours)
        });
        assert_eq!(child, 1);
        // The same with exit handlers.
        let child = in_child(|| std::process::exit(5));
        assert_eq!(child, 5);

        let (status, line) = shell("echo $LD_PRELOAD; ls /proc/$$/task | wc -l");
        assert!(status.success() && line == format!("{}\n1\n", shim().display()));

        assert_eq!(value(place), 0, "the parent is held as before");
        gated.open();
        cuda.synchronize(gated.stream);
        assert_eq!(value(place), 1);
        assert_eq!(
            cuda.launch(
                gated.stream,
                add,
                &[Address(place.as_ptr().addr()), Word(1)]
            ),
            SUCCESS
        );
        cuda.synchronize(gated.stream);
        assert!(gated.is_idle());
    });
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

fn shell(script: &str) -> (ExitStatus, String) {
    let output = Command::new("sh").args(["-c", script]).output().unwrap();
    (output.status, String::from_utf8(output.stdout).unwrap())
}

#[test]
fn exec_while_held_starts_afresh() {
    let output = observed(&preloaded(&shim(), &[LOCAL]), || {
        let cuda = Cuda::load();
        cuda.start();
        held(&cuda);
        use std::os::unix::process::CommandExt;
        let script = "ls -l /proc/self/fd | grep -c memfd; ls /proc/$$/task | wc -l; exit 3";
        panic!("{}", Command::new("sh").args(["-c", script]).exec());
    });
    if let Some(output) = output {
        assert_eq!(output.status.code(), Some(3), "{}", text(&output));
        assert!(text(&output).ends_with("0\n1\n"), "{}", text(&output));
    }
}

#[test]
fn a_thread_that_is_held_does_not_keep_others_from_ending_the_stream() {
    shimmed(&[LOCAL, ("XSCHED_AUTO_XQUEUE_LEVEL", "1")], |cuda| {
        let context = cuda.start();
        let spin = cuda.function("spin_us");
        let gated = Gated::stream(cuda, cuda.stream(NON_BLOCKING));
        gated.close();
        thread::scope(|scope| {
            let launcher = scope.spawn(|| {
                ok!(cuda, cuCtxSetCurrent(context => Handle));
                cuda.launch(gated.stream, spin, &[Word(1)])
            });
            until("the thread is held", || gated.block.waiting() == 1);
            thread::sleep(Duration::from_millis(5));
            assert!(!launcher.is_finished());
            // A bug of the application's, which must not become a hang.
            ok!(cuda, cuStreamDestroy_v2(gated.stream => Handle));
            let result = launcher.join().unwrap();
            assert!(result == SUCCESS || result == 400, "{result}");
        });
    });
}

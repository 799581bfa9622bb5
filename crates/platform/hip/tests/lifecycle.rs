//! Processes that load, end, fork or exec, with a closed gate or without.

mod common;

use std::{
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Command, ExitStatus},
    sync::{atomic::Ordering::SeqCst, mpsc},
    thread,
    time::Duration,
};

use common::{
    Gated, Handle, Hip, NON_BLOCKING, PER_THREAD, SUCCESS,
    Value::{Address, Word},
    observed, preloaded,
    shared::{LOCAL, View, a_moment, entry, said, text, until},
    shim, shimmed, value,
};

/// A stream with one command behind a closed gate, and the word that the command will write.
fn held(hip: &Hip) -> (Gated<'_>, &'static std::sync::atomic::AtomicU32) {
    let (gated, place) = (Gated::stream(hip, hip.stream(NON_BLOCKING)), hip.word());
    gated.close();
    gated.write(place, 1);
    a_moment();
    assert_eq!(value(place), 0);
    (gated, place)
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// The user's trials: `import torch` and `tensor.cuda()` hung under the preload.
#[test]
fn loading_the_runtime_and_copying_to_the_device_start_nothing_and_end() {
    shimmed(&[LOCAL], |hip| {
        // The runtime's own threads come with the first call.
        let memory = hip.alloc(4096);
        let before = threads();
        ok!(hip, hipStreamSynchronize(0 => Handle));
        assert!(View::own().is_none(), "nothing was submitted");
        assert_eq!(threads(), before);
        let bytes = [7_u8; 4096];
        ok!(hip, hipMemcpy(
            memory => usize, bytes.as_ptr().addr() => usize, 4096 => usize, 1 => i32,
        ));
        let mut back = [0_u8; 4096];
        ok!(hip, hipMemcpyDtoH(back.as_mut_ptr() => *mut u8, memory => usize, 4096 => usize));
        assert_eq!(back, bytes);
        ok!(hip, hipFree(memory => usize));
    });
}

/// What ends a process, and how that looks from outside.
type Exit = (&'static str, fn(), fn(ExitStatus) -> bool);

const EXITS: [Exit; 4] = [
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
        "SIGTERM",
        || {
            // SAFETY: ends this process.
            unsafe { libc::raise(libc::SIGTERM) };
        },
        |status| status.signal() == Some(libc::SIGTERM),
    ),
];

/// The user's trials: processes crashed at exit (code 139).
#[test]
fn a_process_ends_behind_a_closed_gate_as_it_would_without() {
    let shim = shim();
    for (name, exit, expected) in EXITS {
        let variables = preloaded(&shim, &[LOCAL, ("EXIT", name), ("STANDIN_EXIT", "wait")]);
        let output = observed(&variables, |hip| {
            if common::told("EXIT") == name {
                held(hip);
                exit();
            }
        });
        if let Some(output) = output {
            assert!(expected(output.status), "{name}: {}", text(&output));
            said(&output, None);
        }
    }
}

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

/// The user's trials: children of `multiprocessing` inherited a broken context.
#[test]
fn a_fork_changes_nothing_for_parent_and_child() {
    shimmed(&[LOCAL], |hip| {
        let add = hip.function("add_u32");
        let (gated, place) = held(hip);
        let child = in_child(|| {
            // As without the shim: the stand-in's driver does not work in a fork's child.
            let values = [Address(place.as_ptr().addr()), Word(1)];
            let launched = hip.launch(gated.stream, add, &values);
            let waited = cu!(hip, hipStreamSynchronize(gated.stream => Handle));
            let nothing_of_ours = View::own().is_none() && threads() == 1;
            i32::from((launched, waited) == (3, 3) && nothing_of_ours)
        });
        assert_eq!(child, 1);
        // The same with exit handlers.
        assert_eq!(in_child(|| std::process::exit(5)), 5);
        assert_eq!(value(place), 0, "the parent is held as before");
        gated.open();
        hip.synchronize(gated.stream);
        assert_eq!(value(place), 1);
    });
}

#[test]
fn a_fork_before_the_first_call_gives_each_process_a_scheduler_of_its_own() {
    shimmed(&[LOCAL], |hip| {
        let child = in_child(|| {
            let (gated, place) = held(hip);
            gated.open();
            hip.synchronize(gated.stream);
            i32::try_from(value(place)).unwrap()
        });
        assert_eq!(child, 1);
        let (gated, place) = held(hip);
        gated.open();
        hip.synchronize(gated.stream);
        assert_eq!(value(place), 1);
    });
}

#[test]
fn exec_while_held_starts_afresh() {
    let shim = shim();
    let output = observed(&preloaded(&shim, &[LOCAL]), |hip| {
        held(hip);
        let script = "ls -l /proc/self/fd | grep -c memfd; ls /proc/$$/task | wc -l; exit 3";
        panic!("{}", Command::new("sh").args(["-c", script]).exec());
    });
    if let Some(output) = output {
        assert_eq!(output.status.code(), Some(3), "{}", text(&output));
        assert!(text(&output).ends_with("0\n1\n"), "{}", text(&output));
    }
}

/// A wait for a stream, or for an event that was recorded in it.
const WAITS: [fn(&Hip, Handle, Handle) -> i32; 4] = [
    |hip, stream, _| cu!(hip, hipStreamSynchronize(stream => Handle)),
    |hip, _, event| cu!(hip, hipEventSynchronize(event => Handle)),
    |hip, _, _| cu!(hip, hipDeviceSynchronize()),
    |hip, stream, _| {
        let (mut word, memory) = (0, hip.alloc(4));
        cu!(hip, hipMemcpyWithStream(
            &mut word => &mut u32, memory => usize, 4 => usize, 2 => i32, stream => Handle,
        ))
    },
];

#[test]
fn streams_end_while_threads_wait_for_them() {
    // What is freed is overwritten at once, so that a use of it shows.
    let overwritten = (
        "GLIBC_TUNABLES",
        "glibc.malloc.perturb=165:glibc.malloc.tcache_count=0",
    );
    shimmed(&[LOCAL, overwritten], |hip| {
        let (end, until) = (hip.word(), hip.function("until_u32"));
        let launch = |stream, value| {
            let values = [Address(end.as_ptr().addr()), Word(value)];
            assert_eq!(hip.launch(stream, until, &values), SUCCESS);
        };
        // A function's first launch waits for the whole device, and so does whoever makes a stream.
        let last = hip.stream(NON_BLOCKING);
        launch(last, 0);
        let waits = WAITS.map(|wait| {
            let (stream, mut event) = (hip.stream(NON_BLOCKING), 0);
            ok!(hip, hipEventCreate(&mut event => &mut Handle));
            (wait, stream, event)
        });
        thread::scope(|scope| {
            for (wait, stream, event) in waits {
                launch(stream, 1);
                ok!(hip, hipEventRecord(event => Handle, stream => Handle));
                scope.spawn(move || assert_eq!(wait(hip, stream, event), SUCCESS));
            }
            thread::sleep(Duration::from_millis(300));
            for (_, stream, _) in waits {
                ok!(hip, hipStreamDestroy(stream => Handle));
            }
            // Longer than the shim goes without a look at who may still use what has ended.
            thread::sleep(Duration::from_secs(11));
            ok!(hip, hipStreamDestroy(last => Handle));
            end.store(1, SeqCst);
        });
    });
}

#[test]
fn what_ends_or_is_captured_while_commands_pass_is_known() {
    shimmed(&[LOCAL, ("XSCHED_AUTO_XQUEUE_LEVEL", "2")], |hip| {
        let [gated, ending, unused] =
            [(); 3].map(|()| Gated::stream(hip, hip.stream(NON_BLOCKING)));
        let (place, mut event, mut graph) = (hip.word(), 0, 0);
        let [add, until_equal] = ["add_u32", "until_u32"].map(|name| hip.function(name));
        let launch = |function, value| {
            let values = [Address(place.as_ptr().addr()), Word(value)];
            assert_eq!(hip.launch(gated.stream, function, &values), SUCCESS);
        };
        ok!(hip, hipEventCreate(&mut event => &mut Handle));
        for (function, value) in [(add, 0), (until_equal, 0)] {
            launch(function, value);
            hip.synchronize(gated.stream);
        }
        let set_enabled: extern "C" fn(i32) -> i32 = entry("xsched_set_enabled");

        // An event says nothing any more of the stream that it was recorded in before.
        launch(until_equal, 1);
        ok!(hip, hipEventRecord(event => Handle, gated.stream => Handle));
        assert_eq!(set_enabled(0), 0);
        ok!(hip, hipEventRecord(event => Handle, unused.stream => Handle));
        assert_eq!(set_enabled(1), 0);
        ok!(hip, hipEventSynchronize(event => Handle));
        assert!(!gated.is_idle());
        place.store(1, SeqCst);
        hip.synchronize(gated.stream);

        // Streams and threads end.
        let (tell, told) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let of_thread = thread::scope(|scope| {
            scope.spawn(move || {
                tell.send(Gated::stream(hip, PER_THREAD).block).unwrap();
                let _ = ended.recv();
            });
            let block = told.recv().unwrap();
            assert_eq!(set_enabled(0), 0);
            drop(end);
            block
        });
        ok!(hip, hipStreamDestroy(ending.stream => Handle));
        until("the thread's stream ends", || of_thread.is_bypassed());
        assert!(ending.block.is_bypassed(), "the stream has ended");

        // Captures begin, and end.
        let submitted = || gated.block.state().submitted();
        let before = submitted();
        ok!(hip, hipStreamBeginCapture(gated.stream => Handle, 0 => u32));
        assert_eq!(set_enabled(1), 0);
        launch(add, 1);
        assert_eq!(submitted(), before, "it is captured");
        assert_eq!(set_enabled(0), 0);
        ok!(hip, hipStreamEndCapture(gated.stream => Handle, &mut graph => &mut Handle));
        assert_eq!(set_enabled(1), 0);
        // The agent asks again.
        launch(add, 1);
        until("idle", || gated.is_idle());
        assert_eq!((value(place), submitted()), (2, before + 1));
    });
}

#[test]
fn streams_end_behind_a_closed_gate_and_threads_come_and_go() {
    shimmed(&[LOCAL], |hip| {
        for _ in 0..20 {
            let (gated, place) = held(hip);
            ok!(hip, hipStreamDestroy(gated.stream => Handle));
            ok!(hip, hipDeviceSynchronize());
            assert_eq!(value(place), 1, "what was held has completed");
        }
        let (place, add) = (hip.word(), hip.function("add_u32"));
        for _ in 0..100 {
            thread::scope(|scope| {
                scope.spawn(|| {
                    let values = [Address(place.as_ptr().addr()), Word(1)];
                    assert_eq!(hip.launch(PER_THREAD, add, &values), SUCCESS);
                    hip.synchronize(PER_THREAD);
                });
            });
        }
        assert_eq!(value(place), 100);
    });
}

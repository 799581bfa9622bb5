//! Streams of every kind, context and device are scheduled, and captures are what they were.

mod common;

use std::{collections::BTreeSet, sync::mpsc, thread};

use common::{
    Daemon, Gated, LEGACY, LOCAL, NON_BLOCKING, PER_THREAD, a_moment, level, observed, preloaded,
    scene, shim, shimmed, shimmed_saying,
    support::{self, Cuda, Handle, NOT_READY, Peer, SUCCESS, Value::*},
    text, until, value, write,
};

const BLOCKING: u32 = 0;
/// Modes of a capture.
const MODES: [u32; 3] = [0, 1, 2];
const THREAD_LOCAL: u32 = 1;
const RELAXED: u32 = 2;
/// Results of the end of a capture.
const ILLEGAL_STATE: i32 = 401;
const WRONG_THREAD: i32 = 908;

/// One command on the stream is held and released; gives the queue's slot.
fn is_held_and_released(cuda: &Cuda, stream: Handle) -> u16 {
    let (gated, place) = (Gated::stream(cuda, stream), cuda.word());
    gated.close();
    write(cuda, stream, place, 1);
    a_moment();
    assert_eq!((cuda.query(stream), value(place)), (NOT_READY, 0));
    gated.open();
    cuda.synchronize(stream);
    assert_eq!(value(place), 1);
    gated.slot
}

#[test]
fn every_kind_of_stream_in_every_context_on_every_device() {
    shimmed(&[LOCAL, ("STANDIN_DEVICES", "2")], |cuda| {
        ok!(cuda, cuInit(0 => u32));
        let mut queues = BTreeSet::new();
        for device in [0, 1, 0, 1] {
            let context = cuda.context(device);
            let streams = [
                LEGACY,
                cuda.stream(BLOCKING),
                cuda.stream(NON_BLOCKING),
                PER_THREAD,
            ];
            queues.extend(streams.map(|stream| is_held_and_released(cuda, stream)));
            let other_thread = thread::scope(|scope| {
                let own = scope.spawn(|| {
                    ok!(cuda, cuCtxSetCurrent(context => Handle));
                    is_held_and_released(cuda, PER_THREAD)
                });
                own.join().unwrap()
            });
            queues.insert(other_thread);
        }
        assert_eq!(queues.len(), 4 * 5, "each stream has a queue of its own");
    });
}

#[test]
fn the_null_handle_means_the_legacy_stream() {
    shimmed(&[LOCAL], |cuda| {
        cuda.start();
        let (gated, place) = (Gated::stream(cuda, LEGACY), cuda.word());
        gated.close();
        write(cuda, 0, place, 1);
        a_moment();
        assert_eq!((cuda.query(0), value(place)), (NOT_READY, 0));
        gated.open();
        cuda.synchronize(0);
        assert_eq!(value(place), 1);
    });
}

#[test]
fn a_threads_own_stream_is_found_idle_while_the_thread_does_nothing() {
    shimmed(&[LOCAL], |cuda| {
        let context = cuda.start();
        let place = cuda.word();
        let (ends, wait) = std::sync::mpsc::channel::<()>();
        thread::scope(|scope| {
            let busy = scope.spawn(move || {
                ok!(cuda, cuCtxSetCurrent(context => Handle));
                let block = Gated::stream(cuda, PER_THREAD).block;
                // It waits for its work, and then submits something that nobody waits for.
                for round in 0..20 {
                    write(cuda, PER_THREAD, place, round);
                    cuda.synchronize(PER_THREAD);
                    write(cuda, PER_THREAD, place, 100 + round);
                    write(cuda, PER_THREAD, place, 200 + round);
                    until("marks tell that it is idle", || !block.state().is_ready());
                }
                let _ = wait.recv();
            });
            drop(ends);
            busy.join().unwrap();
        });
        assert_eq!(value(place), 219);
    });
}

#[test]
fn threads_come_and_go_without_end() {
    shimmed_saying(None, &[LOCAL], |cuda| {
        let context = cuda.start();
        let (place, add) = (cuda.word(), cuda.function("add_u32"));
        // More than a process has control blocks.
        for _ in 0..1200 {
            thread::scope(|scope| {
                scope.spawn(|| {
                    ok!(cuda, cuCtxSetCurrent(context => Handle));
                    let values = [Address(place.as_ptr().addr()), Word(1)];
                    assert_eq!(
                        cuda.launch_by("cuLaunchKernel_ptsz", 0, add, &values),
                        SUCCESS
                    );
                    cuda.synchronize(PER_THREAD);
                });
            });
        }
        assert_eq!(value(place), 1200);
    });
}

/// A client that launches, and stays.
fn urgent() {
    let cuda = Cuda::load();
    cuda.start();
    let spin = cuda.function("spin_us");
    assert_eq!(cuda.launch(LEGACY, spin, &[Word(1)]), SUCCESS);
    cuda.synchronize(LEGACY);
    println!("launched");
    support::listen();
}

/// A client with a slice of the background that goes on making streams.
fn background() {
    const SLICE_NS: u64 = 50_000;
    let cuda = Cuda::load();
    cuda.start();
    let spin = cuda.function("spin_us");
    assert_eq!(cuda.launch(LEGACY, spin, &[Word(1)]), SUCCESS);
    until("the slice is short", || cuda.account().2 == SLICE_NS);
    // Its agent may be about to settle what the scheduler wants for the one before: not each time.
    let kept = (0..50).filter(|_| {
        until("the slice is short again", || cuda.account().2 == SLICE_NS);
        let stream = cuda.stream(NON_BLOCKING);
        assert_eq!(cuda.launch(stream, spin, &[Word(1)]), SUCCESS);
        cuda.account().2 == SLICE_NS
    });
    assert!(kept.count() > 0, "each new stream has undone it");
}

#[test]
fn a_new_stream_leaves_a_background_process_there() {
    scene(&[("urgent", urgent), ("background", background)], || {
        let daemon = Daemon::start();
        let start = |part, priority| {
            let priority = ("XSCHED_AUTO_XQUEUE_PRIORITY", priority);
            Peer::start(part, &preloaded(&shim(), &[daemon.variable(), priority]))
        };
        let mut urgent = start("urgent", "5");
        urgent.expect("launched");
        assert!(start("background", "0").finish().success());
    });
}

// ---- captures ----

fn begin(cuda: &Cuda, stream: Handle, mode: u32) {
    ok!(cuda, cuStreamBeginCapture_v2(stream => Handle, mode => u32));
}

/// Ends a capture, which must have succeeded, and gives its executable graph.
fn end(cuda: &Cuda, stream: Handle) -> Handle {
    let (mut graph, mut executable) = (0, 0);
    ok!(cuda, cuStreamEndCapture(stream => Handle, &mut graph => &mut Handle));
    ok!(cuda, cuGraphInstantiateWithFlags(
        &mut executable => &mut Handle, graph => Handle, 0 => u64,
    ));
    executable
}

/// Runs a graph that adds to `place`.
fn run(cuda: &Cuda, executable: Handle, stream: Handle) {
    ok!(cuda, cuGraphLaunch(executable => Handle, stream => Handle));
    cuda.synchronize(stream);
}

/// Long enough for the agent to look after the queues several times.
fn the_agent_looks() {
    thread::sleep(std::time::Duration::from_millis(60));
}

#[test]
fn nothing_spoils_a_capture_of_a_busy_stream() {
    shimmed(&[LOCAL], |cuda| {
        cuda.start();
        let (place, add) = (cuda.word(), cuda.function("add_u32"));
        let values = [Address(place.as_ptr().addr()), Word(1)];
        for mode in MODES {
            for flags in [BLOCKING, NON_BLOCKING] {
                let stream = cuda.stream(flags);
                // Work that nobody waits for: the agent would ask for it.
                for stream in [stream, LEGACY, PER_THREAD] {
                    assert_eq!(cuda.launch(stream, add, &values), SUCCESS);
                }
                let before = value(place);
                begin(cuda, stream, mode);
                assert_eq!(cuda.launch(stream, add, &values), SUCCESS);
                the_agent_looks();
                assert_eq!(cuda.launch(stream, add, &values), SUCCESS);
                let executable = end(cuda, stream);
                cuda.synchronize(stream);
                cuda.synchronize(LEGACY);
                cuda.synchronize(PER_THREAD);
                let captured = value(place);
                assert!(captured <= before + 3, "what is captured does not execute");
                run(cuda, executable, stream);
                assert_eq!(value(place), captured + 2);
            }
        }
    });
}

#[test]
fn an_end_that_ends_no_capture_changes_nothing() {
    shimmed(&[LOCAL], |cuda| {
        let context = cuda.start();
        let (place, add) = (cuda.word(), cuda.function("add_u32"));
        let values = [Address(place.as_ptr().addr()), Word(1)];
        let (captured, other) = (cuda.stream(NON_BLOCKING), cuda.stream(NON_BLOCKING));
        let gated = Gated::stream(cuda, captured);
        let before = gated.block.state().submitted();
        let failed_end = |stream: Handle| {
            let mut graph = 0;
            cu!(cuda, cuStreamEndCapture(stream => Handle, &mut graph => &mut Handle))
        };
        begin(cuda, captured, THREAD_LOCAL);
        assert_eq!(failed_end(other), ILLEGAL_STATE, "no capture");
        assert_eq!(cuda.launch(captured, add, &values), SUCCESS);
        thread::scope(|scope| {
            scope.spawn(|| {
                ok!(cuda, cuCtxSetCurrent(context => Handle));
                assert_eq!(failed_end(captured), WRONG_THREAD);
            });
        });
        assert_eq!(cuda.launch(captured, add, &values), SUCCESS);
        assert_eq!(gated.block.state().submitted(), before, "all is captured");
        let executable = end(cuda, captured);
        run(cuda, executable, captured);
        assert_eq!(value(place), 2);
        // None is left over: the agent asks again.
        until("the agent looks", || {
            assert_eq!(cuda.launch(captured, add, &values), SUCCESS);
            the_agent_looks();
            gated.is_idle()
        });
    });
}

#[test]
fn the_first_command_of_a_process_may_come_during_a_capture() {
    for mode in MODES {
        for elsewhere in [false, true] {
            // A process each: only once is there a first command. The loop is the same in all.
            let part = format!("{mode}{elsewhere}");
            let output = observed(&preloaded(&shim(), &[LOCAL, ("PART", &part)]), || {
                if std::env::var("PART").unwrap() == part {
                    first_command_in_capture(&Cuda::load(), mode, elsewhere);
                }
            });
            if let Some(output) = output {
                assert!(output.status.success(), "{part}: {}", text(&output));
            }
        }
    }
}

fn first_command_in_capture(cuda: &Cuda, mode: u32, elsewhere: bool) {
    let context = cuda.start();
    let (place, add) = (cuda.word(), cuda.function("add_u32"));
    let values = [Address(place.as_ptr().addr()), Word(1)];
    let (captured, other) = (cuda.stream(NON_BLOCKING), cuda.stream(NON_BLOCKING));
    begin(cuda, captured, mode);
    let first = || {
        ok!(cuda, cuCtxSetCurrent(context => Handle));
        assert_eq!(cuda.launch(other, add, &values), SUCCESS);
    };
    if elsewhere {
        thread::scope(|scope| scope.spawn(first).join().unwrap());
    } else {
        first();
    }
    assert_eq!(cuda.launch(captured, add, &values), SUCCESS);
    until("the command executes", || value(place) == 1);
    the_agent_looks();
    let executable = end(cuda, captured);
    cuda.synchronize(other);
    run(cuda, executable, captured);
    assert_eq!(value(place), 2);
    until("the local scheduler runs", || level() == 3);
}

#[test]
fn other_threads_work_while_one_captures() {
    shimmed(&[LOCAL], |cuda| {
        let context = cuda.start();
        let (place, add) = (cuda.word(), cuda.function("add_u32"));
        let values = [Address(place.as_ptr().addr()), Word(1)];
        let streams: Vec<_> = (0..3).map(|_| cuda.stream(NON_BLOCKING)).collect();
        let (stop, stopped) = mpsc::channel::<()>();
        let stopped = std::sync::Mutex::new(stopped);
        thread::scope(|scope| {
            for &stream in &streams[1..] {
                let stopped = &stopped;
                scope.spawn(move || {
                    ok!(cuda, cuCtxSetCurrent(context => Handle));
                    // Waiting is forbidden while somebody captures in the global mode.
                    let mut mode = RELAXED;
                    ok!(cuda, cuThreadExchangeStreamCaptureMode(&mut mode => &mut u32));
                    let ended = || {
                        stopped.lock().unwrap().try_recv() == Err(mpsc::TryRecvError::Disconnected)
                    };
                    while !ended() {
                        assert_eq!(cuda.launch(stream, add, &values), SUCCESS);
                        cuda.synchronize(stream);
                    }
                });
            }
            for round in 0..60 {
                begin(cuda, streams[0], MODES[round % 3]);
                for _ in 0..20 {
                    assert_eq!(cuda.launch(streams[0], add, &values), SUCCESS);
                }
                let mut graph = 0;
                ok!(cuda, cuStreamEndCapture(streams[0] => Handle, &mut graph => &mut Handle));
            }
            drop(stop);
        });
    });
}

fn current(cuda: &Cuda) -> Handle {
    let mut context = 0;
    ok!(cuda, cuCtxGetCurrent(&mut context => &mut Handle));
    context
}

#[test]
fn after_a_capture_that_failed_idle_streams_are_found_again() {
    shimmed(&[LOCAL], |cuda| {
        cuda.start();
        let spin = cuda.function("spin_us");
        let gated = Gated::stream(cuda, cuda.stream(NON_BLOCKING));
        let found_idle = |what: &str| {
            assert_eq!(cuda.launch(gated.stream, spin, &[Word(1)]), SUCCESS);
            until(what, || gated.is_idle());
        };

        let stream = cuda.stream(NON_BLOCKING);
        begin(cuda, stream, 0);
        assert_eq!(cu!(cuda, cuStreamSynchronize(stream => Handle)), 900);
        let mut graph = 0;
        let result = cu!(cuda, cuStreamEndCapture(stream => Handle, &mut graph => &mut Handle));
        assert_eq!(result, 901, "as without the shim");
        found_idle("after a spoiled capture");

        assert_eq!(
            cu!(cuda, cuStreamBeginCapture_v2(LEGACY => Handle, 0 => u32)),
            900
        );
        found_idle("after a capture that could not begin");

        begin(cuda, stream, RELAXED);
        ok!(cuda, cuStreamDestroy_v2(stream => Handle));
        found_idle("after a stream that was destroyed while it captured");

        let (own, other) = (current(cuda), cuda.context(0));
        begin(cuda, cuda.stream(NON_BLOCKING), RELAXED);
        ok!(cuda, cuCtxDestroy_v2(other => Handle));
        ok!(cuda, cuCtxSetCurrent(own => Handle));
        found_idle("after a context that was destroyed while a stream of it captured");

        thread::scope(|scope| {
            scope.spawn(|| {
                ok!(cuda, cuCtxSetCurrent(own => Handle));
                begin(cuda, PER_THREAD, RELAXED);
            });
        });
        found_idle("after a thread that ended while its stream captured");
    });
}

#[test]
fn launches_may_block_and_devices_be_hidden() {
    let more = [
        LOCAL,
        ("CUDA_LAUNCH_BLOCKING", "1"),
        ("CUDA_VISIBLE_DEVICES", "1"),
        ("STANDIN_DEVICES", "3"),
    ];
    shimmed_saying(None, &more, |cuda| {
        cuda.start();
        let mut count = 0;
        ok!(cuda, cuDeviceGetCount(&mut count => &mut i32));
        let mut name = [0_u8; 32];
        ok!(cuda, cuDeviceGetName(name.as_mut_ptr() => *mut u8, 32 => i32, 0 => i32));
        assert!(count == 1 && name.starts_with(b"Stand-in GPU 1\0"));
        let (stream, place) = (cuda.stream(NON_BLOCKING), cuda.word());
        for number in 1..200 {
            write(cuda, stream, place, number);
            assert_eq!(value(place), number, "the launch has waited");
        }
    });
}

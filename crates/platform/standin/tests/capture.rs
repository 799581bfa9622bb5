//! Stream capture: what becomes a node, which calls are illegal meanwhile, and what they spoil.

mod support;

use std::{
    sync::atomic::{AtomicU32, Ordering::SeqCst},
    thread,
};

use support::{Cuda, Handle, SUCCESS, Value::*, client};

const NON_BLOCKING: u32 = 1;
const GLOBAL: u32 = 0;
const THREAD_LOCAL: u32 = 1;
const RELAXED: u32 = 2;

const ILLEGAL_STATE: i32 = 401;
const UNSUPPORTED: i32 = 900;
const INVALIDATED: i32 = 901;
const MERGE: i32 = 902;
const UNMATCHED: i32 = 903;
const UNJOINED: i32 = 904;
const ISOLATION: i32 = 905;
const IMPLICIT: i32 = 906;
const CAPTURED_EVENT: i32 = 907;
const WRONG_THREAD: i32 = 908;

fn begin(cuda: &Cuda, stream: Handle, mode: u32) -> i32 {
    cu!(cuda, cuStreamBeginCapture_v2(stream => Handle, mode => u32))
}

fn end(cuda: &Cuda, stream: Handle) -> (i32, Handle) {
    let mut graph = 1;
    let result = cu!(cuda, cuStreamEndCapture(stream => Handle, &mut graph => &mut Handle));
    (result, graph)
}

/// `CUstreamCaptureStatus`: 0 = none, 1 = active, 2 = invalidated.
fn status(cuda: &Cuda, stream: Handle) -> (i32, u32) {
    let mut status = 9;
    let result = cu!(cuda, cuStreamIsCapturing(stream => Handle, &mut status => &mut u32));
    (result, status)
}

fn wait_event(cuda: &Cuda, stream: Handle, event: Handle) -> i32 {
    cu!(cuda, cuStreamWaitEvent(stream => Handle, event => Handle, 0 => u32))
}

fn nodes(cuda: &Cuda, graph: Handle) -> usize {
    let mut count = 0;
    ok!(cuda, cuGraphGetNodes(graph => Handle, 0 => usize, &mut count => &mut usize));
    count
}

#[test]
fn captured_commands_do_not_execute() {
    client(&[], |cuda| {
        cuda.start();
        let (stream, place) = (cuda.stream(NON_BLOCKING), cuda.word());
        let write = cuda.function("write_u32");
        let address = place.as_ptr().addr();
        assert_eq!(status(cuda, stream), (SUCCESS, 0));
        assert_eq!(begin(cuda, stream, GLOBAL), SUCCESS);
        assert_eq!(begin(cuda, stream, GLOBAL), ILLEGAL_STATE);
        assert_eq!(status(cuda, stream), (SUCCESS, 1));
        assert_eq!(
            cuda.launch(stream, write, &[Address(address), Word(1)]),
            SUCCESS
        );
        ok!(cuda, cuStreamWaitValue32_v2(
            stream => Handle, address => usize, 1 => u32, 0 => u32,
        ));
        let (result, graph) = end(cuda, stream);
        assert_eq!((result, nodes(cuda, graph)), (SUCCESS, 2));
        assert_eq!(status(cuda, stream), (SUCCESS, 0));
        assert_eq!(end(cuda, stream).0, ILLEGAL_STATE);
        cuda.synchronize(stream);
        assert_eq!(place.load(SeqCst), 0);
    });
}

/// A call with its name.
type Call = (&'static str, fn(&Cuda) -> i32);

/// Calls that a capture may forbid, none on the capturing stream.
const UNSAFE_CALLS: &[Call] = &[
    ("cuMemAlloc", |cuda| {
        let mut address = 0;
        cu!(cuda, cuMemAlloc_v2(&mut address => &mut usize, 4 => usize))
    }),
    ("cuMemHostAlloc", |cuda| {
        let mut address = 0;
        cu!(cuda, cuMemHostAlloc(&mut address => &mut usize, 4 => usize, 0 => u32))
    }),
    ("cuEventQuery", |cuda| {
        let event = cuda.event();
        cu!(cuda, cuEventQuery(event => Handle))
    }),
    ("cuStreamQuery", |cuda| {
        let other = cuda.stream(NON_BLOCKING);
        cuda.query(other)
    }),
];

/// Whether a capture in `mode` by this thread forbids each call to a thread in mode `other`; if it
/// does, the call spoils the capture. `here`: the call comes from the capturing thread.
fn check(cuda: &Cuda, context: Handle, mode: u32, other: u32, here: bool, forbidden: bool) {
    for (name, call) in UNSAFE_CALLS {
        let stream = cuda.stream(NON_BLOCKING);
        assert_eq!(begin(cuda, stream, mode), SUCCESS);
        let make = || {
            ok!(cuda, cuCtxSetCurrent(context => Handle));
            let mut exchanged = other;
            ok!(cuda, cuThreadExchangeStreamCaptureMode(&mut exchanged => &mut u32));
            let result = call(cuda);
            ok!(cuda, cuThreadExchangeStreamCaptureMode(&mut exchanged => &mut u32));
            assert_eq!(exchanged, other);
            result
        };
        let result = if here {
            make()
        } else {
            thread::scope(|scope| scope.spawn(make).join().unwrap())
        };
        let (made, _) = end(cuda, stream);
        let expected = if forbidden {
            (UNSUPPORTED, INVALIDATED)
        } else {
            (SUCCESS, SUCCESS)
        };
        assert_eq!((result, made), expected, "{name}, {mode} {other} {here}");
    }
}

#[test]
fn unsafe_calls_are_forbidden_as_the_modes_say() {
    client(&[], |cuda| {
        let context = cuda.start();
        for (mode, other, here, forbidden) in [
            (GLOBAL, GLOBAL, true, true),
            (GLOBAL, GLOBAL, false, true),
            (GLOBAL, THREAD_LOCAL, true, true),
            (GLOBAL, THREAD_LOCAL, false, false),
            (GLOBAL, RELAXED, true, false),
            (GLOBAL, RELAXED, false, false),
            (THREAD_LOCAL, GLOBAL, true, true),
            (THREAD_LOCAL, GLOBAL, false, false),
            (THREAD_LOCAL, THREAD_LOCAL, true, true),
            (RELAXED, GLOBAL, true, false),
            (RELAXED, GLOBAL, false, false),
        ] {
            check(cuda, context, mode, other, here, forbidden);
        }
    });
}

#[test]
fn a_capturing_stream_cannot_be_synchronized() {
    client(&[], |cuda| {
        cuda.start();
        let calls: [Call; 3] = [
            (
                "cuStreamSynchronize",
                |cuda| cu!(cuda, cuStreamSynchronize(captured() => Handle)),
            ),
            ("cuStreamQuery", |cuda| cuda.query(captured())),
            ("cuCtxSynchronize", |cuda| cu!(cuda, cuCtxSynchronize())),
        ];
        for (name, call) in calls {
            let stream = cuda.stream(NON_BLOCKING);
            CAPTURED.store(stream, SeqCst);
            assert_eq!(begin(cuda, stream, RELAXED), SUCCESS);
            assert_eq!(call(cuda), UNSUPPORTED, "{name}");
            assert_eq!(status(cuda, stream), (SUCCESS, 2), "{name}");
            let spin = cuda.function("spin_us");
            assert_eq!(cuda.launch(stream, spin, &[Word(1)]), INVALIDATED, "{name}");
            assert_eq!(end(cuda, stream), (INVALIDATED, 0), "{name}");
        }
    });
}

static CAPTURED: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

fn captured() -> Handle {
    CAPTURED.load(SeqCst)
}

#[test]
fn the_legacy_stream_takes_no_part() {
    client(&[], |cuda| {
        cuda.start();
        let spin = cuda.function("spin_us");
        assert_eq!(begin(cuda, 0, GLOBAL), UNSUPPORTED);
        let (blocking, free) = (cuda.stream(0), cuda.stream(NON_BLOCKING));
        assert_eq!(begin(cuda, free, RELAXED), SUCCESS);
        assert_eq!(cuda.launch(0, spin, &[Word(1)]), SUCCESS);
        assert_eq!(end(cuda, free).0, SUCCESS);
        assert_eq!(begin(cuda, blocking, RELAXED), SUCCESS);
        // To ask is refused, but spoils nothing.
        assert_eq!(status(cuda, 0).0, IMPLICIT);
        assert_eq!(status(cuda, blocking), (SUCCESS, 1));
        assert_eq!(cuda.launch(0, spin, &[Word(1)]), IMPLICIT);
        assert_eq!(end(cuda, blocking).0, INVALIDATED);
    });
}

#[test]
fn streams_join_a_capture_by_events() {
    client(&[], |cuda| {
        cuda.start();
        let (origin, other) = (cuda.stream(NON_BLOCKING), cuda.stream(NON_BLOCKING));
        let (fork, join) = (cuda.event(), cuda.event());
        let spin = cuda.function("spin_us");
        let launch = |stream| assert_eq!(cuda.launch(stream, spin, &[Word(1)]), SUCCESS);
        assert_eq!(begin(cuda, origin, GLOBAL), SUCCESS);
        launch(origin);
        assert_eq!(cuda.record(fork, origin), SUCCESS);
        assert_eq!(wait_event(cuda, other, fork), SUCCESS);
        assert_eq!(status(cuda, other), (SUCCESS, 1));
        launch(other);
        launch(origin);
        assert_eq!(cuda.record(join, other), SUCCESS);
        assert_eq!(wait_event(cuda, origin, join), SUCCESS);
        launch(origin);
        let (result, graph) = end(cuda, origin);
        assert_eq!((result, nodes(cuda, graph)), (SUCCESS, 4));
        let mut edges = 0;
        ok!(cuda, cuGraphGetEdges(
            graph => Handle, 0 => usize, 0 => usize, &mut edges => &mut usize,
        ));
        assert_eq!(edges, 4);
        assert_eq!(status(cuda, other), (SUCCESS, 0));
        // The event stays captured: asking it is an error.
        assert_eq!(cu!(cuda, cuEventQuery(fork => Handle)), CAPTURED_EVENT);
    });
}

#[test]
fn captures_that_go_wrong_say_why() {
    client(&[], |cuda| {
        cuda.start();
        let (origin, other) = (cuda.stream(NON_BLOCKING), cuda.stream(NON_BLOCKING));
        let event = cuda.event();
        let spin = cuda.function("spin_us");
        let fork = || {
            assert_eq!(begin(cuda, origin, RELAXED), SUCCESS);
            assert_eq!(cuda.launch(origin, spin, &[Word(1)]), SUCCESS);
            assert_eq!(cuda.record(event, origin), SUCCESS);
            assert_eq!(wait_event(cuda, other, event), SUCCESS);
            assert_eq!(cuda.launch(other, spin, &[Word(1)]), SUCCESS);
        };
        fork();
        assert_eq!(end(cuda, origin), (UNJOINED, 0));
        fork();
        assert_eq!(end(cuda, other).0, UNMATCHED);
        assert_eq!(end(cuda, origin).0, INVALIDATED);
        // An event from outside.
        assert_eq!(cuda.record(event, other), SUCCESS);
        assert_eq!(begin(cuda, origin, RELAXED), SUCCESS);
        assert_eq!(wait_event(cuda, origin, event), ISOLATION);
        assert_eq!(end(cuda, origin).0, INVALIDATED);
        // Two captures.
        assert_eq!(begin(cuda, origin, RELAXED), SUCCESS);
        assert_eq!(begin(cuda, other, RELAXED), SUCCESS);
        assert_eq!(cuda.record(event, origin), SUCCESS);
        assert_eq!(wait_event(cuda, other, event), MERGE);
        assert_eq!(end(cuda, origin).0, INVALIDATED);
        assert_eq!(end(cuda, other).0, INVALIDATED);
        // Another thread, unless relaxed.
        for (mode, expected) in [(THREAD_LOCAL, WRONG_THREAD), (RELAXED, SUCCESS)] {
            assert_eq!(begin(cuda, origin, mode), SUCCESS);
            let ended = AtomicU32::new(0);
            thread::scope(|scope| {
                scope.spawn(|| ended.store(end(cuda, origin).0.cast_unsigned(), SeqCst));
            });
            assert_eq!(ended.load(SeqCst).cast_signed(), expected);
            if expected != SUCCESS {
                assert_eq!(end(cuda, origin).0, SUCCESS);
            }
        }
    });
}

#[test]
fn the_capture_shows_its_graph_and_its_last_nodes() {
    client(&[], |cuda| {
        cuda.start();
        let stream = cuda.stream(NON_BLOCKING);
        let spin = cuda.function("spin_us");
        let info = || {
            let (mut status, mut id, mut graph) = (0, 0, 0);
            let (mut list, mut count) = (std::ptr::null::<Handle>(), 0);
            ok!(cuda, cuStreamGetCaptureInfo_v2(
                stream => Handle, &mut status => &mut u32, &mut id => &mut u64,
                &mut graph => &mut Handle, &mut list => &mut *const Handle,
                &mut count => &mut usize,
            ));
            let read = |index| {
                // SAFETY: the list has `count` elements until the stream's next call.
                unsafe { list.wrapping_add(index).read() }
            };
            (status, graph, (0..count).map(read).collect::<Vec<_>>())
        };
        assert_eq!(info().0, 0);
        assert_eq!(begin(cuda, stream, RELAXED), SUCCESS);
        assert_eq!(cuda.launch(stream, spin, &[Word(1)]), SUCCESS);
        let (status, graph, tail) = info();
        assert_eq!((status, tail.len()), (1, 1));
        // A node that the client adds itself becomes the one to follow.
        let mut node = 0;
        ok!(cuda, cuGraphAddEmptyNode(
            &mut node => &mut Handle, graph => Handle, tail.as_ptr() => *const Handle,
            1 => usize,
        ));
        ok!(cuda, cuStreamUpdateCaptureDependencies(
            stream => Handle, &node => &Handle, 1 => usize, 1 => u32,
        ));
        assert_eq!(info().2, [node]);
        let (result, ended) = end(cuda, stream);
        assert_eq!((result, ended, nodes(cuda, ended)), (SUCCESS, graph, 2));
    });
}

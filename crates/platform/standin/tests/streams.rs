//! Streams: asynchrony, order, default streams, events, values in memory, what waits for what.

mod support;

use std::{
    ffi::c_void,
    sync::atomic::{AtomicU32, Ordering::SeqCst},
    thread,
    time::Duration,
};

use support::{Cuda, Handle, NOT_READY, SUCCESS, Value::*, client};

const BLOCKING: u32 = 0;
const NON_BLOCKING: u32 = 1;
const LEGACY: Handle = 0;

/// Long enough that something which does not wait would have happened. What does wait passes
/// however slow the machine is.
fn a_while() {
    thread::sleep(Duration::from_millis(50));
}

fn append(cuda: &Cuda, stream: Handle, function: Handle, log: usize, value: u32) {
    assert_eq!(
        cuda.launch(stream, function, &[Address(log), Word(value)]),
        SUCCESS
    );
}

#[test]
fn launches_return_before_the_device_has_executed_them() {
    client(&[], |cuda| {
        cuda.start();
        let (stream, gate) = (cuda.stream(NON_BLOCKING), cuda.word());
        let (place, write) = (cuda.word(), cuda.function("write_u32"));
        cuda.hold(stream, gate, 1);
        let address = place.as_ptr().addr();
        assert_eq!(
            cuda.launch(stream, write, &[Address(address), Word(7)]),
            SUCCESS
        );
        assert_eq!(cuda.query(stream), NOT_READY);
        a_while();
        assert_eq!((cuda.query(stream), place.load(SeqCst)), (NOT_READY, 0));
        cuda.open(gate);
        cuda.synchronize(stream);
        assert_eq!((cuda.query(stream), place.load(SeqCst)), (SUCCESS, 7));
    });
}

#[test]
fn a_stream_executes_in_order() {
    client(&[], |cuda| {
        cuda.start();
        let (stream, log) = (cuda.stream(BLOCKING), cuda.alloc(4096));
        let (fast, slow) = (cuda.function("append_u32"), cuda.function("append_u32_us"));
        for value in 0..200 {
            if value % 10 == 0 {
                let slow = cuda.launch(stream, slow, &[Address(log), Word(value), Word(100)]);
                assert_eq!(slow, SUCCESS);
            } else {
                append(cuda, stream, fast, log, value);
            }
        }
        cuda.synchronize(stream);
        let words = cuda.words(log, 201);
        assert_eq!(words[0], 200);
        assert!(words[1..].iter().copied().eq(0..200));
    });
}

/// Appends 0, 1 and 2 on a stream each, the first of them held until the second is done and `meanwhile` was told of the
/// third. Gives what was appended last.
fn last_of_three(connections: &str, meanwhile: fn(&Cuda, Handle), check: fn(last: u32)) {
    let variables = [
        ("CUDA_DEVICE_MAX_CONNECTIONS", connections),
        ("CUDA_MODULE_LOADING", "EAGER"),
    ];
    client(&variables, |cuda| {
        cuda.start();
        let streams = [(); 3].map(|()| cuda.stream(NON_BLOCKING));
        let (gate, log) = (cuda.word(), cuda.alloc(64));
        let add = cuda.function("append_u32");
        cuda.hold(streams[0], gate, 1);
        for (stream, value) in streams.into_iter().zip(0..) {
            append(cuda, stream, add, log, value);
        }
        cuda.synchronize(streams[1]);
        meanwhile(cuda, streams[2]);
        cuda.open(gate);
        for stream in streams {
            cuda.synchronize(stream);
        }
        check(cuda.words(log, 4)[3]);
    });
}

#[test]
fn streams_that_share_a_connection_wait_for_each_other() {
    let stands = |cuda: &Cuda, third| {
        a_while();
        assert_eq!(cuda.query(third), NOT_READY);
    };
    last_of_three("2", stands, |last| assert_eq!(last, 2));
}

#[test]
fn streams_with_a_connection_each_do_not() {
    let ends = |cuda: &Cuda, third| cuda.synchronize(third);
    last_of_three("32", ends, |last| assert_eq!(last, 0));
}

#[test]
fn the_legacy_stream_and_blocking_streams_wait_for_each_other() {
    client(&[], |cuda| {
        cuda.start();
        let log = cuda.alloc(4096);
        let function = cuda.function("append_u32");
        append(cuda, LEGACY, function, log, 0);
        let (one, other) = (cuda.stream(BLOCKING), cuda.stream(BLOCKING));
        let free = cuda.stream(NON_BLOCKING);
        let gate = cuda.word();
        cuda.hold(one, gate, 1);
        append(cuda, one, function, log, 1);
        append(cuda, LEGACY, function, log, 2);
        append(cuda, other, function, log, 3);
        append(cuda, free, function, log, 9);
        // The non-blocking stream waits for nobody.
        cuda.synchronize(free);
        assert_eq!(cuda.query(LEGACY), NOT_READY);
        assert_eq!(cuda.query(other), NOT_READY);
        cuda.open(gate);
        cuda.synchronize(other);
        assert_eq!(cuda.words(log, 6), [5, 0, 9, 1, 2, 3]);
    });
}

#[test]
fn each_thread_has_its_own_default_stream() {
    client(&[], |cuda| {
        let context = cuda.start();
        let gate = cuda.word();
        let place = cuda.word();
        let write = cuda.function("write_u32");
        let address = place.as_ptr().addr();
        let per_thread = |value| {
            let values = [Address(address), Word(value)];
            cuda.launch_by("cuLaunchKernel_ptsz", 0, write, &values)
        };
        assert_eq!(per_thread(1), SUCCESS);
        ok!(cuda, cuStreamSynchronize_ptsz(0 => Handle));
        ok!(cuda, cuStreamWaitValue32_v2_ptsz(
            0 => Handle, gate.as_ptr().addr() => usize, 1 => u32, 0 => u32,
        ));
        thread::scope(|scope| {
            scope.spawn(|| {
                ok!(cuda, cuCtxSetCurrent(context => Handle));
                assert_eq!(per_thread(2), SUCCESS);
                ok!(cuda, cuStreamSynchronize_ptsz(0 => Handle));
            });
        });
        assert_eq!(place.load(SeqCst), 2);
        assert_eq!(cu!(cuda, cuStreamQuery_ptsz(0 => Handle)), NOT_READY);
        // CU_STREAM_PER_THREAD is the same stream whatever the entry point.
        assert_eq!(cu!(cuda, cuStreamQuery(2 => Handle)), NOT_READY);
        cuda.open(gate);
        ok!(cuda, cuStreamSynchronize(2 => Handle));
    });
}

#[test]
fn events_order_streams_and_measure_device_time_exactly() {
    client(&[], |cuda| {
        cuda.start();
        let (one, other) = (cuda.stream(NON_BLOCKING), cuda.stream(NON_BLOCKING));
        let (log, gate) = (cuda.alloc(64), cuda.word());
        let (spin, function) = (cuda.function("spin_us"), cuda.function("append_u32"));
        append(cuda, one, function, log, 0);
        assert_eq!(cuda.launch(one, spin, &[Word(1)]), SUCCESS);
        cuda.synchronize(one);
        let (before, after, joined) = (cuda.event(), cuda.event(), cuda.event());
        cuda.hold(one, gate, 1);
        assert_eq!(cuda.record(before, one), SUCCESS);
        assert_eq!(cuda.launch(one, spin, &[Word(5_000)]), SUCCESS);
        assert_eq!(cuda.launch(one, spin, &[Word(2_500)]), SUCCESS);
        assert_eq!(cuda.record(after, one), SUCCESS);
        append(cuda, one, function, log, 1);
        assert_eq!(cuda.record(joined, one), SUCCESS);
        ok!(cuda, cuStreamWaitEvent(other => Handle, joined => Handle, 0 => u32));
        append(cuda, other, function, log, 2);
        assert_eq!(cu!(cuda, cuEventQuery(joined => Handle)), NOT_READY);
        cuda.open(gate);
        ok!(cuda, cuEventSynchronize(after => Handle));
        assert!((cuda.elapsed(before, after) - 7.5).abs() < 1e-3);
        cuda.synchronize(other);
        assert_eq!(cuda.words(log, 4), [3, 0, 1, 2]);
    });
}

#[test]
fn values_in_memory_are_written_and_waited_for() {
    client(&[], |cuda| {
        cuda.start();
        let stream = cuda.stream(NON_BLOCKING);
        let (narrow, wide) = (cuda.word(), cuda.wide_word());
        let (narrow_at, wide_at) = (narrow.as_ptr().addr(), wide.as_ptr().addr());
        // (flags, value waited for, a word that does not do, a word that does)
        for (flags, value, not_yet, then) in [
            (0, 5, 4, 6),
            (0, 5, 5_u32.wrapping_sub(1 << 31), 5),
            (1, 5, 6, 5),
            (2, 0b110, 0b001, 0b010),
            (3, !0b100, 0b100, 0b011),
        ] {
            narrow.store(not_yet, SeqCst);
            wide.store(0, SeqCst);
            ok!(cuda, cuStreamWaitValue32_v2(
                stream => Handle, narrow_at => usize, value => u32, flags => u32,
            ));
            ok!(cuda, cuStreamWriteValue64_v2(
                stream => Handle, wide_at => usize, u64::MAX - 1 => u64, 0 => u32,
            ));
            a_while();
            assert_eq!((cuda.query(stream), wide.load(SeqCst)), (NOT_READY, 0));
            narrow.store(then, SeqCst);
            cuda.synchronize(stream);
            assert_eq!(wide.load(SeqCst), u64::MAX - 1);
        }
        ok!(cuda, cuStreamWaitValue64_v2(
            stream => Handle, wide_at => usize, 1 << 40 => u64, 1 => u32,
        ));
        ok!(cuda, cuStreamWriteValue32_v2(
            stream => Handle, narrow_at => usize, 77 => u32, 0 => u32,
        ));
        a_while();
        assert_eq!(narrow.load(SeqCst), 0b011);
        wide.store(1 << 40, SeqCst);
        cuda.synchronize(stream);
        assert_eq!(narrow.load(SeqCst), 77);
        // Memory that the device cannot reach, and a crooked address.
        let unknown = Box::new(AtomicU32::new(0));
        for address in [unknown.as_ptr().addr(), narrow_at + 2] {
            let result = cu!(cuda, cuStreamWaitValue32_v2(
                stream => Handle, address => usize, 1 => u32, 0 => u32,
            ));
            assert_eq!(result, support::INVALID_VALUE);
        }
    });
}

#[test]
fn copies_and_fills_move_bytes() {
    client(&[], |cuda| {
        cuda.start();
        let (stream, gate) = (cuda.stream(NON_BLOCKING), cuda.word());
        let (here, there) = (cuda.alloc(64), cuda.alloc(64));
        let mut bytes: Vec<u8> = (0..64).collect();
        cuda.hold(stream, gate, 1);
        // Pageable memory is taken at the call: changing it later changes nothing.
        ok!(cuda, cuMemcpyHtoDAsync_v2(
            here => usize, bytes.as_ptr() => *const u8, 64 => usize, stream => Handle,
        ));
        bytes.fill(0xff);
        ok!(cuda, cuMemcpyDtoDAsync_v2(
            there => usize, here => usize, 32 => usize, stream => Handle,
        ));
        ok!(cuda, cuMemsetD16Async(
            there + 32 => usize, 0x0201 => u16, 4 => usize, stream => Handle,
        ));
        assert_eq!(cuda.query(stream), NOT_READY);
        cuda.open(gate);
        // Into pageable memory: returns when the bytes are there.
        ok!(cuda, cuMemcpyDtoHAsync_v2(
            bytes.as_mut_ptr() => *mut u8, there => usize, 64 => usize, stream => Handle,
        ));
        assert!(bytes[..32].iter().copied().eq(0..32));
        assert_eq!(bytes[32..41], [1, 2, 1, 2, 1, 2, 1, 2, 0]);
        let refused = cu!(cuda, cuMemcpyHtoD_v2(
            here + 60 => usize, bytes.as_ptr() => *const u8, 8 => usize,
        ));
        assert_eq!(refused, support::INVALID_VALUE);
    });
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Side {
    x: usize,
    y: usize,
    kind: u32,
    host: usize,
    device: usize,
    array: usize,
    pitch: usize,
}

#[repr(C)]
#[derive(Default)]
struct Copy2d {
    from: Side,
    to: Side,
    width: usize,
    height: usize,
}

#[test]
fn rows_are_copied_with_their_pitches() {
    client(&[], |cuda| {
        cuda.start();
        let device = cuda.alloc(64);
        let bytes: Vec<u8> = (0..16).collect();
        let copy = Copy2d {
            from: Side {
                x: 1,
                y: 1,
                kind: 1,
                host: bytes.as_ptr().addr(),
                pitch: 4,
                ..Side::default()
            },
            to: Side {
                kind: 2,
                device,
                pitch: 8,
                ..Side::default()
            },
            width: 2,
            height: 3,
        };
        ok!(cuda, cuMemcpy2D_v2(&copy => &Copy2d));
        let expected = [0x0605, 0, 0x0a09, 0, 0x0e0d, 0];
        assert_eq!(cuda.words(device, 6), expected);
    });
}

/// What the host function saw: calls, and the result of an API call inside it.
static CALLS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(data: *mut c_void) {
    CALLS.fetch_add(u32::try_from(data.addr()).unwrap(), SeqCst);
}

#[test]
fn host_functions_run_in_the_streams_order() {
    client(&[], |cuda| {
        cuda.start();
        let (stream, gate) = (cuda.stream(NON_BLOCKING), cuda.word());
        cuda.hold(stream, gate, 1);
        for data in [1, 10] {
            ok!(cuda, cuLaunchHostFunc(
                stream => Handle, count => extern "C" fn(*mut c_void), data => usize,
            ));
        }
        a_while();
        assert_eq!(CALLS.load(SeqCst), 0);
        cuda.open(gate);
        cuda.synchronize(stream);
        assert_eq!(CALLS.load(SeqCst), 11);
    });
}

#[test]
fn a_full_stream_makes_the_next_launch_wait() {
    client(&[], |cuda| {
        let context = cuda.start();
        let (stream, other) = (cuda.stream(NON_BLOCKING), cuda.stream(NON_BLOCKING));
        let (gate, place) = (cuda.word(), cuda.word());
        let add = cuda.function("add_u32");
        let address = place.as_ptr().addr();
        let launch = |stream| {
            assert_eq!(
                cuda.launch(stream, add, &[Address(address), Word(1)]),
                SUCCESS
            );
        };
        launch(other);
        cuda.synchronize(other);
        cuda.hold(stream, gate, 1);
        let submitted = AtomicU32::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                ok!(cuda, cuCtxSetCurrent(context => Handle));
                for _ in 0..1_200 {
                    launch(stream);
                    submitted.fetch_add(1, SeqCst);
                }
            });
            while submitted.load(SeqCst) < 999 {
                thread::yield_now();
            }
            a_while();
            assert_eq!(
                submitted.load(SeqCst),
                999,
                "the wait is the first of 1,000"
            );
            // Another stream has room.
            launch(other);
            cuda.open(gate);
        });
        cuda.synchronize(stream);
        cuda.synchronize(other);
        assert_eq!(place.load(SeqCst), 1_202);
    });
}

/// Starts `call` while a stream is held, and expects it to return only after the stream is let go.
fn waits_for_the_context(prepare: fn(&Cuda) -> usize, call: fn(&Cuda, usize)) {
    client(&[("CUDA_MODULE_LOADING", "LAZY")], |cuda| {
        let context = cuda.start();
        let (stream, gate) = (cuda.stream(NON_BLOCKING), cuda.word());
        let argument = prepare(cuda);
        cuda.hold(stream, gate, 1);
        let returned = AtomicU32::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                ok!(cuda, cuCtxSetCurrent(context => Handle));
                call(cuda, argument);
                returned.store(1, SeqCst);
            });
            a_while();
            assert_eq!(returned.load(SeqCst), 0, "it did not wait");
            cuda.open(gate);
        });
        assert_eq!(returned.load(SeqCst), 1);
    });
}

#[test]
fn the_first_launch_of_a_function_waits_for_the_context() {
    waits_for_the_context(
        |cuda| cuda.function("spin_us"),
        |cuda, function| assert_eq!(cuda.launch(LEGACY, function, &[Word(1)]), SUCCESS),
    );
}

#[test]
fn eager_loading_makes_the_first_launch_a_launch_like_any() {
    client(&[("CUDA_MODULE_LOADING", "EAGER")], |cuda| {
        cuda.start();
        let (stream, gate) = (cuda.stream(NON_BLOCKING), cuda.word());
        let function = cuda.function("spin_us");
        cuda.hold(stream, gate, 1);
        assert_eq!(cuda.launch(stream, function, &[Word(1)]), SUCCESS);
        assert_eq!(cuda.query(stream), NOT_READY);
        cuda.open(gate);
        cuda.synchronize(stream);
    });
}

#[test]
fn freeing_memory_waits_for_the_context() {
    waits_for_the_context(
        |cuda| cuda.alloc(16),
        |cuda, address| ok!(cuda, cuMemFree_v2(address => usize)),
    );
}

#[test]
fn creating_a_stream_waits_for_the_context() {
    waits_for_the_context(
        |_| 0,
        |cuda, _| {
            cuda.stream(NON_BLOCKING);
        },
    );
}

#[test]
fn memory_of_a_stream_is_freed_in_its_order() {
    client(&[("STANDIN_MEMORY_MIB", "1")], |cuda| {
        cuda.start();
        let (stream, gate) = (cuda.stream(NON_BLOCKING), cuda.word());
        let write = cuda.function("write_u32");
        let (mut address, mut whole) = (0, 0);
        ok!(cuda, cuMemAllocAsync(
            &mut address => &mut usize, 1 << 20 => usize, stream => Handle,
        ));
        let too_much = cu!(cuda, cuMemAlloc_v2(&mut whole => &mut usize, 1 => usize));
        assert_eq!(too_much, 2, "CUDA_ERROR_OUT_OF_MEMORY");
        assert_eq!(
            cuda.launch(stream, write, &[Address(address), Word(1)]),
            SUCCESS
        );
        cuda.hold(stream, gate, 1);
        assert_eq!(
            cuda.launch(stream, write, &[Address(address), Word(2)]),
            SUCCESS
        );
        ok!(cuda, cuMemFreeAsync(address => usize, stream => Handle));
        let mut free = 0;
        ok!(cuda, cuMemGetInfo_v2(&mut free => &mut usize, &mut whole => &mut usize));
        assert_eq!((free, whole), (1 << 20, 1 << 20));
        cuda.open(gate);
        cuda.synchronize(stream);
    });
}

#[test]
fn launch_blocking_makes_launches_wait() {
    client(&[("CUDA_LAUNCH_BLOCKING", "1")], |cuda| {
        cuda.start();
        let (stream, place) = (cuda.stream(NON_BLOCKING), cuda.word());
        let write = cuda.function("write_u32_us");
        let values = [Address(place.as_ptr().addr()), Word(3), Word(20_000)];
        assert_eq!(cuda.launch(stream, write, &values), SUCCESS);
        assert_eq!(place.load(SeqCst), 3);
    });
}

#[test]
fn an_urgent_stream_gets_the_device_first() {
    client(&[], |cuda| {
        cuda.start();
        let mut streams = [0; 2];
        for (stream, priority) in streams.iter_mut().zip([0, -5]) {
            ok!(cuda, cuStreamCreateWithPriority(
                stream => &mut Handle, NON_BLOCKING => u32, priority => i32,
            ));
        }
        let (log, gate) = (cuda.alloc(64), cuda.word());
        let function = cuda.function("append_u32");
        append(cuda, LEGACY, function, log, 0);
        cuda.synchronize(LEGACY);
        // Both streams become ready behind one event.
        let (holder, event) = (cuda.stream(NON_BLOCKING), cuda.event());
        cuda.hold(holder, gate, 1);
        assert_eq!(cuda.record(event, holder), SUCCESS);
        for stream in streams {
            ok!(cuda, cuStreamWaitEvent(stream => Handle, event => Handle, 0 => u32));
        }
        for value in 1..4 {
            append(cuda, streams[0], function, log, value);
            append(cuda, streams[1], function, log, 10 + value);
        }
        cuda.open(gate);
        cuda.synchronize(streams[0]);
        cuda.synchronize(streams[1]);
        assert_eq!(cuda.words(log, 8), [7, 0, 11, 12, 13, 1, 2, 3]);
    });
}

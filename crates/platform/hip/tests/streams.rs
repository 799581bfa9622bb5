//! Streams of every kind on every device are scheduled, by the default level 1 window and by gates in
//! the stream, and captures are what they were.

mod common;

use std::{collections::BTreeSet, sync::atomic::Ordering::SeqCst, thread, time::Duration};

use common::{
    Gated, Handle, Hip, INVALID_DEVICE, NON_BLOCKING, PER_THREAD, SUCCESS,
    Value::{Address, Word},
    observed, preloaded, runtime,
    shared::{LOCAL, View, a_moment, said, support, text, until},
    shim, shimmed, shimmed_saying, value,
};

const LEVEL_1: (&str, &str) = ("XSCHED_AUTO_XQUEUE_LEVEL", "1");
const LEVEL_2: (&str, &str) = ("XSCHED_AUTO_XQUEUE_LEVEL", "2");
const NOT_READY: i32 = 600;
const WINDOW: u64 = 4;
const KERNELS: u32 = 12;

/// Waits for the stream; what it executed is in the order of submission.
fn end_of(hip: &Hip, stream: Handle, list: usize) {
    hip.synchronize(stream);
    let mut words = [0_u32; 1 + KERNELS as usize];
    let bytes = size_of_val(&words);
    ok!(hip, hipMemcpyDtoH(words.as_mut_ptr() => *mut u32, list => usize, bytes => usize));
    let expected: Vec<_> = (0..KERNELS).collect();
    assert_eq!((words[0], &words[1..]), (KERNELS, &expected[..]));
}

/// The user's trials: work on the default stream went past the scheduler, and arguments were copied
/// for a later launch by another thread.
#[test]
fn every_kind_of_stream_the_default_one_included_keeps_to_the_window() {
    let window = [
        LOCAL,
        LEVEL_1,
        ("XSCHED_AUTO_XQUEUE_THRESHOLD", "4"),
        ("XSCHED_AUTO_XQUEUE_BATCH_SIZE", "2"),
    ];
    shimmed(&window, |hip| {
        for stream in [0, PER_THREAD, hip.stream(NON_BLOCKING)] {
            thread::scope(|scope| {
                let (tell, hear) = std::sync::mpsc::channel();
                // A per-thread stream is its thread's, so that thread launches in all cases.
                let (end, list) = (hip.word(), hip.alloc(256));
                ok!(hip, hipMemset(list => usize, 0 => i32, 256 => usize));
                ok!(hip, hipDeviceSynchronize());
                let functions = (hip.function("until_u32"), hip.function("append_u32"));
                scope.spawn(move || {
                    let gated = Gated::stream(hip, stream);
                    let before = gated.block.forwarded_count();
                    tell.send((gated.block, before)).unwrap();
                    let first = [Address(end.as_ptr().addr()), Word(1)];
                    assert_eq!(hip.launch(stream, functions.0, &first), SUCCESS);
                    for number in 0..KERNELS {
                        // The argument is this thread's again as soon as the call returns.
                        let values = [Address(list), Word(number)];
                        assert_eq!(hip.launch(stream, functions.1, &values), SUCCESS);
                    }
                    end_of(hip, stream, list);
                });
                let (block, before) = hear.recv().unwrap();
                until("a launch waits for room", || block.waiting() == 1);
                a_moment();
                assert_eq!(block.waiting(), 1, "it goes on waiting");
                let in_flight = block.forwarded_count() - before;
                assert!((1..=WINDOW).contains(&in_flight), "{in_flight} in flight");
                end.store(1, SeqCst);
            });
        }
    });
}

/// One command on the stream is held by its gate and released.
fn is_held_and_released(hip: &Hip, stream: Handle) -> u16 {
    let (gated, place) = (Gated::stream(hip, stream), hip.word());
    gated.close();
    hip.write(stream, place, 1);
    a_moment();
    let query = cu!(hip, hipStreamQuery(stream => Handle));
    assert_eq!((query, value(place)), (NOT_READY, 0));
    gated.open();
    hip.synchronize(stream);
    assert_eq!(value(place), 1);
    gated.slot
}

#[test]
fn gates_in_signal_memory_hold_every_kind_of_stream_on_every_device() {
    shimmed(&[LOCAL, ("STANDIN_DEVICES", "2")], |hip| {
        let mut queues = BTreeSet::new();
        for device in [0, 1, 0] {
            assert_eq!(hip.set_device(device), SUCCESS);
            let streams = [0, PER_THREAD, hip.stream(0), hip.stream(NON_BLOCKING)];
            for stream in streams {
                queues.insert(is_held_and_released(hip, stream));
                assert_eq!(hip.device(), device, "the thread's device is its own");
            }
        }
        // Default streams of a device stay what they are.
        assert_eq!(queues.len(), 4 + 4 + 2);
    });
}

/// The user's trials: `invalid device ordinal`, since a thread of the scheduler's launched on the
/// device that it happened to have.
#[test]
fn a_stream_of_another_device_is_scheduled_and_no_threads_device_changes() {
    shimmed(&[LOCAL, ("STANDIN_DEVICES", "3")], |hip| {
        assert_eq!(hip.set_device(2), SUCCESS);
        let stream = hip.stream(NON_BLOCKING);
        assert_eq!(hip.set_device(1), SUCCESS);
        is_held_and_released(hip, stream);
        assert_eq!(hip.device(), 1);
        thread::scope(|scope| {
            scope.spawn(|| {
                is_held_and_released(hip, stream);
                assert_eq!(hip.device(), 0, "a new thread has the first device");
            });
        });
        assert_eq!(hip.device(), 1);
    });
}

#[test]
fn a_device_out_of_range_is_the_applications_error() {
    let said = Some("asked for device 2, which the runtime does not have");
    shimmed_saying(said, &[LOCAL, ("STANDIN_DEVICES", "2")], |hip| {
        is_held_and_released(hip, 0);
        for device in [2, -1, i32::MAX] {
            assert_eq!(hip.set_device(device), INVALID_DEVICE);
            assert_eq!(cu!(hip, hipGetLastError()), INVALID_DEVICE);
            assert_eq!(hip.device(), 0);
        }
        is_held_and_released(hip, 0);
    });
}

type RegisterFunction = extern "C" fn(usize, usize, *const i8, *const i8, u32);

/// The user's trials: `invalid device function`, from launches in the wrong context.
#[test]
fn registered_functions_launch_in_place_on_every_device_from_every_thread() {
    shimmed(&[LOCAL, ("STANDIN_DEVICES", "2")], |hip| {
        static KERNEL: u8 = 0;
        let host = std::ptr::from_ref(&KERNEL).addr();
        let register: RegisterFunction = hip.symbol("__hipRegisterFunction");
        let name = c"add_u32".as_ptr();
        register(0, host, name, name, 0);
        let place = hip.word();
        let launch = |host: usize| {
            let (address, one) = (place.as_ptr().addr(), 1_u32);
            let pointers = [
                std::ptr::from_ref(&address).cast::<u8>(),
                std::ptr::from_ref(&one).cast(),
            ];
            let dim = common::Dim3([1; 3]);
            cu!(hip, hipLaunchKernel(
                host => usize, dim => common::Dim3, dim => common::Dim3,
                pointers.as_ptr() => *const *const u8, 0 => usize, 0 => Handle,
            ))
        };
        thread::scope(|scope| {
            for device in [0, 1, 0, 1] {
                let launch = &launch;
                scope.spawn(move || {
                    assert_eq!(hip.set_device(device), SUCCESS);
                    for _ in 0..50 {
                        assert_eq!(launch(host), SUCCESS);
                    }
                    hip.synchronize(0);
                    assert_eq!(hip.device(), device);
                });
            }
        });
        assert_eq!(value(place), 200);
        assert_eq!(launch(host + 1), 98, "the runtime's own answer");
    });
}

/// `hipLaunchParams`.
#[repr(C)]
struct LaunchParams {
    function: usize,
    dimensions: [u32; 6],
    parameters: *const *const u8,
    shared: usize,
    stream: Handle,
}

#[test]
fn a_launch_on_several_devices_is_held_by_each_of_its_streams() {
    shimmed(&[LOCAL, ("STANDIN_DEVICES", "2")], |hip| {
        static KERNEL: u8 = 0;
        let host = std::ptr::from_ref(&KERNEL).addr();
        let register: RegisterFunction = hip.symbol("__hipRegisterFunction");
        let name = c"add_u32".as_ptr();
        register(0, host, name, name, 0);
        let place = hip.word();
        let gated = [0, 1].map(|device| {
            assert_eq!(hip.set_device(device), SUCCESS);
            Gated::stream(hip, hip.stream(NON_BLOCKING))
        });
        gated.iter().for_each(Gated::close);
        let (address, one) = (place.as_ptr().addr(), 1_u32);
        let pointers = [
            std::ptr::from_ref(&address).cast::<u8>(),
            std::ptr::from_ref(&one).cast(),
        ];
        let list = gated.each_ref().map(|gated| LaunchParams {
            function: host,
            dimensions: [1; 6],
            parameters: pointers.as_ptr(),
            shared: 0,
            stream: gated.stream,
        });
        ok!(hip, hipLaunchCooperativeKernelMultiDevice(
            list.as_ptr() => *const LaunchParams, 2 => i32, 0 => u32,
        ));
        a_moment();
        assert_eq!(value(place), 0);
        gated.iter().for_each(Gated::open);
        for gated in &gated {
            hip.synchronize(gated.stream);
        }
        assert_eq!(value(place), 2);
        assert_eq!(hip.device(), 1);
    });
}

#[test]
fn a_bundled_runtime_is_found_by_its_file() {
    if support::role().is_none() {
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("libamdhip64-0123abcd.so");
        std::fs::copy(runtime(), &copy).unwrap();
        let shim = shim();
        let variables = preloaded(&shim, &[LOCAL, ("COPY", copy.to_str().unwrap())]);
        let output = observed(&variables, |_| ()).expect("the test itself");
        assert!(output.status.success(), "{}", text(&output));
        said(&output, None);
        return;
    }
    support::end_if_stuck();
    let hip = Hip::load_from(&common::told("COPY"));
    is_held_and_released(&hip, 0);
}

#[test]
fn without_a_scheduler_nothing_is_held() {
    shimmed(&[("XSCHED_DISABLE", "1")], |hip| {
        let place = hip.word();
        for number in 1..100 {
            hip.write(0, place, number);
        }
        hip.synchronize(0);
        assert_eq!(value(place), 99);
        assert!(View::own().is_none());
    });
}

// ---- captures, graphs, events ----

#[test]
fn a_capture_is_legal_in_every_mode_and_its_graph_is_held() {
    shimmed(&[LOCAL, LEVEL_2], |hip| {
        let busy = Gated::stream(hip, hip.stream(NON_BLOCKING));
        for mode in [0, 1, 2] {
            let (stream, place) = (hip.stream(NON_BLOCKING), hip.word());
            let gated = Gated::stream(hip, stream);
            let add = hip.function("add_u32");
            ok!(hip, hipStreamBeginCapture(stream => Handle, mode => u32));
            for _ in 0..10 {
                let values = [Address(place.as_ptr().addr()), Word(1)];
                assert_eq!(hip.launch(stream, add, &values), SUCCESS);
            }
            // The agent asks whether busy streams are over; that must not spoil the capture.
            let other = hip.launch(busy.stream, add, &[Address(place.as_ptr().addr()), Word(0)]);
            assert_eq!(other, SUCCESS);
            a_moment();
            let (mut graph, mut executable) = (0, 0);
            ok!(hip, hipStreamEndCapture(stream => Handle, &mut graph => &mut Handle));
            ok!(hip, hipGraphInstantiate(
                &mut executable => &mut Handle, graph => Handle, 0 => usize, 0 => usize, 0 => usize,
            ));
            // Its work is over for the scheduler, too: nothing waits for what will be held.
            hip.synchronize(busy.stream);
            until("idle", || busy.is_idle());
            gated.close();
            ok!(hip, hipGraphLaunch(executable => Handle, stream => Handle));
            a_moment();
            assert_eq!(value(place), 0, "the graph is held");
            gated.open();
            hip.synchronize(stream);
            assert_eq!(value(place), 10);
            assert!(gated.is_idle());
        }
    });
}

#[test]
fn a_capture_goes_on_when_its_end_fails() {
    shimmed(&[LOCAL, LEVEL_2], |hip| {
        let (gated, add) = (
            Gated::stream(hip, hip.stream(NON_BLOCKING)),
            hip.function("add_u32"),
        );
        let (place, member) = (hip.word(), hip.stream(NON_BLOCKING));
        let values = [Address(place.as_ptr().addr()), Word(1)];
        let end = |stream, graph: &mut Handle| cu!(hip, hipStreamEndCapture(stream => Handle, graph => &mut Handle));
        let (mut graph, mut executable, mut event) = (0, 0, 0);
        ok!(hip, hipEventCreate(&mut event => &mut Handle));
        assert_eq!(hip.launch(gated.stream, add, &values), SUCCESS);
        hip.synchronize(gated.stream);
        let submitted = || gated.block.state().submitted();
        let before = submitted();

        ok!(hip, hipStreamBeginCapture(gated.stream => Handle, 0 => u32));
        let by_another = thread::scope(|scope| {
            let ending = scope.spawn(|| end(gated.stream, &mut 0));
            ending.join().unwrap()
        });
        assert_ne!(by_another, SUCCESS);
        assert_eq!(hip.launch(gated.stream, add, &values), SUCCESS);
        assert_eq!(submitted(), before, "it is captured");
        assert_eq!(end(gated.stream, &mut graph), SUCCESS);
        ok!(hip, hipGraphInstantiate(
            &mut executable => &mut Handle, graph => Handle, 0 => usize, 0 => usize, 0 => usize,
        ));
        ok!(hip, hipGraphLaunch(executable => Handle, gated.stream => Handle));
        hip.synchronize(gated.stream);
        assert_eq!((value(place), submitted()), (2, before + 1));

        ok!(hip, hipStreamBeginCapture(gated.stream => Handle, 0 => u32));
        ok!(hip, hipEventRecord(event => Handle, gated.stream => Handle));
        ok!(hip, hipStreamWaitEvent(member => Handle, event => Handle, 0 => u32));
        assert_ne!(end(member, &mut graph), SUCCESS);
        assert_ne!(
            hip.launch(gated.stream, add, &values),
            SUCCESS,
            "it is spoiled"
        );
        assert_eq!(submitted(), before + 1, "it is not over");
        assert_ne!(end(gated.stream, &mut graph), SUCCESS);
        // The agent asks again.
        assert_eq!(hip.launch(gated.stream, add, &values), SUCCESS);
        until("idle", || gated.is_idle());
    });
}

#[test]
fn a_wait_for_an_event_ends_a_queues_work_at_once() {
    shimmed(&[LOCAL], |hip| {
        let gated = Gated::stream(hip, 0);
        let (place, mut event) = (hip.word(), 0);
        ok!(hip, hipEventCreate(&mut event => &mut Handle));
        for number in 1..20 {
            hip.write(0, place, number);
            ok!(hip, hipEventRecord(event => Handle, 0 => Handle));
            ok!(hip, hipEventSynchronize(event => Handle));
            assert_eq!((value(place), gated.is_idle()), (number, true));
        }
    });
}

#[test]
fn what_a_thread_does_not_wait_for_on_its_own_default_stream_is_found_idle() {
    fn is_found_idle(hip: &Hip) {
        let gated = Gated::stream(hip, PER_THREAD);
        let (place, until_equal) = (hip.word(), hip.function("until_u32"));
        for number in 1..4 {
            let values = [Address(place.as_ptr().addr()), Word(number)];
            assert_eq!(hip.launch(PER_THREAD, until_equal, &values), SUCCESS);
            // Longer than the agent goes without a look.
            thread::sleep(Duration::from_millis(300));
            assert!(!gated.is_idle(), "it executes");
            place.store(number, SeqCst);
            until("idle", || gated.is_idle());
        }
    }
    shimmed(&[LOCAL], |hip| {
        // What a thread leaves serves the next one, until the device is reset.
        for is_reset in [false, false, true] {
            if is_reset {
                ok!(hip, hipDeviceReset());
            }
            thread::scope(|scope| scope.spawn(|| is_found_idle(hip)).join().unwrap());
        }
    });
}

#[test]
fn an_event_proves_nothing_of_a_command_that_is_on_its_way_to_the_runtime() {
    shimmed(&[LOCAL, LEVEL_1], |hip| {
        let (gated, place, mut event) = (Gated::stream(hip, 0), hip.word(), 0);
        let until_equal = hip.function("until_u32");
        let values = [Address(place.as_ptr().addr()), Word(0)];
        assert_eq!(hip.launch(0, until_equal, &values), SUCCESS);
        hip.synchronize(0);
        ok!(hip, hipEventCreate(&mut event => &mut Handle));
        gated.close();
        thread::scope(|scope| {
            scope.spawn(|| {
                let values = [Address(place.as_ptr().addr()), Word(1)];
                assert_eq!(hip.launch(0, until_equal, &values), SUCCESS);
            });
            until("the launch waits", || gated.block.waiting() == 1);
            ok!(hip, hipEventRecord(event => Handle, 0 => Handle));
            gated.open();
        });
        // The event stands before the command, which executes.
        ok!(hip, hipEventSynchronize(event => Handle));
        assert!(!gated.is_idle());
        place.store(1, SeqCst);
        hip.synchronize(0);
        assert!(gated.is_idle());
    });
}

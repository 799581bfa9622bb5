//! Several task groups in one process: they share locks, channels and implicit synchronization, and
//! none blocks another for good.

mod common;

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use common::{
    Daemon, Gated, LEGACY, LOCAL, NO_RUN, NON_BLOCKING, PER_THREAD, View, a_moment, preloaded,
    scene, set_priority, shim, shimmed,
    support::{self, Cuda, Handle, NOT_READY, Peer, SUCCESS, Value::*},
    until, value, write,
};

#[test]
fn blocking_streams_are_one_group_with_the_legacy_stream() {
    shimmed(&[LOCAL], |cuda| {
        cuda.start();
        let blocking = Gated::stream(cuda, cuda.stream(0));
        let legacy = Gated::stream(cuda, LEGACY);
        let of_thread = Gated::stream(cuda, PER_THREAD);
        let own = Gated::stream(cuda, cuda.stream(NON_BLOCKING));
        assert_eq!(set_priority(own.stream, 5), 0);
        for one in [&blocking, &legacy, &of_thread] {
            one.close();
            for other in [&blocking, &legacy, &of_thread] {
                until("all of them close", || !other.block.is_open());
            }
            assert!(own.block.is_open(), "a group of its own");
            one.open();
        }
        own.close();
        a_moment();
        assert!(blocking.block.is_open() && legacy.block.is_open() && of_thread.block.is_open());
    });
}

/// An open stream, and one of another group that is held with a command behind its gate. Gives
/// the open one, the held one, and the word that the held command sets to 1.
fn one_open_one_held(cuda: &Cuda) -> (Gated<'_>, Gated<'_>, &'static AtomicU32) {
    let open = Gated::stream(cuda, cuda.stream(NON_BLOCKING));
    let held = Gated::stream(cuda, cuda.stream(NON_BLOCKING));
    assert_eq!(set_priority(open.stream, 5), 0);
    let place = cuda.word();
    hold(cuda, &held, place);
    (open, held, place)
}

/// Closes the gate of a stream without work and puts a command behind it. Loading its code is a call
/// that waits for the whole context, so what stood there before would get through.
fn hold(cuda: &Cuda, held: &Gated<'_>, place: &AtomicU32) {
    place.store(0, SeqCst);
    held.close();
    write(cuda, held.stream, place, 1);
    a_moment();
    assert_eq!((cuda.query(held.stream), value(place)), (NOT_READY, 0));
}

type Call = (&'static str, fn(&Cuda, [usize; 4]));

/// Calls that wait for everything in the context, with what they take.
const CONTEXT_WIDE: &[Call] = &[
    ("cuCtxSynchronize", |cuda, _| ok!(cuda, cuCtxSynchronize())),
    ("cuMemFree", |cuda, [memory, ..]| {
        ok!(cuda, cuMemFree_v2(memory => usize));
    }),
    ("cuMemFreeHost", |cuda, [_, host, ..]| {
        ok!(cuda, cuMemFreeHost(host => usize));
    }),
    ("cuMemHostUnregister", |cuda, [_, _, word, _]| {
        ok!(cuda, cuMemHostUnregister(word => usize));
    }),
    ("cuModuleUnload", |cuda, [.., module]| {
        ok!(cuda, cuModuleUnload(module => Handle));
    }),
    ("cuStreamCreate", |cuda, _| {
        cuda.stream(NON_BLOCKING);
    }),
];

#[test]
fn a_call_that_waits_for_the_context_opens_what_it_waits_for() {
    shimmed(&[LOCAL], |cuda| {
        cuda.start();
        let memory = cuda.alloc(64);
        let (mut host, mut module) = (0, 0);
        ok!(cuda, cuMemAllocHost_v2(&mut host => &mut usize, 64 => usize));
        ok!(cuda, cuModuleLoadData(&mut module => &mut Handle, c"".as_ptr() => *const i8));
        let word = cuda.word().as_ptr().addr();
        let (_open, held, place) = one_open_one_held(cuda);
        for (name, call) in CONTEXT_WIDE {
            call(cuda, [memory, host, word, module]);
            until(name, || value(place) == 1);
            until("closed again", || !held.block.is_open());
            held.open();
            cuda.synchronize(held.stream);
            hold(cuda, &held, place);
        }
    });
}

#[test]
fn a_first_launch_that_loads_code_gets_through() {
    shimmed(&[LOCAL, ("CUDA_MODULE_LOADING", "LAZY")], |cuda| {
        cuda.start();
        let open = Gated::stream(cuda, cuda.stream(NON_BLOCKING));
        let held = Gated::stream(cuda, cuda.stream(NON_BLOCKING));
        assert_eq!(set_priority(open.stream, 5), 0);
        let (known, fresh) = (cuda.function("add_u32"), cuda.function("add_u32"));
        let add = |stream, function, place: &AtomicU32| {
            let values = [Address(place.as_ptr().addr()), Word(1)];
            assert_eq!(cuda.launch(stream, function, &values), SUCCESS);
        };
        let (place, own) = (cuda.word(), cuda.word());
        add(held.stream, known, place);
        cuda.synchronize(held.stream);
        held.close();
        add(held.stream, known, place);
        // This launch itself waits for the whole context, and nobody was told.
        add(open.stream, fresh, own);
        cuda.synchronize(open.stream);
        assert_eq!((value(own), value(place)), (1, 2));
    });
}

#[test]
fn a_stream_that_waits_for_a_held_one_gets_through() {
    shimmed(&[LOCAL], |cuda| {
        cuda.start();
        let (open, held, place) = one_open_one_held(cuda);
        let event = cuda.event();
        assert_eq!(cuda.record(event, held.stream), SUCCESS);
        ok!(cuda, cuStreamWaitEvent(open.stream => Handle, event => Handle, 0 => u32));
        let own = cuda.word();
        write(cuda, open.stream, own, 1);
        cuda.synchronize(open.stream);
        assert_eq!((value(own), value(place)), (1, 1));
        until("closed again", || !held.block.is_open());
    });
}

#[test]
fn so_does_one_behind_it_in_a_hardware_connection() {
    shimmed(&[LOCAL, ("CUDA_DEVICE_MAX_CONNECTIONS", "1")], |cuda| {
        cuda.start();
        let (open, held, place) = one_open_one_held(cuda);
        let own = cuda.word();
        write(cuda, open.stream, own, 1);
        cuda.synchronize(open.stream);
        // What stood before it has run as well.
        assert_eq!((value(own), value(place)), (1, 1));
        until("closed again", || !held.block.is_open());
    });
}

/// A client of a daemon whose first stream is held, and whose second then waits for it.
fn waiting() {
    let cuda = Cuda::load();
    cuda.start();
    let streams = [cuda.stream(NON_BLOCKING), cuda.stream(NON_BLOCKING)];
    let (place, own, event) = (cuda.word(), cuda.word(), cuda.event());
    for stream in streams {
        write(&cuda, stream, place, 0);
        cuda.synchronize(stream);
    }
    println!("ready");
    support::listen();
    let view = View::own().unwrap();
    until("the gate is closed", || !view.first().is_open());
    write(&cuda, streams[0], place, 1);
    assert_eq!(cuda.record(event, streams[0]), SUCCESS);
    ok!(cuda, cuStreamWaitEvent(streams[1] => Handle, event => Handle, 0 => u32));
    write(&cuda, streams[1], own, 1);
    cuda.synchronize(streams[1]);
    assert_eq!((value(own), value(place)), (1, 1));
}

#[test]
fn so_does_one_of_a_group_that_the_daemon_alone_has_parted() {
    scene(&[("client", waiting)], || {
        let daemon = Daemon::start();
        let mut peer = Peer::start("client", &preloaded(&shim(), &[daemon.variable()]));
        peer.expect("ready");
        until("the daemon has both queues", || daemon.queues().len() == 2);
        let queues = daemon.queues();
        daemon.hint(queues.iter().min_by_key(|queue| queue.id).unwrap(), NO_RUN);
        peer.say("go");
        assert!(peer.finish().success());
    });
}

#[test]
fn a_process_of_one_group_is_held_also_in_such_calls() {
    shimmed(&[LOCAL], |cuda| {
        let context = cuda.start();
        let (gated, place) = (Gated::stream(cuda, LEGACY), cuda.word());
        hold(cuda, &gated, place);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                ok!(cuda, cuCtxSetCurrent(context => Handle));
                ok!(cuda, cuCtxSynchronize());
            });
            for _ in 0..5 {
                a_moment();
            }
            assert!(!waiting.is_finished() && value(place) == 0);
            assert_eq!(set_priority(LEGACY, 0), 0);
            waiting.join().unwrap();
        });
        assert_eq!(value(place), 1);
    });
}

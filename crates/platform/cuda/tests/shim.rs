//! The shim in real client processes, over the stand-in driver, with the local scheduler.

mod common;

use std::{
    sync::atomic::{AtomicU32, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

use common::{
    LOCAL, NO_RUN, NON_BLOCKING, level, set_priority, shimmed,
    support::{Cuda, Handle, SUCCESS, Value::*},
    until, write,
};

/// Launches one command after the other until one is held; gives its value.
fn launch_until_held(cuda: &Cuda, stream: Handle, place: &AtomicU32) -> u32 {
    for value in 1..500 {
        write(cuda, stream, place, value);
        let start = Instant::now();
        while place.load(SeqCst) != value {
            if start.elapsed() > Duration::from_millis(300) {
                return value;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
    panic!("nothing was held");
}

#[test]
fn a_stream_is_held_and_goes_on() {
    shimmed(&[LOCAL], |cuda| {
        cuda.start();
        let (stream, place) = (cuda.stream(NON_BLOCKING), cuda.word());
        write(cuda, stream, place, 1000);
        cuda.synchronize(stream);
        assert_eq!(place.load(SeqCst), 1000);
        until("the local scheduler runs", || level() > 0);
        assert_eq!(level(), 3, "the stand-in has time slices");

        assert_eq!(set_priority(stream, NO_RUN), 0);
        let held = launch_until_held(cuda, stream, place);
        assert_eq!(set_priority(stream, 0), 0);
        cuda.synchronize(stream);
        assert_eq!(place.load(SeqCst), held);
        assert_eq!(set_priority(stream, 999), 1, "out of range");
    });
}

#[test]
fn the_legacy_stream_is_scheduled_like_any_other() {
    shimmed(&[LOCAL], |cuda| {
        cuda.start();
        let place = cuda.word();
        assert_eq!(set_priority(0, NO_RUN), 0);
        let held = launch_until_held(cuda, 0, place);
        assert_eq!(set_priority(0, 10), 0);
        cuda.synchronize(0);
        assert_eq!(place.load(SeqCst), held);
    });
}

#[test]
fn the_off_switch_leaves_everything_to_the_driver() {
    shimmed(&[("XSCHED_DISABLE", "1")], |cuda| {
        cuda.start();
        let (stream, place) = (cuda.stream(NON_BLOCKING), cuda.word());
        write(cuda, stream, place, 7);
        cuda.synchronize(stream);
        assert_eq!((place.load(SeqCst), level()), (7, 0));
        assert_eq!(set_priority(stream, 5), 2, "not scheduled");
    });
}

#[test]
fn without_mapped_gates_the_level_falls_to_one() {
    let fail = ("STANDIN_FAIL", "cuMemHostRegister:801");
    shimmed(&[LOCAL, fail], |cuda| {
        cuda.start();
        let (stream, place) = (cuda.stream(NON_BLOCKING), cuda.alloc(4));
        let write = cuda.function("write_u32");
        for value in 1..100 {
            let values = [Address(place), Word(value)];
            assert_eq!(cuda.launch(stream, write, &values), SUCCESS);
        }
        until("the local scheduler runs", || level() > 0);
        assert_eq!(level(), 1);
        cuda.synchronize(stream);
        assert_eq!(cuda.words(place, 1), [99]);
    });
}

#[test]
fn without_time_slices_the_level_falls_to_two() {
    shimmed(&[LOCAL, ("STANDIN_FAIL", "ioctl:EPERM")], |cuda| {
        cuda.start();
        let (stream, place) = (cuda.stream(NON_BLOCKING), cuda.word());
        write(cuda, stream, place, 7);
        until("the local scheduler runs", || level() > 0);
        assert_eq!(level(), 2);
        cuda.synchronize(stream);
        assert_eq!(place.load(SeqCst), 7);
    });
}

#[test]
fn a_stream_ends_behind_a_closed_gate() {
    shimmed(&[LOCAL], |cuda| {
        cuda.start();
        let (stream, place) = (cuda.stream(NON_BLOCKING), cuda.word());
        assert_eq!(set_priority(stream, NO_RUN), 0);
        let held = launch_until_held(cuda, stream, place);
        let destroy: extern "C" fn(Handle) -> i32 = cuda.symbol("cuStreamDestroy_v2");
        assert_eq!(destroy(stream), SUCCESS);
        until("what was launched completes", || place.load(SeqCst) == held);
    });
}

#[test]
fn a_process_exits_behind_a_closed_gate() {
    shimmed(&[LOCAL], |cuda| {
        cuda.start();
        let (stream, place) = (cuda.stream(NON_BLOCKING), cuda.word());
        assert_eq!(set_priority(stream, NO_RUN), 0);
        launch_until_held(cuda, stream, place);
    });
}

//! The shim in real client processes on a real driver, with the local scheduler.

mod support;

use std::{ffi::c_void, ptr::null_mut, sync::atomic::Ordering::SeqCst, thread, time::Duration};

use support::*;

#[test]
fn a_queue_is_held_and_goes_on() {
    client(&[LOCAL, LEVEL_2], || {
        let cl = Cl::load();
        let (queue, buffer) = (cl.queue(0), cl.buffer(1));
        cl.fill(queue, buffer, 1000, &[]);
        assert_eq!(cl.read(queue, buffer, 1), [1000]);
        assert_eq!(scheduled(queue), 2);

        assert_eq!(set_priority(queue, NO_RUN), 0);
        let (held, _) = cl.fill_until_held(queue, buffer);
        assert_eq!(set_priority(queue, 0), 0);
        cl.finish(queue);
        assert_eq!(cl.read(queue, buffer, 1), [held]);
        assert_eq!(set_priority(queue, 999), 1, "out of range");
    });
}

#[test]
fn level_one_holds_the_calling_thread() {
    client(&[LOCAL, LEVEL_1], || {
        let cl = Cl::load();
        let (queue, buffer) = (cl.queue(0), cl.buffer(1));
        assert_eq!(scheduled(queue), 1);
        assert_eq!(set_priority(queue, NO_RUN), 0);
        let (shared, target) = (Shared(queue), Shared(buffer));
        let thread = thread::spawn(move || {
            for value in 1..2000 {
                cl.fill(shared.get(), target.get(), value, &[]);
                cl.flush(shared.get());
                CALLS.store(value, SeqCst);
                thread::sleep(Duration::from_millis(1));
            }
        });
        until_still(|| CALLS.load(SeqCst));
        assert!(!thread.is_finished(), "the thread is held");
        assert_eq!(cl.read_past_the_shim(buffer), CALLS.load(SeqCst));
        assert_eq!(set_priority(queue, 0), 0);
        thread.join().unwrap();
        assert_eq!(cl.read(queue, buffer, 1), [1999]);
    });
}

#[test]
fn a_program_lets_its_commands_pass_and_has_them_scheduled_again() {
    client(&[LOCAL, LEVEL_1], || {
        let cl = Cl::load();
        let (queue, buffer, other) = (cl.queue(0), cl.buffer(1), cl.buffer(1));
        assert_eq!(scheduled(queue), 1);
        assert_eq!(set_priority(queue, NO_RUN), 0);
        let (shared, target) = (Shared(queue), Shared(buffer));
        let thread = thread::spawn(move || {
            for value in 1..2000 {
                cl.fill(shared.get(), target.get(), value, &[]);
                cl.flush(shared.get());
                CALLS.store(value, SeqCst);
                thread::sleep(Duration::from_millis(1));
            }
        });
        until_still(|| CALLS.load(SeqCst));
        assert_eq!(set_enabled(0), 0);
        for value in 1..2000 {
            cl.fill(queue, other, value, &[]);
        }
        assert_eq!(cl.read(queue, other, 1), [1999]);
        assert!(!thread.is_finished(), "it was held before");
        let made_meanwhile = cl.queue(0);
        assert_eq!(set_enabled(1), 0);
        assert_eq!(scheduled(made_meanwhile), 1);
        assert_eq!(set_priority(queue, 0), 0);
        thread.join().unwrap();
        assert_eq!(cl.read(queue, buffer, 1), [1999]);
    });
}

#[test]
fn what_is_in_flight_stops_at_the_next_gate() {
    const COMMANDS: usize = 60;
    client(&[LOCAL, LEVEL_2], || {
        let cl = Cl::load();
        let (queue, buffer, kernel) = (cl.queue(0), cl.buffer(64), cl.kernel());
        cl.fill(queue, buffer, 0, &[]);
        cl.finish(queue);
        assert_eq!(scheduled(queue), 2);
        // Some milliseconds each.
        let events: Vec<_> = (0..COMMANDS)
            .map(|_| cl.work(queue, kernel, buffer, 64, 200_000))
            .collect();
        cl.flush(queue);
        let complete = || {
            events
                .iter()
                .filter(|&&event| cl.is_complete(event))
                .count()
        };
        until("some are over", || complete() >= 3);
        assert_eq!(set_priority(queue, NO_RUN), 0);
        until_still(complete);
        let stopped = complete();
        assert!(stopped < COMMANDS, "all went through");
        assert_eq!(set_priority(queue, 0), 0);
        cl.finish(queue);
        assert_eq!(complete(), COMMANDS);

        let expect = (0..COMMANDS * 200_000).fold(0, |word, _| after_one_round(word));
        assert_eq!(cl.read(queue, buffer, 1), [expect]);
    });
}

#[test]
fn where_the_driver_calls_back_late_gates_are_opened_by_whoever_looks_at_the_marks() {
    const COMMANDS: u32 = 30;
    client_of_late_calls(&[LOCAL, LEVEL_2], |late| {
        let cl = Cl::load();
        let (queue, buffer, kernel) = (cl.queue(0), cl.buffer(64), cl.kernel());
        cl.fill(queue, buffer, 0, &[]);
        cl.finish(queue);
        assert_eq!(scheduled(queue), 2);
        // Some milliseconds each.
        for _ in 0..COMMANDS {
            cl.work(queue, kernel, buffer, 64, 400_000);
        }
        cl.finish(queue);
        let expect = (0..COMMANDS * 400_000).fold(0, |word, _| after_one_round(word));
        assert_eq!(cl.read(queue, buffer, 1), [expect]);
        assert_ne!((late.completed_by_keeper)(), 0);
    });
}

#[test]
fn level_three_is_offered_where_threads_may_be_raised_again() {
    client(&[LOCAL], || {
        let cl = Cl::load();
        let (queue, buffer) = (cl.queue(0), cl.buffer(1));
        assert_eq!(scheduled(queue), level_of_cpus());
        assert_eq!(set_priority(queue, NO_RUN), 0);
        let (held, _) = cl.fill_until_held(queue, buffer);
        assert_eq!(set_priority(queue, 0), 0);
        assert_eq!(cl.read(queue, buffer, 1), [held]);
    });
}

#[test]
fn each_device_of_a_platform_gets_the_level_that_works_on_it() {
    // The first has no threads of its own, and no gate works there.
    client(&[LOCAL, LEVEL_2, ("POCL_DEVICES", "basic pthread")], || {
        let [basic, pthread] = [0, 1].map(Cl::load_device);
        let [(plain, word), (queue, buffer)] =
            [basic, pthread].map(|cl| (cl.queue(0), cl.buffer(1)));
        assert_eq!((scheduled(plain), scheduled(queue)), (1, 2));
        assert_eq!(set_priority(queue, NO_RUN), 0);
        let (held, _) = pthread.fill_until_held(queue, buffer);
        assert_eq!(pthread.read_past_the_shim(buffer), held - 1);
        // Now and then the gate may open for these: what stands behind it might hold them up.
        for value in 1..100 {
            basic.fill(plain, word, value, &[]);
        }
        assert_eq!(basic.read(plain, word, 1), [99]);
        assert_eq!(set_priority(queue, 0), 0);
        assert_eq!(pthread.read(queue, buffer, 1), [held]);
    });
}

#[test]
fn the_off_switch_leaves_everything_to_the_driver() {
    client(&[("XSCHED_DISABLE", "1")], || {
        let cl = Cl::load();
        let (queue, buffer) = (cl.queue(0), cl.buffer(1));
        cl.fill(queue, buffer, 7, &[]);
        assert_eq!(cl.read(queue, buffer, 1), [7]);
        assert_eq!((level(queue), set_priority(queue, 5)), (0, 2));
    });
}

#[test]
fn a_process_exits_behind_a_closed_gate() {
    client(&[LOCAL, LEVEL_2], || {
        let cl = Cl::load();
        let (queue, buffer) = (cl.queue(0), cl.buffer(1));
        assert_eq!(scheduled(queue), 2);
        assert_eq!(set_priority(queue, NO_RUN), 0);
        cl.fill_until_held(queue, buffer);
    });
}

#[test]
fn releases_behind_a_closed_gate_wait_for_it() {
    client(&[LOCAL, LEVEL_2], || {
        let cl = Cl::load();
        let (queue, buffer) = (cl.queue(0), cl.buffer(1));
        assert_eq!(scheduled(queue), 2);
        cl.count_destruction(buffer);
        assert_eq!(set_priority(queue, NO_RUN), 0);
        let (_, event) = cl.fill_until_held(queue, buffer);
        for name in ["clReleaseMemObject", "clReleaseKernel"] {
            let object = if name == "clReleaseKernel" {
                cl.kernel()
            } else {
                buffer
            };
            assert_eq!(cl.call(name, object), SUCCESS);
        }
        thread::sleep(Duration::from_millis(200));
        assert_eq!(CALLS.load(SeqCst), 0, "in use behind the gate");
        assert!(!cl.is_complete(event));
        assert_eq!(set_priority(queue, 0), 0);
        until("the buffer is released", || CALLS.load(SeqCst) == 1);
        assert!(cl.is_complete(event));
    });
}

#[test]
fn a_part_of_a_device_is_held_and_released_behind_a_closed_gate() {
    const REFERENCES: u32 = 0x1047;
    client(&[LOCAL], || {
        let cl = Cl::load();
        let part = cl.part();
        let (queue, buffer) = (part.queue(0), part.buffer(1));
        assert_eq!(scheduled(queue), level_of_cpus());
        assert_eq!(set_priority(queue, NO_RUN), 0);
        let (held, event) = part.fill_until_held(queue, buffer);
        // PoCL frees it with the last reference, whatever uses it.
        assert_eq!(part.call("clRetainDevice", part.device), SUCCESS);
        let references = || part.device_number(REFERENCES);
        let before = references();
        assert_eq!(part.call("clReleaseDevice", part.device), SUCCESS);
        assert_eq!(references(), before, "in use behind the gate");
        assert!(!part.is_complete(event));
        assert_eq!(set_priority(queue, 0), 0);
        until("it is released", || references() < before);
        assert_eq!(part.read(queue, buffer, 1), [held]);
    });
}

#[test]
fn a_queue_and_its_context_end_behind_a_closed_gate() {
    client(&[LOCAL, LEVEL_2], || {
        let cl = Cl::load();
        let (queue, buffer) = (cl.queue(0), cl.buffer(1));
        assert_eq!(scheduled(queue), 2);
        let other = cl.queue(0);
        assert_eq!(cl.call("clRetainCommandQueue", queue), SUCCESS);
        assert_eq!(cl.call("clReleaseCommandQueue", queue), SUCCESS);
        assert_eq!(set_priority(queue, NO_RUN), 0);
        let (_, event) = cl.fill_until_held(queue, buffer);
        // The context first: an application may let go in any order.
        assert_eq!(cl.call("clReleaseContext", cl.context), SUCCESS);
        assert_eq!(cl.call("clReleaseMemObject", buffer), SUCCESS);
        assert_eq!(cl.call("clReleaseCommandQueue", queue), SUCCESS);
        assert!(!cl.is_complete(event), "held");
        assert_eq!(level(queue), 2, "it is there as long as it is held");
        assert_eq!(set_priority(queue, 0), 0);
        until("the queue ends", || level(queue) == 0);
        until("what was enqueued completes", || cl.is_complete(event));
        assert_eq!(cl.call("clReleaseEvent", event), SUCCESS);
        assert_eq!(cl.call("clReleaseCommandQueue", other), SUCCESS);
    });
}

#[test]
fn objects_are_released_in_any_order_behind_a_closed_gate() {
    client(&[LOCAL, LEVEL_2], || {
        for rotation in 0..5 {
            let cl = Cl::load();
            let (queue, buffer, kernel) = (cl.queue(0), cl.buffer(1), cl.kernel());
            cl.count_destruction(buffer);
            assert_eq!(scheduled(queue), 2);
            assert_eq!(set_priority(queue, NO_RUN), 0);
            let (_, event) = cl.until_held(queue, |_| cl.work(queue, kernel, buffer, 1, 1));
            let mut objects = [
                ("clReleaseContext", cl.context),
                ("clReleaseCommandQueue", queue),
                ("clReleaseProgram", cl.program(kernel)),
                ("clReleaseMemObject", buffer),
                ("clReleaseKernel", kernel),
            ];
            objects.rotate_left(rotation);
            for (release, object) in objects {
                assert_eq!(cl.call(release, object), SUCCESS, "{release}");
            }
            assert!(!cl.is_complete(event));
            assert_eq!(
                CALLS.load(SeqCst),
                rotation as u32,
                "in use behind the gate"
            );
            assert_eq!(set_priority(queue, 0), 0);
            cl.wait(event);
            assert_eq!(cl.call("clReleaseEvent", event), SUCCESS);
            until("the buffer is released", || {
                CALLS.load(SeqCst) == rotation as u32 + 1
            });
        }
    });
}

/// A user event that the application completes starts nothing behind a closed gate.
fn start_gun_behind_a_gate(properties: u64) {
    let cl = Cl::load();
    let (queue, buffer) = (cl.queue(properties), cl.buffer(1));
    assert_eq!(scheduled(queue), 2);
    assert_eq!(set_priority(queue, NO_RUN), 0);
    let (held, _) = cl.fill_until_held(queue, buffer);
    let start = cl.user_event();
    let first = cl.fill(queue, buffer, held + 1, &[start]);
    let second = cl.fill(queue, buffer, held + 2, &[first]);
    cl.flush(queue);
    cl.complete(start);
    thread::sleep(Duration::from_millis(300));
    assert!(!cl.is_complete(first) && !cl.is_complete(second), "held");
    assert_eq!(cl.read_past_the_shim(buffer), held - 1);
    assert_eq!(set_priority(queue, 0), 0);
    cl.wait(second);
    assert!(cl.is_complete(first));
    assert_eq!(cl.read(queue, buffer, 1), [held + 2]);
}

#[test]
fn user_events_of_the_application_open_no_gate() {
    client(&[LOCAL, LEVEL_2], || start_gun_behind_a_gate(0));
}

#[test]
fn user_events_of_the_application_open_no_gate_out_of_order() {
    client(&[LOCAL, LEVEL_2], || start_gun_behind_a_gate(OUT_OF_ORDER));
}

#[test]
fn a_queue_ends_while_a_thread_waits_in_a_call_with_it() {
    // What is freed is overwritten at once, so that a use of it shows.
    let overwritten = (
        "GLIBC_TUNABLES",
        "glibc.malloc.perturb=165:glibc.malloc.tcache_count=0",
    );
    client(&[LOCAL, LEVEL_2, overwritten], || {
        let cl = Cl::load();
        let (queue, buffer) = (Shared(cl.queue(0)), Shared(cl.buffer(1)));
        cl.fill(queue.get(), buffer.get(), 7, &[]);
        cl.finish(queue.get());
        assert_eq!(scheduled(queue.get()), 2);
        cl.assert_scheduled(queue.get(), 2);
        let event = Shared(cl.user_event());
        let thread = thread::spawn(move || {
            let after = [event.get()];
            cl.read_after(queue.get(), buffer.get(), 1, &after)
        });
        thread::sleep(Duration::from_millis(300));
        assert_eq!(cl.call("clReleaseCommandQueue", queue.get()), SUCCESS);
        // Longer than the shim goes without a look at who may still use what has ended.
        thread::sleep(Duration::from_secs(11));
        assert_eq!(cl.read_past_the_shim(buffer.get()), 7);
        assert!(!thread.is_finished(), "it waits");
        cl.complete(event.get());
        assert_eq!(thread.join().unwrap(), [7]);
    });
}

#[test]
fn an_event_proves_nothing_of_a_command_that_is_on_its_way_to_the_driver() {
    extern "C" fn until_told(_: *mut c_void) {
        until("it may end", || CALLS.load(SeqCst) == 1);
    }
    client_of_late_calls(&[LOCAL, LEVEL_1], |late| {
        let cl = Cl::load();
        let (queue, buffer) = (Shared(cl.queue(0)), cl.buffer(1));
        cl.fill(queue.get(), buffer, 1, &[]);
        cl.finish(queue.get());
        assert_eq!(scheduled(queue.get()), 1);
        until("idle", || !has_work());
        (late.hold)(1);
        let thread = thread::spawn(move || cl.native(queue.get(), until_told));
        until("the thread has passed the scheduler", has_work);
        let event = cl.fill(queue.get(), buffer, 2, &[]);
        (late.hold)(0);
        thread.join().unwrap();
        // The event's command came later, and stands before the other one, which executes.
        cl.wait(event);
        assert!(has_work());
        CALLS.store(1, SeqCst);
        cl.finish(queue.get());
        assert!(!has_work());
    });
}

/// Commands behind a user event that the application completes only after it has enqueued all.
fn start_gun(expect: i32, properties: u64) {
    let cl = Cl::load();
    let queue = cl.queue(properties);
    let buffers: Vec<_> = (0..300).map(|_| cl.buffer(1)).collect();
    assert_eq!(scheduled(queue), expect);
    let start = cl.user_event();
    // One reference is left.
    assert_eq!(cl.call("clRetainEvent", start), SUCCESS);
    assert_eq!(cl.call("clReleaseEvent", start), SUCCESS);
    let mut last = null_mut();
    for (index, &buffer) in buffers.iter().enumerate() {
        // The first waits; in an out-of-order queue the others do not.
        let after: &[Handle] = if index == 0 { &[start] } else { &[] };
        last = cl.fill(queue, buffer, index as u32, after);
    }
    cl.flush(queue);
    if properties == OUT_OF_ORDER {
        until("the last is over before the first", || cl.is_complete(last));
    }
    cl.complete(start);
    cl.finish(queue);
    for (index, &buffer) in buffers.iter().enumerate() {
        assert_eq!(cl.read(queue, buffer, 1), [index as u32]);
    }
    cl.assert_scheduled(queue, expect);
}

#[test]
fn user_events_of_the_application_never_deadlock_at_level_one() {
    client(&[LOCAL, LEVEL_1], || start_gun(1, 0));
}

#[test]
fn user_events_of_the_application_never_deadlock_at_level_two() {
    client(&[LOCAL, LEVEL_2], || start_gun(2, 0));
}

#[test]
fn out_of_order_queues_never_deadlock_at_level_one() {
    client(&[LOCAL, LEVEL_1], || start_gun(1, OUT_OF_ORDER));
}

#[test]
fn out_of_order_queues_never_deadlock_at_level_two() {
    client(&[LOCAL, LEVEL_2], || start_gun(2, OUT_OF_ORDER));
}

#[test]
fn a_user_event_that_is_let_go_of_without_use_changes_nothing() {
    client(&[LOCAL, LEVEL_1], || {
        let cl = Cl::load();
        let queue = cl.queue(0);
        assert_eq!(scheduled(queue), 1);
        let event = cl.user_event();
        for name in ["clRetainEvent", "clReleaseEvent", "clReleaseEvent"] {
            assert_eq!(cl.call(name, event), SUCCESS);
        }
        cl.assert_scheduled(queue, 1);
    });
}

#[test]
fn an_out_of_order_queue_is_held_and_goes_on() {
    client(&[LOCAL, LEVEL_2], || {
        let cl = Cl::load();
        let (queue, buffer) = (cl.queue(OUT_OF_ORDER), cl.buffer(1));
        assert_eq!(scheduled(queue), 2);
        assert_eq!(set_priority(queue, NO_RUN), 0);
        let (held, event) = cl.fill_until_held(queue, buffer);
        assert_eq!(set_priority(queue, 0), 0);
        until("it goes on", || cl.is_complete(event));
        cl.finish(queue);
        assert_eq!(cl.read(queue, buffer, 1), [held]);
    });
}

#[test]
fn callbacks_may_enqueue_at_level_one() {
    /// Enqueues far more than a window holds.
    unsafe extern "C" fn enqueue(_: Handle, _: i32, data: *mut c_void) {
        // SAFETY: what the test passes.
        let (cl, queue, buffer) = unsafe { *data.cast::<(Cl, Handle, Handle)>() };
        for value in 0..200 {
            cl.fill(queue, buffer, value, &[]);
        }
        CALLS.fetch_add(1, SeqCst);
    }
    client(&[LOCAL, LEVEL_1], || {
        let cl = Cl::load();
        let (queue, buffer) = (cl.queue(0), cl.buffer(1));
        assert_eq!(scheduled(queue), 1);
        let mut data = (cl, queue, buffer);
        let event = cl.fill(queue, buffer, 1000, &[]);
        cl.on_complete(event, enqueue, (&raw mut data).cast());
        cl.flush(queue);
        until("the callback ends", || CALLS.load(SeqCst) == 1);
        cl.finish(queue);
        assert_eq!(cl.read(queue, buffer, 1), [199]);
        cl.assert_scheduled(queue, 1);
    });
}

#[test]
fn every_callback_of_the_application_runs_once() {
    client(&[LOCAL, LEVEL_2], || {
        let cl = Cl::load();
        let (queue, buffer) = (cl.queue(0), cl.buffer(1));
        assert_eq!(scheduled(queue), 2);
        for value in 0..500 {
            let event = cl.fill(queue, buffer, value, &[]);
            cl.on_complete(event, count, null_mut());
            assert_eq!(cl.call("clReleaseEvent", event), SUCCESS);
        }
        cl.finish(queue);
        until("all have run", || CALLS.load(SeqCst) >= 500);
        until_still(|| CALLS.load(SeqCst));
        assert_eq!(CALLS.load(SeqCst), 500);
        cl.assert_scheduled(queue, 2);
    });
}

#[test]
fn threads_share_a_queue_while_it_opens_and_closes() {
    client(&[LOCAL, LEVEL_2], || {
        let cl = Cl::load();
        let queue = Shared(cl.queue(0));
        assert_eq!(scheduled(queue.get()), 2);
        let workers: Vec<_> = (0..4_u32)
            .map(|worker| {
                thread::spawn(move || {
                    let buffer = cl.buffer(1);
                    for value in 0..2000 {
                        cl.fill(queue.get(), buffer, value, &[]);
                        if value % 97 == worker {
                            cl.finish(queue.get());
                        }
                    }
                    let values = cl.read(queue.get(), buffer, 1);
                    assert_eq!(cl.call("clReleaseMemObject", buffer), SUCCESS);
                    values
                })
            })
            .collect();
        while workers.iter().any(|worker| !worker.is_finished()) {
            for priority in [NO_RUN, 0] {
                assert_eq!(set_priority(queue.get(), priority), 0);
                thread::sleep(Duration::from_millis(2));
            }
        }
        for worker in workers {
            assert_eq!(worker.join().unwrap(), [1999]);
        }
        cl.assert_scheduled(queue.get(), 2);
    });
}

#[test]
fn many_queues_come_and_go() {
    client(&[LOCAL, LEVEL_2], || {
        let cl = Cl::load();
        for value in 0..500 {
            let (queue, buffer) = (cl.queue(0), cl.buffer(1));
            cl.fill(queue, buffer, value, &[]);
            assert_eq!(scheduled(queue), 2);
            assert_eq!(cl.call("clReleaseMemObject", buffer), SUCCESS);
            assert_eq!(cl.call("clReleaseCommandQueue", queue), SUCCESS);
            until("the queue ends", || level(queue) == 0);
        }
        let last = cl.queue(0);
        assert_eq!(scheduled(last), 2);
        cl.assert_scheduled(last, 2);
    });
}

#[test]
fn a_forked_child_is_free() {
    client(&[LOCAL, LEVEL_2], || {
        let cl = Cl::load();
        let (queue, buffer) = (cl.queue(0), cl.buffer(1));
        assert_eq!(scheduled(queue), 2);
        assert_eq!(set_priority(queue, NO_RUN), 0);
        let (held, _) = cl.fill_until_held(queue, buffer);
        // SAFETY: the child only calls what a child may.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // The driver's own threads are gone, but letting go works as without the shim.
            let released = cl.call("clReleaseMemObject", buffer);
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(released) };
        }
        let mut status = -1;
        // SAFETY: our child; a valid place for the status.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0);
        assert_eq!(set_priority(queue, 0), 0);
        cl.finish(queue);
        assert_eq!(cl.read(queue, buffer, 1), [held]);
    });
}

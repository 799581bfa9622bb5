//! Several drivers in one client process, behind one loader, with the local scheduler.

mod support;

use std::{
    ptr::{null, null_mut},
    sync::atomic::{AtomicU32, Ordering::SeqCst},
    thread,
    time::Duration,
};

use support::*;

#[test]
fn queues_of_two_drivers_are_held_each_at_the_level_that_works_on_it() {
    client_of(&[POCL, OCLGRIND], &[LOCAL, LEVEL_2], || {
        let [pocl, oclgrind] = [POCL, OCLGRIND].map(Cl::load_platform);
        let [(queue, word), (other, other_word)] =
            [pocl, oclgrind].map(|cl| (cl.queue(0), cl.buffer(1)));
        // Oclgrind executes inside calls, and would wait in one at a gate.
        assert_eq!((scheduled(queue), scheduled(other)), (2, 1));

        assert_eq!(set_priority(queue, NO_RUN), 0);
        let (held, _) = pocl.fill_until_held(queue, word);
        // Now and then the gate may open for these: what stands behind it might hold them up.
        for value in 1..100 {
            oclgrind.fill(other, other_word, value, &[]);
        }
        assert_eq!(oclgrind.read(other, other_word, 1), [99]);
        assert_eq!(set_priority(queue, 0), 0);
        assert_eq!(pocl.read(queue, word, 1), [held]);

        assert_eq!(set_priority(other, NO_RUN), 0);
        let filled = AtomicU32::new(0);
        let (shared, target) = (Shared(other), Shared(other_word));
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                for value in 1..2000 {
                    oclgrind.fill(shared.get(), target.get(), value, &[]);
                    filled.store(value, SeqCst);
                    thread::sleep(Duration::from_millis(1));
                }
            });
            until_still(|| filled.load(SeqCst));
            assert!(!thread.is_finished(), "the thread is held");
            for value in 1..100 {
                pocl.fill(queue, word, value, &[]);
            }
            assert_eq!(pocl.read(queue, word, 1), [99]);
            assert_eq!(set_priority(other, 0), 0);
        });
        assert_eq!(oclgrind.read(other, other_word, 1), [1999]);
    });
}

/// Commands of a driver that executes inside calls, behind a user event that is completed late or, once the
/// application has let go of it, never.
fn behind_a_user_event(is_completed: bool) {
    const COUNT: u32 = 300;
    let cl = Cl::load();
    let (queue, word) = (cl.queue(0), cl.buffer(1));
    cl.fill(queue, word, 0, &[]);
    cl.finish(queue);
    assert_eq!(scheduled(queue), 1);
    let start = cl.user_event();
    for value in 1..=COUNT {
        let after: &[Handle] = if value == 1 { &[start] } else { &[] };
        cl.fill(queue, word, value, after);
        if value == 1 && !is_completed {
            assert_eq!(cl.call("clReleaseEvent", start), SUCCESS);
        }
    }
    if is_completed {
        cl.complete(start);
        assert_eq!(cl.read(queue, word, 1), [COUNT]);
    }
}

#[test]
fn a_driver_that_executes_inside_calls_is_not_made_to_wait_for_a_user_event() {
    client_of(&[OCLGRIND], &[LOCAL], || behind_a_user_event(true));
}

#[test]
fn a_user_event_that_is_let_go_of_while_a_command_waits_for_it_holds_no_call_up() {
    client_of(&[OCLGRIND], &[LOCAL], || behind_a_user_event(false));
}

#[test]
fn a_name_is_each_drivers_own_function() {
    client_of(&[POCL, OCLGRIND, NOTHING], &[LOCAL, LEVEL_1], || {
        let [pocl, oclgrind, nothing] = [POCL, OCLGRIND, NOTHING].map(Cl::load_platform);
        let name = "clEnqueueCommandBufferKHR";
        assert!(oclgrind.find_extension(name).is_null(), "it has none");
        // One hook stands before the functions of both.
        assert_eq!(pocl.find_extension(name), nothing.find_extension(name));

        let recorded = Recorded::new(nothing);
        let queue = recorded.queue();
        let (pocl_queue, word) = (pocl.queue(0), pocl.buffer(1));
        pocl.fill(pocl_queue, word, 7, &[]);
        let empty = recorded.create(pocl, pocl_queue);
        assert_eq!(pocl.extension::<Release>(FINALIZE)(empty), SUCCESS);
        let own = recorded.create(nothing, queue);
        recorded.enqueue(empty);
        assert_eq!(pocl.read(pocl_queue, word, 1), [7]);
        assert_eq!(recorded.count(), 0, "PoCL's");
        recorded.enqueue(own);
        assert_eq!(recorded.count(), 1);
        for (cl, buffer) in [(pocl, empty), (nothing, own)] {
            let release: Release = cl.extension("clReleaseCommandBufferKHR");
            assert_eq!(release(buffer), SUCCESS);
        }
        assert_eq!((scheduled(queue), scheduled(pocl_queue)), (1, 1));
    });
}

#[test]
fn a_device_that_is_released_by_its_former_name_waits_for_every_drivers_gates() {
    const REFERENCES: u32 = 0x4057;
    client_of(&[POCL, NOTHING], &[LOCAL, LEVEL_2], || {
        let [pocl, nothing] = [POCL, NOTHING].map(Cl::load_platform);
        let (queue, word) = (pocl.queue(0), pocl.buffer(1));
        assert_eq!(scheduled(queue), 2);
        assert_eq!(set_priority(queue, NO_RUN), 0);
        let (_, event) = pocl.fill_until_held(queue, word);
        let release = || nothing.call("clReleaseDeviceEXT", nothing.device);
        assert_eq!(release(), SUCCESS);
        assert_eq!(nothing.device_number(REFERENCES), 1, "not yet");
        assert!(!pocl.is_complete(event));
        assert_eq!(set_priority(queue, 0), 0);
        let references = || nothing.device_number(REFERENCES);
        until("it is released", || references() == 0);
    });
}

#[test]
fn a_remapped_command_buffer_is_one_over_its_new_queues() {
    const COUNT: u32 = 1000;
    client_of(&[NOTHING], &[LOCAL], || {
        let cl = Cl::load();
        let recorded = Recorded::new(cl);
        let (first, second) = (recorded.queue(), recorded.queue());
        assert_eq!((scheduled(first), scheduled(second)), (1, 1));
        let before = recorded.create(cl, first);
        assert_eq!(recorded.remap(before, &[]), (null_mut(), INVALID_VALUE));
        let (after, error) = recorded.remap(before, &[second]);
        assert_eq!(error, SUCCESS);

        assert_eq!(set_priority(second, NO_RUN), 0);
        let shared = Shared(after);
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                for _ in 0..COUNT {
                    recorded.enqueue(shared.get());
                    thread::sleep(Duration::from_millis(1));
                }
            });
            until_still(|| recorded.count());
            assert!(!thread.is_finished(), "the new queue is held");
            let held = recorded.count();
            (0..COUNT).for_each(|_| recorded.enqueue(before));
            assert!(recorded.count() >= held + COUNT, "the former one is not");
            assert_eq!(set_priority(second, 0), 0);
        });
        assert_eq!(recorded.count(), 2 * COUNT);

        // It keeps its queue as the driver's own reference would.
        assert_eq!(cl.call("clReleaseCommandQueue", second), SUCCESS);
        assert_eq!(level(second), 1);
        let release: Release = cl.extension("clReleaseCommandBufferKHR");
        assert_eq!(release(after), SUCCESS);
        assert_eq!((level(second), level(first)), (0, 1));
        assert_eq!(release(before), SUCCESS);
    });
}

const INVALID_VALUE: i32 = -30;
const FINALIZE: &str = "clFinalizeCommandBufferKHR";

type Release = extern "C" fn(Handle) -> i32;

/// Command buffers, by the functions that the driver of nothing hands out.
struct Recorded {
    cl: Cl,
}

impl Recorded {
    fn new(cl: Cl) -> Self {
        Recorded { cl }
    }

    /// A queue that had a command.
    fn queue(&self) -> Handle {
        let queue = self.cl.queue(0);
        assert_eq!(self.cl.call("clEnqueueBarrier", queue), SUCCESS);
        queue
    }

    /// One over a queue of any driver.
    fn create(&self, owner: Cl, queue: Handle) -> Handle {
        type Create = extern "C" fn(u32, *const Handle, *const u64, *mut i32) -> Handle;
        let create: Create = owner.extension("clCreateCommandBufferKHR");
        let mut error = 0;
        let buffer = create(1, &queue, null(), &mut error);
        assert_eq!(error, SUCCESS);
        buffer
    }

    /// One with the same commands over other queues, or null, and the error.
    fn remap(&self, buffer: Handle, queues: &[Handle]) -> (Handle, i32) {
        type Remap = extern "C" fn(
            Handle,
            u32,
            u32,
            *const Handle,
            u32,
            *const Handle,
            *mut Handle,
            *mut i32,
        ) -> Handle;
        let remap: Remap = self.cl.extension("clRemapCommandBufferKHR");
        let (count, list) = arguments(queues);
        let mut error = SUCCESS;
        let made = remap(buffer, 1, count, list, 0, null(), null_mut(), &mut error);
        (made, error)
    }

    /// Enqueues a command buffer of any driver in the queues that it was made for.
    fn enqueue(&self, buffer: Handle) {
        type Enqueue =
            extern "C" fn(u32, *const Handle, Handle, u32, *const Handle, *mut Handle) -> i32;
        let enqueue: Enqueue = self.cl.extension("clEnqueueCommandBufferKHR");
        let result = enqueue(0, null(), buffer, 0, null(), null_mut());
        assert_eq!(result, SUCCESS);
    }

    /// Command buffers that the driver of nothing was given.
    fn count(&self) -> u32 {
        let count: extern "C" fn() -> u32 = self.cl.extension("countEnqueued");
        count()
    }
}

//! Command buffers of real client processes on a real driver, with the local scheduler.

mod support;

use std::{
    ffi::c_void,
    ptr::{null, null_mut},
    sync::atomic::{AtomicU32, Ordering::SeqCst},
    thread,
    time::Duration,
};

use support::*;

const REFERENCE_COUNT: u32 = 0x1296;

/// A queue, a buffer of one word that is 0, and a kernel that rewrites the word.
struct Setting {
    cl: Cl,
    queue: Handle,
    word: Handle,
    kernel: Handle,
}

// SAFETY: OpenCL's handles belong to no thread.
unsafe impl Sync for Setting {}

impl Setting {
    fn new(level: i32) -> Setting {
        let cl = Cl::load();
        let (queue, word, kernel) = (cl.queue(0), cl.buffer(1), cl.kernel());
        cl.set_arguments(kernel, word, 1);
        cl.fill(queue, word, 0, &[]);
        cl.finish(queue);
        assert_eq!(scheduled(queue), level);
        Setting {
            cl,
            queue,
            word,
            kernel,
        }
    }

    /// A command buffer that runs the kernel once.
    fn record(&self) -> Handle {
        type Create = extern "C" fn(u32, *const Handle, *const u64, *mut i32) -> Handle;
        let create: Create = self.cl.extension("clCreateCommandBufferKHR");
        let mut error = 0;
        let buffer = create(1, &self.queue, null(), &mut error);
        assert_eq!(error, SUCCESS);
        type Kernel = extern "C" fn(
            Handle,
            Handle,
            *const u64,
            Handle,
            u32,
            *const usize,
            *const usize,
            *const usize,
            u32,
            *const u32,
            *mut u32,
            *mut Handle,
        ) -> i32;
        let kernel: Kernel = self.cl.extension("clCommandNDRangeKernelKHR");
        let (nothing, offset, words) = (null_mut(), null(), 1);
        let recorded = kernel(
            buffer,
            nothing,
            null(),
            self.kernel,
            1,
            offset,
            &words,
            offset,
            0,
            null(),
            null_mut(),
            null_mut(),
        );
        assert_eq!(recorded, SUCCESS);
        assert_eq!(self.call("clFinalizeCommandBufferKHR", buffer), SUCCESS);
        buffer
    }

    fn call(&self, name: &str, buffer: Handle) -> i32 {
        let function: extern "C" fn(Handle) -> i32 = self.cl.extension(name);
        function(buffer)
    }

    /// Enqueues a command buffer in the queues that are named, if any; gives its event.
    fn enqueue(&self, named: &[Handle], buffer: Handle) -> Handle {
        type Enqueue =
            extern "C" fn(u32, *const Handle, Handle, u32, *const Handle, *mut Handle) -> i32;
        let enqueue: Enqueue = self.cl.extension("clEnqueueCommandBufferKHR");
        let mut event = null_mut();
        let (count, list) = arguments(named);
        let result = enqueue(count, list, buffer, 0, null(), &mut event);
        assert_eq!(result, SUCCESS);
        event
    }

    /// References to a command buffer that the driver counts.
    fn references(&self, buffer: Handle) -> u32 {
        type Info = extern "C" fn(Handle, u32, usize, *mut c_void, *mut usize) -> i32;
        let info: Info = self.cl.extension("clGetCommandBufferInfoKHR");
        let mut count = 0_u32;
        let place = (&raw mut count).cast();
        let result = info(buffer, REFERENCE_COUNT, 4, place, null_mut());
        assert_eq!(result, SUCCESS);
        count
    }

    /// What the word is after this many command buffers.
    fn expect(runs: u32) -> u32 {
        (0..runs).fold(0, |word, _| after_one_round(word))
    }
}

#[test]
fn a_command_buffer_is_held_and_released_like_other_commands() {
    client(&[LOCAL, LEVEL_2], || {
        let it = Setting::new(2);
        assert_eq!(set_priority(it.queue, NO_RUN), 0);
        let mut last = null_mut();
        let (count, event) = it.cl.until_held(it.queue, |number| {
            last = it.record();
            let named: &[Handle] = if number % 2 == 0 { &[it.queue] } else { &[] };
            it.enqueue(named, last)
        });
        assert_eq!(it.call("clRetainCommandBufferKHR", last), SUCCESS);
        let before = it.references(last);
        assert_eq!(it.call("clReleaseCommandBufferKHR", last), SUCCESS);
        assert_eq!(it.references(last), before, "in use behind the gate");
        assert!(!it.cl.is_complete(event));
        // The last look: the gate may open for this queue, which the held one might hold up.
        let word = it.cl.read_past_the_shim(it.word);
        assert_eq!(word, Setting::expect(count - 1));
        assert_eq!(set_priority(it.queue, 0), 0);
        until("it is released", || it.references(last) == 1);
        assert_eq!(it.cl.read(it.queue, it.word, 1), [Setting::expect(count)]);
        assert_eq!(it.call("clReleaseCommandBufferKHR", last), SUCCESS);
    });
}

#[test]
fn recording_passes_where_an_enqueue_is_held() {
    const COUNT: u32 = 1000;
    client(&[LOCAL, LEVEL_1], || {
        let it = Setting::new(1);
        let enqueued = AtomicU32::new(0);
        let buffers: Vec<_> = (0..COUNT).map(|_| Shared(it.record())).collect();
        assert_eq!(set_priority(it.queue, NO_RUN), 0);
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                for buffer in &buffers {
                    it.cl.wait(it.enqueue(&[], buffer.get()));
                    enqueued.fetch_add(1, SeqCst);
                    thread::sleep(Duration::from_millis(1));
                }
            });
            until_still(|| enqueued.load(SeqCst));
            assert!(!thread.is_finished(), "the thread is held");
            it.record();
            assert!(!thread.is_finished(), "still");
            assert!(enqueued.load(SeqCst) < COUNT);
            assert_eq!(set_priority(it.queue, 0), 0);
        });
        assert_eq!(it.cl.read(it.queue, it.word, 1), [Setting::expect(COUNT)]);
    });
}

#[test]
fn a_command_buffer_keeps_its_queue_scheduled() {
    client(&[LOCAL, LEVEL_2], || {
        let it = Setting::new(2);
        let spare = it.record();
        assert_eq!(it.cl.call("clReleaseCommandQueue", it.queue), SUCCESS);
        assert_eq!(set_priority(it.queue, NO_RUN), 0);
        let mut buffers = vec![spare];
        let (count, event) = it.cl.until_held(it.queue, |_| {
            buffers.push(it.record());
            it.enqueue(&[], *buffers.last().unwrap())
        });
        assert_eq!(set_priority(it.queue, 0), 0);
        it.cl.wait(event);
        assert_eq!(it.cl.read_past_the_shim(it.word), Setting::expect(count));
        assert_eq!(level(it.queue), 2);
        for buffer in buffers {
            assert_eq!(it.call("clReleaseCommandBufferKHR", buffer), SUCCESS);
        }
        until("the queue ends", || level(it.queue) == 0);
    });
}

//! Command buffers (`cl_khr_command_buffer`): commands that are recorded once, and enqueued together as
//! one command of each queue that they were recorded for.
//!
//! Recording submits nothing and is not hooked. An enqueue may name neither a queue nor a platform, so
//! both are remembered from the creation on.

use std::{
    ffi::c_void,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::{
    driver::{self, Outcome},
    extensions::{self, Vendors},
    hooks::{NOTHING, WaitList, submit},
    queues, release,
    sys::*,
};
use xsched_shim::{
    state::guarded,
    table::{Keyed, Table},
};

/// A command buffer that the application has made.
struct Recorded {
    raw: usize,
    platform: usize,
    /// Those that it was recorded for. It holds a reference to each: most drivers' do, too.
    queues: Vec<usize>,
    /// The application's.
    references: AtomicU32,
}

impl Keyed for Recorded {
    type Key = usize;

    fn key(&self) -> usize {
        self.raw
    }
}

static TABLE: Table<Recorded> = Table::new();

/// The platform of a command buffer.
pub(crate) fn platform(buffer: Opaque) -> Option<usize> {
    TABLE.get(buffer as usize).map(|known| known.platform)
}

/// Around the creation of a command buffer for these queues, also of one from another's commands.
pub(crate) fn create(count: u32, queues: *const Queue, call: impl FnOnce() -> Opaque) -> Opaque {
    let buffer = call();
    if !buffer.is_null() {
        guarded(|| remember(buffer, list(count, queues)));
    }
    buffer
}

fn remember(buffer: Opaque, queues: &[Queue]) {
    let Some(platform) = extensions::platform_of_first(queues) else {
        return;
    };
    let is_known = TABLE.insert(Recorded {
        raw: buffer as usize,
        platform,
        queues: queues.iter().map(|&queue| queue as usize).collect(),
        references: AtomicU32::new(1),
    });
    for &queue in queues.iter().filter(|_| is_known) {
        // SAFETY: a queue of the application's, with which the call has just succeeded.
        queues::retain(queue, || unsafe { driver::retain_queue(queue) });
    }
}

/// An argument that is a list of queues.
pub(crate) fn list<'a>(count: u32, queues: *const Queue) -> &'a [Queue] {
    if queues.is_null() {
        return &[];
    }
    // SAFETY: the program's own list of this length, which lasts as long as the call.
    unsafe { std::slice::from_raw_parts(queues, count as usize) }
}

/// Around one reference more.
pub(crate) fn retain(buffer: Opaque, call: impl FnOnce() -> i32) -> i32 {
    let result = call();
    if result == CL_SUCCESS
        && let Some(known) = TABLE.get(buffer as usize)
    {
        known.references.fetch_add(1, Ordering::SeqCst);
    }
    result
}

/// Around one reference less.
pub(crate) fn release(buffer: Opaque, call: impl FnOnce() -> i32) -> i32 {
    let last = TABLE
        .keep(buffer as usize)
        .filter(|known| known.references.fetch_sub(1, Ordering::SeqCst) == 1);
    if last.is_some() {
        // Before the driver may use the handle again.
        guarded(|| TABLE.remove(buffer as usize));
    }
    let result = call();
    for &queue in last.iter().flat_map(|known| &known.queues) {
        let queue = queue as Queue;
        // SAFETY: the reference that `remember` took.
        release::queue(queue, || unsafe { driver::release_queue(queue) });
    }
    result
}

/// One reference less, which the application has given up to us.
pub(crate) fn release_now(buffer: Opaque) -> i32 {
    static REAL: Vendors = Vendors::new(c"clReleaseCommandBufferKHR");
    let real = REAL.get(platform(buffer));
    release(buffer, || {
        let Some(real) = real else {
            return i32::MISSING;
        };
        type Real = unsafe extern "C" fn(Opaque) -> i32;
        // SAFETY: the function of that name, whose signature this is (cl_ext.h).
        let real = unsafe { std::mem::transmute::<*mut c_void, Real>(real) };
        // SAFETY: the application's reference.
        unsafe { real(buffer) }
    })
}

/// Around an enqueue in these queues, or in those that it was recorded for if none are named.
pub(crate) fn enqueue(
    (count, queues): (u32, *const Queue),
    buffer: Opaque,
    after: WaitList,
    event: *mut Event,
    call: impl Fn() -> i32,
) -> i32 {
    let known = TABLE.keep(buffer as usize);
    let recorded_for = known.as_deref().map_or(&[][..], |known| &known.queues);
    let named: Vec<_> = match list(count, queues) {
        [] => recorded_for.iter().map(|&queue| queue as Queue).collect(),
        named => named.to_vec(),
    };
    submit_to_all(&named, after, event, &call)
}

/// The event of the whole goes with the first queue's command.
fn submit_to_all(
    queues: &[Queue],
    after: WaitList,
    event: *mut Event,
    call: &dyn Fn() -> i32,
) -> i32 {
    match queues.split_first() {
        Some((&queue, rest)) => submit(queue, after, event, || {
            submit_to_all(rest, NOTHING, std::ptr::null_mut(), call)
        }),
        None => call(),
    }
}

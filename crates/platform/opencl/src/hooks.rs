//! The hooks: one exported function an OpenCL function, each as thin as its signature allows.
//!
//! A hook that enqueues passes the queue's admission and calls the driver; one that waits tells the
//! queue what is over; one that ends a queue lets go of it first. Names, order and types of
//! arguments are those of cl.h.

use std::ffi::{CStr, c_char, c_void};

use crate::{
    driver::{EventCallback, Function, Outcome},
    lookup,
    queues::{self, Entry},
    release::{self, Kind},
    sys::*,
    user_events,
};
use xsched_shim::events;

/// An OpenCL function and what stands in its place.
pub(crate) struct Hook {
    pub(crate) name: &'static CStr,
    pub(crate) address: *const c_void,
}

// SAFETY: addresses of functions, never written.
unsafe impl Sync for Hook {}

/// Defines exported functions that run `$around` with a closure that calls the real one.
macro_rules! hooks {
    ($table:ident -> $result:ty; $($name:ident / $symbol:literal ($($arg:ident: $kind:ty),*) = $around:expr;)*) => {
        $(
            #[doc = concat!("Hook of `", stringify!($name), "`.")]
            ///
            /// # Safety
            /// As the OpenCL function of that name.
            #[unsafe(no_mangle)]
            #[allow(clippy::too_many_arguments, reason = "OpenCL's signature")]
            pub unsafe extern "C" fn $name($($arg: $kind),*) -> $result {
                static REAL: Function = Function::new($symbol);
                let Some(real) = REAL.get() else { return <$result as Outcome>::MISSING };
                let call = || {
                    type Real = unsafe extern "C" fn($($kind),*) -> $result;
                    // SAFETY: the function of that name, whose signature this is (cl.h).
                    let real = unsafe { std::mem::transmute::<*mut c_void, Real>(real) };
                    // SAFETY: the caller's arguments, passed on untouched.
                    unsafe { real($($arg),*) }
                };
                $around(call)
            }
        )*
        const $table: &[Hook] = &[$(Hook { name: $symbol, address: $name as *const c_void }),*];
    };
}

/// Number and list of the events that a command waits for.
pub(crate) type WaitList = (u32, *const Event);

pub(crate) const NOTHING: WaitList = (0, std::ptr::null());

/// A command that the queue executes later.
#[inline]
pub(crate) fn submit<T: Outcome>(
    queue: Queue,
    after: WaitList,
    event: *mut Event,
    call: impl FnOnce() -> T,
) -> T {
    user_events::waited_for(after);
    let kept = queues::keep(queue);
    let Some(scheduled) = kept.as_deref().and_then(Entry::scheduled) else {
        return call();
    };
    let pass = scheduled.queue.admit();
    let number = pass.number();
    let covers_all = !event.is_null() && pass.covers_all();
    let result = call();
    drop(pass);
    if result.succeeded()
        && !event.is_null()
        && let Some(entry) = &kept
    {
        // SAFETY: the program's place for the event, where the driver has just put it.
        let event = unsafe { *event } as usize;
        match covers_all {
            true => events::note(event, entry.note(number)),
            // What an event of this handle stood behind before, this one does not.
            false => events::forget(event),
        }
    }
    result
}

/// A command that is over when the call returns, if `blocking` is not 0; in an in-order queue so
/// is everything before it.
#[inline]
pub(crate) fn submit_and_wait<T: Outcome>(
    queue: Queue,
    blocking: u32,
    after: WaitList,
    event: *mut Event,
    call: impl FnOnce() -> T,
) -> T {
    if blocking == 0 {
        return submit(queue, after, event, call);
    }
    user_events::waited_for(after);
    let kept = queues::keep(queue);
    let Some(scheduled) = kept.as_deref().and_then(Entry::scheduled) else {
        return call();
    };
    let pass = scheduled.queue.admit();
    let number = pass.number();
    let covers_all = pass.covers_all();
    let result = call();
    drop(pass);
    if result.succeeded() && covers_all && scheduled.in_order {
        let point = scheduled.queue.begin_synchronize();
        scheduled
            .queue
            .end_synchronize(point.filter(|point| point.number() == number));
    }
    result
}

hooks! { SUBMITTING -> i32;
    clEnqueueNDRangeKernel / c"clEnqueueNDRangeKernel" (queue: Queue, kernel: Opaque, dimensions: u32, offset: Opaque, global: Opaque, local: Opaque, count: u32, list: *const Event, event: *mut Event) = |call| submit(queue, (count, list), event, call);
    clEnqueueTask / c"clEnqueueTask" (queue: Queue, kernel: Opaque, count: u32, list: *const Event, event: *mut Event) = |call| submit(queue, (count, list), event, call);
    clEnqueueNativeKernel / c"clEnqueueNativeKernel" (queue: Queue, function: Opaque, arguments: Opaque, bytes: usize, objects: u32, object_list: *const Event, places: Opaque, count: u32, list: *const Event, event: *mut Event) = |call| submit(queue, (count, list), event, call);
    clEnqueueCopyBuffer / c"clEnqueueCopyBuffer" (queue: Queue, from: Opaque, to: Opaque, from_offset: usize, to_offset: usize, bytes: usize, count: u32, list: *const Event, event: *mut Event) = |call| submit(queue, (count, list), event, call);
    clEnqueueCopyBufferRect / c"clEnqueueCopyBufferRect" (queue: Queue, from: Opaque, to: Opaque, from_origin: Opaque, to_origin: Opaque, region: Opaque, from_row: usize, from_slice: usize, to_row: usize, to_slice: usize, count: u32, list: *const Event, event: *mut Event) = |call| submit(queue, (count, list), event, call);
    clEnqueueCopyImage / c"clEnqueueCopyImage" (queue: Queue, from: Opaque, to: Opaque, from_origin: Opaque, to_origin: Opaque, region: Opaque, count: u32, list: *const Event, event: *mut Event) = |call| submit(queue, (count, list), event, call);
    clEnqueueCopyImageToBuffer / c"clEnqueueCopyImageToBuffer" (queue: Queue, from: Opaque, to: Opaque, origin: Opaque, region: Opaque, to_offset: usize, count: u32, list: *const Event, event: *mut Event) = |call| submit(queue, (count, list), event, call);
    clEnqueueCopyBufferToImage / c"clEnqueueCopyBufferToImage" (queue: Queue, from: Opaque, to: Opaque, from_offset: usize, origin: Opaque, region: Opaque, count: u32, list: *const Event, event: *mut Event) = |call| submit(queue, (count, list), event, call);
    clEnqueueFillBuffer / c"clEnqueueFillBuffer" (queue: Queue, buffer: Opaque, pattern: Opaque, pattern_bytes: usize, offset: usize, bytes: usize, count: u32, list: *const Event, event: *mut Event) = |call| submit(queue, (count, list), event, call);
    clEnqueueFillImage / c"clEnqueueFillImage" (queue: Queue, image: Opaque, color: Opaque, origin: Opaque, region: Opaque, count: u32, list: *const Event, event: *mut Event) = |call| submit(queue, (count, list), event, call);
    clEnqueueUnmapMemObject / c"clEnqueueUnmapMemObject" (queue: Queue, object: Opaque, mapped: Opaque, count: u32, list: *const Event, event: *mut Event) = |call| submit(queue, (count, list), event, call);
    clEnqueueMigrateMemObjects / c"clEnqueueMigrateMemObjects" (queue: Queue, objects: u32, object_list: *const Event, flags: u64, count: u32, list: *const Event, event: *mut Event) = |call| submit(queue, (count, list), event, call);
    clEnqueueMarkerWithWaitList / c"clEnqueueMarkerWithWaitList" (queue: Queue, count: u32, list: *const Event, event: *mut Event) = |call| submit(queue, (count, list), event, call);
    clEnqueueBarrierWithWaitList / c"clEnqueueBarrierWithWaitList" (queue: Queue, count: u32, list: *const Event, event: *mut Event) = |call| submit(queue, (count, list), event, call);
    clEnqueueMarker / c"clEnqueueMarker" (queue: Queue, event: *mut Event) = |call| submit(queue, NOTHING, event, call);
    clEnqueueBarrier / c"clEnqueueBarrier" (queue: Queue) = |call| submit(queue, NOTHING, std::ptr::null_mut(), call);
    clEnqueueWaitForEvents / c"clEnqueueWaitForEvents" (queue: Queue, count: u32, list: *const Event) = |call| submit(queue, (count, list), std::ptr::null_mut(), call);
    clEnqueueSVMFree / c"clEnqueueSVMFree" (queue: Queue, pointers: u32, pointer_list: *const Event, callback: Opaque, data: Opaque, count: u32, list: *const Event, event: *mut Event) = |call| submit(queue, (count, list), event, call);
    clEnqueueSVMMemFill / c"clEnqueueSVMMemFill" (queue: Queue, pointer: Opaque, pattern: Opaque, pattern_bytes: usize, bytes: usize, count: u32, list: *const Event, event: *mut Event) = |call| submit(queue, (count, list), event, call);
    clEnqueueSVMUnmap / c"clEnqueueSVMUnmap" (queue: Queue, pointer: Opaque, count: u32, list: *const Event, event: *mut Event) = |call| submit(queue, (count, list), event, call);
    clEnqueueSVMMigrateMem / c"clEnqueueSVMMigrateMem" (queue: Queue, pointers: u32, pointer_list: *const Event, sizes: Opaque, flags: u64, count: u32, list: *const Event, event: *mut Event) = |call| submit(queue, (count, list), event, call);
    clEnqueueAcquireGLObjects / c"clEnqueueAcquireGLObjects" (queue: Queue, objects: u32, object_list: *const Event, count: u32, list: *const Event, event: *mut Event) = |call| submit(queue, (count, list), event, call);
    clEnqueueReleaseGLObjects / c"clEnqueueReleaseGLObjects" (queue: Queue, objects: u32, object_list: *const Event, count: u32, list: *const Event, event: *mut Event) = |call| submit(queue, (count, list), event, call);
    clEnqueueAcquireEGLObjectsKHR / c"clEnqueueAcquireEGLObjectsKHR" (queue: Queue, objects: u32, object_list: *const Event, count: u32, list: *const Event, event: *mut Event) = |call| submit(queue, (count, list), event, call);
    clEnqueueReleaseEGLObjectsKHR / c"clEnqueueReleaseEGLObjectsKHR" (queue: Queue, objects: u32, object_list: *const Event, count: u32, list: *const Event, event: *mut Event) = |call| submit(queue, (count, list), event, call);
}

hooks! { BLOCKING -> i32;
    clEnqueueReadBuffer / c"clEnqueueReadBuffer" (queue: Queue, buffer: Opaque, blocking: u32, offset: usize, bytes: usize, to: Opaque, count: u32, list: *const Event, event: *mut Event) = |call| submit_and_wait(queue, blocking, (count, list), event, call);
    clEnqueueWriteBuffer / c"clEnqueueWriteBuffer" (queue: Queue, buffer: Opaque, blocking: u32, offset: usize, bytes: usize, from: Opaque, count: u32, list: *const Event, event: *mut Event) = |call| submit_and_wait(queue, blocking, (count, list), event, call);
    clEnqueueReadBufferRect / c"clEnqueueReadBufferRect" (queue: Queue, buffer: Opaque, blocking: u32, origin: Opaque, host_origin: Opaque, region: Opaque, row: usize, slice: usize, host_row: usize, host_slice: usize, to: Opaque, count: u32, list: *const Event, event: *mut Event) = |call| submit_and_wait(queue, blocking, (count, list), event, call);
    clEnqueueWriteBufferRect / c"clEnqueueWriteBufferRect" (queue: Queue, buffer: Opaque, blocking: u32, origin: Opaque, host_origin: Opaque, region: Opaque, row: usize, slice: usize, host_row: usize, host_slice: usize, from: Opaque, count: u32, list: *const Event, event: *mut Event) = |call| submit_and_wait(queue, blocking, (count, list), event, call);
    clEnqueueReadImage / c"clEnqueueReadImage" (queue: Queue, image: Opaque, blocking: u32, origin: Opaque, region: Opaque, row: usize, slice: usize, to: Opaque, count: u32, list: *const Event, event: *mut Event) = |call| submit_and_wait(queue, blocking, (count, list), event, call);
    clEnqueueWriteImage / c"clEnqueueWriteImage" (queue: Queue, image: Opaque, blocking: u32, origin: Opaque, region: Opaque, row: usize, slice: usize, from: Opaque, count: u32, list: *const Event, event: *mut Event) = |call| submit_and_wait(queue, blocking, (count, list), event, call);
    clEnqueueSVMMemcpy / c"clEnqueueSVMMemcpy" (queue: Queue, blocking: u32, to: Opaque, from: Opaque, bytes: usize, count: u32, list: *const Event, event: *mut Event) = |call| submit_and_wait(queue, blocking, (count, list), event, call);
    clEnqueueSVMMap / c"clEnqueueSVMMap" (queue: Queue, blocking: u32, flags: u64, pointer: Opaque, bytes: usize, count: u32, list: *const Event, event: *mut Event) = |call| submit_and_wait(queue, blocking, (count, list), event, call);
}

hooks! { MAPPING -> Opaque;
    clEnqueueMapBuffer / c"clEnqueueMapBuffer" (queue: Queue, buffer: Opaque, blocking: u32, flags: u64, offset: usize, bytes: usize, count: u32, list: *const Event, event: *mut Event, error: *mut i32) = |call| submit_and_wait(queue, blocking, (count, list), event, call);
    clEnqueueMapImage / c"clEnqueueMapImage" (queue: Queue, image: Opaque, blocking: u32, flags: u64, origin: Opaque, region: Opaque, row: Opaque, slice: Opaque, count: u32, list: *const Event, event: *mut Event, error: *mut i32) = |call| submit_and_wait(queue, blocking, (count, list), event, call);
}

hooks! { WAITING -> i32;
    clFinish / c"clFinish" (queue: Queue) = |call| queues::synchronize(queue, call);
    clWaitForEvents / c"clWaitForEvents" (count: u32, list: *const Event) = |call| wait_for_events(count, list, call);
    clGetEventInfo / c"clGetEventInfo" (event: Event, name: u32, size: usize, value: *mut i32, needed: *mut usize) = |call| look_at_event(event, name, value, call);
}

/// Around a wait for events.
fn wait_for_events(count: u32, list: *const Event, call: impl FnOnce() -> i32) -> i32 {
    let mut points = Vec::new();
    if !list.is_null() {
        for index in 0..count as usize {
            // SAFETY: the program's own list of this length.
            let place = unsafe { list.add(index) };
            // SAFETY: as above.
            points.extend(queues::point(unsafe { *place }));
        }
    }
    let result = call();
    if result == CL_SUCCESS {
        points.into_iter().for_each(queues::Point::reached);
    }
    result
}

/// Around a look at an event.
fn look_at_event(event: Event, name: u32, value: *mut i32, call: impl FnOnce() -> i32) -> i32 {
    let asks = name == CL_EVENT_COMMAND_EXECUTION_STATUS && !value.is_null();
    let point = asks.then(|| queues::point(event)).flatten();
    let result = call();
    if result == CL_SUCCESS
        && let Some(point) = point
        // SAFETY: the program's place for an int, where the driver has just put the status.
        && unsafe { *value } == CL_COMPLETE
    {
        point.reached();
    }
    result
}

hooks! { MAKING -> Opaque;
    clCreateCommandQueue / c"clCreateCommandQueue" (context: Opaque, device: Opaque, properties: u64, error: *mut i32) = |call| queues::create(context, device, call);
    clCreateCommandQueueWithProperties / c"clCreateCommandQueueWithProperties" (context: Opaque, device: Opaque, properties: Opaque, error: *mut i32) = |call| queues::create(context, device, call);
    clCreateUserEvent / c"clCreateUserEvent" (context: Opaque, error: *mut i32) = user_events::create;
}

hooks! { LIFE -> i32;
    clRetainCommandQueue / c"clRetainCommandQueue" (queue: Queue) = |call| queues::retain(queue, call);
    clReleaseCommandQueue / c"clReleaseCommandQueue" (queue: Queue) = |call| release::queue(queue, call);
    clReleaseContext / c"clReleaseContext" (object: Opaque) = |call| release::around(Kind::Context, object, call);
    clReleaseDevice / c"clReleaseDevice" (object: Opaque) = |call| release::around(Kind::Device, object, call);
    clReleaseDeviceEXT / c"clReleaseDeviceEXT" (object: Opaque) = |call| release::around(Kind::DeviceExt, object, call);
    clReleaseMemObject / c"clReleaseMemObject" (object: Opaque) = |call| release::around(Kind::Mem, object, call);
    clReleaseKernel / c"clReleaseKernel" (object: Opaque) = |call| release::around(Kind::Kernel, object, call);
    clReleaseProgram / c"clReleaseProgram" (object: Opaque) = |call| release::around(Kind::Program, object, call);
    clReleaseSampler / c"clReleaseSampler" (object: Opaque) = |call| release::around(Kind::Sampler, object, call);
    clRetainEvent / c"clRetainEvent" (event: Event) = |call| user_events::retain(event, call);
    clReleaseEvent / c"clReleaseEvent" (event: Event) = |call| user_events::release(event, call);
    clSetUserEventStatus / c"clSetUserEventStatus" (event: Event, status: i32) = |call| user_events::set(event, call);
}

hooks! { LOOKUP -> Opaque;
    clGetExtensionFunctionAddress / c"clGetExtensionFunctionAddress" (name: *const c_char) = |call| extension(name, call);
    clGetExtensionFunctionAddressForPlatform / c"clGetExtensionFunctionAddressForPlatform" (platform: Opaque, name: *const c_char) = |call| extension(name, call);
}

fn extension(name: *const c_char, call: impl FnOnce() -> Opaque) -> Opaque {
    lookup::extension(name, call())
}

/// Hook of `clSetEventCallback`, which passes other arguments on than it gets.
///
/// # Safety
/// As the OpenCL function of that name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clSetEventCallback(
    event: Event,
    status: i32,
    callback: Option<EventCallback>,
    data: Opaque,
) -> i32 {
    user_events::set_callback(callback, data, |callback, data| {
        // SAFETY: the caller's event, and a callback that matches its data.
        unsafe { crate::driver::event_callback(event, status, callback, data) }
    })
}

const CALLBACK: &[Hook] = &[Hook {
    name: c"clSetEventCallback",
    address: clSetEventCallback as *const c_void,
}];

/// The hook of this name.
pub(crate) fn by_name(name: &CStr) -> Option<*mut c_void> {
    let tables = [
        SUBMITTING, BLOCKING, MAPPING, WAITING, MAKING, LIFE, LOOKUP, CALLBACK,
    ];
    let mut all = tables.into_iter().flatten();
    let hook = all.find(|hook| hook.name == name)?;
    Some(hook.address.cast_mut())
}

//! The hooks: one exported function a function of the runtime, each as thin as its signature allows.
//!
//! A hook that submits work passes the stream's admission and calls the runtime; one that
//! synchronizes tells the stream's queue what is over; one that ends a stream lets go of its queue
//! first. Names, order and types of arguments are those of hip_runtime_api.h.

use std::ffi::{CStr, c_void};

use crate::{
    runtime::Function,
    streams::{
        self, Entry,
        Flavour::{self, Legacy, PerThread},
    },
    sys::*,
};

/// A function of the runtime and what stands in its place.
pub(crate) struct Hook {
    pub(crate) name: &'static CStr,
    pub(crate) address: *const c_void,
}

// SAFETY: addresses of functions, never written.
unsafe impl Sync for Hook {}

const fn terminated(text: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(text.as_bytes()) {
        Ok(text) => text,
        Err(_) => panic!("a name without its end"),
    }
}

/// Defines exported functions that run `$around` with a closure that calls the runtime, where `$enter` says
/// that they have anything to do.
macro_rules! hooks {
    ($table:ident; $($hooks:tt)*) => { hooks! { $table, streams::enter; $($hooks)* } };
    ($table:ident, $enter:path; $($name:ident / $symbol:literal ($($arg:ident: $kind:ty),*) = $around:expr;)*) => {
        $(
            #[doc = concat!("Hook of `", $symbol, "`.")]
            ///
            /// # Safety
            /// As the runtime's function of that name.
            #[unsafe(export_name = $symbol)]
            #[allow(clippy::too_many_arguments, reason = "the runtime's signature")]
            #[allow(non_snake_case, reason = "the runtime's name")]
            pub unsafe extern "C" fn $name($($arg: $kind),*) -> hipError_t {
                static REAL: Function = Function::new(terminated(concat!($symbol, "\0")));
                let Some(real) = REAL.get() else { return HIP_ERROR_NOT_FOUND };
                let call = || {
                    type Real = unsafe extern "C" fn($($kind),*) -> hipError_t;
                    // SAFETY: the runtime's function, whose signature this is.
                    let real = unsafe { std::mem::transmute::<*mut c_void, Real>(real) };
                    // SAFETY: the caller's arguments, passed on untouched.
                    unsafe { real($($arg),*) }
                };
                if !$enter() {
                    return call();
                }
                let result = around(call, $around);
                streams::leave();
                result
            }
        )*
        const $table: &[Hook] = &[$(Hook {
            name: terminated(concat!($symbol, "\0")),
            address: $name as *const c_void,
        }),*];
    };
}

/// Ties the type of `around` to that of the call.
#[inline]
fn around<C: FnOnce() -> hipError_t>(call: C, around: impl FnOnce(C) -> hipError_t) -> hipError_t {
    around(call)
}

/// Work for a stream.
#[inline]
fn submit(stream: hipStream_t, flavour: Flavour, call: impl FnOnce() -> hipError_t) -> hipError_t {
    let Some(queue) = streams::way(stream, flavour) else {
        return call();
    };
    let follows = queue
        .hw()
        .wants_follower(|| queue.begin_synchronize().is_none());
    let pass = queue.admit();
    let result = call();
    if follows && queue.level().is_some() {
        // Before the pass says that the runtime has the command.
        queue.hw().follow();
    }
    drop(pass);
    result
}

/// Work for several streams at once, each of another device.
fn submit_to_all<L: OneLaunch>(
    list: *const L,
    count: i32,
    call: impl FnOnce() -> hipError_t,
) -> hipError_t {
    let count = if list.is_null() { 0 } else { count.max(0) };
    let passes: Vec<_> = (0..count as usize)
        .filter_map(|index| {
            // SAFETY: the program's own list of so many launches, valid for the duration of its call.
            let launch = unsafe { list.add(index) };
            // SAFETY: as above.
            let stream = unsafe { &*launch }.stream();
            // A null stream would be that of the launch's device, which only the runtime knows.
            let way = (stream as usize > HIP_STREAM_PER_THREAD)
                .then(|| streams::way(stream, Legacy))
                .flatten();
            way.map(|queue| queue.admit())
        })
        .collect();
    let result = call();
    drop(passes);
    result
}

/// Work that the stream has executed when the call returns, and everything before it.
fn submit_and_wait(
    stream: hipStream_t,
    flavour: Flavour,
    call: impl FnOnce() -> hipError_t,
) -> hipError_t {
    let kept = streams::kept_way(stream, flavour);
    let Some(queue) = kept.as_deref().and_then(Entry::queue) else {
        return call();
    };
    let pass = queue.admit();
    let number = pass.number();
    let covers_all = pass.covers_all();
    let result = call();
    drop(pass);
    if result == HIP_SUCCESS && covers_all {
        let point = queue.begin_synchronize();
        queue.end_synchronize(point.filter(|point| point.number() == number));
    }
    result
}

fn stream_of(config: *const LaunchConfig) -> hipStream_t {
    if config.is_null() {
        return std::ptr::null_mut();
    }
    // SAFETY: the program's own launch configuration, valid for the duration of its call; only the
    // field at the pinned offset is read.
    unsafe { (*config).stream }
}

fn driver_stream_of(config: *const DriverLaunchConfig) -> hipStream_t {
    if config.is_null() {
        return std::ptr::null_mut();
    }
    // SAFETY: as in `stream_of`.
    unsafe { (*config).stream }
}

// Work that the stream executes later.
hooks! { SUBMITTING;
    hipLaunchKernel / "hipLaunchKernel" (f: Opaque, grid: Dim3, block: Dim3, arguments: Opaque, shared: usize, stream: hipStream_t) = |call| submit(stream, Legacy, call);
    hipLaunchKernel_spt / "hipLaunchKernel_spt" (f: Opaque, grid: Dim3, block: Dim3, arguments: Opaque, shared: usize, stream: hipStream_t) = |call| submit(stream, PerThread, call);
    hipLaunchCooperativeKernel / "hipLaunchCooperativeKernel" (f: Opaque, grid: Dim3, block: Dim3, arguments: Opaque, shared: u32, stream: hipStream_t) = |call| submit(stream, Legacy, call);
    hipLaunchCooperativeKernel_spt / "hipLaunchCooperativeKernel_spt" (f: Opaque, grid: Dim3, block: Dim3, arguments: Opaque, shared: u32, stream: hipStream_t) = |call| submit(stream, PerThread, call);
    hipExtLaunchKernel / "hipExtLaunchKernel" (f: Opaque, grid: Dim3, block: Dim3, arguments: Opaque, shared: usize, stream: hipStream_t, start: Opaque, stop: Opaque, flags: i32) = |call| submit(stream, Legacy, call);
    hipLaunchCooperativeKernelMultiDevice / "hipLaunchCooperativeKernelMultiDevice" (list: *const LaunchParams, count: i32, flags: u32) = |call| submit_to_all(list, count, call);
    hipExtLaunchMultiKernelMultiDevice / "hipExtLaunchMultiKernelMultiDevice" (list: *const LaunchParams, count: i32, flags: u32) = |call| submit_to_all(list, count, call);
    hipModuleLaunchKernel / "hipModuleLaunchKernel" (f: Opaque, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, shared: u32, stream: hipStream_t, params: Opaque, extra: Opaque) = |call| submit(stream, Legacy, call);
    hipModuleLaunchCooperativeKernel / "hipModuleLaunchCooperativeKernel" (f: Opaque, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, shared: u32, stream: hipStream_t, params: Opaque) = |call| submit(stream, Legacy, call);
    hipExtModuleLaunchKernel / "hipExtModuleLaunchKernel" (f: Opaque, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, shared: usize, stream: hipStream_t, params: Opaque, extra: Opaque, start: Opaque, stop: Opaque, flags: u32) = |call| submit(stream, Legacy, call);
    hipExtModuleLaunchKernel_cpp / "_Z24hipExtModuleLaunchKernelP18ihipModuleSymbol_tjjjjjjmP12ihipStream_tPPvS4_P11ihipEvent_tS6_j" (f: Opaque, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, shared: usize, stream: hipStream_t, params: Opaque, extra: Opaque, start: Opaque, stop: Opaque, flags: u32) = |call| submit(stream, Legacy, call);
    hipHccModuleLaunchKernel_cpp / "_Z24hipHccModuleLaunchKernelP18ihipModuleSymbol_tjjjjjjmP12ihipStream_tPPvS4_P11ihipEvent_tS6_" (f: Opaque, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, shared: usize, stream: hipStream_t, params: Opaque, extra: Opaque, start: Opaque, stop: Opaque) = |call| submit(stream, Legacy, call);
    hipModuleLaunchCooperativeKernelMultiDevice / "hipModuleLaunchCooperativeKernelMultiDevice" (list: *const FunctionLaunchParams, count: i32, flags: u32) = |call| submit_to_all(list, count, call);
    hipLaunchByPtr / "hipLaunchByPtr" (f: Opaque) = |call| submit(streams::configured(), Legacy, call);
    hipLaunchKernelExC / "hipLaunchKernelExC" (config: *const LaunchConfig, f: Opaque, arguments: Opaque) = |call| submit(stream_of(config), Legacy, call);
    hipDrvLaunchKernelEx / "hipDrvLaunchKernelEx" (config: *const DriverLaunchConfig, f: Opaque, arguments: Opaque, extra: Opaque) = |call| submit(driver_stream_of(config), Legacy, call);
    hipLaunchHostFunc / "hipLaunchHostFunc" (stream: hipStream_t, function: Opaque, data: Opaque) = |call| submit(stream, Legacy, call);
    hipLaunchHostFunc_spt / "hipLaunchHostFunc_spt" (stream: hipStream_t, function: Opaque, data: Opaque) = |call| submit(stream, PerThread, call);
    hipStreamAddCallback / "hipStreamAddCallback" (stream: hipStream_t, function: Opaque, data: Opaque, flags: u32) = |call| submit(stream, Legacy, call);
    hipStreamAddCallback_spt / "hipStreamAddCallback_spt" (stream: hipStream_t, function: Opaque, data: Opaque, flags: u32) = |call| submit(stream, PerThread, call);
    hipGraphLaunch / "hipGraphLaunch" (exec: Opaque, stream: hipStream_t) = |call| submit(stream, Legacy, call);
    hipGraphLaunch_spt / "hipGraphLaunch_spt" (exec: Opaque, stream: hipStream_t) = |call| submit(stream, PerThread, call);
    hipMemcpyAsync / "hipMemcpyAsync" (to: Opaque, from: Opaque, bytes: usize, kind: i32, stream: hipStream_t) = |call| submit(stream, Legacy, call);
    hipMemcpyAsync_spt / "hipMemcpyAsync_spt" (to: Opaque, from: Opaque, bytes: usize, kind: i32, stream: hipStream_t) = |call| submit(stream, PerThread, call);
    hipMemcpyPeerAsync / "hipMemcpyPeerAsync" (to: Opaque, to_device: i32, from: Opaque, from_device: i32, bytes: usize, stream: hipStream_t) = |call| submit(stream, Legacy, call);
    hipMemcpyHtoDAsync / "hipMemcpyHtoDAsync" (to: Opaque, from: Opaque, bytes: usize, stream: hipStream_t) = |call| submit(stream, Legacy, call);
    hipMemcpyDtoHAsync / "hipMemcpyDtoHAsync" (to: Opaque, from: Opaque, bytes: usize, stream: hipStream_t) = |call| submit(stream, Legacy, call);
    hipMemcpyDtoDAsync / "hipMemcpyDtoDAsync" (to: Opaque, from: Opaque, bytes: usize, stream: hipStream_t) = |call| submit(stream, Legacy, call);
    hipMemcpyHtoAAsync / "hipMemcpyHtoAAsync" (to: Opaque, offset: usize, from: Opaque, bytes: usize, stream: hipStream_t) = |call| submit(stream, Legacy, call);
    hipMemcpyAtoHAsync / "hipMemcpyAtoHAsync" (to: Opaque, from: Opaque, offset: usize, bytes: usize, stream: hipStream_t) = |call| submit(stream, Legacy, call);
    hipMemcpy2DAsync / "hipMemcpy2DAsync" (to: Opaque, to_pitch: usize, from: Opaque, from_pitch: usize, width: usize, height: usize, kind: i32, stream: hipStream_t) = |call| submit(stream, Legacy, call);
    hipMemcpy2DAsync_spt / "hipMemcpy2DAsync_spt" (to: Opaque, to_pitch: usize, from: Opaque, from_pitch: usize, width: usize, height: usize, kind: i32, stream: hipStream_t) = |call| submit(stream, PerThread, call);
    hipMemcpyParam2DAsync / "hipMemcpyParam2DAsync" (copy: Opaque, stream: hipStream_t) = |call| submit(stream, Legacy, call);
    hipMemcpy3DAsync / "hipMemcpy3DAsync" (copy: Opaque, stream: hipStream_t) = |call| submit(stream, Legacy, call);
    hipMemcpy3DAsync_spt / "hipMemcpy3DAsync_spt" (copy: Opaque, stream: hipStream_t) = |call| submit(stream, PerThread, call);
    hipDrvMemcpy3DAsync / "hipDrvMemcpy3DAsync" (copy: Opaque, stream: hipStream_t) = |call| submit(stream, Legacy, call);
    hipMemcpy2DFromArrayAsync / "hipMemcpy2DFromArrayAsync" (to: Opaque, pitch: usize, from: Opaque, x: usize, y: usize, width: usize, height: usize, kind: i32, stream: hipStream_t) = |call| submit(stream, Legacy, call);
    hipMemcpy2DFromArrayAsync_spt / "hipMemcpy2DFromArrayAsync_spt" (to: Opaque, pitch: usize, from: Opaque, x: usize, y: usize, width: usize, height: usize, kind: i32, stream: hipStream_t) = |call| submit(stream, PerThread, call);
    hipMemcpy2DToArrayAsync / "hipMemcpy2DToArrayAsync" (to: Opaque, x: usize, y: usize, from: Opaque, pitch: usize, width: usize, height: usize, kind: i32, stream: hipStream_t) = |call| submit(stream, Legacy, call);
    hipMemcpy2DToArrayAsync_spt / "hipMemcpy2DToArrayAsync_spt" (to: Opaque, x: usize, y: usize, from: Opaque, pitch: usize, width: usize, height: usize, kind: i32, stream: hipStream_t) = |call| submit(stream, PerThread, call);
    hipMemcpyToSymbolAsync / "hipMemcpyToSymbolAsync" (to: Opaque, from: Opaque, bytes: usize, offset: usize, kind: i32, stream: hipStream_t) = |call| submit(stream, Legacy, call);
    hipMemcpyToSymbolAsync_spt / "hipMemcpyToSymbolAsync_spt" (to: Opaque, from: Opaque, bytes: usize, offset: usize, kind: i32, stream: hipStream_t) = |call| submit(stream, PerThread, call);
    hipMemcpyFromSymbolAsync / "hipMemcpyFromSymbolAsync" (to: Opaque, from: Opaque, bytes: usize, offset: usize, kind: i32, stream: hipStream_t) = |call| submit(stream, Legacy, call);
    hipMemcpyFromSymbolAsync_spt / "hipMemcpyFromSymbolAsync_spt" (to: Opaque, from: Opaque, bytes: usize, offset: usize, kind: i32, stream: hipStream_t) = |call| submit(stream, PerThread, call);
    hipMemsetAsync / "hipMemsetAsync" (to: Opaque, value: i32, bytes: usize, stream: hipStream_t) = |call| submit(stream, Legacy, call);
    hipMemsetAsync_spt / "hipMemsetAsync_spt" (to: Opaque, value: i32, bytes: usize, stream: hipStream_t) = |call| submit(stream, PerThread, call);
    hipMemsetD8Async / "hipMemsetD8Async" (to: Opaque, value: u8, count: usize, stream: hipStream_t) = |call| submit(stream, Legacy, call);
    hipMemsetD16Async / "hipMemsetD16Async" (to: Opaque, value: u16, count: usize, stream: hipStream_t) = |call| submit(stream, Legacy, call);
    hipMemsetD32Async / "hipMemsetD32Async" (to: Opaque, value: i32, count: usize, stream: hipStream_t) = |call| submit(stream, Legacy, call);
    hipMemset2DAsync / "hipMemset2DAsync" (to: Opaque, pitch: usize, value: i32, width: usize, height: usize, stream: hipStream_t) = |call| submit(stream, Legacy, call);
    hipMemset2DAsync_spt / "hipMemset2DAsync_spt" (to: Opaque, pitch: usize, value: i32, width: usize, height: usize, stream: hipStream_t) = |call| submit(stream, PerThread, call);
    hipMemset3DAsync / "hipMemset3DAsync" (to: PitchedPtr, value: i32, extent: Extent, stream: hipStream_t) = |call| submit(stream, Legacy, call);
    hipMemset3DAsync_spt / "hipMemset3DAsync_spt" (to: PitchedPtr, value: i32, extent: Extent, stream: hipStream_t) = |call| submit(stream, PerThread, call);
    hipMemcpy3DPeerAsync / "hipMemcpy3DPeerAsync" (copy: Opaque, stream: hipStream_t) = |call| submit(stream, Legacy, call);
    hipMemcpyBatchAsync / "hipMemcpyBatchAsync" (to: Opaque, from: Opaque, bytes: Opaque, count: usize, attributes: Opaque, indices: Opaque, attribute_count: usize, failed: Opaque, stream: hipStream_t) = |call| submit(stream, Legacy, call);
    hipMemcpy3DBatchAsync / "hipMemcpy3DBatchAsync" (count: usize, list: Opaque, failed: Opaque, flags: u64, stream: hipStream_t) = |call| submit(stream, Legacy, call);
    hipMemsetD2D8Async / "hipMemsetD2D8Async" (to: Opaque, pitch: usize, value: u8, width: usize, height: usize, stream: hipStream_t) = |call| submit(stream, Legacy, call);
    hipMemsetD2D16Async / "hipMemsetD2D16Async" (to: Opaque, pitch: usize, value: u16, width: usize, height: usize, stream: hipStream_t) = |call| submit(stream, Legacy, call);
    hipMemsetD2D32Async / "hipMemsetD2D32Async" (to: Opaque, pitch: usize, value: u32, width: usize, height: usize, stream: hipStream_t) = |call| submit(stream, Legacy, call);
    hipMemPrefetchAsync_v2 / "hipMemPrefetchAsync_v2" (memory: Opaque, bytes: usize, location: MemLocation, flags: u32, stream: hipStream_t) = |call| submit(stream, Legacy, call);
    hipMemPrefetchAsync / "hipMemPrefetchAsync" (memory: Opaque, bytes: usize, device: i32, stream: hipStream_t) = |call| submit(stream, Legacy, call);
    hipMallocAsync / "hipMallocAsync" (place: Opaque, bytes: usize, stream: hipStream_t) = |call| submit(stream, Legacy, call);
    hipMallocFromPoolAsync / "hipMallocFromPoolAsync" (place: Opaque, bytes: usize, pool: Opaque, stream: hipStream_t) = |call| submit(stream, Legacy, call);
    hipFreeAsync / "hipFreeAsync" (memory: Opaque, stream: hipStream_t) = |call| submit(stream, Legacy, call);
}

// Copies and fills that the call waits for, or may.
hooks! { BLOCKING;
    hipMemcpyWithStream / "hipMemcpyWithStream" (to: Opaque, from: Opaque, bytes: usize, kind: i32, stream: hipStream_t) = |call| submit_and_wait(stream, Legacy, call);
    hipMemcpy / "hipMemcpy" (to: Opaque, from: Opaque, bytes: usize, kind: i32) = |call| submit(std::ptr::null_mut(), Legacy, call);
    hipMemcpy_spt / "hipMemcpy_spt" (to: Opaque, from: Opaque, bytes: usize, kind: i32) = |call| submit(std::ptr::null_mut(), PerThread, call);
    hipMemcpyPeer / "hipMemcpyPeer" (to: Opaque, to_device: i32, from: Opaque, from_device: i32, bytes: usize) = |call| submit(std::ptr::null_mut(), Legacy, call);
    hipMemcpyHtoD / "hipMemcpyHtoD" (to: Opaque, from: Opaque, bytes: usize) = |call| submit(std::ptr::null_mut(), Legacy, call);
    hipMemcpyDtoH / "hipMemcpyDtoH" (to: Opaque, from: Opaque, bytes: usize) = |call| submit_and_wait(std::ptr::null_mut(), Legacy, call);
    hipMemcpyDtoD / "hipMemcpyDtoD" (to: Opaque, from: Opaque, bytes: usize) = |call| submit(std::ptr::null_mut(), Legacy, call);
    hipMemcpyHtoA / "hipMemcpyHtoA" (to: Opaque, offset: usize, from: Opaque, bytes: usize) = |call| submit(std::ptr::null_mut(), Legacy, call);
    hipMemcpyAtoH / "hipMemcpyAtoH" (to: Opaque, from: Opaque, offset: usize, bytes: usize) = |call| submit_and_wait(std::ptr::null_mut(), Legacy, call);
    hipMemcpy2D / "hipMemcpy2D" (to: Opaque, to_pitch: usize, from: Opaque, from_pitch: usize, width: usize, height: usize, kind: i32) = |call| submit(std::ptr::null_mut(), Legacy, call);
    hipMemcpy2D_spt / "hipMemcpy2D_spt" (to: Opaque, to_pitch: usize, from: Opaque, from_pitch: usize, width: usize, height: usize, kind: i32) = |call| submit(std::ptr::null_mut(), PerThread, call);
    hipMemcpyParam2D / "hipMemcpyParam2D" (copy: Opaque) = |call| submit(std::ptr::null_mut(), Legacy, call);
    hipMemcpy3D / "hipMemcpy3D" (copy: Opaque) = |call| submit(std::ptr::null_mut(), Legacy, call);
    hipMemcpy3D_spt / "hipMemcpy3D_spt" (copy: Opaque) = |call| submit(std::ptr::null_mut(), PerThread, call);
    hipDrvMemcpy3D / "hipDrvMemcpy3D" (copy: Opaque) = |call| submit(std::ptr::null_mut(), Legacy, call);
    hipDrvMemcpy2DUnaligned / "hipDrvMemcpy2DUnaligned" (copy: Opaque) = |call| submit(std::ptr::null_mut(), Legacy, call);
    hipMemcpyToSymbol / "hipMemcpyToSymbol" (to: Opaque, from: Opaque, bytes: usize, offset: usize, kind: i32) = |call| submit(std::ptr::null_mut(), Legacy, call);
    hipMemcpyToSymbol_spt / "hipMemcpyToSymbol_spt" (to: Opaque, from: Opaque, bytes: usize, offset: usize, kind: i32) = |call| submit(std::ptr::null_mut(), PerThread, call);
    hipMemcpyFromSymbol / "hipMemcpyFromSymbol" (to: Opaque, from: Opaque, bytes: usize, offset: usize, kind: i32) = |call| submit(std::ptr::null_mut(), Legacy, call);
    hipMemcpyFromSymbol_spt / "hipMemcpyFromSymbol_spt" (to: Opaque, from: Opaque, bytes: usize, offset: usize, kind: i32) = |call| submit(std::ptr::null_mut(), PerThread, call);
    hipMemcpy2DToArray / "hipMemcpy2DToArray" (to: Opaque, x: usize, y: usize, from: Opaque, pitch: usize, width: usize, height: usize, kind: i32) = |call| submit(std::ptr::null_mut(), Legacy, call);
    hipMemcpy2DToArray_spt / "hipMemcpy2DToArray_spt" (to: Opaque, x: usize, y: usize, from: Opaque, pitch: usize, width: usize, height: usize, kind: i32) = |call| submit(std::ptr::null_mut(), PerThread, call);
    hipMemcpy2DFromArray / "hipMemcpy2DFromArray" (to: Opaque, pitch: usize, from: Opaque, x: usize, y: usize, width: usize, height: usize, kind: i32) = |call| submit(std::ptr::null_mut(), Legacy, call);
    hipMemcpy2DFromArray_spt / "hipMemcpy2DFromArray_spt" (to: Opaque, pitch: usize, from: Opaque, x: usize, y: usize, width: usize, height: usize, kind: i32) = |call| submit(std::ptr::null_mut(), PerThread, call);
    hipMemcpyToArray / "hipMemcpyToArray" (to: Opaque, x: usize, y: usize, from: Opaque, bytes: usize, kind: i32) = |call| submit(std::ptr::null_mut(), Legacy, call);
    hipMemcpyFromArray / "hipMemcpyFromArray" (to: Opaque, from: Opaque, x: usize, y: usize, bytes: usize, kind: i32) = |call| submit(std::ptr::null_mut(), Legacy, call);
    hipMemcpyFromArray_spt / "hipMemcpyFromArray_spt" (to: Opaque, from: Opaque, x: usize, y: usize, bytes: usize, kind: i32) = |call| submit(std::ptr::null_mut(), PerThread, call);
    hipMemcpyAtoD / "hipMemcpyAtoD" (to: Opaque, from: Opaque, offset: usize, bytes: usize) = |call| submit(std::ptr::null_mut(), Legacy, call);
    hipMemcpyDtoA / "hipMemcpyDtoA" (to: Opaque, offset: usize, from: Opaque, bytes: usize) = |call| submit(std::ptr::null_mut(), Legacy, call);
    hipMemcpyAtoA / "hipMemcpyAtoA" (to: Opaque, to_offset: usize, from: Opaque, offset: usize, bytes: usize) = |call| submit(std::ptr::null_mut(), Legacy, call);
    hipMemcpy2DArrayToArray / "hipMemcpy2DArrayToArray" (to: Opaque, to_x: usize, to_y: usize, from: Opaque, x: usize, y: usize, width: usize, height: usize, kind: i32) = |call| submit(std::ptr::null_mut(), Legacy, call);
    hipMemcpy3DPeer / "hipMemcpy3DPeer" (copy: Opaque) = |call| submit(std::ptr::null_mut(), Legacy, call);
    hipMemsetD2D8 / "hipMemsetD2D8" (to: Opaque, pitch: usize, value: u8, width: usize, height: usize) = |call| submit(std::ptr::null_mut(), Legacy, call);
    hipMemsetD2D16 / "hipMemsetD2D16" (to: Opaque, pitch: usize, value: u16, width: usize, height: usize) = |call| submit(std::ptr::null_mut(), Legacy, call);
    hipMemsetD2D32 / "hipMemsetD2D32" (to: Opaque, pitch: usize, value: u32, width: usize, height: usize) = |call| submit(std::ptr::null_mut(), Legacy, call);
    hipMemset / "hipMemset" (to: Opaque, value: i32, bytes: usize) = |call| submit(std::ptr::null_mut(), Legacy, call);
    hipMemset_spt / "hipMemset_spt" (to: Opaque, value: i32, bytes: usize) = |call| submit(std::ptr::null_mut(), PerThread, call);
    hipMemset2D / "hipMemset2D" (to: Opaque, pitch: usize, value: i32, width: usize, height: usize) = |call| submit(std::ptr::null_mut(), Legacy, call);
    hipMemset2D_spt / "hipMemset2D_spt" (to: Opaque, pitch: usize, value: i32, width: usize, height: usize) = |call| submit(std::ptr::null_mut(), PerThread, call);
    hipMemset3D / "hipMemset3D" (to: PitchedPtr, value: i32, extent: Extent) = |call| submit(std::ptr::null_mut(), Legacy, call);
    hipMemset3D_spt / "hipMemset3D_spt" (to: PitchedPtr, value: i32, extent: Extent) = |call| submit(std::ptr::null_mut(), PerThread, call);
    hipMemsetD8 / "hipMemsetD8" (to: Opaque, value: u8, count: usize) = |call| submit(std::ptr::null_mut(), Legacy, call);
    hipMemsetD16 / "hipMemsetD16" (to: Opaque, value: u16, count: usize) = |call| submit(std::ptr::null_mut(), Legacy, call);
    hipMemsetD32 / "hipMemsetD32" (to: Opaque, value: i32, count: usize) = |call| submit(std::ptr::null_mut(), Legacy, call);
}

// Waits and looks.
hooks! { WAITING;
    hipStreamSynchronize / "hipStreamSynchronize" (stream: hipStream_t) = |call| streams::synchronize(stream, Legacy, call);
    hipStreamSynchronize_spt / "hipStreamSynchronize_spt" (stream: hipStream_t) = |call| streams::synchronize(stream, PerThread, call);
    hipStreamQuery / "hipStreamQuery" (stream: hipStream_t) = |call| streams::synchronize(stream, Legacy, call);
    hipStreamQuery_spt / "hipStreamQuery_spt" (stream: hipStream_t) = |call| streams::synchronize(stream, PerThread, call);
    hipDeviceSynchronize / "hipDeviceSynchronize" () = streams::synchronize_device;
    hipCtxSynchronize / "hipCtxSynchronize" () = streams::synchronize_device;
    hipEventSynchronize / "hipEventSynchronize" (event: hipEvent_t) = |call| streams::reached(event, call);
    hipEventQuery / "hipEventQuery" (event: hipEvent_t) = |call| streams::reached(event, call);
}

// Marks of the application's.
hooks! { RECORDING, streams::enter_always;
    hipEventRecord / "hipEventRecord" (event: hipEvent_t, stream: hipStream_t) = |call| streams::record(event, stream, Legacy, call);
    hipEventRecord_spt / "hipEventRecord_spt" (event: hipEvent_t, stream: hipStream_t) = |call| streams::record(event, stream, PerThread, call);
    hipEventRecordWithFlags / "hipEventRecordWithFlags" (event: hipEvent_t, stream: hipStream_t, flags: u32) = |call| streams::record(event, stream, Legacy, call);
}

// Captures, the end of streams, and what a thread says before it launches.
hooks! { LIFE, streams::enter_always;
    hipStreamBeginCapture / "hipStreamBeginCapture" (stream: hipStream_t, mode: i32) = |call| streams::begin_capture(stream, Legacy, call);
    hipStreamBeginCapture_spt / "hipStreamBeginCapture_spt" (stream: hipStream_t, mode: i32) = |call| streams::begin_capture(stream, PerThread, call);
    hipStreamBeginCaptureToGraph / "hipStreamBeginCaptureToGraph" (stream: hipStream_t, graph: Opaque, nodes: Opaque, edges: Opaque, count: usize, mode: i32) = |call| streams::begin_capture(stream, Legacy, call);
    hipStreamEndCapture / "hipStreamEndCapture" (stream: hipStream_t, graph: Opaque) = |call| streams::end_capture(stream, Legacy, call);
    hipStreamEndCapture_spt / "hipStreamEndCapture_spt" (stream: hipStream_t, graph: Opaque) = |call| streams::end_capture(stream, PerThread, call);
    hipStreamDestroy / "hipStreamDestroy" (stream: hipStream_t) = |call| streams::destroy(stream, call);
    hipEventDestroy / "hipEventDestroy" (event: hipEvent_t) = |call| streams::forget(event, call);
    hipDeviceReset / "hipDeviceReset" () = streams::reset;
    hipSetDevice / "hipSetDevice" (device: i32) = |call| streams::set_device(device, call);
    hipConfigureCall / "hipConfigureCall" (grid: Dim3, block: Dim3, shared: usize, stream: hipStream_t) = |call| streams::configure(stream, call);
}

// Calls that may wait for everything on the device, or hold locks over such a wait.
hooks! { DEVICE_WIDE;
    hipMalloc / "hipMalloc" (place: Opaque, bytes: usize) = streams::device_wide;
    hipFree / "hipFree" (memory: Opaque) = streams::device_wide;
    hipHostMalloc / "hipHostMalloc" (place: Opaque, bytes: usize, flags: u32) = streams::device_wide;
    hipHostFree / "hipHostFree" (memory: Opaque) = streams::device_wide;
    hipHostAlloc / "hipHostAlloc" (place: Opaque, bytes: usize, flags: u32) = streams::device_wide;
    hipMallocHost / "hipMallocHost" (place: Opaque, bytes: usize) = streams::device_wide;
    hipMemAllocHost / "hipMemAllocHost" (place: Opaque, bytes: usize) = streams::device_wide;
    hipFreeHost / "hipFreeHost" (memory: Opaque) = streams::device_wide;
    hipMallocManaged / "hipMallocManaged" (place: Opaque, bytes: usize, flags: u32) = streams::device_wide;
    hipFreeArray / "hipFreeArray" (array: Opaque) = streams::device_wide;
    hipArrayDestroy / "hipArrayDestroy" (array: Opaque) = streams::device_wide;
    hipHostRegister / "hipHostRegister" (memory: Opaque, bytes: usize, flags: u32) = streams::device_wide;
    hipHostUnregister / "hipHostUnregister" (memory: Opaque) = streams::device_wide;
    hipModuleLoad / "hipModuleLoad" (place: Opaque, path: Opaque) = streams::device_wide;
    hipModuleLoadData / "hipModuleLoadData" (place: Opaque, image: Opaque) = streams::device_wide;
    hipModuleLoadDataEx / "hipModuleLoadDataEx" (place: Opaque, image: Opaque, count: u32, options: Opaque, values: Opaque) = streams::device_wide;
    hipModuleLoadFatBinary / "hipModuleLoadFatBinary" (place: Opaque, image: Opaque) = streams::device_wide;
    hipModuleUnload / "hipModuleUnload" (module: Opaque) = streams::device_wide;
    hipMemPoolTrimTo / "hipMemPoolTrimTo" (pool: Opaque, keep: usize) = streams::device_wide;
}

// The lookups that hand out the others.
hooks! { LOOKUP;
    hipGetProcAddress / "hipGetProcAddress" (name: Opaque, place: *mut Opaque, version: i32, flags: u64, status: Opaque) = |call| crate::lookup::handed_out(place, call);
    hipGetProcAddress_spt / "hipGetProcAddress_spt" (name: Opaque, place: *mut Opaque, version: i32, flags: u64, status: Opaque) = |call| crate::lookup::handed_out(place, call);
    hipGetDriverEntryPoint / "hipGetDriverEntryPoint" (name: Opaque, place: *mut Opaque, flags: u64, status: Opaque) = |call| crate::lookup::handed_out(place, call);
    hipGetDriverEntryPoint_spt / "hipGetDriverEntryPoint_spt" (name: Opaque, place: *mut Opaque, flags: u64, status: Opaque) = |call| crate::lookup::handed_out(place, call);
}

/// Every hook.
pub(crate) fn all() -> impl Iterator<Item = &'static Hook> {
    [
        SUBMITTING,
        BLOCKING,
        WAITING,
        RECORDING,
        LIFE,
        DEVICE_WIDE,
        LOOKUP,
    ]
    .into_iter()
    .flatten()
}

/// Whether programs' calls land in these hooks: not in the copy of this code in `libhalhip.so`.
pub(crate) fn are_in_front() -> bool {
    // SAFETY: a pseudo-handle.
    let found = unsafe { xsched_shim::dlsym::real(libc::RTLD_DEFAULT, c"hipLaunchKernel") };
    found.cast_const() == hipLaunchKernel as *const c_void
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hook_is_exported_with_a_version_and_nothing_else_is() {
        let map = include_str!("../exports.map");
        let mut exported: Vec<_> = map
            .lines()
            .filter_map(|line| line.trim().strip_suffix(';'))
            .filter(|name| name.starts_with("hip") || name.starts_with("_Z"))
            .filter(|name| !name.contains('*'))
            .collect();
        let mut hooks: Vec<_> = all().filter_map(|hook| hook.name.to_str().ok()).collect();
        exported.sort_unstable();
        hooks.sort_unstable();
        assert_eq!(exported, hooks);
    }
}

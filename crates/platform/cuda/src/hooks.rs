//! The hooks: one exported function a driver function, each as thin as its signature allows.
//!
//! A hook that submits work passes the stream's admission and calls the driver; one that
//! synchronizes tells the stream's queue what is over; one that ends a stream or context lets go of
//! its queues first. Names, order and types of arguments are those of cuda.h.

use std::ffi::{CStr, c_void};

use xsched_xqueue::Pass;

use crate::{
    captures, contexts,
    driver::Function,
    events, graphs,
    state::context_wide,
    streams::{
        self,
        Flavour::{self, Legacy, PerThread},
        KeptQueue, Scheduled, Way,
    },
    sys::*,
    timeslice,
};

/// A driver function and what stands in its place.
pub(crate) struct Hook {
    pub(crate) name: &'static CStr,
    pub(crate) address: *const c_void,
}

// SAFETY: addresses of functions, never written.
unsafe impl Sync for Hook {}

/// Defines exported functions that run `$around` with a closure that calls the driver.
macro_rules! hooks {
    ($table:ident; $($name:ident / $symbol:literal ($($arg:ident: $kind:ty),*) = $around:expr;)*) => {
        $(
            #[doc = concat!("Hook of `", stringify!($name), "`.")]
            ///
            /// # Safety
            /// As the driver's function of that name.
            #[unsafe(no_mangle)]
            #[allow(clippy::too_many_arguments, reason = "the driver's signature")]
            pub unsafe extern "C" fn $name($($arg: $kind),*) -> CUresult {
                static REAL: Function = Function::new($symbol);
                let Some(real) = REAL.get() else { return CUDA_ERROR_NOT_FOUND };
                let call = || {
                    type Real = unsafe extern "C" fn($($kind),*) -> CUresult;
                    // SAFETY: the driver's function, whose signature this is (cuda.h).
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

/// Work that the stream executes later.
#[inline]
fn submit(stream: CUstream, flavour: Flavour, call: impl FnOnce() -> CUresult) -> CUresult {
    // The call stands here once: a hook is small.
    let (pass, marked) = admit(stream, flavour);
    let result = call();
    drop(pass);
    if let Some(queue) = marked {
        queue.mark_last();
    }
    result
}

/// The queue is one that wants a mark behind the command.
#[inline]
fn admit(stream: CUstream, flavour: Flavour) -> (Option<Pass>, Option<KeptQueue>) {
    match streams::way(stream, flavour) {
        Way::Scheduled(stream) => {
            let marked = streams::marked(stream);
            (Some(stream.queue.admit()), marked)
        }
        Way::Captured => {
            graphs::before_node(stream, flavour);
            (None, None)
        }
        Way::Unscheduled => (None, None),
    }
}

/// Work that the stream has executed when the call returns, and everything before it.
fn submit_and_wait(
    stream: CUstream,
    flavour: Flavour,
    call: impl FnOnce() -> CUresult,
) -> CUresult {
    let Way::Scheduled(stream) = streams::way(stream, flavour) else {
        return call();
    };
    let Some(queue) = stream.keep() else {
        return call();
    };
    let pass = queue.admit();
    let number = pass.number();
    let covers_all = pass.covers_all();
    let result = call();
    drop(pass);
    if result == CUDA_SUCCESS && covers_all {
        let point = queue.begin_synchronize();
        queue.end_synchronize(point.filter(|point| point.number() == number));
    }
    result
}

/// A wait for, or a look at, everything that the stream has.
fn synchronize(stream: CUstream, flavour: Flavour, call: impl FnOnce() -> CUresult) -> CUresult {
    let Some(queue) = streams::find(stream, flavour).and_then(Scheduled::keep) else {
        return call();
    };
    let point = queue.begin_synchronize();
    let result = call();
    if result == CUDA_SUCCESS {
        queue.end_synchronize(point);
    }
    result
}

// Asynchronous work, both flavours of the default stream.
macro_rules! submitting {
    ($table:ident; $($name:ident / $ptsz:ident / $symbol:literal / $symbol_ptsz:literal
        ($($arg:ident: $kind:ty),*) on $stream:expr;)*) => {
        hooks! { $table;
            $($name / $symbol ($($arg: $kind),*) = |call| submit($stream, Legacy, call);
              $ptsz / $symbol_ptsz ($($arg: $kind),*) = |call| submit($stream, PerThread, call);)*
        }
    };
}

submitting! { SUBMITTING;
    cuLaunchKernel / cuLaunchKernel_ptsz / c"cuLaunchKernel" / c"cuLaunchKernel_ptsz" (f: Opaque, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, shared: u32, stream: CUstream, params: Opaque, extra: Opaque) on stream;
    cuLaunchKernelEx / cuLaunchKernelEx_ptsz / c"cuLaunchKernelEx" / c"cuLaunchKernelEx_ptsz" (config: *const CUlaunchConfig, f: Opaque, params: Opaque, extra: Opaque) on stream_of(config);
    cuLaunchCooperativeKernel / cuLaunchCooperativeKernel_ptsz / c"cuLaunchCooperativeKernel" / c"cuLaunchCooperativeKernel_ptsz" (f: Opaque, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, shared: u32, stream: CUstream, params: Opaque) on stream;
    cuLaunchHostFunc / cuLaunchHostFunc_ptsz / c"cuLaunchHostFunc" / c"cuLaunchHostFunc_ptsz" (stream: CUstream, function: Opaque, data: Opaque) on stream;
    cuStreamAddCallback / cuStreamAddCallback_ptsz / c"cuStreamAddCallback" / c"cuStreamAddCallback_ptsz" (stream: CUstream, function: Opaque, data: Opaque, flags: u32) on stream;
    cuGraphLaunch / cuGraphLaunch_ptsz / c"cuGraphLaunch" / c"cuGraphLaunch_ptsz" (exec: Opaque, stream: CUstream) on stream;
    cuMemcpyAsync / cuMemcpyAsync_ptsz / c"cuMemcpyAsync" / c"cuMemcpyAsync_ptsz" (to: CUdeviceptr, from: CUdeviceptr, bytes: usize, stream: CUstream) on stream;
    cuMemcpyPeerAsync / cuMemcpyPeerAsync_ptsz / c"cuMemcpyPeerAsync" / c"cuMemcpyPeerAsync_ptsz" (to: CUdeviceptr, to_context: CUcontext, from: CUdeviceptr, from_context: CUcontext, bytes: usize, stream: CUstream) on stream;
    cuMemcpyHtoDAsync_v2 / cuMemcpyHtoDAsync_v2_ptsz / c"cuMemcpyHtoDAsync_v2" / c"cuMemcpyHtoDAsync_v2_ptsz" (to: CUdeviceptr, from: Opaque, bytes: usize, stream: CUstream) on stream;
    cuMemcpyDtoHAsync_v2 / cuMemcpyDtoHAsync_v2_ptsz / c"cuMemcpyDtoHAsync_v2" / c"cuMemcpyDtoHAsync_v2_ptsz" (to: Opaque, from: CUdeviceptr, bytes: usize, stream: CUstream) on stream;
    cuMemcpyDtoDAsync_v2 / cuMemcpyDtoDAsync_v2_ptsz / c"cuMemcpyDtoDAsync_v2" / c"cuMemcpyDtoDAsync_v2_ptsz" (to: CUdeviceptr, from: CUdeviceptr, bytes: usize, stream: CUstream) on stream;
    cuMemcpyHtoAAsync_v2 / cuMemcpyHtoAAsync_v2_ptsz / c"cuMemcpyHtoAAsync_v2" / c"cuMemcpyHtoAAsync_v2_ptsz" (to: Opaque, offset: usize, from: Opaque, bytes: usize, stream: CUstream) on stream;
    cuMemcpyAtoHAsync_v2 / cuMemcpyAtoHAsync_v2_ptsz / c"cuMemcpyAtoHAsync_v2" / c"cuMemcpyAtoHAsync_v2_ptsz" (to: Opaque, from: Opaque, offset: usize, bytes: usize, stream: CUstream) on stream;
    cuMemcpy2DAsync_v2 / cuMemcpy2DAsync_v2_ptsz / c"cuMemcpy2DAsync_v2" / c"cuMemcpy2DAsync_v2_ptsz" (copy: Opaque, stream: CUstream) on stream;
    cuMemcpy3DAsync_v2 / cuMemcpy3DAsync_v2_ptsz / c"cuMemcpy3DAsync_v2" / c"cuMemcpy3DAsync_v2_ptsz" (copy: Opaque, stream: CUstream) on stream;
    cuMemcpy3DPeerAsync / cuMemcpy3DPeerAsync_ptsz / c"cuMemcpy3DPeerAsync" / c"cuMemcpy3DPeerAsync_ptsz" (copy: Opaque, stream: CUstream) on stream;
    cuMemcpyBatchAsync / cuMemcpyBatchAsync_ptsz / c"cuMemcpyBatchAsync" / c"cuMemcpyBatchAsync_ptsz" (to: Opaque, from: Opaque, sizes: Opaque, count: usize, attributes: Opaque, indices: Opaque, attribute_count: usize, failed: Opaque, stream: CUstream) on stream;
    cuMemcpyBatchAsync_v2 / cuMemcpyBatchAsync_v2_ptsz / c"cuMemcpyBatchAsync_v2" / c"cuMemcpyBatchAsync_v2_ptsz" (to: Opaque, from: Opaque, sizes: Opaque, count: usize, attributes: Opaque, indices: Opaque, attribute_count: usize, stream: CUstream) on stream;
    cuMemcpy3DBatchAsync / cuMemcpy3DBatchAsync_ptsz / c"cuMemcpy3DBatchAsync" / c"cuMemcpy3DBatchAsync_ptsz" (count: usize, list: Opaque, failed: Opaque, flags: u64, stream: CUstream) on stream;
    cuMemcpy3DBatchAsync_v2 / cuMemcpy3DBatchAsync_v2_ptsz / c"cuMemcpy3DBatchAsync_v2" / c"cuMemcpy3DBatchAsync_v2_ptsz" (count: usize, list: Opaque, flags: u64, stream: CUstream) on stream;
    cuMemsetD8Async / cuMemsetD8Async_ptsz / c"cuMemsetD8Async" / c"cuMemsetD8Async_ptsz" (to: CUdeviceptr, value: u8, count: usize, stream: CUstream) on stream;
    cuMemsetD16Async / cuMemsetD16Async_ptsz / c"cuMemsetD16Async" / c"cuMemsetD16Async_ptsz" (to: CUdeviceptr, value: u16, count: usize, stream: CUstream) on stream;
    cuMemsetD32Async / cuMemsetD32Async_ptsz / c"cuMemsetD32Async" / c"cuMemsetD32Async_ptsz" (to: CUdeviceptr, value: u32, count: usize, stream: CUstream) on stream;
    cuMemsetD2D8Async / cuMemsetD2D8Async_ptsz / c"cuMemsetD2D8Async" / c"cuMemsetD2D8Async_ptsz" (to: CUdeviceptr, pitch: usize, value: u8, width: usize, height: usize, stream: CUstream) on stream;
    cuMemsetD2D16Async / cuMemsetD2D16Async_ptsz / c"cuMemsetD2D16Async" / c"cuMemsetD2D16Async_ptsz" (to: CUdeviceptr, pitch: usize, value: u16, width: usize, height: usize, stream: CUstream) on stream;
    cuMemsetD2D32Async / cuMemsetD2D32Async_ptsz / c"cuMemsetD2D32Async" / c"cuMemsetD2D32Async_ptsz" (to: CUdeviceptr, pitch: usize, value: u32, width: usize, height: usize, stream: CUstream) on stream;
    cuMemPrefetchAsync / cuMemPrefetchAsync_ptsz / c"cuMemPrefetchAsync" / c"cuMemPrefetchAsync_ptsz" (memory: CUdeviceptr, bytes: usize, device: CUdevice, stream: CUstream) on stream;
    cuMemPrefetchAsync_v2 / cuMemPrefetchAsync_v2_ptsz / c"cuMemPrefetchAsync_v2" / c"cuMemPrefetchAsync_v2_ptsz" (memory: CUdeviceptr, bytes: usize, location: CUmemLocation, flags: u32, stream: CUstream) on stream;
    cuMemAllocAsync / cuMemAllocAsync_ptsz / c"cuMemAllocAsync" / c"cuMemAllocAsync_ptsz" (place: Opaque, bytes: usize, stream: CUstream) on stream;
    cuMemAllocFromPoolAsync / cuMemAllocFromPoolAsync_ptsz / c"cuMemAllocFromPoolAsync" / c"cuMemAllocFromPoolAsync_ptsz" (place: Opaque, bytes: usize, pool: Opaque, stream: CUstream) on stream;
    cuMemFreeAsync / cuMemFreeAsync_ptsz / c"cuMemFreeAsync" / c"cuMemFreeAsync_ptsz" (memory: CUdeviceptr, stream: CUstream) on stream;
}

fn stream_of(config: *const CUlaunchConfig) -> CUstream {
    if config.is_null() {
        return std::ptr::null_mut();
    }
    // SAFETY: the program's own launch configuration, valid for the duration of its call; only the
    // field at the pinned offset is read.
    unsafe { (*config).stream }
}

// Copies and fills on the default stream. Of these only a copy to the host is over for certain when
// the call returns; the others may only have been handed over (CUDA, "API synchronization behavior").
macro_rules! on_default_stream {
    ($table:ident, $around:ident; $($name:ident / $ptds:ident / $symbol:literal / $symbol_ptds:literal
        ($($arg:ident: $kind:ty),*);)*) => {
        hooks! { $table;
            $($name / $symbol ($($arg: $kind),*) = |call| $around(std::ptr::null_mut(), Legacy, call);
              $ptds / $symbol_ptds ($($arg: $kind),*) = |call| $around(std::ptr::null_mut(), PerThread, call);)*
        }
    };
}

on_default_stream! { TO_HOST, submit_and_wait;
    cuMemcpyDtoH_v2 / cuMemcpyDtoH_v2_ptds / c"cuMemcpyDtoH_v2" / c"cuMemcpyDtoH_v2_ptds" (to: Opaque, from: CUdeviceptr, bytes: usize);
    cuMemcpyAtoH_v2 / cuMemcpyAtoH_v2_ptds / c"cuMemcpyAtoH_v2" / c"cuMemcpyAtoH_v2_ptds" (to: Opaque, from: Opaque, offset: usize, bytes: usize);
}

on_default_stream! { BLOCKING, submit;
    cuMemcpy / cuMemcpy_ptds / c"cuMemcpy" / c"cuMemcpy_ptds" (to: CUdeviceptr, from: CUdeviceptr, bytes: usize);
    cuMemcpyHtoD_v2 / cuMemcpyHtoD_v2_ptds / c"cuMemcpyHtoD_v2" / c"cuMemcpyHtoD_v2_ptds" (to: CUdeviceptr, from: Opaque, bytes: usize);
    cuMemcpyDtoD_v2 / cuMemcpyDtoD_v2_ptds / c"cuMemcpyDtoD_v2" / c"cuMemcpyDtoD_v2_ptds" (to: CUdeviceptr, from: CUdeviceptr, bytes: usize);
    cuMemcpyPeer / cuMemcpyPeer_ptds / c"cuMemcpyPeer" / c"cuMemcpyPeer_ptds" (to: CUdeviceptr, to_context: CUcontext, from: CUdeviceptr, from_context: CUcontext, bytes: usize);
    cuMemcpyHtoA_v2 / cuMemcpyHtoA_v2_ptds / c"cuMemcpyHtoA_v2" / c"cuMemcpyHtoA_v2_ptds" (to: Opaque, offset: usize, from: Opaque, bytes: usize);
    cuMemcpyDtoA_v2 / cuMemcpyDtoA_v2_ptds / c"cuMemcpyDtoA_v2" / c"cuMemcpyDtoA_v2_ptds" (to: Opaque, offset: usize, from: CUdeviceptr, bytes: usize);
    cuMemcpyAtoD_v2 / cuMemcpyAtoD_v2_ptds / c"cuMemcpyAtoD_v2" / c"cuMemcpyAtoD_v2_ptds" (to: CUdeviceptr, from: Opaque, offset: usize, bytes: usize);
    cuMemcpyAtoA_v2 / cuMemcpyAtoA_v2_ptds / c"cuMemcpyAtoA_v2" / c"cuMemcpyAtoA_v2_ptds" (to: Opaque, to_offset: usize, from: Opaque, offset: usize, bytes: usize);
    cuMemcpy2D_v2 / cuMemcpy2D_v2_ptds / c"cuMemcpy2D_v2" / c"cuMemcpy2D_v2_ptds" (copy: Opaque);
    cuMemcpy2DUnaligned_v2 / cuMemcpy2DUnaligned_v2_ptds / c"cuMemcpy2DUnaligned_v2" / c"cuMemcpy2DUnaligned_v2_ptds" (copy: Opaque);
    cuMemcpy3D_v2 / cuMemcpy3D_v2_ptds / c"cuMemcpy3D_v2" / c"cuMemcpy3D_v2_ptds" (copy: Opaque);
    cuMemcpy3DPeer / cuMemcpy3DPeer_ptds / c"cuMemcpy3DPeer" / c"cuMemcpy3DPeer_ptds" (copy: Opaque);
    cuMemsetD8_v2 / cuMemsetD8_v2_ptds / c"cuMemsetD8_v2" / c"cuMemsetD8_v2_ptds" (to: CUdeviceptr, value: u8, count: usize);
    cuMemsetD16_v2 / cuMemsetD16_v2_ptds / c"cuMemsetD16_v2" / c"cuMemsetD16_v2_ptds" (to: CUdeviceptr, value: u16, count: usize);
    cuMemsetD32_v2 / cuMemsetD32_v2_ptds / c"cuMemsetD32_v2" / c"cuMemsetD32_v2_ptds" (to: CUdeviceptr, value: u32, count: usize);
    cuMemsetD2D8_v2 / cuMemsetD2D8_v2_ptds / c"cuMemsetD2D8_v2" / c"cuMemsetD2D8_v2_ptds" (to: CUdeviceptr, pitch: usize, value: u8, width: usize, height: usize);
    cuMemsetD2D16_v2 / cuMemsetD2D16_v2_ptds / c"cuMemsetD2D16_v2" / c"cuMemsetD2D16_v2_ptds" (to: CUdeviceptr, pitch: usize, value: u16, width: usize, height: usize);
    cuMemsetD2D32_v2 / cuMemsetD2D32_v2_ptds / c"cuMemsetD2D32_v2" / c"cuMemsetD2D32_v2_ptds" (to: CUdeviceptr, pitch: usize, value: u32, width: usize, height: usize);
}

hooks! { WAITING;
    cuStreamSynchronize / c"cuStreamSynchronize" (stream: CUstream) = |call| synchronize(stream, Legacy, call);
    cuStreamSynchronize_ptsz / c"cuStreamSynchronize_ptsz" (stream: CUstream) = |call| synchronize(stream, PerThread, call);
    cuStreamQuery / c"cuStreamQuery" (stream: CUstream) = |call| synchronize(stream, Legacy, call);
    cuStreamQuery_ptsz / c"cuStreamQuery_ptsz" (stream: CUstream) = |call| synchronize(stream, PerThread, call);
    cuCtxSynchronize / c"cuCtxSynchronize" () = |call| streams::synchronize_context(std::ptr::null_mut(), call);
    cuCtxSynchronize_v2 / c"cuCtxSynchronize_v2" (context: CUcontext) = |call| streams::synchronize_context(context, call);
    cuEventRecord / c"cuEventRecord" (event: CUevent, stream: CUstream) = |call| events::record(event, stream, Legacy, call);
    cuEventRecord_ptsz / c"cuEventRecord_ptsz" (event: CUevent, stream: CUstream) = |call| events::record(event, stream, PerThread, call);
    cuEventRecordWithFlags / c"cuEventRecordWithFlags" (event: CUevent, stream: CUstream, flags: u32) = |call| events::record(event, stream, Legacy, call);
    cuEventRecordWithFlags_ptsz / c"cuEventRecordWithFlags_ptsz" (event: CUevent, stream: CUstream, flags: u32) = |call| events::record(event, stream, PerThread, call);
    cuEventSynchronize / c"cuEventSynchronize" (event: CUevent) = |call| events::reached(event, call);
    cuEventQuery / c"cuEventQuery" (event: CUevent) = |call| events::reached(event, call);
    cuEventDestroy_v2 / c"cuEventDestroy_v2" (event: CUevent) = |call| events::destroy(event, call);
}

hooks! { LIFE;
    cuStreamBeginCapture / c"cuStreamBeginCapture" (stream: CUstream) = |call| captures::begin(std::ptr::null_mut(), stream, Legacy, call);
    cuStreamBeginCapture_ptsz / c"cuStreamBeginCapture_ptsz" (stream: CUstream) = |call| captures::begin(std::ptr::null_mut(), stream, PerThread, call);
    cuStreamBeginCapture_v2 / c"cuStreamBeginCapture_v2" (stream: CUstream, mode: i32) = |call| captures::begin(std::ptr::null_mut(), stream, Legacy, call);
    cuStreamBeginCapture_v2_ptsz / c"cuStreamBeginCapture_v2_ptsz" (stream: CUstream, mode: i32) = |call| captures::begin(std::ptr::null_mut(), stream, PerThread, call);
    cuStreamBeginCaptureToGraph / c"cuStreamBeginCaptureToGraph" (stream: CUstream, graph: CUgraph, nodes: Opaque, edges: Opaque, count: usize, mode: i32) = |call| captures::begin(graph, stream, Legacy, call);
    cuStreamBeginCaptureToGraph_ptsz / c"cuStreamBeginCaptureToGraph_ptsz" (stream: CUstream, graph: CUgraph, nodes: Opaque, edges: Opaque, count: usize, mode: i32) = |call| captures::begin(graph, stream, PerThread, call);
    cuStreamEndCapture / c"cuStreamEndCapture" (stream: CUstream, graph: *mut CUgraph) = |call| captures::end(stream, Legacy, call);
    cuStreamEndCapture_ptsz / c"cuStreamEndCapture_ptsz" (stream: CUstream, graph: *mut CUgraph) = |call| captures::end(stream, PerThread, call);
    cuStreamDestroy_v2 / c"cuStreamDestroy_v2" (stream: CUstream) = |call| streams::destroy(stream, call);
    cuCtxDestroy_v2 / c"cuCtxDestroy_v2" (context: CUcontext) = |call| contexts::destroy_context(context, call);
    cuDevicePrimaryCtxReset_v2 / c"cuDevicePrimaryCtxReset_v2" (device: CUdevice) = |call| contexts::reset_primary(device, call);
    cuDevicePrimaryCtxRelease_v2 / c"cuDevicePrimaryCtxRelease_v2" (device: CUdevice) = |call| contexts::release_primary(device, call);
    cuDevicePrimaryCtxRetain / c"cuDevicePrimaryCtxRetain" (place: *mut CUcontext, device: CUdevice) = |call| contexts::retain_primary(place, device, call);
    cuGreenCtxCreate / c"cuGreenCtxCreate" (place: *mut CUgreenCtx, resources: Opaque, device: CUdevice, flags: u32) = |call| contexts::create_green(place, device, call);
    cuCtxFromGreenCtx / c"cuCtxFromGreenCtx" (place: *mut CUcontext, green: CUgreenCtx) = |call| contexts::convert_green(place, green, call);
    cuGreenCtxDestroy / c"cuGreenCtxDestroy" (green: CUgreenCtx) = |call| contexts::destroy_green(green, call);
    cuCtxCreate_v2 / c"cuCtxCreate_v2" (place: Opaque, flags: u32, device: CUdevice) = |call| timeslice::creating(device, call);
    cuCtxCreate_v3 / c"cuCtxCreate_v3" (place: Opaque, params: Opaque, count: i32, flags: u32, device: CUdevice) = |call| timeslice::creating(device, call);
    cuCtxCreate_v4 / c"cuCtxCreate_v4" (place: Opaque, params: Opaque, flags: u32, device: CUdevice) = |call| timeslice::creating(device, call);
}

// Calls that take a graph as a whole.
hooks! { GRAPHS;
    cuGraphInstantiate / c"cuGraphInstantiate" (place: Opaque, graph: CUgraph, failed: Opaque, log: Opaque, bytes: usize) = |call| graphs::whole(graph, call);
    cuGraphInstantiate_v2 / c"cuGraphInstantiate_v2" (place: Opaque, graph: CUgraph, failed: Opaque, log: Opaque, bytes: usize) = |call| graphs::whole(graph, call);
    cuGraphInstantiateWithFlags / c"cuGraphInstantiateWithFlags" (place: Opaque, graph: CUgraph, flags: u64) = |call| graphs::whole(graph, call);
    cuGraphInstantiateWithParams / c"cuGraphInstantiateWithParams" (place: Opaque, graph: CUgraph, params: Opaque) = |call| graphs::whole(graph, call);
    cuGraphInstantiateWithParams_ptsz / c"cuGraphInstantiateWithParams_ptsz" (place: Opaque, graph: CUgraph, params: Opaque) = |call| graphs::whole(graph, call);
    cuGraphExecUpdate / c"cuGraphExecUpdate" (exec: Opaque, graph: CUgraph, failed: Opaque, result: Opaque) = |call| graphs::whole(graph, call);
    cuGraphExecUpdate_v2 / c"cuGraphExecUpdate_v2" (exec: Opaque, graph: CUgraph, result: Opaque) = |call| graphs::whole(graph, call);
}

// Calls that may wait for everything in the context, or hold locks over such a wait: allocation and
// freeing outside streams, loading and unloading of code, creation of streams.
hooks! { CONTEXT_WIDE;
    cuMemAlloc_v2 / c"cuMemAlloc_v2" (place: Opaque, bytes: usize) = context_wide;
    cuMemAllocPitch_v2 / c"cuMemAllocPitch_v2" (place: Opaque, pitch: Opaque, width: usize, height: usize, element: u32) = context_wide;
    cuMemAllocManaged / c"cuMemAllocManaged" (place: Opaque, bytes: usize, flags: u32) = context_wide;
    cuMemFree_v2 / c"cuMemFree_v2" (memory: CUdeviceptr) = context_wide;
    cuMemAllocHost_v2 / c"cuMemAllocHost_v2" (place: Opaque, bytes: usize) = context_wide;
    cuMemHostAlloc / c"cuMemHostAlloc" (place: Opaque, bytes: usize, flags: u32) = context_wide;
    cuMemFreeHost / c"cuMemFreeHost" (memory: Opaque) = context_wide;
    cuMemHostRegister_v2 / c"cuMemHostRegister_v2" (memory: Opaque, bytes: usize, flags: u32) = context_wide;
    cuMemHostUnregister / c"cuMemHostUnregister" (memory: Opaque) = context_wide;
    cuMemMap / c"cuMemMap" (memory: CUdeviceptr, bytes: usize, offset: usize, handle: u64, flags: u64) = context_wide;
    cuMemUnmap / c"cuMemUnmap" (memory: CUdeviceptr, bytes: usize) = context_wide;
    cuMemRelease / c"cuMemRelease" (handle: u64) = context_wide;
    cuMemPoolTrimTo / c"cuMemPoolTrimTo" (pool: Opaque, keep: usize) = context_wide;
    cuMemPoolDestroy / c"cuMemPoolDestroy" (pool: Opaque) = context_wide;
    cuArrayDestroy / c"cuArrayDestroy" (array: Opaque) = context_wide;
    cuMipmappedArrayDestroy / c"cuMipmappedArrayDestroy" (array: Opaque) = context_wide;
    cuModuleLoad / c"cuModuleLoad" (place: Opaque, path: Opaque) = context_wide;
    cuModuleLoadData / c"cuModuleLoadData" (place: Opaque, image: Opaque) = context_wide;
    cuModuleLoadDataEx / c"cuModuleLoadDataEx" (place: Opaque, image: Opaque, count: u32, options: Opaque, values: Opaque) = context_wide;
    cuModuleLoadFatBinary / c"cuModuleLoadFatBinary" (place: Opaque, image: Opaque) = context_wide;
    cuModuleUnload / c"cuModuleUnload" (module: Opaque) = context_wide;
    cuModuleGetFunction / c"cuModuleGetFunction" (place: Opaque, module: Opaque, name: Opaque) = context_wide;
    cuLibraryLoadData / c"cuLibraryLoadData" (place: Opaque, code: Opaque, jit_options: Opaque, jit_values: Opaque, jit_count: u32, options: Opaque, values: Opaque, count: u32) = context_wide;
    cuLibraryLoadFromFile / c"cuLibraryLoadFromFile" (place: Opaque, path: Opaque, jit_options: Opaque, jit_values: Opaque, jit_count: u32, options: Opaque, values: Opaque, count: u32) = context_wide;
    cuLibraryUnload / c"cuLibraryUnload" (library: Opaque) = context_wide;
    cuLibraryGetKernel / c"cuLibraryGetKernel" (place: Opaque, library: Opaque, name: Opaque) = context_wide;
    cuLibraryGetModule / c"cuLibraryGetModule" (place: Opaque, library: Opaque) = context_wide;
    cuKernelGetFunction / c"cuKernelGetFunction" (place: Opaque, kernel: Opaque) = context_wide;
    cuFuncLoad / c"cuFuncLoad" (function: Opaque) = context_wide;
    cuStreamCreate / c"cuStreamCreate" (place: Opaque, flags: u32) = context_wide;
    cuStreamCreateWithPriority / c"cuStreamCreateWithPriority" (place: Opaque, flags: u32, priority: i32) = context_wide;
    cuGraphExecDestroy / c"cuGraphExecDestroy" (exec: Opaque) = context_wide;
    cuCtxSetLimit / c"cuCtxSetLimit" (limit: i32, value: usize) = context_wide;
}

/// The lookup functions, which hand out the others.
const LOOKUP: &[Hook] = &[
    Hook {
        name: c"cuGetProcAddress",
        address: crate::lookup::cuGetProcAddress as *const c_void,
    },
    Hook {
        name: c"cuGetProcAddress_v2",
        address: crate::lookup::cuGetProcAddress_v2 as *const c_void,
    },
];

/// Every hook.
pub(crate) fn all() -> impl Iterator<Item = &'static Hook> {
    [
        SUBMITTING,
        TO_HOST,
        BLOCKING,
        WAITING,
        LIFE,
        GRAPHS,
        CONTEXT_WIDE,
        LOOKUP,
    ]
    .into_iter()
    .flatten()
}

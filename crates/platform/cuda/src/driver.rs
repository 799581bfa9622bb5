//! The real driver: found, and called by its own addresses, never through a hook.

use std::{
    ffi::{CStr, CString, c_char, c_void},
    sync::atomic::{AtomicPtr, Ordering},
};

use xsched_shim::dlsym;
use xsched_wire::env;

use crate::sys::*;

const SONAME: &CStr = c"libcuda.so.1";

/// Handle of the real library, if the program has loaded it. The shim never loads a driver that
/// the program does not use.
pub(crate) fn library() -> Option<*mut c_void> {
    static LIBRARY: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
    let known = LIBRARY.load(Ordering::Acquire);
    if !known.is_null() {
        return Some(known);
    }
    let named = env::CUDA_LIB.get().and_then(|path| CString::new(path).ok());
    let found = match named {
        // SAFETY: a terminated string; the handle is never closed.
        Some(path) => unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_LAZY) },
        // SAFETY: as above.
        None => unsafe { libc::dlopen(SONAME.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) },
    };
    LIBRARY.store(found, Ordering::Release);
    (!found.is_null()).then_some(found)
}

/// Address of a driver function, null if this driver has none of that name.
pub(crate) fn address(name: &CStr) -> *mut c_void {
    match library() {
        Some(library) => exported(library, name),
        None => std::ptr::null_mut(),
    }
}

fn exported(library: *mut c_void, name: &CStr) -> *mut c_void {
    // SAFETY: the driver's handle, which is never closed.
    unsafe { dlsym::real(library, name) }
}

/// A driver function that is resolved at its first use.
pub(crate) struct Function {
    name: &'static CStr,
    address: AtomicPtr<c_void>,
}

/// Marks a function that this driver does not have.
const MISSING: *mut c_void = std::ptr::dangling_mut();

impl Function {
    pub(crate) const fn new(name: &'static CStr) -> Self {
        Function {
            name,
            address: AtomicPtr::new(std::ptr::null_mut()),
        }
    }

    /// Its address; `None` if this driver has no such function.
    #[inline]
    pub(crate) fn get(&self) -> Option<*mut c_void> {
        let address = self.address.load(Ordering::Relaxed);
        if address.is_null() {
            return self.resolve();
        }
        (address != MISSING).then_some(address)
    }

    #[cold]
    fn resolve(&self) -> Option<*mut c_void> {
        // A program may ask a hook before it loads the driver: that says nothing about the driver.
        let found = exported(library()?, self.name);
        let stored = if found.is_null() { MISSING } else { found };
        self.address.store(stored, Ordering::Relaxed);
        (!found.is_null()).then_some(found)
    }
}

/// Declares callers of driver functions: `name(arguments) -> CUresult`.
macro_rules! calls {
    ($($(#[$meta:meta])* fn $name:ident = $symbol:literal ($($arg:ident: $kind:ty),*);)*) => {$(
        $(#[$meta])*
        ///
        /// # Safety
        /// As the driver's function of that name.
        pub(crate) unsafe fn $name($($arg: $kind),*) -> CUresult {
            static FUNCTION: Function = Function::new($symbol);
            match FUNCTION.get() {
                Some(address) => {
                    type Real = unsafe extern "C" fn($($kind),*) -> CUresult;
                    // SAFETY: the driver's function, whose signature this is (cuda.h).
                    let real = unsafe { std::mem::transmute::<*mut c_void, Real>(address) };
                    // SAFETY: the arguments are the caller's responsibility.
                    unsafe { real($($arg),*) }
                }
                None => CUDA_ERROR_NOT_FOUND,
            }
        }
    )*};
}

calls! {
    /// The calling thread's context.
    fn ctx_get_current = c"cuCtxGetCurrent" (context: *mut CUcontext);
    /// Makes a context current.
    fn ctx_push = c"cuCtxPushCurrent_v2" (context: CUcontext);
    /// Undoes it.
    fn ctx_pop = c"cuCtxPopCurrent_v2" (context: *mut CUcontext);
    /// The current context's device.
    fn ctx_get_device = c"cuCtxGetDevice" (device: *mut CUdevice);
    /// The context of a stream.
    fn stream_get_ctx = c"cuStreamGetCtx" (stream: CUstream, context: *mut CUcontext);
    /// The context and the green context of a stream; for one with a green context, the primary context.
    fn stream_get_ctxs = c"cuStreamGetCtx_v2" (stream: CUstream, context: *mut CUcontext, green: *mut CUgreenCtx);
    /// 16 bytes; that of the MIG instance where there is one.
    fn device_get_uuid = c"cuDeviceGetUuid_v2" (uuid: *mut [u8; 16], device: CUdevice);
    /// A device attribute.
    fn device_get_attribute = c"cuDeviceGetAttribute" (value: *mut i32, attribute: i32, device: CUdevice);
    /// Makes host memory accessible to devices.
    fn mem_host_register = c"cuMemHostRegister_v2" (memory: Opaque, bytes: usize, flags: u32);
    /// Its address for the current context.
    fn mem_host_get_device_pointer = c"cuMemHostGetDevicePointer_v2" (pointer: *mut CUdeviceptr, memory: Opaque, flags: u32);
    /// Whether all work of a stream is over.
    fn stream_query = c"cuStreamQuery" (stream: CUstream);
    /// Waits for a stream.
    fn stream_synchronize = c"cuStreamSynchronize" (stream: CUstream);
    /// A command that waits for a word.
    fn stream_wait_value = c"cuStreamWaitValue32_v2" (stream: CUstream, address: CUdeviceptr, value: u32, flags: u32);
    /// A command that writes a word.
    fn stream_write_value = c"cuStreamWriteValue32_v2" (stream: CUstream, address: CUdeviceptr, value: u32, flags: u32);
    /// Whether a stream is being captured.
    fn stream_is_capturing = c"cuStreamIsCapturing" (stream: CUstream, status: *mut i32);
    /// Flags that a stream was made with.
    fn stream_get_flags = c"cuStreamGetFlags" (stream: CUstream, flags: *mut u32);
    /// What a capture in progress has so far: status, id, graph, last nodes, how many those are.
    fn stream_get_capture_info = c"cuStreamGetCaptureInfo_v2" (stream: CUstream, status: *mut i32, id: *mut u64, graph: *mut CUgraph, nodes: *mut *const CUgraphNode, count: *mut usize);
    /// A graph's nodes, or, with a null list, how many.
    fn graph_get_nodes = c"cuGraphGetNodes" (graph: CUgraph, nodes: *mut CUgraphNode, count: *mut usize);
    /// What kind of node.
    fn graph_node_get_type = c"cuGraphNodeGetType" (node: CUgraphNode, kind: *mut i32);
    /// The nodes before a node.
    fn graph_node_before = c"cuGraphNodeGetDependencies" (node: CUgraphNode, nodes: *mut CUgraphNode, count: *mut usize);
    /// The nodes after a node.
    fn graph_node_after = c"cuGraphNodeGetDependentNodes" (node: CUgraphNode, nodes: *mut CUgraphNode, count: *mut usize);
    /// Adds edges.
    fn graph_add_edges = c"cuGraphAddDependencies" (graph: CUgraph, from: *const CUgraphNode, to: *const CUgraphNode, count: usize);
    /// Takes a node out, with its edges.
    fn graph_destroy_node = c"cuGraphDestroyNode" (node: CUgraphNode);
    /// The graph inside a node.
    fn graph_child = c"cuGraphChildGraphNodeGetGraph" (node: CUgraphNode, graph: *mut CUgraph);
    /// The operations of a node.
    fn graph_memory_operations = c"cuGraphBatchMemOpNodeGetParams" (node: CUgraphNode, parameters: *mut CUDA_BATCH_MEM_OP_NODE_PARAMS);
    /// Which calls are legal while another stream is captured.
    fn exchange_capture_mode = c"cuThreadExchangeStreamCaptureMode" (mode: *mut i32);
}

/// Runs driver calls that would be illegal during somebody's stream capture.
pub(crate) fn relaxed<T>(body: impl FnOnce() -> T) -> T {
    let mut mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    // SAFETY: a valid place for the former mode.
    let changed = unsafe { exchange_capture_mode(&mut mode) } == CUDA_SUCCESS;
    let result = body();
    if changed {
        // SAFETY: as above; `mode` holds what was there before.
        unsafe { exchange_capture_mode(&mut mode) };
    }
    result
}

/// The calling thread's current context; null if it has none.
#[inline]
pub(crate) fn current_context() -> CUcontext {
    let mut context = std::ptr::null_mut();
    // SAFETY: a valid place for the result.
    unsafe { ctx_get_current(&mut context) };
    context
}

/// Runs driver calls with a context current; `None` if that failed.
pub(crate) fn with_context<T>(context: CUcontext, body: impl FnOnce() -> T) -> Option<T> {
    // SAFETY: the caller keeps the context alive for the duration (see `streams`).
    if unsafe { ctx_push(context) } != CUDA_SUCCESS {
        return None;
    }
    let result = body();
    let mut popped = std::ptr::null_mut();
    // SAFETY: a valid place for the result.
    unsafe { ctx_pop(&mut popped) };
    Some(result)
}

/// `CUresult` of a lookup function, with its result in place.
pub(crate) type GetProcAddress =
    unsafe extern "C" fn(*const c_char, *mut *mut c_void, i32, u64) -> CUresult;
/// The same with a status.
pub(crate) type GetProcAddressV2 =
    unsafe extern "C" fn(*const c_char, *mut *mut c_void, i32, u64, *mut i32) -> CUresult;

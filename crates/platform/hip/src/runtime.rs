//! The real runtime: found, and called by its own addresses, never through a hook.

use std::{
    ffi::{CStr, CString, c_char, c_void},
    sync::atomic::{AtomicPtr, Ordering},
};

use xsched_shim::{dlsym, loaded};
use xsched_wire::env;

use crate::sys::*;

/// What the name of its file begins with; wheels put a hash behind it.
const FILE_NAME: &[u8] = b"libamdhip64";

/// Handle of the real library, if the program has loaded it. The shim never loads a runtime that
/// the program does not use.
pub(crate) fn library() -> Option<*mut c_void> {
    static LIBRARY: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
    let known = LIBRARY.load(Ordering::Acquire);
    if !known.is_null() {
        return Some(known);
    }
    let named = env::HIP_LIB.get().and_then(|path| CString::new(path).ok());
    let found = match named {
        // SAFETY: a terminated string; the handle is never closed.
        Some(path) => unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_LAZY) },
        None => loaded::first(FILE_NAME),
    };
    LIBRARY.store(found, Ordering::Release);
    (!found.is_null()).then_some(found)
}

/// Address of a function of the runtime, null if this one has none of that name.
pub(crate) fn address(name: &CStr) -> *mut c_void {
    match library() {
        // SAFETY: a handle that is never closed.
        Some(library) => unsafe { dlsym::real(library, name) },
        None => std::ptr::null_mut(),
    }
}

/// A function of the runtime that is resolved at its first use.
pub(crate) struct Function {
    name: &'static CStr,
    address: AtomicPtr<c_void>,
}

impl Function {
    pub(crate) const fn new(name: &'static CStr) -> Self {
        Function {
            name,
            address: AtomicPtr::new(std::ptr::null_mut()),
        }
    }

    /// Its address; `None` if this runtime has no such function.
    #[inline]
    pub(crate) fn get(&self) -> Option<*mut c_void> {
        let address = self.address.load(Ordering::Relaxed);
        if address.is_null() {
            return self.resolve();
        }
        Some(address)
    }

    #[cold]
    fn resolve(&self) -> Option<*mut c_void> {
        let found = address(self.name);
        self.address.store(found, Ordering::Relaxed);
        (!found.is_null()).then_some(found)
    }
}

/// Declares callers of the runtime's functions: `name(arguments) -> hipError_t`.
macro_rules! calls {
    ($($(#[$meta:meta])* fn $name:ident = $symbol:literal ($($arg:ident: $kind:ty),*);)*) => {$(
        $(#[$meta])*
        ///
        /// # Safety
        /// As the runtime's function of that name.
        pub(crate) unsafe fn $name($($arg: $kind),*) -> hipError_t {
            static FUNCTION: Function = Function::new($symbol);
            match FUNCTION.get() {
                Some(address) => {
                    type Real = unsafe extern "C" fn($($kind),*) -> hipError_t;
                    // SAFETY: the runtime's function, whose signature this is.
                    let real = unsafe { std::mem::transmute::<*mut c_void, Real>(address) };
                    // SAFETY: the arguments are the caller's responsibility.
                    unsafe { real($($arg),*) }
                }
                None => HIP_ERROR_NOT_FOUND,
            }
        }
    )*};
}

calls! {
    /// The calling thread's device.
    fn get_device = c"hipGetDevice" (device: *mut i32);
    /// Sets it; on a thread of the application's, for the duration of a call.
    fn set_device = c"hipSetDevice" (device: i32);
    /// Its place on the bus, as text.
    fn device_bus_id = c"hipDeviceGetPCIBusId" (text: *mut c_char, bytes: i32, device: i32);
    /// Makes host memory accessible to devices.
    fn host_register = c"hipHostRegister" (memory: Opaque, bytes: usize, flags: u32);
    /// Its address for the device.
    fn host_get_device_pointer = c"hipHostGetDevicePointer" (place: *mut Opaque, memory: Opaque, flags: u32);
    /// Whether all work of a stream is over.
    fn stream_query = c"hipStreamQuery" (stream: hipStream_t);
    /// Waits for a stream.
    fn stream_synchronize = c"hipStreamSynchronize" (stream: hipStream_t);
    /// A device attribute.
    fn device_attribute = c"hipDeviceGetAttribute" (value: *mut i32, attribute: i32, device: i32);
    /// Memory of a special kind.
    fn malloc_with_flags = c"hipExtMallocWithFlags" (place: *mut Opaque, bytes: usize, flags: u32);
    /// A command that waits for a word.
    fn stream_wait_value = c"hipStreamWaitValue32" (stream: hipStream_t, address: Opaque, value: u32, flags: u32, mask: u32);
    /// A command that writes a word.
    fn stream_write_value = c"hipStreamWriteValue32" (stream: hipStream_t, address: Opaque, value: u32, flags: u32);
    /// Makes an event.
    fn event_create = c"hipEventCreateWithFlags" (place: *mut hipEvent_t, flags: u32);
    /// A command that the event stands for.
    fn event_record = c"hipEventRecord" (event: hipEvent_t, stream: hipStream_t);
    /// Whether everything before that command is over.
    fn event_query = c"hipEventQuery" (event: hipEvent_t);
    /// Ends an event.
    fn event_destroy = c"hipEventDestroy" (event: hipEvent_t);
    /// Flags that a stream was made with.
    fn stream_get_flags = c"hipStreamGetFlags" (stream: hipStream_t, flags: *mut u32);
    /// Whether a stream is being captured.
    fn stream_is_capturing = c"hipStreamIsCapturing" (stream: hipStream_t, status: *mut i32);
    /// Which calls are legal while another stream is captured.
    fn exchange_capture_mode = c"hipThreadExchangeStreamCaptureMode" (mode: *mut i32);
    /// The runtime's last error on this thread, which it forgets.
    fn get_last_error = c"hipGetLastError" ();
}

/// The device of a stream.
pub(crate) fn stream_device(stream: hipStream_t) -> Option<i32> {
    static FUNCTION: Function = Function::new(c"hipGetStreamDeviceId");
    type Real = unsafe extern "C" fn(hipStream_t) -> i32;
    // SAFETY: the runtime's function, whose signature this is.
    let real = unsafe { std::mem::transmute::<*mut c_void, Real>(FUNCTION.get()?) };
    // SAFETY: the program's own stream.
    let device = unsafe { real(stream) };
    (device >= 0).then_some(device)
}

/// The calling thread's device.
#[inline]
pub(crate) fn current_device() -> Option<i32> {
    let mut device = 0;
    // SAFETY: a valid place for the result.
    (unsafe { get_device(&mut device) } == HIP_SUCCESS).then_some(device)
}

/// Runs calls that would be illegal during somebody's stream capture.
pub(crate) fn relaxed<T>(body: impl FnOnce() -> T) -> T {
    let mut mode = HIP_CAPTURE_MODE_RELAXED;
    // SAFETY: a valid place for the former mode.
    let changed = unsafe { exchange_capture_mode(&mut mode) } == HIP_SUCCESS;
    let result = body();
    if changed {
        // SAFETY: as above; `mode` holds what was there before.
        unsafe { exchange_capture_mode(&mut mode) };
    }
    result
}

//! The real OpenCL: found, and called by its own addresses, never through a hook.

use std::{
    ffi::{CStr, CString, OsStr, c_void},
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::atomic::{AtomicPtr, Ordering},
};

use xsched_wire::env;

use crate::sys::*;
use xsched_shim::{dlsym, loaded};

/// `pfn_notify` of `clSetEventCallback`: event, status, data.
pub(crate) type EventCallback = unsafe extern "C" fn(Event, i32, Opaque);

/// `user_func` of `clEnqueueNativeKernel`, for arguments of one word.
pub(crate) type NativeKernel = unsafe extern "C" fn(*mut usize);

/// File names of loaders begin so, also of copies that a package brings under a name of its own.
const LOADER: &[u8] = b"libOpenCL";

/// Handle of the real library, if the program has loaded it. The shim never loads a driver that
/// the program does not use.
fn library() -> Option<*mut c_void> {
    static LIBRARY: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
    let known = LIBRARY.load(Ordering::Acquire);
    if !known.is_null() {
        return Some(known);
    }
    let named = env::OPENCL_LIB
        .get()
        .and_then(|path| CString::new(path).ok());
    let found = match named {
        // SAFETY: a terminated string; the handle is never closed.
        Some(path) => unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_LAZY) },
        None => loaded::first(LOADER),
    };
    LIBRARY.store(found, Ordering::Release);
    (!found.is_null()).then_some(found)
}

fn is_loader_file(path: &CStr) -> bool {
    let path = Path::new(OsStr::from_bytes(path.to_bytes()));
    let name = path.file_name().map(OsStrExt::as_bytes);
    name.is_some_and(|name| name.starts_with(LOADER))
}

/// Whether a function belongs to a loader, and not to a vendor's driver behind it.
pub(crate) fn is_loaders(function: *mut c_void) -> bool {
    // SAFETY: plain data, written by the call below.
    let mut info = unsafe { std::mem::zeroed::<libc::Dl_info>() };
    // SAFETY: any address may be asked for; a valid place for the result.
    if unsafe { libc::dladdr(function, &mut info) } == 0 || info.dli_fname.is_null() {
        return false;
    }
    // SAFETY: a terminated string of the loader's.
    let file = unsafe { CStr::from_ptr(info.dli_fname) };
    is_loader_file(file)
        || env::OPENCL_LIB
            .get()
            .is_some_and(|path| path.as_bytes() == file.to_bytes())
}

/// An OpenCL function that is resolved at its first use.
pub(crate) struct Function {
    name: &'static CStr,
    address: AtomicPtr<c_void>,
}

/// Marks a function that this OpenCL does not have.
const MISSING: *mut c_void = std::ptr::dangling_mut();

impl Function {
    pub(crate) const fn new(name: &'static CStr) -> Self {
        Function {
            name,
            address: AtomicPtr::new(std::ptr::null_mut()),
        }
    }

    /// Its address; `None` if this OpenCL has no such function, or none is loaded.
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
        // SAFETY: the handle of a library that stays loaded.
        let found = unsafe { dlsym::real(library()?, self.name) };
        let stored = if found.is_null() { MISSING } else { found };
        self.address.store(stored, Ordering::Relaxed);
        (!found.is_null()).then_some(found)
    }
}

/// What a function gives when there is none.
pub(crate) trait Outcome: Copy {
    /// The result for a function that is missing.
    const MISSING: Self;

    /// Whether the command was taken.
    fn succeeded(self) -> bool;
}

impl Outcome for i32 {
    const MISSING: Self = CL_INVALID_OPERATION;

    fn succeeded(self) -> bool {
        self == CL_SUCCESS
    }
}

impl Outcome for Opaque {
    const MISSING: Self = std::ptr::null_mut();

    fn succeeded(self) -> bool {
        !self.is_null()
    }
}

/// Declares callers of OpenCL functions.
macro_rules! calls {
    ($($(#[$meta:meta])* fn $name:ident = $symbol:literal ($($arg:ident: $kind:ty),*) -> $result:ty;)*) => {$(
        $(#[$meta])*
        ///
        /// # Safety
        /// As the OpenCL function of that name.
        #[allow(clippy::too_many_arguments, reason = "OpenCL's signature")]
        pub(crate) unsafe fn $name($($arg: $kind),*) -> $result {
            static FUNCTION: Function = Function::new($symbol);
            match FUNCTION.get() {
                Some(address) => {
                    type Real = unsafe extern "C" fn($($kind),*) -> $result;
                    // SAFETY: the function of that name, whose signature this is (cl.h).
                    let real = unsafe { std::mem::transmute::<*mut c_void, Real>(address) };
                    // SAFETY: the arguments are the caller's responsibility.
                    unsafe { real($($arg),*) }
                }
                None => <$result as Outcome>::MISSING,
            }
        }
    )*};
}

calls! {
    /// A queue, in order.
    fn create_queue = c"clCreateCommandQueue" (context: Opaque, device: Opaque, properties: u64, error: *mut i32) -> Queue;
    /// What a queue is.
    fn queue_info = c"clGetCommandQueueInfo" (queue: Queue, name: u32, size: usize, value: Opaque, needed: *mut usize) -> i32;
    /// One reference more.
    fn retain_queue = c"clRetainCommandQueue" (queue: Queue) -> i32;
    /// One reference less.
    fn release_queue = c"clReleaseCommandQueue" (queue: Queue) -> i32;
    /// Hands over what was enqueued.
    fn flush = c"clFlush" (queue: Queue) -> i32;
    /// Waits for all of a queue.
    fn finish = c"clFinish" (queue: Queue) -> i32;
    /// A command that is over when all before it, or the listed events, are.
    fn marker = c"clEnqueueMarkerWithWaitList" (queue: Queue, count: u32, list: *const Event, event: *mut Event) -> i32;
    /// The same, and what comes behind waits for it.
    fn barrier = c"clEnqueueBarrierWithWaitList" (queue: Queue, count: u32, list: *const Event, event: *mut Event) -> i32;
    /// A function of the host's, as a command.
    fn native_kernel = c"clEnqueueNativeKernel" (queue: Queue, function: Option<NativeKernel>, arguments: *mut usize, bytes: usize, objects: u32, object_list: *const Opaque, places: *const Opaque, count: u32, list: *const Event, event: *mut Event) -> i32;
    /// An event that the host completes.
    fn create_user_event = c"clCreateUserEvent" (context: Opaque, error: *mut i32) -> Event;
    /// Completes it.
    fn set_user_event = c"clSetUserEventStatus" (event: Event, status: i32) -> i32;
    /// Calls back when an event reaches a status.
    fn event_callback = c"clSetEventCallback" (event: Event, status: i32, callback: Option<EventCallback>, data: Opaque) -> i32;
    /// What an event is.
    fn event_info = c"clGetEventInfo" (event: Event, name: u32, size: usize, value: Opaque, needed: *mut usize) -> i32;
    /// One reference more.
    fn retain_event = c"clRetainEvent" (event: Event) -> i32;
    /// One reference less.
    fn release_event = c"clReleaseEvent" (event: Event) -> i32;
    /// What a device is.
    fn device_info = c"clGetDeviceInfo" (device: Opaque, name: u32, size: usize, value: Opaque, needed: *mut usize) -> i32;
    /// Every platform.
    fn platform_ids = c"clGetPlatformIDs" (count: u32, platforms: *mut Opaque, found: *mut u32) -> i32;
    /// A platform's devices.
    fn device_ids = c"clGetDeviceIDs" (platform: Opaque, kind: u64, count: u32, devices: *mut Opaque, found: *mut u32) -> i32;
    /// What a platform is.
    fn platform_info = c"clGetPlatformInfo" (platform: Opaque, name: u32, size: usize, value: Opaque, needed: *mut usize) -> i32;
    /// A vendor's function.
    fn extension = c"clGetExtensionFunctionAddressForPlatform" (platform: Opaque, name: *const std::ffi::c_char) -> Opaque;
    /// What a memory object is.
    fn mem_info = c"clGetMemObjectInfo" (object: Opaque, name: u32, size: usize, value: Opaque, needed: *mut usize) -> i32;
    /// What a kernel is.
    fn kernel_info = c"clGetKernelInfo" (object: Opaque, name: u32, size: usize, value: Opaque, needed: *mut usize) -> i32;
    /// What a program is.
    fn program_info = c"clGetProgramInfo" (object: Opaque, name: u32, size: usize, value: Opaque, needed: *mut usize) -> i32;
    /// What a sampler is.
    fn sampler_info = c"clGetSamplerInfo" (object: Opaque, name: u32, size: usize, value: Opaque, needed: *mut usize) -> i32;
    /// What a context is.
    fn context_info = c"clGetContextInfo" (object: Opaque, name: u32, size: usize, value: Opaque, needed: *mut usize) -> i32;
    /// One reference less.
    fn release_mem = c"clReleaseMemObject" (object: Opaque) -> i32;
    /// One reference less.
    fn release_kernel = c"clReleaseKernel" (object: Opaque) -> i32;
    /// One reference less.
    fn release_program = c"clReleaseProgram" (object: Opaque) -> i32;
    /// One reference less.
    fn release_sampler = c"clReleaseSampler" (object: Opaque) -> i32;
    /// One reference less.
    fn release_context = c"clReleaseContext" (object: Opaque) -> i32;
    /// One reference less.
    fn release_device = c"clReleaseDevice" (object: Opaque) -> i32;
    /// One reference less.
    fn release_device_ext = c"clReleaseDeviceEXT" (object: Opaque) -> i32;
}

/// A fixed-size property of an object.
pub(crate) type Info = unsafe fn(Opaque, u32, usize, Opaque, *mut usize) -> i32;

/// A property that is plain data of type `T`; `None` if the object has none such.
pub(crate) fn property<T: Copy + Default>(info: Info, object: Opaque, name: u32) -> Option<T> {
    let mut value = T::default();
    let mut size = 0;
    let place = (&raw mut value).cast();
    // SAFETY: the program's own object; the place is as large as is said.
    let result = unsafe { info(object, name, size_of::<T>(), place, &mut size) };
    (result == CL_SUCCESS && size == size_of::<T>()).then_some(value)
}

/// A property that is text.
pub(crate) fn text(info: Info, object: Opaque, name: u32) -> Option<String> {
    let mut bytes = vec![0_u8; 4096];
    let mut size = 0;
    let place = bytes.as_mut_ptr().cast();
    // SAFETY: the program's own object; the place is as large as is said.
    let result = unsafe { info(object, name, bytes.len(), place, &mut size) };
    if result != CL_SUCCESS {
        return None;
    }
    bytes.truncate(size);
    let text = String::from_utf8_lossy(&bytes);
    Some(text.trim_end_matches('\0').trim().to_owned())
}

/// An event's execution status; `None` if it cannot be asked.
pub(crate) fn event_status(event: Event) -> Option<i32> {
    let mut status = 0_i32;
    let place = (&raw mut status).cast();
    // SAFETY: an event that the caller holds; a valid place for the result.
    let result = unsafe {
        event_info(
            event,
            CL_EVENT_COMMAND_EXECUTION_STATUS,
            size_of::<i32>(),
            place,
            std::ptr::null_mut(),
        )
    };
    (result == CL_SUCCESS).then_some(status)
}

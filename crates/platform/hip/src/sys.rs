//! Types and constants of the HIP runtime API that the shim uses (hip_runtime_api.h, 5 to 7).

#![allow(non_camel_case_types, reason = "the runtime's own names")]

use std::ffi::c_void;

pub(crate) type hipError_t = i32;
pub(crate) type hipStream_t = *mut c_void;
pub(crate) type hipEvent_t = *mut c_void;

/// An argument that is passed on untouched: a pointer or handle.
pub(crate) type Opaque = *mut c_void;

pub(crate) const HIP_SUCCESS: hipError_t = 0;
/// `hipErrorSharedObjectSymbolNotFound`: the runtime has no such function.
pub(crate) const HIP_ERROR_NOT_FOUND: hipError_t = 302;
pub(crate) const HIP_ERROR_ALREADY_REGISTERED: hipError_t = 712;
pub(crate) const HIP_ERROR_INVALID_DEVICE: hipError_t = 101;

/// The null stream by an explicit handle (ROCm 7).
pub(crate) const HIP_STREAM_LEGACY: usize = 1;
/// The calling thread's default stream by an explicit handle.
pub(crate) const HIP_STREAM_PER_THREAD: usize = 2;

pub(crate) const HIP_STREAM_NON_BLOCKING: u32 = 1;
pub(crate) const HIP_EVENT_DISABLE_TIMING: u32 = 2;

pub(crate) const HIP_HOST_REGISTER_PORTABLE: u32 = 1;
pub(crate) const HIP_HOST_REGISTER_MAPPED: u32 = 2;

/// `hipDeviceAttributeCanUseStreamWaitValue`.
pub(crate) const HIP_ATTRIBUTE_CAN_WAIT_VALUE: i32 = 10_013;
/// `hipMallocSignalMemory`: 8 bytes that host and device write, and streams wait on.
pub(crate) const HIP_MALLOC_SIGNAL_MEMORY: u32 = 2;
pub(crate) const HIP_SIGNAL_BYTES: usize = 8;
pub(crate) const HIP_STREAM_WAIT_VALUE_GTE: u32 = 0;

pub(crate) const HIP_CAPTURE_MODE_RELAXED: i32 = 2;
pub(crate) const HIP_CAPTURE_STATUS_NONE: i32 = 0;

/// Dimensions by value (`dim3`).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Dim3([u32; 3]);

/// A size by value (`hipExtent`).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Extent([usize; 3]);

/// A pitched address by value (`hipPitchedPtr`): address, pitch, width, height.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PitchedPtr(*mut c_void, [usize; 3]);

/// Arguments of `hipLaunchKernelExC` (`hipLaunchConfig_t`): grid, block, shared memory, stream …
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LaunchConfig {
    dimensions: [u32; 6],
    shared_bytes: usize,
    pub(crate) stream: hipStream_t,
}

/// One launch of a launch on several devices (`hipLaunchParams`).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LaunchParams {
    function: *const c_void,
    dimensions: [u32; 6],
    arguments: *mut *mut c_void,
    shared_bytes: usize,
    pub(crate) stream: hipStream_t,
}

/// The same by a module's function (`hipFunctionLaunchParams`).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FunctionLaunchParams {
    function: *const c_void,
    dimensions: [u32; 6],
    shared_bytes: u32,
    pub(crate) stream: hipStream_t,
    arguments: *mut *mut c_void,
}

/// One of a list of launches.
pub(crate) trait OneLaunch {
    /// Where.
    fn stream(&self) -> hipStream_t;
}

impl OneLaunch for LaunchParams {
    fn stream(&self) -> hipStream_t {
        self.stream
    }
}

impl OneLaunch for FunctionLaunchParams {
    fn stream(&self) -> hipStream_t {
        self.stream
    }
}

/// A place for memory by value (`hipMemLocation`): kind and number.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct MemLocation([i32; 2]);

/// Arguments of `hipDrvLaunchKernelEx` (`HIP_LAUNCH_CONFIG`).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct DriverLaunchConfig {
    dimensions: [u32; 6],
    shared_bytes: u32,
    pub(crate) stream: hipStream_t,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_the_runtimes() {
        assert_eq!(size_of::<Dim3>(), 12);
        assert_eq!(size_of::<Extent>(), 24);
        assert_eq!(size_of::<PitchedPtr>(), 32);
        assert_eq!(size_of::<LaunchParams>(), 56);
        assert_eq!(std::mem::offset_of!(LaunchParams, stream), 48);
        assert_eq!(size_of::<FunctionLaunchParams>(), 56);
        assert_eq!(std::mem::offset_of!(FunctionLaunchParams, stream), 40);
        assert_eq!(size_of::<MemLocation>(), 8);
        assert_eq!(std::mem::offset_of!(LaunchConfig, stream), 32);
        assert_eq!(std::mem::offset_of!(DriverLaunchConfig, stream), 32);
    }
}

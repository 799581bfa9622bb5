//! Types and constants of the OpenCL API that the shim uses (cl.h, cl_ext.h, 3.0).

use std::ffi::c_void;

/// A handle, or an argument that is passed on untouched.
pub(crate) type Opaque = *mut c_void;
/// `cl_command_queue`.
pub(crate) type Queue = *mut c_void;
/// `cl_event`.
pub(crate) type Event = *mut c_void;

pub(crate) const CL_SUCCESS: i32 = 0;
pub(crate) const CL_INVALID_OPERATION: i32 = -59;

/// Execution status; negative values are errors.
pub(crate) const CL_COMPLETE: i32 = 0;

pub(crate) const CL_EVENT_COMMAND_EXECUTION_STATUS: u32 = 0x11D3;

pub(crate) const CL_QUEUE_DEVICE: u32 = 0x1091;
pub(crate) const CL_QUEUE_PROPERTIES: u32 = 0x1093;
pub(crate) const CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE: u64 = 1 << 0;

pub(crate) const CL_DEVICE_TYPE: u32 = 0x1000;
pub(crate) const CL_DEVICE_VENDOR_ID: u32 = 0x1001;
pub(crate) const CL_DEVICE_MAX_COMPUTE_UNITS: u32 = 0x1002;
pub(crate) const CL_DEVICE_EXECUTION_CAPABILITIES: u32 = 0x1029;
pub(crate) const CL_EXEC_NATIVE_KERNEL: u64 = 1 << 1;
pub(crate) const CL_DEVICE_NAME: u32 = 0x102B;
pub(crate) const CL_DEVICE_VERSION: u32 = 0x102F;
pub(crate) const CL_DEVICE_EXTENSIONS: u32 = 0x1030;
pub(crate) const CL_DEVICE_PLATFORM: u32 = 0x1031;
pub(crate) const CL_DEVICE_PARENT_DEVICE: u32 = 0x1042;
/// `cl_khr_device_uuid`: 16 bytes.
pub(crate) const CL_DEVICE_UUID_KHR: u32 = 0x106A;
/// `cl_khr_pci_bus_info`: domain, bus, device, function.
pub(crate) const CL_DEVICE_PCI_BUS_INFO_KHR: u32 = 0x410F;
pub(crate) const CL_DEVICE_TYPE_CPU: u64 = 1 << 1;
pub(crate) const CL_DEVICE_TYPE_ALL: u64 = 0xFFFF_FFFF;

pub(crate) const CL_PLATFORM_NAME: u32 = 0x0902;

pub(crate) const CL_MEM_FLAGS: u32 = 0x1101;
pub(crate) const CL_MEM_USE_HOST_PTR: u64 = 1 << 3;

/// What asks an object for its reference count, by kind of object.
pub(crate) const CL_QUEUE_REFERENCE_COUNT: u32 = 0x1092;
pub(crate) const CL_CONTEXT_REFERENCE_COUNT: u32 = 0x1080;
pub(crate) const CL_DEVICE_REFERENCE_COUNT: u32 = 0x1047;
pub(crate) const CL_DEVICE_REFERENCE_COUNT_EXT: u32 = 0x4057;
pub(crate) const CL_MEM_REFERENCE_COUNT: u32 = 0x1105;
pub(crate) const CL_SAMPLER_REFERENCE_COUNT: u32 = 0x1150;
pub(crate) const CL_PROGRAM_REFERENCE_COUNT: u32 = 0x1160;
pub(crate) const CL_KERNEL_REFERENCE_COUNT: u32 = 0x1191;

/// PCI vendor id of NVIDIA.
pub(crate) const NVIDIA: u32 = 0x10DE;

//! Types and constants of the CUDA driver API that the shim uses (cuda.h, 12 and 13).

#![allow(non_camel_case_types, reason = "the driver's own names")]

use std::ffi::c_void;

pub(crate) type CUresult = i32;
pub(crate) type CUdevice = i32;
pub(crate) type CUdeviceptr = u64;
pub(crate) type CUcontext = *mut c_void;
pub(crate) type CUgreenCtx = *mut c_void;
pub(crate) type CUstream = *mut c_void;
pub(crate) type CUevent = *mut c_void;
pub(crate) type CUgraph = *mut c_void;
pub(crate) type CUgraphNode = *mut c_void;

/// An argument that is passed on untouched: a pointer or handle.
pub(crate) type Opaque = *mut c_void;

pub(crate) const CUDA_SUCCESS: CUresult = 0;
pub(crate) const CUDA_ERROR_INVALID_CONTEXT: CUresult = 201;
pub(crate) const CUDA_ERROR_NOT_FOUND: CUresult = 500;
pub(crate) const CUDA_ERROR_NOT_READY: CUresult = 600;
pub(crate) const CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED: CUresult = 712;

/// The legacy default stream by an explicit handle.
pub(crate) const CU_STREAM_LEGACY: usize = 1;
/// The calling thread's default stream by an explicit handle.
pub(crate) const CU_STREAM_PER_THREAD: usize = 2;

pub(crate) const CU_MEMHOSTREGISTER_DEVICEMAP: u32 = 2;

/// Wait until `(int)(*addr - value) >= 0`.
pub(crate) const CU_STREAM_WAIT_VALUE_GEQ: u32 = 0;
pub(crate) const CU_STREAM_WRITE_VALUE_DEFAULT: u32 = 0;

pub(crate) const CU_STREAM_CAPTURE_MODE_RELAXED: i32 = 2;
pub(crate) const CU_STREAM_CAPTURE_STATUS_NONE: i32 = 0;
pub(crate) const CU_STREAM_CAPTURE_STATUS_ACTIVE: i32 = 1;

/// The stream does not synchronize with the legacy default stream.
pub(crate) const CU_STREAM_NON_BLOCKING: u32 = 1;

pub(crate) const CU_GRAPH_NODE_TYPE_GRAPH: i32 = 4;
pub(crate) const CU_GRAPH_NODE_TYPE_BATCH_MEM_OP: i32 = 12;

pub(crate) const CU_DEVICE_ATTRIBUTE_MPS_ENABLED: i32 = 133;

/// Arguments of `cuLaunchKernelEx`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct CUlaunchConfig {
    pub(crate) dimensions: [u32; 6],
    pub(crate) shared_bytes: u32,
    pub(crate) stream: CUstream,
    pub(crate) attributes: Opaque,
    pub(crate) attribute_count: u32,
}

/// A memory location by value (`CUmemLocation`): type and id.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct CUmemLocation {
    pub(crate) kind: i32,
    pub(crate) id: i32,
}

/// One operation of `cuStreamBatchMemOp` (`CUstreamBatchMemOpParams`): a wait or a write.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct CUstreamBatchMemOpParams {
    pub(crate) operation: u32,
    pub(crate) address: CUdeviceptr,
    pub(crate) value: u64,
    pub(crate) flags: u32,
    pub(crate) alias: CUdeviceptr,
    pad: u64,
}

/// What a node of memory operations does.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct CUDA_BATCH_MEM_OP_NODE_PARAMS {
    pub(crate) context: CUcontext,
    pub(crate) count: u32,
    pub(crate) operations: *mut CUstreamBatchMemOpParams,
    pub(crate) flags: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_the_drivers() {
        assert_eq!(std::mem::offset_of!(CUlaunchConfig, stream), 32);
        assert_eq!(std::mem::offset_of!(CUlaunchConfig, attributes), 40);
        assert_eq!(size_of::<CUlaunchConfig>(), 56);
        assert_eq!(size_of::<CUmemLocation>(), 8);
        assert_eq!(size_of::<CUstreamBatchMemOpParams>(), 48);
        assert_eq!(std::mem::offset_of!(CUstreamBatchMemOpParams, address), 8);
        assert_eq!(size_of::<CUDA_BATCH_MEM_OP_NODE_PARAMS>(), 32);
    }
}

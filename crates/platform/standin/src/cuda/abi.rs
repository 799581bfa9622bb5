//! What crosses the C interface: pointers, strings, structures and kernel parameters, behind types
//! that safe code can use.
//!
//! [`In`], [`Out`], [`Text`], [`Parameters`] and [`Extra`] have no constructor: values of these types
//! only come in as arguments of a C call or inside a structure that [`In`] read. The caller of the
//! driver API promises that such a pointer is null or valid, as `cuda.h` demands.

use std::{
    ffi::{CStr, c_char, c_void},
    ptr,
};

use super::result::{Error, INVALID_VALUE, Result};
use crate::core::memory::Address;

pub(super) type Handle = usize;

/// Types of which every bit pattern is a value.
///
/// # Safety
/// Implementations are integers, [`Address`], pointers behind the types of this file, and `repr(C)`
/// structures of them without padding that matters.
pub(super) unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($type:ty),* $(,)?) => { $(
        // SAFETY: made of integers, addresses and pointers only.
        unsafe impl Plain for $type {}
    )* };
}

plain!(
    u8,
    u16,
    u32,
    u64,
    usize,
    i32,
    f32,
    Address,
    [u8; 16],
    Copy2d,
    Copy3d,
    LaunchConfig,
    MemoryOperation,
    KernelNode,
    MemoryOperationsNode,
    MemoryOperationsShown,
    UpdateResult,
    ArrayShape,
    InstantiateParams,
);

/// A pointer to a place for a result.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Out<T>(*mut T);

impl<T: Plain> Out<T> {
    pub(super) fn set(self, value: T) -> Result<()> {
        if self.0.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: not null, so valid by the caller's promise.
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }

    /// Sets the result if the caller wants it.
    pub(super) fn set_if_wanted(self, value: T) {
        let _wanted = self.set(value);
    }

    pub(super) fn is_null(self) -> bool {
        self.0.is_null()
    }

    pub(super) fn get(self) -> Result<T> {
        if self.0.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: not null, so valid by the caller's promise.
        Ok(unsafe { self.0.read_unaligned() })
    }

    /// Sets as many elements of an array of `room` as there are values.
    pub(super) fn set_all(self, values: &[T], room: usize) -> Result<()> {
        if self.0.is_null() {
            return Err(INVALID_VALUE);
        }
        for (index, value) in values.iter().take(room).enumerate() {
            // SAFETY: the caller promised `room` elements.
            let place = unsafe { self.0.add(index) };
            // SAFETY: as above.
            unsafe { place.write_unaligned(*value) };
        }
        Ok(())
    }
}

/// A pointer to arguments.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct In<T>(*const T);

impl<T: Plain> In<T> {
    pub(super) fn get(self) -> Result<T> {
        if self.0.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: not null, so valid by the caller's promise.
        Ok(unsafe { self.0.read_unaligned() })
    }

    /// The `count` elements; null goes with a count of zero.
    pub(super) fn list(self, count: usize) -> Result<Vec<T>> {
        if count > 0 && self.0.is_null() {
            return Err(INVALID_VALUE);
        }
        let element = |index| {
            // SAFETY: the caller promised `count` elements.
            let place = unsafe { self.0.add(index) };
            // SAFETY: as above.
            unsafe { place.read_unaligned() }
        };
        Ok((0..count).map(element).collect())
    }

    pub(super) fn is_null(self) -> bool {
        self.0.is_null()
    }
}

/// A C string.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Text(*const c_char);

impl Text {
    pub(super) fn read(self) -> Result<String> {
        if self.0.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: not null, so a C string by the caller's promise.
        let text = unsafe { CStr::from_ptr(self.0) };
        Ok(text.to_string_lossy().into_owned())
    }
}

/// `void **kernelParams`: a pointer to each parameter.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Parameters(*const *const c_void);

/// `void **extra`: parameters as one buffer.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Extra(*const *const c_void);

impl Extra {
    /// For entry points that have no such argument.
    pub(super) const NONE: Self = Self(ptr::null());
}

/// Type of a kernel's parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parameter {
    Address,
    Word,
}

/// Value of a kernel's parameter.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value {
    Address(Address),
    Word(u32),
}

/// Reads a kernel's parameters in whichever of the two forms the caller gave them.
pub(super) fn parameters(
    parameters: Parameters,
    extra: Extra,
    shape: &[Parameter],
) -> Result<Vec<Value>> {
    if !parameters.0.is_null() {
        let values = shape.iter().enumerate().map(|(index, &kind)| {
            // SAFETY: the caller promised a pointer for each parameter that the kernel has.
            let place = unsafe { parameters.0.add(index) };
            // SAFETY: as above.
            value(unsafe { place.read() }, kind)
        });
        return values.collect();
    }
    if shape.is_empty() {
        return Ok(Vec::new());
    }
    let mut buffer = buffer(extra)?;
    let values = shape.iter().map(|&kind| {
        let size = match kind {
            Parameter::Address => 8,
            Parameter::Word => 4,
        };
        let place = buffer.0.next_multiple_of(size);
        if place + size > buffer.1 {
            return Err(INVALID_VALUE);
        }
        buffer.0 = place + size;
        value(ptr::with_exposed_provenance(place), kind)
    });
    values.collect()
}

/// Start and end of the buffer in an `extra` list.
fn buffer(extra: Extra) -> Result<(usize, usize)> {
    const END: usize = 0;
    const POINTER: usize = 1;
    const SIZE: usize = 2;
    if extra.0.is_null() {
        return Err(INVALID_VALUE);
    }
    let entry = |index: usize| {
        // SAFETY: the caller promised a list of pairs up to its end mark, which the loop respects.
        let place = unsafe { extra.0.add(index) };
        // SAFETY: as above.
        unsafe { place.read() }
    };
    let (mut start, mut size) = (0, 0);
    for index in (0..8).step_by(2) {
        match entry(index).addr() {
            END => break,
            POINTER => start = entry(index + 1).expose_provenance(),
            SIZE => size = In(entry(index + 1).cast::<usize>()).get()?,
            _ => return Err(INVALID_VALUE),
        }
    }
    if start == 0 {
        return Err(INVALID_VALUE);
    }
    Ok((start, start + size))
}

fn value(place: *const c_void, kind: Parameter) -> Result<Value> {
    Ok(match kind {
        Parameter::Address => Value::Address(In(place.cast()).get()?),
        Parameter::Word => Value::Word(In(place.cast()).get()?),
    })
}

/// `CUDA_MEMCPY2D`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Copy2d {
    pub(super) from: Side2d,
    pub(super) to: Side2d,
    pub(super) width: usize,
    pub(super) height: usize,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Side2d {
    pub(super) x: usize,
    pub(super) y: usize,
    pub(super) kind: u32,
    pub(super) host: Address,
    pub(super) device: Address,
    pub(super) array: Handle,
    pub(super) pitch: usize,
}

/// `CUDA_MEMCPY3D` and `CUDA_MEMCPY3D_PEER`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Copy3d {
    pub(super) from: Side3d,
    pub(super) to: Side3d,
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) depth: usize,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Side3d {
    pub(super) x: usize,
    pub(super) y: usize,
    pub(super) z: usize,
    pub(super) level: usize,
    pub(super) kind: u32,
    pub(super) host: Address,
    pub(super) device: Address,
    pub(super) array: Handle,
    pub(super) context: Handle,
    pub(super) pitch: usize,
    pub(super) height: usize,
}

/// `CUlaunchConfig`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct LaunchConfig {
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 3],
    pub(super) shared: u32,
    pub(super) stream: Handle,
    pub(super) attributes: usize,
    pub(super) attribute_count: u32,
}

/// `CUstreamBatchMemOpParams`: wait and write have the same layout.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct MemoryOperation {
    pub(super) operation: u32,
    pub(super) address: Address,
    pub(super) value: u64,
    pub(super) flags: u32,
    pub(super) alias: usize,
    pub(super) reserved: u64,
}

/// `CUDA_BATCH_MEM_OP_NODE_PARAMS`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct MemoryOperationsNode {
    pub(super) context: Handle,
    pub(super) count: u32,
    pub(super) list: In<MemoryOperation>,
    pub(super) flags: u32,
}

/// The same as an answer; the list lies where it says for as long as the driver keeps it.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct MemoryOperationsShown {
    pub(super) context: Handle,
    pub(super) count: u32,
    pub(super) list: usize,
    pub(super) flags: u32,
}

/// `CUDA_KERNEL_NODE_PARAMS_v2`; version 1 ends before `kernel`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct KernelNode {
    pub(super) function: Handle,
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 3],
    pub(super) shared: u32,
    pub(super) parameters: Parameters,
    pub(super) extra: Extra,
}

/// `CUgraphExecUpdateResultInfo`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct UpdateResult {
    pub(super) result: u32,
    pub(super) node: Handle,
    pub(super) from: Handle,
}

/// `CUDA_GRAPH_INSTANTIATE_PARAMS`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct InstantiateParams {
    pub(super) flags: u64,
    pub(super) stream: Handle,
    pub(super) node: Handle,
    pub(super) result: u32,
}

/// `CUDA_ARRAY_DESCRIPTOR`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct ArrayShape {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) format: u32,
    pub(super) channels: u32,
}

const _: () = {
    assert!(size_of::<Copy2d>() == 128);
    assert!(size_of::<Copy3d>() == 200);
    assert!(size_of::<LaunchConfig>() == 56);
    assert!(size_of::<MemoryOperation>() == 48);
    assert!(size_of::<KernelNode>() == 56);
    assert!(size_of::<MemoryOperationsNode>() == 32);
    assert!(std::mem::offset_of!(LaunchConfig, stream) == 32);
    assert!(std::mem::offset_of!(LaunchConfig, attribute_count) == 48);
    assert!(std::mem::offset_of!(MemoryOperation, flags) == 24);
    assert!(std::mem::offset_of!(MemoryOperation, alias) == 32);
};

/// A `CUresult` from `Result`.
pub(super) fn code(result: Result<()>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(Error(code)) => code,
    }
}

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

pub(crate) type Handle = usize;

/// Types of which every bit pattern is a value.
///
/// # Safety
/// Implementations are integers, [`Address`], pointers behind the types of this file, and `repr(C)`
/// structures of them without padding that matters.
pub(crate) unsafe trait Plain: Copy {}

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
    [u64; 4],
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
pub(crate) struct Out<T>(*mut T);

impl<T: Plain> Out<T> {
    pub(crate) fn set(self, value: T) -> Result<()> {
        if self.0.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: not null, so valid by the caller's promise.
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }

    /// Sets the result if the caller wants it.
    pub(crate) fn set_if_wanted(self, value: T) {
        let _wanted = self.set(value);
    }

    pub(crate) fn is_null(self) -> bool {
        self.0.is_null()
    }

    pub(crate) fn get(self) -> Result<T> {
        if self.0.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: not null, so valid by the caller's promise.
        Ok(unsafe { self.0.read_unaligned() })
    }

    /// Sets as many elements of an array of `room` as there are values.
    pub(crate) fn set_all(self, values: &[T], room: usize) -> Result<()> {
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
pub(crate) struct In<T>(*const T);

impl<T: Plain> In<T> {
    pub(crate) fn get(self) -> Result<T> {
        if self.0.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: not null, so valid by the caller's promise.
        Ok(unsafe { self.0.read_unaligned() })
    }

    /// The `count` elements; null goes with a count of zero.
    pub(crate) fn list(self, count: usize) -> Result<Vec<T>> {
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

    pub(crate) fn is_null(self) -> bool {
        self.0.is_null()
    }
}

/// A C string.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Text(*const c_char);

impl Text {
    pub(crate) fn read(self) -> Result<String> {
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
pub(crate) struct Parameters(*const *const c_void);

impl Parameters {
    /// Of a kernel that has none.
    pub(crate) const NONE: Self = Self(ptr::null());
}

/// `void **extra`: parameters as one buffer.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Extra(*const *const c_void);

impl Extra {
    /// For entry points that have no such argument.
    pub(crate) const NONE: Self = Self(ptr::null());
}

/// Type of a kernel's parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parameter {
    Address,
    Word,
}

/// Value of a kernel's parameter.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value {
    Address(Address),
    Word(u32),
}

/// Reads a kernel's parameters in whichever of the two forms the caller gave them.
pub(crate) fn parameters(
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
pub(crate) struct Copy2d {
    pub(crate) from: Side2d,
    pub(crate) to: Side2d,
    pub(crate) width: usize,
    pub(crate) height: usize,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Side2d {
    pub(crate) x: usize,
    pub(crate) y: usize,
    pub(crate) kind: u32,
    pub(crate) host: Address,
    pub(crate) device: Address,
    pub(crate) array: Handle,
    pub(crate) pitch: usize,
}

/// `CUDA_MEMCPY3D` and `CUDA_MEMCPY3D_PEER`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Copy3d {
    pub(crate) from: Side3d,
    pub(crate) to: Side3d,
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) depth: usize,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Side3d {
    pub(crate) x: usize,
    pub(crate) y: usize,
    pub(crate) z: usize,
    pub(crate) level: usize,
    pub(crate) kind: u32,
    pub(crate) host: Address,
    pub(crate) device: Address,
    pub(crate) array: Handle,
    pub(crate) context: Handle,
    pub(crate) pitch: usize,
    pub(crate) height: usize,
}

/// `CUlaunchConfig`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct LaunchConfig {
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) shared: u32,
    pub(crate) stream: Handle,
    pub(crate) attributes: usize,
    pub(crate) attribute_count: u32,
}

/// `CUstreamBatchMemOpParams`: wait and write have the same layout.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct MemoryOperation {
    pub(crate) operation: u32,
    pub(crate) address: Address,
    pub(crate) value: u64,
    pub(crate) flags: u32,
    pub(crate) alias: usize,
    pub(crate) reserved: u64,
}

/// `CUDA_BATCH_MEM_OP_NODE_PARAMS`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct MemoryOperationsNode {
    pub(crate) context: Handle,
    pub(crate) count: u32,
    pub(crate) list: In<MemoryOperation>,
    pub(crate) flags: u32,
}

/// The same as an answer; the list lies where it says for as long as the driver keeps it.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct MemoryOperationsShown {
    pub(crate) context: Handle,
    pub(crate) count: u32,
    pub(crate) list: usize,
    pub(crate) flags: u32,
}

/// `CUDA_KERNEL_NODE_PARAMS_v2`; version 1 ends before `kernel`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct KernelNode {
    pub(crate) function: Handle,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) shared: u32,
    pub(crate) parameters: Parameters,
    pub(crate) extra: Extra,
}

/// `CUgraphExecUpdateResultInfo`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct UpdateResult {
    pub(crate) result: u32,
    pub(crate) node: Handle,
    pub(crate) from: Handle,
}

/// `CUDA_GRAPH_INSTANTIATE_PARAMS`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct InstantiateParams {
    pub(crate) flags: u64,
    pub(crate) stream: Handle,
    pub(crate) node: Handle,
    pub(crate) result: u32,
}

/// `CUDA_ARRAY_DESCRIPTOR`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct ArrayShape {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) format: u32,
    pub(crate) channels: u32,
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
pub(crate) fn code(result: Result<()>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(Error(code)) => code,
    }
}

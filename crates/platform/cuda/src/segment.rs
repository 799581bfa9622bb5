//! The process's segment as devices see it, so that they read gates and write marks in it.
//!
//! A registration of host memory belongs to the context in which it was made: when that context ends,
//! commands and graphs of others that have its words fail, and its end waits for their streams. So each
//! context registers a mapping of its own; a context that has ended leaves its mapping to the next.

use std::sync::Mutex;

use xsched_shim::process::PerProcess;
use xsched_wire::segment::{Layout, OwnSegment, SEGMENT_BYTES};

use crate::{driver, sys::*};

/// A mapping of the segment.
struct Mapping {
    layout: &'static Layout,
    /// The context that has registered it; `None`: that has ended.
    context: Option<usize>,
    /// Where the context's device sees it.
    address: CUdeviceptr,
}

static MAPPINGS: PerProcess<Mutex<Vec<Mapping>>> = PerProcess::new();

/// In place of a context that is not known: the mapping is of no use to any.
const SOMEBODY: usize = 0;

/// The address at which a context's device sees the segment. The error says why it does not.
pub(crate) fn in_context(
    context: CUcontext,
    layout: &'static Layout,
) -> Result<CUdeviceptr, String> {
    let mut mappings = MAPPINGS.lock();
    loop {
        let of = |owner| mappings.iter().position(|own| own.context == owner);
        let found = of(Some(context as usize)).or_else(|| of(None));
        let index = found.unwrap_or(mappings.len());
        if found.is_none() {
            let layout = match mappings.is_empty() {
                true => layout,
                false => OwnSegment::again(layout).map_err(|error| error.to_string())?,
            };
            mappings.push(Mapping {
                layout,
                context: None,
                address: 0,
            });
        }
        let own = &mut mappings[index];
        // Also what is registered already: the context may have ended unseen, and come again.
        let registered = driver::with_context(context, || driver::relaxed(|| register(own.layout)));
        match registered.unwrap_or(Err(CUDA_ERROR_INVALID_CONTEXT)) {
            Ok(address) => {
                own.context = Some(context as usize);
                own.address = address;
                return Ok(address);
            }
            // By a context whose end was taken for granted.
            Err(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED) => own.context = Some(SOMEBODY),
            Err(error) => {
                return Err(format!(
                    "the driver refused to map the gates (error {error})"
                ));
            }
        }
    }
}

/// A context has ended, and its registration with it.
pub(crate) fn context_ended(context: usize) {
    for mapping in MAPPINGS.lock().iter_mut() {
        if mapping.context == Some(context) {
            mapping.context = None;
        }
    }
}

/// Whether an address that devices use lies in the segment.
pub(crate) fn has(address: CUdeviceptr) -> bool {
    MAPPINGS.lock().iter().any(|mapping| {
        let end = mapping.address + SEGMENT_BYTES as u64;
        (mapping.address..end).contains(&address)
    })
}

/// How far from the segment's start a word of it stands.
pub(crate) fn offset(layout: &'static Layout, word: *const u32) -> CUdeviceptr {
    (word.addr() - std::ptr::from_ref(layout).addr()) as CUdeviceptr
}

/// Makes a mapping accessible to the current context's device, if it is not. The error is the driver's.
fn register(layout: &'static Layout) -> Result<CUdeviceptr, CUresult> {
    let start = std::ptr::from_ref(layout).cast_mut().cast();
    device_address(start).or_else(|_| {
        let flags = CU_MEMHOSTREGISTER_DEVICEMAP;
        // SAFETY: exactly the mapping, which lasts as long as the process.
        match unsafe { driver::mem_host_register(start, SEGMENT_BYTES, flags) } {
            CUDA_SUCCESS => device_address(start),
            error => Err(error),
        }
    })
}

fn device_address(start: Opaque) -> Result<CUdeviceptr, CUresult> {
    let mut address = 0;
    // SAFETY: the start of a mapping of the segment; a valid place for the result.
    match unsafe { driver::mem_host_get_device_pointer(&mut address, start, 0) } {
        CUDA_SUCCESS => Ok(address),
        error => Err(error),
    }
}

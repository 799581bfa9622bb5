//! How long contexts live, and what ends with them.
//!
//! A primary context ends with its last release; a green context, a part of a device, retains it. What is
//! not seen is taken for the end: then streams that live on come back with their next commands.

use std::{collections::BTreeMap, sync::Mutex};

use xsched_shim::process::PerProcess;

use crate::{
    captures::CAPTURES,
    segment, state,
    stream::Home,
    streams::{Entry, Scheduled, all, has_scheduled, retire},
    sys::*,
    timeslice,
};

/// Around the end of streams.
fn ending(matches: impl Fn(&Entry) -> bool, call: impl FnOnce() -> CUresult) -> CUresult {
    if has_scheduled() {
        retire(matches);
    }
    state::opened(call)
}

/// Around the end of what streams live in.
fn end_home(is_there: impl Fn(Home) -> bool, call: impl FnOnce() -> CUresult) -> CUresult {
    let result = ending(|entry| is_there(entry.home), call);
    if result == CUDA_SUCCESS {
        CAPTURES.end_all(|origin| is_there(origin.home));
    }
    result
}

/// Around the end of a context.
pub(crate) fn destroy_context(context: CUcontext, call: impl FnOnce() -> CUresult) -> CUresult {
    let result = end_home(|home| home.context == context as usize, call);
    if result == CUDA_SUCCESS {
        segment::context_ended(context as usize);
    }
    result
}

/// A device's primary context, as far as the program retains it, green contexts included.
#[derive(Default)]
struct Primary {
    /// 0: nobody has asked for it yet.
    context: usize,
    retained: u32,
}

/// By device.
static PRIMARIES: PerProcess<Mutex<BTreeMap<CUdevice, Primary>>> = PerProcess::new();

/// Counts a retain; `context`: 0 where it is not known.
fn count_retain(device: CUdevice, context: usize) {
    let mut primaries = PRIMARIES.lock();
    let own = primaries.entry(device).or_default();
    own.retained += 1;
    if context != 0 {
        own.context = context;
    }
}

/// Counts a release. `None`: others hold the context. What was not seen to be retained ends with each release:
/// then its streams come back with their next commands.
fn count_release(device: CUdevice) -> Option<usize> {
    let mut primaries = PRIMARIES.lock();
    let own = primaries.entry(device).or_default();
    own.retained = own.retained.saturating_sub(1);
    (own.retained == 0).then_some(own.context)
}

/// Around a retain of a device's primary context.
pub(crate) fn retain_primary(
    place: *mut CUcontext,
    device: CUdevice,
    call: impl FnOnce() -> CUresult,
) -> CUresult {
    let result = timeslice::creating(device, call);
    if result == CUDA_SUCCESS && !place.is_null() {
        // SAFETY: the driver has just written to the program's place.
        count_retain(device, unsafe { *place } as usize);
    }
    result
}

/// Around a release of a device's primary context, which ends with the last one.
pub(crate) fn release_primary(device: CUdevice, call: impl FnOnce() -> CUresult) -> CUresult {
    match count_release(device) {
        Some(context) => end_primary(device, context, call),
        None => call(),
    }
}

/// Around the reset of a device's primary context, which may be released later all the same.
pub(crate) fn reset_primary(device: CUdevice, call: impl FnOnce() -> CUresult) -> CUresult {
    let known = {
        let mut primaries = PRIMARIES.lock();
        let own = primaries.entry(device).or_default();
        own.retained = 0;
        own.context
    };
    end_primary(device, known, call)
}

fn end_primary(device: CUdevice, context: usize, call: impl FnOnce() -> CUresult) -> CUresult {
    if context != 0 {
        return destroy_context(context as CUcontext, call);
    }
    ending(|entry| entry.device == device, call)
}

/// A green context: it retains the primary context of its device.
struct Green {
    device: CUdevice,
    /// The context that was made of it; 0: none.
    context: usize,
}

/// By handle.
static GREENS: PerProcess<Mutex<BTreeMap<usize, Green>>> = PerProcess::new();

/// Around the making of a green context.
pub(crate) fn create_green(
    place: *mut CUgreenCtx,
    device: CUdevice,
    call: impl FnOnce() -> CUresult,
) -> CUresult {
    let result = timeslice::creating(device, call);
    if result == CUDA_SUCCESS && !place.is_null() {
        // SAFETY: the driver has just written to the program's place.
        let handle = unsafe { *place } as usize;
        count_retain(device, 0);
        let context = 0;
        GREENS.lock().insert(handle, Green { device, context });
    }
    result
}

/// Around the making of a context of a green one.
pub(crate) fn convert_green(
    place: *mut CUcontext,
    green: CUgreenCtx,
    call: impl FnOnce() -> CUresult,
) -> CUresult {
    let result = call();
    if result == CUDA_SUCCESS
        && !place.is_null()
        && let Some(own) = GREENS.lock().get_mut(&(green as usize))
    {
        // SAFETY: the driver has just written to the program's place.
        own.context = unsafe { *place } as usize;
    }
    result
}

/// The green context that a context was made of; 0: none.
pub(crate) fn green_of(context: usize) -> usize {
    if GREENS.peek().is_none() {
        return 0;
    }
    let greens = GREENS.lock();
    let own = greens.iter().find(|(_, own)| own.context == context);
    own.map_or(0, |(&handle, _)| handle)
}

/// Around the end of a green context, which may be current in one thread only: nothing of ours uses it. The
/// primary context may end with it.
pub(crate) fn destroy_green(green: CUgreenCtx, call: impl FnOnce() -> CUresult) -> CUresult {
    let handle = green as usize;
    let known = GREENS.lock().remove(&handle);
    let last = known.as_ref().and_then(|own| count_release(own.device));
    // Nobody has asked for the primary context: its streams' memory is in it.
    let of_stream = || {
        let own = |stream: &Scheduled| stream.entry.home.green == handle;
        let created = |stream: &Scheduled| stream.entry.key.raw > CU_STREAM_PER_THREAD;
        let found = all().find(|stream| own(stream) && created(stream));
        found.map_or(0, |stream| stream.entry.home.context)
    };
    let primary = last.map(|context| if context == 0 { of_stream() } else { context });
    let ends = |home: Home| home.green == handle || primary == Some(home.context);
    let result = end_home(ends, call);
    if result == CUDA_SUCCESS {
        let own = known.map(|own| own.context);
        for context in own.into_iter().chain(primary).filter(|&own| own != 0) {
            segment::context_ended(context);
        }
    }
    result
}

//! Stream captures: what is captured is not executed, and may be spoiled by a question.

use std::sync::{
    Mutex,
    atomic::{AtomicU32, Ordering},
};

use xsched_shim::process::PerProcess;

use crate::{
    driver,
    stream::{self, Home},
    streams::{self, Flavour, Key},
    sys::*,
};

/// Streams that are being captured; while there are none, nobody asks.
static CAPTURES: AtomicU32 = AtomicU32::new(0);

/// Whether the stream is being captured; while none is, nobody asks.
#[inline]
pub(crate) fn is_capturing(stream: CUstream, flavour: Flavour) -> bool {
    CAPTURES.load(Ordering::Relaxed) != 0 && ask_capturing(stream, flavour)
}

#[cold]
fn ask_capturing(stream: CUstream, flavour: Flavour) -> bool {
    let mut status = CU_STREAM_CAPTURE_STATUS_NONE;
    // SAFETY: the program's own stream; a valid place for the result.
    let asked =
        unsafe { driver::stream_is_capturing(stream::explicit(stream, flavour), &mut status) };
    // An error says that the legacy stream may not be asked now: then it may not be used, either.
    asked != CUDA_SUCCESS || status != CU_STREAM_CAPTURE_STATUS_NONE
}

/// A stream that a capture began in.
pub(crate) struct Origin {
    pub(crate) key: Key,
    pub(crate) home: Home,
    /// The graph of the program's own that it adds to; 0: it makes one.
    graph: usize,
}

/// The streams that captures began in, as often as they did. Held while the driver is asked what a
/// capture would be spoiled by; none begins meanwhile.
static ORIGINS: PerProcess<Mutex<Vec<Origin>>> = PerProcess::new();

/// Asks the driver, unless any stream of the process is being captured.
pub(crate) fn unless_capturing<T>(ask: impl FnOnce() -> T) -> Option<T> {
    let _none_begins = ORIGINS.lock();
    (CAPTURES.load(Ordering::SeqCst) == 0).then(ask)
}

/// Whether a capture adds to this graph of the program's own: the body of a conditional node, say.
pub(crate) fn adds_to(graph: CUgraph) -> bool {
    ORIGINS
        .lock()
        .iter()
        .any(|origin| origin.graph == graph as usize)
}

/// Around the beginning of a capture: into a graph of the program's own, or, null, one that it makes.
pub(crate) fn begin(
    graph: CUgraph,
    stream: CUstream,
    flavour: Flavour,
    call: impl FnOnce() -> CUresult,
) -> CUresult {
    let key = streams::key(stream, flavour);
    let home = stream::home_of(key).unwrap_or_default();
    // Counted before: the stream captures from inside the call on.
    let mut origins = ORIGINS.lock();
    origins.push(Origin {
        key,
        home,
        graph: graph as usize,
    });
    CAPTURES.fetch_add(1, Ordering::SeqCst);
    drop(origins);
    let result = call();
    if result != CUDA_SUCCESS {
        end_last_of(key);
    }
    result
}

/// Around the end of a capture. One that fails may have ended it, or not: from the wrong thread, or
/// on a stream that only takes part in it.
pub(crate) fn end(stream: CUstream, flavour: Flavour, call: impl FnOnce() -> CUresult) -> CUresult {
    let result = call();
    if !is_capturing(stream, flavour) {
        end_last_of(streams::key(stream, flavour));
    }
    result
}

/// The capture that began last in this stream, if one did, is over.
fn end_last_of(key: Key) {
    let mut origins = ORIGINS.lock();
    if let Some(index) = origins.iter().rposition(|origin| origin.key == key) {
        origins.remove(index);
        CAPTURES.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Captures that nobody can end any more are over.
pub(crate) fn end_all(matches: impl Fn(&Origin) -> bool) {
    if CAPTURES.load(Ordering::SeqCst) == 0 {
        return;
    }
    let mut origins = ORIGINS.lock();
    let before = origins.len();
    origins.retain(|origin| !matches(origin));
    let ended = (before - origins.len()) as u32;
    CAPTURES.fetch_sub(ended, Ordering::SeqCst);
}

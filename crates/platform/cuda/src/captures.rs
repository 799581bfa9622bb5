//! Stream captures: what is captured is not executed, and may be spoiled by a question.

use xsched_shim::captures::Captures;

use crate::{
    driver,
    stream::{self, Home},
    streams::{self, Flavour, Key},
    sys::*,
};

pub(crate) static CAPTURES: Captures<Origin> = Captures::new();

/// A stream that a capture began in.
pub(crate) struct Origin {
    pub(crate) key: Key,
    pub(crate) home: Home,
    /// The graph of the program's own that it adds to; 0: it makes one.
    graph: usize,
}

/// Whether the stream is being captured; while none is, nobody asks.
#[inline]
pub(crate) fn is_capturing(stream: CUstream, flavour: Flavour) -> bool {
    CAPTURES.any() && ask_capturing(stream, flavour)
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

/// Whether a capture adds to this graph of the program's own: the body of a conditional node, say.
pub(crate) fn adds_to(graph: CUgraph) -> bool {
    CAPTURES.has(|origin| origin.graph == graph as usize)
}

/// Around the beginning of a capture: into a graph of the program's own, or, null, one that it makes.
pub(crate) fn begin(
    graph: CUgraph,
    stream: CUstream,
    flavour: Flavour,
    call: impl FnOnce() -> CUresult,
) -> CUresult {
    let key = streams::key(stream, flavour);
    CAPTURES.begin(Origin {
        key,
        home: stream::home_of(key).unwrap_or_default(),
        graph: graph as usize,
    });
    let result = call();
    if result != CUDA_SUCCESS {
        CAPTURES.end_last(|origin| origin.key == key);
    }
    result
}

/// Around the end of a capture. One that fails may have ended it, or not: from the wrong thread, or
/// on a stream that only takes part in it.
pub(crate) fn end(stream: CUstream, flavour: Flavour, call: impl FnOnce() -> CUresult) -> CUresult {
    let result = call();
    if !is_capturing(stream, flavour) {
        let key = streams::key(stream, flavour);
        CAPTURES.end_last(|origin| origin.key == key);
    }
    result
}
